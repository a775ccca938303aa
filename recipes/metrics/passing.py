"""One pass over pictures on all ranks: features, logits and moments of every extractor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from evaluation.extractors import Extractor
from evaluation.features import gather_rows
from evaluation.frechet import FeatureStats, Moments
from recipes.metrics.pictures import Batch, Pictures
from runtime import distributed
from runtime.counter_rng import permutation
from runtime.progress import Progress
from storage.errors import DataError

_PART = 15  # the key of the pictures that `Seen.part` draws


@dataclass
class Seen:
    """What was found of n pictures, by an extractor's name, in the order of their numbers.

    features: float32 [n, d] on the CPU, where they were kept; logits: float32 [n, C]; moments of
    all. labels: int64 [n], None of pictures without classes. about: what the pictures are. sides:
    the smallest and the largest side among them, of this rank's share; (0, 0): not known.
    """

    n: int
    about: dict[str, Any]
    features: dict[str, Tensor] = field(default_factory=dict)
    logits: dict[str, Tensor] = field(default_factory=dict)
    moments: dict[str, Moments] = field(default_factory=dict)
    labels: Tensor | None = None
    classes: list[str] = field(default_factory=list)
    sides: tuple[int, int] = (0, 0)

    def part(self, name: str, count: int) -> Moments:
        """Moments of the features of `count` of the pictures, the same ones for every name. They
        are drawn: a data set may be sorted by class, so that its first ones are of few."""
        return moments_of(self.rows(name, count))

    def rows(self, name: str, count: int) -> Tensor:
        """The features that `part` is of."""
        return self.features[name][permutation(self.n, _PART)[:count]]


def moments_of(features: Tensor) -> Moments:
    """Mean and covariance of features [N, d]."""
    return stats_of(features).moments()


def stats_of(features: Tensor) -> FeatureStats:
    """Sums over features [N, d]."""
    stats = FeatureStats(features.shape[1])
    stats.update(features)
    return stats


def _moments(stats: FeatureStats, desc: str, name: str) -> Moments:
    try:
        return stats.moments()
    except ValueError as error:
        raise DataError(f"{desc}, {name}: {error}") from None


def look(
    pictures: Pictures,
    extractors: Mapping[str, Extractor],
    *,
    batch: int,
    keep: bool = True,
    desc: str = "pictures",
    watch: Callable[[Batch], None] | None = None,
) -> Seen:
    """Features of all pictures, shared by the ranks; the same on every one, whatever their number.

    extractors: by the name that the result has them under. batch: rows that networks are given.
    keep: gather the features; else moments alone, which are summed over ranks (in float64, so that
    only rounding depends on who sums what). watch: is shown every batch as it comes. All ranks call
    this. Errors: DataError for pictures that an extractor does not take, and for features without
    moments: of one picture, or not finite.
    """
    rank, world, count, block = (
        distributed.rank(), distributed.world_size(), len(pictures), pictures.block,
    )  # fmt: skip
    mine = [i for first in range(rank * block, count, world * block)
            for i in range(first, min(first + block, count))]  # fmt: skip
    found: dict[str, list[Tensor]] = {}
    logits: dict[str, list[Tensor]] = {}
    stats: dict[str, FeatureStats] = {}
    numbers: list[int] = []
    labels: list[int] = []
    waiting: list[Tensor] = []
    sides: set[int] = set()

    def work(size: int) -> None:
        """Give the first `size` pictures that wait to every network."""
        images = waiting[:size]
        del waiting[:size]
        for name, extractor in extractors.items():
            try:
                out = extractor(images, batch)
            except ValueError as error:  # sizes that do not fit together
                raise DataError(f"{desc}: {error}") from None
            if keep:
                found.setdefault(name, []).append(out.features.cpu())
            else:
                own = stats.setdefault(
                    name, FeatureStats(out.features.shape[1], out.features.device)
                )
                own.update(out.features)
            if out.logits is not None:
                logits.setdefault(name, []).append(out.logits.cpu())

    with Progress(len(mine), desc=desc, unit="picture") as bar:
        for part in pictures.batches(mine, -(-batch // block) * block):  # whole inputs
            if watch is not None:
                watch(part)
            numbers += part.numbers
            labels += part.labels or []
            waiting += part.images
            sides |= {side for image in part.images for side in image.shape[1:]}
            while len(waiting) >= batch:
                work(batch)
            bar.update(len(part.images))
        if waiting:
            work(len(waiting))

    ids = torch.tensor(numbers, dtype=torch.int64)
    seen = Seen(count, pictures.about, classes=pictures.classes)
    seen.sides = (min(sides, default=0), max(sides, default=0))
    dims = _dims({**{k: v[0].shape[1] for k, v in found.items()},
                  **{k: len(v.sum) for k, v in stats.items()}})  # fmt: skip
    for name in extractors:
        if keep:
            rows = torch.cat(found[name]) if name in found else torch.zeros(0, dims[name])
            seen.features[name] = gather_rows(rows, ids)
            if count > 1:
                seen.moments[name] = _moments(stats_of(seen.features[name]), desc, name)
        else:
            total = stats.get(name) or FeatureStats(dims[name])
            total.reduce()
            seen.moments[name] = _moments(total, desc, name)
    widths = _dims({k: v[0].shape[1] for k, v in logits.items()})
    for name, width in widths.items():
        rows = torch.cat(logits[name]) if name in logits else torch.zeros(0, width)
        seen.logits[name] = gather_rows(rows, ids)
    if pictures.classes:
        seen.labels = gather_rows(torch.tensor(labels, dtype=torch.int64), ids)
    return seen


def _dims(own: dict[str, int]) -> dict[str, int]:
    """Widths by name over all ranks: one without pictures knows none."""
    found: dict[str, int] = {}
    for part in distributed.gather_object(own):
        found |= part
    return dict(sorted(found.items()))
