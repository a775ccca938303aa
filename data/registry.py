"""Data sets by name, folder, zip or LMDB.

A new data set is a folder path, a folder put under the data directory, or one entry of `KNOWN`.
"""

from __future__ import annotations

import difflib
import errno
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.readers.arrays import array_splits
from data.readers.edm_zip import EdmSource, is_edm
from data.readers.folders import FolderSource, resolutions_of, split_folder, splits_in
from data.readers.lmdb_store import FULL, LmdbSource, find_envs, parse_env
from data.readers.zips import ZipSource, zip_splits
from data.sources import (
    Source,
    Subset,
    check_split,
    keyed_order,
    labels_of,
    split_of,
    stratified,
)
from storage.errors import DataError

# NAME_deci holds a tenth of NAME's training pictures, and so on; validation pictures stay.
FRACTIONS = {"deci": 0.1, "centi": 0.01, "milli": 0.001}
SYNTHETIC = "scenes"
# Names used elsewhere for sets that have another one here.
ALIASES = {"tiny": "tinyImagenet"}


@dataclass(frozen=True)
class Known:
    """A data set this toolkit can prepare: where its archive is, or what it is a part of.

    recipe: name of the augmentations for contrastive learning (data.views.recipes.RECIPES), size:
    side of the views; without them both follow from the resolution that is asked for.
    """

    about: str
    mirrors: tuple[str, ...] = ()
    sha256: str | None = None
    base: str | None = None
    classes: tuple[str, ...] = ()
    lmdb: bool = False
    recipe: str | None = None
    size: int | None = None


