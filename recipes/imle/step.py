"""One step of IMLE, which is the same whether a generator trains alone or beside an encoder; and
one of the regression that its base may learn by, in either loss."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

from torch import Tensor, nn

from imle.generator import CAMNet
from imle.losses import LossTarget
from imle.targets import rows
from runtime.run import Run

# Inputs, a code a level, a target a level.
Batch = tuple[Tensor, list[Tensor], Sequence[Tensor | LossTarget]]


class BasePictures(NamedTuple):
    """What a learnt base is trained on in a step: inputs [B, 3, r_0, r_0] and a target
    [B, 3, r_l, r_l] a level, in [0, 1], and which pictures they are."""

    cx: Tensor
    ys: list[Tensor]
    ids: list[int]


def imle_loss(
    loss_fn: nn.Module, images: Sequence[Tensor], ys: Sequence[Tensor | LossTarget]
) -> Tensor:
    """Mean over rows of the sum over levels of the distance of an image to its target: a scalar.

    images, ys: a tensor [B, 3, r_l, r_l] a level, ys perhaps prepared (`imle.targets`). loss_fn:
    two of them -> [B].
    """
    losses = [loss_fn(x, y).mean() for x, y in zip(images, ys, strict=True)]
    return sum(losses[1:], start=losses[0])


def imle_gradients(
    run: Run,
    forward: Callable[[Tensor, list[Tensor]], Sequence[Tensor]],
    loss_fn: nn.Module,
    batch: Batch,
    ids: Sequence[int],
    *,
    mini_bs: int,
) -> Tensor:
    """Backpropagate the loss of a batch, `mini_bs` rows at a time; returns it, a detached scalar.

    forward: (inputs [B, C, r_0, r_0], codes) -> an image a level. ids: the pictures of the rows,
    for the report of a loss that is not finite. Gradients are those of the batch in one piece.
    """
    cx, codes, ys = batch
    parts = [slice(first, first + mini_bs) for first in range(0, len(cx), mini_bs)]
    losses = []
    for part in parts:
        with run.precision.autocast():
            images = forward(cx[part], [code[part] for code in codes])
            loss = imle_loss(loss_fn, images, [rows(y, part) for y in ys])
        loss = loss * (len(cx[part]) / len(cx))
        run.backward(loss, ids[part], last=part is parts[-1])
        losses.append(loss.detach())
    return sum(losses[1:], start=losses[0])


def regression_gradients(
    run: Run,
    net: nn.Module,
    loss_fn: nn.Module,
    pictures: BasePictures,
    *,
    mini_bs: int,
) -> Tensor:
    """Backpropagate the loss of a learnt base, `mini_bs` rows at a time; returns it, a detached
    scalar: the mean over rows of the sum over levels, as of samples.

    net: a CAMNet with such a base. loss_fn: as of `imle_loss`; `PixelLoss` is the MSE. Errors:
    ValueError for a network with another base.
    """

    def images(cx: Tensor, codes: list[Tensor]) -> list[Tensor]:
        return cast(CAMNet, net).regressed(cx)

    batch: Batch = (pictures.cx, [], pictures.ys)
    return imle_gradients(run, images, loss_fn, batch, pictures.ids, mini_bs=mini_bs)
