"""Writing several made-up views of every picture, resumably; `data.views.stored` reads them.

Three layouts, each of one split, in one folder:
    folder   SPLIT/CLASS/PICTURE_aug<j>.png, an ImageFolder like any other
    lmdb     NAME_SPLIT_SIZE.lmdb, raw pixels, keys CLASS/PICTURE_aug<j>
    memmap   SPLIT.views.u8, uint8 [N, k, 3, s, s]
and beside it `views-SPLIT.json`: which pictures, how many views, how they were made. While they are
written, `building-views-SPLIT.json` says how far it is and `names-SPLIT.json` of which pictures.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import shutil
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data import notes
from data.notes import COUNT
from data.readers.lmdb_store import MANIFEST, UNFINISHED, LmdbWriter, env_name, finished_plan
from data.sources import Source
from data.views.naming import picture_names
from storage.errors import DataBusyError, DataDiskError, DataError
from storage.files import (
    locked,
    make_folder,
    read_object,
    remove,
    reserve,
    sweep_dead,
    write_bytes,
    write_json,
)

FORMATS = ("folder", "lmdb", "memmap")
NOTE_EVERY_S = 2.0  # between notes of progress: what a killed process may lose
# What plans of earlier versions do not have, so that it is not compared with them.
_LATER = ("data", "content")


class ViewWriter:
    """Writes k views of every picture of a source, in the order of the pictures, resumably.

    folder: where. settings: JSON values that decide the pixels: what was begun with others is
    refused. options: the words of a command line for the keys of settings and for k, first, size,
    format and pictures, in that refusal. first: number of the first view (the `_aug` numbers are
    first .. first + k - 1). overwrite: views of the split that are there go with the first `put`,
    of those that a writer has noted. `done` pictures are there already; `put` the next ones, then
    `finish`. Exclusive while open.
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
        options: Mapping[str, str] | None = None,
        overwrite: bool = False,
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
        self._options, self._overwrite = options or {}, overwrite
        self._sums: list[list[int]] = []
        self.done = 0
        self.finished = False
        self._lmdb: LmdbWriter | None = None
        self._pixels: np.memmap | None = None
        self._noted = -math.inf
        self._stack = contextlib.ExitStack()
        if not note_of(self.folder, split).exists() and not self._progress.exists():
            self._check_space()
        lock = self.folder / f".views-{split}.lock"
        with self._stack:
            try:
                self._stack.enter_context(locked(lock, wait=False, what=str(self.folder)))
            except DataBusyError:
                raise DataBusyError(f"{self.folder} is being written by another process") from None
            if overwrite:
                self._check_overwriting()  # the rest with the first views
            else:
                self._begin()
            if self.pixels_path.is_dir():
                sweep_dead(self.pixels_path, below=True)
            sweep_dead(self.folder)
            self._stack = self._stack.pop_all()

    def __enter__(self) -> ViewWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.names)

    @property
    def pixels_path(self) -> Path:
        """What holds the pixels: a folder or a file."""
        return pixels_in(self.folder, self.format, self.split, self.size)

    def _begin(self, *, fresh: bool = False) -> None:
        """Look at what is there, and open it to go on. fresh: only files of others are."""
        note, begun = read_note(note_of(self.folder, self.split)), read_note(self._progress)
        for old in (note, begun):
            if old is not None and _comparable(old.get("plan"), self.plan) != self.plan:
                raise DataError(
                    f"{self.folder} holds other views of {self.split} "
                    f"({_difference(old.get('plan'), self.plan, self._options)}); choose another "
                    "folder, or --overwrite"
                )
            if old is not None:
                self.plan = old["plan"]
        if note is not None:
            self.done, self.finished = len(self), True
            return
        if begun is None and not fresh and self.pixels_path.exists():
            raise DataError(
                f"{self.pixels_path} is there and not ours to go on with; another folder"
            )
        if begun is None:
            write_json(self._names_file, {"names": self.names})
            self._note_progress()
        else:
            self.done, self._sums = int(begun["done"]), list(begun["sums"])
        try:
            if self.format == "memmap":
                self._begin_memmap()
            elif self.format == "lmdb":
                plan = _digest([json.dumps(self.plan, sort_keys=True)])
                # complete but for our note, if we were stopped right before it
                if finished_plan(self.pixels_path) == plan:
                    self.done = len(self)
                else:
                    self._lmdb = LmdbWriter(self.pixels_path, plan=plan)
                    self._stack.callback(self._lmdb.close)
            else:
                make_folder(self.pixels_path)
                self.done = next((i for i in range(self.done) if not self._has(i)), self.done)
        except OSError as error:
            raise self._disk(error) from None

    def _has(self, i: int) -> bool:
        files = (self._file(self.names[i], j) for j in range(self.k))
        return all(file.is_file() for file in files)

    def _file(self, name: str, j: int) -> Path:
        return self.pixels_path / f"{name}_aug{self.first + j}.png"

    def _begin_memmap(self) -> None:
        bytes_ = len(self) * self._bytes
        if not self.pixels_path.is_file() or self.pixels_path.stat().st_size != bytes_:
            self.done, self._sums = 0, []
            reserve(self.pixels_path, bytes_)  # the note says when all of it is there
        shape = (len(self), self.k, 3, self.size, self.size)
        self._pixels = np.memmap(self.pixels_path, np.uint8, "r+", shape=shape)

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
        if self._overwrite:
            self._take_away()
            self._overwrite = False
            self._begin(fresh=True)
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
            write_json(note_of(self.folder, self.split), note)  # last: says that all of it is there
            self._progress.unlink(missing_ok=True)
            self._names_file.unlink(missing_ok=True)
        except OSError as error:
            raise self._disk(error) from None
        self.finished = True
        return self.bytes()

    def bytes(self) -> int:
        """Bytes of the pixels on the disk."""
        if self.pixels_path.is_file():
            return self.pixels_path.stat().st_size
        return sum(f.stat().st_size for f in self.pixels_path.rglob("*") if f.is_file())

    def close(self) -> None:
        """Note how far it came, let go of files and lock; safe to call twice."""
        if self._progress.exists() and not self.finished and not self._overwrite:
            with contextlib.suppress(OSError):
                self._note_progress()
        self._pixels = None
        self._stack.close()

    def _check_overwriting(self) -> None:
        """That what is there can be taken away, and nothing else is in the way."""
        note = read_note(note_of(self.folder, self.split))
        old = note or read_note(self._progress)
        names, plan = self._noted_names(note), (old or {}).get("plan")
        if old is not None and (names is None or not isinstance(plan, dict)):
            raise DataError(
                f"{self.folder} has no list of the pictures whose views are there, so that none "
                "are taken away: choose another folder"
            )
        goes: set[Path] = set()
        if isinstance(plan, dict):
            goes.add(pixels_in(self.folder, plan["format"], self.split, plan["size"]))
            if plan["format"] == "folder":
                goes.update(self._files(names or [], plan))
        new = [self.pixels_path]
        if self.format == "folder":
            new = [*([] if new[0].is_dir() else new), *self._files(self.names, self.plan)]
        for path in new:
            if path not in goes and path.exists():
                raise DataError(f"{path} is there and was not written here: choose another folder")

    def _files(self, names: Sequence[str], plan: Mapping[str, Any]) -> Iterator[Path]:
        """The views of pictures where each is a file."""
        for name in names:
            for j in range(plan["first"], plan["first"] + plan["k"]):
                yield self.folder / self.split / f"{name}_aug{j}.png"

    def _noted_names(self, note: Mapping[str, Any] | None) -> list[str] | None:
        """Of which pictures the folder has views, finished or not; None if that is not noted."""
        names = (note or read_object(self._names_file) or {}).get("names")
        return names if isinstance(names, list) and all(map(_is_below, names)) else None

    def _take_away(self) -> None:
        """Remove the views of the split that the notes tell of.

        A kill in between leaves an unfinished set of the old views, with its list of pictures.
        """
        file = note_of(self.folder, self.split)
        note, begun = read_note(file), read_note(self._progress)
        old = note or begun
        if old is None:
            return
        plan, names = old["plan"], self._noted_names(note) or []
        pixels = pixels_in(self.folder, plan["format"], self.split, plan["size"])
        try:
            write_json(self._names_file, {"names": names})
            write_json(self._progress, {"plan": plan, "done": 0, "sums": []})
            file.unlink(missing_ok=True)
            remove(self.folder / ".arrays")  # that readers have made of the views
            if plan["format"] == "memmap":
                pixels.unlink(missing_ok=True)
            elif plan["format"] == "lmdb":
                for part in (MANIFEST, "data.mdb", "lock.mdb", UNFINISHED):
                    (pixels / part).unlink(missing_ok=True)
            else:
                for path in self._files(names, plan):
                    path.unlink(missing_ok=True)
            below = {pixels / Path(name).parent for name in names} | {pixels}
            for folder in sorted(below, key=lambda path: -len(path.parts)):
                with contextlib.suppress(OSError):  # something else is in there
                    folder.rmdir()
            self._progress.unlink(missing_ok=True)
            self._names_file.unlink(missing_ok=True)
        except OSError as error:
            raise self._disk(error) from None

    @property
    def _bytes(self) -> int:
        return self.k * 3 * self.size * self.size

    @property
    def _progress(self) -> Path:
        return self.folder / f"building-views-{self.split}.json"

    @property
    def _names_file(self) -> Path:
        return self.folder / f"names-{self.split}.json"

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


