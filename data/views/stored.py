"""Several made-up views of every picture, on disk: written once, read by contrastive training.

Three layouts, each of one split, in one folder:
    folder   SPLIT/CLASS/PICTURE_aug<j>.png, an ImageFolder like any other
    lmdb     NAME_SPLIT_SIZE.lmdb, raw pixels, keys CLASS/PICTURE_aug<j>
    memmap   SPLIT.views.u8, uint8 [N, k, 3, s, s]
and beside it `views-SPLIT.json`: which pictures, how many views, how they were made. Folders of the
original SimCLR code, of that naming without the note, are read as well, and so is any source whose
names end in `_aug<j>`.

    cache = open_views("tiny_views", source, 64)      # views of the pictures of a source
    drawn = CachedViews(cache.images, rows=cache.rows)
    items = PreAugmentedDataset("tiny_views", "cl")   # the original SimCLR code's data set of views
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import multiprocessing
import os
import re
import shutil
import sys
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data.decode import resize_rgb
from data.labelled import own_size
from data.pyramids import free_memory
from data.readers.lmdb_store import LmdbSource, LmdbWriter, close_all, env_name, finished_plan
from data.registry import open_source
from data.sources import NamesFiles, Source, Subset, is_image_name, keyed_order
from data.uint8_cache import UInt8Cache, _check_memory
from storage.errors import DataBusyError, DataDiskError, DataError
from storage.files import Damaged, locked, make_folder, read_json, write_bytes, write_json

FORMATS = ("folder", "lmdb", "memmap")
NOTE_EVERY_S = 2.0  # between notes of progress: what a killed process may lose
_AUG = re.compile(r"(.*)_aug(\d+)", re.DOTALL)


# ------------------------------------------------------------------------------------------- names


def root_of(source: Source) -> tuple[Source, np.ndarray]:
    """The whole set that subsets were cut from, and the numbers int64 [N] in it of the pictures."""
    numbers = np.arange(len(source))
    while isinstance(source, Subset):
        numbers, source = source.indices[numbers], source.source
    return source, numbers


def root_ids(source: Source) -> Tensor:
    """Numbers int64 [N] that pictures have in the whole set: the keys of their views."""
    return torch.from_numpy(root_of(source)[1].astype(np.int64))


def picture_names(source: Source) -> list[str]:
    """`class/picture` of every picture, the same however the set is stored or cut, and unique.

    Pictures that share it (in folders below a class) have their number in the whole set behind it.
    """
    root, numbers = root_of(source)
    stems = [_stem(root.path(i)) for i in range(len(root))]
    names = [f"{root.classes[root.label(i)]}/{stem}" for i, stem in enumerate(stems)]
    seen: dict[str, int] = {}
    for name in names:
        seen[name] = seen.get(name, 0) + 1
    names = [n if seen[n] == 1 else f"{n}~{i}" for i, n in enumerate(names)]
    return [names[i] for i in numbers]


def _stem(path: str) -> str:
    """The name of a picture without folders and suffix, as part of a file's name."""
    base = path.replace(":", "/").rstrip("/").rsplit("/", 1)[-1]
    return os.path.splitext(base)[0] if is_image_name(base) else base


def group_views(source: Source, *, plain: bool = False) -> dict[str, list[int]]:
    """`class/picture` -> numbers in a source of its views, by the number behind `_aug`.

    plain: a picture without that ending is the first of its group; else it is left out.
    """
    found: dict[str, list[tuple[int, int]]] = {}
    for i, name in enumerate(_plain_names(source)):
        match = _AUG.fullmatch(name)
        if match or plain:
            stem, number = (match[1], int(match[2])) if match else (name, -1)
            found.setdefault(stem, []).append((number, i))
    return {stem: [i for _, i in sorted(views)] for stem, views in sorted(found.items())}


def _plain_names(source: Source) -> list[str]:
    """Names as they are on disk: what makes groups must not be changed to be unique."""
    return [
        f"{source.classes[source.label(i)]}/{_stem(source.path(i))}" for i in range(len(source))
    ]


# ----------------------------------------------------------------------------------------- writing


