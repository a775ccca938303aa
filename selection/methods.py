"""The selection methods by name. A new one is a function and one line here.

    def hardest(learner_loss, filter_ratio=0.8, *, N=16, rounding="exact", generator=None):
        b = selection_size(len(learner_loss), filter_ratio, N, rounding)
        return learner_loss.topk(b).indices

    METHODS["hardest"] = Method(hardest, needs_ref=False)

Its first argument is the learner's loss [B]; the second, for a method that needs it, the
reference's. It takes `filter_ratio`, `N`, `rounding` and `generator` by name, and returns int64
[b], b = selection_size(B, filter_ratio, N, rounding), on the losses' device. Options of its own
reach it through `select(..., options={...})`. `train_edm2.py --method hardest` trains with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from selection.jest import jointly_sample_batch
from selection.sizes import Ratio
from selection.uniform import random_baseline


class Method(NamedTuple):
    """A function of losses that returns rows, and whether it takes the reference's losses.

    needs_losses False: it counts rows only, so that losses need not be computed for it.
    """

    function: Callable[..., Tensor]
    needs_ref: bool
    needs_losses: bool = True


METHODS: dict[str, Method] = {
    "jest": Method(jointly_sample_batch, needs_ref=True),
    "random": Method(random_baseline, needs_ref=False, needs_losses=False),
}


def select(
    name: str,
    learner_loss: Tensor,
    ref_loss: Tensor | None = None,
    *,
    filter_ratio: Ratio = 0.8,
    N: int = 16,
    rounding: str = "exact",
    generator: torch.Generator | None = None,
    options: Mapping[str, Any] | None = None,
) -> Tensor:
    """Rows int64 [b] that the method `name` draws; `ref_loss` reaches only methods that need it.

    options: further arguments of that method, e.g. {"temperature": 0.5}. Errors: ValueError for
    an unknown name or a missing reference; TypeError for an option the method does not have.
    """
    if name not in METHODS:
        raise ValueError(f"selection method {name!r} is not one of: {', '.join(METHODS)}")
    function, needs_ref, _ = METHODS[name]
    if needs_ref and ref_loss is None:
        raise ValueError(f"selection method {name!r} needs the reference's losses: give ref_loss")
    losses = (learner_loss, ref_loss) if needs_ref else (learner_loss,)
    return function(
        *losses,
        filter_ratio=filter_ratio,
        N=N,
        rounding=rounding,
        generator=generator,
        **(options or {}),
    )
