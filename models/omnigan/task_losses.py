"""Losses of omnigan's tasks: segmentation, depth, height, water; and of pictures.

Where a loss takes `weight`, it is of each sample, [B]: 1 where it has a label, 0 where it has none;
the loss is then over those that have, and where there are none a 0 that is part of the graph.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Loss = Callable[..., Tensor]
_TINY = 1e-30


def nothing(*outputs: Tensor) -> Tensor:
    """A 0 whose gradient is 0 for each output: what a loss of no samples is."""
    return torch.stack([output.float().sum() * 0 for output in outputs]).sum()


def chosen(
    output: Tensor, target: Tensor, weight: Tensor | None
) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """The rows that have labels, or None if none has."""
    if weight is None:
        return output, target
    rows = weight.to(output.device).bool()
    return (output[rows], target[rows]) if bool(rows.any()) else (None, None)


def on_labelled(loss: Loss) -> Loss:
    """A loss(output, target) that takes a `weight` [B] and is of those samples alone."""

    @functools.wraps(loss)
    def labelled(output: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        some, of_these = chosen(output, target, weight)
        if some is None or of_these is None or not len(some):
            return nothing(output)
        return loss(some.float(), of_these.float())

    return labelled


# ------------------------------------------------------------------------------- differences


@on_labelled
def l1(output: Tensor, target: Tensor) -> Tensor:
    """Mean |output - target|."""
    return F.l1_loss(output, target)


@on_labelled
def l2(output: Tensor, target: Tensor) -> Tensor:
    """Mean (output - target)^2."""
    return F.mse_loss(output, target)


# ------------------------------------------------------------------------------- segmentation


def cross_entropy_2d(
    logits: Tensor, target: Tensor, weight: Tensor | None = None, *, ignore_index: int = 255
) -> Tensor:
    """Mean cross entropy of logits [B, C, H, W] over pixels whose target, int64 [B, H, W], is >= 0
    and not ignore_index; a 0 that is part of the graph if there are none.

    Errors: ValueError for shapes that do not go together and for a class that is not there.
    """
    wanted = (logits.shape[0], *logits.shape[2:])
    if tuple(target.shape) != wanted:
        raise ValueError(f"segmentation of {tuple(target.shape)} for logits of {wanted}")
    some, labels = chosen(logits, target, weight)
    if some is None or labels is None:
        return nothing(logits)
    # Negative ids mean "not labelled" as ignore_index does
    labels = torch.where(labels < 0, ignore_index, labels)
    known = labels != ignore_index
    if not bool(known.any()):
        return nothing(logits)
    highest = int(torch.where(known, labels, 0).amax())
    if highest >= logits.shape[1]:
        raise ValueError(
            f"a pixel is of class {highest}, but the decoder has {logits.shape[1]} classes: "
            "gen.s.output_dim"
        )
    return F.cross_entropy(some.float(), labels, ignore_index=ignore_index)


def entropy_map(probabilities: Tensor) -> Tensor:
    """-p log2 p / log2 C of probabilities [B, C, H, W], the same shape. Source: Vu et al. 2019
    (ADVENT), equation 6."""
    logs = torch.log2(probabilities + _TINY)
    return -probabilities * logs / math.log2(probabilities.shape[1])


def entropy_loss(probabilities: Tensor) -> Tensor:
    """Mean over pixels of the entropy of probabilities [B, C, H, W], in [0, 1]."""
    return entropy_map(probabilities).sum(1).mean()


def minent(probabilities: Tensor, spread: float = 0.0) -> Tensor:
    """Entropy loss, and `spread` times the mean square by which the map's elements leave its value.

    The elements keep their axis of classes, as published in ClimateGAN (spread 0.1 there).
    """
    elements = entropy_map(probabilities)
    mean = elements.sum(1).mean()
    if not spread:
        return mean
    square = (elements - mean).square().sum(1).mean()
    return mean + spread * square


# ------------------------------------------------------------------------------- depth


@on_labelled
def simse(output: Tensor, target: Tensor) -> Tensor:
    """Scale-invariant: mean d^2 - (mean d)^2 of d = output - target. Source: Eigen et al. 2014."""
    difference = output - target
    return difference.square().mean() - difference.mean().square()


def _aligned(depth: Tensor) -> Tensor:
    """By the median, and the mean distance from it: Ranftl et al. 2020, equation 5."""
    shifted = depth - depth.median()
    return shifted / shifted.abs().mean().clamp_min(1e-12)


def sigm(
    output: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    gm: float = 0.5,
    scales: int = 4,
) -> Tensor:
    """Scale- and shift-invariant, with the gradients of the difference at several scales.

    Of [B, 1, H, W]: 0.5 / P sum |R| + gm / P sum over k of sum |grad R_k|, R the difference of both
    when aligned, R_k every 2^k-th pixel of it, gradients Sobel's, P = H W. Source: Ranftl et al.
    2020 (MiDaS), equations 6 and 8; the gradients count once, not once for each picture.
    """
    some, labels = chosen(output, target, weight)
    if some is None or labels is None:
        return nothing(output)
    pixels = output.shape[-2] * output.shape[-1]
    R = _aligned(some.float()) - _aligned(labels.float())
    total = 0.5 / pixels * R.abs().sum()
    if not gm:
        return total
    x = R.new_tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]])
    sobel = torch.stack([x, x.T])[:, None]
    for k in range(scales):
        small = R if k == 0 else F.interpolate(R, scale_factor=1 / 2**k)
        if min(small.shape[-2:]) < 3:
            break
        total = total + gm / pixels * F.conv2d(small, sobel).abs().sum()
    return total


@on_labelled
def reverse_huber(output: Tensor, target: Tensor) -> Tensor:
    """DADA's: mean of |e| up to c and (e^2 + c^2) / 2c beyond it, c a fifth of the largest |e|.

    Source: Vu et al. 2019 (DADA), equation 2. c is a constant of the gradient.
    """
    e = (output - target).abs()
    c = (0.2 * e.detach().amax()).clamp_min(1e-12)
    return torch.where(e <= c, e, (e.square() + c * c) / (2 * c)).mean()


# ------------------------------------------------------------------------------- water


@on_labelled
def bce(output: Tensor, target: Tensor) -> Tensor:
    """Binary cross entropy of logits."""
    return F.binary_cross_entropy_with_logits(output, target)


@on_labelled
def dice_bce(output: Tensor, target: Tensor) -> Tensor:
    """Binary cross entropy, and 1 - the Dice coefficient of each picture's mask."""
    p = output.sigmoid()
    both, sums = (p * target).sum((1, 2, 3)), p.sum((1, 2, 3)) + target.sum((1, 2, 3))
    dice = 1 - (2 * both + 1) / (sums + 1)  # the 1 is for masks that are empty
    return F.binary_cross_entropy_with_logits(output, target) + dice.mean()