def pixels_in(folder: Path, format: str, split: str, size: int) -> Path:
    """What holds the pixels of a split: a folder, an environment or a file."""
    if format == "folder":
        return folder / split
    if format == "lmdb":
        return folder / env_name("views", split, size)
    return folder / f"{split}.views.u8"


def note_of(folder: Path, split: str) -> Path:
    """The note that says that all views of a split are there."""
    return Path(folder) / f"views-{split}.json"


def _digest(names: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(names).encode(errors="surrogateescape")).hexdigest()


def _is_below(name: Any) -> bool:
    # A list that somebody has edited removes nothing elsewhere.
    return isinstance(name, str) and not Path(name).is_absolute() and ".." not in Path(name).parts


def _comparable(old: Any, new: Mapping[str, Any]) -> Any:
    """A plan with what it does not have because its version did not know it."""
    if not isinstance(old, dict):
        return old
    return {**{key: new[key] for key in _LATER if key in new}, **old}


def _difference(old: Any, new: Mapping[str, Any], options: Mapping[str, str]) -> str:
    if not isinstance(old, dict):
        return "an unreadable note"
    old = _comparable(old, new)
    for key in sorted(dict.fromkeys(["data", *new, *old]), key=lambda key: key == "content"):
        before, now = old.get(key), new.get(key)
        if before == now:
            continue
        word = options.get(key, key)
        if any(isinstance(v, str) and len(v) >= 32 for v in (before, now)):  # checksums
            return f"{word} means something else than before"
        return f"{word} {_shown(before)} before, {_shown(now)} now"
    return "none"


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


_PLAN = {"format": str, "k": COUNT, "size": COUNT, "first": COUNT}
_NOTE = {"plan": _PLAN, "sums": [(COUNT, COUNT)], "names?": [str], "done?": COUNT, "facts?": dict}


def read_note(file: Path) -> dict[str, Any] | None:
    """A note of views, or of how far they are, None if there is none; DataError for a damaged one.
    One of views says of which `names`."""
    begun = file.name.startswith("building-")
    form = _NOTE | ({"done": COUNT} if begun else {"names": [str]})
    note = notes.read_note(file, form, "remove its folder")
    if note is not None and note["plan"]["format"] not in FORMATS:
        raise DataError(f"{file} is damaged (format {note['plan']['format'][:40]!r}); remove it")
    return note
