"""KorKMinusOne: every index is used k or k - 1 times."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from runtime.counter_rng import permutation
from storage.errors import data_changed

_TAG = 0x6B6B6D  # "kkm": keeps these permutations apart from every other use of the same seed


class KorKMinusOne:
    """Hands out indices so that the use counts of any two never differ by more than one.

    Every block of `len(idxs)` consecutive pops, counted from the start, is a permutation of `idxs`.
    With `shuffle` the permutation of pass p is a function of (seed, p), so the whole state is the
    pass and the position in it; no global generator is touched.

    idxs: what to hand out (usually `range(len(dataset))`), at least one entry.
    shuffle: a fresh order each pass; False hands them out in the order given.
    shuffle_first: False leaves the first pass in the order given even with `shuffle`, as the
        CIMLE refactoring has it.
    """

    def __init__(
        self,
        idxs: Iterable[int],
        shuffle: bool = False,
        *,
        seed: int = 0,
        shuffle_first: bool = True,
    ) -> None:
        self.idxs = list(idxs)
        if not self.idxs:
            raise ValueError("KorKMinusOne needs at least one index, got none")
        self.shuffle = bool(shuffle)
        self.shuffle_first = bool(shuffle_first)
        self.seed = int(seed)
        self.counter = 0  # position in the pass
        self.passes = 0  # complete passes behind us
        self._order: list[int] | None = None
        self._fingerprint: str | None = None

    def __len__(self) -> int:
        return len(self.idxs)

    def pop(self) -> int:
        """The next index; a new pass begins when all have been handed out."""
        if self.counter == len(self.idxs):
            self.counter = 0
            self.passes += 1
            self._order = None
        if self._order is None:
            self._order = self._order_of(self.passes)
        result = self.idxs[self._order[self.counter]]
        self.counter += 1
        return result

    def pop_many(self, n: int) -> list[int]:
        """The next n indices, n >= 0; an index repeats when they cross the end of a pass."""
        if n < 0:
            raise ValueError(f"cannot pop {n} indices, n must be >= 0")
        return [self.pop() for _ in range(n)]

    def _order_of(self, passes: int) -> list[int]:
        if not self.shuffle or (passes == 0 and not self.shuffle_first):
            return list(range(len(self.idxs)))
        return permutation(len(self.idxs), _TAG, self.seed, passes).tolist()

    def _digest(self) -> str:
        if self._fingerprint is None:  # a second for a million indices
            text = ",".join(map(str, self.idxs))
            self._fingerprint = hashlib.sha256(text.encode()).hexdigest()
        return self._fingerprint

    def state_dict(self) -> dict[str, Any]:
        """Small, plain state: the order itself is a function of it and of `idxs`."""
        return {
            "counter": self.counter,
            "passes": self.passes,
            "seed": self.seed,
            "shuffle": self.shuffle,
            "shuffle_first": self.shuffle_first,
            "length": len(self.idxs),
            "digest": self._digest(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the saved sequence. ValueError when it was saved for other indices, which is a
        DataError where they are more or fewer.
        """
        if state["length"] != len(self.idxs):
            raise data_changed(state["length"], len(self.idxs))
        if state["digest"] != self._digest():
            raise ValueError(
                f"the KorKMinusOne state was saved for {state['length']} other indices; use the "
                "same data set and split"
            )
        if not 0 <= state["counter"] <= len(self.idxs) or state["passes"] < 0:
            raise ValueError(
                f"the KorKMinusOne state is damaged: position {state['counter']} of "
                f"{len(self.idxs)} in pass {state['passes']}"
            )
        self.counter, self.passes = int(state["counter"]), int(state["passes"])
        self.seed = int(state["seed"])
        self.shuffle, self.shuffle_first = bool(state["shuffle"]), bool(state["shuffle_first"])
        self._order = None