class ViewWriter:
    """Writes k views of every picture of a source, in the order of the pictures, resumably.

    folder: where. settings: JSON values that decide the pixels: what was begun with others is
    refused. first: number of the first view (the `_aug` numbers are first .. first + k - 1).
    `done` pictures are there already; `put` the next ones, then `finish`. Exclusive while open.
    DataError: other settings, a folder that is not ours, no space; DataBusyError: another writer.
    """

    def __init__(
        self,
        folder: str | Path,
        source: Source,
        *,
        k: int,
        size: int,
        format: str = "folder",
        split: str = "train",
        first: int = 0,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        if format not in FORMATS:
            raise DataError(f"format {format!r} is none of {', '.join(FORMATS)}")
        if k < 1 or size < 1 or first < 0:
            raise DataError(f"{k} views of {size} px from number {first}: give positive numbers")
        self.folder, self.format, self.split = Path(folder), format, split
        self.k, self.size, self.first = int(k), int(size), int(first)
        self.names = picture_names(source)
        self._labels = [source.label(i) for i in range(len(source))]
        self._classes = list(source.classes)
        plan = {"format": format, "k": self.k, "size": self.size, "first": self.first}
        plan["pictures"] = _digest(self.names)
        self.plan = json.loads(json.dumps({**plan, **(settings or {})}))
        self._sums: list[list[int]] = []
        self.done = 0
        self.finished = False
        self._lmdb: LmdbWriter | None = None
        self._pixels: np.memmap | None = None
        self._noted = -math.inf
        self._stack = contextlib.ExitStack()
        if not _note(self.folder, split).exists() and not self._progress.exists():
            self._check_space()
        lock = self.folder / f".views-{split}.lock"
        with self._stack:
            try:
                self._stack.enter_context(locked(lock, wait=False, what=str(self.folder)))
            except DataBusyError:
                raise DataBusyError(f"{self.folder} is being written by another process") from None
            self._begin()
            self._stack = self._stack.pop_all()

    def __enter__(self) -> ViewWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.names)

    @property
    def place(self) -> Path:
        """What holds the pixels: a folder or a file."""
        return _place(self.folder, self.format, self.split, self.size)

    def _begin(self) -> None:
        note, begun = _read(_note(self.folder, self.split)), _read(self._progress)
        for old in (note, begun):
            if old is not None and old.get("plan") != self.plan:
                raise DataError(
                    f"{self.folder} holds other views of {self.split} "
                    f"({_difference(old.get('plan'), self.plan)}); choose another folder"
                )
        if note is not None:
            self.done, self.finished = len(self), True
            return
        if begun is None and self.place.exists():
            raise DataError(f"{self.place} is there and not ours to go on with; another folder")
        if begun is None:
            self._note_progress()
        else:
            self.done, self._sums = int(begun["done"]), list(begun["sums"])
        try:
            if self.format == "memmap":
                self._begin_memmap()
            elif self.format == "lmdb":
                plan = _digest([json.dumps(self.plan, sort_keys=True)])
                # complete but for our note, if we were stopped right before it
                if finished_plan(self.place) != plan:
                    self._lmdb = LmdbWriter(self.place, plan=plan)
                    self._stack.callback(self._lmdb.close)
            else:
                make_folder(self.place)
                self.done = next((i for i in range(self.done) if not self._has(i)), self.done)
        except OSError as error:
            raise self._disk(error) from None

    def _has(self, i: int) -> bool:
        files = (self._file(self.names[i], j) for j in range(self.k))
        return all(file.is_file() for file in files)

    def _file(self, name: str, j: int) -> Path:
        return self.place / f"{name}_aug{self.first + j}.png"

    def _begin_memmap(self) -> None:
        bytes_ = len(self) * self._bytes
        if not self.place.is_file() or self.place.stat().st_size != bytes_:
            self.done, self._sums = 0, []
            with open(self.place, "wb") as out:
                out.truncate(bytes_)
        shape = (len(self), self.k, 3, self.size, self.size)
        self._pixels = np.memmap(self.place, np.uint8, "r+", shape=shape)

    def _check_space(self) -> None:
        need = len(self) * self._bytes if self.format != "folder" else 0
        there = next(p for p in (self.folder, *self.folder.absolute().parents) if p.exists())
        free = shutil.disk_usage(there).free
        if need > free:
            raise DataError(
                f"{len(self)} x {self.k} views of {self.size} px need {need / 2**30:.1f} GiB in "
                f"{self.folder}, {free / 2**30:.1f} are free; fewer views, or --format folder"
            )

    def put(self, views: Tensor) -> None:
        """The views uint8 [B, k, 3, s, s] of the next B pictures."""
        shape = (self.k, 3, self.size, self.size)
        if views.dtype != torch.uint8 or views.shape[1:] != shape:
            raise DataError(f"views must be uint8 [B, {', '.join(map(str, shape))}]")
        if self.done + len(views) > len(self):
            raise DataError(f"{self.done + len(views)} pictures, the set has {len(self)}")
        pixels = views.cpu().contiguous().numpy()
        part = slice(self.done, self.done + len(pixels))
        try:
            if self.format == "memmap":
                assert self._pixels is not None, "the writer is closed"
                self._pixels[part] = pixels
            elif self._lmdb is not None:
                self._lmdb.put(
                    [
                        (f"{name}_aug{self.first + j}", view.transpose(1, 2, 0))
                        for name, row in zip(self.names[part], pixels, strict=True)
                        for j, view in enumerate(row)
                    ]
                )
            else:
                for name, row in zip(self.names[part], pixels, strict=True):
                    self._put_files(name, row)
            if self.format == "memmap":
                self._sums.append([part.stop, zlib.crc32(pixels.data)])
            self.done = part.stop
            if self.done == len(self) or time.monotonic() - self._noted >= NOTE_EVERY_S:
                self._note_progress()
        except OSError as error:
            raise self._disk(error) from None

    def _put_files(self, name: str, views: np.ndarray) -> None:
        import io

        from PIL import Image

        for j, view in enumerate(views):
            out = io.BytesIO()
            Image.fromarray(np.ascontiguousarray(view.transpose(1, 2, 0))).save(out, "PNG")
            file = self._file(name, j)
            make_folder(file.parent)
            write_bytes(file, out.getvalue(), durable=False)  # by the thousand

    def finish(self, **facts: Any) -> int:
        """All pictures are put: check, write the note with `facts` (JSON). Returns the bytes."""
        if self.done < len(self):
            raise DataError(f"{self.done} of {len(self)} pictures are there; run again")
        if self.finished:
            return self.bytes()
        try:
            if self._lmdb is not None:
                keys = [f"{n}_aug{self.first + j}" for n in self.names for j in range(self.k)]
                labels = [label for label in self._labels for _ in range(self.k)]
                self._lmdb.finish(keys, labels, self._classes, size=self.size)
            note = {"plan": self.plan, "facts": facts, "sums": self._sums, "names": self.names}
            note |= {"labels": self._labels, "classes": self._classes}
            write_json(_note(self.folder, self.split), note)  # last: says that all of it is there
            self._progress.unlink(missing_ok=True)
        except OSError as error:
            raise self._disk(error) from None
        self.finished = True
        return self.bytes()

    def bytes(self) -> int:
        """Bytes of the pixels on the disk."""
        if self.place.is_file():
            return self.place.stat().st_size
        return sum(f.stat().st_size for f in self.place.rglob("*") if f.is_file())

    def close(self) -> None:
        """Note how far it came, let go of files and lock; safe to call twice."""
        if self._progress.exists() and not self.finished:
            with contextlib.suppress(OSError):
                self._note_progress()
        self._pixels = None
        self._stack.close()

    @property
    def _bytes(self) -> int:
        return self.k * 3 * self.size * self.size

    @property
    def _progress(self) -> Path:
        return self.folder / f"building-views-{self.split}.json"

    def _note_progress(self) -> None:
        if self._pixels is not None:
            self._pixels.flush()
        note = {"plan": self.plan, "done": self.done, "sums": self._sums}
        write_json(self._progress, note)
        self._noted = time.monotonic()

    def _disk(self, error: OSError) -> DataDiskError:
        return DataDiskError(
            f"cannot write {self.folder}: {error.strerror or error}; run again when it can, it "
            "goes on from here"
        )


