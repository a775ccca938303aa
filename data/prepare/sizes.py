"""Preparing a data set: get it, look at every picture once, make the resolutions, make LMDBs.

Under the data directory:
    NAME/{split}/{class}/picture         the originals (or links to where they lie)
    NAME/manifest-{split}.jsonl          a line a picture: bytes, sha256, size, or the fault
    NAME/index-{split}.json              counts, digests and the bad pictures
    NAME_{R}x{R}/{split}/{class}/...     the resolutions, `complete-{split}.json` when all are there
    NAME_lmdb/NAME_{split}_{R}.lmdb      the same in LMDB
    downloads/                           archives as fetched
Every step can be interrupted at any moment and goes on where it stopped when run again.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import multiprocessing.connection
import os
import shutil
import sys
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from data.decode import decode, open_rgb, resize_rgb
from data.prepare.download import archive_fault, extract, fetch, is_archive
from data.readers.arrays import MNIST_FILES, ArraySource, array_splits
from data.readers.edm_zip import is_edm
from data.readers.folders import (
    BUILDING,
    COMPLETE,
    INDEX,
    FolderSource,
    lossless_form,
    native_name,
    splits_in,
)
from data.readers.layout import list_files
from data.readers.lmdb_store import FULL, LmdbWriter, env_name, finished_plan, unique_keys
from data.registry import KNOWN, fraction_of, one_class
from data.sources import (
    SPLITS,
    Source,
    Subset,
    allowed_bad,
    is_image_name,
    labels_of,
    resolution_name,
    stratified,
)
from storage.errors import DISK_ERRNOS, DataDiskError, DataError
from storage.files import make_folder, write_json

ORIGIN = "origin.json"
_WINDOW = 512


def say(line: str) -> None:
    """A line for the person watching."""
    print(line, file=sys.stderr, flush=True)


# ---------------------------------------------------------------- getting the originals


def acquire(name: str, data_path: Path, source: Path | None = None) -> Path:
    """`data_path/name` with split folders, made if it is not there yet.

    source: a folder, a zip, a tar or MNIST's idx files; folders are linked, not copied. Without one
    the archive of a known set is downloaded, or a part of a known set is linked from the whole.
    """
    root = data_path / name
    if source is not None:
        source = source.expanduser().absolute()
        if not source.exists():
            raise DataError(f"{source} does not exist")
    if root.is_dir() and any(root.iterdir()):
        _check_origin(root, source)
        return root
    if root.exists() and not root.is_dir():
        raise DataError(f"{root} is a file; the data set's folder should go there")
    make_folder(data_path)
    staging = data_path / f".{name}.new"
    shutil.rmtree(staging, ignore_errors=True)
    try:
        _fill(staging, name, data_path, source)
        write_json(staging / ORIGIN, {"name": name, "source": str(source) if source else "known"})
        if root.is_dir():
            root.rmdir()
        os.replace(staging, root)
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise DataDiskError(f"cannot prepare {root}: {error.strerror}") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return root


def _check_origin(root: Path, source: Path | None) -> None:
    if source is None or source.resolve() == root.resolve():
        return
    try:
        made_from = json.loads((root / ORIGIN).read_text())["source"]
    except (OSError, ValueError, KeyError):
        made_from = "something else"
    if made_from != str(source):
        raise DataError(
            f"{root} exists already, made from {made_from}; remove it or take another --data name"
        )


def _fill(staging: Path, name: str, data_path: Path, source: Path | None) -> None:
    """Make `staging` a folder of splits."""
    base, fraction = fraction_of(name)
    known = KNOWN.get(name)
    if source is not None:
        if source.is_dir():
            _refuse_edm(source)
            _link_folder(source, staging)
        elif is_archive(source):
            if fault := archive_fault(source):
                raise DataError(f"{source} {fault}; fetch it again")
            if zipfile.is_zipfile(source):
                _refuse_edm(source)
            _unpack(source, staging)
        else:
            raise DataError(
                f"{source} is neither a folder nor a .zip or .tar archive; "
                "unpack it and give the folder"
            )
    elif known and known.classes and known.base:
        whole = acquire(known.base, data_path)
        _link_part(whole, staging, lambda s, _: one_class(s, known.classes, name))
    elif fraction is not None and (base in KNOWN or (data_path / base).exists()):
        whole = acquire(base, data_path)

        def part(s: Source, split: str) -> Source:
            keep = stratified(labels_of(s), fraction, seed=0)
            return Subset(s, keep) if split == "train" else s

        _link_part(whole, staging, part)
    elif name == "mnist":
        _write_arrays(array_splits(_fetch_mnist(data_path)), staging)
    elif known and known.mirrors:
        file = data_path / "downloads" / f"{name}.zip"
        fetch(known.mirrors, file, sha256=known.sha256, check=archive_fault)
        _unpack(file, staging)
    else:
        raise DataError(
            f"{name} is not in {data_path} and not a set known by name "
            f"({', '.join(KNOWN)}); give --source FOLDER or ARCHIVE"
        )


def _refuse_edm(source: Path) -> None:
    if is_edm(source):
        raise DataError(
            f"{source} is a data set as dataset_tool writes them; there is nothing to prepare, "
            "give its path where a data set is asked for"
        )


def _inner(folder: Path) -> Path:
    """Through folders that hold nothing but one folder, down to splits, classes or images."""
    while not splits_in(folder):
        entries = [e for e in folder.iterdir() if not e.name.startswith((".", "__MACOSX"))]
        folders = [e for e in entries if e.is_dir()]
        if len(folders) != 1 or any(is_image_name(e.name) for e in entries):
            break
        below = [e for e in folders[0].iterdir() if not e.name.startswith(".")]
        if any(is_image_name(e.name) for e in below if e.is_file()):
            break  # a single class
        folder = folders[0]
    return folder


def _link_folder(source: Path, staging: Path) -> None:
    inner = _inner(source)
    if arrays := array_splits(inner):
        _write_arrays(arrays, staging)
        return
    if archive := _lone_archive(inner):
        _unpack(archive, staging)
        return
    splits = splits_in(inner) or {"train": inner}
    for folder in splits.values():
        FolderSource(folder)  # empty classes, loose pictures: said before anything is made
    staging.mkdir()
    for split, folder in splits.items():
        (staging / split).symlink_to(folder.absolute(), target_is_directory=True)


def _lone_archive(folder: Path) -> Path | None:
    """The archive in a folder that holds no pictures but one archive."""
    archives = [e for e in folder.iterdir() if e.is_file() and is_archive(e)]
    return archives[0] if len(archives) == 1 and not list_files(folder) else None


def _unpack(archive: Path, staging: Path) -> None:
    unpacked = staging.with_name(staging.name + ".unpacked")
    shutil.rmtree(unpacked, ignore_errors=True)
    try:
        extract(archive, unpacked)
        inner = _inner(unpacked)
        if arrays := array_splits(inner):
            _write_arrays(arrays, staging)
            return
        _official_names(inner, archive.with_name("index.csv.gz"))
        splits = splits_in(inner)
        for folder in splits.values() or [inner]:
            try:
                FolderSource(folder)
            except DataError as error:  # the folder it names is about to vanish
                raise DataError(str(error).replace(str(unpacked), str(archive))) from None
        if splits:
            os.replace(inner, staging)
        else:
            staging.mkdir()
            os.replace(inner, staging / "train")
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)


def _link_part(whole: Path, staging: Path, part: Callable[[Source, str], Source]) -> None:
    """Relative links to some pictures of another prepared set."""
    for split, folder in splits_in(whole).items():
        chosen = part(FolderSource(folder, base=whole, split=split), split)
        for i in range(len(chosen)):
            original = Path(chosen.path(i))
            link = staging / split / original.relative_to(folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            # seen from the final place, which is staging's sibling
            link.symlink_to(os.path.relpath(original, link.parent))


def _fetch_mnist(data_path: Path) -> Path:
    folder = data_path / "downloads" / "mnist"
    for stem, sha256 in MNIST_FILES.items():
        file = f"{stem}.gz"
        fetch([base + file for base in KNOWN["mnist"].mirrors], folder / file, sha256=sha256)
    return folder


def _write_arrays(sources: dict[str, Callable[[], ArraySource]], staging: Path) -> None:
    """CIFAR-10 or MNIST to `{split}/{class}/{number}.png`, numbers of the official order."""
    for split, opened in sources.items():
        source = opened()
        present = np.unique(labels_of(source))
        for name in (source.classes[k] for k in present):
            (staging / split / name).mkdir(parents=True)
        for i in bar(range(len(source)), len(source), split):
            file = staging / split / source.classes[source.label(i)] / f"{i:05d}.png"
            Image.fromarray(source.stored(i)).save(file, compress_level=1)


def _official_names(root: Path, index: Path) -> None:
    """Name CIFAR-10's JPEGs by their official number, told by index.csv.gz beside the archive."""
    if not index.is_file():
        return
    try:
        with gzip.open(index, "rt", encoding="utf-8", newline="") as lines:
            rows = list(csv.DictReader(lines))
        table = {r["jpeg_path"]: int(r["official_index"]) for r in rows}
    except (OSError, EOFError, ValueError, KeyError, TypeError, zlib.error, csv.Error) as error:
        raise DataError(f"{index} cannot be read ({error}); remove or fetch it again") from None
    here = list_files(root)
    unknown = [p for p in here if p not in table]
    if unknown:
        raise DataError(f"{index} has no number for {unknown[0]}; remove it to go without")
    for path in here:  # to other names first: 0001.jpg may become 0002.jpg
        os.replace(root / path, root / f"{path}.renamed")
    for path in here:
        name = f"{table[path]:05d}{Path(path).suffix}"
        os.replace(root / f"{path}.renamed", (root / path).with_name(name))


