"""CIFAR-100, the binary versions of both CIFARs, and STL-10: their files in a folder or a tar.

    cifar-100-python/    train, test, meta                            pickles, 100 fine classes
    cifar-100-binary/    train.bin, test.bin, fine_label_names.txt    coarse, fine, 3072 bytes
    cifar-10-batches-bin/ data_batch_1..5.bin, test_batch.bin, batches.meta.txt   label, 3072 bytes
    stl10_binary/        train_X.bin, train_y.bin, test_X.bin, test_y.bin, unlabeled_X.bin,
                         class_names.txt                              3 x 96 x 96, column by column

Pickles are read as data (`storage.foreign.pickles`); nothing in them runs.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from storage.errors import DataError, one_line
from storage.files import open_plain
from storage.foreign.pickles import Inert, PickleError, read_pickle

MAX_BATCH = 64 << 20
_MAX_HEADER = 1 << 20
_HEADERS = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)
_NUMPY = {f"numpy.{core}.multiarray._reconstruct" for core in ("core", "_core")} | {
    "numpy.ndarray",
    "numpy.dtype",
    "_codecs.encode",
}
_TAR = r".*\.(tar(\.\w+)?|tgz|txz|tbz2?)"
CIFAR_CLASSES = [
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
]
# The fine ones, in the order of their numbers.
CIFAR100_CLASSES = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus "
    "butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch "
    "crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo "
    "keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse "
    "mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy "
    "porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper "
    "snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television "
    "tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm"
).split()
STL_CLASSES = "airplane bird car cat deer dog horse monkey ship truck".split()
UNLABELLED = "unlabeled"  # what STL-10 calls its part without labels

Arrays = tuple[np.ndarray, np.ndarray, list[str]]  # images, labels, classes


@dataclass(frozen=True)
class Kind:
    """A set as it is distributed.

    title, folder: its names; tar: how the name of its tar begins. parts: the files of each split,
    or of what is none. notes: files that may be absent. read(files, part, where): what is in them.
    largest: bytes of one of its files, most: of all that a tar of it unpacks to.
    """

    title: str
    folder: str
    tar: str
    parts: dict[str, tuple[str, ...]]
    notes: tuple[str, ...]
    read: Callable[[dict[str, bytes], str, str], Arrays]
    largest: int
    most: int

    def there(self, path: Path) -> tuple[Path, list[str]] | None:
        """(folder or tar, parts) of this kind at a path, or None."""
        if path.is_dir():
            for folder in (path, path / self.folder):
                parts = [
                    part
                    for part, names in self.parts.items()
                    if all((folder / name).is_file() for name in names)
                ]
                if parts and self._is_mine(folder):
                    return folder, parts
        elif re.fullmatch(re.escape(self.tar) + _TAR, path.name.lower()):
            return (path, list(self.parts)) if path.is_file() else None
        return None

    def _is_mine(self, folder: Path) -> bool:
        """Whether files of these plain names are this set's."""
        return folder.name == self.folder or any((folder / n).is_file() for n in self.notes)

    def open(self, path: Path, part: str) -> Arrays:
        """Images, labels and classes of a part. Errors: DataError."""
        wanted = self.parts[part]
        take = _from_folder if path.is_dir() else from_tar
        files = take(path, wanted, self.notes, self.title, self.largest, self.most)
        return self.read(files, part, str(path))


def from_folder(folder: Path, names: Sequence[str], notes: Sequence[str], title: str, largest: int):
    """Files of a folder by name; those of `notes` if they are there. Errors: DataError."""
    files = {}
    for name in [*names, *notes]:
        try:
            with open_plain(folder / name) as file:
                files[name] = file.read(largest + 1)
        except FileNotFoundError:
            if name not in notes:
                raise DataError(f"{folder} has no {name}; unpack {title} again") from None
        except OSError as error:
            raise DataError(f"cannot read {folder / name}: {error.strerror}") from None
    return files


def _from_folder(
    folder: Path, names: Sequence[str], notes: Sequence[str], title: str, largest: int, most: int
) -> dict[str, bytes]:
    return from_folder(folder, names, notes, title, largest)


class _ShortHeaders(tarfile.TarInfo):
    """tarfile reads extended headers into memory whole, of whatever size they say they are."""

    @classmethod
    def frombuf(cls, buf, encoding, errors):
        info = super().frombuf(buf, encoding, errors)
        if info.type in _HEADERS and info.size > _MAX_HEADER:
            raise DataError(f"a header of {info.size} bytes")
        return info