def _place(folder: Path, format: str, split: str, size: int) -> Path:
    if format == "folder":
        return folder / split
    if format == "lmdb":
        return folder / env_name("views", split, size)
    return folder / f"{split}.views.u8"


def _note(folder: Path, split: str) -> Path:
    return Path(folder) / f"views-{split}.json"


def _digest(names: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(names).encode(errors="surrogateescape")).hexdigest()


def _difference(old: Any, new: Mapping[str, Any]) -> str:
    if not isinstance(old, dict):
        return "an unreadable note"
    for key in [*new, *old]:
        if old.get(key) != new.get(key):
            return f"{key} {json.dumps(old.get(key))}, now {json.dumps(new.get(key))}"
    return "none"


def _read(file: Path) -> dict[str, Any] | None:
    """A note, None if there is none; DataError for a damaged one."""
    try:
        value = read_json(file)
    except Damaged as error:
        raise DataError(f"{file} cannot be read ({error}); remove its folder") from None
    if value is None and not file.exists():
        return None
    return value if isinstance(value, dict) else {}


# ----------------------------------------------------------------------------------------- reading


class ViewCache(NamedTuple):
    """Views of the pictures of a source.

    images: uint8 [M, k, 3, s, s]; rows: int64 [N], where in it the N pictures of the source are.
    settings: what the views were made with, {} if not told.
    """

    images: Tensor
    rows: Tensor
    settings: dict[str, Any]

    @property
    def k(self) -> int:
        """Views a picture."""
        return self.images.shape[1]


