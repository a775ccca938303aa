"""Data sets that come as arrays: CIFAR-10's python version, MNIST's idx files, and those of
`data.readers.batches` (CIFAR-100, the binary CIFARs, STL-10).

CIFAR is distributed as pickles. They are read as data (`storage.foreign.pickles`); nothing in them
runs.
"""

from __future__ import annotations

import gzip
import re
import struct
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from data.readers import batches
from data.readers.base import Found
from data.readers.batches import CIFAR_CLASSES, UNLABELLED, Arrays
from data.readers.tree import unwrapped
from data.sources import Place, Source, check_split, split_of
from storage.errors import DataError

# sha256 of the four files (with .gz) as their authors published them.
MNIST_FILES = {
    "train-images-idx3-ubyte": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
CIFAR_FOLDER = "cifar-10-batches-py"
CIFAR_BATCHES = {"train": [f"data_batch_{k}" for k in range(1, 6)], "test": ["test_batch"]}
_CIFAR_TAR = re.compile(r"cifar-10-python.*\.(tar(\.\w+)?|tgz|txz|tbz2?)")
_MAX_IDX = 1 << 30


def recognise(path: Path) -> Found | None:
    """CIFAR's, MNIST's or STL-10's own files; STL-10/unlabeled is its part without labels."""
    named = UNLABELLED if path.name.lower() in (UNLABELLED, "unlabelled") else split_of(path.name)
    if named and not path.is_dir() and (path.is_file() or named == UNLABELLED):
        # CIFAR-100 has files called train and test
        part = array_parts(path.parent).get(named)
        return None if part is None else Found((), lambda split: part())
    splits = array_splits(unwrapped(path) if path.is_dir() else path)
    if not splits:
        return None

    def open_split(split: str) -> Source:
        if check_split(split) not in splits:
            raise DataError(f"{path} has no split {split}; it has {', '.join(splits)}")
        return splits[check_split(split)]()

    return Found(tuple(splits), open_split)


class ArraySource:
    """A set held in memory; a pickled one (a spawned worker's) reads its files again.

    read() gives images uint8 [N, H, W] or [N, H, W, 3], labels [N] and the names of the classes.
    Labels are always there, but for STL-10's part without.
    """

    def __init__(
        self,
        read: Callable[[], Arrays],
        *,
        name: str,
        path: str,
        place: Place | None = None,
    ) -> None:
        self._read, self.name, self._path, self.place = read, name, path, place
        self._load()

    def _load(self) -> None:
        images, labels, self.classes = self._read()
        self._images, self._labels = images, labels.astype(np.int32)
        self.labelled = self.classes != [UNLABELLED]

    def __getstate__(self) -> dict:
        return {k: self.__dict__[k] for k in ("_read", "name", "_path", "place")}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._load()

    def __len__(self) -> int:
        return len(self._labels)

    def label(self, i: int) -> int:
        """Class index."""
        return int(self._labels[i])

    def path(self, i: int) -> str:
        """Where the picture is: `folder/data_batch_1:17`, by number in the official order."""
        return f"{self._path}:{i}"

    def image(self, i: int) -> np.ndarray:
        """uint8 [H, W, 3]."""
        image = self._images[i]
        return np.repeat(image[:, :, None], 3, axis=2) if image.ndim == 2 else image.copy()

    def stored(self, i: int) -> np.ndarray:
        """uint8 [H, W] for grey pictures, else as `image`."""
        return self._images[i].copy()


def array_splits(path: Path) -> dict[str, Callable[[], ArraySource]]:
    """Openers of the splits of a folder or tar of CIFAR or STL-10, or a folder of MNIST's idx
    files; {} otherwise.
    """
    return {part: opened for part, opened in array_parts(path).items() if split_of(part)}


def array_parts(path: Path) -> dict[str, Callable[[], ArraySource]]:
    """As `array_splits`, with STL-10's `unlabeled`, which is no split."""
    for kind in batches.KINDS:
        if (found := kind.there(path)) is not None:
            place, parts = found
            return _sources(place, {part: partial(kind.open, place, part) for part in parts})
    if path.is_dir():
        for folder in (path, path / CIFAR_FOLDER):
            splits: dict[str, Callable[[], Arrays]] = {
                split: partial(read_cifar, folder, split)
                for split, files in CIFAR_BATCHES.items()
                if all((folder / f).is_file() for f in files)
            }
            if splits:
                return _sources(folder, splits)
        if idx_names(path):
            return _sources(path, {s: partial(read_mnist, path, s) for s in ("train", "test")})
    elif path.is_file() and _CIFAR_TAR.fullmatch(path.name.lower()):
        return _sources(path, {s: partial(read_cifar, path, s) for s in CIFAR_BATCHES})
    return {}


def _sources(
    path: Path, reads: Mapping[str, Callable[[], Arrays]]
) -> dict[str, Callable[[], ArraySource]]:
    name, place = (
        path.name.split(".")[0],
        Place(f"the arrays of {path}", tuple(r for r in reads if split_of(r))),
    )
    return {
        split: partial(
            ArraySource, read, name=f"{name}/{split}", path=f"{path}/{split}", place=place
        )
        for split, read in reads.items()
    }


# ------------------------------------------------------------------------------- CIFAR-10


def read_cifar(path: Path, split: str) -> Arrays:
    """CIFAR-10's python version, the folder or the tar: uint8 [N, 32, 32, 3] in official order.

    split: train (50,000) or test (10,000). DataError for a batch that is not what it should be.
    """
    wanted = CIFAR_BATCHES[split_of(split) or split]
    note, title = ("batches.meta",), "CIFAR-10's python version"
    if path.is_dir():
        files = batches.from_folder(path, wanted, note, "CIFAR-10", batches.MAX_BATCH)
    else:
        files = batches.from_tar(path, wanted, note, title, batches.MAX_BATCH, 1 << 30)
    images, labels = [], []
    for name in wanted:
        batch, batch_labels = parse_batch(files[name], f"{path}/{name}")
        images.append(batch)
        labels.append(batch_labels)
    classes = parse_names(files.get("batches.meta"), f"{path}/batches.meta")
    return np.concatenate(images), np.concatenate(labels), classes


def parse_batch(data: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
    """One batch file: (uint8 [N, 32, 32, 3], int64 [N] in 0..9). DataError in one line."""
    return batches.pictures_of(batches.parse(data, name), "labels", 10, name, "CIFAR-10")


def parse_names(data: bytes | None, name: str) -> list[str]:
    """The ten names in batches.meta; the known ones where the file is not there."""
    if data is None:
        return list(CIFAR_CLASSES)
    return batches.names_in(batches.parse(data, name), "label_names", 10, name, "CIFAR-10")


# ---------------------------------------------------------------------------------- MNIST


def idx_names(folder: Path) -> list[str]:
    """MNIST files in a folder (any of .gz or unpacked), complete pairs or nothing."""
    there = [n for n in MNIST_FILES if _idx_file(folder, n) is not None]
    return there if len(there) == len(MNIST_FILES) else []


def _idx_file(folder: Path, name: str) -> Path | None:
    """Where one of MNIST's files lies: unpacked or not, with a dot as on Kaggle, or in a folder of
    its own name, as some programs unpack it.
    """
    for place in (name, f"{name}.gz", name.replace("-idx", ".idx"), f"{name}/{name}"):
        if (folder / place).is_file():
            return folder / place
    return None


def read_idx(file: Path) -> np.ndarray:
    """An idx file of unsigned bytes (.gz or plain), uint8 of the shape its header says."""
    try:
        opened = gzip.open if file.suffix == ".gz" else open
        with opened(file, "rb") as handle:
            data = handle.read(_MAX_IDX + 1)
        if len(data) > _MAX_IDX:
            raise ValueError(f"more than {_MAX_IDX >> 30} GiB")
        zero, kind, dims = struct.unpack(">HBB", data[:4])
        shape = struct.unpack(f">{dims}I", data[4 : 4 + 4 * dims])
        if (zero, kind) != (0, 8):
            raise ValueError("not an idx file of bytes")
        return np.frombuffer(data, np.uint8, offset=4 + 4 * dims).reshape(shape)
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise DataError(f"{file} cannot be read ({error}); fetch it again") from None


def read_mnist(folder: Path, split: str) -> Arrays:
    """MNIST's idx files: uint8 [N, 28, 28] in official order; split train or test."""
    stem = {"train": "train", "test": "t10k"}[split]
    arrays = []
    for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"):
        name = f"{stem}-{kind}"
        arrays.append(read_idx(_idx_file(folder, name) or folder / name))
    images, labels = arrays
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise DataError(
            f"{folder}: {images.shape} images of {stem} do not go with {labels.shape} labels"
        )
    return images, labels, [str(k) for k in range(max(10, int(labels.max(initial=0)) + 1))]
