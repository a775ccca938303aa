"""Data and augmentations for contrastive learning, by the name or path of a data set.

    train, held = get_data_splits("cifar10", eval="cv")
    augs = get_ssl_data_augs("cifar10", color_s=0.5)
    views, plain = FoldedViews(augs.train), augs.test

A new data set is a folder path, or one entry of `data.registry.KNOWN`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from data.labelled import LabelledImages
from data.registry import (
    KNOWN,
    Known,
    bare,
    find,
    fraction_of,
    full_name,
    open_source,
    without_split,
)
from data.sources import SPLITS, Joined, Source, Subset, keyed_order, labels_of, split_of
from data.views.ops import beside, crop_resize
from data.views.recipes import Recipe, recipe
from storage.errors import DataError

EVALS = ("cv", "val", "test")
_SMALL = 64  # up to this side the recipe for small pictures, without blur


def get_data_splits(
    data: str,
    eval: str = "cv",
    data_path: str | Path | None = None,
    res: int | Sequence[int] | None = None,
) -> tuple[Any, Any | Literal["cv"]]:
    """(training data, evaluation data or "cv").

    data: as `registry.open_source` takes it. eval: "val" or "test", a split of its own that the set
    must have, other than the one that `data` names (DataError says what there is; training pictures
    never stand in for it); "cv": the word itself, for cross-validation over the training data.
    data_path: default the configured one.
    res: None for sources (`data.sources.Source`), a number for `LabelledImages` at that side, a
    list for a list of them.
    """
    if eval not in EVALS:
        raise DataError(f"eval {eval!r} is none of {', '.join(EVALS)}")
    if data_path is None:
        from storage.dirs import data_home

        data_path = data_home()
    train = open_source(data, data_path, split="train")
    held = None
    if eval != "cv":
        whole = without_split(data)
        if whole != bare(data) and split_of(Path(bare(data)).name) == eval:
            raise DataError(f"{data} is the split {eval} itself: it cannot be held out from itself")
        found = find(whole, Path(data_path))
        if not found.splits:
            raise DataError(f"{data} has no splits, so no {eval}; cv or pooled holds out a part")
        held = found.open(eval)
    train = _at(train, res)
    return train, "cv" if held is None else _at(held, res)


def own_eval(data: str, data_path: str | Path) -> Literal["cv", "val"]:
    """What figures of a set are of when nothing is said: "val" if it has that split, of train's own
    classes, and does not itself name it; else "cv". Never "test", which is to be touched once.
    """
    whole = without_split(data)
    named = split_of(Path(bare(data)).name) if whole != bare(data) else None
    if named == "val" or "val" not in (find(whole, Path(data_path)).splits or ()):
        return "cv"
    train, held = get_data_splits(data, "val", data_path)
    assert held != "cv"  # what was asked for is "val"
    return "val" if set(held.classes) <= set(train.classes) else "cv"


def _at(source: Any, res: int | Sequence[int] | None) -> Any:
    if res is None:
        return source
    if isinstance(res, int):
        return LabelledImages(source, res)
    return [LabelledImages(source, r) for r in res]


def pooled_splits(
    data: str, data_path: str | Path, held_out: int = 100, *, seed: int = 0
) -> tuple[Source, Source]:
    """All splits of a set as one, and of every class `held_out` pictures held out: (train, held).

    For sets whose splits hold different classes (miniImagenet: 600 of each, hence 500 and 100).
    The list is a function of (set, held_out, seed). DataError for a class that has no more.
    """
    spec = without_split(data)
    found = find(spec, Path(data_path))
    parts = [found.open(s) for s in SPLITS if s in (found.splits or ("train",))]
    whole = Joined(parts, f"{data} (all splits)")
    labels = labels_of(whole)
    held = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) <= held_out:
            raise DataError(
                f"class {whole.classes[label]} of {whole.name} has {len(members)} pictures: "
                f"{held_out} of each cannot be held out"
            )
        held.append(members[keyed_order(len(members), seed, int(label))[:held_out]])
    chosen = np.sort(np.concatenate(held))
    rest = np.setdiff1d(np.arange(len(whole)), chosen)
    return Subset(whole, rest, f"{data} (pooled, train part)"), Subset(
        whole, chosen, f"{data} (pooled, held out)"
    )


class SSLAugs(NamedTuple):
    """train: the recipe of the two views; probe: crop and flip, for training probes on augmented
    pictures; test: the deterministic transform of pictures that are evaluated.
    """

    train: Recipe
    probe: Recipe
    test: Plain


def _known(data: str) -> Known | None:
    """What the registry says of a set, or of the one that it is a part of."""
    known = KNOWN.get(fraction_of(full_name(Path(without_split(data)).name))[0])
    if known and known.base and not known.recipe:
        known = KNOWN.get(fraction_of(known.base)[0])
    return known


def own_view_size(data: str) -> int | None:
    """Side of views that the registry has for a set; None for one that it does not know."""
    known = _known(data)
    return known.size if known else None


def get_ssl_data_augs(
    data: str,
    *,
    color_s: float | None = None,
    gaussian_blur: bool | float | None = None,
    crop_size: int | None = None,
    unreal_augs: bool = True,
    name: str | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
) -> SSLAugs:
    """Augmentations for a data set; the options are those of `data.views.recipes.recipe`.

    name: a recipe other than the set's own. A set without one gets "small" up to 64 px and
    "imagenet" above; then crop_size must be given.
    """
    known = _known(data)
    size = crop_size or own_view_size(data)
    if size is None:
        raise DataError(f"{data} has no size of views of its own; give crop_size")
    if name is None:
        name = (known.recipe if known else None) or ("small" if size <= _SMALL else "imagenet")
    options: dict[str, Any] = dict(crop_size=size, mean=mean, std=std)
    train = recipe(
        name,
        color_s=color_s,
        gaussian_blur=gaussian_blur,
        unreal_augs=unreal_augs,
        **options,
    )
    return SSLAugs(train, recipe(name, unreal_augs=False, **options), Plain(size, mean, std))


class Plain(NamedTuple):
    """Pictures as they are: the short side to `size`, the central square, normalisation.

    uint8 [B, 3, H, W] -> float32 [B, 3, size, size]; pictures of that size already are only
    divided by 255. Nothing is random.
    """

    size: int
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None

    def __call__(self, images: Tensor) -> Tensor:
        if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] != 3:
            raise DataError(
                f"pictures must be uint8 [B, 3, H, W], got {images.dtype} {list(images.shape)}"
            )
        height, width = images.shape[-2:]
        side = min(height, width)
        if (height, width) == (self.size, self.size):
            x = images.to(torch.float32).div_(255)
        else:
            box = [(height - side) // 2, (width - side) // 2, side, side]
            boxes = torch.tensor(box, device=images.device).expand(len(images), 4)
            x = crop_resize(images, boxes, self.size)
        if self.mean is not None and self.std is not None:
            mean, std = (beside(x, v).view(1, 3, 1, 1) for v in (self.mean, self.std))
            x = x.sub_(mean).div_(std)
        return x
