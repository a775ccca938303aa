"""Pictures in LMDB, in the key layout of CAM-Net's original data step.

One environment a split and resolution, a folder `{name}_{split}_{R}.lmdb`:
    <key>       -> raw uint8 [H, W, C] bytes, channels **BGR**
    <key>.meta  -> ASCII "H, W, C"
with the file's name without suffix as key. Where two files share that name (the original lost one
of them) their keys are the whole relative path. Beside it lies `manifest.json` - order, labels,
digest - which the original had as a pickle (`_keys_cache.p`; never read nor written here).
Environments made by the original tool, without a manifest, are read as one class in key order.

Facts of lmdb 3: an environment can be open once in a process, and a forked child counts as the same
process while its parent holds it open. So every environment is shared process-wide, opened on first
read, and closed right before a fork; readers take no lock and no read-ahead.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data.decode import bad_image
from data.notes import COUNT, read_note
from data.readers.base import Found
from data.readers.tree import FolderTree, gives_labels, is_rubbish
from data.sources import SPLITS, PathTable, Place, Source, check_split, split_of
from storage.errors import DataDiskError, DataError
from storage.files import read_object, write_json
from storage.listing import list_digest

if TYPE_CHECKING:
    import lmdb

MANIFEST = "manifest.json"
UNFINISHED = "building.json"
FULL = 0  # "size" of an environment that holds the pictures unresized


def env_name(name: str, split: str, size: int) -> str:
    """Folder of an environment: `camnet3_train_256.lmdb`, or `..._full.lmdb` when unresized."""
    return f"{name}_{split}_{'full' if size == FULL else size}.lmdb"


def recognise_environment(path: Path) -> Found | None:
    """A single environment; its siblings of other sizes belong to it."""
    if not (path.is_dir() and (path / "data.mdb").exists()):
        return None
    return Found((), lambda split: _open_one(path, split))


def recognise(path: Path) -> Found | None:
    """A folder of environments, one a split and size."""
    envs = find_envs(path) if path.is_dir() else {}
    if not envs or gives_labels(FolderTree(path), ""):
        return None
    place = Place(f"LMDB in {path}", tuple(envs))

    def open_split(split: str) -> Source:
        split = check_split(split)
        if split not in envs:
            raise DataError(f"{path} has no split {split}; it has {', '.join(envs)}")
        one_of_each = {size: _one(path, split, size, found) for size, found in envs[split].items()}
        return LmdbSource(one_of_each, name=f"{path.name}/{split}", split=split, place=place)

    return Found(tuple(envs), open_split)


def _one(folder: Path, split: str, size: int, found: list[Path]) -> Path:
    """The environment of a split and size; DataError if there are two."""
    if len(found) > 1:
        raise DataError(
            f"{folder} has more than one environment of {split} at {size or 'full'} size: "
            f"{', '.join(env.name for env in found)}; give one of them as the data set"
        )
    return found[0]


def _open_one(env: Path, asked: str) -> Source:
    check_split(asked)
    name, split, size = parse_env(env)
    envs = {size: env}
    if split is not None:
        for other in env.parent.glob("*.lmdb"):
            other_name, other_split, other_size = parse_env(other)
            if (other_name, other_split) == (name, split) and other_size < size:
                envs[other_size] = other
        if size != FULL:
            envs.pop(FULL, None)
    return LmdbSource(envs, name=name, split=split, place=Place(f"the LMDB {env}"))


class _Environments:
    """Read-only environments open in this process, by real path."""

    def __init__(self) -> None:
        self._open: dict[str, lmdb.Environment] = {}
        self._lock = threading.Lock()
        self._pid = 0

    def get(self, folder: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """Values of keys. Copies, so nothing outlives the transaction."""
        with self._lock:
            if self._pid != os.getpid():  # first use, or a child: what the parent had is not ours
                if self._pid == 0:
                    os.register_at_fork(
                        before=self._before_fork,
                        after_in_parent=self._lock.release,
                        after_in_child=self._lock.release,
                    )
                self._open = {}
                self._pid = os.getpid()
            env = self._open.get(folder)
            if env is None:
                env = self._open[folder] = _open_env(folder)
            with env.begin() as txn:
                return [txn.get(key) for key in keys]

    def close(self) -> None:
        """Close all that this process opened."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._pid == os.getpid():
            for env in self._open.values():
                env.close()
        self._open = {}

    def _before_fork(self) -> None:
        self._lock.acquire()  # until the fork is done: no other thread may reopen meanwhile
        self._close()


# lmdb itself keeps one table of open environments a process; this mirrors it.
_ENVIRONMENTS = _Environments()


def close_all() -> None:
    """Close every environment this process reads (before rewriting or removing one)."""
    _ENVIRONMENTS.close()


def _open_env(folder: str) -> lmdb.Environment:
    import lmdb

    try:
        return lmdb.open(
            folder, readonly=True, lock=False, readahead=False, meminit=False, max_readers=1
        )
    except lmdb.Error as error:
        raise DataError(f"cannot open {folder}: {error}") from None


