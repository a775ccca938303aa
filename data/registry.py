"""Data sets by name, folder, zip or LMDB.

A new data set is a folder path, a folder put under the data directory, or one entry of `KNOWN`.
"""

from __future__ import annotations

import contextlib
import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from data.readers import recognise
from data.readers.base import Found, refused
from data.readers.folders import resolutions_of
from data.readers.torchvision_sets import is_torchvision
from data.readers.torchvision_sets import recognise as recognise_torchvision
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
EXAMPLE_SIZES = (16, 32, 64)  # in a hint, where nobody has asked for any
# Names used elsewhere for sets that have another one here.
ALIASES = {"tiny": "tinyImagenet"}
_CIFAR = "https://www.cs.toronto.edu/~kriz"  # who publishes md5 of both CIFARs beside them
_STL = "https://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz"
_TINY = "https://cs231n.stanford.edu/tiny-imagenet-200.zip"


@dataclass(frozen=True)
class Known:
    """A data set this toolkit can prepare: where its archive is, or what it is a part of.

    sha256: of the archive whoever gives it; pins: mirror -> `md5:HEX` or `sha256:HEX`, as it was
    published; what has neither is recorded when it is first fetched (data.prepare.digests).
    recipe: name of the augmentations for contrastive learning (data.views.recipes.RECIPES), size:
    side of the views; without them both follow from the resolution that is asked for.
    """

    about: str
    mirrors: tuple[str, ...] = ()
    sha256: str | None = None
    pins: Mapping[str, str] = field(default_factory=dict)
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
            f"{_CIFAR}/cifar-10-python.tar.gz",
        ),
        pins={f"{_CIFAR}/cifar-10-python.tar.gz": "md5:c58f30108f718f92721af3b95e74349a"},
        recipe="cifar",
        size=32,
    ),
    "cifar100": Known(
        "CIFAR-100, 100 fine classes as PNG folders, 32 px",
        mirrors=(f"{_CIFAR}/cifar-100-python.tar.gz",),
        pins={f"{_CIFAR}/cifar-100-python.tar.gz": "md5:eb9058c3a382ffc7106e4002c42a8d85"},
        recipe="cifar",
        size=32,
    ),
    "stl10": Known(
        "STL-10, 10 classes and a part without labels, 96 px",
        mirrors=(_STL,),
        pins={_STL: "md5:91f7769df0f17e558f3565bffb0c7dfb"},
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
            _TINY,
        ),
        pins={_TINY: "md5:90528d7ca1a48142e341f4ef8d21d0de"},
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


@contextlib.contextmanager
def asking_for(sizes: Sequence[int]) -> Iterator[None]:
    """What opens a data set inside names these sides where it says how to prepare one."""
    try:
        yield
    except DataError as error:
        if not sizes or error.saying is None:
            raise
        raise DataError(error.saying(list(dict.fromkeys(sizes)))) from None


def open_source(
    spec: str, data_path: str | Path, *, split: str = "train", sizes: Sequence[int] = ()
) -> Source:
    """The data set that `spec` names.

    spec: NAME or NAME/split under `data_path`; a folder (of splits, of classes, or of images); a
    zip of one (`set.zip`, `set.zip/val`); a picture; a folder or zip as dataset_tool writes them;
    an LMDB environment or a folder of them; CIFAR-10's or MNIST's own files; "scenes"
    (rendered, nothing on disk); a part of a known set (`bird`, `camnet3_deci`); any data set of
    torchvision's (`torchvision:MNIST`). `split` counts when spec names none. sizes: the sides that
    its pictures will be asked for at, for that line only.
    DataError: one line with what is there and how to get what is not.
    """
    with asking_for(sizes):
        return find(str(spec), Path(data_path)).open(split)


def find(spec: str, data_path: Path) -> Found:
    """What `spec` (as open_source takes it) names: its splits, and how to open one of them.

    Readers are asked once; a set that is not there is told of when it is opened.
    """
    spec = bare(spec)
    head, _, last = spec.rpartition("/")
    own = split_of(last) if head else None
    if not spec:
        return refused("an empty data set name; give a NAME, NAME/split or a folder")
    if spec.split("/")[0] == SYNTHETIC and len(spec.split("/")) <= 2:
        splits = None if own else ("train", "val") if spec == SYNTHETIC else ()
        return Found(splits, lambda split: _scenes(spec, split))
    if is_torchvision(spec) and fraction_of(spec)[1] is None:
        return recognise_torchvision(spec, data_path)
    if found := _at_path(spec, data_path):
        return Found(None, found.open) if own else found
    if own:
        # NAME/split where NAME is no folder of that kind: a zip, a part of a set, or a missing
        # split
        whole = _at_path(head, data_path) or _part(head, data_path)
        return Found(None, lambda _: whole.open(own))
    part = _part(spec, data_path)
    return Found(part.splits, lambda split: part.open(check_split(split)))


