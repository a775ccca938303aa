"""Masks as COCO writes them: run lengths (plain, or packed into text) and polygons.

Run lengths count pixels down the columns, beginning with those outside (Lin et al. 2014,
arXiv:1405.0312, and the data format's page of COCO).
"""

from __future__ import annotations

from typing import Any

import numpy as np


def decode_mask(segmentation: Any, width: int, height: int) -> np.ndarray:
    """COCO's `segmentation` of an annotation -> bool [height, width].

    A list of polygons (x, y, x, y, ... in pixels), which are joined, or {"size": [height, width],
    "counts": run lengths or text}. Errors: ValueError for anything else.
    """
    if isinstance(segmentation, dict):
        size = segmentation.get("size")
        if size != [height, width]:
            raise ValueError(f"a mask of {size} in a picture of {[height, width]}")
        counts = segmentation.get("counts")
        runs = unpack_counts(counts) if isinstance(counts, str) else counts
        return from_runs(runs, width, height)
    if not isinstance(segmentation, list):
        raise ValueError(f"a mask that is a {type(segmentation).__name__}")
    return from_polygons(segmentation, width, height)


def from_polygons(polygons: list[Any], width: int, height: int) -> np.ndarray:
    """bool [height, width]: pixels whose centre lies in one of the polygons (even-odd rule)."""
    out = np.zeros((height, width), bool)
    for polygon in polygons:
        points = np.asarray(polygon, np.float64).ravel()
        if len(points) < 6 or len(points) % 2 or not np.isfinite(points).all():
            raise ValueError(f"a polygon of {len(points)} numbers")
        out |= _filled(points.reshape(-1, 2), width, height)
    return out


def _filled(points: np.ndarray, width: int, height: int) -> np.ndarray:
    """Each edge turns inside to outside from where it crosses a row of centres on."""
    (x0, y0), (x1, y1) = points.T, np.roll(points, -1, axis=0).T
    # rows whose centre is at or below the upper end and above the lower
    first = np.clip(np.ceil(np.minimum(y0, y1) - 0.5), 0, height).astype(np.int64)
    last = np.clip(np.ceil(np.maximum(y0, y1) - 0.5), 0, height).astype(np.int64)
    count = last - first
    edge = np.repeat(np.arange(len(points)), count)
    rows = np.arange(len(edge)) + np.repeat(first - np.cumsum(count) + count, count)
    slope = (x1 - x0) / np.where(y1 == y0, 1, y1 - y0)
    x = x0[edge] + (rows + 0.5 - y0[edge]) * slope[edge]
    columns = np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)
    out = np.zeros((height, width), bool)
    if not len(edge):
        return out
    top, left = int(rows.min()), int(columns.min())
    high, wide = int(rows.max()) + 1 - top, int(columns.max()) + 1 - left
    turns = np.bincount((rows - top) * wide + columns - left, minlength=high * wide)
    filled = turns.reshape(high, wide).cumsum(1) % 2 == 1
    out[top : top + high, left : left + wide] = filled[:, : width - left]
    return out


def from_runs(runs: Any, width: int, height: int) -> np.ndarray:
    """Run lengths down the columns -> bool [height, width]. Errors: ValueError."""
    lengths = np.asarray(runs)
    if lengths.ndim != 1 or lengths.dtype.kind not in "iu" or (lengths < 0).any():
        raise ValueError("run lengths that are not whole numbers >= 0")
    if int(lengths.sum()) != width * height:
        raise ValueError(f"run lengths of {int(lengths.sum())} pixels, {width * height} there are")
    inside = np.arange(len(lengths)) % 2 == 1
    return np.repeat(inside, lengths).reshape(width, height).T.copy()


def unpack_counts(text: str) -> list[int]:
    """COCO's text form of run lengths -> the lengths.

    Each is a signed number in groups of 5 bits, the lowest first, 32 marks that another group
    follows, 48 is added to make it a letter; from the fourth on it is the difference to the one
    before the last. Errors: ValueError.
    """
    runs: list[int] = []
    at = 0
    while at < len(text):
        value = shift = 0
        while True:
            if at >= len(text) or shift > 60:
                raise ValueError("run lengths that end in the middle of a number")
            group = ord(text[at]) - 48
            if not 0 <= group < 64:
                raise ValueError(f"run lengths with {text[at]!r}")
            at += 1
            value |= (group & 31) << shift
            shift += 5
            if not group & 32:
                if group & 16:
                    value -= 1 << shift
                break
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
    return runs