# ---------------------------------------------------------------- looking at every picture


@dataclass(frozen=True)
class _Job:
    """What a worker does with each picture of a split."""

    folder: str
    outs: dict[int, str]
    form: str
    crop: str


def prepare_folders(
    root: Path,
    sizes: Sequence[int],
    *,
    workers: int = 1,
    crop: str = "squash",
    form: str = "png",
) -> None:
    """Decode and hash every picture of every split once; write its bicubic reductions.

    sizes: side lengths; empty for the manifest alone. form: "png" (lossless, what resizing on the
    fly gives) or "keep" (re-encoded in the original's own format, as CAM-Net's tool did).
    DataError, after all is done, if more pictures are bad than training would let pass.
    """
    splits = splits_in(root)
    if not splits:
        raise DataError(f"{root} has no split folders ({', '.join(SPLITS)})")
    try:
        for split, folder in splits.items():
            _prepare_split(root, split, folder, sizes, workers, crop, form)
    except OSError as error:
        if error.errno not in DISK_ERRNOS:
            raise
        raise DataDiskError(
            f"cannot write beside {root}: {error.strerror}; run again when it can"
        ) from None


def _prepare_split(
    root: Path,
    split: str,
    folder: Path,
    sizes: Sequence[int],
    workers: int,
    crop: str,
    form: str,
) -> None:
    source = FolderSource(folder, base=root, split=split)
    paths = [source.relative(i) for i in range(len(source))]
    if form == "png":
        form = lossless_form(paths)
    manifest = root / f"manifest-{split}.jsonl"
    records = _read_manifest(manifest)
    fresh = {p for p in paths if _is_fresh(records.get(p), f"{folder}/{p}")}
    digest = source.digest()
    unchanged = len(fresh) == len(paths) and _index(root, split).get("digest") == digest
    pending = [
        size
        for size in sizes
        if not _size_is_done(root, split, size, digest, crop, form, unchanged)
    ]
    what = f"{root.name}/{split}"
    if unchanged and not pending:
        say(f"{what}: {len(paths)} images, up to date")
        _judge(what, len(paths), _index(root, split)["bad"], manifest)
        return
    outs = {}
    for size in pending:
        out = root.with_name(resolution_name(root.name, size))
        make_folder(out / split)
        write_json(out / BUILDING.format(split=split), {"crop": crop, "format": form})
        (out / COMPLETE.format(split=split)).unlink(missing_ok=True)
        outs[size] = str(out / split)
    for below in {os.path.dirname(p) for p in paths}:
        for out in outs.values():
            os.makedirs(os.path.join(out, below), exist_ok=True)
    job = _Job(str(folder), outs, form, crop)
    tasks = []
    for path in paths:
        old = records.get(path) if path in fresh else None
        missing = [
            s
            for s, out in outs.items()
            if old is None or not os.path.exists(f"{out}/{native_name(path, form)}")
        ]
        if old is None or (missing and "bad" not in old):
            tasks.append((path, missing))
    started = time.perf_counter()
    with open(manifest, "a") as log:
        for record in bar(parallel_map(partial(_look, job), tasks, workers), len(tasks), what):
            records[record["path"]] = record
            log.write(json.dumps(record) + "\n")
    seconds = time.perf_counter() - started
    bad = _finish_split(root, split, manifest, records, paths, digest, outs, crop, form)
    made = " ".join(f"{s}x{s}" for s in outs) or "manifest"
    rate = f"{len(tasks) / seconds:.0f} img/s" if seconds > 0 else ""
    say(
        f"{what}: {len(paths)} images, {len(source.classes)} classes, {len(bad)} bad; "
        f"{made} in {seconds:.1f} s ({rate})"
    )
    _judge(what, len(paths), bad, manifest)


