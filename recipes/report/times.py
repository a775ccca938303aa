"""Where the time of a run went: its launches, and what each spent, as far as its logs tell.

A launch lasts from its line in launches.jsonl to the last sign of life before the next. What the
logs name is taken out of that: the start (up to the first step that was measured), saving (log.txt
has a line a save), and what the scripts time themselves (`time/search_s`, ..). The rest is
training; of runs of earlier versions, which did not time them apart, also waiting for data and
validation.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from recipes.report.reading import Read
from recipes.runs.figures import number

# Figures that a script times, what they are, and whether a row has the mean of every step of its
# window (else of what happened in it).
TIMED = {
    "time/search_s": ("search for codes", False),
    "time/refresh_s": ("making views anew", False),
    "time/selection_s": ("selection of pictures", True),
    "time/data_s": ("waiting for data", True),
    "time/validation_s": ("validation", True),
    "time/wait_s": ("waiting for other ranks", True),
}
START, SAVING, REST = "start", "saving", "training"
MEANS = {
    "search for codes": "IMLE's search, before each outer loop",
    "making views anew": "views of the generator that training reads",
    "selection of pictures": "scoring and choosing within a super-batch",
    START: "from the launch to its first step: imports, data, networks, resuming",
    SAVING: "checkpoints, as log.txt has them",
    "waiting for data": "until a batch was there; of ISICLE also drawing views",
    "validation": "sheets of samples, figures, --metrics_every",
    REST: "the rest of the steps; in logs of earlier versions also waiting for data and validation",
}
_SAVED = re.compile(r"saved step (\d+) in ([\d.]+) s")
_ENDED = re.compile(r"(SIG[A-Z0-9]+|interrupt): .*")
_REACHED = re.compile(r"an earlier launch got to step (\d+), but no later checkpoint is there")


@dataclass
class Launch:
    """One start of the script. begun, ended: seconds since the epoch. first: the step it began at;
    last: the furthest it got. lost: steps of it that the next one did again. parts: seconds."""

    record: Mapping[str, Any]
    begun: float
    ended: float
    first: int
    last: int
    how: str = ""
    lost: int = 0
    parts: dict[str, float] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return max(0.0, self.ended - self.begun)


@dataclass(frozen=True)
class Window:
    """The steps between two lines of figures. hours: of training, to its end, since step 0."""

    row: Mapping[str, Any]
    first: int
    last: int
    seconds: float  # a step
    hours: float


def when(text: Any) -> float | None:
    """Seconds since the epoch of `runtime.rundir.timestamp`'s text; None for anything else."""
    try:
        return datetime.strptime(str(text), "%Y-%m-%dT%H:%M:%S%z").timestamp()
    except (ValueError, OverflowError):
        return None


def windows(rows: Sequence[Mapping[str, Any]], starts: Sequence[int] = ()) -> list[Window]:
    """The lines that say how long a step took. starts: steps that launches began at."""
    found: list[Window] = []
    last, hours = 0, 0.0
    for row in rows:
        seconds = number(row.get("time/step_s"))
        if seconds is None or seconds < 0 or row["step"] <= last:
            continue
        begun = max([last, *(s for s in starts if last < s < row["step"])])
        hours += (row["step"] - begun) * seconds / 3600
        found.append(Window(row, begun, row["step"], seconds, hours))
        last = row["step"]
    return found


def launches(told: Read) -> list[Launch]:
    """All launches of a run, oldest first; those whose time cannot be read are left out."""
    known = [(when(r.get("time")), r) for r in told.launches]
    begun = [(moment, record) for moment, record in known if moment is not None]
    begun.sort(key=lambda entry: entry[0])
    log = [(moment, text) for stamp, text in told.log if (moment := when(stamp)) is not None]
    steps = windows(told.rows, [_step(record.get("from_step")) for _, record in begun])
    found: list[Launch] = []
    for k, (start, record) in enumerate(begun):
        end = begun[k + 1][0] if k + 1 < len(begun) else math.inf
        rows = [row for row in told.rows if start <= (number(row.get("time")) or -1) < end]
        lines = [(moment, text) for moment, text in log if start <= moment < end]
        found.append(_launch(told, record, start, rows, lines, steps, last=end == math.inf))
    for this, after in zip(found, found[1:], strict=False):
        # Figures of steps that were lost are gone from metrics.jsonl; the next launch says so.
        own = [text for moment, text in log if after.begun <= moment <= after.ended]
        this.last = max([this.last, *(int(m[1]) for text in own if (m := _REACHED.match(text)))])
        this.lost = max(0, this.last - after.first)
    return found


def _launch(
    told: Read,
    record: Mapping[str, Any],
    start: float,
    rows: Sequence[Mapping[str, Any]],
    lines: Sequence[tuple[float, str]],
    steps: Sequence[Window],
    last: bool,
) -> Launch:
    first = _step(record.get("from_step"))
    saves = [m for _, text in lines if (m := _SAVED.fullmatch(text))]
    ends = [start, *(number(row["time"]) or start for row in rows), *(t for t, _ in lines)]
    reached = [first, *(row["step"] for row in rows), *(int(m[1]) for m in saves)]
    if last:
        ends += [t for t in [when(told.run.status.get("time")), told.run.updated] if t is not None]
        reached += [told.run.step or 0]
    launch = Launch(record, start, max(ends), first, max(reached))
    launch.how = _how(told, launch, lines, last)
    own = [w for w in steps if any(w.row is row for row in rows)]
    parts: dict[str, float] = {}
    if own:
        begun = (number(own[0].row.get("time")) or start) - own[0].seconds * (
            own[0].last - own[0].first
        )
        parts[START] = min(max(0.0, begun - start), launch.seconds)
    for name, (words, each) in TIMED.items():
        spent = sum(_spent(told, window, name, each) for window in own)
        if spent:
            parts[words] = spent
    parts[SAVING] = sum(float(m[2]) for m in saves)
    parts[REST] = max(0.0, launch.seconds - sum(parts.values())) if own else 0.0
    launch.parts = {name: seconds for name, seconds in parts.items() if seconds > 0}
    return launch


def _spent(told: Read, window: Window, name: str, each: bool) -> float:
    value = number(window.row.get(name))
    if value is None:
        return 0.0
    if each:
        return value * (window.last - window.first)
    period = told.run.options.get("num_iteration")
    if told.run.script == "TrainGeneratorWandB" and type(period) is int and period > 0:
        times = -(-window.last // period) - -(-window.first // period)  # searches of the window
        return value * max(1, times)
    return value


def _how(told: Read, launch: Launch, lines: Sequence[tuple[float, str]], last: bool) -> str:
    if last:
        words = str(told.run.status.get("message") or "")
        return told.run.state + (f": {words}" if words else "")
    said = [m[1] for _, text in lines[-3:] if (m := _ENDED.fullmatch(text))]
    if said:
        return f"asked to stop by {said[-1]}" if said[-1] != "interrupt" else "interrupted (Ctrl-C)"
    total = told.run.step if told.run.state == "finished" else None
    if total is not None and launch.last >= total:
        return "finished"
    return "ended without a word: killed, failed, or stopped at an outer loop's end"


def _step(value: Any) -> int:
    return value if type(value) is int and 0 <= value < 2**53 else 0


def duration(seconds: float) -> str:
    """0.4 s, 12 s, 3 min 20 s, 5 h 7 min, 2 d 3 h."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    for unit, small, size, part in (("d", "h", 86400, 3600), ("h", "min", 3600, 60)):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {unit}" + (f" {rest} {small}" if rest else "")
    return f"{whole // 60} min" + (f" {whole % 60} s" if whole % 60 else "")
