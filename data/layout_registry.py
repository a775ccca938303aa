"""Layout sets by name or folder: what `--data` means to layout-conditioned diffusion.

A new kind is a reader with a `LayoutSource` and an entry in `KINDS`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from data.layouts import LayoutSource, ObjectRule
from data.readers import celeba_mask, coco, visual_genome
from data.registry import bare, without_split
from data.scenes.layouts import RULE as SCENES_RULE
from data.scenes.layouts import SceneLayouts
from data.sources import check_split, split_of
from data.views.layouts import Augment
from storage.errors import DataError

SCENES = "scenes"


class Views(NamedTuple):
    """How pictures are looked at: random views of training, None for none, and the filter."""

    augment: Augment | None
    filter: str = "bicubic"


@dataclass(frozen=True)
class Kind:
    """A way for layouts to lie on disk.

    splits: a folder -> its splits, each with the name that `open` takes; {} if it is not of this
    kind. rule: which objects and pictures count, by split, unless something else is asked for.
    views: the random views of training and the filter, as LayoutDiffuse has them. sets: what
    SetupLayoutData.py calls sets of this kind.
    """

    about: str
    splits: Callable[[Path], dict[str, str]]
    open: Callable[..., LayoutSource]
    rule: Callable[[str], ObjectRule]
    views: Views
    sets: tuple[str, ...] = ()


def _coco_rule(split: str) -> ObjectRule:
    return coco.TRAIN if split == "train" else coco.HELD


def _genome_splits(root: Path) -> dict[str, str]:
    there = (root / "objects.json").is_file() and (root / "image_data.json").is_file()
    return {s: s for s in visual_genome.PARTS} if there else {}


def _celeba_splits(root: Path) -> dict[str, str]:
    if not (root / celeba_mask.PICTURES).is_dir():
        return {}
    return {s: s for s in celeba_mask.splits(root) or ("train",)}


# The first that knows a folder has it.
KINDS: dict[str, Kind] = {
    "coco": Kind(
        "COCO's own layout, with COCO-Stuff's files if they are there",
        coco.coco_splits,
        coco.CocoLayouts,
        _coco_rule,
        Views(Augment()),
        ("coco",),
    ),
    "coco-maps": Kind(
        "label and instance maps, as SPADE's sample of COCO-Stuff",
        coco.spade_splits,
        coco.CocoMaps,
        _coco_rule,
        Views(Augment()),
    ),
    "vg": Kind(
        "Visual Genome",
        _genome_splits,
        visual_genome.VisualGenome,
        lambda split: visual_genome.RULE,
        Views(None, "bilinear"),
        ("vg",),
    ),
    "celebamask": Kind(
        "CelebAMask-HQ",
        _celeba_splits,
        celeba_mask.CelebAMask,
        lambda split: celeba_mask.RULE,
        Views(Augment(crop=False), "area"),
        ("celebamask",),
    ),
}
SETS = {name: kind for kind in KINDS.values() for name in kind.sets}


def open_layouts(
    spec: str,
    data_path: str | Path,
    *,
    split: str = "train",
    masks: bool = False,
    segmentation: bool = False,
    rule: ObjectRule | None = None,
) -> LayoutSource:
    """The layout set that `spec` names: NAME or NAME/split under `data_path`, a folder, "scenes".

    split counts when spec names none. masks, segmentation: give objects' pixels, every pixel's
    class. rule: which objects and pictures count (default: as published for the set, `rule_of`).
    Errors: DataError: nothing there, of no known kind, without that split, damaged.
    """
    spec = bare(spec)
    head, _, last = spec.rpartition("/")
    if head and split_of(last) and not _kind_at(spec, Path(data_path)):
        spec, split = head, last
    split = check_split(split)
    if spec == SCENES:
        if split == "test":
            raise DataError("scenes has splits train and val, not test")
        return SceneLayouts(split, rule=rule or SCENES_RULE, masks=masks, segmentation=segmentation)
    found = _kind_at(spec, Path(data_path))
    if found is None:
        raise DataError(_missing(spec, Path(data_path)))
    root, kind, splits = found
    if split not in splits:
        raise DataError(f"{root} has no split {split}; it has {', '.join(splits)}")
    opened = partial(kind.open, root, splits[split], name=f"{root.name}/{split}")
    return opened(rule=rule or kind.rule(split), masks=masks, segmentation=segmentation)


def layout_splits(spec: str, data_path: str | Path) -> tuple[str, ...]:
    """The splits of a layout set. Errors: DataError if it is none."""
    if bare(spec) == SCENES:
        return ("train", "val")
    found = _kind_at(bare(spec), Path(data_path))
    if found is None:
        raise DataError(_missing(bare(spec), Path(data_path)))
    return tuple(found[2])


def rule_of(spec: str, data_path: str | Path, split: str = "train") -> ObjectRule:
    """Which objects and pictures count in a set unless something else is asked for."""
    found = _kind_at(without_split(spec), Path(data_path))
    return found[1].rule(split) if found else SCENES_RULE


def views_of(spec: str, data_path: str | Path) -> Views:
    """The random views of training and the filter of a set, as published for it."""
    found = _kind_at(without_split(spec), Path(data_path))
    return found[1].views if found else Views(Augment(crop=False))


def _kind_at(spec: str, data_path: Path) -> tuple[Path, Kind, dict[str, str]] | None:
    for root in (data_path / spec, Path(os.path.expanduser(spec))):
        if root.is_dir():
            for kind in KINDS.values():
                if splits := kind.splits(root):
                    return root, kind, splits
    return None


def _missing(spec: str, data_path: Path) -> str:
    if spec in SETS:
        return (
            f"{spec} is not prepared in {data_path}; run `python data/SetupLayoutData.py --data "
            f"{spec}` or give --data_path"
        )
    for root in (data_path / spec, Path(os.path.expanduser(spec))):
        if root.exists():
            known = "; ".join(kind.about for kind in KINDS.values())
            return f"{root} holds no layouts of a known kind ({known})"
    return (
        f"no layout set {spec!r}: neither a folder, nor in {data_path}, nor known; known names: "
        f"{', '.join([SCENES, *SETS])}"
    )
