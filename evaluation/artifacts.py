"""Faults that a generator leaves in its pictures whatever they show: borders and ripples.

images, targets: [N, C, H, W] in [0, 1], a target for each row (one target [1, C, H, W] for all).
Every function returns one value a row and leaves averaging to the caller.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_EIGHT_BITS = 1 / 255


def border_error(images: Tensor, targets: Tensor, width: int = 2) -> Tensor:
    """Mean absolute error of the outermost `width` pixels over that of all others: [N].

    1 where a border is as good as the rest of the picture; bicubic enlargement has about 1.
    ValueError for images that have no others.
    """
    if min(images.shape[2:]) <= 2 * width:
        raise ValueError(f"images {list(images.shape[2:])} are all border of {width} pixels")
    apart = (images.float() - targets.float()).abs().mean(1)
    inside = apart[:, width:-width, width:-width]
    ring = apart.sum((1, 2)) - inside.sum((1, 2))
    count = apart[0].numel() - inside[0].numel()
    return ring / count / inside.mean((1, 2)).clamp(min=1e-12)


def ripple(
    images: Tensor, targets: Tensor, *, flat: float = 0.02, size: int = 5, margin: int = 2
) -> Tensor:
    """How much steeper images are than their targets where these are flat: [N].

    The root mean square step between neighbours of the images over that of the targets (at least
    one of 255 levels, for a target may have no steps at all), over the pixels whose surroundings,
    size x size, have no step above `flat` in the target; `margin` pixels of border are left out.
    1: flat areas are as smooth as they should be. nan for a picture without flat areas.
    """
    made, true = (_steps(one.float()) for one in (images, targets))
    around = F.max_pool2d(true.amax(1, keepdim=True), size, 1, size // 2)
    areas = (around < flat).float()[:, :, margin:-margin, margin:-margin]
    energy = [
        (steps.square().mean(1, keepdim=True)[:, :, margin:-margin, margin:-margin] * areas)
        .flatten(1)
        .sum(1)
        for steps in (made, true)
    ]
    count = areas.flatten(1).sum(1)
    root = [(e / count).sqrt() for e in energy]
    return root[0] / root[1].clamp(min=_EIGHT_BITS)


def _steps(x: Tensor) -> Tensor:
    """The larger of the two steps to the next pixel to the right and below, [N, C, H, W]."""
    right = F.pad(x.diff(dim=3).abs(), [0, 1, 0, 0])
    below = F.pad(x.diff(dim=2).abs(), [0, 0, 0, 1])
    return torch.maximum(right, below)