KNOWN: dict[str, Known] = {
    "camnet3": Known(
        "3 ImageNet classes (butterfly, bird, strawberry), 3840 train and 60 val images",
        mirrors=("drive:1Yly8SJitGnA25opej57TRLlSyoGmqeIN",),
    ),
    "cifar10": Known(
        "CIFAR-10 as PNG folders, 32 px",
        mirrors=(
            "drive:1_CILJzGysgPLflV2HxXSNMjVzlJat6hs",
            "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        ),
        recipe="cifar",
        size=32,
    ),
    "miniImagenet": Known(
        "64/16/20 classes of 600 images, class-disjoint splits, 84 px",
        mirrors=("drive:15iRcb_h5od0GsTkBGRmVTR8LyfJGuJ2k",),
        recipe="miniImagenet",
        size=128,
    ),
    "tinyImagenet": Known(
        "200 classes, 64 px",
        mirrors=(
            "drive:1mCQOMcVbN0XT_uwcUjU1gdMvVRpBcX3w",
            "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        ),
        recipe="small",
        size=64,
    ),
    "mnist": Known(
        "handwritten digits, 28 px, four idx files",
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
    ),
    "butterfly": Known("one class of camnet3", base="camnet3", classes=("butterfly", "n02279972")),
    "bird": Known("one class of camnet3", base="camnet3", classes=("bird", "n01531178")),
    "strawberry": Known(
        "one class of camnet3", base="camnet3", classes=("strawberry", "n07745940")
    ),
    "camnet3_lmdb": Known("camnet3 in LMDB", base="camnet3", lmdb=True),
    "camnet3_deci_lmdb": Known("a tenth of camnet3 in LMDB", base="camnet3_deci", lmdb=True),
    "camnet3_centi_lmdb": Known("a hundredth of camnet3 in LMDB", base="camnet3_centi", lmdb=True),
}


def names() -> list[str]:
    """Names that work without a path (each also with _deci, _centi or _milli)."""
    return [SYNTHETIC, *KNOWN]


def fraction_of(name: str) -> tuple[str, float | None]:
    """`camnet3_deci` -> (`camnet3`, 0.1); other names -> (name, None)."""
    base, _, suffix = name.rpartition("_")
    return (base, FRACTIONS[suffix]) if base and suffix in FRACTIONS else (name, None)


def full_name(name: str) -> str:
    """What a short name stands for: `tiny` -> `tinyImagenet`, also with _deci and so on."""
    base, _ = fraction_of(name)
    return ALIASES[base] + name[len(base) :] if base in ALIASES else name


def open_source(spec: str, data_path: str | Path, *, split: str = "train") -> Source:
    """The data set that `spec` names.

    spec: NAME or NAME/split under `data_path`; a folder (of splits, of classes, or of images); a
    zip of one (`set.zip`, `set.zip/val`); a folder or zip as dataset_tool writes them; an LMDB
    environment or a folder of them; CIFAR-10's or MNIST's own files; "scenes"
    (rendered, nothing on disk); a part of a known set (`bird`, `camnet3_deci`). `split` counts when
    spec names none. DataError: one line with what is there and how to get what is not.
    """
    data_path = Path(data_path)
    spec = str(spec).strip()
    if not spec:
        raise DataError("an empty data set name; give a NAME, NAME/split or a folder")
    if spec.split("/")[0] == SYNTHETIC and len(spec.split("/")) <= 2:
        return _scenes(spec, split)
    for place in (data_path / spec, Path(spec).expanduser()):
        found = _open_path(place, split)
        if found is not None:
            return found
    head, _, last = spec.rpartition("/")
    if head and split_of(last):
        # NAME/split where NAME is no folder of that kind: a zip, a part of a set, or a missing
        # split
        for place in (data_path / head, Path(head).expanduser()):
            found = _open_path(place, check_split(last))
            if found is not None:
                return found
        return _open_part(head, data_path, check_split(last))
    return _open_part(spec, data_path, check_split(split))


def _open_path(place: Path, split: str) -> Source | None:
    """The source at an existing path, None if nothing is there."""
    try:
        os.stat(place)
    except OSError as error:
        if error.errno == errno.EACCES:
            raise DataError(f"{place}: no permission to look there") from None
        if error.errno != errno.ENOENT and error.errno != errno.ENOTDIR:
            return None  # a name too long or otherwise impossible names nothing
    arrays = array_splits(place)
    if arrays:
        if check_split(split) not in arrays:
            raise DataError(f"{place} has no split {split}; it has {', '.join(arrays)}")
        return arrays[split]()
    if place.is_dir():
        if (place / "data.mdb").exists():
            return _one_env(place)
        if is_edm(place):
            return EdmSource(place)
        envs = find_envs(place)
        if envs:
            return _envs(place, envs, check_split(split))
        return _folder(place, check_split(split))
    archive = _archive(place)
    if archive.is_file():
        if is_edm(archive):
            return EdmSource(archive)
        splits = zip_splits(archive)
        return ZipSource(archive, split=check_split(split) if splits else None)
    if place.exists():
        raise DataError(
            f"{place} is neither a folder nor a zip; unpack it with "
            f"`python data/SetupDataset.py --data NAME --source {place}`"
        )
    return None


def _archive(place: Path) -> Path:
    """The zip a path means: itself, or NAME.zip for NAME."""
    return place if place.suffix.lower() == ".zip" else Path(f"{place}.zip")


def _folder(place: Path, split: str) -> Source:
    splits = splits_in(place)
    if splits:
        if split not in splits:
            cut_off = ", or cv to cut one off" if split == "val" and "train" in splits else ""
            raise DataError(
                f"{place} has no split {split}; it has {', '.join(splits)} "
                f"(give NAME/{next(iter(splits))}{cut_off})"
            )
        if is_edm(splits[split]):
            return EdmSource(splits[split], name=f"{place.name}/{split}")
        return FolderSource(splits[split], base=place, split=split)
    own = split_of(place.name)
    if own is not None and split_folder(place.parent, own) == place:
        # NAME/train given as a path: its prebuilt sizes lie beside NAME
        return FolderSource(place, base=place.parent, split=own)
    return FolderSource(place, base=place, split=None)


def _one_env(env: Path) -> Source:
    """A single environment, with its siblings of other sizes."""
    name, split, size = parse_env(env)
    envs = {size: env}
    if split is not None:
        for other in env.parent.glob("*.lmdb"):
            other_name, other_split, other_size = parse_env(other)
            if (other_name, other_split) == (name, split) and other_size < size:
                envs[other_size] = other
        envs.pop(FULL, None) if size != FULL else None
    return LmdbSource(envs, name=name, split=split)


def _envs(place: Path, envs: dict[str, dict[int, Path]], split: str) -> Source:
    if split not in envs:
        raise DataError(f"{place} has no split {split}; it has {', '.join(sorted(envs))}")
    return LmdbSource(dict(envs[split]), name=f"{place.name}/{split}", split=split)


def _scenes(spec: str, split: str) -> Source:
    from data.scenes import Scenes

    _, _, own = spec.partition("/")
    split = check_split(own or split)
    if split not in ("train", "val"):
        raise DataError(f"scenes has splits train and val, not {split}")
    return Scenes(split=split)


def _open_part(name: str, data_path: Path, split: str) -> Source:
    """A subset of a set that is there (`bird`, `X_deci`), or the error that says how to get it."""
    if full_name(name) != name:
        return open_source(full_name(name), data_path, split=split)
    base, fraction = fraction_of(name)
    if fraction is not None and _is_there(base, data_path):
        whole = open_source(base, data_path, split=split)
        if split != "train":
            return whole
        return Subset(whole, stratified(labels_of(whole), fraction, seed=0), f"{name}/{split}")
    known = KNOWN.get(name)
    if known and known.classes and known.base and _is_there(known.base, data_path):
        whole = open_source(known.base, data_path, split=split)
        return one_class(whole, known.classes, name)
    raise DataError(_missing(name, data_path))


def one_class(whole: Source, wanted: tuple[str, ...], name: str) -> Subset:
    """The images of one class, known by any of its names, as a set of one class."""
    numbers = [k for k, c in enumerate(whole.classes) if c in wanted]
    if not numbers:
        raise DataError(
            f"{whole.name} has no class {' or '.join(wanted)}; it has "
            f"{', '.join(whole.classes[:5])}{', ...' if len(whole.classes) > 5 else ''}"
        )
    return Subset(whole, np.flatnonzero(np.isin(labels_of(whole), numbers)), name)


def _is_there(name: str, data_path: Path) -> bool:
    if (data_path / name).exists() or (data_path / f"{name}.zip").exists():
        return True
    known = KNOWN.get(name)
    return bool(known and known.base and known.classes and _is_there(known.base, data_path))


def _missing(name: str, data_path: Path) -> str:
    base, fraction = fraction_of(name)
    if name in KNOWN or (fraction is not None and base in KNOWN):
        return (
            f"{name} is not prepared in {data_path}; run "
            f"`python data/SetupDataset.py --data {name} --sizes 16 32 64` or give --data_path"
        )
    sizes = resolutions_of(data_path, name)
    if sizes:
        return (
            f"{name} is not in {data_path}, only its {sizes[-1]}x{sizes[-1]} pictures; "
            f"give {name}_{sizes[-1]}x{sizes[-1]} to use them as originals"
        )
    here = []
    if data_path.is_dir():
        here = sorted(e.name for e in data_path.iterdir() if not e.name.startswith("."))
    near = difflib.get_close_matches(name, [*names(), *here], n=1)
    hint = f"did you mean {near[0]}?" if near else f"known names: {', '.join(names())}"
    return f"no data set {name!r}: neither a path, nor in {data_path}, nor known; {hint}"


def train_val_sources(
    data_tr: str,
    data_val: str | None,
    data_path: str | Path,
    *,
    val_fraction: float = 0.1,
    seed: int = 0,
) -> tuple[Source, Source]:
    """Training and validation pictures.

    data_val: a spec like data_tr; "cv" cuts the validation part off data_tr; None means data_tr's
    own val split. A set without one is cut too: once, from the full training set, by class,
    disjoint, a function of (set, val_fraction, seed) alone.
    """
    if not 0 < val_fraction < 1:
        raise DataError(f"val_fraction {val_fraction} must lie between 0 and 1")
    data_path = Path(data_path)
    full = open_source(data_tr, data_path, split="train")
    if data_val != "cv":
        base = _without_split(str(data_tr))
        if data_val in (None, ""):
            data_val = base
        data_val = str(data_val)
        own = splits_of(data_val, data_path)
        if own is None or "val" in own:  # says its split itself, or has one for us
            return full, open_source(data_val, data_path, split="val")
        if own and data_val != base:
            return full, open_source(data_val, data_path, split="val")  # the error names the splits
        if not own and data_val not in (base, str(data_tr)):
            return full, open_source(data_val, data_path)  # another folder without splits, whole
    return cut(full, val_fraction, seed)


def cut(full: Source, val_fraction: float, seed: int) -> tuple[Subset, Subset]:
    """(train, val): `val_fraction` of every class goes to val, classes of one image to train."""
    labels = labels_of(full)
    val = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        k = min(len(members) - 1, max(1, round(len(members) * val_fraction)))
        val.append(members[keyed_order(len(members), seed, int(label))[:k]])
    chosen = np.sort(np.concatenate(val))
    if not len(chosen):  # one image a class: leave classes aside
        if len(full) < 2:
            raise DataError(f"{full.name} has {len(full)} image; nothing to validate on")
        k = min(len(full) - 1, max(1, round(len(full) * val_fraction)))
        chosen = np.sort(keyed_order(len(full), seed)[:k])
    rest = np.setdiff1d(np.arange(len(full)), chosen)
    return Subset(full, rest, f"{full.name} (train part)"), Subset(
        full, chosen, f"{full.name} (val part)"
    )


def _without_split(spec: str) -> str:
    head, _, last = spec.rpartition("/")
    return head if head and split_of(last) else spec


def splits_of(spec: str, data_path: Path) -> list[str] | None:
    """Splits to choose from for a spec that names none; None if it names one itself."""
    if _without_split(spec) != spec:
        return None
    if spec == SYNTHETIC:
        return ["train", "val"]
    for place in (data_path / spec, Path(spec).expanduser()):
        if arrays := array_splits(place):
            return list(arrays)
        if place.is_dir():
            if (place / "data.mdb").exists() or is_edm(place):
                return []
            return sorted(find_envs(place)) or list(splits_in(place))
        archive = _archive(place)
        if archive.is_file():
            return [] if is_edm(archive) else zip_splits(archive)
    if full_name(spec) != spec:
        return splits_of(full_name(spec), data_path)
    known = KNOWN.get(spec)
    base = known.base if known and known.classes else None
    base = base or (fraction_of(spec)[0] if fraction_of(spec)[1] is not None else None)
    return splits_of(base, data_path) if base else []
