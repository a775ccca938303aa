"""Images in folders: `split/class/picture`, the usual layout; a flat folder is one class."""

from __future__ import annotations

import os
import re
from functools import partial
from pathlib import Path

import numpy as np

from data.decode import bad_image, decode, picture_bytes
from data.formats import by_suffix, said
from data.notes import COUNT, read_note
from data.readers.base import Found, refused
from data.readers.edm_zip import EdmSource
from data.readers.layout import (
    ANNOTATIONS,
    annotated_labels,
    are_shards,
    classes_and_labels,
    is_note,
    list_files,
    refuse_empty_classes,
    refuse_labels,
    word_names,
)
from data.readers.tree import (
    FolderTree,
    Layout,
    held_archives,
    inside_split,
    is_archive,
    notes_of,
    understand,
    unwrapped,
)
from data.readers.zip_index import MAX_NOTE
from data.sources import (
    PathTable,
    Place,
    Source,
    check_split,
    resolution_name,
    split_of,
)
from storage.errors import DataError
from storage.files import read_bytes
from storage.listing import list_digest

# Written next to the files of a resolution when every one of them is there.
COMPLETE = "complete-{split}.json"
# There while they are being made.
BUILDING = "building-{split}.json"
# Beside the originals: what the last look at all of them found.
INDEX = "index-{split}.json"


def recognise(path: Path) -> Found | None:
    """Any folder; it, or one of its splits, may be in NVIDIA's layout."""
    if not path.is_dir():
        return None
    tree = FolderTree(path)
    try:
        layout = understand(tree)
    except DataError as error:
        return refused(str(error))
    return Found(tuple(layout.splits), partial(_open, path, tree, layout))


def _open(path: Path, tree: FolderTree, layout: Layout, split: str) -> Source:
    split = check_split(split)
    place = Place(f"the folder {path}", tuple(layout.splits), layout.unused)
    if not layout.splits:
        if layout.noted:
            return EdmSource(path)
        return _open_whole(path, Path(tree.where(layout.at)), place)
    cut_off = ", or cv to cut one off" if split == "val" and "train" in layout.splits else ""
    hint = f" (give NAME/{next(iter(layout.splits))}{cut_off})"
    at = layout.folder(split, tree, hint)
    if (note := notes_of(tree, layout, at)) is not None:
        return EdmSource(path, name=f"{path.name}/{split}", at=at, note_at=note)
    return FolderSource(tree.where(at), base=path, split=split, place=place)


def _open_whole(path: Path, inner: Path, place: Place) -> Source:
    own = split_of(path.name)
    if own is not None:
        beside = [e.name for e in path.parent.iterdir() if split_of(e.name) == own and e.is_dir()]
        if beside == [path.name]:
            # NAME/train given as a path: its prebuilt sizes lie beside NAME, and what is in it are
            # classes, one or many
            tree = FolderTree(path)
            at = tree.where(inside_split(tree, ""))
            return FolderSource(at, base=path.parent, split=own, place=place)
    return FolderSource(inner, base=path, split=None, place=place)


class FolderSource:
    """The pictures of one folder, sorted by class, then by path: the numbering of torchvision.

    `root` is the folder of one split (or a folder without splits). `base`/`split` say where
    prebuilt resolutions lie: `{base}_{R}x{R}/{split}`; they default to what the path itself says.
    as_nvidia: what NVIDIA's dataset_tool takes for classes, all folders at the top with pictures;
    those without are passed over.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        *,
        name: str | None = None,
        base: str | os.PathLike | None = None,
        split: str | None = None,
        place: Place | None = None,
        as_nvidia: bool = False,
    ) -> None:
        self.place = place
        self.root = Path(root)
        if not self.root.exists():
            raise DataError(f"{self.root} does not exist")
        if not self.root.is_dir():
            raise DataError(f"{self.root} is a file, not a folder of images")
        self.base = Path(base) if base is not None else self.root
        self.split = split
        self.name = name or (self.base.name if split is None else f"{self.base.name}/{split}")
        unread: list[str] = []
        found = list_files(self.root, also=is_note, left_out=unread)
        self.left_out = by_suffix(unread)
        paths = [p for p in found if not is_note(p)]
        tree = FolderTree(self.root)
        refuse_labels(tree, "", filter(is_note, found))
        if not paths:
            archives = [n for n in FolderTree(unwrapped(self.root)).files("") if is_archive(n)]
            if archives:
                raise DataError(f"no images under {self.root}{held_archives(archives)}")
            raise DataError(
                f"no images under {self.root} (looked for .jpg, .png and the like); "
                f"{said(self.left_out) or 'is it the right folder?'}"
            )
        table = _read_beside([self.root], ANNOTATIONS)
        if table is not None and len({p.split("/", 1)[0] for p in paths}) == 1:
            known = _read_beside(self._above(), "wnids.txt")
            self.classes, labels = annotated_labels(paths, table, known, str(self.root))
        else:
            self.classes, labels = classes_and_labels(paths, str(self.root), self.base.name)
            if as_nvidia:
                pass
            elif "/" in paths[0] and not are_shards(paths):
                refuse_empty_classes(tree, "", self.classes, unread)
            elif any("\\" in p for p in paths):
                raise DataError(
                    f"{self.root} has files with `\\` in their names ({paths[0]}), of an archive "
                    "whose folders they were: give the archive itself, or unpack it by "
                    "`python data/SetupDataset.py --data NAME --source ARCHIVE`"
                )
        self.class_names = word_names(
            self.classes, lambda note: _read_beside([self.root, *self._above()], note)
        )
        self._paths = PathTable(paths)
        self._labels = np.asarray(labels, dtype=np.int32)
        self._prebuilt: dict[int, tuple[str, str]] = {}

    def _above(self) -> list[Path]:
        """Where notes about the whole set lie, also if the split is a link to somewhere."""
        return [self.base, self.root.resolve().parent]

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
        return picture_bytes(self.path(i))

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
            return read_bytes(folder / name, MAX_NOTE)
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
    form = {"digest": str, "count": COUNT, "crop?": str, "format?": str}
    return read_note(file, form, "remove it and run SetupDataset again")


def splits_in(root: Path, *, filled: bool = False, outer: bool = False) -> dict[str, Path]:
    """Split folders under `root`, or under what it wraps, by split; {} if there are none.

    filled: leave out a test without pictures, which training never asks for. outer: the folders
    themselves, also where others wrap their classes. DataError: two folders of one split, or names
    that only look like splits.
    """
    tree = FolderTree(root)
    layout = understand(tree)
    found = {split: layout.folder(split, tree) for split in layout.splits}
    if filled:
        found = {k: at for k, at in found.items() if k != "test" or tree.has_data(at)} or found
    if outer:
        found = {split: layout.splits[split] for split in found}
    return {split: Path(tree.where(at)) for split, at in found.items()}


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
