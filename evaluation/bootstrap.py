"""Intervals of figures that are no means: by drawing the samples anew from themselves.

A figure such as a Frechet distance has a bias that depends on how many different rows there are, so
its resampled values lie around another middle than the figure does. Their spread about their own
mean is what is used: interval = figure + (quantiles of resampled values - their mean), 95 %.
An interval speaks about other samples of the same network against the same reference, and not
about networks trained anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from evaluation.accuracy import check_features
from evaluation.distances import checked_pair
from evaluation.frechet import FeatureStats, Moments, frechet_distance


class Resampled(NamedTuple):
    """A figure, or a difference of two, of n samples with its 95 % interval.

    bias: mean of the resampled values minus the value: about what n samples already add to it
    against infinitely many. resamples: how many were drawn.
    """

    value: float
    low: float
    high: float
    bias: float
    n: int
    resamples: int


def resample(
    figure: Callable[[Tensor], float],
    n: int,
    *,
    resamples: int = 100,
    seed: int = 0,
    half: bool = False,
) -> Resampled:
    """Interval of figure(rows), rows int64 of n samples on the CPU; figure(all rows) is its value.

    half: random halves without repetition instead of n rows with it, for figures made of nearest
    neighbours, where a row that comes twice is its own neighbour; the spread of halves about the
    mean, times sqrt(half / rest), is that of the whole set. Errors: ValueError.
    """
    _check(n, resamples)
    generator = torch.Generator().manual_seed(seed)
    size = n // 2
    found = []
    for _ in range(resamples):
        if half:
            rows = torch.randperm(n, generator=generator)[:size].sort().values
        else:
            rows = torch.randint(n, (n,), generator=generator)
        found.append(float(figure(rows)))
    scale = (size / (n - size)) ** 0.5 if half else 1.0
    return _interval(float(figure(torch.arange(n))), found, n, scale)


@torch.no_grad()
def frechet_interval(
    samples: Tensor, reference: Moments, *, resamples: int = 100, seed: int = 0
) -> Resampled:
    """Frechet distance of features [N, d] to a reference, and its bootstrap interval.

    The same rows as `resample` draws, as weights on moments: exact, without a copy of the rows.
    The work of a resample is that of one weighted covariance and its eigenvalues; O(N d^2 + d^3).
    Errors: ValueError.
    """
    weighted = _Weighted(samples, reference)
    value = frechet_distance(_moments(samples), reference)
    found = [weighted.distance(w) for w in _weights(len(samples), resamples, seed)]
    interval = _interval(value, found, len(samples))
    return interval._replace(low=max(interval.low, 0.0))


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
    first, second = _Weighted(a, reference), _Weighted(b, reference)
    value = frechet_distance(_moments(a), reference) - frechet_distance(_moments(b), reference)
    weights = _weights(len(a), resamples, seed)
    found = [first.distance(w) - second.distance(w) for w in weights]
    return _interval(value, found, len(a))


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


def _moments(samples: Tensor) -> Moments:
    stats = FeatureStats(samples.shape[1], samples.device)
    stats.update(samples)
    return stats.moments()


def _check(n: int, resamples: int) -> None:
    if n < 2 or resamples < 20:
        raise ValueError(f"{resamples} resamples of {n} samples: at least 20, of at least 2")


def _weights(n: int, resamples: int, seed: int) -> list[Tensor]:
    _check(n, resamples)
    generator = torch.Generator().manual_seed(seed)
    draws = (torch.randint(n, (n,), generator=generator) for _ in range(resamples))
    return [torch.bincount(rows, minlength=n) for rows in draws]


def _interval(value: float, found: list[float], n: int, scale: float = 1.0) -> Resampled:
    x = torch.tensor(found, dtype=torch.float64)
    mean = x.mean()
    low, high = (value + scale * (x - mean).quantile(q).item() for q in (0.025, 0.975))
    return Resampled(value, low, high, float(mean) - value, n, len(found))
