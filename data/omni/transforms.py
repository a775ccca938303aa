"""Transforms of a picture and its maps, alike for all: flip, resize, crop.

Maps are resized by the nearest pixel, so that no class, depth or edge appears that is nowhere in
the file. What is random is a function of a key, never of a process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from data.scenes.draw import Draw
from data.views.layouts import FILTERS, nearest
from storage.errors import DataError

LARGEST = 8192
IGNORE = (True, False, "train", "val")
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Step:
    """One transform. name: hflip, resize or crop; ignore: True, or the mode in which it is left
    out. p: of hflip. size: height and width of resize and crop; one number for resize with
    keep_aspect_ratio is the shorter side. center: of crop: True, False, or the mode in which it is
    central; in validation it always is.
    """

    name: str
    ignore: bool | str = False
    p: float = 0.5
    size: tuple[int, int] = (0, 0)
    keep_aspect_ratio: bool = False
    center: bool | str = False


KEYS = {
    "hflip": ("p",),
    "resize": ("new_size", "keep_aspect_ratio"),
    "crop": ("height", "width", "center"),
}
DEFAULT = (
    {"name": "hflip", "p": 0.5},
    {"name": "resize", "new_size": 256},
    {"name": "crop", "height": 224, "width": 224},
    {"name": "resize", "new_size": 256},
)


def read_steps(entries: Sequence[Any]) -> list[Step]:
    """The transforms of a list of `{name: .., ..}`, those that are always ignored left out.

    Errors: ValueError, one line: an unknown name or key, a value of another kind.
    """
    return [step for i, e in enumerate(entries) if (step := _step(e, i)).ignore is not True]


def _step(entry: Any, number: int) -> Step:
    where = f"transform {number}"
    if not isinstance(entry, Mapping):
        raise ValueError(f"{where} is {entry!r:.60}, not {{name: .., ..}}")
    name = entry.get("name")
    if not isinstance(name, str) or name not in KEYS:
        raise ValueError(f"{where}: name {name!r} is none of {', '.join(KEYS)}")
    allowed = ("name", "ignore", *KEYS[name])
    for key in entry:
        if key not in allowed:
            raise ValueError(f"{where}, {name}: {key!r} is none of {', '.join(allowed)}")
    ignore = entry.get("ignore", False)
    if ignore not in IGNORE or isinstance(ignore, int) and not isinstance(ignore, bool):
        raise ValueError(f"{where}, {name}: ignore {ignore!r} is none of true, false, train, val")
    if name == "hflip":
        p = entry.get("p", 0.5)
        if isinstance(p, bool) or not isinstance(p, int | float) or not 0 <= p <= 1:
            raise ValueError(f"{where}, hflip: p {p!r} is no probability, 0 to 1")
        return Step(name, ignore, p=float(p))
    if name == "resize":
        keep = entry.get("keep_aspect_ratio", False)
        if not isinstance(keep, bool):
            raise ValueError(f"{where}, resize: keep_aspect_ratio {keep!r} is not true or false")
        size = _pair(entry.get("new_size"), f"{where}, resize: new_size")
        if keep and size[0] != size[1]:
            raise ValueError(f"{where}, resize: keep_aspect_ratio wants one number as new_size")
        return Step(name, ignore, size=size, keep_aspect_ratio=keep)
    center = entry.get("center", False)
    if center not in IGNORE or isinstance(center, int) and not isinstance(center, bool):
        raise ValueError(f"{where}, crop: center {center!r} is none of true, false, train, val")
    sides = [_side(entry.get(k), f"{where}, crop: {k}") for k in ("height", "width")]
    return Step(name, ignore, size=(sides[0], sides[1]), center=center)


def _pair(value: Any, what: str) -> tuple[int, int]:
    if isinstance(value, list | tuple):
        if len(value) != 2:
            raise ValueError(f"{what} {value!r} is neither a number nor [height, width]")
        return _side(value[0], what), _side(value[1], what)
    side = _side(value, what)
    return side, side


def _side(value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= LARGEST:
        raise ValueError(f"{what} {value!r} is no number of pixels, 1 to {LARGEST}")
    return value


def steps_of(steps: Sequence[Step], mode: str) -> list[Step]:
    """Those that are done in a mode."""
    return [step for step in steps if step.ignore != mode]


def output_size(steps: Sequence[Step], mode: str = "train") -> tuple[int, int] | None:
    """Height and width of what comes out in a mode; None where it depends on the picture."""
    size: tuple[int, int] | None = None
    for step in steps_of(steps, mode):
        if step.name == "crop":
            size = step.size
        elif step.name == "resize" and step.keep_aspect_ratio:
            size = step.size if size is not None and size[0] == size[1] else None
        elif step.name == "resize":
            size = step.size
    return size


def drawn_size(steps: Sequence[Step], mode: str, default: int = 256) -> int:
    """The side at which a square picture is drawn that is to go through the transforms: that of
    the first resize; before it, an eighth more than what a crop takes."""
    for step in steps_of(steps, mode):
        if step.name == "resize":
            return max(step.size)
        if step.name == "crop":
            return -(-max(step.size) * 9 // 8)
    return default


def transformed(
    arrays: Arrays, steps: Sequence[Step], mode: str, key: tuple[Any, ...] | None, name: str = ""
) -> Arrays:
    """A picture `x` uint8 [H, W, 3] and maps [H, W] of its size, through the transforms.

    key: what random ones depend on, with their place in the list; None for no randomness: flips
    are left out and crops are central, as in validation. name: of the sample, for errors.
    Errors: DataError where a crop is larger than the picture.
    """
    out = dict(arrays)
    for place, step in enumerate(steps):
        if step.ignore == mode:
            continue
        height, width = out["x"].shape[:2]
        if step.name == "hflip":
            if key is not None and Draw("omni", *key, place, "hflip").chance(step.p):
                out = {k: np.ascontiguousarray(a[:, ::-1]) for k, a in out.items()}
        elif step.name == "resize":
            size = step.size
            if step.keep_aspect_ratio:
                short = min(height, width)
                size = (
                    max(1, round(height * size[0] / short)),
                    max(1, round(width * size[0] / short)),
                )
            out = resized(out, size)
        else:
            h, w = step.size
            if h > height or w > width:
                raise DataError(
                    f"{name or 'a picture'} is {height}x{width}, smaller than the {h}x{w} that "
                    f"transform {place}, crop, takes of it: put a resize before it"
                )
            top, left = (height - h) // 2, (width - w) // 2
            if key is not None and step.center is not True and step.center != mode:
                draw = Draw("omni", *key, place, "crop")
                top, left = draw.integer(0, height - h), draw.integer(0, width - w)
            out = {k: a[top : top + h, left : left + w] for k, a in out.items()}
    return out


def resized(arrays: Arrays, size: tuple[int, int]) -> Arrays:
    """The picture by bicubic interpolation, maps by the nearest pixel, to height and width."""
    out: Arrays = {}
    for key, array in arrays.items():
        if array.shape[:2] == size:
            out[key] = array
        elif key == "x":
            image = Image.fromarray(np.ascontiguousarray(array))
            out[key] = np.asarray(image.resize((size[1], size[0]), FILTERS["bicubic"]))
        else:
            out[key] = nearest(array, size)
    return out
