"""Feature likelihood divergence (FLD): do held-out images lie near samples, and no less so than
those trained on?

Jiralerspong et al. 2023 (arXiv:2302.04440): a mixture of isotropic Gaussians, one at the features
of each sample, its variances those under which the training set is likeliest. A sample that copies
a training image gets a tiny variance and serves held-out images badly.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from evaluation.distances import blocks, checked_pair, squared_distances
from evaluation.replicates import Replicates, groups_of
from runtime.counter_rng import permutation

# Of the paper's code release, so that figures compare with published ones.
_PASSES = 50
_LR = 0.5
_BATCH = 10000
_TOWARDS = 0.9  # the floor's distances are those to the mean of the training set, times this
_LOG_VAR = (-40.0, 20.0)
_KEPT = 1 << 30  # distances that are kept over passes instead of made anew, float32: 4 GiB
_SAMPLES, _TRAIN, _HALVES = 1, 2, 3  # keep the uses of one seed apart


class FLD(NamedTuple):
    """fld: 100 (nll_test - nll_baseline); lower is better, a perfect generator is near 0.

    gap: 100 (nll_train - nll_test); far below 0: the samples are nearer to the training set than to
    held-out images. nll_*: negative log-likelihoods a dimension under the mixture at the samples;
    nll_baseline: of the test set with one half of the training set as the samples, fitted to the
    other half. centres: how many samples had a Gaussian.
    """

    fld: float
    gap: float
    nll_train: float
    nll_test: float
    nll_baseline: float
    centres: int


def fld(samples: Tensor, train: Tensor, test: Tensor, *, seed: int = 0, most: int = 10000) -> FLD:
    """FLD of features [N, d] against those of the training set and of held-out images.

    Features are first made of mean 0 and variance 1 over the test set, column by column (a column
    that is constant there only loses its mean). Of more than `most` samples as many are chosen by
    `seed`. Compare equal `most` only. Errors: ValueError.
    """
    return fld_replicates(samples, train, test, seed=seed, most=most)[0]


@torch.no_grad()
def fld_replicates(
    samples: Tensor, train: Tensor, test: Tensor, *, seed: int = 0, most: int = 10000
) -> tuple[FLD, dict[str, Replicates]]:
    """`fld`, and fld and gap without each group of samples in turn, by name.

    The Gaussians that are left keep their variances, which is what makes it cheap: fitting them
    again would change what a training picture has by little, since they were the best for all.
    Errors: ValueError.
    """
    train, test = checked_pair(train, test, ("train", "test"))
    train, samples = checked_pair(train, samples, ("train", "samples"))
    if len(train) < 4 or len(test) < 2:
        raise ValueError(f"{len(train)} of train and {len(test)} of test: 4 and 2 at least")
    mean, std = test.double().mean(0), test.double().std(0)
    std = torch.where(std > 0, std, 1)
    x, train, test = ((part.double() - mean) / std for part in (samples, train, test))
    if len(x) > most:
        x = x[permutation(len(x), seed, _SAMPLES)[:most]]
    fitted = Mixture(x)
    fitted.fit(train[permutation(len(train), seed, _TRAIN)])
    group = groups_of(len(x)).to(x.device)
    (nll_train, trains), (nll_test, tests) = (fitted.nlls(rows, group) for rows in (train, test))
    halves = train[permutation(len(train), seed, _HALVES)]
    size = min(len(x), len(train) // 2)
    ideal = Mixture(halves[:size])
    ideal.fit(halves[size:])
    base = ideal.nll(test)
    found = FLD(
        100 * (nll_test - base), 100 * (nll_train - nll_test), nll_train, nll_test, base, len(x)
    )
    without = {"fld": 100 * (tests - base), "gap": 100 * (trains - tests)}
    return found, {name: Replicates("jackknife", x.cpu()) for name, x in without.items()}


class Mixture:
    """Equal parts of isotropic Gaussians at `centres` [m, d], float64; `log_var` [m] is fitted."""

    def __init__(self, centres: Tensor) -> None:
        self.centres = centres
        self.log_var = centres.new_zeros(len(centres))

    def _log(self, squares: Tensor, log_var: Tensor) -> Tensor:
        """log N(x_i; centre_j, var_j) from squared distances."""
        d = self.centres.shape[1]
        whole = squares / log_var.exp() + d * (log_var + math.log(2 * math.pi))
        return whole.mul_(-0.5)

    def nll(self, x: Tensor) -> float:
        """Mean of -log p(x_i) / d."""
        return self.nlls(x, torch.zeros(len(self.centres), dtype=torch.int64, device=x.device))[0]

    def nlls(self, x: Tensor, group: Tensor) -> tuple[float, Tensor]:
        """Mean of -log p(x_i) / d, and the same without the centres of each group, [groups].

        group: of every centre, int64 [m].
        """
        sizes = torch.bincount(group)
        total, without = x.new_zeros(()), x.new_zeros(len(sizes))
        order = group.argsort(stable=True)
        left = (len(group) - sizes).double().log()
        for rows in blocks(len(x), len(self.centres)):
            parts = self._log(squared_distances(x[rows], self.centres), self.log_var)
            own = parts[:, order].split(sizes.tolist(), 1)
            logs = torch.stack([part.logsumexp(1) for part in own], 1)
            total -= logs.logsumexp(1).sum() - len(logs) * math.log(len(self.centres))
            for g in range(len(sizes) if len(sizes) > 1 else 0):
                rest = torch.cat((logs[:, :g], logs[:, g + 1 :]), 1)
                without[g] -= (rest.logsumexp(1) - left[g]).sum()
        return float(total) / x.numel(), without / x.numel()

    def fit(self, x: Tensor) -> None:
        """Variances of the least -log p(x) of rows [n, d], by 50 passes of Adam.

        They start as what suits the nearest row. While fitting the mixture has a floor, one more
        Gaussian near the mean of x, so that no row that is far from every centre rules alone.
        """
        d = x.shape[1]
        floor_squares = (x - x.mean(0)).square().sum(1) * _TOWARDS**2
        kept: list[tuple[slice, Tensor]] | None = None
        if len(x) * len(self.centres) <= _KEPT:
            kept = [(rows, squares.float()) for rows, squares in self._distances(x)]
        nearest = torch.full_like(self.log_var, math.inf)
        for _, squares in kept or self._distances(x):
            nearest = torch.minimum(nearest, squares.amin(0))
        self.log_var = ((nearest + 1e-3) / d).log()
        floor = self.log_var.new_zeros(())
        adam = torch.optim.Adam([self.log_var, floor], lr=_LR)
        for _ in range(_PASSES):
            slope, floor_slope, seen = torch.zeros_like(self.log_var), torch.zeros_like(floor), 0
            for rows, squares in kept or self._distances(x):
                near, far = self._slopes(squares.double(), floor_squares[rows], floor)
                slope, floor_slope = slope + near, floor_slope + far
                seen += rows.stop - rows.start
                if rows.stop % _BATCH and rows.stop < len(x):
                    continue
                self.log_var.grad, floor.grad = slope / (seen * d), floor_slope / (seen * d)
                adam.step()
                self.log_var.clamp_(*_LOG_VAR)
                slope, floor_slope, seen = torch.zeros_like(slope), torch.zeros_like(floor), 0

    def _slopes(
        self, squares: Tensor, floor_squares: Tensor, floor: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Sums over rows of d(-log p) / d(log variance): of every centre [m], and of the floor.

        With r_ij the share of centre j in row i: r_ij (d - squares_ij / var_j) / 2.
        """
        d = self.centres.shape[1]
        parts = self._log(squares, self.log_var).sub_(math.log(len(self.centres)))
        base = self._log(floor_squares, floor)
        whole = torch.logaddexp(parts.logsumexp(1), base)
        shares = parts.sub_(whole[:, None]).exp_()
        near = (shares * (d - squares / self.log_var.exp())).sum(0) / 2
        far = ((base - whole).exp() * (d - floor_squares / floor.exp())).sum() / 2
        return near, far

    def _distances(self, x: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Blocks of squared distances; none reaches over the end of a batch."""
        for start in range(0, len(x), _BATCH):
            batch = x[start : start + _BATCH]
            for rows in blocks(len(batch), len(self.centres)):
                squares = squared_distances(batch[rows], self.centres)
                yield slice(rows.start + start, rows.stop + start), squares