def open_views(
    folder: str | Path,
    source: Source,
    size: int,
    *,
    split: str = "train",
    place: str = "memory",
    workers: int = 0,
    verify: bool = False,
    quiet: bool = False,
) -> ViewCache:
    """The views in a folder (or a spec as `open_source` takes it) of the pictures of `source`.

    size: side of the views; others than they are stored at are resized. place: "memory", or
    "memmap" to leave the pixels on the disk (folders and LMDB get an array beside them). verify:
    read an array against its checksums. Pictures are found by class and name, so a part of a set
    takes its part of the views; with unequal numbers of views the least counts.
    DataError: no views, pictures without, a damaged array.
    """
    folder = Path(folder)
    note = _read(_note(folder, split))
    if note is None and (folder / f"building-views-{split}.json").exists():
        raise DataError(f"{folder} is unfinished; run the same generate_views.py command again")
    others = [f.stem.removeprefix("views-") for f in sorted(folder.glob("views-*.json"))]
    if note is None and others:
        raise DataError(f"{folder} holds views of {', '.join(others)}, not of {split}")
    names = picture_names(source)
    if note is not None and note["plan"]["format"] == "memmap" and note["plan"]["size"] == size:
        rows = _rows(names, note["names"], folder)
        pixels = _open_array(folder, split, note, verify)
        if place == "memory":
            used = np.unique(rows)
            _check_memory(str(folder), (len(used), *pixels.shape[1:]), free_memory(), "memory")
            pixels = np.ascontiguousarray(pixels[used])
            rows = np.searchsorted(used, rows)
        return ViewCache(torch.from_numpy(pixels), torch.from_numpy(rows), note["plan"])
    if note is not None and note["plan"]["format"] == "memmap":
        raise DataError(
            f"{folder} holds views of {note['plan']['size']} px, {size} are asked for; generate "
            "them at that size, or as --format folder"
        )
    views = _views_source(folder, split, note)
    if note is None:
        groups = group_views(views)
        if not groups:
            raise DataError(f"{folder} has no files named PICTURE_aug<number>; are these views?")
    else:
        k = note["plan"]["k"]
        order = {name: i for i, name in enumerate(_stored_names(views))}
        first = note["plan"]["first"]
        wanted = [[f"{name}_aug{first + j}" for j in range(k)] for name in note["names"]]
        missing = next((v for row in wanted for v in row if v not in order), None)
        if missing is not None:
            raise DataError(f"{missing} is missing in {folder}; remove it and make it again")
        groups = {
            name: [order[v] for v in row] for name, row in zip(note["names"], wanted, strict=True)
        }
    stored = list(groups)
    rows = _rows(names, stored, folder)
    used = np.unique(rows)
    counts = [len(groups[stored[r]]) for r in used]
    k = min(counts)
    if max(counts) > k and not quiet:
        print(f"{folder}: {k} to {max(counts)} views a picture; {k} are used", file=sys.stderr)
    numbers = [i for r in used for i in groups[stored[r]][:k]]
    part = Subset(views, numbers, f"{folder.name}-views")
    beside = folder / ".arrays" if place == "memmap" else None
    array = UInt8Cache(
        part, size, place, folder=beside, workers=workers, verify=verify, max_bad=0, quiet=quiet
    )
    images = array.images.unflatten(0, (len(used), k))
    settings = note["plan"] if note else {}
    return ViewCache(images, torch.from_numpy(np.searchsorted(used, rows)), settings)


def _views_source(folder: Path, split: str, note: dict[str, Any] | None) -> Source:
    """The stored views as a source of pictures."""
    if note is not None and note["plan"]["format"] == "lmdb":
        size = note["plan"]["size"]
        close_all()
        return LmdbSource({size: _place(folder, "lmdb", split, size)}, name="views", split=split)
    if (folder / split).is_dir() or note is None:
        return open_source(str(folder), folder.parent, split=split)
    raise DataError(f"{folder / split} is missing; remove {folder} and make the views again")


def _stored_names(source: Source) -> list[str]:
    if not isinstance(source, NamesFiles):
        return _plain_names(source)
    names = [source.relative(i) for i in range(len(source))]
    if isinstance(source, LmdbSource):  # keys have no suffix
        return names
    return [os.path.splitext(name)[0] for name in names]


