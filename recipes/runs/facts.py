"""What runs.py tells of runs, as plain values: its --json, and what its tables are laid out from.

Names of keys are a promise (docs/runs.md): more may come, none goes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from recipes.runs import about, defaults, figures
from recipes.runs.figures import Point
from recipes.runs.reading import RunFolder, Scan
from runtime.options import LENGTH, rows_of
from storage.errors import UsageError

Facts = dict[str, Any]


def summary(run: RunFolder) -> Facts:
    """A run in a list: {name, path, script, method, task, data, state, message, holder, step, nimg,
    started, updated, snapshot, figures}; times as ISO 8601, figures as `points`."""
    snapshot = about.network(run)
    return {
        "name": run.name,
        "path": str(run.path),
        "script": run.script,
        "hash": run.hash,
        "method": about.method(run),
        "task": about.task(run),
        "data": about.data(run),
        "state": run.state,
        "message": str(run.status.get("message") or ""),
        "holder": run.holder,
        "step": run.step,
        "nimg": run.nimg,
        "started": iso(run.started),
        "updated": iso(run.updated),
        "snapshot": None if snapshot is None else str(snapshot),
        "figures": points(figures.newest(run.last_rows)),
    }


def points(found: dict[str, Point]) -> Facts:
    """{name: {step, value}}."""
    return {name: point._asdict() for name, point in found.items()}


def iso(seconds: float | None) -> str | None:
    """Local time with its zone, to the second."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")


def listing(scan: Scan, runs: Sequence[RunFolder]) -> Facts:
    """{runs, unreadable, others}: `runs` of those found, and what else lies there."""
    return {
        "runs": [summary(run) for run in runs],
        "unreadable": [{"path": str(bad.path), "why": bad.why} for bad in scan.unreadable],
        "others": [str(path) for path in scan.others],
    }


def whole(run: RunFolder) -> Facts:
    """All of a run: its `summary`; options {name: value}, changed (those not at their defaults),
    preset; figures {name: {newest, best, better}}; files [{path, files, bytes}], bytes; launches,
    commands: what was typed, to go on, to use the snapshot; origin {commit, host, python}."""
    rows = run.rows()
    told: Facts = {}
    for name, point in figures.newest(rows).items():
        better = figures.direction_of(name) if figures.is_result(name) else None
        best = figures.best(figures.series(rows, name), better) if better else None
        told[name] = {
            "newest": point._asdict(),
            "best": None if best is None else best._asdict(),
            "better": better,
        }
    files, origin = contents(run.path), run.provenance
    git = origin.get("git") if isinstance(origin.get("git"), dict) else {}
    launches = run.launches()
    return {
        **summary(run),
        "figures": told,
        "options": run.options,
        "changed": defaults.changed(run),
        "preset": run.options.get("preset"),
        "files": files,
        "bytes": sum(entry["bytes"] for entry in files),
        "launches": len(launches),
        "commands": {
            "typed": origin.get("command"),
            "go_on": None if run.state == "running" else about.command_to_go_on(run),
            "use": about.command_to_use(run),
        },
        "origin": {
            "commit": (git or {}).get("commit"),
            "uncommitted": (git or {}).get("dirty"),
            "host": origin.get("host"),
            "python": origin.get("python"),
        },
    }


def contents(folder: Path) -> list[Facts]:
    """What lies in a folder: {path, files, bytes}, a folder as one; links are not followed."""
    found = []
    try:
        with os.scandir(folder) as entries:
            below = sorted(entries, key=lambda e: e.name)
    except OSError:
        return []
    for entry in below:
        if entry.is_dir(follow_symlinks=False):
            count, size = _tree(Path(entry.path))
            found.append({"path": f"{entry.name}/", "files": count, "bytes": size})
        else:
            found.append({"path": entry.name, "files": 1, "bytes": _size(Path(entry.path))})
    return found


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(entry["bytes"] for entry in contents(folder))


