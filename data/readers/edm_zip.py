"""NVIDIA's data set layout, as their and our dataset_tool write it: a zip or a folder with
`dataset.json`, of pictures or of VAE latents.

    00000/img00000000.png               pictures, all of one size, or
    00000/img-mean-std-00000000.npy     float [8, r, r]: mean (4 channels), then standard deviation
    dataset.json                        {"labels": [["00000/img00000000.png", 6], ...]} or null

Numbered by sorted name. A zip is read in place. Names of members only ever name; nothing is
unpacked, and no member is believed to be as large as it says.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np

from data.decode import bad_image, decode
from data.formats import by_suffix
from data.readers.base import Found
from data.readers.layout import list_files
from data.readers.zips import (
    MAX_MEMBER,
    MemberSource,
    ZipFiles,
    archive_of,
    list_members,
    opened_zip,
    read_note,
)
from data.sources import PathTable
from storage.errors import DataError, DataShapeError, one_line

LABELS = "dataset.json"
LATENTS = 8
MAX_CLASSES = 1 << 20
_LOOKED_AT = 8
_ALSO = (".npy",)


def recognise(path: Path) -> Found | None:
    """A folder or zip in NVIDIA's layout; `set` also means `set.zip`."""
    if not path.is_dir():
        path = archive_of(path)
        if not path.is_file():
            return None
    return Found((), lambda split: EdmSource(path)) if is_edm(path) else None


class EdmSource(MemberSource):
    """One set in NVIDIA's layout; without splits, so it serves whichever is asked for.

    `channels` is 3, or 8 for latents (then `latent(i)` instead of `image(i)`). Classes are the
    numbers 0 .. the largest label, or the names dataset.json has under "classes"; a set without
    labels is one class. `labelled` says which it is. partial: what a dataset.json means that lacks
    the label of a picture: False, an error; True, a set without labels.
    """

    def __init__(
        self, root: str | os.PathLike, *, name: str | None = None, partial: bool = False
    ) -> None:
        self.root = Path(root)
        self.name = name or (self.root.stem if self.root.is_file() else self.root.name)
        unread: list[str] = []
        if self.root.is_dir():
            names = list_files(self.root, also=_ALSO, left_out=unread)
            if not names:
                raise DataError(f"no images or latents in {self.root}")
            self._files = _FolderFiles(self.root, names)
        else:
            members = list_members(self.root, _ALSO, unread)
            members.sort(key=lambda m: m.filename)
            names = [m.filename for m in members]
            self._files = ZipFiles(self.root, members)
        self.left_out = by_suffix(unread)
        latents = [n.endswith(".npy") for n in names]
        if any(latents) != all(latents):
            raise DataError(f"{self.root} holds pictures and latents; make two sets of them")
        self.channels = LATENTS if latents[0] else 3
        self._paths = PathTable(names)
        labels, self.classes = self._read_labels(names, partial)
        self.labelled = labels is not None
        self._labels = np.zeros(len(names), np.int32) if labels is None else labels
        self.shape = self._shape()

    def image(self, i: int) -> np.ndarray:
        """uint8 [H, W, 3]; DataError for latents, DataShapeError for another size than the rest."""
        if self.channels != 3:
            raise DataError(
                f"{self.root} holds latents, not pictures; "
                f"`python data/dataset_tool.py decode --source {self.root}` makes pictures of them"
            )
        return self._checked(decode(self.raw(i), self.path(i)), i)

    def latent(self, i: int) -> np.ndarray:
        """float32 [8, r, r]: mean, then standard deviation. Errors as `image`."""
        if self.channels == 3:
            raise DataError(f"{self.root} holds pictures, not latents")
        return self._checked(read_npy(self.raw(i), self.path(i)), i)

    def _checked(self, array: np.ndarray, i: int) -> np.ndarray:
        if array.shape != self.shape:
            raise DataShapeError(
                f"{self.path(i)} has the shape {list(array.shape)}, others of {self.root} have "
                f"{list(self.shape)}; a set of this layout has one size"
            )
        return array

    def _shape(self) -> tuple[int, ...]:
        """The shape of everything here, by the first that can be read."""
        for i in range(min(len(self), _LOOKED_AT)):
            try:
                data = self.raw(i)
                if self.channels == 3:
                    return decode(data, self.path(i)).shape
                shape = read_npy(data, self.path(i)).shape
            except DataError as error:
                fault = error
                continue
            if shape[0] != LATENTS:
                raise DataShapeError(
                    f"{self.path(i)} has {shape[0]} channels, latents have {LATENTS} (mean, std)"
                )
            return shape
        raise fault

    def _read_labels(self, names: list[str], partial: bool) -> tuple[np.ndarray | None, list[str]]:
        if self.root.is_dir():
            text = _read_file(self.root / LABELS, _limit(len(names)))
        else:
            with zipfile.ZipFile(self.root) as archive:
                text = read_note(archive, LABELS, _limit(len(names)))
        note = parse_note(text, f"{self.root}/{LABELS}") if text is not None else {}
        pairs = note.get("labels")
        if pairs is None:
            return None, [self.name]
        where = f"{self.root}/{LABELS}"
        table = {}
        for pair in pairs:
            if (
                not isinstance(pair, list)
                or len(pair) != 2
                or not isinstance(pair[0], str)
                or type(pair[1]) is not int
            ):
                raise DataError(f"{where} has a label that is no pair of a name and a class number")
            table[pair[0].replace("\\", "/")] = pair[1]
        missing = [n for n in names if n not in table]
        if missing and partial:
            return None, [self.name]
        if missing:
            more = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
            raise DataError(f"{where} has no label of {missing[0]}{more}")
        found = [table[n] for n in names]
        if min(found) < 0 or max(found) >= MAX_CLASSES:
            raise DataError(
                f"{where} has class {min(found)}..{max(found)}, not 0..{MAX_CLASSES - 1}"
            )
        labels = np.asarray(found, dtype=np.int32)
        count = int(labels.max()) + 1
        classes = note.get("classes")
        if classes is None:
            return labels, [str(k) for k in range(count)]
        if not isinstance(classes, list) or not all(isinstance(c, str) for c in classes):
            raise DataError(f"{where} has classes that are no list of names")
        if len(classes) < count:
            raise DataError(f"{where} names {len(classes)} classes, its labels go to {count - 1}")
        return labels, classes


