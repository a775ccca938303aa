"""Figures of several seed ranges, and whether one network is better than another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from evaluation.intervals import Interval, mean_interval, paired_t
from evaluation.replicates import Resampled

# About the share by which FIDs of networks differ that were trained alike, but for random numbers.
MARGIN = 0.013


class Ranges(NamedTuple):
    """A figure's values on n ranges of seeds: least, mean, most; interval of the mean from 2 on.

    Papers report the least of three; it falls with n, so it is only compared with equal n.
    """

    least: float
    mean: float
    most: float
    interval: Interval | None
    n: int

    def __str__(self) -> str:
        said = f"least {self.least:.4g}, mean {self.mean:.4g} of {self.n} seed ranges"
        if self.interval is not None:
            said += f" [{self.interval.low:.4g}, {self.interval.high:.4g}]"
        return said


def seed_ranges(values: Sequence[float]) -> Ranges:
    """Values of one figure on ranges of seeds that share none. Errors: ValueError."""
    if not values or not all(map(math.isfinite, values)):
        raise ValueError(f"values {list(values)}: finite ones, at least 1")
    interval = mean_interval(values) if len(values) > 1 else None
    return Ranges(min(values), math.fsum(values) / len(values), max(values), interval, len(values))


class Verdict(NamedTuple):
    """Figure of A minus that of B with 95 % interval, and who is better: "A", "B" or None.

    threshold: what the difference has to exceed, the larger of half the interval and of `margin`
    times the larger figure. n: pairs of seed ranges. method: where the interval is from.
    """

    difference: float
    low: float
    high: float
    threshold: float
    margin: float
    winner: str | None
    n: int
    method: str

    def __str__(self) -> str:
        said = "not distinguished" if self.winner is None else f"{self.winner} better"
        return (
            f"A - B = {self.difference:+.4g} [{self.low:+.4g}, {self.high:+.4g}] ({self.method}, "
            f"n = {self.n}); beyond {self.threshold:.3g} counts, from the interval and "
            f"{self.margin:.1%} of the figure: {said}"
        )


def compare(
    a: Sequence[float],
    b: Sequence[float],
    *,
    interval: Resampled | None = None,
    margin: float = MARGIN,
    larger_is_better: bool = False,
) -> Verdict:
    """Is A better than B? Figures of the same ranges of seeds, in the same order.

    From two ranges on the interval is that of the paired t-test. With one range each it is that of
    `interval`, made of pairs of samples (`replicates.paired`), which knows nothing of other
    trainings: that is what `margin` is for. It is a share of Frechet distances;
    give 0 for figures whose spread between trainings is not known. Errors: ValueError.
    """
    first, second = seed_ranges(a), seed_ranges(b)
    if first.n != second.n:
        raise ValueError(f"{first.n} figures against {second.n}: they come in pairs")
    if not 0 <= margin < 1:
        raise ValueError(f"margin {margin}: a share from 0 to 1")
    if first.n > 1:
        if interval is not None:
            raise ValueError("an interval beside several seed ranges: they make their own")
        difference, low, high, _, _, method = paired_t(a, b)
    elif interval is None:
        raise ValueError("one range of seeds each says nothing of the spread: give an interval")
    else:
        difference = a[0] - b[0]
        if not math.isclose(difference, interval.value, rel_tol=1e-6, abs_tol=1e-9):
            raise ValueError(f"an interval of {interval.value:.6g}, not of {difference:.6g}")
        low, high, method = interval.low, interval.high, f"{interval.method} of {interval.n} pairs"
    half = max(high - difference, difference - low)
    threshold = max(half, margin * max(abs(first.mean), abs(second.mean)))
    winner = None
    if abs(difference) > threshold:
        winner = "A" if (difference > 0) == larger_is_better else "B"
    return Verdict(difference, low, high, threshold, margin, winner, first.n, method)
