"""How good maps of pictures are: segmentations, depths, heights, yes or no.

Figures are made of sums over pixels, so that parts of a set may be counted one after the other.
"""

from __future__ import annotations

import torch
from torch import Tensor

Sums = dict[str, tuple[float, float]]  # figure -> (sum, count)


def confusion(predicted: Tensor, target: Tensor, classes: int, ignore: int = 255) -> Tensor:
    """How many pixels of each class (rows) are predicted as each (columns): int64 [K, K].

    predicted, target: numbers of classes, of one shape; pixels whose target is `ignore` do not
    count. Errors: ValueError for a class that there is not.
    """
    if predicted.shape != target.shape:
        raise ValueError(f"shapes {tuple(predicted.shape)} and {tuple(target.shape)}")
    counted = target != ignore
    a, b = target[counted].long(), predicted[counted].long()
    if a.numel() and not (0 <= min(a.min(), b.min()) and max(a.max(), b.max()) < classes):
        raise ValueError(f"a class outside of 0 to {classes - 1}")
    return torch.bincount(a * classes + b, minlength=classes**2).view(classes, classes).cpu()


def segmentation_figures(counts: Tensor) -> dict[str, float]:
    """accuracy, miou and majority of a confusion matrix [K, K]; {} where nothing was counted.

    miou: mean over classes that are in targets or predictions of intersection over union.
    majority: the accuracy of saying everywhere the class that targets have most often.
    """
    total = counts.sum()
    if not total:
        return {}
    hits, rows, columns = counts.diagonal(), counts.sum(1), counts.sum(0)
    union = rows + columns - hits
    there = union > 0
    return {
        "accuracy": float(hits.sum() / total),
        "miou": float((hits[there] / union[there]).mean()),
        "majority": float(rows.max() / total),
    }


def depth_sums(predicted: Tensor, target: Tensor, farthest: float = 100.0) -> Sums:
    """Sums of figures of depths, both positive, over the pixels whose target is at most `farthest`.

    abs_rel: |p - t| / t; square: (p - t)^2, of whose mean the root is RMSE; delta1: whether the
    larger of p / t and t / p is below 1.25 (Eigen et al. 2014, arXiv:1406.2283).
    """
    near = (target > 0) & (target <= farthest)
    p, t = predicted[near].double().clamp_min(1e-6), target[near].double()
    count = float(len(t))
    within = (torch.maximum(p / t, t / p) < 1.25).double()
    return {
        "abs_rel": (float(((p - t).abs() / t).sum()), count),
        "square": (float((p - t).square().sum()), count),
        "delta1": (float(within.sum()), count),
    }


def overlap_sums(predicted: Tensor, target: Tensor) -> Sums:
    """iou as intersection and union of two maps of yes and no."""
    a, b = predicted.bool(), target.bool()
    return {"iou": (float((a & b).sum()), float((a | b).sum()))}


def added(a: Sums, b: Sums) -> Sums:
    """Sums of two parts as those of both."""
    out = dict(a)
    for name, (total, count) in b.items():
        before = out.get(name, (0.0, 0.0))
        out[name] = (before[0] + total, before[1] + count)
    return out


def means(sums: Sums) -> dict[str, float]:
    """Sums as figures; those that nothing was counted for are left out. Of a name that ends in
    `square` the root is taken, as `rmse`."""
    found = {}
    for name, (total, count) in sums.items():
        if count and name.endswith("square"):
            found[name.removesuffix("square") + "rmse"] = (total / count) ** 0.5
        elif count:
            found[name] = total / count
    return found
