"""One picture: a set of one, of a class that has its name."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from data.decode import decode
from data.formats import is_picture_file
from data.readers.base import Found
from data.sources import Place, Source, check_split


def recognise(path: Path) -> Found | None:
    """A file that is read as a picture; it serves as any split."""
    if not path.is_file() or not is_picture_file(path):
        return None
    return Found((), partial(_open, path))


def _open(path: Path, split: str) -> Source:
    check_split(split)
    return PictureSource(path)


class PictureSource:
    """A picture file as a `Source`."""

    labelled = False

    def __init__(self, file: Path) -> None:
        self.file, self.name, self.classes = file, file.name, [file.stem]
        self.place: Place | None = Place(f"the file {file}")

    def __len__(self) -> int:
        return 1

    def label(self, i: int) -> int:
        """Class index: 0."""
        return 0

    def path(self, i: int) -> str:
        """The file."""
        return str(self.file)

    def relative(self, i: int) -> str:
        """The file's name."""
        return self.file.name

    def image(self, i: int) -> np.ndarray:
        """uint8 [H, W, 3]; DataError naming the file."""
        return decode(self.path(i))
