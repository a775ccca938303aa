"""Intervals of Frechet distances, by drawing the samples anew from themselves, or by leaving groups
of them out in turn.

An interval speaks about other samples of the same network against the same reference, and not
about networks trained anew.
"""

from __future__ import annotations

import torch
from torch import Tensor

from evaluation.accuracy import check_features
from evaluation.distances import checked_pair
from evaluation.frechet import FeatureStats, Moments, frechet_distance
from evaluation.replicates import Replicates, Resampled, groups_of, interval, paired, weights


@torch.no_grad()
def frechet_replicates(
    samples: Tensor,
    reference: Moments,
    *,
    resamples: int = 100,
    seed: int = 0,
    units: Tensor | None = None,
) -> Replicates:
    """Frechet distances of rows of features [N, d] drawn anew to a reference, `resamples` times.

    units: int64 [N], numbers from 0, what is drawn with all its rows, such as the picture that each
    crop is of (default: each row by itself).
    As weights on moments: exact, without a copy of the rows. The work of one is that of a weighted
    covariance and its eigenvalues; O(N d^2 + d^3). Errors: ValueError.
    """
    weighted = _Weighted(samples, reference)
    if units is None:
        units = torch.arange(len(samples))
    drawn = weights(int(units.max()) + 1, resamples, seed)
    found = [weighted.distance(w[units]) for w in drawn]
    return Replicates("bootstrap", torch.tensor(found, dtype=torch.float64))


@torch.no_grad()
def frechet_groups(samples: Tensor, reference: Moments) -> Replicates:
    """The same of all rows but those of one group, each in turn: sums over groups are made once, so
    that this is O(N d^2) and a d^3 a group, where a bootstrap would be long. Errors: ValueError.
    """
    samples = check_features(samples, "samples")
    group = groups_of(len(samples)).to(samples.device)
    parts = [_stats(samples[group == g]) for g in range(int(group.max()) + 1)]
    found = []
    for left_out in range(len(parts)):
        rest = FeatureStats(samples.shape[1], samples.device)
        for g, part in enumerate(parts):
            if g != left_out:
                rest.merge(part)
        found.append(frechet_distance(rest.moments(), reference))
    return Replicates("jackknife", torch.tensor(found, dtype=torch.float64))


@torch.no_grad()
def frechet_interval(
    samples: Tensor, reference: Moments, *, resamples: int = 100, seed: int = 0
) -> Resampled:
    """Frechet distance of features [N, d] to a reference, and its bootstrap interval.

    Errors: ValueError.
    """
    replicates = frechet_replicates(samples, reference, resamples=resamples, seed=seed)
    value = frechet_distance(_stats(samples).moments(), reference)
    found = interval(value, replicates, len(samples))
    return found._replace(low=max(found.low, 0.0))


@torch.no_grad()
def frechet_paired(
    a: Tensor, b: Tensor, reference: Moments, *, resamples: int = 100, seed: int = 0
) -> Resampled:
    """FD(a) - FD(b) to one reference, features [N, d] each, row i of both drawn with one seed.

    The same rows of both are drawn anew together, so that what seeds have in common cancels.
    Errors: ValueError.
    """
    a, b = checked_pair(a, b, ("the first", "the second"))
    if len(a) != len(b):
        raise ValueError(f"{len(a)} samples against {len(b)}: they come in pairs")
    first, second = (
        (
            frechet_distance(_stats(x).moments(), reference),
            frechet_replicates(x, reference, resamples=resamples, seed=seed),
        )
        for x in (a, b)
    )
    return paired(first, second, len(a))


class _Weighted:
    """Frechet distance of samples with weights to a reference of covariance R R^T.

    tr (S R R^T)^(1/2) is the sum of the roots of the eigenvalues of R^T S R, which is the
    covariance of the samples' projections on R: projected once, each weighting is a covariance.
    """

    def __init__(self, samples: Tensor, reference: Moments) -> None:
        x = check_features(samples, "samples")
        mean, cov = (t.to(x.device, torch.float64) for t in reference[:2])
        if len(mean) != x.shape[1]:
            raise ValueError(f"samples have {x.shape[1]} features, the reference {len(mean)}")
        self.x = x.double() - mean
        values, vectors = torch.linalg.eigh(cov)
        kept = values > values.amax().clamp(min=0) * 1e-15 * len(values)
        self.projected = self.x @ (vectors[:, kept] * values[kept].sqrt())
        self.squares = self.x.square().sum(1)
        self.trace = cov.trace()

    def distance(self, weights: Tensor) -> float:
        """weights: [N], how often each sample is there."""
        rows = weights.nonzero()[:, 0].to(self.x.device)
        w = weights.to(self.x.device, torch.float64)[rows]
        n = w.sum()
        gap = (w @ self.x[rows] / n).square().sum()
        trace = (w @ self.squares[rows] - n * gap) / (n - 1)
        y = self.projected[rows]
        y = (y - w @ y / n) * (w / (n - 1)).sqrt()[:, None]
        square = y.T @ y if len(y) > y.shape[1] else y @ y.T
        root = torch.linalg.eigvalsh(square).clamp(min=0).sqrt().sum()
        return float(gap + trace + self.trace - 2 * root)


def _stats(samples: Tensor) -> FeatureStats:
    stats = FeatureStats(samples.shape[1], samples.device)
    stats.update(samples)
    return stats
