"""A sampler whose whole state is the number of samples drawn."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Sampler

from data.sources import keyed_order
from runtime.workers import read
from storage.errors import DataError, data_changed


class StepSampler(Sampler[list[Any]]):
    """Endless batches for a DataLoader (as `batch_sampler`), passes joined end to end.

    Draw number d is element d % n of the permutation of pass d // n, which depends on (seed, pass)
    alone. A batch is `batch_size` consecutive draws (global); rank r of W takes every W-th of them,
    so the number of processes and of workers changes nothing but who does the work. Batches are
    always full: the last one of a pass goes on into the next.

    A DataLoader asks ahead of use, so the position is not what was asked for: `batches(loader)`
    counts a batch when it hands it over, and that count is all `state_dict` holds.

    with_draws: elements are (image, number of the draw) instead, for data sets that make a random
    view a function of both.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
        with_draws: bool = False,
    ) -> None:
        if n < 1:
            raise DataError("an empty data set has nothing to draw")
        if batch_size < 1 or batch_size % world_size:
            raise DataError(
                f"batch size {batch_size} is not a positive multiple of {world_size} processes"
            )
        if not 0 <= rank < world_size:
            raise DataError(f"rank {rank} of {world_size} processes")
        self.n = n
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.rank = rank
        self.world_size = world_size
        self.with_draws = with_draws
        self.drawn = 0
        self._pass = -1
        self._order = np.zeros(0, np.int64)

    def index(self, draw: int) -> int:
        """The image of one draw."""
        number, position = divmod(draw, self.n)
        if not self.shuffle:
            return position
        if number != self._pass:
            self._pass, self._order = number, keyed_order(self.n, self.seed, number)
        return int(self._order[position])

    def __iter__(self) -> Iterator[list[Any]]:
        start = self.drawn
        while True:
            draws = range(start + self.rank, start + self.batch_size, self.world_size)
            yield [(self.index(d), d) if self.with_draws else self.index(d) for d in draws]
            start += self.batch_size

    def batches(self, loader: DataLoader) -> Generator[Any, None, None]:
        """The loader's batches, counted as they are handed over; closed, its workers end."""
        for batch in read(loader):
            self.drawn += self.batch_size
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Samples drawn over all processes, and what the order depends on."""
        return {"drawn": self.drawn, "n": self.n, "seed": self.seed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on after the last counted batch; another data size or seed is an error."""
        if state["n"] != self.n:
            raise data_changed(state["n"], self.n)
        if state["seed"] != self.seed:
            raise DataError(f"sampler state has seed {state['seed']}, this run has {self.seed}")
        self.drawn = int(state["drawn"])
