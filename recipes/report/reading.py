"""A run's folder as it is: what can be read, and a sentence for each thing that cannot."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.runs.reading import NoSuchRun, RunFolder, Unreadable, find_run, read_run, run_of
from runtime.rundir import known_of
from storage import files
from storage.errors import first_line

_ANY = ("args.json", "launches.jsonl", "metrics.jsonl", "status.json", "log.txt")
_SHEET = re.compile(r"(.+)-(\d{9})\.png")
_STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4}) (.*)")
_MOST_LOG = 1 << 24  # bytes of a log.txt's end that are looked at
_LARGEST = 2**53  # a step that a browser can count


@dataclass(frozen=True)
class Sheet:
    """A picture that a run drew: its name, the steps its weights had seen, its file."""

    name: str
    step: int
    file: Path


@dataclass(frozen=True)
class Read:
    """All that a page tells of, of one run.

    rows: lines of metrics.jsonl, in order. launches: of launches.jsonl. log: (time stamp, text) of
    log.txt. sheets: in order of names and steps. problems: what is missing or damaged, a sentence
    each.
    """

    run: RunFolder
    rows: list[dict[str, Any]]
    launches: list[dict[str, Any]]
    log: list[tuple[str, str]]
    sheets: list[Sheet]
    problems: list[str]


def find(words: Sequence[str], root: Path) -> list[Path]:
    """The folders of the runs that the words mean, each once, as for runs.py; a path may also lead
    to what is left of one. Errors: UsageError."""
    found: dict[Path, None] = {}
    for word in words:
        try:
            path = find_run(word, [root])
        except NoSuchRun:
            path = files.expanded(word)
            if not any((path / name).is_file() for name in _ANY):
                raise
        found[Path(os.path.abspath(path))] = None
    return list(found)


def read(path: Path) -> Read:
    """What lies in a run's folder, whatever has become of it."""
    problems: list[str] = []
    run = _run(path, problems)
    rows = _lines(path / "metrics.jsonl", run.state == "running", problems, "step")
    launches = _lines(path / "launches.jsonl", run.state == "running", problems, "time")
    if not run.status:
        why = "is missing" if not (path / "status.json").exists() else "cannot be read"
        problems.append(f"status.json {why}: how the run ended is not known.")
    return Read(run, rows, launches, _log(path / "log.txt", problems), _sheets(path), problems)


def _run(path: Path, problems: list[str]) -> RunFolder:
    try:
        return read_run(path)
    except Unreadable as error:
        known, _ = known_of(path)
        told = "its options are those of its newest checkpoint" if known else "no options are known"
        problems.append(f"{error.why[:1].upper()}{error.why[1:300]}: {told}.")
        return run_of(path, known or {})


def _lines(file: Path, growing: bool, problems: list[str], need: str) -> list[dict[str, Any]]:
    """The whole lines of a log that have `need`; the last one of a `growing` log may be half."""
    try:
        lines = [line for line in files.lines_of(file) if line.strip()]
    except FileNotFoundError:
        problems.append(f"{file.name} is missing.")
        return []
    except OSError as error:
        problems.append(f"{file.name} cannot be read ({error.strerror or error}).")
        return []
    good, bad = [], 0
    for k, line in enumerate(lines):
        value = _object(line)
        if value is not None and (need != "step" or _is_step(value.get("step"))):
            good.append(value)
        elif not (growing and k == len(lines) - 1):
            bad += 1
    if bad:
        lines_are = "line is" if bad == 1 else "lines are"
        problems.append(f"{file.name}: {bad} of {len(lines)} {lines_are} damaged and left out.")
    if not lines:
        problems.append(f"{file.name} is empty.")
    return sorted(good, key=lambda row: row["step"]) if need == "step" else good


def _object(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _is_step(value: Any) -> bool:
    return type(value) is int and 0 <= value < _LARGEST


def _log(file: Path, problems: list[str]) -> list[tuple[str, str]]:
    try:
        with files.open_plain(file) as opened:
            size = opened.seek(0, os.SEEK_END)
            opened.seek(max(0, size - _MOST_LOG))
            text = opened.read(_MOST_LOG).decode("utf-8", "replace")
    except FileNotFoundError:
        problems.append("log.txt is missing: how long saving took is not known.")
        return []
    except OSError as error:
        problems.append(f"log.txt cannot be read ({first_line(error, 200)}).")
        return []
    found = (_STAMP.fullmatch(line) for line in text.split("\n"))
    return [(m[1], m[2]) for m in found if m]


def _sheets(path: Path) -> list[Sheet]:
    return sorted(_found_sheets(path / "samples"), key=lambda s: (s.name, s.step))


def _found_sheets(folder: Path) -> Iterator[Sheet]:
    try:
        names = os.listdir(folder)
    except OSError:  # a run that draws nothing has none
        return
    for name in names:
        if match := _SHEET.fullmatch(name):
            yield Sheet(match[1], int(match[2]), folder / name)
