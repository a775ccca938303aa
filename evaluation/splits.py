"""Stratified slices and folds of labelled rows, each a function of (labels, seed)."""

from __future__ import annotations

import torch
from torch import Tensor

from runtime.counter_rng import permutation

_SLICE, _FOLDS = 1, 2  # keep the two uses of one seed apart


def stratified_slice(labels: Tensor, share: float, seed: int = 0) -> Tensor:
    """Rows held out, bool [N]: of each class round(share * its rows), at least 1, and not all.

    labels: integers [N] on the CPU; classes without rows do not count. Errors: ValueError.
    """
    if not 0 < share < 1:
        raise ValueError(f"share {share} of the rows to hold out is not in (0, 1)")
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique().tolist():
        rows = (labels == label).nonzero()[:, 0]
        if len(rows) < 2:
            raise ValueError(f"class {label} has 1 row: none to hold out and one to train on")
        count = min(max(round(share * len(rows)), 1), len(rows) - 1)
        held[rows[permutation(len(rows), seed, _SLICE, label)[:count]]] = True
    return held


def stratified_folds(
    labels: Tensor, folds: int, seed: int = 0, num_classes: int | None = None
) -> Tensor:
    """Fold of every row, int64 [N] in [0, folds).

    Each class is dealt out in turn, beginning where the class before it ended: counts of a class
    differ by at most 1 between folds, and so do sizes of folds. labels: integers [N] on the CPU.
    num_classes: all classes that must be there; default those that are. Errors: ValueError, also
    for a class that has fewer rows than there are folds.
    """
    if folds < 2:
        raise ValueError(f"{folds} folds: at least 2 are needed")
    if not len(labels):
        raise ValueError("labels: there are none")
    classes = labels.unique().tolist() if num_classes is None else range(num_classes)
    out = torch.empty(len(labels), dtype=torch.int64)
    dealt = 0
    for label in classes:
        rows = (labels == label).nonzero()[:, 0]
        if len(rows) < folds:
            raise ValueError(f"class {label} has {len(rows)} rows, too few for {folds} folds")
        order = rows[permutation(len(rows), seed, _FOLDS, label)]
        out[order] = (torch.arange(len(rows)) + dealt) % folds
        dealt += len(rows)
    return out
