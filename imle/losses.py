"""Distances between generated images and targets, one number per row.

`ResolutionLoss` is LPIPS + alpha * MSE, the loss of training and of code search;
`ProjectedDistance` is the original CAM-Net's distance of randomly projected features, for search
only. Both take B * K images against B targets (row b * K + k belongs to target b) and can prepare
the targets once.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from imle.fused_distance import distance
from imle.perceptual import CHANNELS, VGG16Features, check_images

Weighting = Literal["lpips", "reference", "original"]


class LossTarget(NamedTuple):
    """Prepared targets; every tensor has the B targets as dim 0."""

    y: Tensor
    features: tuple[Tensor, ...]


class LossTerms(NamedTuple):
    """Per row `[B * K]`: the perceptual term, the mean squared pixel error, and their sum."""

    lpips: Tensor
    mse: Tensor
    combined: Tensor


def _against(fx: Tensor, y: Tensor) -> Tensor:
    """fx `[B * K, ...]` - y `[B, ...]`, as `[B, K, ...]`, without expanding y."""
    return fx.unflatten(0, (len(y), -1)) - y[:, None]


def cell_means(values: Tensor, cells: int) -> Tensor:
    """Means of maps [..., H, W] over the cells of a grid, [..., cells, cells].

    Cell i covers the rows from floor(i H / cells) to ceil((i + 1) H / cells): where `cells` does
    not divide H, neighbours share a row; where H is smaller, they repeat one.
    """
    return nn.functional.adaptive_avg_pool2d(values, cells)


def check_pair(fx: Tensor, y: Tensor) -> None:
    """ValueError unless fx holds K images for each target of y, of the same size."""
    if len(y) == 0 or len(fx) % len(y):
        raise ValueError(f"{len(fx)} images cannot be shared out over {len(y)} targets")
    if fx.shape[1:] != y.shape[1:]:
        raise ValueError(f"images {list(fx.shape[1:])} and targets {list(y.shape[1:])} differ")


class ResolutionLoss(nn.Module):
    """LPIPS(fx, y) + alpha * MSE(fx, y) per row.

    Args:
        weights, random_seed, lins: see `VGG16Features`. With random weights `name` is
        "lpips_random". alpha: weight of the pixel error (mean over channels and pixels).
        weighting: "lpips", standard LPIPS v0.1, sum over layers of the mean over positions;
            "reference", the CIMLE refactoring's, mean over layers of the mean over positions AND
            channels (deep layers count 8x less); "original", CAM-Net's, sum over layers of the sum
            over positions / W^2 (as "lpips" for square images).
        fused: the gradient of a map's distance is made beside it (`imle.fused_distance`), where
            there is an image a target, and has no gradient itself; False: by autograd, up to
            rounding the same.

    fx, y in [0, 1], `[B * K, 3, H, W]` and `[B, 3, H, W]`, sides >= 16. Gradients reach fx only.
    """

    def __init__(
        self,
        weights: str | Path | Mapping[str, Tensor] | None = None,
        *,
        random_seed: int | None = None,
        alpha: float = 0.1,
        weighting: Weighting = "lpips",
        lins: Sequence[Tensor] | None = None,
        fused: bool = True,
    ) -> None:
        super().__init__()
        self.fused = fused
        if not (math.isfinite(alpha) and alpha >= 0):
            raise ValueError(f"alpha must be finite and at least 0, got {alpha}")
        if weighting not in ("lpips", "reference", "original"):
            raise ValueError(f"weighting must be lpips, reference or original, got {weighting!r}")
        self.features = VGG16Features(weights, random_seed=random_seed, lins=lins)
        self.alpha, self.weighting = alpha, weighting

    @property
    def name(self) -> str:
        """What the perceptual term may be called in a log."""
        return "lpips_random" if self.features.is_random else "lpips"

    @torch.no_grad()
    def prepare(self, y: Tensor, *, max_rows: int | None = None) -> LossTarget:
        """Features of targets `[B, 3, H, W]`, computed once; max_rows images at a time."""
        return LossTarget(y.detach(), tuple(_in_chunks(self.features, y, max_rows)))

    def layer_terms(self, fx: Tensor | LossTarget, target: Tensor | LossTarget) -> Tensor:
        """`[5, B * K]`: sum over channels and positions of the squared difference of each layer."""
        if not isinstance(target, LossTarget):
            target = self.prepare(target)
        if isinstance(fx, Tensor) and self._is_fused(fx, target):
            check_pair(fx, target.y)
            roots = (getattr(self.features, f"root{layer}") for layer in range(len(CHANNELS)))
            maps = zip(self.features.maps(fx), target.features, roots, strict=True)
            return torch.stack([distance(f, there, root) for f, there, root in maps])
        images, features = self._with_features(fx)
        check_pair(images, target.y)
        rows = [
            _against(f, t).square().sum((2, 3, 4)).flatten()
            for f, t in zip(features, target.features, strict=True)
        ]
        return torch.stack(rows)

    def _is_fused(self, fx: Tensor, target: LossTarget) -> bool:
        known = type(self.features) is VGG16Features  # a subclass may compute something else
        trained = fx.requires_grad and torch.is_grad_enabled()
        return self.fused and known and trained and len(fx) == len(target.y)

    def terms(self, fx: Tensor | LossTarget, target: Tensor | LossTarget) -> LossTerms:
        """All terms per row; of either side images or what `prepare` made of them."""
        if not isinstance(target, LossTarget):
            target = self.prepare(target)
        layers = self.layer_terms(fx, target)
        scale = [self._layer_scale(layer, t) for layer, t in enumerate(target.features)]
        lpips = sum(s * row for s, row in zip(scale, layers, strict=True))
        images = fx.y if isinstance(fx, LossTarget) else fx
        mse = _against(images.float(), target.y.float()).square().mean((2, 3, 4)).flatten()
        return LossTerms(lpips, mse, lpips + self.alpha * mse)

    def maps(self, fx: Tensor, target: Tensor | LossTarget, cells: int) -> Tensor:
        """The combined loss of each cell of a grid over the image, `[B, K, cells, cells]`.

        Every term is averaged over the positions of a cell, so that the mean over cells is the loss
        where `cells` divides the sides of all maps (or they divide it). Rows as in `forward`.
        """
        if not isinstance(target, LossTarget):
            target = self.prepare(target)
        check_pair(fx, target.y)
        total = self.alpha * cell_means(
            _against(fx.float(), target.y.float()).square().mean(2), cells
        )
        for layer, (f, t) in enumerate(zip(self.features(fx), target.features, strict=True)):
            scale = self._layer_scale(layer, t) * t[0, 0].numel()
            total = total + scale * cell_means(_against(f, t).square().sum(2), cells)
        return total

    @torch.no_grad()
    def pairwise(self, x: Tensor | LossTarget) -> Tensor:
        """The perceptual term between all pairs of N images, or of what `prepare` made of them:
        `[N, N]`; features are made once."""
        x, features = self._with_features(x)
        total = x.new_zeros(len(x), len(x), dtype=torch.float32)
        for layer, f in enumerate(features):
            rows = [(f - row).square().sum((1, 2, 3)) for row in f]
            total += self._layer_scale(layer, f) * torch.stack(rows)
        return total

    def forward(self, fx: Tensor, target: Tensor | LossTarget) -> Tensor:
        """The combined loss per row, `[B * K]`."""
        return self.terms(fx, target).combined

    def _with_features(self, x: Tensor | LossTarget) -> tuple[Tensor, Sequence[Tensor]]:
        return (x.y, x.features) if isinstance(x, LossTarget) else (x, self.features(x))

    def _layer_scale(self, layer: int, feature: Tensor) -> float:
        height, width = feature.shape[2:]
        if self.weighting == "lpips":
            return 1 / (height * width)
        if self.weighting == "original":
            return 1 / width**2
        return 1 / (5 * CHANNELS[layer] * height * width)


class PixelLoss(nn.Module):
    """Mean squared pixel error per row, the loss of unconditional IMLE and of a learnt base at
    first; interface as above."""

    name = "mse"

    def prepare(self, y: Tensor) -> LossTarget:
        """Targets as they are: there are no features."""
        return LossTarget(y.detach(), ())

    def forward(self, fx: Tensor, target: Tensor | LossTarget) -> Tensor:
        """fx `[B * K, C, H, W]` against B targets -> `[B * K]`."""
        y = target.y if isinstance(target, LossTarget) else target
        check_pair(fx, y)
        return _against(fx.float(), y.float()).square().mean((2, 3, 4)).flatten()


class ProjectedDistance(nn.Module):
    """Squared distance of projected VGG16 features: a cheap stand-in for search, as the original
    CAM-Net had it.

    Layer l's features f_l (d_l numbers) become f_l P_l / W_l with P_l `[d_l, proj_dim / 5]`
    Gaussian, every row scaled to length 1, so that E||f P||^2 = ||f||^2: an estimate of LPIPS.

    Args:
        features: usually `ResolutionLoss.features`. proj_dim: numbers kept, over all five layers.
        seed: of the matrices, which are functions of (seed, round, layer, d_l), made when first
            needed, kept on the device (d_l * proj_dim / 5 floats) and in no state dict.
        matrix: (layer, d_l, columns) -> `[d_l, columns]` to supply them instead.
    """

    name = "projected"

    def __init__(
        self,
        features: VGG16Features,
        proj_dim: int = 1000,
        *,
        seed: int = 0,
        matrix: Callable[[int, int, int], Tensor] | None = None,
    ) -> None:
        super().__init__()
        if proj_dim < 5:
            raise ValueError(f"proj_dim must be at least 5 (one number per layer), got {proj_dim}")
        self.features, self.columns = features, proj_dim // 5
        self.seed, self.round = seed, 0
        self._matrix = matrix
        self._kept: dict[tuple[int, int, torch.device], Tensor] = {}

    def set_round(self, round: int) -> None:
        """Use the matrices of another sampling round (the original drew new ones each round)."""
        if round != self.round:
            self.round = round
            self._kept.clear()

    def matrix(self, layer: int, size: int, device: torch.device) -> Tensor:
        """P_layer `[size, columns]`, float32."""
        key = (layer, size, device)
        if key not in self._kept:
            if self._matrix is not None:
                made = self._matrix(layer, size, self.columns)
            else:
                made = _gaussian_rows((self.seed, self.round, layer), size, self.columns)
            self._kept[key] = made.to(device)
        return self._kept[key]

    def project(self, x: Tensor) -> Tensor:
        """Images `[N, 3, H, W]` -> `[N, 5 * (proj_dim // 5)]`."""
        parts = []
        for layer, f in enumerate(self.features(x)):
            flat = f.flatten(1)
            with torch.autocast(x.device.type, enabled=False):
                projected = flat @ self.matrix(layer, flat.shape[1], flat.device)
            parts.append(projected / f.shape[3])
        return torch.cat(parts, 1)

    @torch.no_grad()
    def prepare(self, y: Tensor, *, max_rows: int | None = None) -> LossTarget:
        """Projected targets, computed once."""
        return LossTarget(y.detach(), tuple(_in_chunks(lambda x: [self.project(x)], y, max_rows)))

    def forward(self, fx: Tensor, target: Tensor | LossTarget) -> Tensor:
        """Squared distance per row, `[B * K]`."""
        if not isinstance(target, LossTarget):
            target = self.prepare(target)
        check_pair(fx, target.y)
        return _against(self.project(fx), target.features[0]).square().sum(2).flatten()


def _in_chunks(
    fn: Callable[[Tensor], list[Tensor]], x: Tensor, max_rows: int | None
) -> list[Tensor]:
    check_images(x)
    if max_rows is None or len(x) <= max_rows:
        return fn(x)
    parts = [fn(chunk) for chunk in x.split(max_rows)]
    return [torch.cat(column) for column in zip(*parts, strict=True)]


def _gaussian_rows(key: tuple[int, int, int], rows: int, columns: int) -> Tensor:
    """Gaussian matrix with rows of length 1, the same on every machine (made on the CPU)."""
    digest = hashlib.sha256(repr((*key, rows, columns)).encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    matrix = torch.randn(rows, columns, generator=generator)
    return matrix.div_(torch.linalg.vector_norm(matrix, dim=1, keepdim=True))