def _finish_split(
    root: Path,
    split: str,
    manifest: Path,
    records: dict[str, dict],
    paths: list[str],
    digest: str,
    outs: dict[int, str],
    crop: str,
    form: str,
) -> list[str]:
    """Manifest in order, stale pictures out, notes that say complete. Returns the bad pictures."""
    ordered = [records[p] for p in paths]
    lines = "".join(json.dumps(r) + "\n" for r in ordered)
    temporary = manifest.with_name(f".tmp-{manifest.name}")
    temporary.write_text(lines)
    os.replace(temporary, manifest)
    bad = [r["path"] for r in ordered if "bad" in r]
    content = hashlib.sha256()
    for r in ordered:
        content.update(os.fsencode(f"{r['path']}\t{r['sha256']}\n"))
    facts = {"count": len(paths), "digest": digest, "content": content.hexdigest(), "bad": bad}
    write_json(root / INDEX.format(split=split), facts)
    for out in outs.values():
        wanted = {native_name(p, form) for p in paths} - {native_name(p, form) for p in bad}
        for name in list_files(out):
            if name not in wanted:  # from an earlier state of the originals
                os.unlink(os.path.join(out, name))
        for name in list_files(out, keep=lambda n: n.endswith(".tmp")):
            os.unlink(os.path.join(out, name))  # of a worker that was killed
        above = Path(out).parent
        write_json(above / COMPLETE.format(split=split), {**facts, "crop": crop, "format": form})
        (above / BUILDING.format(split=split)).unlink()
    return bad


