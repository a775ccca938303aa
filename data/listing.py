"""A data set by the names of its pictures, for a run to tell whether it has changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from data.sources import Source, Subset, channels_of, is_drawn, latent, namer
from storage.errors import DataError
from storage.listing import Listing, list_digest

SAMPLED = 32  # pictures of a set that are looked at


class _Names(Sequence[str]):
    """Names of the pictures of a source, made when they are asked for."""

    def __init__(self, source: Source) -> None:
        self._count, self._name = len(source), namer(source)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, i: int) -> str:  # type: ignore[override]
        return self._name(i)

    def __iter__(self) -> Iterator[str]:
        return map(self._name, range(self._count))


def listing_of(source: Source) -> Listing | None:
    """The names of a source and of the set that it is a part of; None for drawn scenes, which are
    always the same.
    """
    if is_drawn(source):
        return None
    whole = source
    while isinstance(whole, Subset):
        whole = whole.source
    return Listing(whole.name, _Names(source), _Names(whole))


def fingerprint(source: Source) -> dict[str, Any] | None:
    """What a set is known by wherever it lies, as `runtime.inputs` compares it; None for drawn
    scenes.

    Its name, the number and a digest of the names of its pictures, and of SAMPLED of them, evenly
    spaced, how they look: sets whose files are called 0.png, 1.png ... are told apart by this
    alone.
    """
    listing = listing_of(source)
    if listing is None:
        return None
    picks = sorted({i * len(source) // SAMPLED for i in range(SAMPLED)} & set(range(len(source))))
    return {
        "name": listing.name,
        "pictures": len(listing.used),
        "digest": list_digest(listing.used),
        "sample": " ".join(_look(source, i) for i in picks),
    }


def _look(source: Source, i: int) -> str:
    """`HxW:HEX`, a picture's size and means: of its four quarters, and of 4x4 pixels in each.

    Coarse on purpose: decoders differ in the last bit, and a lossless copy is the same picture.
    """
    try:
        if channels_of(source) == 3:
            image = source.image(i)
        else:
            image = np.clip(latent(source, i)[:3].transpose(1, 2, 0) * 16 + 128, 0, 255)
    except DataError:
        return "unreadable"
    h, w = image.shape[:2]
    means = []
    for rows in (slice(0, (h + 1) // 2), slice(h // 2, h)):
        for columns in (slice(0, (w + 1) // 2), slice(w // 2, w)):
            quarter = image[rows, columns]
            y, x = (max(0, side // 2 - 2) for side in quarter.shape[:2])
            for part in (quarter, quarter[y : y + 4, x : x + 4]):
                means += [int(v) for v in part.mean((0, 1), dtype=np.float64).round()]
    return f"{h}x{w}:{bytes(means).hex()}"
