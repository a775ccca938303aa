"""Transforms of a picture together with its boxes, masks and segmentation; captions of layouts.

All take and give `Annotated`; what is random is given as numbers, by `Augment` a function of keys.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from PIL import Image

from data.layouts import Annotated
from data.scenes.draw import Draw

FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "area": Image.Resampling.BOX,
}
_TRIES = 10  # of a random window, as torchvision's RandomResizedCrop


class Window(NamedTuple):
    """A part of a picture, in pixels."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True)
class Augment:
    """Random views: a mirror image with probability `flip`, and a random window if `crop`.

    The window has `scale` times the picture's area and a side ratio of `ratio`, both drawn as in
    torchvision's RandomResizedCrop: a window larger than the picture is drawn again, ten times,
    then the largest central one of an allowed ratio is taken. LayoutDiffuse's COCO: the defaults.
    """

    flip: float = 0.5
    crop: bool = True
    scale: tuple[float, float] = (0.8, 1.1)
    ratio: tuple[float, float] = (0.95, 1.05)

    def draw(self, width: int, height: int, *keys: int) -> tuple[bool, Window]:
        """(mirror it?, window) of a picture: a function of its size and the keys alone."""
        numbers = Draw("view", *keys).block(1 + 4 * _TRIES).tolist()
        whole = Window(0, 0, width, height)
        window = self._window(width, height, numbers[1:]) if self.crop else whole
        return numbers[0] < self.flip, window

    def _window(self, width: int, height: int, numbers: Sequence[float]) -> Window:
        low, high = (math.log(r) for r in self.ratio)
        for k in range(_TRIES):
            a, b, c, d = numbers[4 * k : 4 * k + 4]
            area = width * height * (self.scale[0] + a * (self.scale[1] - self.scale[0]))
            ratio = math.exp(low + b * (high - low))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                return Window(int(c * (width - w + 1)), int(d * (height - h + 1)), w, h)
        ratio = min(max(width / height, self.ratio[0]), self.ratio[1])
        w = min(width, max(1, round(height * ratio)))
        h = min(height, max(1, round(width / ratio)))
        return Window((width - w) // 2, (height - h) // 2, w, h)


def central(width: int, height: int) -> Window:
    """The largest central square."""
    side = min(width, height)
    return Window((width - side) // 2, (height - side) // 2, side, side)


def flip(one: Annotated, pairs: Sequence[tuple[int, int]] = ()) -> Annotated:
    """The mirror image; classes of `pairs` change places, in boxes and in the segmentation."""
    boxes = one.boxes.copy()
    boxes[:, 0] = np.clip(1 - (boxes[:, 0] + boxes[:, 2]), 0, 1)
    classes, segmentation = one.classes, one.segmentation
    if pairs:
        swap = np.arange(256)
        for a, b in pairs:
            swap[a], swap[b] = b, a
        classes = np.array([swap[c] if c < 256 else c for c in classes.tolist()], np.int64)
        if segmentation is not None:
            segmentation = swap.astype(np.uint8)[segmentation]
    return replace(
        one,
        image=_mirror(one.image),
        boxes=boxes,
        classes=classes,
        masks=None if one.masks is None else np.ascontiguousarray(one.masks[:, :, ::-1]),
        segmentation=None if segmentation is None else _mirror(segmentation),
    )


def crop(one: Annotated, window: Window) -> Annotated:
    """A part of the picture. Boxes are cut at its edges; objects of which nothing is left go."""
    height, width = one.image.shape[:2]
    left, top, w, h = window
    if not (0 <= left <= left + w <= width and 0 <= top <= top + h <= height and w > 0 and h > 0):
        raise ValueError(f"a window {tuple(window)} of a picture of {width}x{height}")
    boxes, rows = crop_boxes(one.boxes, window, width, height)
    inside = (slice(top, top + h), slice(left, left + w))
    masks = None if one.masks is None else one.masks[:, inside[0], inside[1]]
    if masks is not None and len(rows):
        # what shows of an object may lie outside though its box reaches in
        shows = masks[rows].any((1, 2)) | ~one.masks[rows].any((1, 2))  # type: ignore[index]
        boxes, rows = boxes[shows], rows[shows]
    return replace(
        one,
        image=one.image[inside],
        boxes=boxes,
        classes=one.classes[rows],
        masks=None if masks is None else masks[rows],
        segmentation=None if one.segmentation is None else one.segmentation[inside],
    )


def crop_boxes(
    boxes: np.ndarray, window: Window, width: int, height: int
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (shares of width x height) in a window: (shares of that [m, 4], rows int64 [m])."""
    size, inner = np.array([width, height], np.float64), np.array(window[2:], np.float64)
    start = np.array(window[:2], np.float64)
    first = (boxes[:, :2].astype(np.float64) * size - start) / inner
    last = first + boxes[:, 2:].astype(np.float64) * size / inner
    first, last = np.clip(first, 0, 1), np.clip(last, 0, 1)
    rows = np.flatnonzero(((last - first) > 1e-6).all(1))  # less is rounding, not an object
    return np.concatenate([first, last - first], 1)[rows].astype(np.float32), rows


def resize(
    one: Annotated, size: int, *, mask_size: int | None = None, filter: str = "bicubic"
) -> Annotated:
    """The whole picture to [size, size, 3]; masks and segmentation to `mask_size` (default: size)
    by the nearest pixel. filter: one of FILTERS, for the picture. Boxes, which are shares, stay.
    """
    if filter not in FILTERS:
        raise ValueError(f"filter {filter!r} is none of {', '.join(FILTERS)}")
    small = size if mask_size is None else mask_size
    image = one.image
    if image.shape[:2] != (size, size):
        image = np.asarray(Image.fromarray(image).resize((size, size), FILTERS[filter]))
    masks, segmentation = one.masks, one.segmentation
    if masks is not None:
        masks = nearest(masks, small)
    if segmentation is not None:
        segmentation = nearest(segmentation, small)
    return replace(one, image=image, masks=masks, segmentation=segmentation)


def nearest(maps: np.ndarray, size: int | tuple[int, int]) -> np.ndarray:
    """[..., H, W] -> [..., *size], the pixel in the middle of each; size: height and width, or one
    number for both."""
    height, width = maps.shape[-2:]
    high, wide = (size, size) if isinstance(size, int) else size
    if (height, width) == (high, wide):
        return maps
    rows = ((np.arange(high) + 0.5) * height / high).astype(np.int64)
    columns = ((np.arange(wide) + 0.5) * width / wide).astype(np.int64)
    return maps[..., rows[:, None], columns]


def _mirror(picture: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(picture[:, ::-1])


def caption(one: Annotated, names: Sequence[str], *keys: int) -> str:
    """One of the picture's captions, chosen by the keys, and the names of its classes.

    `A dog on a sofa, dog, couch`: each class once, in order, joined by commas, as LayoutDiffuse
    tells its text encoder; the names alone without captions, "" with neither.
    """
    classes = [names[c] for c in dict.fromkeys(one.classes.tolist())]
    if not one.captions:
        return ", ".join(classes)
    pick = Draw("caption", *keys)() if keys else 0.0
    return ", ".join([one.captions[int(pick * len(one.captions))].strip(), *classes])
