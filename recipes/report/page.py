"""The page: tables as HTML, curves and sheets as data that its own script draws."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from recipes.report import curves, pictures, sections, told
from recipes.report.html import Markup, as_data, el
from recipes.report.reading import Read
from storage.errors import UsageError
from storage.files import read_bytes

MARK = "<!-- a page of report.py -->"  # by which a page may be replaced
_PARTS = Path(__file__).parent / "page"
_SCRIPTS = ("draw.js", "chart.js", "curves.js", "sheets.js", "main.js")
_POINTS = (2000, 1000, 500, 250, 120, 60)  # of a curve, at most
_CURVES_SHARE = 0.4  # of a page, that all but the sheets may take
_MARGIN = 2000  # characters


class Page(NamedTuple):
    """text: the HTML. said: what is left out of it or made smaller, in sentences."""

    text: str
    said: list[str]


def part(name: str) -> str:
    """A file of the page: its style, or one of its scripts."""
    return read_bytes(_PARTS / name).decode("utf-8")


def build(
    reads: Sequence[Read],
    *,
    limit: int,
    encoder: pictures.Encoder,
    command: str = "",
    every: float | None = None,
    back: str | None = None,
    done: Callable[[], object] = lambda: None,
) -> Page:
    """The page of some runs, of at most `limit` bytes.

    command: how to make it again. every: seconds after which a browser loads it again, None for
    never. back: the address of a list of runs. done: called after each sheet.
    Errors: UsageError for so many runs that not even their curves fit.
    """
    ordered = curves.order([read.rows for read in reads])
    for most in _POINTS:
        data, fewer = _data(reads, ordered, most)
        text = _whole(reads, ordered, data, fewer, command, every, back)
        if len(text) < limit * _CURVES_SHARE:
            break
    room = limit - len(text.encode("utf-8", "backslashreplace")) - _MARGIN
    if room < 0:
        raise UsageError(
            f"{len(reads)} runs do not fit into {limit / 1e6:g} MB: name fewer, or --max_mb"
        )
    names = [read.run.name for read in reads]
    sheets = [(name, read.sheets) for name, read in zip(names, reads, strict=True)]
    per_sheet = 120 + max([len(name) for name in names], default=0)
    count = sum(len(s) for _, s in sheets)
    fitted = pictures.fit(sheets, max(0, room - per_sheet * count), encoder, done)
    said = [*fewer, *fitted.said]
    for read, problems in zip(reads, fitted.problems, strict=True):
        read.problems.extend(p for p in problems if p not in read.problems)
    data["sheets"] = [
        [
            {"name": s.sheet.name, "step": s.sheet.step, "w": s.size[0], "h": s.size[1],
             "src": s.data}
            for s in shown
        ]
        for shown in fitted.shown
    ]  # fmt: skip
    return Page(_whole(reads, ordered, data, said, command, every, back), said)


def _data(
    reads: Sequence[Read], ordered: Sequence[str], most: int
) -> tuple[dict[str, Any], list[str]]:
    """What the page's script draws, and what it lacks."""
    runs: list[dict[str, Any]] = []
    longest: dict[str, int] = {}
    for read in reads:
        found = curves.curves_of(read.rows, most)
        for name, curve in found.items():
            longest[name] = max(longest.get(name, 0), curve["n"])
        starts = [record.get("from_step") for record in read.launches]
        steps = [step for step in starts if type(step) is int and step > 0]
        runs.append({
            "name": read.run.name, "curves": found, "axis": curves.axes_of(read.rows, steps, most),
            "starts": sorted(set(steps)),
        })  # fmt: skip
    data = {
        "runs": runs,
        "figures": [{"name": name, **curves.labels_of(name)} for name in ordered],
        "first": curves.first_shown(ordered, [run["curves"] for run in runs]),
        "groups": [list(group.runs) for group in told.groups_of(reads)],
        "sheets": [[] for _ in reads],
    }
    long = sum(1 for n in longest.values() if n > most)
    fewer = [
        f"{long} figures have more than {most} points a run: of every stretch the first, the "
        "smallest, the largest and the last are kept."
    ] * (long > 0)
    return data, fewer


def _whole(
    reads: Sequence[Read],
    ordered: Sequence[str],
    data: dict[str, Any],
    said: Sequence[str],
    command: str,
    every: float | None,
    back: str | None,
) -> str:
    names = [read.run.name for read in reads]
    title = names[0] if len(names) == 1 else f"{len(names)} runs: {', '.join(names)}"
    title = title if len(title) <= 120 else f"{title[:117]}..."
    body = el(
        "body",
        sections.top(reads, every, back),
        el("main", sections.all_of(reads, ordered, said, command), id="main"),
        el("dialog", el("form", el("button", "Close", value="close"), method="dialog"),
           el("div", id="large"), id="dialog", aria_label="a sheet in its full size"),
        el("script", as_data(data), type="application/json", id="data"),
        data_every=every,
    )  # fmt: skip
    return document(title, body, [part(name) for name in _SCRIPTS])


def document(title: str, body: Markup, scripts: Sequence[str] = ()) -> str:
    """A whole HTML page: nothing from elsewhere can be loaded by it, and no script but its own runs
    in it."""
    style, script = part("page.css"), '"use strict";\n(() => {\n' + "\n".join(scripts) + "})();\n"
    policy = "; ".join([
        "default-src 'none'", "img-src data:", f"style-src {_hash(style)}",
        f"script-src {_hash(script)}", "base-uri 'none'", "form-action 'self'",
    ])  # fmt: skip
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=policy),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("title", title),
        el("style", Markup(style)),
    )
    end = el("script", Markup(script)) if scripts else ""
    page = body.removesuffix("</body>") + end + "</body>"
    return f'<!DOCTYPE html>\n{MARK}\n<html lang="en">{head}{page}</html>\n'


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def now() -> str:
    """This moment, to the second."""
    return time.strftime("%Y-%m-%d %H:%M:%S")