def _judge(what: str, count: int, bad: list[str], manifest: Path) -> None:
    for path in bad[:20]:
        say(f"bad image {what}/{path}")
    if len(bad) > allowed_bad(count):
        raise DataError(
            f"{what}: {len(bad)} of {count} images are bad (listed in {manifest}); training lets "
            f"at most {allowed_bad(count)} pass; repair or remove them and run again"
        )


def _size_is_done(
    root: Path, split: str, size: int, digest: str, crop: str, form: str, unchanged: bool
) -> bool:
    """Whether a resolution needs nothing; DataError if it was made otherwise or by others."""
    out = root.with_name(resolution_name(root.name, size))
    for note_name in (BUILDING, COMPLETE):  # both: killed between the two, so not done
        note = read_json(out / note_name.format(split=split))
        if note is not None:
            if (note.get("crop"), note.get("format")) != (crop, form):
                raise DataError(
                    f"{out} was made with crop {note.get('crop')}, format {note.get('format')}, "
                    f"not {crop}, {form}; remove it first"
                )
            if note_name == BUILDING:
                return False
            return (
                unchanged
                and note.get("digest") == digest
                and note.get("content") == _index(root, split).get("content")
            )
    if (out / split).exists() and list_files(out / split):
        FolderSource(root / split, base=root, split=split).has_native(size)
        say(f"{out.name}/{split}: made by another tool, same pictures; left as it is")
        return True
    return False


