"""The pictures of a prepared set in LMDB, an environment a split and size.

    NAME_lmdb/NAME_{split}_{R}.lmdb

Can be interrupted at any moment and goes on where it stopped when run again.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from data.decode import decode, resize_rgb
from data.prepare.manifest import read_manifest
from data.prepare.workers import parallel_map, say
from data.readers.folders import FolderSource, splits_in
from data.readers.lmdb_store import FULL, LmdbWriter, env_name, finished_plan, unique_keys
from data.registry import fraction_of
from data.sources import Source, Subset, labels_of, stratified
from runtime.progress import track
from storage.errors import DataError
from storage.files import make_folder


def lmdb_sources(root: Path, name: str) -> dict[str, Source]:
    """Splits of `root`, reduced to a tenth and so on if `name` says so and `root` is the whole."""
    _, fraction = fraction_of(name)
    sources: dict[str, Source] = {}
    for split, folder in splits_in(root, filled=True).items():
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
        records = read_manifest(root / f"manifest-{split}.jsonl")
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
            reduced = track(
                parallel_map(partial(_reduce, tuple(writers), crop), todo, workers),
                len(todo),
                out.name,
            )
            batch: list[tuple[str, dict[int, np.ndarray]]] = []
            for key, pictures in reduced:
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
