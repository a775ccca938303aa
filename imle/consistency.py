"""Images that agree with the input they were made of: reduced and corrupted again, they are it.

What an input cx `[B, 3, h, w]` says of its image y `[B, 3, H, W]` is linear: cx = M C D(y), with
D the reduction of the pyramid (Pillow's bicubic filter, `data.pyramids`; rows and columns apart),
C the loss of colour of `imle.corruption` (C C = C) and M the cells that are known. With
U = B (D B)^-1, B bicubic enlargement, so that D U = 1, the image

    y + U r,   r = M (cx - C D y)

says exactly cx, whatever y was: C D (y + U r) = C D y + r. It is where back-projection (Irani and
Peleg 1991), y + B (cx - D y) again and again, arrives. The pseudo-inverse of D in place of U would
give the nearest such image, and a frame: of a flat r it makes one that is off by an eighth at the
border when enlarged twice, by a quarter four times, where U r is flat.

Losing colour, luma and not chroma is moved; in a hole, r fades out from its edge, so that what is
moved beside the hole leaves no step there.

Which cells are holes is read off the input, for nobody else knows it when a snapshot draws.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from imle.corruption import Corruption, keep_channel, luma

# Known pixels are of eight bits, or the mean of two such: multiples of 1/510. Three random numbers
# in a row are that, as near as this, once in 10^8.
_STEPS, _NEAR = 510, 1e-3
_ROUNDS = 16  # of projecting and cutting, where an image is to be shown


Made = TypeVar("Made", bound=Callable[..., object])


class Distance(NamedTuple):
    """Of what images say from their inputs, over the known cells, in units of [0, 1], float32."""

    mean: Tensor  # [B]
    largest: Tensor  # [B]


# ------------------------------------------------------------------------------------ reductions


def _constant(function: Made) -> Made:
    """Marks what torch.compile shall call instead of tracing it, as
    `torch.compiler.assume_constant_result` does, which loads the compiler to do so, --help or not.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@_constant
