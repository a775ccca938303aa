"""Pictures with what stands where in them: boxes, classes, masks; and which boxes are none.

A layout set is a `Source` (`data.sources`) that is also a `LayoutSource`: its pictures come with
an `Annotated` each. Boxes are `x_min, y_min, width, height` as shares of the picture's sides,
classes count from 0, as LayoutDiffuse (Cheng et al. 2023, arXiv:2302.08908) has them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from data.sources import Source, Subset

NO_CLASS = 255  # a pixel of a segmentation that is of no class
BAD = ("empty", "outside", "reversed", "not finite")
_NAMED = 3  # bad boxes that are named of each kind


@dataclass(frozen=True)
class Annotated:
    """One picture and its layout.

    image         uint8 [H, W, 3]
    boxes         float32 [n, 4], x_min y_min width height in [0, 1]
    classes       int64 [n], from 0
    masks         bool [n, H, W], the pixels of each object, or None
    segmentation  uint8 [H, W], the class of each pixel (255: none), or None
    captions      sentences about the picture, often none
    """

    image: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    masks: np.ndarray | None = None
    segmentation: np.ndarray | None = None
    captions: tuple[str, ...] = ()

    def take(self, rows: np.ndarray | Sequence[int]) -> Annotated:
        """The same with some of its objects, in this order."""
        rows = np.asarray(rows)
        masks = None if self.masks is None else self.masks[rows]
        return replace(self, boxes=self.boxes[rows], classes=self.classes[rows], masks=masks)


@dataclass(frozen=True)
class ObjectRule:
    """Which objects of a picture count, and which pictures.

    share: an object's box must be more than this share of the picture. least, most: objects that
    a picture must have, or it is left out of the set (None: any number). largest: of more objects
    than this the largest are kept. side: pixels that both sides of a box must have at least.
    picture_side: pixels that the picture's shorter side must have at least.
    """

    share: float = 0.0
    least: int = 0
    most: int | None = None
    largest: int | None = None
    side: float = 0.0
    picture_side: int = 0

    def counts(self, objects: int) -> bool:
        """Whether a picture of so many objects belongs to the set."""
        return self.least <= objects and (self.most is None or objects <= self.most)


@dataclass
class BoxFaults:
    """Bad boxes that were left out: how many of each kind, and the first ones by name."""

    where: str = ""
    counts: Counter[str] = field(default_factory=Counter)
    named: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, name: str) -> None:
        """Count a box of a kind of `BAD`."""
        self.counts[kind] += 1
        here = self.named.setdefault(kind, [])
        if len(here) < _NAMED:
            here.append(name)

    @property
    def total(self) -> int:
        """How many there were."""
        return self.counts.total()

    def said(self) -> str:
        """`coco/train: 3 bad boxes left out: 2 empty (...), 1 reversed (...)`; "" for none."""
        if not self.total:
            return ""
        parts = []
        for kind in BAD:
            if self.counts[kind]:
                more = ", ..." if self.counts[kind] > len(self.named[kind]) else ""
                parts.append(f"{self.counts[kind]} {kind} ({'; '.join(self.named[kind])}{more})")
        word = "box" if self.total == 1 else "boxes"
        return f"{self.where}: {self.total} bad {word} left out: {', '.join(parts)}"


@runtime_checkable
class LayoutSource(Source, Protocol):
    """A `Source` whose pictures have layouts.

    object_classes: names of the classes of boxes, segment_classes: of pixels, [] where there is no
    segmentation. flip_pairs: classes that change places in a mirrored picture, a left eye with a
    right one. annotated(i, size): picture and layout; `size` is the side that is drawn by a source
    that draws (`data.sources.is_drawn`), and has no meaning for others. DataError: the picture or
    its mask cannot be read.
    """

    object_classes: list[str]
    segment_classes: list[str]
    flip_pairs: tuple[tuple[int, int], ...]
    faults: BoxFaults

    def annotated(self, i: int, size: int | None = None) -> Annotated: ...


class LayoutSubset(Subset):
    """Some pictures of a layout set, with their layouts."""

    def __init__(
        self, source: LayoutSource, indices: Sequence[int] | np.ndarray, name: str | None = None
    ) -> None:
        super().__init__(source, indices, name)
        self._whole = source
        self.object_classes, self.segment_classes = source.object_classes, source.segment_classes
        self.flip_pairs, self.faults = source.flip_pairs, source.faults

    def annotated(self, i: int, size: int | None = None) -> Annotated:
        """Picture and layout as the whole set gives them."""
        return self._whole.annotated(int(self.indices[i]), size)


def box_kinds(
    boxes: np.ndarray, width: np.ndarray | float, height: np.ndarray | float
) -> np.ndarray:
    """Which of `BAD` each box x y w h [n, 4] is, in units in which its picture is width x height:
    int64 [n], the number in `BAD`, -1 for a good one.
    """
    x, y, w, h = np.asarray(boxes, np.float64).reshape(-1, 4).T
    with np.errstate(invalid="ignore"):
        outside = (x >= width) | (y >= height) | (x + w <= 0) | (y + h <= 0)
        tests = {
            "not finite": ~np.isfinite(x + y + w + h),
            "reversed": (w < 0) | (h < 0),
            "empty": (w == 0) | (h == 0),
            "outside": outside,
        }
    numbers = [np.int64(BAD.index(kind)) for kind in tests]
    return np.select(list(tests.values()), numbers, np.int64(-1))


def box_fault(box: Sequence[float], width: float, height: float) -> str | None:
    """Which of `BAD` one box is, or None."""
    kind = int(box_kinds(np.array([box]), width, height)[0])
    return None if kind < 0 else BAD[kind]


def clean_boxes(
    boxes: np.ndarray,
    width: float,
    height: float,
    names: Sequence[str],
    faults: BoxFaults,
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes float [n, 4] x y w h in pixels -> (rows kept int64 [m], their shares float32 [m, 4]).

    What reaches over an edge is cut at it; what is bad (`BAD`) is left out, and told to `faults`
    under its name.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    kinds = box_kinds(boxes, width, height)
    _tell(faults, kinds, boxes, lambda row: names[row])
    rows = np.flatnonzero(kinds < 0)
    return rows, shares(boxes[rows], width, height)


def _tell(
    faults: BoxFaults, kinds: np.ndarray, boxes: np.ndarray, name: Callable[[int], str]
) -> None:
    for row in np.flatnonzero(kinds >= 0).tolist():
        faults.add(BAD[kinds[row]], f"{name(row)}: {','.join(f'{v:g}' for v in boxes[row])}")


class Selected(NamedTuple):
    """What is left of a set: `pictures` int64 [m]; of picture k the objects ends[k] to ends[k + 1],
    of which `rows` int64 are the numbers among all, and `boxes` float32 [., 4] their shares.
    """

    pictures: np.ndarray
    ends: np.ndarray
    rows: np.ndarray
    boxes: np.ndarray


def select(
    owner: np.ndarray,
    boxes: np.ndarray,
    sizes: np.ndarray,
    rule: ObjectRule,
    name: Callable[[int], str],
    faults: BoxFaults,
    allowed: np.ndarray | None = None,
) -> Selected:
    """The good boxes of a whole set that a rule counts, by picture.

    owner: int64 [n], the picture of each box x y w h [n, 4], in pixels; sizes: [pictures, 2], their
    widths and heights. Share and side of a box are as it is written, before it is cut at the edges.
    name(row): of a bad one, for `faults`. allowed: bool [pictures], which may be kept (None: all).
    """
    width, height = sizes[owner].astype(np.float64).T
    kinds = box_kinds(boxes, width, height)
    _tell(faults, kinds, boxes, name)
    area = boxes[:, 2] * boxes[:, 3]
    keep = (kinds < 0) & (area > rule.share * width * height)
    keep &= (boxes[:, 2] >= rule.side) & (boxes[:, 3] >= rule.side)
    count = np.bincount(owner[keep], minlength=len(sizes))
    good = (count >= rule.least) & (sizes.min(1) >= rule.picture_side)
    good &= count <= (rule.most if rule.most is not None else count)
    good &= allowed if allowed is not None else True
    rows = np.flatnonzero(keep & good[owner])
    if rule.largest is not None:
        order = rows[np.lexsort((rows, -area[rows], owner[rows]))]  # each picture's largest first
        rank = np.arange(len(order)) - np.searchsorted(owner[order], owner[order])
        rows = np.sort(order[rank < rule.largest])
    rows = rows[np.argsort(owner[rows], kind="stable")]
    pictures = np.flatnonzero(good)
    ends = np.searchsorted(owner[rows], pictures, side="right")
    cut = np.concatenate([np.zeros(1, np.int64), ends])
    scaled = [width[rows][:, None], height[rows][:, None]]
    return Selected(pictures, cut, rows, shares(boxes[rows], *scaled))


def shares(boxes: np.ndarray, width: np.ndarray | float, height: np.ndarray | float) -> np.ndarray:
    """Boxes x y w h [n, 4] in pixels, cut at the picture's edges, as shares of it: float32.

    width, height: of the picture, or [n, 1], of each box's own.
    """
    scale = np.concatenate(np.broadcast_arrays(*np.atleast_2d(width, height)), -1)
    first = np.clip(boxes[:, :2] / scale, 0, 1)
    last = np.clip((boxes[:, :2] + boxes[:, 2:]) / scale, 0, 1)
    return np.concatenate([first, last - first], 1).astype(np.float32)


def wanted(boxes: np.ndarray, width: float, height: float, rule: ObjectRule) -> np.ndarray:
    """Rows of boxes (shares, [n, 4]) that a rule counts, in order; of too many the largest."""
    area = boxes[:, 2].astype(np.float64) * boxes[:, 3]
    keep = area > rule.share
    if rule.side:
        # a share that was a whole number of pixels comes back a little off it
        keep &= (boxes[:, 2] * width > rule.side - 1e-3) & (boxes[:, 3] * height > rule.side - 1e-3)
    rows = np.flatnonzero(keep)
    if rule.largest is not None and len(rows) > rule.largest:
        rows = np.sort(rows[np.argsort(-area[rows], kind="stable")[: rule.largest]])
    return rows


def extents(labels: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """Boxes around the pixels of each value in labels [H, W], as shares float32 [n, 4].

    A value that no pixel has gets the box 0, 0, 0, 0.
    """
    height, width = labels.shape
    out = np.zeros((len(values), 4), np.float32)
    for k, value in enumerate(values):
        here = labels == value
        ys, xs = np.flatnonzero(here.any(1)), np.flatnonzero(here.any(0))
        if len(ys):
            box = np.array([[xs[0], ys[0], xs[-1] + 1 - xs[0], ys[-1] + 1 - ys[0]]], np.float64)
            out[k] = shares(box, width, height)[0]
    return out
