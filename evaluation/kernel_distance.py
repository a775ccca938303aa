"""Kernel distance (KID): squared maximum mean discrepancy with a polynomial kernel.

k(x, y) = (gamma x.y + coef0)^degree, gamma = 1 / d unless given (Binkowski et al. 2018,
arXiv:1801.01401, section 4). The estimate is unbiased, and so may be a little below 0. Features are
[N, d] in the order of their samples: subsets and blocks are chosen by row number.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from evaluation.distances import blocks, checked_pair
from evaluation.intervals import Spread, spread
from evaluation.replicates import Replicates, groups_of
from runtime.counter_rng import permutation

_REFERENCE = 10_000  # rows of it that `kid_groups` looks at


class _Kernel(NamedTuple):
    degree: int
    gamma: float
    coef0: float

    def __call__(self, dots: Tensor) -> Tensor:
        return dots.mul(self.gamma).add_(self.coef0).pow_(self.degree)


def _kernel(features: Tensor, degree: int, gamma: float | None, coef0: float) -> _Kernel:
    if degree < 1:
        raise ValueError(f"degree {degree} of the kernel: at least 1")
    return _Kernel(degree, 1 / features.shape[1] if gamma is None else gamma, coef0)


def _within(x: Tensor, kernel: _Kernel) -> float:
    """Mean of k over pairs of different rows."""
    total = x.new_zeros(())
    for rows in blocks(len(x), len(x)):
        total += kernel(x[rows] @ x.T).sum()
    total -= kernel(x.square().sum(1)).sum()
    return float(total) / (len(x) * (len(x) - 1))


def _between(x: Tensor, y: Tensor, kernel: _Kernel) -> float:
    total = x.new_zeros(())
    for rows in blocks(len(x), len(y)):
        total += kernel(x[rows] @ y.T).sum()
    return float(total) / (len(x) * len(y))


def _mmd2(x: Tensor, y: Tensor, kernel: _Kernel) -> float:
    x, y = x.double(), y.double()
    return _within(x, kernel) + _within(y, kernel) - 2 * _between(x, y, kernel)


def _checked(samples: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    pair = checked_pair(samples, reference, ("samples", "reference"))
    if min(map(len, pair)) < 2:
        raise ValueError(
            f"{len(samples)} samples and {len(reference)} of the reference: 2 at least"
        )
    return pair


def kid(
    samples: Tensor,
    reference: Tensor,
    *,
    degree: int = 3,
    gamma: float | None = None,
    coef0: float = 1.0,
) -> float:
    """The unbiased estimate from all pairs of rows [N, d] and [M, d]; N and M may differ.

    O((N + M)^2 d). Errors: ValueError.
    """
    x, y = _checked(samples, reference)
    return _mmd2(x, y, _kernel(x, degree, gamma, coef0))


def kid_subsets(
    samples: Tensor,
    reference: Tensor,
    *,
    subsets: int = 100,
    subset_size: int = 1000,
    degree: int = 3,
    gamma: float | None = None,
    coef0: float = 1.0,
    seed: int = 2020,
) -> Spread:
    """The usual figure: mean and spread over random subsets of equal size.

    The draws are those of torch-fidelity with the same seed. Subsets overlap, so the spread is
    that of subsets of this size and no interval of the mean: that is `kid_groups` or `kid_blocks`.
    Errors: ValueError, also for fewer rows than a subset has.
    """
    x, y = _checked(samples, reference)
    if not 2 <= subset_size <= min(len(x), len(y)) or subsets < 1:
        raise ValueError(
            f"{subsets} subsets of {subset_size} rows, of {len(x)} samples and {len(y)} of the "
            "reference: there are too few"
        )
    kernel = _kernel(x, degree, gamma, coef0)
    draws = np.random.RandomState(seed)
    found = []
    for _ in range(subsets):
        pick = [draws.choice(len(rows), subset_size, replace=False) for rows in (x, y)]
        parts = [rows[torch.from_numpy(p)] for rows, p in zip((x, y), pick, strict=True)]
        found.append(_mmd2(parts[0], parts[1], kernel))
    return spread(found)


def kid_blocks(
    samples: Tensor,
    reference: Tensor,
    *,
    block: int = 1000,
    degree: int = 3,
    gamma: float | None = None,
    coef0: float = 1.0,
    seed: int = 0,
) -> Replicates:
    """The estimate of each block of rows that no other block has.

    The blocks share no row of either set, so their estimates are independent and Student's t holds
    for their mean (the block estimate of Zaremba et al. 2013, arXiv:1307.1954), and is somewhat too
    wide for the estimate from all pairs. Rows are shuffled first by `seed`: a folder may be sorted
    by class. Errors: ValueError, also for fewer than two blocks.
    """
    x, y = _checked(samples, reference)
    count = min(len(x), len(y)) // block if block >= 2 else 0
    if count < 2:
        raise ValueError(
            f"blocks of {block} rows, of {len(x)} samples and {len(y)} of the reference: there are "
            "no two"
        )
    kernel = _kernel(x, degree, gamma, coef0)
    shuffled = (x[permutation(len(x), seed, 1)], y[permutation(len(y), seed, 2)])
    pairs = zip(*(rows.split(block)[:count] for rows in shuffled), strict=True)
    found = [_mmd2(a, b, kernel) for a, b in pairs]
    return Replicates("means", torch.tensor(found, dtype=torch.float64))


def kid_groups(
    samples: Tensor,
    reference: Tensor,
    *,
    degree: int = 3,
    gamma: float | None = None,
    coef0: float = 1.0,
    seed: int = 0,
) -> Replicates:
    """The estimate from all pairs without each group of the samples in turn, k <= 20 groups.

    Left out is the mean over pairs of the reference: it is the same in all, so that the interval
    does not depend on it. The groups are sums over blocks of one matrix of kernels, which costs
    what `kid` does. Of more than 10,000 rows the reference is drawn, by `seed`.
    Errors: ValueError, also for fewer than 3 samples, of which none can be left out.
    """
    x, y = (rows.double() for rows in _checked(samples, reference))
    if len(x) < 3:
        raise ValueError(f"{len(x)} samples: at least 3, for one to be left out")
    kernel = _kernel(x, degree, gamma, coef0)
    if len(y) > _REFERENCE:
        y = y[permutation(len(y), seed, 2)[:_REFERENCE]]
    group = groups_of(len(x)).to(x.device)
    counts = torch.bincount(group).double()
    k = len(counts)
    within, between = x.new_zeros(k, k), x.new_zeros(k)
    for rows in blocks(len(x), max(len(x), len(y))):
        columns = x.new_zeros(len(x[rows]), k).index_add_(1, group, kernel(x[rows] @ x.T))
        within.index_add_(0, group[rows], columns)
        between.index_add_(0, group[rows], kernel(x[rows] @ y.T).sum(1))
    alone = x.new_zeros(k).index_add_(0, group, kernel(x.square().sum(1)))
    left = len(x) - counts
    pairs = within.sum() - 2 * within.sum(1) + within.diagonal() - (alone.sum() - alone)
    values = pairs / (left * (left - 1)) - 2 * (between.sum() - between) / (left * len(y))
    return Replicates("jackknife", values.cpu())