def _matrices(size: int, to: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """D `[to, size]` and U `[size, to]`, float32; made in float64, once."""
    return _made_matrices(size, to, device)


@lru_cache(maxsize=64)
def _made_matrices(size: int, to: int, device: torch.device) -> tuple[Tensor, Tensor]:
    # usable in training even if the first to ask is a sampler in inference mode
    with torch.inference_mode(False), torch.no_grad():
        down, up = (_bicubic(*sizes) for sizes in ((size, to), (to, size)))
        back = up @ torch.linalg.inv(down @ up)
        return down.float().to(device), back.float().to(device)


def _bicubic(size: int, to: int) -> Tensor:
    """`size` pixels in a row at the size `to`, as a matrix `[to, size]` of float64 on the CPU."""
    eye = torch.eye(size, dtype=torch.float64, device="cpu")[None, None]
    return F.interpolate(eye, size=(to, size), mode="bicubic", antialias=True)[0, 0]


def reduce(y: Tensor, size: tuple[int, int]) -> Tensor:
    """D: images `[B, C, H, W]` at `size` (height, width), as the pyramid reduces, float32."""
    return _along(y, size, 0)


def _raise(x: Tensor, size: tuple[int, int]) -> Tensor:
    """U: `[B, C, h, w]` -> `[B, C, *size]`, float32."""
    return _along(x, size, 1)


def _along(x: Tensor, size: tuple[int, int], which: int) -> Tensor:
    x = x.float()
    for dim in (2, 3):
        here, there = x.shape[dim], size[dim - 2]
        if here == there:
            continue
        large, small = max(here, there), min(here, there)
        if (which == 0) != (here > there):
            raise ValueError(f"images of {here} pixels are no enlargement of inputs of {there}")
        matrix = _matrices(large, small, x.device)[which]
        x = matrix @ x if dim == 2 else x @ matrix.T
    return x


# ----------------------------------------------------------------------------------------- holes


def known_pixels(cx: Tensor, task: Corruption) -> Tensor | None:
    """Where inputs `[B, 3, h, w]` say something, bool `[B, 1, h, w]`; None: everywhere.

    A cell of the grid of `mask_res` is a hole if it is of one colour: black with fill="zero"; with
    fill="color" one that no picture of eight bits has. A known cell that is all black is taken for
    a hole of fill="zero": nothing tells them apart.
    """
    if task.mask_frac == 0:
        return None
    row, top, add_rows = _cells(cx.shape[2], task.mask_res, cx.device)
    column, left, add_columns = _cells(cx.shape[3], task.mask_res, cx.device)
    if task.fill == "zero":
        shows = (cx != 0).any(1)
    else:
        corner = cx[:, :, top][:, :, :, left]
        differs = (cx != corner).any(1)
        fine = cx * _STEPS
        eight_bits = ((fine - fine.round()).abs() < _NEAR).all(1)
        grey = (cx == cx[:, :1]).all(1)
        shows = differs | eight_bits | grey
    # [B, S, S]: how many pixels of the cell show something
    count = add_rows @ shows.float() @ add_columns.T
    known = (count > 0)[:, row][:, :, column]
    return known[:, None]


@_constant
def _cells(length: int, cells: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Of `length` pixels in a row: their cell, the first pixel of that, int64 `[length]`, and a
    matrix `[cells, length]` that adds up each cell's."""
    return _made_cells(length, cells, device)


@lru_cache(maxsize=64)
def _made_cells(length: int, cells: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    with torch.inference_mode(False), torch.no_grad():
        # the very rounding of the mask: F.interpolate(mode="nearest")
        numbers = torch.arange(cells, dtype=torch.float32, device="cpu")
        cell = F.interpolate(numbers[None, None], size=length, mode="nearest")[0, 0].long()
        first = torch.searchsorted(cell, cell)
        sums = F.one_hot(cell, cells).T.float()
        return cell.to(device), first.to(device), sums.contiguous().to(device)


def feather(known: Tensor, width: int) -> Tensor:
    """0 in known pixels `[B, 1, h, w]`, in a hole d / (width + 1) at the d-th pixel from its edge,
    1 from there on; float32."""
    seen = known.float()
    total = 1 - seen
    for _ in range(width):
        seen = F.max_pool2d(seen, 3, 1, 1)
        total = total + 1 - seen
    return total / (width + 1)


def feather_width(task: Corruption, length: int) -> int:
    """How many pixels of a hole's edge are blended, in an image of side `length`."""
    return max(1, length // task.mask_res // 4)


def fill_in(cx: Tensor, known: Tensor) -> Tensor:
    """Inputs `[B, 3, h, w]` with holes that go on smoothly from what is known around them, float32.

    Coarse to fine: means of the known pixels on ever coarser grids, enlarged into what finer ones
    do not know, and on every grid a few steps towards the harmonic function (each pixel the mean of
    its neighbours). A picture of which nothing is known is 0.5.
    """
    seen = known.float()
    pyramid = [(cx.float() * seen, seen)]
    while min(pyramid[-1][0].shape[2:]) > 1:
        pyramid.append(
            (
                F.avg_pool2d(pyramid[-1][0], 2, ceil_mode=True),
                F.avg_pool2d(pyramid[-1][1], 2, ceil_mode=True),
            )
        )
    total, weight = (t.sum((2, 3), keepdim=True) for t in pyramid[-1])
    filled = torch.where(weight > 0, total / weight.clamp(min=1e-12), 0.5)
    for total, weight in reversed(pyramid):
        here, there = filled.shape[2:], total.shape[2:]
        if here != there:
            filled = F.interpolate(filled, size=there, mode="bilinear")
        have = weight > 0
        sure = total / weight.clamp(min=1e-12)
        filled = torch.where(have, sure, filled.expand_as(sure))
        for _ in range(10):
            around = F.avg_pool2d(F.pad(filled, [1] * 4, mode="replicate"), 3, 1)
            filled = torch.where(have, sure, around)
    return torch.where(known, cx.float(), filled)


# ------------------------------------------------------------------------------------ agreement


def _gray(y: Tensor, cx: Tensor, task: Corruption) -> Tensor:
    """C: images `[B, 3, h, w]` as they are without the colour that the inputs cx lost."""
    if task.grayscale == 1:
        return luma(y)
    if task.grayscale == 0.5:
        return keep_channel(y, _kept(cx, known_pixels(cx, task)))
    return y


def _kept(cx: Tensor, known: Tensor | None) -> Tensor:
    """Which channel of inputs of grayscale=0.5 is its own, int64 `[B]`: the two others are equal.
    Of pictures of which all channels are equal, any would do."""
    red, green, blue = cx.unbind(1)
    pairs = torch.stack([(green - blue), (red - blue), (red - green)], 1).abs()
    if known is not None:
        pairs = pairs * known
    return pairs.amax((2, 3)).argmin(1)


def project(y: Tensor, cx: Tensor, task: Corruption) -> Tensor:
    """Images `[B, 3, H, W]` moved to where they agree with their inputs, float32, differentiable.

    cx: `[B, 3, h, w]`, as `task` corrupts, h <= H and w <= W. What is known (and all of it, without
    a mask) is exact up to rounding, which with TF32 is up to a quarter of 1/255; a hole changes
    near its edge alone.
    """
    with torch.autocast(y.device.type, enabled=False):
        y, cx = y.float(), cx.float()
        small = reduce(y, (cx.shape[2], cx.shape[3]))
        rest = cx - _gray(small, cx, task)
        known = known_pixels(cx, task)
        if known is not None:
            rest = _faded(rest, known, feather_width(task, cx.shape[-1]))
        return y + _raise(rest, (y.shape[2], y.shape[3]))


def _faded(rest: Tensor, known: Tensor, width: int) -> Tensor:
    """What is known, going on into holes and down to 0 within `width` pixels of their edge."""
    seen = known.float()
    total, side = rest * seen, 2 * width + 1
    near = F.avg_pool2d(total, side, 1, width) / F.avg_pool2d(seen, side, 1, width).clamp(min=1e-6)
    return torch.where(known, rest, near * (1 - feather(known, width)))


def in_range(y: Tensor, cx: Tensor, task: Corruption) -> Tensor:
    """Images in [0, 1]: what the inputs say of a pixel is cut, its colour beside that paled as far
    as need be, so that pixels of inputs without colour keep their lightness."""
    y = y.float()
    if task.grayscale == 0:
        return y.clamp(0, 1)
    said = _gray(y, cx, task)
    colour, said = y - said, said.clamp(0, 1)
    room = torch.where(colour > 0, 1 - said, said) / colour.abs().clamp(min=1e-6)
    return (said + room.amin(1, keepdim=True).clamp(max=1) * colour).clamp(0, 1)


def to_show(y: Tensor, cx: Tensor, task: Corruption, rounds: int = _ROUNDS) -> Tensor:
    """Images in [0, 1] that agree with their inputs as nearly as such can: `project` and `in_range`
    in turn (projections onto convex sets)."""
    for _ in range(rounds):
        y = in_range(project(y, cx, task), cx, task)
    return y


def consistency(y: Tensor, cx: Tensor, task: Corruption) -> Distance:
    """How far images `[B, 3, H, W]`, reduced and corrupted as their inputs cx `[B, 3, h, w]` were,
    are from them: mean and largest absolute difference of a row over its known pixels."""
    with torch.autocast(y.device.type, enabled=False):
        cx = cx.float()
        apart = (cx - _gray(reduce(y, (cx.shape[2], cx.shape[3])), cx, task)).abs()
        known = known_pixels(cx, task)
        if known is None:
            return Distance(apart.mean((1, 2, 3)), apart.amax((1, 2, 3)))
        apart = apart * known
        count = 3 * known.float().sum((1, 2, 3)).clamp(min=1)
        return Distance(apart.sum((1, 2, 3)) / count, apart.amax((1, 2, 3)))


def disagreement(images: Tensor, cx: Tensor, task: Corruption) -> Tensor:
    """The mean distance of `consistency`, `[B]`."""
    return consistency(images, cx, task).mean
