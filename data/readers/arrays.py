"""Data sets that come as arrays: CIFAR-10's python version and MNIST's idx files.

CIFAR-10 is distributed as pickles. They are read as data (`storage.foreign.pickles`); nothing in
them runs.
"""

from __future__ import annotations

import gzip
import io
import re
import struct
import tarfile
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data.readers.base import Found
from data.sources import Place, Source, check_split, split_of
from storage.errors import DataError, one_line
from storage.foreign.pickles import Inert, PickleError, read_pickle

# sha256 of the four files (with .gz) as their authors published them.
MNIST_FILES = {
    "train-images-idx3-ubyte": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
CIFAR_FOLDER = "cifar-10-batches-py"
CIFAR_BATCHES = {"train": [f"data_batch_{k}" for k in range(1, 6)], "test": ["test_batch"]}
CIFAR_CLASSES = [
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
]
_CIFAR_TAR = re.compile(r"cifar-10-python.*\.(tar(\.\w+)?|tgz|txz|tbz2?)")
_MAX_BATCH = 64 << 20
_MAX_TAR = 1 << 30
_MAX_HEADER = 1 << 20
_HEADERS = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)
_MAX_IDX = 1 << 30
_NUMPY = {f"numpy.{core}.multiarray._reconstruct" for core in ("core", "_core")} | {
    "numpy.ndarray",
    "numpy.dtype",
    "_codecs.encode",
}

Arrays = tuple[np.ndarray, np.ndarray, list[str]]  # images, labels, classes


