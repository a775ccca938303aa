"""Replicates of a figure: values of it on parts of its samples, from which its interval follows.

They are made of the same rows whenever there are as many samples, so that those of two networks
whose samples come in pairs (of the same seeds, or inputs) may be subtracted one by one: what pairs
have in common cancels (`paired`).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from evaluation.intervals import mean_interval, paired_images, proportion_interval, t_quantile
from runtime.counter_rng import permutation

GROUPS = 20
_GROUPS = 16  # the key of who is in which group
METHODS = ("bootstrap", "jackknife", "means", "shares")


class Replicates(NamedTuple):
    """method, and values float64 [k] on the CPU.

    bootstrap: the figure on n rows drawn with repetition, k times. jackknife: on all rows but those
    of one of k groups, each in turn. means: k independent values whose mean estimates the figure,
    those of rows or of blocks that share no row. shares: of each row, 0 or 1.
    """

    method: str
    values: Tensor


class Resampled(NamedTuple):
    """A figure, or a difference of two, of n samples with its 95 % interval.

    bias: mean of the replicates minus the value: of a bootstrap about what n samples already add to
    it against infinitely many. resamples: how many replicates. method: of `Replicates`.
    """

    value: float
    low: float
    high: float
    bias: float
    n: int
    resamples: int
    method: str = "bootstrap"


def interval(value: float, replicates: Replicates, n: int) -> Resampled:
    """The 95 % interval of a figure of n samples.

    bootstrap: value + (quantiles of the replicates - their mean): a figure such as a Frechet
    distance has a bias that depends on how many different rows there are, so its replicates lie
    around another middle than it does. jackknife: value -+ t sqrt((k - 1) / k sum of squares about
    their mean), t of k - 1 degrees of freedom (Efron and Stein 1981; of groups, Shao and Wu 1989).
    means: Student's t. shares: Wilson's. Errors: ValueError.
    """
    method, x = replicates.method, replicates.values.double()
    if method not in METHODS or x.dim() != 1 or len(x) < 2 or not x.isfinite().all():
        raise ValueError(f"replicates {method} {list(x.shape)}: finite ones, at least 2")
    k, mean = len(x), float(x.mean())
    if method == "shares":
        share = proportion_interval(round(float(x.sum())), k)
        return Resampled(value, share.low, share.high, 0.0, n, k, method)
    if method == "bootstrap":
        low, high = (value + (x - mean).quantile(q).item() for q in (0.025, 0.975))
    else:
        if method == "means":
            spread = mean_interval(x)
            half = spread.high - spread.mean
        else:
            half = t_quantile(k - 1) * math.sqrt((k - 1) / k * float((x - mean).square().sum()))
        low, high = value - half, value + half
    return Resampled(value, low, high, mean - value, n, k, method)


def paired(a: tuple[float, Replicates], b: tuple[float, Replicates], n: int) -> Resampled:
    """The interval of the difference of two figures of n samples each, value and replicates, whose
    replicates are of the same rows. Of shares the one of `paired_images`.

    Errors: ValueError for replicates that are not of one kind and number.
    """
    (one, first), (other, second) = a, b
    if first.method != second.method or len(first.values) != len(second.values):
        raise ValueError(
            f"{len(first.values)} replicates by {first.method} against {len(second.values)} by "
            f"{second.method}: they come in pairs"
        )
    if first.method == "shares":
        found = paired_images(first.values > 0.5, second.values > 0.5)
        return Resampled(one - other, found.low, found.high, 0.0, n, found.n, first.method)
    apart = Replicates(first.method, first.values.double() - second.values.double())
    return interval(one - other, apart, n)


def weights(n: int, resamples: int, seed: int = 0) -> list[Tensor]:
    """How often each of n rows is there in each draw of a bootstrap: int64 [n] each.

    Errors: ValueError.
    """
    if n < 2 or resamples < 20:
        raise ValueError(f"{resamples} resamples of {n} samples: at least 20, of at least 2")
    generator = torch.Generator().manual_seed(seed)
    draws = (torch.randint(n, (n,), generator=generator) for _ in range(resamples))
    return [torch.bincount(rows, minlength=n) for rows in draws]


def groups_of(n: int) -> Tensor:
    """The group of each of n rows, int64 [n], numbers from 0: min(GROUPS, n) groups that are alike
    in size, drawn, since a set may be sorted by class and seeds may count classes."""
    group = torch.empty(n, dtype=torch.int64)
    group[permutation(n, _GROUPS)] = torch.arange(n) % min(GROUPS, n)
    return group
