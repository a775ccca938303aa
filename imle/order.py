"""Which images of a subsample each training batch of an outer loop consists of."""

from __future__ import annotations

from collections.abc import Sequence

from runtime.counter_rng import permutation

_TAG_ORDER = 0x6F72646572  # "order"


class StreamOrder:
    """Passes over a subsample, one after the other, cut into full batches.

    shuffle: a fresh order each pass, a function of (seed, loop, pass); else the order popped.
    drop_last: drop what is left of each pass, instead of letting a batch reach into the next one
        (unless the subsample is smaller than a batch: then it reaches all the same).
    batch_size: images of a batch, all ranks together.
    """

    def __init__(
        self, subsample_size: int, batch_size: int, *, shuffle: bool, drop_last: bool, seed: int
    ) -> None:
        self.subsample_size, self.batch_size = subsample_size, batch_size
        self.shuffle, self.drop_last, self.seed = shuffle, drop_last, seed
        self._last: tuple[tuple[int, int], list[int]] | None = None

    def positions(self, loop: int, batch: int) -> list[int]:
        """Positions in the subsample that batch `batch` of `loop` consists of, over all ranks."""
        size, bs = self.subsample_size, self.batch_size
        if self.drop_last and size >= bs:
            passes, index = divmod(batch, size // bs)
            first = passes * size + index * bs
        else:
            first = batch * bs
        result: list[int] = []
        while len(result) < bs:
            passes, offset = divmod(first + len(result), size)
            result += self._pass(loop, passes)[offset : offset + bs - len(result)]
        return result

    def _pass(self, loop: int, passes: int) -> Sequence[int]:
        """Order of a pass over the subsample."""
        if not self.shuffle:
            return range(self.subsample_size)
        key = (loop, passes)
        if self._last is None or self._last[0] != key:
            order = permutation(self.subsample_size, _TAG_ORDER, self.seed, *key).tolist()
            self._last = (key, order)
        return self._last[1]
