"""Runs side by side, as plain values: what they are, in what they differ, their figures with
intervals over seeds, what they cost, how each is made again."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from evaluation.intervals import Interval, mean_interval
from recipes.report import times
from recipes.report.reading import Read
from recipes.runs import about, defaults, facts, figures
from recipes.runs.figures import Point
from recipes.runs.layout import value
from storage.files import read_object

AGAIN = "the same run again (give another --outdir, or it finds this one)"
# Packages of which another version may change a result.
PACKAGES = ("torch", "torchvision", "numpy", "lpips", "pillow")


class Row(NamedTuple):
    """A line of a table of differences: a name, and a text a run."""

    name: str
    values: list[str]


class Group(NamedTuple):
    """Runs (their numbers) that differ by the seed alone."""

    runs: list[int]
    seeds: list[Any]


class Measured(NamedTuple):
    """A figure of runs side by side. newest, best: a point or None a run. at: a step that all runs
    of a group have the figure at, a group (None: there is none); spread, best_spread: the interval
    of its values there, and of the best ones."""

    name: str
    better: str | None
    newest: list[Point | None]
    best: list[Point | None]
    at: list[int | None]
    spread: list[Interval | None]
    best_spread: list[Interval | None]


def seed_of(read: Read) -> Any:
    """The random seed of a run, None if it is not known."""
    return read.run.options.get("seed")


def groups_of(reads: Sequence[Read]) -> list[Group]:
    """Runs whose options that shape the result are equal but for the seed: those of two or more
    different seeds, in order. Runs of other data or code are kept apart."""
    found: dict[str, list[int]] = {}
    for k, read in enumerate(reads):
        if not read.run.shaping or seed_of(read) is None:
            continue
        shaping = {n: read.run.options.get(n) for n in sorted(read.run.shaping) if n != "seed"}
        key = repr((read.run.script, shaping, _commit(read), data_words(read)))
        found.setdefault(key, []).append(k)
    groups = [Group(runs, [seed_of(reads[k]) for k in runs]) for runs in found.values()]
    return [g for g in groups if len({str(seed) for seed in g.seeds}) == len(g.seeds) > 1]


def differences(reads: Sequence[Read]) -> dict[str, list[Row]]:
    """{title: rows that differ}: options that decide what is computed, where the code and the data
    came from, how and where it ran, options of only some of the scripts."""
    runs = [read.run for read in reads]
    found = facts.differences(runs)
    out: dict[str, list[Row]] = {"options": [], "origin": [], "execution": [], "some": []}
    for kind in ("options", "execution"):
        both, some = facts.of_all(found[kind], runs)
        out[kind] += [Row(facts.spelled(runs, name), _words(both[name])) for name in both]
        out["some"] += [Row(facts.spelled(runs, n), _words(found[kind][n])) for n in some]
    for name, values in _origins(reads).items():
        if len(set(values)) > 1:
            out["origin"].append(Row(name, values))
    return out


def _words(values: Sequence[Any]) -> list[str]:
    return [value(v)[:200] for v in values]


def _origins(reads: Sequence[Read]) -> dict[str, list[str]]:
    """{what: a text a run} of code, data, packages, machine."""
    rows = {
        "code": [code_of(read) for read in reads],
        "data": [data_words(read) for read in reads],
        "machine": [machine_of(read) for read in reads],
        "Python": [_text(origin_of(read).get("python")) for read in reads],
        "processes": [_text(_last(read).get("world_size")) for read in reads],
    }
    for package in PACKAGES:
        rows[package] = [_package(read, package) for read in reads]
    return rows


def _package(read: Read, name: str) -> str:
    versions = origin_of(read).get("packages")
    return _text(versions.get(name)) if isinstance(versions, dict) else "-"


def _last(read: Read) -> Mapping[str, Any]:
    return read.launches[-1] if read.launches else {}


def origin_of(read: Read) -> Mapping[str, Any]:
    """What the first launch noted of where it came from."""
    for record in [*read.launches, {"provenance": read.run.provenance}]:
        origin = record.get("provenance")
        if isinstance(origin, dict) and origin:
            return origin
    return {}


def _git(origin: Any) -> Mapping[str, Any]:
    git = origin.get("git") if isinstance(origin, dict) else None
    return git if isinstance(git, dict) else {}


def _commit(read: Read) -> str:
    git = _git(origin_of(read))
    return f"{git.get('commit')} {git.get('diff')}"


def code_of(read: Read) -> str:
    """The commit that a run began with, whether it was changed, and whether later launches had
    another one."""
    git = _git(origin_of(read))
    words = _text(git.get("commit"))[:10]
    if git.get("dirty"):
        patch = git.get("diff")
        words += f" with changes ({patch})" if isinstance(patch, str) else " with changes"
    commits = {str(_git(r["provenance"]).get("commit")) for r in read.launches if "provenance" in r}
    return words + (", later launches with other commits" if len(commits) > 1 else "")


def data_words(read: Read) -> str:
    """What it was trained on: the name, and the number of pictures and a digest, where the run
    noted them."""
    words = about.data(read.run)
    noted = read_object(read.run.path / "data.json") or {}
    count, digest = noted.get("used", noted.get("pictures")), noted.get("digest")
    more = [f"{count} pictures"] if type(count) is int else []
    more += [digest[:8]] if isinstance(digest, str) else []
    return f"{words} ({', '.join(more)})" if more else words


def machine_of(read: Read) -> str:
    """Host and GPUs, or that there were none."""
    origin = origin_of(read)
    gpus = origin.get("gpus")
    named = [str(name) for name in gpus] if isinstance(gpus, list) else []
    kinds = [f"{named.count(n)} x {n}" for n in dict.fromkeys(named)] or ["CPU"]
    return f"{_text(origin.get('host'))}, {', '.join(kinds)}"


def _text(found: Any) -> str:
    return "-" if found is None or found == "" else str(found)[:200]


# ---------------------------------------------------------------------------------------- figures


def measured(
    reads: Sequence[Read], groups: Sequence[Group], order: Sequence[str]
) -> list[Measured]:
    """The figures of this order side by side."""
    found = []
    for name in order:
        series = [figures.series(read.rows, name) for read in reads]
        better = figures.direction_of(name)
        best = [figures.best(s, better) if s and better else None for s in series]
        row = Measured(name, better, [s[-1] if s else None for s in series], best, [], [], [])
        for group in groups:
            own = [dict(series[k]) for k in group.runs]
            common = set(own[0]).intersection(*own[1:])
            step = max(common, default=None)
            row.at.append(step)
            row.spread.append(_spread([] if step is None else [s[step] for s in own]))
            tops = [best[k] for k in group.runs]
            row.best_spread.append(_spread([p.value for p in tops if p] if all(tops) else []))
        found.append(row)
    return found


def _spread(values: Sequence[float]) -> Interval | None:
    return mean_interval(values) if len(values) > 1 else None


# ------------------------------------------------------------------------------------------- cost


def speed_of(read: Read, launched: Sequence[times.Launch]) -> list[tuple[str, str]]:
    """(what, how much) of a run's speed and memory, as its logs have them."""
    starts = [launch.first for launch in launched]
    steps = times.windows(read.rows, starts)
    said: list[tuple[str, str]] = []
    if steps:
        each = sorted(window.seconds for window in steps)
        middle, slow = statistics.median(each), each[min(len(each) - 1, int(0.95 * len(each)))]
        said.append(("step, median", _seconds(middle)))
        said.append(("step, 95 % of log lines below", _seconds(slow)))
        total = sum(w.seconds * (w.last - w.first) for w in steps)
        images = _images(steps)
        if images and total:
            said.append(("images a second", f"{images / total:.3g}"))
    peak = [v for row in read.rows if (v := figures.number(row.get("memory/peak_gb"))) is not None]
    if peak:
        said.append(("GPU memory, peak", f"{max(peak):.3g} GB"))
    said += [(name, f"{point.value:.4g}") for name, point in _other_costs(read).items()]
    spent = sum(launch.seconds for launch in launched)
    if spent:
        said.append(("all launches together", times.duration(spent)))
    return said


