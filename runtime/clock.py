"""What a run does by the clock rather than by its steps: a save, a fresh status file."""

from __future__ import annotations

import time
from collections.abc import Callable

SHARE = 20  # a thing that takes a second is not done again within this many


class Every:
    """`due()` once `seconds` have passed since the last `restart()`; never if they are 0.

    What took long waits longer, so that at most a twentieth of the time goes into it.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self._clock = seconds, clock
        self._wait = seconds
        self._start = clock()

    def due(self) -> bool:
        """Whether it is time."""
        return self.seconds > 0 and self._clock() - self._start >= self._wait

    def restart(self, cost: float = 0.0) -> None:
        """Count from now; `cost` is how many seconds it took this time."""
        self._start, self._wait = self._clock(), max(self.seconds, SHARE * cost)