# ------------------------------------------------------------------------------- pictures


def total_variation(x: Tensor) -> Tensor:
    """2 (sum dh^2 / (C (H - 1) W) + sum dw^2 / (C H (W - 1))) / B of [B, C, H, W]."""
    B, C, H, W = x.shape
    x = x.float()
    down = (x[:, :, 1:] - x[:, :, :-1]).square().sum() / (C * (H - 1) * W)
    right = (x[..., 1:] - x[..., :-1]).square().sum() / (C * H * (W - 1))
    return 2 * (down + right) / B


def context(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    """Mean |a - b| (1 - mask): that what is not painted stays."""
    return ((a - b).abs() * (1 - mask)).mean()


def reconstruction(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    """Mean |a - b| mask."""
    return ((a - b).abs() * mask).mean()


def ground_intersection(prediction: Tensor, ground: Tensor) -> Tensor:
    """Share of pixels that are ground and not predicted to be flooded, by more than 0.5; a figure,
    without a gradient."""
    return ((ground - prediction).detach() > 0.5).float().mean()


DEPTH: dict[str, Loss] = {
    "dada": reverse_huber, "l1": l1, "l2": l2, "sigm": sigm, "simse": simse,
}  # fmt: skip
WATER: dict[str, Loss] = {"bce": bce, "dice_bce": dice_bce}
DIFFERENCES: dict[str, Loss] = {"l1": l1, "l2": l2}