def _tree(folder: Path) -> tuple[int, int]:
    count = size = 0
    for here, _, names in os.walk(folder):
        count += len(names)
        size += sum(_size(Path(here) / name) for name in names)
    return count, size


def _size(file: Path) -> int:
    try:
        return file.lstat().st_size
    except OSError:  # gone meanwhile: a run prunes its checkpoints
        return 0


def differences(runs: Sequence[RunFolder]) -> Facts:
    """{runs: [summary], options: {name: [value a run]}, execution: the same of those that only say
    how and where it ran, figures: {name: {newest: [point or null a run], best, better}}}."""
    shaping = frozenset().union(*(run.shaping for run in runs))
    options: Facts = {}
    execution: Facts = {}
    names = dict.fromkeys(name for run in runs for name in run.options)
    for name in names:
        values = [run.options.get(name) for run in runs]
        if name in about.PLACES - {"preset"} or all(value == values[0] for value in values):
            continue
        (options if name in shaping else execution)[name] = values
    told: Facts = {}
    all_rows = [run.rows() for run in runs]
    last = [figures.newest(rows) for rows in all_rows]
    for name in dict.fromkeys(name for found in last for name in found):
        better = figures.direction_of(name) if figures.is_result(name) else None
        best = [_best(rows, name, better) for rows in all_rows]
        told[name] = {
            "newest": [found[name]._asdict() if name in found else None for found in last],
            "best": [None if point is None else point._asdict() for point in best],
            "better": better,
        }
    return {
        "runs": [summary(run) for run in runs],
        "options": options,
        "execution": execution,
        "figures": told,
    }


def of_all(differing: Facts, runs: Sequence[RunFolder]) -> tuple[Facts, list[str]]:
    """Of options {name: values}, those to compare, and the names of those that belong to only some
    of the runs' scripts. A run that was begun before its script had an option lacks it too.
    """
    scripts = {run.script for run in runs}
    having = {
        name: {run.script for run in runs if name in run.options} for name in differing
    }  # fmt: skip
    both = {name: values for name, values in differing.items() if having[name] == scripts}
    return both, [name for name in differing if name not in both]


def spelled(runs: Sequence[RunFolder], name: str) -> str:
    """An option of the runs' scripts as one types it today."""
    words = (defaults.spelled(defaults.table_of(run.script), name) for run in runs)
    return next((word for word in words if word != f"--{name}"), f"--{name}")


def length_options(run: RunFolder) -> list[str]:
    """The options that say how long a run of this script is, as one types them."""
    table = defaults.table_of(run.script)
    return [row[0] for row in rows_of(table) if LENGTH in row[4:]]


def _best(rows: list[dict[str, Any]], name: str, better: str | None) -> Point | None:
    found = figures.series(rows, name)
    return figures.best(found, better) if better and found else None


def ranking(runs: Iterable[RunFolder], word: str, direction: str | None) -> Facts:
    """{by, better, guessed, runs: [{rank, step, value, newest, run: summary}]}, the best first.

    word: a figure's name or a part of it. direction: "max" or "min"; None: as the name tells.
    Errors: UsageError for a figure that no run has, or whose name does not tell.
    """
    read = [(run, run.rows()) for run in runs]
    name = figures.find_figure(word, (n for _, rows in read for n in figures.names(rows)))
    better = direction or figures.direction_of(name)
    if better is None:
        raise UsageError(f"--by {name}: whether more or less is better, say by --max or --min")
    ranked = []
    for run, rows in read:
        if found := figures.series(rows, name):
            ranked.append((run, figures.best(found, better), found[-1]))
    ranked.sort(key=lambda entry: entry[1].value * (-1 if better == "max" else 1))
    told = [
        {"rank": k, **top._asdict(), "newest": last._asdict(), "run": summary(run)}
        for k, (run, top, last) in enumerate(ranked, start=1)
    ]
    return {"by": name, "better": better, "guessed": direction is None, "runs": told}
