"""Images in folders: `split/class/picture`, the usual layout; a flat folder is one class."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from data.decode import bad_image, decode
from data.sources import (
    SPLIT_ALIASES,
    SPLITS,
    PathTable,
    is_image_name,
    resolution_name,
    split_of,
)
from storage.errors import DataError

# Written next to the files of a resolution when every one of them is there.
COMPLETE = "complete-{split}.json"
# There while they are being made.
BUILDING = "building-{split}.json"
# Beside the originals: what the last look at all of them found.
INDEX = "index-{split}.json"


def list_files(root: str | os.PathLike, keep=is_image_name) -> list[str]:
    """Files under `root` whose name `keep` accepts, as sorted `/`-joined relative paths.

    Follows links; hidden entries and `__MACOSX` are left out; a link to a folder above is not
    entered.
    """
    found: list[str] = []

    def walk(folder: str, prefix: str, above: frozenset) -> None:
        for entry in _entries(folder):
            if entry.name.startswith(".") or entry.name == "__MACOSX":
                continue
            if os.path.isdir(entry.path):  # unlike entry.is_dir(), false where one may not look
                real = os.path.realpath(entry.path)
                if real not in above:
                    walk(entry.path, f"{prefix}{entry.name}/", above | {real})
            elif keep(entry.name):
                found.append(prefix + entry.name)

    walk(os.fspath(root), "", frozenset([os.path.realpath(root)]))
    return found


def _entries(folder: str | os.PathLike) -> list[os.DirEntry]:
    try:
        return sorted(os.scandir(folder), key=lambda e: e.name)
    except OSError as error:
        raise DataError(f"cannot list {folder}: {error.strerror}") from None


def classes_and_labels(paths: list[str], where: str, flat_name: str) -> tuple[list[str], list[int]]:
    """Class names (sorted) and a label per relative path; no class folders means one class."""
    loose = [p for p in paths if "/" not in p]
    if len(loose) == len(paths):
        return [flat_name], [0] * len(paths)
    if loose:
        raise DataError(
            f"{where} has class folders and loose images side by side ({loose[0]} and "
            f"{len(loose) - 1} more); move the loose ones out"
        )
    tops = [p.split("/", 1)[0] for p in paths]
    classes = sorted(set(tops))
    number = {c: k for k, c in enumerate(classes)}
    return classes, [number[t] for t in tops]


ANNOTATIONS = "val_annotations.txt"


def annotated_labels(
    paths: list[str], table: bytes, known: bytes | None, where: str
) -> tuple[list[str], list[int]]:
    """Tiny ImageNet's val split: pictures in one folder, classes in a table (file, class, box).

    known: the classes of the whole set, one a line, so that a part is numbered as the whole is.
    """
    rows = (line.split("\t") for line in table.decode("utf-8", "replace").splitlines())
    class_of = {row[0]: row[1] for row in rows if len(row) >= 2}
    missing = [p for p in paths if p.rsplit("/", 1)[-1] not in class_of]
    if missing:
        raise DataError(f"{ANNOTATIONS} in {where} says no class of {missing[0]}")
    mine = [class_of[p.rsplit("/", 1)[-1]] for p in paths]
    classes = sorted({*mine, *(known or b"").decode("utf-8", "replace").split()})
    number = {c: k for k, c in enumerate(classes)}
    return classes, [number[c] for c in mine]


def word_names(classes: list[str], read: Callable[[str], bytes | None]) -> list[str] | None:
    """What WordNet's numbers (n01443537) mean, by words.txt or classes.txt; None if not told.

    read(name): the bytes of a file beside the pictures, or None. The first synonym is taken, with
    the number where two classes share it.
    """
    if not all(re.fullmatch(r"n\d{8}", c) for c in classes):
        return None
    wanted, words = set(classes), {}
    for note in ("words.txt", "classes.txt"):
        for line in (read(note) or b"").decode("utf-8", "replace").splitlines():
            number, _, meaning = line.partition("\t")
            if number in wanted and meaning.strip():
                words.setdefault(number, meaning.split(",")[0].strip())
    if len(words) < len(wanted):
        return None
    names = [words[c] for c in classes]
    return [n if names.count(n) == 1 else f"{n} ({c})" for n, c in zip(names, classes, strict=True)]


def list_digest(paths) -> str:
    """SHA-256 of a list of relative paths, order included."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(os.fsencode(path) + b"\n")
    return digest.hexdigest()