class LmdbSource:
    """One split of an LMDB data set. `envs`: resolution -> environment folder (FULL = unresized).

    `image(i)` is the largest picture held; `native(i, size)` reads the environment of that size.
    """

    def __init__(
        self,
        envs: Mapping[int, str | os.PathLike],
        *,
        name: str,
        split: str | None = None,
        place: Place | None = None,
    ) -> None:
        self.place = place
        if not envs:
            raise DataError(f"{name}: no LMDB given")
        self.name = name
        self.split = split
        self._envs = {size: os.path.realpath(folder) for size, folder in envs.items()}
        notes = {size: _manifest(Path(folder)) for size, folder in self._envs.items()}
        self._main = FULL if FULL in notes else max(notes)
        note = notes[self._main]
        for size, other in notes.items():
            if other["keys"] != note["keys"]:
                raise DataError(
                    f"{self._envs[size]} and {self._envs[self._main]} hold different pictures; "
                    "remove both and build them again with SetupDataset.py --lmdb"
                )
        self._crops = {size: other.get("crop", "squash") for size, other in notes.items()}
        self.classes = list(note["classes"])
        self._labels = np.asarray(note["labels"], dtype=np.int32)
        self._keys = PathTable(note["keys"])

    def __len__(self) -> int:
        return len(self._labels)

    def label(self, i: int) -> int:
        """Class index."""
        return int(self._labels[i])

    def path(self, i: int) -> str:
        """`environment:key`."""
        return f"{self._envs[self._main]}:{self._keys[i]}"

    def relative(self, i: int) -> str:
        """The key."""
        return self._keys[i]

    def image(self, i: int) -> np.ndarray:
        """uint8 [H, W, 3] RGB, the largest there is."""
        return self._read(i, self._main)

    def has_native(self, size: int, crop: str = "squash") -> bool:
        """Whether an environment of that size and framing is there."""
        return size != FULL and size in self._envs and self._crops[size] == crop

    def native(self, i: int, size: int) -> np.ndarray:
        """uint8 [size, size, 3] RGB."""
        return self._read(i, size)

    def _read(self, i: int, size: int) -> np.ndarray:
        key = self._keys[i]
        folder = self._envs[size]
        name = f"{folder}:{key}"
        data, meta = _ENVIRONMENTS.get(folder, (os.fsencode(key), os.fsencode(f"{key}.meta")))
        if data is None or meta is None:
            raise bad_image(name, "missing key")
        try:
            shape = tuple(int(v) for v in meta.decode("ascii").split(","))
            pixels: np.ndarray = np.frombuffer(data, np.uint8).reshape(shape)
        except ValueError:
            raise bad_image(name, f"{len(data)} bytes do not fit meta {meta[:40]!r}") from None
        if pixels.ndim == 3 and pixels.shape[2] == 1:
            pixels = np.repeat(pixels, 3, axis=2)
        if pixels.ndim != 3 or pixels.shape[2] != 3:
            raise bad_image(name, f"shape {shape} is not H, W, 3")
        return np.ascontiguousarray(pixels[:, :, ::-1])


def find_envs(folder: Path) -> dict[str, dict[int, list[Path]]]:
    """Environments under a data set's folder: split, in the order train, val, test -> size ->
    those of both, of which there should be one.
    """
    found: dict[str, dict[int, list[Path]]] = {}
    for entry in sorted(folder.glob("*.lmdb")):
        _, split, size = parse_env(entry)
        if split is not None and not is_rubbish(entry.name):
            found.setdefault(split, {}).setdefault(size, []).append(entry)
    return {split: found[split] for split in SPLITS if split in found}


def parse_env(env: Path) -> tuple[str, str | None, int]:
    """(name, split, size) from `name_split_size.lmdb`; split None for names of another form."""
    parts = env.stem.rsplit("_", 2)
    if len(parts) == 3 and (parts[2].isdigit() or parts[2] == "full"):
        split = split_of(parts[1])
        if split is not None:
            return parts[0], split, FULL if parts[2] == "full" else int(parts[2])
    return env.stem, None, FULL


def _manifest(folder: Path) -> dict:
    if not folder.exists():
        raise DataError(f"{folder} does not exist")
    if (folder / UNFINISHED).exists():
        raise DataError(f"{folder} is unfinished; run the same SetupDataset.py command again")
    file = folder / MANIFEST
    if file.exists():
        again = f"remove {folder} and build it again"
        note = read_note(file, {"keys": [str], "labels": [COUNT], "classes": [str]}, again)
        if len(note["keys"]) == len(note["labels"]) and note["classes"]:
            if max(note["labels"], default=0) < len(note["classes"]):
                return note
        raise DataError(f"{file} is damaged; {again}")
    keys = _foreign_keys(str(folder))
    return {"keys": keys, "labels": [0] * len(keys), "classes": [folder.stem]}