def from_tar(
    archive: Path, names: Sequence[str], notes: Sequence[str], title: str, largest: int, most: int
) -> dict[str, bytes]:
    """Files of a tar by name, in whatever folder; those of `notes` if they are there.

    Errors: DataError, also for a tar that unpacks to more than `most` bytes.
    """
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r:*", tarinfo=_ShortHeaders) as opened:
            for member in opened:
                base = member.name.rsplit("/", 1)[-1]
                if member.offset_data + member.size > most:
                    raise DataError(f"larger than {title} ever was")
                if member.isreg() and base in (*names, *notes):
                    files[base] = opened.extractfile(member).read(largest + 1)  # type: ignore[union-attr]
                if len(files) == len(names) + len(notes):
                    break
    except Exception as error:  # tarfile and three codecs each raise their own
        said = one_line(error, 100)
        raise DataError(f"{archive} is damaged ({said}); fetch it again") from None
    missing = [n for n in names if n not in files]
    if missing:
        raise DataError(f"{archive} has no {missing[0]}; is it {title}?")
    return files


# ------------------------------------------------------------------------------------- pickles


def parse(data: bytes, name: str, title: str = "CIFAR-10", largest: int = MAX_BATCH) -> dict:
    """The dictionary in a pickle, nothing of it run. Errors: DataError."""
    if len(data) > largest:
        raise DataError(f"{name} is larger than {largest >> 20} MiB; fetch {title} again")

    def call(function: str, args: tuple) -> Any:
        if function == "_codecs.encode" and args and isinstance(args[0], str):
            return args[0].encode("latin-1")
        return Inert(function, args)

    try:
        value = read_pickle(io.BytesIO(data), allowed=_NUMPY.__contains__, call=call)
    except PickleError as error:
        raise DataError(f"{name} is not a batch of {title}: {error}") from None
    if not isinstance(value, dict):
        raise DataError(f"{name} is not a batch of {title}: holds a {type(value).__name__}")
    return {k.decode("latin-1") if isinstance(k, bytes) else str(k): v for k, v in value.items()}


def pictures_of(
    batch: dict, key: str, count: int, name: str, title: str
) -> tuple[np.ndarray, np.ndarray]:
    """A batch's pictures uint8 [N, 32, 32, 3] and labels int64 [N] in 0..count-1."""
    labels, pixels = batch.get(key), batch.get("data")
    known = range(count)
    if not isinstance(labels, list) or any(type(v) is not int or v not in known for v in labels):
        raise DataError(
            f"{name} has labels that are not numbers 0..{count - 1}; fetch {title} again"
        )
    rows = _array(pixels)
    if rows is None or rows.shape != (len(labels), 3072) or not labels:
        raise DataError(f"{name} does not hold 32x32 pictures for its labels; fetch {title} again")
    return _planes(rows, 32), np.asarray(labels, dtype=np.int64)


def names_in(batch: dict, key: str, count: int, name: str, title: str) -> list[str]:
    """The names of so many classes that a dictionary holds. Errors: DataError."""
    names = batch.get(key)
    if not isinstance(names, list) or any(not isinstance(n, (str, bytes)) for n in names):
        names = []
    names = [n.decode("ascii", "replace") if isinstance(n, bytes) else n for n in names]
    return _checked_names(names, count, name, title)


def _checked_names(names: list[str], count: int, name: str, title: str) -> list[str]:
    if not (len(names) == len(set(names)) == count and all(re.fullmatch(r"\w+", n) for n in names)):
        number = {10: "ten"}.get(count, str(count))
        raise DataError(f"{name} does not name {number} classes; fetch {title} again")
    return names


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


def _planes(rows: np.ndarray, side: int) -> np.ndarray:
    """Rows [N, 3 side side], a plane of a colour after the other, to [N, side, side, 3]."""
    return np.ascontiguousarray(rows.reshape(-1, 3, side, side).transpose(0, 2, 3, 1))


def _read_cifar100(files: dict[str, bytes], part: str, where: str) -> Arrays:
    name, title = f"{where}/{part}", "CIFAR-100"
    batch = parse(files[part], name, title, _CIFAR100.largest)
    images, labels = pictures_of(batch, "fine_labels", 100, name, title)
    classes = list(CIFAR100_CLASSES)
    if "meta" in files:
        meta = parse(files["meta"], f"{where}/meta", title)
        classes = names_in(meta, "fine_label_names", 100, f"{where}/meta", title)
    return images, labels, classes


