"""Looking at every picture of a set once, and making the resolutions to train on.

Under the data directory:
    NAME/manifest-{split}.jsonl          a line a picture: bytes, sha256, size, or the fault
    NAME/index-{split}.json              counts, digests and the bad pictures
    NAME_{R}x{R}/{split}/{class}/...     the resolutions, `complete-{split}.json` when all are there

Can be interrupted at any moment and goes on where it stopped when run again.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from data.decode import open_rgb, picture_bytes, resize_rgb
from data.prepare.manifest import read_index, read_manifest
from data.prepare.workers import parallel_map, say
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
from data.sources import SPLITS, allowed_bad, resolution_name
from data.told import not_read, not_used
from runtime.progress import track
from storage import files
from storage.errors import DISK_FAILURES, DataDiskError, DataError
from storage.files import make_folder, read_object, write_json


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
    splits = splits_in(root, filled=True)
    if not splits:
        raise DataError(f"{root} has no split folders ({', '.join(SPLITS)})")
    if unused := not_used(root):
        say(unused)
    try:
        for split, folder in splits.items():
            _prepare_split(root, split, folder, sizes, workers, crop, form)
    except OSError as error:
        if error.errno not in DISK_FAILURES:
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
    records = read_manifest(manifest)
    fresh = {p for p in paths if _is_fresh(records.get(p), f"{folder}/{p}")}
    digest = source.digest()
    unchanged = len(fresh) == len(paths) and read_index(root, split).get("digest") == digest
    pending = [
        size
        for size in sizes
        if not _size_is_done(root, split, size, digest, crop, form, unchanged)
    ]
    what = f"{root.name}/{split}"
    if unread := not_read(source):
        say(unread)
    if unchanged and not pending:
        say(f"{what}: {len(paths)} images, up to date")
        _judge(what, len(paths), read_index(root, split)["bad"], manifest)
        return
    outs = {}
    for size in pending:
        out = root.with_name(resolution_name(root.name, size))
        make_folder(out / split)
        write_json(out / BUILDING.format(split=split), {"crop": crop, "format": form})
        (out / COMPLETE.format(split=split)).unlink(missing_ok=True)
        outs[size] = str(out / split)
    for below in {os.path.dirname(p) for p in paths}:
        for made in outs.values():
            os.makedirs(os.path.join(made, below), exist_ok=True)
    job = _Job(str(folder), outs, form, crop)
    tasks = []
    for path in paths:
        old = records.get(path) if path in fresh else None
        missing = [
            s
            for s, made in outs.items()
            if old is None or not os.path.exists(f"{made}/{native_name(path, form)}")
        ]
        if old is None or (missing and "bad" not in old):
            tasks.append((path, missing))
    started = time.perf_counter()
    with files.appending(manifest) as log:
        for record in track(parallel_map(partial(_look, job), tasks, workers), len(tasks), what):
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
    files.write_text(manifest, lines)
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
        for below, _, _ in os.walk(out):
            files.sweep(Path(below))  # of a worker that was killed
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
        note = read_object(out / note_name.format(split=split))
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
                and note.get("content") == read_index(root, split).get("content")
            )
    if (out / split).exists() and list_files(out / split):
        FolderSource(root / split, base=root, split=split).has_native(size)
        say(f"{out.name}/{split}: made by another tool, same pictures; left as it is")
        return True
    return False


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
        data = picture_bytes(file, path)
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
    files.write_bytes(Path(file), out.getbuffer(), durable=False)  # by the thousand