def _foreign_keys(folder: str) -> list[str]:
    """Keys of an environment without manifest: sorted, without the .meta records."""
    close_all()
    env = _open_env(os.path.realpath(folder))
    try:
        with env.begin() as txn:
            keys = [bytes(k) for k in txn.cursor().iternext(keys=True, values=False)]
    finally:
        env.close()  # before any worker is forked
    every = set(keys)
    names = [k for k in keys if k + b".meta" in every]
    if not names:
        raise DataError(f"{folder} holds no pictures (no KEY with a KEY.meta record)")
    return [os.fsdecode(k) for k in sorted(names)]


def unique_keys(paths: Iterable[str]) -> list[str]:
    """Key of every relative path: its bare name, or the whole path where bare names collide."""
    paths = list(paths)
    stems = [os.path.splitext(os.path.basename(p))[0] for p in paths]
    count = Counter(stems)
    keys = [s if count[s] == 1 else p for s, p in zip(stems, paths, strict=True)]
    taken = set(keys)
    if len(taken) != len(keys) or any(k.endswith(".meta") and k[:-5] in taken for k in keys):
        keys = paths  # a path equal to another file's bare name: every key becomes a path
    return keys


class LmdbWriter:
    """Builds one environment, resumably: what is committed is kept, the manifest comes last.

    `plan` identifies what is being written (a digest of sources and size); an unfinished
    environment of another plan is an error. The map doubles whenever it is full.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        *,
        plan: str,
        map_size: int = 64 << 20,
        say: Callable[[str], None] | None = None,
    ) -> None:
        import lmdb

        self.folder = Path(folder)
        self.plan = plan
        self._closed = False
        self._say = say or (lambda line: print(line, file=sys.stderr))
        close_all()  # a reader in this process would forbid opening it
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            mark = self.folder / UNFINISHED
            there = (self.folder / "data.mdb").exists()
            if mark.exists():
                if (read_object(mark) or {}).get("plan") != plan:
                    raise DataError(
                        f"{self.folder} was begun from other pictures or options; remove it"
                    )
            elif there:
                raise DataError(f"{self.folder} exists and is not ours to go on with; remove it")
            else:
                write_json(mark, {"plan": plan})
            size = (self.folder / "data.mdb").stat().st_size if there else 0
            self.map_size = max(map_size, 2 * size)
            self._env = lmdb.open(str(self.folder), map_size=self.map_size, meminit=False)
        except (lmdb.Error, OSError, ValueError) as error:
            if isinstance(error, DataError):
                raise
            raise DataDiskError(f"cannot build {self.folder}: {error}") from None

    def has(self, key: str) -> bool:
        """Whether the picture is committed already."""
        with self._env.begin() as txn:
            return txn.get(os.fsencode(f"{key}.meta")) is not None

    def put(self, pictures: Sequence[tuple[str, np.ndarray]]) -> None:
        """Commit pictures (key, uint8 [H, W, 3] RGB) in one transaction."""
        import lmdb

        records = []
        for key, image in pictures:
            height, width, channels = image.shape
            meta = f"{height}, {width}, {channels}"
            records.append((os.fsencode(key), np.ascontiguousarray(image[:, :, ::-1]).tobytes()))
            records.append((os.fsencode(f"{key}.meta"), meta.encode("ascii")))
        while True:
            try:
                with self._env.begin(write=True) as txn:
                    for name, value in records:
                        txn.put(name, value)
                return
            except lmdb.MapFullError:
                self.map_size *= 2
                self._env.set_mapsize(self.map_size)
                self._say(f"{self.folder.name}: map grown to {self.map_size >> 20} MiB")
            except lmdb.Error as error:
                raise DataDiskError(f"cannot write {self.folder}: {error}") from None

    def finish(
        self, keys: Sequence[str], labels: Sequence[int], classes: Sequence[str], **facts: object
    ) -> None:
        """Check that every key is there, then write the manifest: the environment is complete."""
        with self._env.begin() as txn:
            for key in keys:
                if txn.get(os.fsencode(f"{key}.meta")) is None:
                    raise DataError(f"{self.folder}: {key} was not written; run again")
        self.close()
        note = {
            "format": 1,
            "plan": self.plan,
            "layout": "raw uint8 BGR; KEY.meta = 'H, W, C'",
            "count": len(keys),
            "digest": list_digest(keys),
            **facts,
            "classes": list(classes),
            "labels": [int(v) for v in labels],
            "keys": list(keys),
        }
        write_json(self.folder / MANIFEST, note)
        (self.folder / UNFINISHED).unlink()

    def close(self) -> None:
        """Flush and close; safe to call twice."""
        if not self._closed:
            self._env.sync(True)
            self._env.close()
            self._closed = True

    def __enter__(self) -> LmdbWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def finished_plan(folder: str | os.PathLike) -> str | None:
    """The plan a complete environment was built from; None if it is absent or unfinished."""
    folder = Path(folder)
    if (folder / UNFINISHED).exists() or not (folder / MANIFEST).exists():
        return None
    return _manifest(folder).get("plan")
