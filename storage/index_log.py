"""Lists of indices by step in one compact file that only grows: which samples a step trained on.

A record is the step and the length n (two little-endian uint32), then n uint32. W&B and
metrics.jsonl are for scalars; two thousand indices a step belong here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from storage.errors import DiskError
from storage.files import set_aside

_WORD = np.dtype("<u4")


class IndexLog:
    """Appends records to `path`; made by one rank.

    completed: steps whose records stay; later ones, of a run that was killed before it saved, and
    a record cut short go, so that each step is there once. mine: whether the folder may be written
    to; where it may not, nothing is added any more. What is no file (a pipe, a folder) is renamed
    `.bad`. Errors: DiskError.
    """

    def __init__(self, path: Path, completed: int, mine: Callable[[], bool] = lambda: True) -> None:
        self.path, self._mine = Path(path), mine
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if os.path.lexists(self.path) and not self.path.is_file():
                set_aside(self.path, "bad")  # opening a pipe would wait for its reader
            self._file = open(self.path, "ab")
            end = 0
            for step, start, indices in _records(self.path):
                if step >= completed:
                    break
                end = start + _WORD.itemsize * (2 + len(indices))
            self._file.truncate(end)
        except OSError as error:
            raise DiskError(f"{self.path}: {error.strerror}") from error

    def add(self, step: int, indices: np.ndarray) -> None:
        """Append the 1-D indices in [0, 2^32) of a 0-based step. Errors: DiskError."""
        if not self._mine():
            return
        head = np.array([step, len(indices)], _WORD)
        try:
            self._file.write(head.tobytes() + np.asarray(indices).astype(_WORD).tobytes())
            self._file.flush()
        except OSError as error:
            raise DiskError(f"{self.path}: {error.strerror}") from error

    def close(self) -> None:
        """End writing."""
        self._file.close()


def read_index_log(path: Path) -> Iterator[tuple[int, np.ndarray]]:
    """(step, uint32 indices) of every whole record, in order."""
    for step, _, indices in _records(Path(path)):
        yield step, indices


def _records(path: Path) -> Iterator[tuple[int, int, np.ndarray]]:
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        while file.tell() + 2 * _WORD.itemsize <= size:
            start = file.tell()
            step, count = np.frombuffer(file.read(2 * _WORD.itemsize), _WORD).tolist()
            if file.tell() + count * _WORD.itemsize > size:
                return
            yield step, start, np.frombuffer(file.read(count * _WORD.itemsize), _WORD)
