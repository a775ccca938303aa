"""Figures of metrics.jsonl: which there are, the newest, the best, and which way is better."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from storage.errors import UsageError

Row = Mapping[str, Any]  # a line of metrics.jsonl

# Not results: what counts, and what only says how fast or how sound.
_COUNTERS = {"step", "time", "nimg", "epoch", "lr", "learning rate", "imle/learning rate"}
_SPEED = ("time/", "memory/", "health/")
# Words in names, those of greater weight first: diversity of LPIPS is better large.
_DIRECTIONS = (
    ("max", r"diversity|psnr|ssim|acc|top.?\d|precision|recall|coverage|density|per_s\b|gain"),
    (
        "min",
        r"loss|lpips|mse|mae|rmse|fid|kid|\bfd\b|error|distance|nll|bpd|combined|consistency|"
        r"seam|ripple|time|_s\b",
    ),
)
# What a run of any method is told by in a list: the first two that it has.
_MAIN = (
    "val/best_psnr", "val/bicubic_psnr", "val/best_", "final/linear", "acc_val", "eval/knn",
    "Average Test EMA L2 Distance", "Average Validation EMA Loss", "val/", "final/", "eval/",
    "Loss", "loss_tr", "batch loss",
)  # fmt: skip


class Point(NamedTuple):
    """A figure's value and the step that the weights had seen."""

    step: int
    value: float


def is_result(name: str) -> bool:
    """Whether a figure says how good a run is, rather than how far or how fast."""
    return name.lower() not in _COUNTERS and not name.startswith(_SPEED)


def number(value: Any) -> float | None:
    """A finite number of a row, as float; None for what is none (null stands for nan)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # a whole number of hundreds of digits
        return None


def names(rows: Iterable[Row]) -> list[str]:
    """Names of all figures, in order of their first lines; without `step` and `time`."""
    found = {name: None for row in rows for name in row}
    return [name for name in found if name not in ("step", "time")]


def series(rows: Iterable[Row], name: str) -> list[Point]:
    """The finite values of a figure, in order of steps."""
    return [Point(r["step"], v) for r in rows if (v := number(r.get(name))) is not None]


def newest(rows: Iterable[Row]) -> dict[str, Point]:
    """The last finite value of every figure."""
    last: dict[str, Point] = {}
    for row in rows:
        for name, value in row.items():
            if name not in ("step", "time") and (v := number(value)) is not None:
                last[name] = Point(row["step"], v)
    return last


def best(points: Sequence[Point], direction: str) -> Point:
    """The largest ("max") or smallest ("min") of at least one; the first of equals."""
    sign = 1 if direction == "max" else -1
    return max(points, key=lambda point: sign * point.value)


def direction_of(name: str) -> str | None:
    """ "max" or "min", whichever is better of a figure of this name; None if the name tells not."""
    if name.lower() in _COUNTERS:
        return None
    for direction, words in _DIRECTIONS:
        if re.search(words, name.lower()):
            return direction
    return None


def main_figures(found: Mapping[str, Any], count: int = 2) -> list[str]:
    """The names to tell a run by in a list, the most telling first."""
    chosen: list[str] = []
    for begin in _MAIN:
        chosen += [name for name in found if name.startswith(begin) and name not in chosen]
    return (chosen or [name for name in found if is_result(name)])[:count]


def short(name: str) -> str:
    """A figure's name without its protocol: `final/knn(k=20, T=0.07, h), 2 folds acc1` without what
    stands between."""
    return re.sub(r"\(.*\)(, \d+ folds)?", "", name)


def find_figure(word: str, known: Iterable[str]) -> str:
    """The figure that a word means: its name, or a part that only one name has.

    Errors: UsageError that lists what there is.
    """
    known = list(dict.fromkeys(known))
    if word in known:
        return word
    parts = re.split(r"[\s/_]+", word.lower())  # val/psnr_best finds val/best_psnr
    for fits in (
        lambda name: word.lower() in name.lower(),
        lambda name: all(part in name.lower() for part in parts),
    ):
        found = [name for name in known if fits(name)]
        if len(found) == 1:
            return found[0]
        if found:
            raise UsageError(f"--by {word} may be {_listed(found)}: give the whole name")
    listed = _listed([name for name in known if is_result(name)] or known)
    raise UsageError(f"--by {word}: no run here has such a figure; there are {listed or 'none'}")


def _listed(found: Sequence[str]) -> str:
    more = f" and {len(found) - 20} more" if len(found) > 20 else ""
    return ", ".join(repr(name) for name in found[:20]) + more
