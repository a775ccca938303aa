"""How pictures of any size become what a network takes: the choice moves a FID by whole points.

Parmar et al. 2022 (arXiv:2104.11222) compare libraries and filters; which policy a figure is of has
to be written beside it. Every function takes uint8 or float [N, 3, H, W] of values in [0, 255] and
gives float32 [N, 3, size, size]; the whole picture is squashed to a square. A row does not depend
on what is in the batch beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


def clean(images: Tensor, size: int) -> Tensor:
    """Pillow's bicubic kernel in floating point, widened where a picture shrinks; cut to [0, 255].

    The policy of clean-fid: each channel in Pillow's mode F, no rounding to whole numbers between.
    """
    return bicubic(images, size).clamp_(0, 255)


def bicubic(images: Tensor, size: int) -> Tensor:
    """As `clean`, overshoots kept: what NVIDIA's EDM2 shows DINOv2."""
    return F.interpolate(
        images.float(), (size, size), mode="bicubic", align_corners=False, antialias=True
    )


def tf1(images: Tensor, size: int) -> Tensor:
    """Bilinear as TensorFlow 1 did: pixel i of the result lies at i * in / out of the picture.

    Nothing is averaged where a picture shrinks, and the result is shifted by up to half a pixel:
    wrong, and what FIDs of before 2021 are of, also NVIDIA's published reference statistics.
    """
    x = images.float()
    for dim in (2, 3):
        x = _tf1_axis(x, size, dim)
    return x


def _tf1_axis(x: Tensor, size: int, dim: int) -> Tensor:
    there = x.shape[dim]
    at = torch.arange(size, device=x.device) * torch.tensor(there / size, device=x.device)
    low = at.floor().long().clamp(max=there - 1)
    high = (low + 1).clamp(max=there - 1)
    weight = (at - low).view([-1 if d == dim else 1 for d in range(4)])
    first, second = x.index_select(dim, low), x.index_select(dim, high)
    return first + (second - first) * weight


class Policy(NamedTuple):
    """A way to resize, and the words that stand beside a figure."""

    resize: Callable[[Tensor, int], Tensor]
    words: str


POLICIES = {
    "clean": Policy(clean, "antialiased bicubic as Pillow's, in floating point (clean-fid)"),
    "bicubic": Policy(bicubic, "antialiased bicubic as Pillow's, overshoots kept (EDM2's DINOv2)"),
    "tf1": Policy(tf1, "bilinear of TensorFlow 1, not antialiased (the original FID)"),
}
