"""Getting the originals of a data set: from a folder, an archive, a download, or a whole set.

Under the data directory:
    NAME/{split}/{class}/picture         the originals (or links to where they lie)
    downloads/                           archives as fetched
NAME appears when it is whole; a stopped attempt begins anew, except for what was downloaded.
"""

from __future__ import annotations

import csv
import gzip
import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from data.prepare.download import archive_fault, extract, fetch, is_archive
from data.prepare.workers import say
from data.readers.arrays import MNIST_FILES, ArraySource, array_parts
from data.readers.edm_zip import is_edm
from data.readers.folders import FolderSource, splits_in
from data.readers.layout import list_files
from data.readers.tree import FolderTree, has_notes, understand, unwrapped
from data.registry import KNOWN, fraction_of, one_class
from data.sources import Source, Subset, labels_of, stratified
from data.told import not_used
from runtime.progress import track
from storage import files
from storage.errors import DataDiskError, DataError
from storage.files import make_folder, read_object, write_json

ORIGIN = "origin.json"


def acquire(name: str, data_path: Path, source: Path | None = None) -> Path:
    """`data_path/name` with split folders, made if it is not there yet.

    source: a folder, a zip, a tar or MNIST's idx files; folders are linked, not copied. Without one
    the archive of a known set is downloaded, or a part of a known set is linked from the whole.
    """
    root = data_path / name
    if source is not None:
        source = Path(os.path.expanduser(source)).absolute()
        if not source.exists():
            raise DataError(f"{source} does not exist")
    if root.is_dir() and any(root.iterdir()):
        _check_origin(root, source)
        return root
    if root.exists() and not root.is_dir():
        raise DataError(f"{root} is a file; the data set's folder should go there")
    make_folder(data_path)
    try:
        with files.staging(root) as staging:
            _fill(staging, name, data_path, source)
            origin = {"name": name, "source": str(source) if source else "known"}
            write_json(staging / ORIGIN, origin)
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise DataDiskError(f"cannot prepare {root}: {error.strerror}") from None
    return root


def _check_origin(root: Path, source: Path | None) -> None:
    if source is None or source.resolve() == root.resolve():
        return
    made_from = (read_object(root / ORIGIN) or {}).get("source", "something else")
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
            _link_folder(source, staging, name)
        elif is_archive(source):
            if fault := archive_fault(source):
                raise DataError(f"{source} {fault}; fetch it again")
            if zipfile.is_zipfile(source):
                _refuse_edm(source)
            _unpack(source, staging, name)
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
        _write_arrays(array_parts(_fetch_mnist(data_path)), staging)
    elif known and known.mirrors:
        file = data_path / "downloads" / f"{name}.zip"
        fetch(known.mirrors, file, sha256=known.sha256, pins=known.pins, check=archive_fault)
        _unpack(file, staging, name)
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
    """Where in folders that wrap it a set begins."""
    lone = unwrapped(folder)
    if array_parts(lone) or _lone_archive(lone):
        return lone
    tree = FolderTree(folder)
    return Path(tree.where(understand(tree).at))


def _link_folder(source: Path, staging: Path, name: str) -> None:
    inner = _inner(source)
    if arrays := array_parts(inner):
        _write_arrays(arrays, staging)
        return
    if archive := _lone_archive(inner):
        _unpack(archive, staging, name)
        return
    splits = _readable_splits(inner) or {"train": inner}
    if unused := not_used(inner):
        say(unused)
    staging.mkdir()
    for split, folder in splits.items():
        (staging / split).symlink_to(folder.absolute(), target_is_directory=True)


def _readable_splits(folder: Path) -> dict[str, Path]:
    """The splits of a folder, which may be none. DataError if notes give their labels, which would
    be lost here, and for empty classes, loose pictures and the like, before anything is made.
    """
    tree = FolderTree(folder)
    layout = understand(tree)
    for at in (layout.at, *layout.splits.values()):
        if has_notes(tree, at):
            raise DataError(
                f"{tree.where(at)} is a data set as dataset_tool writes them; there is nothing to "
                "prepare, give the (unpacked) folder or zip where a data set is asked for"
            )
    for split, inside in (splits_in(folder, filled=True) or {"train": folder}).items():
        FolderSource(inside, split=split)
    return splits_in(folder)


def _lone_archive(folder: Path) -> Path | None:
    """The archive in a folder that holds no pictures but one archive."""
    archives = [e for e in folder.iterdir() if e.is_file() and is_archive(e)]
    return archives[0] if len(archives) == 1 and not list_files(folder) else None


def _unpack(archive: Path, staging: Path, name: str, room_name: str = "unpacked") -> None:
    with files.scratch(staging.with_name(f"{name}.{room_name}")) as room:
        room.mkdir()
        unpacked = room / "all"
        extract(archive, unpacked)
        try:
            _take(archive, unpacked, staging, name, room_name)
        except DataError as error:  # the folder it names is about to vanish
            raise DataError(str(error).replace(str(unpacked), str(archive))) from None


def _take(archive: Path, unpacked: Path, staging: Path, name: str, room_name: str) -> None:
    """Move what was unpacked to `staging`, or make pictures of its arrays there."""
    inner = _inner(unpacked)
    if arrays := array_parts(inner):
        _write_arrays(arrays, staging)
        return
    _official_names(inner, archive.with_name("index.csv.gz"))
    if (lone := _lone_archive(inner)) and room_name == "unpacked":  # not a third one in that
        _unpack(lone, staging, name, "unpacked-inner")
        return
    splits = _readable_splits(inner)
    if unused := not_used(inner):
        say(unused)
    if splits:
        files.move(inner, staging)
    else:
        staging.mkdir()
        files.move(inner, staging / "train")


def _link_part(whole: Path, staging: Path, part: Callable[[Source, str], Source]) -> None:
    """Relative links to some pictures of another prepared set."""
    for split, folder in splits_in(whole, filled=True).items():
        chosen = part(FolderSource(folder, base=whole, split=split), split)
        for i in range(len(chosen)):
            original = Path(chosen.path(i))
            link = staging / split / original.relative_to(folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            # seen from the final path, which is staging's sibling
            link.symlink_to(os.path.relpath(original, link.parent))


def _fetch_mnist(data_path: Path) -> Path:
    folder = data_path / "downloads" / "mnist"
    for stem, sha256 in MNIST_FILES.items():
        file = f"{stem}.gz"
        fetch([base + file for base in KNOWN["mnist"].mirrors], folder / file, sha256=sha256)
    return folder


def _write_arrays(sources: dict[str, Callable[[], ArraySource]], staging: Path) -> None:
    """CIFAR, STL-10 or MNIST to `{split}/{class}/{number}.png`, numbers of the official order."""
    for split, opened in sources.items():
        source = opened()
        if not source.labelled:
            say(f"{split}: {len(source)} pictures without labels; --data NAME/{split} reads them")
        present = np.unique(labels_of(source))
        for name in (source.classes[k] for k in present):
            (staging / split / name).mkdir(parents=True)
        for i in track(range(len(source)), len(source), split):
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
        files.move(root / path, root / f"{path}.renamed")
    for path in here:
        name = f"{table[path]:05d}{Path(path).suffix}"
        files.move(root / f"{path}.renamed", (root / path).with_name(name))
