"""Layouts written by hand, for generation: a box a line, or JSON.

    # a comment; x, y, w, h as shares of the picture, and the class by name or number (from 0)
    0.1,0.5,0.3,0.4,dog
    0.0,0.0,1.0,0.3,sky-other

JSON: a list of {"x":, "y":, "w":, "h":, "class":}, or {"boxes": [[x, y, w, h], ...], "classes":
[...]}. Lists of those are several layouts (`read_layouts`).
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.layouts import BoxFaults, clean_boxes
from storage.errors import DataError
from storage.files import Damaged, read_bytes, read_json

MAX_BYTES = 1 << 24
_LISTED = 20  # classes that a message names


class Boxes(NamedTuple):
    """One layout: boxes float32 [n, 4], x_min y_min width height in [0, 1]; classes int64 [n]; and
    the bad boxes that were left out."""

    boxes: np.ndarray
    classes: np.ndarray
    faults: BoxFaults


def read_box_list(file: Path, names: Sequence[str]) -> Boxes:
    """The one layout in a file. names: of the classes, in order. Bad boxes (empty, reversed,
    outside) are left out and told of in `faults`; one that reaches over an edge is cut at it.

    Errors: DataError, with the number of the line: not five values, no numbers, an unknown class;
    pixels instead of shares; more layouts than one.
    """
    found = read_layouts(file, names)
    if len(found) != 1:
        raise DataError(f"{file} has {len(found)} layouts; one is wanted here")
    return found[0]


def read_layouts(file: Path, names: Sequence[str]) -> list[Boxes]:
    """All layouts in a file: one of a text, one or several of JSON. Errors: as `read_box_list`."""
    file = Path(file)
    try:
        if file.stat().st_size > MAX_BYTES:
            raise DataError(f"{file} is larger than {MAX_BYTES >> 20} MiB: no list of boxes")
        if file.suffix.lower() == ".json":
            return _from_json(file, names)
        text = read_bytes(file).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{file} is no text") from None
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror})") from None
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        words = [word.strip() for word in line.split(",", 4)]
        if len(words) != 5:
            raise DataError(f"{file}, line {number}: {line[:60]!r} is not x,y,w,h,class")
        rows.append((f"line {number}", words[:4], words[4]))
    return [_checked(file, rows, names)]


def box_list_text(boxes: np.ndarray, classes: np.ndarray, names: Sequence[str] = ()) -> str:
    """The text of a layout, a box a line; classes by number, or by name where names are given."""
    lines = []
    for box, klass in zip(np.asarray(boxes).tolist(), np.asarray(classes).tolist(), strict=True):
        word = names[klass] if names else klass
        lines.append(",".join([*(f"{v:.6g}" for v in box), str(word)]))
    return "".join(f"{line}\n" for line in lines)


def _from_json(file: Path, names: Sequence[str]) -> list[Boxes]:
    try:
        value = read_json(file)
    except Damaged as error:
        raise DataError(f"{file} cannot be read ({error})") from None
    several = isinstance(value, list) and bool(value) and not _is_box(value[0])
    return [_checked(file, _rows(file, one), names) for one in (value if several else [value])]


def _is_box(value: Any) -> bool:
    return isinstance(value, dict) and "class" in value


def _rows(file: Path, one: Any) -> list[tuple[str, list[Any], Any]]:
    if isinstance(one, dict) and "boxes" in one and "classes" in one:
        boxes, classes = one["boxes"], one["classes"]
        if isinstance(boxes, list) and isinstance(classes, list) and len(boxes) == len(classes):
            pairs = enumerate(zip(boxes, classes, strict=True), 1)
            return [(f"box {n}", b if isinstance(b, list) else [b], c) for n, (b, c) in pairs]
        raise DataError(f"{file}: boxes and classes are not lists of one length")
    if isinstance(one, list) and all(map(_is_box, one)):
        return [(f"box {n}", [b.get(k) for k in "xywh"], b["class"]) for n, b in enumerate(one, 1)]
    raise DataError(
        f"{file}: {json.dumps(one)[:60]} is no list of boxes, "
        '[{"x": , "y": , "w": , "h": , "class": }, ..]'
    )


def _checked(file: Path, rows: list[tuple[str, list[Any], Any]], names: Sequence[str]) -> Boxes:
    numbers: dict[str, int] = {}
    for k, name in enumerate(names):
        numbers.setdefault(name.casefold(), k)
    boxes, classes, called = [], [], []
    for where, words, klass in rows:
        try:
            box = [float(v) for v in words]
            if len(box) != 4 or any(isinstance(v, bool) for v in words):
                raise ValueError
        except (TypeError, ValueError, OverflowError):
            said = str(words)[:80]
            raise DataError(f"{file}, {where}: {said} are not four numbers x,y,w,h") from None
        # A little more than 1 reaches over an edge; pixels are far more.
        if any(2 < v < math.inf for v in box):
            raise DataError(
                f"{file}, {where}: {words} are pixels; give shares of the picture, 0..1"
            )
        boxes.append(box)
        classes.append(_class_number(file, where, klass, names, numbers))
        called.append(where)
    faults = BoxFaults(str(file))
    raw = np.array(boxes, np.float64).reshape(-1, 4)
    kept, clean = clean_boxes(raw, 1, 1, called, faults)
    return Boxes(clean, np.array(classes, np.int64)[kept], faults)


def _class_number(
    file: Path, where: str, klass: Any, names: Sequence[str], numbers: dict[str, int]
) -> int:
    if isinstance(klass, str) and klass.casefold() in numbers:
        return numbers[klass.casefold()]
    said = str(klass)[:60]
    number = int(said) if isinstance(klass, str) and said.isdecimal() else klass
    if isinstance(number, int) and not isinstance(number, bool):
        if 0 <= number < len(names):
            return number
        raise DataError(f"{file}, {where}: class {said}; there are 0 to {len(names) - 1}")
    shown = repr(said) if isinstance(klass, str) else said
    near = difflib.get_close_matches(said.casefold(), numbers, n=1)
    there = ", ".join(names[:_LISTED]) + (", .." if len(names) > _LISTED else "")
    hint = f"did you mean {names[numbers[near[0]]]}?" if near else f"there are {there}"
    raise DataError(f"{file}, {where}: no class {shown}; {hint}")
