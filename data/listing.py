"""A data set by the names of its pictures, for a run to tell whether it has changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from data.sources import Source, Subset, is_drawn, namer
from storage.listing import Listing


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
