"""Random numbers that depend on a key alone, and colours."""

import hashlib
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

Colour = tuple[float, float, float]  # red, green, blue in [0, 1]
Item = TypeVar("Item")
_POOL = 512  # numbers drawn at a time


class Draw:
    """A stream of uniform numbers: the same for the same key on every machine."""

    def __init__(self, *key: object) -> None:
        digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=16).digest()
        # The raw bits: numpy keeps those for ever, and not what a Generator makes of them.
        self.bits = np.random.PCG64(int.from_bytes(digest, "little"))
        self.pool: list[float] = []
        self.at = _POOL

    def block(self, count: int) -> np.ndarray:
        """`count` uniform numbers in [0, 1), float64."""
        return (self.bits.random_raw(count) >> np.uint64(11)) * 2.0**-53

    def __call__(self, low: float = 0.0, high: float = 1.0) -> float:
        """A number in [low, high)."""
        at = self.at
        if at == _POOL:
            self.pool, at = self.block(_POOL).tolist(), 0
        self.at = at + 1
        return low + (high - low) * self.pool[at]

    def chance(self, probability: float) -> bool:
        """True with a probability."""
        return self() < probability

    def integer(self, low: int, high: int) -> int:
        """An integer in [low, high]."""
        return low + int(self() * (high - low + 1))

    def pick(self, items: Sequence[Item]) -> Item:
        """One of the items, all equally likely."""
        return items[int(self() * len(items))]

    def colour(self, base: Colour, spread: float = 0.05) -> Colour:
        """`base` with a common change of brightness and a smaller one per channel."""
        at = self.at
        if at + 4 > _POOL:
            self.pool, at = self.block(_POOL).tolist(), 0
        bright, red, green, blue = self.pool[at : at + 4]
        self.at = at + 4
        scale = 1.0 + (bright * 3.2 - 1.6) * spread
        return (
            min(max(base[0] * scale + (red - 0.5) * spread, 0.0), 1.0),
            min(max(base[1] * scale + (green - 0.5) * spread, 0.0), 1.0),
            min(max(base[2] * scale + (blue - 0.5) * spread, 0.0), 1.0),
        )


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """`a` where share is 0, `b` where it is 1."""
    return (
        a[0] + (b[0] - a[0]) * share,
        a[1] + (b[1] - a[1]) * share,
        a[2] + (b[2] - a[2]) * share,
    )


# Colours that more than one kind of thing takes.
LEAVES = ((0.20, 0.38, 0.12), (0.27, 0.45, 0.15), (0.16, 0.33, 0.15), (0.38, 0.45, 0.15))
AUTUMN = ((0.72, 0.42, 0.12), (0.62, 0.26, 0.10), (0.70, 0.56, 0.16), (0.30, 0.42, 0.14))
PAINTS = (
    (0.75, 0.10, 0.10),
    (0.90, 0.90, 0.90),
    (0.12, 0.14, 0.18),
    (0.12, 0.28, 0.62),
    (0.92, 0.70, 0.12),
    (0.60, 0.64, 0.68),
    (0.14, 0.42, 0.28),
    (0.90, 0.42, 0.10),
)
