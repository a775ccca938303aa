"""What a data set is to the rest of the toolkit: numbered pictures with labels and paths."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

import numpy as np

from data.formats import is_image_name as is_image_name  # where readers look for it
from storage.errors import DataError

SPLITS = ("train", "val", "test")
# What people call the splits, by the name used here.
SPLIT_ALIASES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
CROPS = ("squash", "center")


@runtime_checkable
class Source(Protocol):
    """Numbered images with labels. That is all a reader must give.

    image(i): uint8 [H, W, 3] RGB; bad bytes raise DataError with a name. label(i): number of the
    class in `classes`. path(i): where it came from, for people.

    What some can do besides is a protocol of its own, and is asked for by a function below, which
    knows that subsets have it only if the whole has: DrawsSizes, HoldsSizes (`has_native`,
    `native`), HoldsLatents (`channels_of`, `latent`), KnowsItsLabels (`is_labelled`), NamesClasses
    (`names_of`), KnowsItsPlace (`place_of`). NamesFiles is for who writes files of the same names.
    """

    name: str
    classes: list[str]

    def __len__(self) -> int: ...

    def image(self, i: int) -> np.ndarray: ...

    def label(self, i: int) -> int: ...

    def path(self, i: int) -> str: ...


@runtime_checkable
class DrawsSizes(Protocol):
    """Gives pictures at any size: `native(i, size)` is uint8 [size, size, 3]."""

    def native(self, i: int, size: int) -> np.ndarray: ...


@runtime_checkable
class HoldsSizes(DrawsSizes, Protocol):
    """Gives pictures at some sizes, those for which `has_native` is true."""

    def has_native(self, size: int, crop: str = "squash") -> bool: ...


@runtime_checkable
class HoldsLatents(Protocol):
    """Holds latents instead of pictures: `latent(i)` is float32 [channels, r, r]."""

    channels: int  # 3 says that they are pictures all the same

    def latent(self, i: int) -> np.ndarray: ...


@runtime_checkable
class NamesClasses(Protocol):
    """Has names of its classes for people, besides those of its folders; None if not told."""

    class_names: list[str] | None


@runtime_checkable
class KnowsItsLabels(Protocol):
    """Says whether its labels were given, or all are 0 for want of any."""

    labelled: bool


@dataclass(frozen=True)
class Place:
    """Where a source's pictures lie, for people.

    where: `the zip photos.zip`. splits: those of the set, this one among them. unused: what of the
    set nothing reads.
    """

    where: str
    splits: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()


@runtime_checkable
class KnowsItsPlace(Protocol):
    """Says where it lies and what else is there."""

    place: Place | None


@runtime_checkable
class LeavesOut(Protocol):
    """Knows how many pictures of formats that are not read lie among its own, by suffix."""

    left_out: Counter[str]


@runtime_checkable
class NamesFiles(Protocol):
    """Has a name for each picture inside the set: `relative(i)`, with `/` between its parts."""

    def relative(self, i: int) -> str: ...


def has_native(source: Source, size: int, crop: str = "squash") -> bool:
    """Whether `native(source, i, size)` may be called for pictures framed as `crop` says."""
    if isinstance(source, HoldsSizes):
        return bool(source.has_native(size, crop))
    return isinstance(source, DrawsSizes)


def native(source: Source, i: int, size: int) -> np.ndarray:
    """uint8 [size, size, 3], of a source that `has_native` of this size."""
    return cast(DrawsSizes, source).native(i, size)


def is_drawn(source: Source) -> bool:
    """Whether pictures are drawn at any size, so that they have none of their own."""
    while isinstance(source, Subset):
        source = source.source
    return isinstance(source, DrawsSizes) and not isinstance(source, HoldsSizes)


def channels_of(source: Source) -> int:
    """3 for pictures; latents have more."""
    return int(getattr(source, "channels", 3))


def latent(source: Source, i: int) -> np.ndarray:
    """float32 [channels, r, r], of a source whose `channels_of` is not 3."""
    return cast(HoldsLatents, source).latent(i)


def is_labelled(source: Source) -> bool:
    """Whether labels mean something; where it is not said, if there is more than one class."""
    return source.labelled if isinstance(source, KnowsItsLabels) else len(source.classes) > 1


def names_of(source: Source) -> list[str]:
    """Names of the classes, in words where the data set tells."""
    words = source.class_names if isinstance(source, NamesClasses) else None
    return list(words or source.classes)


def left_out_of(source: Source) -> Counter[str]:
    """Pictures that lie in a set and are of formats that are not read, by suffix."""
    if isinstance(source, Joined):
        return sum((left_out_of(part) for part in source.sources), Counter[str]())
    while isinstance(source, Subset):
        source = source.source
    return source.left_out if isinstance(source, LeavesOut) else Counter()


def place_of(source: Source) -> Place | None:
    """Where the pictures of a source, or of the set that it is a part of, lie; None if not told."""
    while isinstance(source, Subset):
        source = source.source
    return source.place if isinstance(source, KnowsItsPlace) else None


def namer(source: Source) -> Callable[[int], str]:
    """What says the name of picture i inside its set, wherever the set lies; its number for want
    of one.
    """
    if isinstance(source, Subset):
        whole, indices = namer(source.source), source.indices
        return lambda i: whole(int(indices[i]))
    if isinstance(source, Joined):
        return source.part_and_name
    return source.relative if isinstance(source, NamesFiles) else str


class PathTable(Sequence[str]):
    """Many strings in one bytes object and one offset array.

    A Python list of a million paths is copied page by page into every worker, because reading an
    element writes its reference count (pytorch#13246); two big objects are not.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        encoded = [os.fsencode(p) for p in paths]
        self._bytes = b"".join(encoded)
        self._offsets = np.zeros(len(encoded) + 1, dtype=np.int64)
        np.cumsum([len(e) for e in encoded], out=self._offsets[1:])

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, i: int) -> str:  # type: ignore[override]
        n = len(self)
        if not -n <= i < n:
            raise IndexError(f"index {i} of {n} paths")
        i %= n
        return os.fsdecode(self._bytes[self._offsets[i] : self._offsets[i + 1]])

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))


