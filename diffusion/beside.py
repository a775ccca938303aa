"""What a network is given beside the noised image, concatenated to its channels: a picture without
its colours, a smaller one, or the class of every pixel.

Saharia et al. 2021 (arXiv:2111.05826), "Palette", section 3, for colours; Ho et al. 2021
(arXiv:2106.15282) for small pictures; Rombach et al. 2022 (arXiv:2112.10752), section 4.3.2, for
maps of classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

KINDS = ("none", "gray", "lowres", "segmentation")
NO_CLASS = 255


def channels_beside(kind: str, classes: int) -> int:
    """Channels of the image beside; classes: of a segmentation. Errors: ValueError."""
    if kind not in KINDS:
        raise ValueError(f"concatenated image {kind!r} is none of {', '.join(KINDS)}")
    return {"none": 0, "gray": 1, "lowres": 3, "segmentation": classes}[kind]


def gray(images: Tensor) -> Tensor:
    """The mean of the channels of images [B, 3, H, W]: [B, 1, H, W]."""
    return images.mean(1, keepdim=True)


def lowres(images: Tensor, factor: int) -> Tensor:
    """Images [B, 3, H, W] made `factor` times smaller, by means. Errors: ValueError."""
    if factor < 2 or images.shape[2] % factor or images.shape[3] % factor:
        raise ValueError(
            f"images of {images.shape[2]} x {images.shape[3]} do not become {factor} times smaller"
        )
    return F.avg_pool2d(images, factor)


def one_hot(segmentation: Tensor, classes: int, side: int) -> Tensor:
    """Classes of pixels int [B, h, w], 255 for none, as shares of each: float [B, classes, side,
    side]. Errors: ValueError for a class that is not there."""
    found = segmentation.long()
    none = found == NO_CLASS
    looks = found.device.type == "cpu" and not torch.compiler.is_compiling()
    if looks and ((found < 0) | (found >= classes) & ~none).any():
        raise ValueError(f"a pixel is of class {int(found[~none].max())}; there are {classes}")
    hot = F.one_hot(torch.where(none, classes, found), classes + 1)[..., :classes]
    hot = hot.permute(0, 3, 1, 2).float()
    return hot if hot.shape[2:] == (side, side) else F.adaptive_avg_pool2d(hot, side)
