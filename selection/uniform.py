"""The baseline of every selection method: as many rows, drawn at random."""

from __future__ import annotations

import torch
from torch import Tensor

from selection.scores import check_generator
from selection.sizes import Ratio, selection_size


def random_baseline(
    learner_loss: Tensor,
    filter_ratio: Ratio = 0.8,
    *,
    N: int = 16,
    rounding: str = "exact",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Uniform draw without replacement: int64 [b] rows in order, on the losses' device.

    learner_loss: [B], or [B, B]; only its shape, its device and which rows are finite count. Rows
    with a non-finite loss are drawn last. `N` is accepted, so that all methods are called alike,
    and has no effect: a single draw is the same as many. b = `selection_size`; rounding
    "reference" is Autoguided's int(B (1 - filter_ratio)). Errors: ValueError.
    """
    if learner_loss.dim() not in (1, 2):
        raise ValueError(f"losses must be [B] or [B, B], got {list(learner_loss.shape)}")
    loss = learner_loss.detach()
    if loss.dim() == 2:
        loss = loss.diagonal()
    check_generator(generator, loss.device)
    b = selection_size(len(loss), filter_ratio, 1, rounding)
    key = torch.rand(len(loss), dtype=torch.float64, device=loss.device, generator=generator)
    return key.masked_fill_(~loss.isfinite(), 2.0).topk(b, largest=False).indices