def _images(steps: Sequence[times.Window]) -> float:
    seen = [(w.first, figures.number(w.row.get("nimg"))) for w in steps]
    if any(n is None for _, n in seen):
        return 0.0
    before, total = 0.0, 0.0
    for _, n in seen:
        total += max(0.0, (n or 0.0) - before)
        before = n or 0.0
    return total


def _seconds(found: float) -> str:
    return f"{1000 * found:.3g} ms" if found < 1 else f"{found:.3g} s"


def _other_costs(read: Read) -> dict[str, Point]:
    """The newest value of costs that are not told otherwise (images_per_s, MFU, ..)."""
    told = {"time/step_s", "memory/peak_gb", *times.TIMED}
    newest = figures.newest(read.rows)
    return {
        name: point
        for name, point in newest.items()
        if name.startswith(("time/", "memory/", "mfu", "flops")) and name not in told
    }


# ------------------------------------------------------------------------------------- everything


def summary(read: Read) -> dict[str, Any]:
    """A run in the words of a page."""
    run = read.run
    return {
        "name": run.name,
        "path": str(run.path),
        "method": about.method(run),
        "script": run.script,
        "task": about.task(run),
        "data": data_words(read),
        "seed": value(seed_of(read)),
        "state": run.state,
        "message": str(run.status.get("message") or "")[:500],
        "holder": run.holder,
        "step": run.step,
        "nimg": run.nimg,
        "started": facts.iso(run.started),
        "updated": facts.iso(run.updated),
        "code": code_of(read),
        "machine": machine_of(read),
        "problems": read.problems,
    }


def commands(read: Read) -> list[tuple[str, str]]:
    """(what for, the command) to make the run again, to go on with it, to use it."""
    found: list[tuple[str, str]] = []
    origin = origin_of(read)
    typed = origin.get("command")
    if isinstance(typed, str):
        commit = str(_git(origin).get("commit"))
        first = [f"git checkout {commit[:12]}"] if _is_hex(commit) else []
        patch = _git(origin).get("diff")
        if first and isinstance(patch, str):
            first.append(f"git apply {shlex.quote(str(read.run.path / patch))}")
        found.append((AGAIN, "\n".join([*first, about.typed(typed)])))
    if read.run.state != "running" and (on := about.command_to_go_on(read.run)):
        found.append(("to go on with it, where it lies", on))
    if use := about.command_to_use(read.run):
        found.append(("to use its newest snapshot", use))
    return found


def _is_hex(found: str) -> bool:
    return len(found) >= 12 and set(found) <= set("0123456789abcdef")


def changed(read: Read) -> list[tuple[str, str]]:
    """(option, value) of the options that are not at their defaults, as one types them."""
    table = defaults.table_of(read.run.script)
    return [
        (defaults.spelled(table, name), value(found)[:500])
        for name, found in defaults.changed(read.run).items()
    ]
