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
from pathlib import Path

import numpy as np

from data.decode import bad_image, decode
from data.formats import by_suffix
from data.readers.layout import list_files
from data.readers.tree import (
    NOTES,
    FolderTree,
    Layout,
    NameTree,
    member_name,
    notes_limit,
    understand,
)
from data.readers.zip_index import MAX_MEMBER, MemberSource, ZipIndex
from data.sources import PathTable, Place
from storage.errors import DataError, DataShapeError, one_line
from storage.files import open_plain

LABELS = NOTES
LATENTS = 8
MAX_CLASSES = 1 << 20
_LOOKED_AT = 8


class EdmSource(MemberSource):
    """One set in NVIDIA's layout, of a folder or zip, or one split of either.

    `channels` is 3, or 8 for latents (then `latent(i)` instead of `image(i)`). Classes are the
    numbers 0 .. the largest label, or the names dataset.json has under "classes"; a set without
    labels is one class. `labelled` says which it is, `unlabelled` why labels that are there are not
    used, if so. partial: what a dataset.json means that lacks
    the label of a picture: False, an error; True, a set without labels.

    at: the folder inside `root` that the pictures lie in, by default where they begin; note_at:
    that of dataset.json, by default the same. index: that of the zip, if it is read already.
    """

    place: Place | None

    def __init__(
        self,
        root: str | os.PathLike,
        *,
        name: str | None = None,
        partial: bool = False,
        at: str | None = None,
        note_at: str | None = None,
        index: ZipIndex | None = None,
    ) -> None:
        self.root = Path(root)
        self.name = name or (self.root.stem if self.root.is_file() else self.root.name)
        tree: FolderTree | NameTree
        unread: list[str] = []
        if self.root.is_dir():
            tree = FolderTree(self.root)
            layout = understand(tree)
            at = layout.at if at is None else at
            names = list_files(tree.where(at), also=_is_array, left_out=unread)
            if not names:
                raise DataError(f"no images or latents in {self.root}")
            self._files = _FolderFiles(Path(tree.where(at)), names)
            self.place = Place(f"the folder {self.root}", tuple(layout.splits), layout.unused)
        else:
            index = index or ZipIndex(self.root)
            tree, layout = index.tree, index.layout
            at = layout.at if at is None else at
            members = index.pictures(at, _is_array, unread)
            names = [m[len(at) :] for m in members]
            self._files = index.files(members)
            self.place = index.place()
        note_at = at if note_at is None else note_at
        latents = [n.endswith(".npy") for n in names]
        if any(latents) != all(latents):
            raise DataError(f"{self.root} holds pictures and latents; make two sets of them")
        self.left_out = by_suffix(unread)
        self.channels = LATENTS if latents[0] else 3
        self._paths = PathTable(names)
        text = tree.read(note_at + LABELS, notes_limit(len(names)))
        where = tree.where(note_at + LABELS)
        keys = [[f"{at[len(note_at) :]}{n}" for n in names], [f"{at}{n}" for n in names]]
        labels, self.classes, self.unlabelled = _read_labels(text, where, keys, self.name, partial)
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


def _read_labels(
    text: bytes | None, where: str, names: list[list[str]], alone: str, partial: bool
) -> tuple[np.ndarray | None, list[str], str]:
    """Labels [N] and classes by a dataset.json; None and [alone] where it gives none; in the third
    place what it lacks, if `partial` lets that pass.

    names: of the pictures, as seen from the note; in the second place as seen from the top of all.
    """
    note = parse_note(text, where) if text is not None else {}
    pairs = note.get("labels")
    if pairs is None:
        return None, [alone], ""
    table: dict[str, int] = {}
    for pair in pairs:
        number = None
        if isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str):
            number = class_number(pair[1])
        if number is None:
            raise DataError(
                f"{where} has a label that is no pair of a name and a class number: "
                f"{json.dumps(pair)[:100]}"
            )
        key = member_name(pair[0]) or pair[0]
        if table.setdefault(key, number) != number:
            raise DataError(
                f"{where} says of {key[:100]} that it is of class {table[key]} and of {number}; "
                "remove one of them"
            )
    mine = next((keys for keys in names if keys[0] in table), names[0])
    missing = [n for n in mine if n not in table]
    if missing:
        more = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
        if partial:
            return None, [alone], f"{NOTES} has no label of {missing[0]}{more}"
        raise DataError(
            f"{where} has no label of {missing[0]}{more}; add it, or move pictures that are "
            "no part of the set elsewhere"
        )
    found = [table[n] for n in mine]
    if min(found) < 0 or max(found) >= MAX_CLASSES:
        raise DataError(f"{where} has class {min(found)}..{max(found)}, not 0..{MAX_CLASSES - 1}")
    labels = np.asarray(found, dtype=np.int32)
    count = int(labels.max()) + 1
    classes = note.get("classes")
    if classes is None:
        return labels, [str(k) for k in range(count)], ""
    if not isinstance(classes, list) or not all(isinstance(c, str) for c in classes):
        raise DataError(f"{where} has classes that are no list of names")
    if len(classes) < count:
        raise DataError(f"{where} names {len(classes)} classes, its labels go to {count - 1}")
    return labels, classes, ""


def class_number(label: object) -> int | None:
    """The class that a label of a dataset.json means: a whole number, or the place of the one 1 in
    a list of zeros, as NVIDIA's reader takes them; None for anything else.
    """
    if isinstance(label, list):
        ones = [k for k, v in enumerate(label) if _whole(v) == 1]
        zeros = sum(_whole(v) == 0 for v in label)
        return ones[0] if len(ones) == 1 and zeros == len(label) - 1 else None
    return _whole(label)


def _whole(value: object) -> int | None:
    if type(value) is float and value.is_integer():
        return int(value)
    return value if type(value) is int else None


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
            with open_plain(path) as file:
                data = file.read(MAX_MEMBER + 1)
        except OSError as error:
            raise bad_image(path, error.strerror or "unreadable") from None
        if len(data) > MAX_MEMBER:
            raise bad_image(path, "too large")
        return data


def is_edm(path: Path) -> bool:
    """Whether a folder or zip has this layout: a dataset.json that speaks of labels where its
    pictures begin, or latents there; and no splits.

    DataError for a zip that cannot be read.
    """
    layout: Layout = understand(FolderTree(path)) if path.is_dir() else ZipIndex(path).layout
    return layout.noted and not layout.splits


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


def _is_array(name: str) -> bool:
    base = name.rsplit("/", 1)[-1]
    return base.endswith(".npy") and not base.startswith(".")