class FolderSource:
    """The pictures of one folder, sorted by class, then by path: the numbering of torchvision.

    `root` is the folder of one split (or a folder without splits). `base`/`split` say where
    prebuilt resolutions lie: `{base}_{R}x{R}/{split}`; they default to what the path itself says.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        *,
        name: str | None = None,
        base: str | os.PathLike | None = None,
        split: str | None = None,
    ) -> None:
        self.root = Path(root)
        if not self.root.exists():
            raise DataError(f"{self.root} does not exist")
        if not self.root.is_dir():
            raise DataError(f"{self.root} is a file, not a folder of images")
        self.base = Path(base) if base is not None else self.root
        self.split = split
        self.name = name or (self.base.name if split is None else f"{self.base.name}/{split}")
        paths = list_files(self.root)
        if not paths:
            raise DataError(
                f"no images under {self.root} (looked for .jpg, .png and the like); "
                "is it the right folder?"
            )
        table = _read_beside([self.root], ANNOTATIONS)
        if table is not None and len({p.split("/", 1)[0] for p in paths}) == 1:
            known = _read_beside(self._above(), "wnids.txt")
            self.classes, labels = annotated_labels(paths, table, known, str(self.root))
        else:
            self.classes, labels = classes_and_labels(paths, str(self.root), self.base.name)
            if "/" in paths[0]:
                self._refuse_empty_classes()
        self.class_names = word_names(
            self.classes, lambda note: _read_beside([self.root, *self._above()], note)
        )
        self._paths = PathTable(paths)
        self._labels = np.asarray(labels, dtype=np.int32)
        self._prebuilt: dict[int, tuple[str, str]] = {}

    def _above(self) -> list[Path]:
        """Where notes about the whole set lie, also if the split is a link to somewhere."""
        return [self.base, self.root.resolve().parent]

    def _refuse_empty_classes(self) -> None:
        for entry in _entries(self.root):
            if (
                entry.is_dir()
                and not entry.name.startswith(".")
                and entry.name != "__MACOSX"
                and entry.name not in self.classes
            ):
                raise DataError(
                    f"class folder {entry.path} has no images; fill it or remove it "
                    "(it would shift or waste a class number)"
                )

    def __len__(self) -> int:
        return len(self._labels)

    def label(self, i: int) -> int:
        """Class index."""
        return int(self._labels[i])

    def path(self, i: int) -> str:
        """The file."""
        return f"{self.root}/{self._paths[i]}"

    def relative(self, i: int) -> str:
        """The file, relative to the split's folder."""
        return self._paths[i]

    def image(self, i: int) -> np.ndarray:
        """uint8 [H, W, 3]; DataError naming the file."""
        return decode(self.path(i))

    def raw(self, i: int) -> bytes:
        """The file's bytes."""
        try:
            return Path(self.path(i)).read_bytes()
        except OSError as error:
            raise bad_image(self.path(i), error.strerror or "unreadable") from None

    def digest(self) -> str:
        """SHA-256 of the file list."""
        return list_digest(self._paths)

    def prebuilt_root(self, size: int) -> Path:
        """Where the pictures of this set at size x size lie, if somebody made them."""
        folder = self.base.with_name(resolution_name(self.base.name, size))
        return folder if self.split is None else folder / self.split

    def has_native(self, size: int, crop: str = "squash") -> bool:
        """True if a whole folder of this size exists; an incomplete or wrong one is an error."""
        root = self.prebuilt_root(size)
        if not root.is_dir():
            return False
        folder = root if self.split is None else root.parent
        again = (
            f"run `python data/SetupDataset.py --data {self.base.name} --sizes {size}` again, or "
            f"remove {folder}"
        )
        name = self.split or "all"
        if (folder / BUILDING.format(split=name)).exists():
            raise DataError(f"{root} is unfinished; {again}")
        note = _read_note(folder / COMPLETE.format(split=name))
        if note is None:
            if crop != "squash":
                return False  # only squashed folders were ever made by other tools
            form = self._compare_with_folder(root, again)
        else:
            if note.get("crop", "squash") != crop:
                return False
            if note["digest"] != self.digest():
                raise DataError(
                    f"{root} was made from {note['count']} files, {self.root} now has other ones "
                    f"({len(self)}); {again}"
                )
            index = _read_note(self.base / INDEX.format(split=name))
            if index is not None and index.get("content") != note.get("content"):
                raise DataError(f"{root} was made before {self.root} changed; {again}")
            form = str(note.get("format", "keep"))
        self._prebuilt[size] = (str(root), form)
        return True

    def _compare_with_folder(self, root: Path, again: str) -> str:
        """For folders without our note: the same relative paths, or the same ending in .png."""
        there = set(list_files(root))
        for form in ("keep", "png", "png-full"):
            if {native_name(p, form) for p in self._paths} == there:
                return form
        missing = len({native_name(p, "keep") for p in self._paths} - there)
        raise DataError(
            f"{root} does not hold the same pictures as {self.root} ({missing} of {len(self)} "
            f"missing, {len(there)} there); {again}"
        )

    def native(self, i: int, size: int) -> np.ndarray:
        """uint8 [size, size, 3] from the prebuilt folder."""
        if size not in self._prebuilt and not self.has_native(size):
            raise DataError(f"{self.name} has no prebuilt {size}x{size} pictures")
        root, form = self._prebuilt[size]
        file = f"{root}/{native_name(self._paths[i], form)}"
        image = decode(file)
        if image.shape[:2] != (size, size):
            raise bad_image(file, f"{image.shape[1]}x{image.shape[0]} in a folder of {size}x{size}")
        return image


