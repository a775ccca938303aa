"""What is taken away from the input before the generator has to give it back.

`Corruption.keyed` is a function of (seed, loop, image id): codes are matched to one corrupted input
for a whole loop, so it must not depend on batching, workers or ranks. Applied to RGB in [0, 1],
before any colour conversion, greyscale first, then the mask. Inputs are never changed in place.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from runtime import counter_rng
from storage.arguments import Share, Side

_TAG = 0x636F7272  # keeps these keys apart from those of codes and flips
_RANKS, _CHANNEL, _COLORS = 0, 1, 2  # counter streams


def luma(x: Tensor) -> Tensor:
    """0.299 R + 0.587 G + 0.114 B on all three channels, `[B, 3, H, W]`."""
    grey = 0.299 * x[:, 0:1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:3]
    return grey.expand_as(x).contiguous()


def keep_channel(x: Tensor, kept: Tensor) -> Tensor:
    """Channel kept[b] of image b as it is, the others replaced by their mean. kept int64 `[B]`."""
    chosen = F.one_hot(kept, 3).to(torch.bool)[:, :, None, None]
    dropped = x.masked_fill(chosen, 0)
    return torch.where(chosen, x, dropped.sum(1, keepdim=True) / 2)


def masked_cells(mask_frac: float, mask_res: int) -> int:
    """How many of the mask_res^2 cells are masked: ceil(mask_frac * mask_res^2)."""
    exact = mask_frac * mask_res**2
    # a fraction that came through float32 or 0.07 * 100 must not gain a cell by rounding noise
    return round(exact) if math.isclose(exact, round(exact), rel_tol=1e-6) else math.ceil(exact)


def mask_image(
    x: Tensor, ranks: Tensor, mask_frac: float, colors: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Hide the cells of the lowest ranks.

    x `[B, 3, H, W]`; ranks int64 `[B, S * S]`, a permutation per image over row-major cells; colors
    `[B, 3, S, S]` to fill with, else 0. Returns (image, mask `[B, 1, H, W]`, 1 where hidden).
    """
    side = math.isqrt(ranks.shape[1])
    cells = (ranks < masked_cells(mask_frac, side)).to(x.dtype).reshape(-1, 1, side, side)
    mask = F.interpolate(cells, size=x.shape[2:], mode="nearest")
    fill = 0 if colors is None else F.interpolate(colors.to(x), size=x.shape[2:], mode="nearest")
    return torch.where(mask.bool(), fill, x), mask


class Corruption:
    """Greyscale and masking.

    Args:
        grayscale: 0 off; 1 luma on three channels; 0.5 keeps one random channel an image.
        mask_res: cells per side. mask_frac: fraction of cells hidden, in [0, 1]; 0 = off.
        fill: "zero", or "color" for one random colour per cell and image.
        seed: of the keyed form.
    """

    def __init__(
        self,
        grayscale: float = 0,
        mask_res: Side = 8,
        mask_frac: Share = 0.0,
        fill: Literal["zero", "color"] = "zero",
        seed: int = 0,
    ) -> None:
        if grayscale not in (0, 0.5, 1):
            raise ValueError(f"grayscale must be 0, 0.5 or 1, got {grayscale}")
        if mask_res < 1:
            raise ValueError(f"mask_res must be at least 1, got {mask_res}")
        if not 0 <= mask_frac <= 1:
            raise ValueError(f"mask_frac must be in [0, 1], got {mask_frac}")
        if fill not in ("zero", "color"):
            raise ValueError(f"fill must be zero or color, got {fill!r}")
        self.grayscale, self.mask_res, self.mask_frac = grayscale, mask_res, mask_frac
        self.fill, self.seed = fill, seed

    @property
    def is_identity(self) -> bool:
        return self.grayscale == 0 and self.mask_frac == 0

    def __call__(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Corrupt `[B, 3, H, W]` with torch's generator (the global one by default)."""
        device = "cpu" if generator is None else generator.device
        seeds = torch.randint(2**62, (len(x),), generator=generator, device=device)
        return self._apply(x, seeds.to(x.device))

    def keyed(self, x: Tensor, loop: int, image_ids: Tensor) -> Tensor:
        """Corrupt `[B, 3, H, W]` as a function of (seed, loop, image_ids `[B]`) alone."""
        if len(image_ids) != len(x):
            raise ValueError(f"{len(x)} images need as many image ids, got {len(image_ids)}")
        ids = torch.as_tensor(image_ids, dtype=torch.int64, device=x.device)
        return self._apply(x, counter_rng.mix(self.seed, _TAG, loop, ids))

    def _apply(self, x: Tensor, seeds: Tensor) -> Tensor:
        if self.is_identity:
            return x
        if x.ndim != 4 or x.shape[1] != 3:
            raise ValueError(f"corruption needs RGB images [B, 3, H, W], got {list(x.shape)}")
        if self.grayscale == 1:
            x = luma(x)
        elif self.grayscale == 0.5:
            x = keep_channel(x, counter_rng.randint(seeds, 1, 3, stream=_CHANNEL)[:, 0])
        if self.mask_frac > 0:
            side = self.mask_res
            if side > min(x.shape[2:]):
                raise ValueError(f"mask_res {side} is finer than images of {list(x.shape[2:])}")
            keys = counter_rng.uniform(seeds, side * side, stream=_RANKS)
            ranks = keys.argsort(dim=1, stable=True).argsort(dim=1)
            colors = None
            if self.fill == "color":
                colors = counter_rng.uniform(seeds, 3 * side * side, stream=_COLORS)
                colors = colors.reshape(-1, 3, side, side)
            x, _ = mask_image(x, ranks, self.mask_frac, colors)
        return x
