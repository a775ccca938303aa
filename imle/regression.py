"""The part of a base that is learnt: detail that follows from the input alone.

Samples of a CAM-Net are to differ in what the input leaves open. What it does not leave open is one
picture, which a small network at the resolution of the input, trained by regression, finds at a
small part of a sample's price: features stay small, as in ESPCN (Shi et al. 2016) and EDSR (Lim et
al. 2017), and detail is predicted level by level, as in LapSRN (Lai et al. 2017). Samples are then
made around it, as diffusion refines a regression in Whang et al. 2022 ("Deblurring via Stochastic
Refinement").

What has to be recognised first, as the object that a grey patch is of, needs to see more of the
picture than blocks at one resolution do: `context` adds coarser resolutions, as in a U-Net
(Ronneberger et al. 2015), at little cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imle.rrdb import SLOPE, conv_act


class Block(nn.Module):
    """h + conv(lrelu(conv(h))), h `[B, nc, r, r]`."""

    def __init__(self, nc: int) -> None:
        super().__init__()
        self.first = conv_act(nc, nc, act=False)
        self.second = conv_act(nc, nc, act=False)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.second(F.leaky_relu(self.first(h), SLOPE))


class Coarser(nn.Module):
    """Features at half the resolution: `[B, fine, r, r]` -> `[B, coarse, r/2, r/2]` and back."""

    def __init__(self, fine: int, coarse: int, n_blocks: int) -> None:
        super().__init__()
        self.widen = conv_act(fine, coarse, act=False)
        self.there = nn.ModuleList(Block(coarse) for _ in range(n_blocks))
        self.narrow = conv_act(coarse, fine, act=False)
        self.back = nn.ModuleList(Block(fine) for _ in range(n_blocks))

    def down(self, h: Tensor) -> Tensor:
        h = self.widen(F.avg_pool2d(h, 2))
        for block in self.there:
            h = block(h)
        return h

    def up(self, h: Tensor, finer: Tensor) -> Tensor:
        """finer: what `down` was given, which is added."""
        h = finer + F.interpolate(self.narrow(h), scale_factor=2, mode="nearest")
        for block in self.back:
            h = block(h)
        return h


class Regression(nn.Module):
    """Inputs `[B, 3, r_0, r_0]` in [0, 1] -> what levels add to the enlarged picture before them.

    res: r_0, .., r_L, of which each is a multiple of the first. nc: channels of features; n_blocks:
    residual blocks. context: how many times features are halved in resolution on the way down of a
    U-Net, with twice the channels each time up to 4 nc, and n_blocks at every resolution on either
    way; r_0 is a multiple of 2^context. 0: blocks at r_0 alone. The result is
    `[B, sum of 3 r_i^2]`, i from 1 to L, float32, a row an input, so that rows can be gathered;
    `detail` has a level's.
    """

    def __init__(self, res: Sequence[int], nc: int, n_blocks: int, context: int = 0) -> None:
        super().__init__()
        self.res = [int(r) for r in res]
        self.shuffles = [r // self.res[0] for r in self.res[1:]]
        self.stem = conv_act(3, nc, act=False)
        widths = [nc * min(2**i, 4) for i in range(context + 1)]
        self.blocks = nn.ModuleList(Block(nc) for _ in range(n_blocks))
        self.context = nn.ModuleList(
            Coarser(fine, coarse, n_blocks) for fine, coarse in pairwise(widths)
        )
        self.long = conv_act(nc, nc, act=False)
        self.head = conv_act(nc, 3 * sum(s * s for s in self.shuffles), act=False)
        self.head.keep_fp32 = True  # type: ignore[assignment]  # a mark for `freeze`

    def forward(self, cx: Tensor) -> Tensor:
        h = first = self.stem(2 * cx - 1)
        for block in self.blocks:
            h = block(h)
        finer = []
        for scale in self.context:
            finer.append(h)
            h = cast(Coarser, scale).down(h)
        for scale in reversed(self.context):
            h = cast(Coarser, scale).up(h, finer.pop())
        h = first + self.long(h)
        with torch.autocast(h.device.type, enabled=False):
            parts = self.head(h.float()).split([3 * s * s for s in self.shuffles], 1)
            made = [F.pixel_shuffle(p, s) for p, s in zip(parts, self.shuffles, strict=True)]
            return torch.cat([image.flatten(1) for image in made], 1)

    def detail(self, flat: Tensor, level: int) -> Tensor:
        """Of one level, `[B, 3, r_{level + 1}, ..]`, of what `forward` returned."""
        lengths = [3 * r * r for r in self.res[1:]]
        first, side = sum(lengths[:level]), self.res[level + 1]
        return flat[:, first : first + lengths[level]].reshape(-1, 3, side, side)


@torch.no_grad()
def to_learned(state: Mapping[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    """Weights of a CAM-Net with base "input" as those of `net`, whose base is learned, which then
    compute the same: the gains of the last convolution of its `Regression` are 0."""
    made = dict(state)
    for name, value in net.state_dict().items():
        if name.startswith("regression."):
            last = name.startswith("regression.head.") and not name.endswith("weight_v")
            made[name] = torch.zeros_like(value) if last else value.clone()
    return made
