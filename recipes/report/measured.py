"""What calculate_metrics.py has measured of the networks of a run, from its records."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.metrics.record import FILE, SCRIPT, in_words, of_pictures, set_in_words
from recipes.metrics.record import read as read_record
from recipes.report.html import Markup, el, table
from recipes.report.reading import Read
from storage.errors import CheckpointError, DataError
from storage.find import identity

_MOST = 500  # records that are looked at, the newest
_SHOWN = 4  # of one figure of one run


@dataclass(frozen=True)
class Measured:
    """A figure of a network of a run. conditions: that it compares under, in words."""

    name: str
    conditions: str
    value: str
    net: str
    step: int
    seeds: str


def records(path: Path) -> list[Mapping[str, Any]]:
    """Records beside a run, in RESULTS/calculate_metrics, that are of its networks: those that name
    the run, and those whose network is one of its snapshots. Damaged ones are left out."""
    folder = path.parent.parent / SCRIPT
    try:
        files = [folder / name / FILE for name in os.listdir(folder)]
        dated = sorted(((f.stat().st_mtime, f) for f in files if f.is_file()), reverse=True)
    except OSError:
        return []
    own: set[str] | None = None
    found: list[Mapping[str, Any]] = []
    for _, file in dated[:_MOST]:
        try:
            _, record = read_record(str(file))
        except DataError:
            continue
        about = record["settings"]["samples"][0]
        if about.get("kind") == "data set":
            continue
        if (run := record.get("origin", {}).get("run")) is not None:
            if run == path.name:
                found.append(record)
            continue
        if own is None:
            own = _contents(path)
        if about.get("content") in own:
            found.append(record)
    return found


def _contents(path: Path) -> set[str]:
    found = set()
    for file in sorted((path / "snapshots").glob("*.safetensors")):
        try:
            found.add(identity(file))
        except CheckpointError:
            continue
    return found


def measured(record: Mapping[str, Any]) -> list[Measured]:
    """The figures of a record."""
    settings = record["settings"]
    samples, reference = settings["samples"][0], settings["reference"]
    against = f", against {of_pictures(reference)}" if reference else ""
    inputs = samples.get("inputs") or {}
    against += f", inputs of {set_in_words(inputs)}" if inputs else ""
    seeds = [str(r["seeds"]) for r in record["ranges"] if r["seeds"]]
    step = samples.get("step")
    return [
        Measured(
            name, f"n {figure['n']}{against}", in_words(figure), str(samples.get("net")),
            step if type(step) is int else -1, " and ".join(seeds),
        )
        for name, figure in record["figures"].items()
    ]  # fmt: skip


def section(reads: Sequence[Read], name_of: Callable[[int], Markup]) -> Markup | None:
    """All figures of all runs, side by side; None where nothing was measured."""
    cells: dict[tuple[str, str], list[list[Measured]]] = {}
    for k, read in enumerate(reads):
        for record in records(read.run.path):
            for one in measured(record):
                row = cells.setdefault((one.name, one.conditions), [[] for _ in reads])
                row[k].append(one)
    if not cells:
        return None
    rows = []
    for (name, conditions), row in sorted(cells.items()):
        label = [name, el("div", conditions, class_="quiet small")]
        rows.append([label, *(_cell(own) for own in row)])
    words = (
        "Records of calculate_metrics.py: value and 95 % interval over other samples of the same "
        "network (docs/metrics.md says how each is made), the newest networks first. Compare "
        "figures of equal conditions, and by its compare, which pairs seeds."
    )
    head = ["figure", *(name_of(k) for k in range(len(reads)))]
    return el("div", el("h3", "Measured"), el("p", words, class_="quiet"),
              table(None, head, rows, class_="numbers"), id="measured")  # fmt: skip


def _cell(own: Sequence[Measured]) -> Markup:
    if not own:
        return el("td", "-")
    ordered = sorted(own, key=lambda one: -one.step)
    parts: list[Any] = []
    for one in ordered[:_SHOWN]:
        at = f" at step {one.step}" if one.step >= 0 else ""
        seeds = f", seeds {one.seeds}" if one.seeds else ""
        parts.append(el("div", one.value, el("span", f" {one.net}{at}{seeds}",
                                             class_="quiet small")))  # fmt: skip
    if len(ordered) > _SHOWN:
        parts.append(el("div", f"and {len(ordered) - _SHOWN} more", class_="quiet small"))
    return el("td", parts)
