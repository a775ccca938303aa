"""What a loss makes of its targets, kept while an outer loop trains on them again and again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import Tensor

from imle.losses import LossTarget


class Prepares(Protocol):
    """A loss that can prepare targets (`imle.losses`)."""

    def prepare(self, y: Tensor) -> LossTarget: ...


class TargetCache:
    """Prepared targets of the pictures of one outer loop, made when they are first asked for.

    In a loop a picture is a target several times (`bs * num_iteration / subsample_size`), each time
    in the same flip, so its feature maps need to be made once: with VGG16 a third of the loss's
    work. Each picture is prepared alone, so that what is kept does not depend on which pictures
    share a batch, nor on where a run was interrupted; values differ from those of a batch by
    rounding. Holds 2.5 MB a picture for outputs of 32 and 64 pixels, 43 MB for 32 to 256.

    loss_fn: anything with `prepare`. autocast: () -> the context in which the loss computes.
    """

    def __init__(
        self,
        loss_fn: Prepares,
        autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self.loss_fn, self.autocast = loss_fn, autocast
        self._loop: int | None = None
        self._kept: dict[int, list[LossTarget]] = {}

    def __call__(self, loop: int, ids: Sequence[int], ys: Sequence[Tensor]) -> list[LossTarget]:
        """Targets of a batch, a level each. ids: its B pictures; ys: `[B, C, r_l, r_l]` a level,
        the same for a picture as long as `loop` is the same."""
        if loop != self._loop:
            self._loop, self._kept = loop, {}
        for row, image in enumerate(ids):
            if image not in self._kept:
                with self.autocast():
                    self._kept[image] = [self.loss_fn.prepare(y[row : row + 1]) for y in ys]
        kept = [self._kept[image] for image in ids]
        return [joined([targets[level] for targets in kept]) for level in range(len(ys))]


def joined(targets: Sequence[LossTarget]) -> LossTarget:
    """Targets of several batches as those of one."""
    maps = zip(*(target.features for target in targets), strict=True)
    y = torch.cat([target.y for target in targets])
    return LossTarget(y, tuple(torch.cat(rows) for rows in maps))


def rows(target: Tensor | LossTarget, part: slice) -> Tensor | LossTarget:
    """Some rows of targets, prepared or not."""
    if isinstance(target, LossTarget):
        return LossTarget(target.y[part], tuple(f[part] for f in target.features))
    return target[part]
