"""The curves of a run as a page takes them: few enough points, and what they can be drawn over."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from recipes.report.times import windows
from recipes.runs import figures
from recipes.runs.figures import Point
from runtime.curves import panels_of, title_of, unit_of

Curve = dict[str, Any]  # {s: steps, v: values, n: points there were}
SHOWN = 6  # figures that are drawn at first
_DIGITS = 6
_MEASURES = r"psnr|ssim|lpips|fid|kid|\bfd|acc|knn|probe|top.?\d|distance|diversity"


def thinned(points: Sequence[Point], most: int) -> list[Point]:
    """At most about `most` of the points (4 at least): of each stretch the first, the smallest, the
    largest and the last, so that no peak is lost."""
    if len(points) <= max(4, most):
        return list(points)
    count = max(1, most // 4)
    kept: list[Point] = []
    for k in range(count):
        part = range(k * len(points) // count, (k + 1) * len(points) // count)
        if not part:
            continue
        low = min(part, key=lambda i: points[i].value)
        high = max(part, key=lambda i: points[i].value)
        kept += [points[i] for i in sorted({part[0], low, high, part[-1]})]
    return kept


def curves_of(rows: Sequence[Mapping[str, Any]], most: int) -> dict[str, Curve]:
    """{figure: its curve} of all figures with a finite value; values in six digits."""
    found: dict[str, Curve] = {}
    for name in figures.names(rows):
        points = figures.series(rows, name)
        if points:
            few = thinned(points, most)
            found[name] = {
                "s": [point.step for point in few],
                "v": [_short(point.value) for point in few],
                "n": len(points),
            }
    return found


def axes_of(rows: Sequence[Mapping[str, Any]], starts: Sequence[int], most: int) -> dict[str, Any]:
    """What steps are in images and in hours of training: {s, nimg, h}, lists of equal length, nimg
    or h None where nothing tells. starts: steps that launches began at."""
    seen = windows(rows, starts)
    seen = seen[:: -(-len(seen) // max(2, most))] + seen[-1:] if len(seen) > most else seen
    images = [figures.number(window.row.get("nimg")) for window in seen]
    whole = bool(images) and all(n is not None for n in images)
    return {
        "s": [0, *(window.last for window in seen)],
        "nimg": [0, *images] if whole else None,
        "h": [0, *(_short(window.hours) for window in seen)] if seen else None,
    }


def order(all_rows: Iterable[Sequence[Mapping[str, Any]]]) -> list[str]:
    """The figures of some runs in the order of curves.png, then those with one value a run."""
    series: dict[str, tuple[list[int], list[float]]] = {}
    alone: dict[str, None] = {}
    for rows in all_rows:
        for name in figures.names(rows):
            points = figures.series(rows, name)
            if len(points) > len(series.get(name, ([], []))[0]):
                series[name] = ([p.step for p in points], [p.value for p in points])
            alone[name] = None
    panels = panels_of(series)
    drawn = [name for panel in panels.values() for name in panel]
    return drawn + [name for name in alone if name not in drawn and name in series]


def first_shown(ordered: Sequence[str], found: Iterable[Mapping[str, Curve]]) -> list[str]:
    """The figures that a page draws at first: losses, what runs are told by, what is judged by a
    known measure, others; none that never changes, such as that of a reference. found: the curves
    of each run."""
    moving = {name for own in found for name, curve in own.items() if len(set(curve["v"])) > 1}
    there = [name for name in ordered if name in moving]
    results = [name for name in there if figures.is_result(name)]
    main = figures.main_figures({name: 0 for name in results}, 3)
    losses = [name for name in results if unit_of(name) == "loss"][:2]
    known = [name for name in results if re.search(_MEASURES, name.lower())]
    chosen = list(dict.fromkeys([*losses, *main, *known, *results]))[:SHOWN] or there[:SHOWN]
    return [name for name in ordered if name in chosen]


def told_first(ordered: Sequence[str]) -> list[str]:
    """Results in the order of a table: what runs are told by, known measures, others."""
    results = [name for name in ordered if figures.is_result(name)]
    main = figures.main_figures({name: 0 for name in results}, 4)
    known = [name for name in results if re.search(_MEASURES, name.lower())]
    return list(dict.fromkeys([*main, *known, *results]))


def labels_of(name: str) -> dict[str, str]:
    """{title, unit} of a figure's chart."""
    return {"title": title_of(name), "unit": unit_of(name)}


def _short(value: float) -> float | int:
    short = float(f"{value:.{_DIGITS}g}")
    return int(short) if short.is_integer() and abs(short) < 2**53 else short
