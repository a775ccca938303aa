"""Memorisation: are samples nearer to the training set than held-out images are?"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from evaluation.distances import checked_pair
from evaluation.knn import search
from evaluation.replicates import Replicates, weights

_COPY = 1 / 3


class Memorisation(NamedTuple):
    """Distances to the nearest training image, of samples [N] and of held-out images [M], float64.

    nearest: int64 [N], which training image each sample is nearest to, to look at them. ratio:
    median distance of samples over that of held-out images; far below 1 is memorisation, above 1
    are samples unlike either. share_below: share of samples nearer than the nearest `low` of the
    held-out images, which is `low` for real ones. copied, held_out_copied: share whose nearest
    training image is less than a third as far as the second nearest (Yoon et al. 2023). z: Mann and
    Whitney's test of samples against held-out images, as Meehan et al. 2020 (arXiv:2004.05675) have
    it for the whole set: below -2, samples are nearer; above 2, farther.
    """

    samples: Tensor
    held_out: Tensor
    nearest: Tensor
    ratio: float
    share_below: float
    copied: float
    held_out_copied: float
    z: float
    low: float

    def __str__(self) -> str:
        return (
            f"nearest training image: {self.ratio:.3f} times as far as from held-out images (z "
            f"{self.z:+.1f}), {self.share_below:.1%} of samples nearer than their nearest "
            f"{self.low:.0%}, {self.copied:.1%} copies ({self.held_out_copied:.1%} of held-out)"
        )


def memorisation(
    samples: Tensor,
    train: Tensor,
    held_out: Tensor,
    *,
    metric: str = "euclidean",
    low: float = 0.05,
) -> Memorisation:
    """Nearest-train distances of features [N, d] against those of held-out images [M, d].

    metric: "euclidean" or "cosine" (1 minus the cosine). Pictures that lie twice in the training
    set are never counted as copied. Search in chunks. Errors: ValueError, also for fewer than two
    training images.
    """
    samples, train = checked_pair(samples, train, ("samples", "train"))
    samples, held_out = checked_pair(samples, held_out, ("samples", "held-out images"))
    if len(train) < 2:
        raise ValueError(f"{len(train)} training image: the two nearest are needed")
    if not 0 < low < 1:
        raise ValueError(f"low {low}: a share between 0 and 1")
    found = [search(train, rows, 2, metric=metric) for rows in (samples, held_out)]
    near = [f.closeness.double() for f in found]
    ours, theirs = (1 - c if metric == "cosine" else -c for c in near)
    mine, real = ours[:, 0], theirs[:, 0]
    middle = real.quantile(0.5)
    ratio = float(mine.quantile(0.5) / middle) if middle > 0 else math.nan
    copied, real_copied = (
        float((d[:, 0] < _COPY * d[:, 1]).double().mean()) for d in (ours, theirs)
    )
    return Memorisation(
        mine.cpu(),
        real.cpu(),
        found[0].rows[:, 0].cpu(),
        ratio,
        float((mine < real.quantile(low)).double().mean()),
        copied,
        real_copied,
        _mann_whitney(mine, real),
        low,
    )


def memorisation_replicates(found: Memorisation, *, resamples: int = 100) -> dict[str, Replicates]:
    """Of ratio and share_below, by name: of samples drawn anew, and of each sample.

    Training and held-out images stay. ratio: none where it is not a number.
    Errors: ValueError.
    """
    low = found.held_out.quantile(found.low)
    shares = {"share_below": Replicates("shares", (found.samples < low).double())}
    middle = found.held_out.quantile(0.5)
    if middle <= 0:
        return shares
    far, order = found.samples.sort()
    drawn = torch.stack(weights(len(far), resamples))[:, order].cumsum(1)
    # the median of n drawn: the mean of the two in the middle, which for odd n are one
    n = len(far)
    ranks = torch.tensor([(n - 1) // 2, n // 2]).expand(len(drawn), 2) + 1
    medians = far[torch.searchsorted(drawn, ranks)].mean(1)
    return {"ratio": Replicates("bootstrap", medians / middle), **shares}


def _mann_whitney(a: Tensor, b: Tensor) -> float:
    """Standard normal z of U, how many pairs have a > b (equal ones half), corrected for ties."""
    n, m = len(a), len(b)
    values, place, counts = torch.cat((a, b)).unique(return_inverse=True, return_counts=True)
    ties = counts.double()
    ranks = ties.cumsum(0) - (ties - 1) / 2
    u = float(ranks[place[:n]].sum()) - n * (n + 1) / 2
    total = n + m
    tied = float((ties**3 - ties).sum()) / (total * (total - 1))
    variance = n * m / 12 * (total + 1 - tied)
    return (u - n * m / 2) / math.sqrt(variance) if variance > 0 else 0.0