def _index(root: Path, split: str) -> dict:
    return read_json(root / INDEX.format(split=split)) or {}


def read_json(file: Path) -> dict | None:
    """A JSON object, or None if the file is absent or not one."""
    try:
        value = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _read_manifest(file: Path) -> dict[str, dict]:
    """Records by path; a line cut off by a kill is dropped."""
    records = {}
    if file.exists():
        for line in file.read_text().splitlines():
            try:
                record = json.loads(line)
                records[record["path"]] = record
            except (ValueError, KeyError, TypeError):
                continue
        if not file.read_bytes().endswith(b"\n"):
            with open(file, "a") as log:
                log.write("\n")  # so that the next record does not join the broken line
    return records


def _is_fresh(record: dict | None, file: str) -> bool:
    if record is None:
        return False
    try:
        facts = os.stat(file)
    except OSError:
        return False
    return (record.get("bytes"), record.get("mtime_ns")) == (facts.st_size, facts.st_mtime_ns)


def _look(job: _Job, task: tuple[str, list[int]]) -> dict:
    """One picture: hash, decode, write the reductions. The record for the manifest."""
    path, sizes = task
    file = Path(job.folder, path)
    record: dict = {"path": path, "bytes": 0, "mtime_ns": 0, "sha256": ""}
    try:
        facts = file.stat()
        data = file.read_bytes()
        record.update(bytes=facts.st_size, mtime_ns=facts.st_mtime_ns)
        record["sha256"] = hashlib.sha256(data).hexdigest()
        image = open_rgb(data, path)
    except OSError as error:
        return {**record, "bad": error.strerror or "unreadable"}
    except DataError as error:
        return {**record, "bad": getattr(error, "reason", str(error))}
    record.update(width=image.width, height=image.height)
    for size in sizes:
        name = native_name(path, job.form)
        _save(resize_rgb(image, size, job.crop), f"{job.outs[size]}/{name}", job.form)
    return record


def _save(pixels: np.ndarray, file: str, form: str) -> None:
    out = io.BytesIO()
    image = Image.fromarray(pixels)
    if form == "keep":
        suffix = os.path.splitext(file)[1].lower()
        kind = Image.registered_extensions().get(suffix, "PNG")
        # full chroma, little loss: at 16 px the usual setting leaves one chroma block
        options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
        image.save(out, kind, **options)
    else:
        image.save(out, "PNG", compress_level=4)
    temporary = f"{file}.{os.getpid()}.tmp"
    with open(temporary, "wb") as handle:
        handle.write(out.getbuffer())
    os.replace(temporary, file)


