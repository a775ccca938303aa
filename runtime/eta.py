"""The time left of training whose steps are not alike.

A loop of IMLE searches codes in its first step and looks at the result in its last; an epoch may
end in an evaluation. So steps are told apart by their place in the cycle that repeats, and the time
left is the sum over the steps to come of what steps in their places took so far.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

WINDOW = 4096  # steps whose durations are averaged, or those of four cycles if that is more
LONGEST = 10**6  # a cycle that would not pay to know: all steps count alike


class TimeLeft:
    """Learns from `done(n)` after steps, answers `seconds(n, total)`.

    cycle: steps after which kinds of steps repeat, counted from step 0.
    """

    def __init__(self, cycle: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        cycle = cycle if cycle <= LONGEST else 1
        self.cycle, self._clock = cycle, clock
        self._window = max(4, WINDOW // cycle)
        self._mean = np.full(cycle, np.nan)  # seconds of a step in each place
        self._count = np.zeros(cycle, np.int64)
        self._begun = clock()

    def done(self, n: int, count: int = 1) -> None:
        """The `count` steps before step n are over, and n begins."""
        now = self._clock()
        took, self._begun = (now - self._begun) / max(1, count), now
        for step in range(n - count, n):
            place = step % self.cycle
            self._count[place] += 1
            known = 0.0 if self._count[place] == 1 else self._mean[place]
            self._mean[place] = known + (took - known) / min(self._count[place], self._window)

    def seconds(self, n: int, total: int) -> float | None:
        """Seconds from now to the end of step total - 1, in step n; None as long as nobody knows.

        A place that was not seen yet counts as an ordinary step, the (lower) median of those seen.
        """
        seen = self._mean[self._count > 0]
        if len(seen) < min(2, self.cycle):  # the first step has a search in it, or a compilation
            return None
        ordinary = np.quantile(seen, 0.5, method="lower")
        each = np.where(self._count > 0, self._mean, ordinary)
        cycles, rest = divmod(max(0, total - n), self.cycle)
        place = n % self.cycle
        left = cycles * each.sum() + np.resize(np.roll(each, -place), rest).sum()
        spent = min(self._clock() - self._begun, each[place]) if total > n else 0.0
        return float(left - spent)