def _read_beside(folders: list[Path], name: str) -> bytes | None:
    for folder in folders:
        try:
            return (folder / name).read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise DataError(f"cannot read {folder / name}: {error.strerror}") from None
    return None


def native_name(path: str, form: str) -> str:
    """Name of a picture in a resolution folder.

    `keep`: the original's own (re-encoded); `png`: lossless, only the suffix changes; `png-full`:
    lossless, the suffix stays inside the name (`a.jpg.png`), for sets that hold both a.jpg and
    a.png.
    """
    if form == "keep":
        return path
    return (os.path.splitext(path)[0] if form == "png" else path) + ".png"


def lossless_form(paths) -> str:
    """`png` if no two paths differ by their suffix alone, else `png-full`."""
    names = [native_name(p, "png") for p in paths]
    return "png" if len(set(names)) == len(names) else "png-full"


def _read_note(file: Path) -> dict | None:
    try:
        note = json.loads(file.read_text())
        return note if {"digest", "count"} <= note.keys() else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(
            f"{file} is damaged ({error}); remove it and run SetupDataset again"
        ) from None


def split_folder(root: Path, split: str) -> Path | None:
    """The subfolder of `root` that holds `split` under any of its names, or None."""
    for name in SPLIT_ALIASES[split]:
        if (root / name).is_dir():
            return root / name
    return None


def splits_in(root: Path) -> dict[str, Path]:
    """Split folders under `root` by split. Empty if they are rather classes among other classes."""
    found = {s: f for s in SPLITS if (f := split_folder(root, s)) is not None}
    if len(found) != 1:
        return found  # two of these names together are no coincidence
    for entry in _entries(root):
        if os.path.isdir(entry.path) and split_of(entry.name) is None and entry.name[0] != ".":
            if any(is_image_name(e.name) for e in _entries(entry.path)):
                return {}  # a sibling full of images: `train` is a class (of locomotives)
    return found


_RESOLUTION = re.compile(r"^(.*)_(\d+)x\2$")


def resolutions_of(data_path: Path, name: str) -> list[int]:
    """Sizes R for which a folder `{name}_{R}x{R}` exists."""
    sizes = []
    if data_path.is_dir():
        for entry in data_path.iterdir():
            match = _RESOLUTION.match(entry.name)
            if match and match[1] == name and entry.is_dir():
                sizes.append(int(match[2]))
    return sorted(sizes)
