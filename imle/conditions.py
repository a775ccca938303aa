"""CAM-Nets of the code release that are given an image at every level, as networks of a picture.

Their training read one picture and made the images of all levels from it: decompression and
CHIMLE's Generic the picture at each level's size, colorization its lightness there. Colours leave
them as L, aL and bL, and become RGB here. Image synthesis takes maps of classes, at each level's
size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from imle.color import lab_to_rgb, rgb_to_lab
from imle.generator import CAMNet


def input_shape(net: CAMNet) -> tuple[int, int, int]:
    """(channels, side, side) of the picture that a network is to be shown."""
    side = net.res[net.levels - 1] if net.feedback == "none" else net.res[0]
    return 3 if net.head == "ab" else net.in_nc, side, side


def conditions(net: CAMNet, picture: Tensor) -> list[Tensor]:
    """Images [B, in_nc, r_i, r_i] of all levels of a network with feedback "none".

    picture: float [B, *input_shape(net)] in [0, 1], or larger.
    """
    return [_at(net, picture, side) for side in net.res[: net.levels]]


def _at(net: CAMNet, picture: Tensor, side: int) -> Tensor:
    if picture.shape[1] != 3:  # classes have nothing in between
        return F.interpolate(picture, size=(side, side), mode="nearest")
    if picture.shape[-1] != side:
        small = F.interpolate(picture, size=(side, side), mode="bicubic", antialias=True)
        picture = small.clamp(0, 1)
    return rgb_to_lab(picture.float())[:, :1] if net.head == "ab" else picture


def without_colour(picture: Tensor) -> Tensor:
    """Grey of the same lightness, RGB [B, 3, H, W]: what a network that colours is shown."""
    light = rgb_to_lab(picture.float())[:, :1]
    return lab_to_rgb(torch.cat([light, torch.zeros_like(light).expand(-1, 2, -1, -1)], 1))


class OfPictures(nn.Module):
    """A network with feedback "none" that is called with pictures and gives RGB: `imle.contract`.

    net: it, its weights shared.
    """

    def __init__(self, net: CAMNet) -> None:
        super().__init__()
        self.net = net

    def forward(
        self, cx: Tensor, codes: Sequence[Tensor], loi: int | None = None
    ) -> list[Tensor] | Tensor:
        """As `CAMNet.forward`, of pictures float [B, *input_shape(net)] in [0, 1]."""
        images = self.net(conditions(self.net, cx), codes, loi=loi)
        if self.net.head != "ab":
            return images
        if isinstance(images, Tensor):
            return lab_to_rgb(images, convention="albl")
        return [lab_to_rgb(image, convention="albl") for image in images]

    def shown(self, images: Tensor, cx: Tensor) -> Tensor:
        """Images as they are."""
        return images


def of_pictures(net: CAMNet) -> CAMNet | OfPictures:
    """A network as one that is called with pictures; most are."""
    return OfPictures(net) if net.feedback == "none" else net
