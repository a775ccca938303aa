"""Fetching layout sets: COCO with COCO-Stuff, Visual Genome, CelebAMask-HQ.

Under the data directory:
    downloads/layouts/NAME/         archives as fetched, or as somebody placed them there
    NAME/                           the set, as `data.layout_registry` reads it
NAME appears when it is whole; a stopped attempt begins anew, except for what was downloaded.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from data.notes import fits
from data.prepare.download import archive_fault, extract, fetch, is_archive
from data.prepare.workers import parallel_map, say
from data.readers import celeba_mask
from runtime.progress import track
from storage import files
from storage.errors import DataDiskError, DataError
from storage.files import make_folder, read_object, write_json

ORIGIN = "origin.json"


@dataclass(frozen=True)
class Part:
    """A file of a set.

    file: its name; mirrors: addresses, tried in turn; pin: `md5:HEX` or the like, of the file
    whoever gives it, None: recorded at the first download; into: folder of the set that it, or
    what is in it, goes to; split: the one that alone needs it; optional: the set is read without.
    """

    file: str
    mirrors: tuple[str, ...]
    pin: str | None = None
    into: str = ""
    split: str | None = None
    optional: bool = False


@dataclass(frozen=True)
class LayoutSet:
    """What a set is made of. by_hand: what to do where no mirror gives its files."""

    about: str
    parts: tuple[Part, ...]
    by_hand: str = ""

    @property
    def splits(self) -> tuple[str, ...]:
        """Those that can be fetched one by one."""
        return tuple(dict.fromkeys(p.split for p in self.parts if p.split))


def _coco(path: str, pin: str, split: str | None = None) -> Part:
    # the certificate of images.cocodataset.org is not its own: the same store under its own name
    mirrors = (
        f"https://s3.amazonaws.com/images.cocodataset.org/{path}",
        f"http://images.cocodataset.org/{path}",
    )
    return Part(path.rpartition("/")[2], mirrors, pin, split=split)


def _genome(file: str, into: str = "", host: str = "", optional: bool = False) -> Part:
    if host:
        return Part(file, (f"{host}/{file}",), None, into, optional=optional)
    mirrors = (
        f"https://homes.cs.washington.edu/~ranjay/visualgenome/data/dataset/{file}",
        f"https://visualgenome.org/static/data/dataset/{file}",
    )
    return Part(file, mirrors, None, into, optional=optional)


_STANFORD = "https://cs.stanford.edu/people/rak248/VG_100K_2"
_SG2IM = "https://raw.githubusercontent.com/google/sg2im/master/sg2im/data"
SETS: dict[str, LayoutSet] = {
    "coco": LayoutSet(
        "COCO 2017 with COCO-Stuff: 118,287 and 5,000 pictures (27 GB)",
        (
            _coco(
                "annotations/annotations_trainval2017.zip", "md5:f4bbac642086de4f52a3fdda2de5fa2c"
            ),
            _coco(
                "annotations/stuff_annotations_trainval2017.zip",
                "sha1:e7aa0f7515c07e23873a9f71d9095b06bcea3e12",
            ),
            _coco("zips/val2017.zip", "md5:442b8da7639aecaf257c1dceb8ba8c80", "val"),
            _coco("zips/train2017.zip", "md5:cced6f7f71b7629ddf16f17bbcfab6b2", "train"),
        ),
        "fetch them from https://cocodataset.org/#download",
    ),
    "vg": LayoutSet(
        "Visual Genome 1.4: 108,077 pictures with named boxes (15 GB)",
        (
            _genome("objects.json.zip"),
            _genome("image_data.json.zip"),
            _genome("object_alias.txt"),
            _genome("vg_splits.json", host=_SG2IM, optional=True),
            _genome("images.zip", "images", _STANFORD),
            _genome("images2.zip", "images", _STANFORD),
        ),
        "fetch them from https://homes.cs.washington.edu/~ranjay/visualgenome/api.html",
    ),
    "celebamask": LayoutSet(
        "CelebAMask-HQ: 30,000 faces with the classes of their pixels (3 GB)",
        (
            Part(
                "CelebAMask-HQ.zip",
                ("drive:1badu11NqxGf6qM3PTTooQDJvQbejgbTv",),
                "md5:b08032b342a8e0cf84c273db2b52eef3",
            ),
        ),
        "Google Drive lends this file to so many people a day: open "
        "https://github.com/switchablenorms/CelebAMask-HQ in a browser, download CelebAMask-HQ.zip "
        "there (from Google Drive when signed in, or from Baidu Drive)",
    ),
}


def prepare_layouts(
    name: str,
    data_path: Path,
    *,
    source: Path | None = None,
    mirrors: Sequence[str] = (),
    splits: Sequence[str] = (),
    workers: int = 0,
) -> Path:
    """`data_path/name`, made if it is not there yet: the folder.

    source: a folder in which files of the set lie already, packed or (celebamask) unpacked; what is
    not there is not fetched. mirrors: addresses of folders that have the files by their names,
    tried first. splits: those whose pictures are wanted (default: all). workers: processes that
    merge masks. Errors: DataError, which says what was answered and how to get a file by hand.
    """
    known, root = SETS[name], data_path / name
    unknown = [s for s in splits if s not in known.splits]
    if unknown:
        there = ", ".join(known.splits) or "none that could be fetched alone"
        raise DataError(f"{name} has no split {unknown[0]}; it has {there}")
    origin = {"name": name, "splits": sorted(splits or known.splits)}
    if root.is_dir() and any(root.iterdir()):
        made = read_object(root / ORIGIN)
        made = made if made is not None and fits(made, {"splits": [str]}) else {}
        if set(origin["splits"]) - set(made.get("splits", origin["splits"])):
            raise DataError(
                f"{root} was made with {', '.join(made['splits'])} alone; remove it to make it "
                f"with {', '.join(origin['splits'])} (downloads are kept)"
            )
        return root
    if source is not None and not source.is_dir():
        raise DataError(f"{source} is no folder; give the one in which the files of {name} lie")
    say(f"{name}: {known.about}")
    unpacked = name == "celebamask" and source is not None and _celeba_root(source) is not None
    have: dict[Part, Path] = {}
    for part in known.parts if not unpacked else ():
        if not part.split or not splits or part.split in splits:
            found = _have(part, name, data_path, source, mirrors)
            if found is not None:
                have[part] = found
    make_folder(data_path)
    try:
        with files.staging(root) as staging:
            staging.mkdir()
            for part, file in have.items():
                _place(file, staging / part.into)
            if name == "coco":
                _pixelmaps(staging / "annotations", splits or known.splits)
            if name == "celebamask":
                _celeba(staging, source if unpacked else None, workers)
            write_json(staging / ORIGIN, origin)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DataDiskError(f"cannot prepare {root}: {error.strerror}") from None
    return root


def _have(
    part: Part, name: str, data_path: Path, source: Path | None, mirrors: Sequence[str]
) -> Path | None:
    """Where a file of a set lies, fetched if need be; None for one that may lack and does."""
    if source is not None:
        for file in (source / part.file, source / part.file.removesuffix(".zip")):
            if file.is_file():
                return file
        if part.optional:
            return None
        raise DataError(f"{source} has no {part.file}, which {name} needs")
    file = data_path / "downloads" / "layouts" / name / part.file
    addresses = [f"{m.rstrip('/')}/{part.file}" for m in mirrors] + list(part.mirrors)
    pins = dict.fromkeys(addresses, part.pin) if part.pin else {}
    check = archive_fault if is_archive(file) else None
    try:
        return fetch(addresses, file, pins=pins, check=check)
    except DataDiskError:
        raise
    except DataError as error:
        if part.optional:
            say(f"going on without {part.file}: {error}")
            return None
        by_hand = SETS[name].by_hand
        raise DataError(
            f"{error}. By hand: {by_hand}, place it at {file} and run this again"
        ) from None


def _place(file: Path, folder: Path) -> None:
    """Unpack an archive into a folder that may have something in it, or link a file there."""
    folder.mkdir(parents=True, exist_ok=True)
    if not is_archive(file):
        (folder / file.name).symlink_to(file.absolute())
        return
    room = folder / ".unpacked"
    extract(file, room)
    _merge(room, folder, file)


def _merge(room: Path, folder: Path, file: Path) -> None:
    """Move what is in `room` to `folder`, folders into folders of their name."""
    folder.mkdir(exist_ok=True)
    for entry in sorted(room.iterdir()):
        target = folder / entry.name
        if entry.is_dir() and target.is_dir():
            _merge(entry, target, file)
        elif os.path.lexists(target):
            raise DataError(f"{file} has {entry.name}, which another file of the set has too")
        else:
            files.move(entry, target)
    room.rmdir()


def _pixelmaps(folder: Path, splits: Sequence[str]) -> None:
    """Unpack the classes of pixels, which come as archives inside one of the archives."""
    for file in sorted(folder.glob("stuff_*_pixelmaps.zip")):
        if any(file.name.startswith(f"stuff_{split}2") for split in splits):
            room = folder / ".unpacked"
            extract(file, room)
            inner = room / file.stem  # in a folder of its name, or loose
            files.move(inner if inner.is_dir() else room, folder / file.stem)
            if room.is_dir():
                room.rmdir()
        files.remove(file)


def _celeba_root(folder: Path) -> Path | None:
    """Where in a folder CelebAMask-HQ lies unpacked."""
    for root in (folder, folder / "CelebAMask-HQ"):
        if (root / celeba_mask.PICTURES).is_dir():
            return root
    return None


def _celeba(staging: Path, source: Path | None, workers: int) -> None:
    """The set from what was unpacked, or linked to `source`, with masks of all parts in one."""
    root = _celeba_root(source or staging)
    if root is None:
        raise DataError(f"CelebAMask-HQ.zip has no {celeba_mask.PICTURES}: it is another archive")
    anno = root / celeba_mask.PART_MASKS
    merged = celeba_mask.mask_folder(root)
    if merged is None and not anno.is_dir():
        raise DataError(f"{root} has neither {celeba_mask.PART_MASKS} nor {celeba_mask.MASKS}")
    if source is not None:
        for entry in sorted(root.iterdir()):
            if entry.suffix == ".txt" or entry.name == celeba_mask.PICTURES or entry == merged:
                (staging / entry.name).symlink_to(entry.absolute(), entry.is_dir())
    elif root != staging:
        _merge(root, staging, root)
        anno = staging / celeba_mask.PART_MASKS
    if merged is None:
        masks = staging / celeba_mask.MASKS
        masks.mkdir()
        keys = [k for k in celeba_mask.all_keys(staging) if k.isdecimal()]
        tasks = [(str(anno), int(key), str(masks / f"{key}.png")) for key in keys]
        empty = 0
        for some in track(parallel_map(write_mask, tasks, workers), len(tasks), "masks"):
            empty += not some
        if empty:
            say(f"{empty} of {len(tasks)} faces have no part's mask: all of them is background")
    if not celeba_mask.splits(staging):
        say(f"no {celeba_mask.MAPPING} and no train.txt: one split, train, of all pictures")


def write_mask(task: tuple[str, int, str]) -> bool:
    """(folder of parts' masks, number, file): the file; whether anything is in it."""
    folder, key, file = task
    labels = celeba_mask.merge_parts(Path(folder), key)
    with files.writing(Path(file), durable=False) as out:
        Image.fromarray(labels).save(out, "PNG", compress_level=4)
    return bool(np.any(labels))
