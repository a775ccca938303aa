"""Several made-up views of every picture, on disk: written once (`data.views.writing`), read here.

Folders of the original SimCLR code, named in the same way but without a note, are read as well, and
so is any source whose names end in `_aug<j>`.

    cache = open_views("tiny_views", source, 64)      # views of the pictures of a source
    drawn = CachedViews(cache.images, rows=cache.rows)
    items = PreAugmentedDataset("tiny_views", "cl")   # the original SimCLR code's data set of views
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data.decode import resize_rgb
from data.labelled import own_size
from data.pyramids import free_memory
from data.readers.lmdb_store import LmdbSource, close_all
from data.registry import open_source
from data.sources import NamesFiles, Source, Subset, keyed_order
from data.uint8_cache import UInt8Cache, check_memory
from data.views.naming import group_views, picture_names, plain_names
from data.views.writing import note_of, pixels_in, read_note
from storage.errors import DataError


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
    note = read_note(note_of(folder, split))
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
            check_memory(str(folder), (len(used), *pixels.shape[1:]), free_memory(), "memory")
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
    indices = [i for r in used for i in groups[stored[r]][:k]]
    part = Subset(views, indices, f"{folder.name}-views")
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
        return LmdbSource({size: pixels_in(folder, "lmdb", split, size)}, name="views", split=split)
    if (folder / split).is_dir() or note is None:
        return open_source(str(folder), folder.parent, split=split)
    raise DataError(f"{folder / split} is missing; remove {folder} and make the views again")


def _stored_names(source: Source) -> list[str]:
    if not isinstance(source, NamesFiles):
        return plain_names(source)
    names = [source.relative(i) for i in range(len(source))]
    if isinstance(source, LmdbSource):  # keys have no suffix
        return names
    return [os.path.splitext(name)[0] for name in names]


def _rows(names: Sequence[str], stored: Sequence[str], folder: Path) -> np.ndarray:
    row = {name: i for i, name in enumerate(stored)}
    missing = [name for name in names if name not in row]
    if missing and not stored:
        raise DataError(f"{folder} has no views of any picture; remove it and make it again")
    if missing:
        raise DataError(
            f"{folder} has no views of {len(missing)} of {len(names)} pictures, {missing[0]} "
            f"first; it has {len(stored)}, {stored[0]} first"
        )
    return np.fromiter((row[name] for name in names), np.int64, len(names))


def _open_array(folder: Path, split: str, note: dict[str, Any], verify: bool) -> np.ndarray:
    plan = note["plan"]
    shape = (len(note["names"]), plan["k"], 3, plan["size"], plan["size"])
    file = pixels_in(folder, "memmap", split, plan["size"])
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
            note = read_note(note_of(folder, split))
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
