"""How large the pictures of a source are, judged by a few."""

from __future__ import annotations

import statistics

from data.sources import Source, is_drawn
from storage.errors import DataError

_LOOKED_AT = 32


def shorter_side(source: Source) -> int | None:
    """Median of the pictures' shorter sides, over at most 32 of them, evenly spaced.

    None for a source that draws its pictures at any size. DataError where none of these can be
    read.
    """
    if is_drawn(source):
        return None
    count = min(_LOOKED_AT, len(source))
    sides = []
    for i in range(count):
        try:
            sides.append(min(source.image(i * len(source) // count).shape[:2]))
        except DataError:
            continue  # a bad picture is told of when it is used
    if not sides:
        raise DataError(f"none of {count} pictures looked at in {source.name} can be read")
    return int(statistics.median_low(sides))
