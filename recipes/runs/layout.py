"""Text for a terminal: tables that fit its width, sizes, times, whatever characters names have."""

from __future__ import annotations

import json
import shutil
import sys
import time
import unicodedata
from collections.abc import Sequence
from typing import Any

GAP = "  "
_LEAST = 6  # columns that a cell keeps when its table is too wide


def terminal_width() -> int | None:
    """Columns of the terminal; None where the output is a file or a pipe, which takes any line."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def printable(text: Any) -> str:
    """One line without control characters, of characters that the console can show."""
    line = "".join(c if c.isprintable() else "?" for c in str(text))
    code = getattr(sys.stdout, "encoding", None) or "utf-8"
    return line.encode(code, errors="replace").decode(code, errors="replace")


def columns_of(text: str) -> int:
    """Columns that a text takes up: two for each wide character, none for one that combines."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def fitted(text: str, width: int) -> str:
    """A text cut to `width` columns and filled up to them; what is cut off leaves a ~."""
    if columns_of(text) > width:
        kept, used = "", 0
        for c in text:
            if used + columns_of(c) > width - 1:
                break
            kept, used = kept + c, used + columns_of(c)
        text = kept + "~"
    return text + " " * (width - columns_of(text))


def table(
    rows: Sequence[Sequence[Any]],
    *,
    width: int | None = None,
    shrink: Sequence[int] = (),
    right: Sequence[int] = (),
) -> list[str]:
    """Lines of a table whose first row is its head.

    width: columns there are (None: any number). shrink: numbers of the columns that may be cut, the
    widest at the time first. right: of those that are set to the right.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(columns_of(row[i]) for row in cells) for i in range(len(cells[0]))]
    while width is not None and sum(widths) + len(GAP) * (len(widths) - 1) > width:
        widest = max(shrink, key=lambda i: widths[i], default=None)
        if widest is None or widths[widest] <= _LEAST:
            break
        widths[widest] -= 1
    lines = []
    for row in cells:
        set_ = [fitted(cell, w) for cell, w in zip(row, widths, strict=True)]
        for i in right:
            set_[i] = set_[i].rstrip().rjust(widths[i])
        lines.append(GAP.join(set_).rstrip())
    return lines


def size(count: int) -> str:
    """Bytes as `12 B`, `3.4 kB`, `5.6 GB`."""
    value, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.5 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" or value >= 99.5 else f"{value:.1f} {unit}"


def ago(seconds: float | None) -> str:
    """A moment as `5 min ago`; the day, where it is two months past or more."""
    if seconds is None:
        return "-"
    past = time.time() - seconds
    if past > 60 * 86400:
        return time.strftime("%Y-%m-%d", time.localtime(seconds))
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if past >= length:
            return f"{past / length:.0f} {unit} ago"
    return "now" if past < 5 else f"{past:.0f} s ago"


def value(found: Any) -> str:
    """An option's or a figure's value as one types it."""
    if found is None:
        return "-"
    if isinstance(found, bool) or isinstance(found, str):
        return str(found)
    if isinstance(found, float):
        return f"{found:.6g}"
    if isinstance(found, list):
        return " ".join(value(v) for v in found) or "[]"
    return str(found) if isinstance(found, int) else json.dumps(found)


def figure(point: dict[str, Any] | None) -> str:
    """A figure's value in four digits, a large whole number in all of them."""
    if point is None:
        return "-"
    found = float(point["value"])
    return f"{found:.0f}" if found.is_integer() and 100 <= abs(found) < 1e12 else f"{found:#.4g}"


def counted(count: int, one: str, many: str) -> str:
    """`1 launch`, `3 launches`."""
    return f"{count} {one if count == 1 else many}"
