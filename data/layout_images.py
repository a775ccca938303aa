"""Pictures with layouts at one resolution, and batches of them, as diffusion training reads them.

images = LayoutImages(open_layouts("scenes", data_home()), 64, augment=Augment())
loader = DataLoader(images, batch_sampler=sampler, collate_fn=images.collate)
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data.layouts import Annotated, LayoutSource
from data.sources import CROPS, allowed_bad, is_drawn
from data.views.layouts import FILTERS, Augment, caption, central, crop, flip, resize
from storage.errors import DataError

PADDING = -1  # the class of a row of boxes that only fills up
_ATTEMPTS = 64


class Item(NamedTuple):
    """A picture and its layout, as tensors.

    id: its number. image: uint8 [3, r, r]. boxes: float32 [n, 4], x_min y_min width height in
    [0, 1]. classes: int64 [n]. masks: bool [n, m, m] or None. segmentation: uint8 [m, m] (255: no
    class) or None. text: a sentence.
    """

    id: int
    image: Tensor
    boxes: Tensor
    classes: Tensor
    masks: Tensor | None
    segmentation: Tensor | None
    text: str


class LayoutBatch(NamedTuple):
    """B items; rows of boxes, classes and masks are filled up to one N.

    ids int64 [B]; image uint8 [B, 3, r, r]; boxes float32 [B, N, 4]; classes int64 [B, N], -1 in
    rows that only fill up; objects int64 [B], how many each has; masks bool [B, N, m, m] or None;
    segmentation uint8 [B, m, m] or None; text: B sentences.
    """

    ids: Tensor
    image: Tensor
    boxes: Tensor
    classes: Tensor
    objects: Tensor
    masks: Tensor | None
    segmentation: Tensor | None
    text: list[str]

    @property
    def valid(self) -> Tensor:
        """bool [B, N]: rows that are objects."""
        return self.classes != PADDING


class LayoutImages(Dataset):
    """Item i, or item (i, draw), of a layout set at resolution r: an `Item`.

    i alone: no randomness, as validation wants it: the whole picture squashed to a square, or its
    central square (`crop`). (i, draw): augmented by a function of (seed, i, draw), so that workers,
    ranks and resuming change nothing; `StepSampler(..., with_draws=True)` yields such pairs.

    augment: None augments nothing, also with a draw. least: batches have at least so many rows of
    boxes, so that shapes stay. max_objects: of more the largest are kept. mask_size: side of masks
    and segmentation (default: the resolution). filter: see `data.views.layouts.resize`. max_bad:
    unreadable pictures that are let pass, each replaced by another one and named (as `Pyramid`).
    xflip: the set is twice as long; item n + k is item k mirrored (as `LabelledImages`).
    """

    def __init__(
        self,
        source: LayoutSource,
        resolution: int,
        *,
        augment: Augment | None = None,
        crop: str = "squash",
        max_objects: int | None = None,
        least: int = 0,
        mask_size: int | None = None,
        filter: str = "bicubic",
        seed: int = 0,
        max_bad: int | None = None,
        xflip: bool = False,
    ) -> None:
        if not len(source):
            raise DataError(f"{source.name} has no images")
        if resolution < 1 or (mask_size is not None and mask_size < 1):
            raise DataError(f"resolution {resolution} and mask_size {mask_size} must be positive")
        if crop not in CROPS:
            raise DataError(f"crop {crop!r} is none of {', '.join(CROPS)}")
        if filter not in FILTERS:
            raise DataError(f"filter {filter!r} is none of {', '.join(FILTERS)}")
        self.source, self.resolution, self.augment, self.crop = source, resolution, augment, crop
        self.max_objects, self.least, self.mask_size = max_objects, least, mask_size
        self.filter, self.seed, self.xflip = filter, seed, xflip
        self.max_bad = allowed_bad(len(source)) if max_bad is None else max_bad
        self.bad: dict[int, str] = {}  # of this process
        self.channels = 3
        self.num_classes = len(source.object_classes)

    def __len__(self) -> int:
        return len(self.source) * (2 if self.xflip else 1)

    def __getitem__(self, which: int | tuple[int, int]) -> Item:
        i, draw = which if isinstance(which, tuple) else (which, None)
        i = int(i)
        if not -len(self) <= i < len(self):
            raise IndexError(f"image {i} of {len(self)}")
        i %= len(self)
        keys = () if draw is None else (self.seed, i, int(draw))
        one = self._framed(self._read(i % len(self.source), bool(keys)), keys)
        if i >= len(self.source):
            one = flip(one, self.source.flip_pairs)
        if self.max_objects is not None and len(one.classes) > self.max_objects:
            area = one.boxes[:, 2] * one.boxes[:, 3]
            one = one.take(np.sort(np.argsort(-area, kind="stable")[: self.max_objects]))
        text = caption(one, self.source.object_classes, *keys)
        one = resize(one, self.resolution, mask_size=self.mask_size, filter=self.filter)
        return Item(
            i,
            torch.from_numpy(np.array(one.image.transpose(2, 0, 1), order="C")),
            torch.from_numpy(np.array(one.boxes, np.float32).reshape(-1, 4)),
            torch.from_numpy(np.array(one.classes, np.int64)),
            None if one.masks is None else torch.from_numpy(np.array(one.masks, bool)),
            None
            if one.segmentation is None
            else torch.from_numpy(np.array(one.segmentation, np.uint8)),
            text,
        )

    def _framed(self, one: Annotated, keys: tuple[int, ...]) -> Annotated:
        height, width = one.image.shape[:2]
        if self.augment is None or not keys:
            return one if self.crop == "squash" else crop(one, central(width, height))
        mirrored, window = self.augment.draw(width, height, *keys)
        if not self.augment.crop and self.crop == "center":
            window = central(width, height)
        if window != (0, 0, width, height):
            one = crop(one, window)
        return flip(one, self.source.flip_pairs) if mirrored else one

    def _read(self, i: int, random: bool) -> Annotated:
        size = None
        if is_drawn(self.source):
            # a part of a drawing is enlarged otherwise; the smallest window has 0.8 of the area
            cropped = random and self.augment is not None and self.augment.crop
            size = -(-self.resolution * 5 // 4) if cropped else self.resolution
        fault = ""
        for attempt in range(_ATTEMPTS):
            j = i if not attempt else (i + 7919 * attempt) % len(self.source)
            if j in self.bad:
                continue
            try:
                return self.source.annotated(j, size)
            except DataError as error:
                fault = self.bad[j] = str(error)
                print(f"{error}: another picture stands in", file=sys.stderr, flush=True)
                if len(self.bad) > self.max_bad:
                    raise DataError(
                        f"{len(self.bad)} bad images in {self.source.name}, at most "
                        f"{self.max_bad} are let pass; the last: {error}"
                    ) from None
        raise DataError(f"no picture of {self.source.name} to stand in for #{i}: {fault}")

    def collate(self, items: Sequence[Item]) -> LayoutBatch:
        """A batch; `collate_fn` of a DataLoader."""
        return collate(items, least=self.least)


def collate(items: Sequence[Item], *, least: int = 0) -> LayoutBatch:
    """Items -> a batch whose N is that of the longest, or `least` if that is more."""
    count = torch.tensor([len(item.classes) for item in items])
    most = max(least, int(count.max()))
    boxes = torch.zeros(len(items), most, 4)
    classes = torch.full((len(items), most), PADDING)
    masks = None
    if items[0].masks is not None:
        masks = torch.zeros(len(items), most, *items[0].masks.shape[1:], dtype=torch.bool)
    for row, item in enumerate(items):
        n = len(item.classes)
        boxes[row, :n], classes[row, :n] = item.boxes, item.classes
        if masks is not None and item.masks is not None:
            masks[row, :n] = item.masks
    maps = [item.segmentation for item in items if item.segmentation is not None]
    return LayoutBatch(
        torch.tensor([item.id for item in items]),
        torch.stack([item.image for item in items]),
        boxes,
        classes,
        count,
        masks,
        torch.stack(maps) if maps else None,
        [item.text for item in items],
    )
