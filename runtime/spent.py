"""What a step's time went to beside training: told apart in the log, a second at a time.

batches = run.spent.waits(loader)           # time/data_s: until each was there
@run.spent.on("validation")                 # time/validation_s: a function, or `with`
def look(): ...
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Batch = TypeVar("Batch")


class Spent:
    """Seconds of this process by what they went to, since the last line of figures.

    The clock of the host: of work on a GPU what the host waited for, as it does for a batch and for
    figures.
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    def add(self, what: str, seconds: float) -> None:
        """Add some; less than 0 for what is told elsewhere and was in an earlier addition."""
        self._seconds[what] = self._seconds.get(what, 0.0) + seconds

    @contextlib.contextmanager
    def on(self, what: str) -> Iterator[None]:
        """The time inside; also a decorator of a function."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self.add(what, time.monotonic() - begun)

    def waits(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The same batches; until each is there is "data"."""
        waiting = iter(batches)
        while True:
            with self.on("data"):
                try:
                    batch = next(waiting)
                except StopIteration:
                    return
            yield batch

    def pop(self, steps: int) -> dict[str, float]:
        """{"time/data_s": seconds a step of that many, ...}; starts anew."""
        found = {f"time/{what}_s": max(0.0, s) / steps for what, s in self._seconds.items()}
        self._seconds = {}
        return found