class Subset:
    """Some images of a source, in the order of `indices`; labels, classes and paths stay."""

    def __init__(
        self, source: Source, indices: Sequence[int] | np.ndarray, name: str | None = None
    ) -> None:
        self.source = source
        self.indices = np.asarray(indices, dtype=np.int64)
        if self.indices.size and not (0 <= self.indices.min() and self.indices.max() < len(source)):
            raise DataError(
                f"a subset of {source.name} asks for image {int(self.indices.max())}, "
                f"it has {len(source)}"
            )
        self.name = source.name if name is None else name
        self.classes = list(source.classes)
        self.class_names = source.class_names if isinstance(source, NamesClasses) else None
        self.channels = channels_of(source)

    def __len__(self) -> int:
        return len(self.indices)

    def image(self, i: int) -> np.ndarray:
        """uint8 [H, W, 3]."""
        return self.source.image(int(self.indices[i]))

    def label(self, i: int) -> int:
        """Class index as in the whole set."""
        return self.source.label(int(self.indices[i]))

    def path(self, i: int) -> str:
        """Where the picture came from."""
        return self.source.path(int(self.indices[i]))

    def has_native(self, size: int, crop: str = "squash") -> bool:
        """Whether the whole set holds this size."""
        return has_native(self.source, size, crop)

    def native(self, i: int, size: int) -> np.ndarray:
        """uint8 [size, size, 3] as the whole set gives it."""
        return native(self.source, int(self.indices[i]), size)

    def latent(self, i: int) -> np.ndarray:
        """float32 [channels, r, r], if the whole set holds latents."""
        return latent(self.source, int(self.indices[i]))


