"""DINOv2's vision transformers, ViT-B/14 and ViT-L/14 (Oquab et al. 2023, arXiv:2304.07193).

The network of Dosovitskiy et al. 2020 (arXiv:2010.11929) with a learnt scale on every residual
(Touvron et al. 2021, arXiv:2103.17239), read from the state dicts that Meta publishes
(dinov2_vitb14_pretrain.pth, dinov2_vitl14_pretrain.pth; CC BY-NC 4.0 until 2023-08, Apache 2.0
since). Features are the class token behind the last normalisation, as EDM2 takes them for
FD-DINOv2 (Stein et al. 2023, arXiv:2306.04675).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evaluation.extractors.base import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Extractor,
    Outputs,
    Request,
    facts,
    load_into,
    metric_name,
    needs_weights,
    policy,
    seeded,
    state_of,
)

SIDE = 224
PATCH = 14
TRAINED_AT = 518  # side of the pictures that the position embeddings are of: 37 x 37 patches
EPS = 1e-6
# Added to the side of the new grid before it is divided by the old one, by Meta's code, which
# thereby samples a little inside of the grid. Features depend on it.
OFFSET = 0.1
SIZES = {"vitb14": (768, 12, 12), "vitl14": (1024, 24, 16)}  # width, blocks, heads


class Scale(nn.Module):
    """A factor for each channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Attention(nn.Module):
    """Multi-head self-attention of tokens [N, T, width]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        q, k, v = self.qkv(x).view(n, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        found = F.scaled_dot_product_attention(q, k, v)
        return self.proj(found.transpose(1, 2).reshape(n, tokens, width))


class Mlp(nn.Module):
    """Two layers with GELU between, four times as wide."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """x + scale attention(norm x), then x + scale mlp(norm x)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=EPS), nn.LayerNorm(width, eps=EPS)
        self.attn, self.mlp = Attention(width, heads), Mlp(width)
        self.ls1, self.ls2 = Scale(width), Scale(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class Patches(nn.Module):
    """Pictures [N, 3, H, W], sides a multiple of the patch -> tokens [N, T, width]."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class DINOv2(nn.Module):
    """Normalised pictures [N, 3, H, W], H and W multiples of `patch` -> class token [N, width]."""

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        *,
        patch: int = PATCH,
        trained_at: int = TRAINED_AT,
    ) -> None:
        super().__init__()
        self.patch, self.grid = patch, trained_at // patch
        self.cls_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + self.grid**2, width) * 0.02)
        self.mask_token = nn.Parameter(torch.zeros(1, width))  # of its training; in the file
        self.patch_embed = Patches(width, patch)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=EPS)

    def positions(self, rows: int, columns: int) -> Tensor:
        """Position embeddings [1, 1 + rows * columns, width] for a grid of patches."""
        if rows == columns == self.grid:
            return self.pos_embed
        first, grid = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        grid = grid.unflatten(1, (self.grid, self.grid)).permute(0, 3, 1, 2)
        scale = [(n + OFFSET) / self.grid for n in (rows, columns)]
        made = F.interpolate(grid.float(), scale_factor=scale, mode="bicubic")
        return torch.cat([first, made.flatten(2).transpose(1, 2).to(first.dtype)], 1)

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = x.shape[2] // self.patch, x.shape[3] // self.patch
        tokens = self.patch_embed(x)
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), tokens], 1)
        tokens = tokens + self.positions(rows, columns)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens[:, 0])


def open_dinov2(request: Request, size: str = "vitl14") -> Extractor:
    """DINOv2 at 224 px, 1024 features of ViT-L/14 or 768 of ViT-B/14.

    size: of SIZES. Resized as EDM2 does unless another policy is asked for. Errors: UsageError,
    CheckpointError.
    """
    what = "dinov2" if size == "vitl14" else f"dinov2_{size}"
    net = seeded(partial(DINOv2, *SIZES[size]), request.random)
    if request.random is None:
        file = needs_weights(request, what)
        load_into(net, state_of(file), file, f"DINOv2's {size} (dinov2_{size}_pretrain)")
    net = net.to(request.device)
    resize, name = policy(request.resize, "bicubic")
    return Extractor(
        metric_name(what, request),
        net,
        lambda x: Outputs(net(x), None),
        normalised(resize, SIDE, IMAGENET_MEAN, IMAGENET_STD, request.device),
        facts(request, net, SIDE, name),
        device=request.device,
    )


def normalised(
    resize: Callable[[Tensor, int], Tensor],
    side: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    device: torch.device | str,
) -> Callable[[Tensor], Tensor]:
    """What prepares pictures for networks of ImageNet: resized, / 255, (x - mean) / std."""
    if not math.isfinite(sum(mean)) or min(std) <= 0:
        raise ValueError(f"mean {mean} and std {std} cannot be")
    centre = torch.tensor(mean, device=device).view(3, 1, 1)
    spread = torch.tensor(std, device=device).view(3, 1, 1)
    return lambda images: (resize(images, side) / 255 - centre) / spread