# -------------------------------------------------------------------------------------- binary


def _lines(files: dict[str, bytes], note: str, known: list[str], where: str, title: str):
    """Names of classes, one a line; the known ones where there is no such file."""
    if note not in files:
        return list(known)
    names = files[note].decode("utf-8", "replace").split()
    return _checked_names(names, len(known), f"{where}/{note}", title)


def _records(data: bytes, before: int, count: int, name: str, title: str):
    """Records of `before` bytes, the last of them the label, and a picture of 3072."""
    if not data or len(data) % (before + 3072):
        raise DataError(f"{name} does not hold whole pictures of 32x32; fetch {title} again")
    rows = np.frombuffer(data, np.uint8).reshape(-1, before + 3072)
    labels = rows[:, before - 1].astype(np.int64)
    if labels.max() >= count:
        raise DataError(
            f"{name} has labels that are not numbers 0..{count - 1}; fetch {title} again"
        )
    return _planes(rows[:, before:], 32), labels


def _read_cifar_binary(title: str, files: dict[str, bytes], part: str, where: str) -> Arrays:
    hundred = title == "CIFAR-100"
    kind = _CIFAR100_BINARY if hundred else _CIFAR10_BINARY
    known = list(CIFAR100_CLASSES) if hundred else CIFAR_CLASSES
    read = [
        _records(files[name], 1 + hundred, len(known), f"{where}/{name}", title)
        for name in kind.parts[part]
    ]
    classes = _lines(files, kind.notes[0], known, where, title)
    return np.concatenate([i for i, _ in read]), np.concatenate([k for _, k in read]), classes


def _read_stl(files: dict[str, bytes], part: str, where: str) -> Arrays:
    name, side, title = f"{part}_X.bin", 96, "STL-10"
    data = files[name]
    if not data or len(data) % (3 * side * side):
        raise DataError(
            f"{where}/{name} does not hold whole pictures of 96x96; fetch {title} again"
        )
    # columns first; a view, since the part without labels has 2.6 GiB
    images = np.frombuffer(data, np.uint8).reshape(-1, 3, side, side).transpose(0, 3, 2, 1)
    if part == UNLABELLED:
        return images, np.zeros(len(images), np.int64), [UNLABELLED]
    labels = np.frombuffer(files[f"{part}_y.bin"], np.uint8).astype(np.int64) - 1
    if labels.shape != images.shape[:1] or labels.min() < 0 or labels.max() > 9:
        raise DataError(f"{where}/{part}_y.bin is no list of labels 1..10; fetch {title} again")
    return images, labels, _lines(files, "class_names.txt", STL_CLASSES, where, title)


_CIFAR100 = Kind(
    "CIFAR-100",
    "cifar-100-python",
    "cifar-100-python",
    {"train": ("train",), "test": ("test",)},
    ("meta",),
    _read_cifar100,
    256 << 20,
    1 << 30,
)
_CIFAR100_BINARY = Kind(
    "CIFAR-100",
    "cifar-100-binary",
    "cifar-100-binary",
    {"train": ("train.bin",), "test": ("test.bin",)},
    ("fine_label_names.txt",),
    partial(_read_cifar_binary, "CIFAR-100"),
    256 << 20,
    1 << 30,
)
_CIFAR10_BINARY = Kind(
    "CIFAR-10",
    "cifar-10-batches-bin",
    "cifar-10-binary",
    {"train": tuple(f"data_batch_{k}.bin" for k in range(1, 6)), "test": ("test_batch.bin",)},
    ("batches.meta.txt",),
    partial(_read_cifar_binary, "CIFAR-10"),
    MAX_BATCH,
    1 << 30,
)
_STL = Kind(
    "STL-10",
    "stl10_binary",
    "stl10_binary",
    {
        "train": ("train_X.bin", "train_y.bin"),
        "test": ("test_X.bin", "test_y.bin"),
        UNLABELLED: ("unlabeled_X.bin",),
    },
    ("class_names.txt",),
    _read_stl,
    3 << 30,
    4 << 30,
)
KINDS = (_CIFAR100, _CIFAR100_BINARY, _CIFAR10_BINARY, _STL)