def _rows(names: Sequence[str], stored: Sequence[str], folder: Path) -> np.ndarray:
    place = {name: i for i, name in enumerate(stored)}
    missing = [name for name in names if name not in place]
    if missing:
        raise DataError(
            f"{folder} has no views of {len(missing)} of {len(names)} pictures, {missing[0]} "
            f"first; it has {len(stored)}, {stored[0]} first"
        )
    return np.fromiter((place[name] for name in names), np.int64, len(names))


def _open_array(folder: Path, split: str, note: dict[str, Any], verify: bool) -> np.ndarray:
    plan = note["plan"]
    shape = (len(note["names"]), plan["k"], 3, plan["size"], plan["size"])
    file = _place(folder, "memmap", split, plan["size"])
    again = f"remove {folder} to have it made again"
    if not file.is_file() or file.stat().st_size != int(np.prod(shape, dtype=np.int64)):
        raise DataError(f"{file} has not the size it was made with; {again}")
    # copy on write: nobody changes the file by accident, and torch takes the array as its own
    pixels = np.asarray(np.memmap(file, np.uint8, "c", shape=shape))
    start = 0
    for n, (stop, expected) in enumerate(note["sums"]):
        looked_at = verify or n in (0, len(note["sums"]) - 1)
        if looked_at and zlib.crc32(np.ascontiguousarray(pixels[start:stop]).data) != expected:
            raise DataError(f"views of pictures {start} to {stop - 1} in {file} differ; {again}")
        start = stop
    return pixels


class PreAugmentedDataset(Dataset):
    """Pictures augmented beforehand: files of a class that differ only by `_aug<N>`.

    views: a folder, a zip or an LMDB, or a source. Item i is of picture i, by class and name:
        mode "xy": (one of its views uint8 [3, s, s], label)
        mode "cl": (`num_augs` distinct ones uint8 [num_augs, 3, s, s], label)
    A file without `_aug<N>` is one of its picture's views. size: side, default the files' own.
    transform: of each view. Which views is a function of (seed, epoch, i): call `set_epoch`
    (workers that live on see it too).
    DataError: a picture with fewer than `num_augs` views.
    """

    def __init__(
        self,
        views: str | Path | Source,
        mode: str = "xy",
        *,
        num_augs: int = 2,
        size: int | None = None,
        split: str = "train",
        transform: Callable[[Tensor], Tensor] | None = None,
        seed: int = 0,
    ) -> None:
        if mode not in ("xy", "cl"):
            raise DataError(f"mode {mode!r} is neither xy nor cl")
        if num_augs < 1:
            raise DataError(f"num_augs must be at least 1, got {num_augs}")
        self.mode, self.num_augs = mode, num_augs if mode == "cl" else 1
        if isinstance(views, (str, Path)):
            folder = Path(views)
            note = _read(_note(folder, split))
            if note is not None and note["plan"]["format"] == "memmap":
                raise DataError(f"{folder} is one array; read it by open_views")
            views = _views_source(folder, split, note)
        groups = group_views(views, plain=True)
        for name, members in groups.items():
            if len(members) < self.num_augs:
                raise DataError(
                    f"{name} in {views.name} has {len(members)} views, num_augs is {num_augs}"
                )
        self.source, self.names, self.classes = views, list(groups), list(views.classes)
        self._groups = list(groups.values())
        self.size = own_size(views) if size is None else int(size)
        self.transform, self.seed = transform, seed
        self._epoch = multiprocessing.RawValue("q", 0)  # shared with workers that live on

    def __len__(self) -> int:
        return len(self._groups)

    def set_epoch(self, epoch: int) -> None:
        """Other views for the same pictures."""
        self._epoch.value = int(epoch)

    def __getitem__(self, i: int) -> tuple[Any, int]:
        i = int(i)
        if not -len(self) <= i < len(self):
            raise IndexError(f"picture {i} of {len(self)}")
        i %= len(self)
        members = self._groups[i]
        order = keyed_order(len(members), self.seed, self._epoch.value, i)[: self.num_augs]
        views = [self._read_view(members[j]) for j in order]
        label = self.source.label(members[0])
        if self.mode == "xy":
            return views[0], label
        return torch.stack(views), label

    def _read_view(self, number: int) -> Any:
        image = self.source.image(number)
        if image.shape[:2] != (self.size, self.size):
            image = resize_rgb(image, self.size, "center")
        view = torch.from_numpy(np.array(image.transpose(2, 0, 1), order="C"))
        return view if self.transform is None else self.transform(view)