class Joined:
    """Several sources one after the other; classes are told apart by their names."""

    def __init__(self, sources: Sequence[Source], name: str) -> None:
        self.sources, self.name = list(sources), name
        self.classes = list(dict.fromkeys(c for s in self.sources for c in s.classes))
        self._joint_labels = [[self.classes.index(c) for c in s.classes] for s in self.sources]
        self._ends = np.cumsum([len(s) for s in self.sources])
        kinds = {channels_of(s) for s in self.sources}
        if len(kinds) != 1:
            raise DataError(f"{name} is made of pictures and latents, which make no one set")
        self.channels = kinds.pop()
        words: dict[str, str] = {}
        for s in self.sources:
            words |= zip(s.classes, names_of(s), strict=True)
        self.class_names = [words[c] for c in self.classes]

    def __len__(self) -> int:
        return int(self._ends[-1])

    def _at(self, i: int) -> tuple[int, int]:
        if not 0 <= i < len(self):
            raise IndexError(f"image {i} of {len(self)}")
        which = int(np.searchsorted(self._ends, i, side="right"))
        return which, i - int(self._ends[which] - len(self.sources[which]))

    def part_and_name(self, i: int) -> str:
        """The name of a picture inside its part, after that of the part."""
        which, own = self._at(i)
        part = self.sources[which]
        return f"{part.name.rsplit('/', 1)[-1]}/{namer(part)(own)}"

    def image(self, i: int) -> np.ndarray:
        """uint8 [H, W, 3]."""
        which, own = self._at(i)
        return self.sources[which].image(own)

    def label(self, i: int) -> int:
        """Number of the class in `classes`."""
        which, own = self._at(i)
        return self._joint_labels[which][self.sources[which].label(own)]

    def path(self, i: int) -> str:
        """Where the picture came from."""
        which, own = self._at(i)
        return self.sources[which].path(own)

    def has_native(self, size: int, crop: str = "squash") -> bool:
        """Whether all of them hold this size."""
        return all(has_native(s, size, crop) for s in self.sources)

    def native(self, i: int, size: int) -> np.ndarray:
        """uint8 [size, size, 3] as the source gives it."""
        which, own = self._at(i)
        return native(self.sources[which], own, size)

    def latent(self, i: int) -> np.ndarray:
        """float32 [channels, r, r], if the sources hold latents."""
        which, own = self._at(i)
        return latent(self.sources[which], own)


def evenly(source: Source, count: int | None, seed: int = 0) -> Source:
    """`count` pictures, as equally many of every class as there are; all for None or too many.

    The picks of a smaller count are among those of a larger one with the same seed.
    """
    if count is None or count >= len(source):
        return source
    labels = labels_of(source)
    rank = np.empty(len(labels), np.int64)  # of a picture within its class
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        rank[members[keyed_order(len(members), seed, int(label))]] = np.arange(len(members))
    first = np.lexsort((labels, rank))[:count]
    return Subset(source, np.sort(first))


def labels_of(source: Source) -> np.ndarray:
    """All labels, int64 [N]; reads no image."""
    return np.fromiter((source.label(i) for i in range(len(source))), np.int64, len(source))


def check_outside(source: Source, folder: Path, option: str) -> None:
    """DataError if a folder for results lies among the pictures of a set: they would join it."""
    while isinstance(source, Subset):
        source = source.source
    base = getattr(source, "base", None) or getattr(source, "root", None)
    if base is not None and folder.resolve().is_relative_to(Path(base).resolve()):
        raise DataError(
            f"{option} {folder} lies in the data set {base}, of which the results would become a "
            "part: choose a folder elsewhere"
        )


def keyed_order(n: int, *key: int) -> np.ndarray:
    """A permutation of range(n), int64 [n], that depends on the integers of `key` alone.

    Sorting raw Philox output rather than calling `permutation`: numpy promises the bits of a bit
    generator for ever, the algorithms on top of it only within a version.
    """
    seed = np.random.SeedSequence([k & 0xFFFFFFFFFFFFFFFF for k in key])
    return np.argsort(np.random.Philox(seed).random_raw(n), kind="stable")


def stratified(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Indices (sorted) of about `fraction` of every class, at least one of each class.

    The picks of a smaller fraction are among those of a larger one with the same seed.
    """
    picked = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        k = min(len(members), max(1, round(len(members) * fraction)))
        picked.append(members[keyed_order(len(members), seed, int(label))[:k]])
    return np.sort(np.concatenate(picked)) if picked else np.zeros(0, np.int64)


def allowed_bad(n: int) -> int:
    """How many unreadable pictures of n are let pass: 0.1 %, at least 3, at most 100."""
    return min(100, max(3, -(-n // 1000)))


def split_of(name: str) -> str | None:
    """The split a folder name stands for (`validation` -> `val`), or None."""
    lowered = name.strip().lower()
    for split, names in SPLIT_ALIASES.items():
        if lowered in names:
            return split
    return None


def check_split(split: str) -> str:
    """`split` in this package's words, or DataError."""
    known = split_of(split)
    if known is None:
        raise DataError(f"split {split!r} is none of {', '.join(SPLITS)}")
    return known


def resolution_name(name: str, size: int) -> str:
    """`camnet3`, 64 -> `camnet3_64x64`."""
    return f"{name}_{size}x{size}"