def parallel_map(
    function: Callable, tasks: Sequence, workers: int, window: int = _WINDOW
) -> Iterator:
    """`map` in order, over processes if workers > 1; a killed worker is an error, not a hang.

    window: tasks given out at a time, so at most that many results wait.
    """
    window = min(window, _WINDOW)
    if workers <= 1 or len(tasks) < 32:
        yield from map(function, tasks)
        return
    try:
        with ProcessPoolExecutor(workers, initializer=_end_with_parent) as pool:
            for start in range(0, len(tasks), window):
                chunk = max(1, min(16, window // workers))
                yield from pool.map(function, tasks[start : start + window], chunksize=chunk)
    except BrokenProcessPool:
        raise DataError(
            "a worker process was killed (out of memory?); run again with fewer --workers"
        ) from None


def _end_with_parent() -> None:
    """In a worker: end when the parent is gone, else it waits for ever and keeps its lock."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    if parent is not None:
        threading.Thread(target=watch, daemon=True).start()


def bar(items: Iterable | None, total: int, what: str):  # -> tqdm
    """A progress bar, silent where nobody looks; without items, one to `update` by hand."""
    from tqdm import tqdm

    return tqdm(items, total=total, desc=what, unit="img", disable=None, mininterval=0.5)


# ---------------------------------------------------------------- LMDB


def lmdb_sources(root: Path, name: str) -> dict[str, Source]:
    """Splits of `root`, reduced to a tenth and so on if `name` says so and `root` is the whole."""
    _, fraction = fraction_of(name)
    sources: dict[str, Source] = {}
    for split, folder in splits_in(root).items():
        source: Source = FolderSource(folder, base=root, split=split)
        if fraction is not None and root.name != name and split == "train":
            source = Subset(source, stratified(labels_of(source), fraction, seed=0))
        sources[split] = source
    return sources


def prepare_lmdb(
    sources: dict[str, Source],
    root: Path,
    out: Path,
    name: str,
    sizes: Sequence[int],
    *,
    workers: int = 1,
    crop: str = "squash",
    map_size: int = 64 << 20,
) -> None:
    """One environment a split and size under `out`; bad pictures are left out.

    sizes: side lengths, empty for the unresized pictures. `root` holds the originals' manifests.
    """
    make_folder(out)
    for split, source in sources.items():
        records = _read_manifest(root / f"manifest-{split}.jsonl")
        folder = splits_in(root)[split]
        every = [os.path.relpath(source.path(i), folder) for i in range(len(source))]
        keep = [i for i, p in enumerate(every) if "bad" not in records.get(p, {})]
        paths = [every[i] for i in keep]
        keys = unique_keys(paths)
        content = hashlib.sha256()
        for path, key in zip(paths, keys, strict=True):
            content.update(os.fsencode(f"{key}\t{records.get(path, {}).get('sha256')}\n"))
        wanted = list(sizes) or [FULL]
        pending = {}
        for size in wanted:
            plan = f"{content.hexdigest()[:32]}-{size}-{crop}"
            env = out / env_name(name, split, size)
            done = finished_plan(env) if env.exists() else None
            if done == plan:
                say(f"{env.name}: {len(keys)} images, up to date")
            elif done is not None:
                raise DataError(f"{env} was made from other pictures or options; remove it first")
            else:
                pending[size] = (env, plan)
        if not pending:
            continue
        writers = {
            size: LmdbWriter(env, plan=plan, map_size=map_size, say=say)
            for size, (env, plan) in pending.items()
        }
        started = time.perf_counter()
        try:
            todo = [
                (f"{folder}/{p}", k)
                for p, k in zip(paths, keys, strict=True)
                if not all(w.has(k) for w in writers.values())
            ]
            done = bar(
                parallel_map(partial(_reduce, tuple(writers), crop), todo, workers),
                len(todo),
                out.name,
            )
            batch: list[tuple[str, dict[int, np.ndarray]]] = []
            for key, pictures in done:
                batch.append((key, pictures))
                if len(batch) == 128:
                    _commit(writers, batch)
            _commit(writers, batch)
            for writer in writers.values():
                writer.finish(
                    keys,
                    [source.label(i) for i in keep],
                    source.classes,
                    name=name,
                    split=split,
                    crop=crop,
                )
        finally:
            for writer in writers.values():
                writer.close()
        seconds = time.perf_counter() - started
        for env, _ in pending.values():
            say(f"{env.name}: {len(keys)} images")
        say(f"{out.name}/{split}: {len(todo)} written in {seconds:.1f} s")


def _commit(writers: dict[int, LmdbWriter], batch: list) -> None:
    for size, writer in writers.items():
        writer.put([(key, pictures[size]) for key, pictures in batch])
    batch.clear()


def _reduce(
    sizes: tuple[int, ...], crop: str, task: tuple[str, str]
) -> tuple[str, dict[int, np.ndarray]]:
    """One picture at all sizes."""
    file, key = task
    image = decode(file)
    return key, {s: image if s == FULL else resize_rgb(image, s, crop) for s in sizes}
