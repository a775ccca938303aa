"""95 % intervals: of a mean, of a share, of the difference of two methods on the same images or
seeds. Those of what lies in [0, 1] stay there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

_POINTS = 400  # of Simpson's rule
NORMAL_95 = 1.959963984540054  # inside of which 95 % of a normal distribution lie


class Interval(NamedTuple):
    """A mean of n values, or a share of n trials, and its 95 % interval."""

    mean: float
    low: float
    high: float
    n: int


class Spread(NamedTuple):
    """Mean and standard deviation (divided by n) of n values: how they lie, no interval."""

    mean: float
    std: float
    n: int


class Paired(NamedTuple):
    """First method minus second over n pairs, with 95 % interval and two-sided p-value.

    method: how interval and p were made.
    """

    difference: float
    low: float
    high: float
    p: float
    n: int
    method: str

    def __str__(self) -> str:
        d, low, high = (f"{x:+.4f}" for x in self[:3])
        return f"{d} [{low}, {high}], p = {self.p:.2g}, n = {self.n} ({self.method})"


def t_inside(t: float, df: int) -> float:
    """Probability that |T| <= t, for Student's t with df degrees of freedom.

    With T = sqrt(df) tan(a) the density becomes c cos(a)^(df - 1) on [0, pi/2]: smooth and bounded.
    """
    if df < 1:
        raise ValueError(f"Student's t with {df} degrees of freedom: at least 1 is needed")
    end = math.atan(t / math.sqrt(df))
    c = 2 * math.exp(math.lgamma((df + 1) / 2) - math.lgamma(df / 2)) / math.sqrt(math.pi)
    h = end / _POINTS
    total = 0.0
    for i in range(_POINTS + 1):
        weight = 1 if i in (0, _POINTS) else 4 if i % 2 else 2
        total += weight * math.cos(i * h) ** (df - 1)
    return min(1.0, c * total * h / 3)


def t_outside(t: float, df: int) -> float:
    """Probability that |T| > |t|: `1 - t_inside`, with all its digits where it is tiny.

    Gauss-Legendre quadrature of the same density, 64 points on either side of |t|.
    """
    edge = math.atan(abs(t) / math.sqrt(df))
    nodes, weights = np.polynomial.legendre.leggauss(64)

    def area(low: float, high: float) -> float:
        at = low + (high - low) * (nodes + 1) / 2
        return float((np.cos(at) ** (df - 1) * weights).sum() * (high - low) / 2)

    tail = area(edge, math.pi / 2)
    return tail / (area(0.0, edge) + tail)


def t_quantile(df: int, inside: float = 0.95) -> float:
    """t such that |T| <= t with probability `inside`."""
    low, high = 0.0, 1.0
    while t_inside(high, df) < inside:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if t_inside(middle, df) < inside else (low, middle)
    return (low + high) / 2


def _values(values: Sequence[float] | Tensor, what: str) -> list[float]:
    out = [float(v) for v in (values.tolist() if isinstance(values, Tensor) else values)]
    if len(out) < 2:
        raise ValueError(f"{what}: {len(out)} values, an interval needs at least 2")
    if not all(map(math.isfinite, out)):
        raise ValueError(f"{what}: not all values are finite")
    return out


def spread(values: Sequence[float] | Tensor) -> Spread:
    """Mean and standard deviation of at least one value. Errors: ValueError (none, not finite)."""
    x = torch.as_tensor(values, dtype=torch.float64)
    if x.dim() != 1 or not len(x) or not x.isfinite().all():
        raise ValueError(f"values {list(x.shape)}: a spread needs finite ones, at least 1")
    return Spread(float(x.mean()), float(x.std(correction=0)), len(x))


def mean_interval(values: Sequence[float] | Tensor) -> Interval:
    """Mean of independent values and its interval by Student's t with n - 1 degrees of freedom.

    Errors: ValueError (below 2, not finite).
    """
    x = _values(values, "values")
    mean, error = _mean_error(x)
    half = t_quantile(len(x) - 1) * error
    return Interval(mean, mean - half, mean + half, len(x))


def proportion_interval(hits: int, n: int) -> Interval:
    """hits / n of n independent trials, and Wilson's interval (1927, doi:10.2307/2276774).

    It stays within [0, 1] and has a width also where none or all are hits. Of pictures, it speaks
    about other pictures, with this network. Errors: ValueError.
    """
    if not 0 <= hits <= n or n < 1:
        raise ValueError(f"{hits} of {n}: not a share")
    z = NORMAL_95**2 / n
    centre = (hits / n + z / 2) / (1 + z)
    half = math.sqrt(hits / n * (1 - hits / n) * z + z**2 / 4) / (1 + z)
    low = 0.0 if hits == 0 else max(centre - half, 0.0)  # exactly, whatever rounding says
    high = 1.0 if hits == n else min(centre + half, 1.0)
    return Interval(hits / n, low, high, n)


def mean_share_interval(values: Sequence[float] | Tensor) -> Interval:
    """Mean of independent shares in [0, 1], such as accuracies of seeds or of episodes.

    `mean_interval`, cut to [0, 1]: a mean of shares lies there too, so that nothing of what the
    interval covers is lost. Where all are 0, or all 1, t knows no spread, and Wilson's interval of
    as many trials stands in, which is never too short for values in [0, 1]. Errors: ValueError.
    """
    x = _values(values, "shares")
    if min(x) < 0 or max(x) > 1:
        raise ValueError(f"shares from {min(x)} to {max(x)}: they lie in [0, 1]")
    if max(x) == 0 or min(x) == 1:
        return proportion_interval(len(x) * round(x[0]), len(x))
    mean, low, high, n = mean_interval(x)
    return Interval(mean, max(low, 0.0), min(high, 1.0), n)


def _mean_error(x: list[float]) -> tuple[float, float]:
    mean = math.fsum(x) / len(x)
    square = math.fsum((v - mean) ** 2 for v in x)
    return mean, math.sqrt(square / (len(x) - 1) / len(x))


def paired_t(first: Sequence[float] | Tensor, second: Sequence[float] | Tensor) -> Paired:
    """Paired t-test of two methods' figures, one a seed (or one an episode), in the same order.

    It speaks about other seeds. Errors: ValueError.
    """
    a, b = _values(first, "first"), _values(second, "second")
    if len(a) != len(b):
        raise ValueError(f"{len(a)} figures against {len(b)}: they come in pairs")
    return t_test([x - y for x, y in zip(a, b, strict=True)])


def t_test(differences: Sequence[float] | Tensor) -> Paired:
    """`paired_t` of the differences of the pairs, or of log-ratios. Errors: ValueError."""
    x = _values(differences, "differences")
    mean, error = _mean_error(x)
    df = len(x) - 1
    half = t_quantile(df) * error
    if error:
        p = t_outside(mean / error, df)
    else:
        p = 0.0 if mean else 1.0
    return Paired(mean, mean - half, mean + half, p, len(x), "paired t")


def paired_images(first: Tensor, second: Tensor) -> Paired:
    """Difference of accuracies of two methods on the same images; bool [N] each, right or wrong.

    It speaks about other images, with these two trained networks, and not about other seeds. Only
    the images that one has right and the other wrong tell. p: McNemar's test, exact. Interval:
    Agresti and Min (2005, doi:10.1002/sim.1781), Wald's with half an image added to each of the
    four cells: it covers where Wald's own does not, few discordant images. Errors: ValueError.
    """
    for x in (first, second):
        if x.dim() != 1 or not x.numel() or x.is_floating_point():
            raise ValueError(f"right or wrong is bool [N], not {x.dtype} {list(x.shape)}")
    if first.shape != second.shape:
        raise ValueError(f"{len(first)} images against {len(second)}: they come in pairs")
    a, b = first.bool(), second.to(first.device).bool()
    n, only_a, only_b = len(a), int((a & ~b).sum()), int((b & ~a).sum())
    more_a, more_b, m = only_a + 0.5, only_b + 0.5, n + 2
    centre = (more_a - more_b) / m
    half = NORMAL_95 * math.sqrt(more_a + more_b - (more_a - more_b) ** 2 / m) / m
    method = "McNemar exact, Agresti-Min interval"
    low, high = max(centre - half, -1.0), min(centre + half, 1.0)
    return Paired((only_a - only_b) / n, low, high, _mcnemar(only_a, only_b), n, method)


def _mcnemar(b: int, c: int) -> float:
    """Two-sided binomial test of b against c at 1/2."""
    n, tail = b + c, min(b, c)
    log = [
        math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) - n * math.log(2)
        for i in range(tail + 1)
    ]
    return min(1.0, 2 * math.fsum(map(math.exp, log)))
