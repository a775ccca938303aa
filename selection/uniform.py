"""The baseline of every selection method: as many rows, drawn at random."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from selection.arrays import Given, Losses, as_given, as_tensor, refuse
from selection.scores import check_generator
from selection.sizes import Ratio, rows_of


def random_baseline(
    learner_loss: Given,
    filter_ratio: Ratio = 0.8,
    *,
    ref_loss: Losses | None = None,
    N: int = 16,
    learnability: bool = True,
    inverted: bool = False,
    first_chunk: str = "uniform",
    normalise: bool = True,
    rounding: str = "exact",
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    strata: Tensor | None = None,
    easy_reference: str = "intended",
    selection_size: int | None = None,
    numeric_stability_trick: bool = False,
    device: torch.device | str | int | None = None,
    **unknown: Any,
) -> Given:
    """Uniform draw without replacement: int64 [b] rows in order, as the losses came.

    - learner_loss: [B], [B, 1, ..] or [B, B], a tensor or a NumPy array; only its shape, its device
      and which rows are finite count. Rows with a non-finite loss are drawn last.
    - filter_ratio, rounding: b = `selection_size`; rounding "reference" is Autoguided's
      int(B (1 - filter_ratio)). selection_size: b itself instead, Autoguided's second argument.
    - device: where a tensor of rows goes, by default the losses' device.
    - All others are those of `jointly_sample_batch`, so that all methods are called alike, and have
      no effect: a single draw is the same as N, and scores do not count.
    Errors: ValueError; UnknownKeyword (a TypeError and a ValueError).
    """
    refuse(random_baseline, unknown)
    if isinstance(filter_ratio, (Tensor, np.ndarray)):
        raise ValueError(
            "the second argument of random_baseline is filter_ratio, a share: it looks at no "
            "reference (ref_loss=... is accepted, without effect)"
        )
    loss = as_tensor("learner_loss", learner_loss)
    if loss.dim() not in (1, 2) or (loss.dim() == 2 and loss.shape[0] != loss.shape[1]):
        raise ValueError(f"losses must be [B] or [B, B], got {list(loss.shape)}")
    if loss.dim() == 2:
        loss = loss.diagonal()
    check_generator(generator, loss.device)
    b = rows_of(len(loss), filter_ratio, 1, rounding, selection_size)
    key = torch.rand(len(loss), dtype=torch.float64, device=loss.device, generator=generator)
    rows = key.masked_fill_(~loss.isfinite(), 2.0).topk(b, largest=False).indices
    return as_given(rows, learner_loss, device)