def recognise(path: Path) -> Found | None:
    """CIFAR-10's or MNIST's own files."""
    splits = array_splits(path)
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
    Labels are always there, so `labelled` is true.
    """

    labelled = True

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
    """Openers of the splits of a CIFAR-10 folder or tar, or a folder of idx files; {} otherwise."""
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
    name, place = path.name.split(".")[0], Place(f"the arrays of {path}", tuple(reads))
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
    files = _from_folder(path, wanted) if path.is_dir() else _from_tar(path, wanted)
    images, labels = [], []
    for name in wanted:
        batch, batch_labels = parse_batch(files[name], f"{path}/{name}")
        images.append(batch)
        labels.append(batch_labels)
    classes = parse_names(files.get("batches.meta"), f"{path}/batches.meta")
    return np.concatenate(images), np.concatenate(labels), classes


def _from_folder(folder: Path, names: list[str]) -> dict[str, bytes]:
    files = {}
    for name in [*names, "batches.meta"]:
        try:
            with open(folder / name, "rb") as file:
                files[name] = file.read(_MAX_BATCH + 1)
        except FileNotFoundError:
            if name != "batches.meta":
                raise DataError(f"{folder} has no {name}; unpack CIFAR-10 again") from None
        except OSError as error:
            raise DataError(f"cannot read {folder / name}: {error.strerror}") from None
    return files


class _ShortHeaders(tarfile.TarInfo):
    """tarfile reads extended headers into memory whole, of whatever size they say they are."""

    @classmethod
    def frombuf(cls, buf, encoding, errors):
        info = super().frombuf(buf, encoding, errors)
        if info.type in _HEADERS and info.size > _MAX_HEADER:
            raise DataError(f"a header of {info.size} bytes")
        return info


def _from_tar(archive: Path, names: list[str]) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r:*", tarinfo=_ShortHeaders) as opened:
            for member in opened:
                base = member.name.rsplit("/", 1)[-1]
                if member.offset_data + member.size > _MAX_TAR:
                    raise DataError("larger than CIFAR-10 ever was")
                if member.isreg() and base in (*names, "batches.meta"):
                    files[base] = opened.extractfile(member).read(_MAX_BATCH + 1)  # type: ignore[union-attr]
    except Exception as error:  # tarfile and three codecs each raise their own
        said = one_line(error, 100)
        raise DataError(f"{archive} is damaged ({said}); fetch it again") from None
    missing = [n for n in names if n not in files]
    if missing:
        raise DataError(f"{archive} has no {missing[0]}; is it CIFAR-10's python version?")
    return files


def parse_batch(data: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
    """One batch file: (uint8 [N, 32, 32, 3], int64 [N] in 0..9). DataError in one line."""
    batch = _parse(data, name)
    labels, pixels = batch.get("labels"), batch.get("data")
    if not isinstance(labels, list) or any(type(v) is not int or not 0 <= v < 10 for v in labels):
        raise DataError(f"{name} has labels that are not numbers 0..9; fetch CIFAR-10 again")
    rows = _array(pixels)
    if rows is None or rows.shape != (len(labels), 3072) or not labels:
        raise DataError(f"{name} does not hold 32x32 pictures for its labels; fetch CIFAR-10 again")
    images = rows.reshape(len(labels), 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), np.asarray(labels, dtype=np.int64)


def parse_names(data: bytes | None, name: str) -> list[str]:
    """The ten names in batches.meta; the known ones where the file is not there."""
    if data is None:
        return list(CIFAR_CLASSES)
    names = _parse(data, name).get("label_names")
    if not isinstance(names, list) or any(not isinstance(n, (str, bytes)) for n in names):
        names = []
    names = [n.decode("ascii", "replace") if isinstance(n, bytes) else n for n in names]
    if len(names) != 10 or len(set(names)) != 10 or not all(re.fullmatch(r"\w+", n) for n in names):
        raise DataError(f"{name} does not name ten classes; fetch CIFAR-10 again")
    return names


def _parse(data: bytes, name: str) -> dict[str, Any]:
    if len(data) > _MAX_BATCH:
        raise DataError(f"{name} is larger than {_MAX_BATCH >> 20} MiB; fetch CIFAR-10 again")

    def call(function: str, args: tuple) -> Any:
        if function == "_codecs.encode" and args and isinstance(args[0], str):
            return args[0].encode("latin-1")
        return Inert(function, args)

    try:
        value = read_pickle(io.BytesIO(data), allowed=_NUMPY.__contains__, call=call)
    except PickleError as error:
        raise DataError(f"{name} is not a batch of CIFAR-10: {error}") from None
    if not isinstance(value, dict):
        raise DataError(f"{name} is not a batch of CIFAR-10: holds a {type(value).__name__}")
    return {k.decode("latin-1") if isinstance(k, bytes) else str(k): v for k, v in value.items()}


def _array(value: Any) -> np.ndarray | None:
    """A two-dimensional uint8 array as its pickle describes it; None for anything else."""
    state = value.state if isinstance(value, Inert) else None
    if not isinstance(state, tuple) or len(state) != 5:
        return None
    _, shape, dtype, fortran, data = state
    if not isinstance(dtype, Inert) or dtype.cls != "numpy.dtype" or dtype.args[:1] != ("u1",):
        return None
    if isinstance(data, str):  # of Python 2
        data = data.encode("latin-1", "replace")
    if not isinstance(data, bytes) or not isinstance(shape, tuple) or len(shape) != 2:
        return None
    if any(type(n) is not int or n < 0 for n in shape) or shape[0] * shape[1] != len(data):
        return None
    return np.frombuffer(data, np.uint8).reshape(shape, order="F" if fortran is True else "C")


# ---------------------------------------------------------------------------------- MNIST


def idx_names(folder: Path) -> list[str]:
    """MNIST files in a folder (any of .gz or unpacked), complete pairs or nothing."""
    there = [n for n in MNIST_FILES if (folder / n).exists() or (folder / f"{n}.gz").exists()]
    return there if len(there) == len(MNIST_FILES) else []


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
        plain = folder / f"{stem}-{kind}"
        arrays.append(read_idx(plain if plain.exists() else plain.with_name(f"{plain.name}.gz")))
    images, labels = arrays
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise DataError(
            f"{folder}: {images.shape} images of {stem} do not go with {labels.shape} labels"
        )
    return images, labels, [str(k) for k in range(max(10, int(labels.max(initial=0)) + 1))]