def bare(spec: str) -> str:
    """A spec without spaces around it and `/` behind it."""
    spec = str(spec).strip()
    return spec.rstrip("/") or spec[:1]


def _at_path(spec: str, data_path: Path) -> Found | None:
    """What lies at a path in the data directory, or seen from here."""
    return recognise(data_path / spec) or recognise(Path(os.path.expanduser(spec)))


def _scenes(spec: str, split: str) -> Source:
    from data.scenes import Scenes

    _, _, own = spec.partition("/")
    split = check_split(own or split)
    if split not in ("train", "val"):
        raise DataError(f"scenes has splits train and val, not {split}")
    return Scenes(split=split)


def _part(name: str, data_path: Path) -> Found:
    """A part of a set that is there (`bird`, `X_deci`), or the error that says how to get it."""

    def absent(_: str) -> Source:
        error = DataError(missing(name, data_path))
        error.saying = partial(missing, name, data_path)
        raise error

    if full_name(name) != name:
        return find(full_name(name), data_path)
    known = KNOWN.get(name)
    classes = known.classes if known else ()
    base, fraction = fraction_of(name)
    if known and known.base and classes:
        base = known.base
    elif fraction is None:
        return Found((), absent)
    whole = find(base, data_path)
    there = _is_there(base, data_path) or is_torchvision(base)
    if not there and _at_path(base, data_path) is None:
        return Found(whole.splits, absent)

    def open_part(split: str) -> Source:
        source = whole.open(split)
        if classes:
            return one_class(source, classes, name)
        if fraction is None or split != "train":
            return source
        return Subset(source, stratified(labels_of(source), fraction, seed=0), f"{name}/{split}")

    return Found(whole.splits, open_part)


def one_class(whole: Source, wanted: tuple[str, ...], name: str) -> Subset:
    """The images of one class, known by any of its names, as a set of one class."""
    labels = [k for k, c in enumerate(whole.classes) if c in wanted]
    if not labels:
        raise DataError(
            f"{whole.name} has no class {' or '.join(wanted)}; it has "
            f"{', '.join(whole.classes[:5])}{', ...' if len(whole.classes) > 5 else ''}"
        )
    return Subset(whole, np.flatnonzero(np.isin(labels_of(whole), labels)), name)


def _is_there(name: str, data_path: Path) -> bool:
    if (data_path / name).exists() or (data_path / f"{name}.zip").exists():
        return True
    known = KNOWN.get(name)
    return bool(known and known.base and known.classes and _is_there(known.base, data_path))


def missing(name: str, data_path: Path, sizes: Sequence[int] = EXAMPLE_SIZES) -> str:
    """What to say of a set that is not there: how to prepare it, or what may have been meant."""
    base, fraction = fraction_of(name)
    if name in KNOWN or (fraction is not None and base in KNOWN):
        wanted = " ".join(str(size) for size in sizes)
        return (
            f"{name} is not prepared in {data_path}; run "
            f"`python data/SetupDataset.py --data {name} --sizes {wanted}` or give --data_path"
        )
    made = resolutions_of(data_path, name)
    if made:
        return (
            f"{name} is not in {data_path}, only its {made[-1]}x{made[-1]} pictures; "
            f"give {name}_{made[-1]}x{made[-1]} to use them as originals"
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
    sizes: Sequence[int] = (),
) -> tuple[Source, Source]:
    """Training and validation pictures; sizes: as of `open_source`.

    data_val: a spec like data_tr; "cv" cuts the validation part off data_tr; None means data_tr's
    own val split, unless data_tr names just that. A set without one is cut too: once, from the full
    training set, by class, disjoint, a function of (set, val_fraction, seed) alone.
    """
    if not 0 < val_fraction < 1:
        raise DataError(f"val_fraction {val_fraction} must lie between 0 and 1")
    with asking_for(sizes):
        return _train_val(bare(data_tr), data_val, Path(data_path), val_fraction, seed)


def _train_val(
    data_tr: str, data_val: str | None, data_path: Path, val_fraction: float, seed: int
) -> tuple[Source, Source]:
    found = find(data_tr, data_path)
    full = found.open("train")
    data_val = bare(data_val or "")
    own = None if without_split(data_tr) == data_tr else split_of(data_tr.rpartition("/")[2])
    if not data_val and own == "val":
        data_val = "cv"  # nobody asked to validate on what is trained on
    if data_val != "cv":
        base = without_split(data_tr)
        data_val = data_val or base
        held = found if data_val == data_tr else find(data_val, data_path)
        if held.splits is None or "val" in held.splits:  # says its split itself, or has one for us
            return full, held.open("val")
        if held.splits and data_val != base:
            return full, held.open("val")  # the error names the splits
        if not held.splits and data_val not in (base, data_tr):
            return full, held.open("train")  # another folder without splits, whole
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


def without_split(spec: str) -> str:
    """The set that a spec names, without the split that it may name."""
    spec = bare(spec)
    head, _, last = spec.rpartition("/")
    return head if head and split_of(last) else spec