class _FolderFiles:
    """Files below a folder by number, as ZipFiles."""

    def __init__(self, root: Path, names: list[str]) -> None:
        self.root = root
        self._names = PathTable(names)

    def path(self, i: int) -> str:
        return f"{self.root}/{self._names[i]}"

    def raw(self, i: int) -> bytes:
        path = self.path(i)
        try:
            with open(path, "rb") as file:
                data = file.read(MAX_MEMBER + 1)
        except OSError as error:
            raise bad_image(path, error.strerror or "unreadable") from None
        if len(data) > MAX_MEMBER:
            raise bad_image(path, "too large")
        return data


def is_edm(path: Path) -> bool:
    """Whether a folder or zip has this layout: a dataset.json that speaks of labels, or latents.

    DataError for a zip that cannot be read.
    """
    if path.is_dir():
        text = _read_file(path / LABELS, _limit(1 << 20))
        return _first_is_latent(path) if text is None else b'"labels"' in text
    with opened_zip(path) as archive:
        names = archive.namelist()
        text = read_note(archive, LABELS, _limit(len(names)))
    return any(_is_latent(n) for n in names) if text is None else b'"labels"' in text


def _limit(count: int) -> int:
    """Bytes that a dataset.json of so many files may have."""
    return (1 << 20) + 512 * count


def _first_is_latent(path: Path) -> bool:
    """A look into the first subfolder, not at everything."""
    try:
        inside = sorted(e.path for e in os.scandir(path) if e.is_dir() and e.name[0] != ".")
        folder = inside[0] if inside else path
        return any(_is_latent(e.name) for e in os.scandir(folder))
    except OSError:
        return False


def parse_note(text: bytes, where: str) -> dict:
    """The object in a dataset.json; `labels` is a list or None."""
    try:
        note = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is damaged ({str(error)[:100]})") from None
    if not isinstance(note, dict):
        raise DataError(f"{where} is no JSON object")
    if not isinstance(note.get("labels"), (list, type(None))):
        raise DataError(f"{where} has labels that are no list")
    return note


def read_npy(data: bytes, name: str) -> np.ndarray:
    """The float array of an .npy file as float32 [C, H, W]; DataError `bad image NAME (...)`.

    The header is not believed: no pickled objects, and exactly the bytes its shape asks for.
    """
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        elif version == (2, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
        else:
            raise ValueError(f"npy version {version}")
    except Exception as error:  # numpy parses the header as Python: any error is possible
        raise bad_image(name, f"not an npy file: {one_line(error, 100)}") from None
    if dtype.hasobject or dtype.kind != "f":
        raise bad_image(name, f"{dtype} instead of floats")
    there = len(data) - file.tell()
    need = dtype.itemsize
    for n in shape:
        need *= n
    if need != there or need == 0:
        raise bad_image(name, f"shape {list(shape)} in {there} bytes")
    flat = np.frombuffer(data, dtype, offset=file.tell())
    array = flat.reshape(shape, order="F" if fortran else "C")
    if array.ndim < 3 or any(n != 1 for n in shape[:-3]):
        raise bad_image(name, f"shape {list(shape)} instead of channels, height, width")
    array = np.array(array.reshape(shape[-3:]), dtype=np.float32, order="C")
    if not np.isfinite(array).all():
        raise bad_image(name, "non-finite values")
    return array


def _read_file(file: Path, limit: int) -> bytes | None:
    try:
        with open(file, "rb") as handle:
            data = handle.read(limit + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from None
    if len(data) > limit:
        raise DataError(f"{file} is larger than {limit >> 20} MiB")
    return data


def _is_latent(name: str) -> bool:
    base = name.rsplit("/", 1)[-1]
    return base.startswith("img-mean-std-") and base.endswith(".npy")
