"""A zip of the folder layout, or of NVIDIA's, read in place."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from data.decode import decode
from data.formats import by_suffix
from data.readers.base import Found, refused
from data.readers.edm_zip import EdmSource
from data.readers.layout import (
    ANNOTATIONS,
    annotated_labels,
    are_shards,
    classes_and_labels,
    is_note,
    refuse_empty_classes,
    refuse_labels,
    word_names,
)
from data.readers.tree import Layout, notes_of
from data.readers.zip_index import MemberSource, ZipIndex, archive_of
from data.sources import PathTable, Place, Source, check_split
from storage.errors import DataError


def recognise(path: Path) -> Found | None:
    """A zip, also one in NVIDIA's layout; `set` also means `set.zip`."""
    archive = archive_of(path)
    if path.is_dir() or not archive.is_file():
        return None
    index = ZipIndex(archive)
    try:
        layout = index.layout
    except DataError as error:
        return refused(str(error))
    if not layout.splits and not layout.noted:
        index.pictures()  # none, or some that cannot be read, is said whatever is asked

    def open_split(split: str) -> Source:
        split = check_split(split)
        if not layout.splits:
            if layout.noted:
                return EdmSource(archive, index=index)
            return ZipSource(archive, index=index)
        at = layout.folder(split, index.tree, _hint(archive, layout))
        note = notes_of(index.tree, layout, at)
        if note is None:
            return ZipSource(archive, split=split, index=index)
        return EdmSource(archive, name=f"{archive.stem}/{split}", at=at, note_at=note, index=index)

    return Found(tuple(layout.splits), open_split)


def _hint(file: Path, layout: Layout) -> str:
    """What to give instead of a split that is not there."""
    return f". Give {file}/{next(iter(layout.splits))} or cv"


class ZipSource(MemberSource):
    """Pictures of one split of a zip, sorted by class, then by path.

    A single folder that wraps everything is looked through. A zip without split folders is one
    split and serves whichever is asked for.
    """

    place: Place | None

    def __init__(
        self,
        file: str | os.PathLike,
        *,
        split: str | None = None,
        name: str | None = None,
        index: ZipIndex | None = None,
    ) -> None:
        self.file = Path(file)
        index = index or ZipIndex(self.file)
        index.pictures()
        layout = index.layout
        if layout.splits and split is None:
            raise DataError(f"{self.file} has splits {', '.join(layout.splits)}; say which one")
        prefix = whole = layout.at
        if layout.splits and split is not None:
            prefix = layout.folder(split, index.tree, _hint(self.file, layout))
        else:
            split = None
        self.split = split
        self.name = name or (self.file.stem if split is None else f"{self.file.stem}/{split}")
        unread: list[str] = []
        names = index.pictures(prefix, left_out=unread)
        self.left_out = by_suffix(unread)
        paths = [n[len(prefix) :] for n in names]
        notes = [n[len(prefix) :] for n in index.members if n.startswith(prefix) and is_note(n)]
        refuse_labels(index.tree, prefix, notes)
        one_top = len({p.split("/", 1)[0] for p in paths}) == 1
        table = index.read(prefix + ANNOTATIONS) if one_top else None
        if table is not None:
            known = index.read(f"{whole}wnids.txt")
            self.classes, labels = annotated_labels(paths, table, known, f"{self.file}/{prefix}")
        else:
            self.classes, labels = classes_and_labels(paths, str(self.file), self.file.stem)
            if "/" in paths[0] and not are_shards(paths):
                below = [n[len(prefix) :] for n in unread]
                refuse_empty_classes(index.tree, prefix, self.classes, below)
        self.class_names = word_names(
            self.classes, lambda note: index.read(prefix + note) or index.read(whole + note)
        )
        self._labels = np.asarray(labels, dtype=np.int32)
        self._paths = PathTable(paths)
        self._files = index.files(names)
        self.place = index.place()

    def image(self, i: int) -> np.ndarray:
        """uint8 [H, W, 3]; DataError naming archive and member."""
        return decode(self.raw(i), self.path(i))


def zip_splits(file: str | os.PathLike) -> list[str]:
    """Splits a zip holds; empty if it is one split."""
    index = ZipIndex(Path(file))
    index.pictures()
    return list(index.layout.splits)
