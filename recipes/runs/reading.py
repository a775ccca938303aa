"""Folders of runs: finding them, naming them, reading what is in one. Nothing is ever written.

A run may be running while it is looked at, or its folder half written, damaged, or not a run's at
all: what cannot be read is said in one line (`Unreadable`), and what is missing is None.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from runtime.progress import track
from storage import files
from storage.errors import UsageError

DEPTH = 4  # folders below the results that are looked into: RESULTS/SCRIPT/NAME, and --outdir A/B/C
STATES = ("running", "preempted", "stopped", "finished", "failed", "died", "new")
_OWN = {"checkpoints", "snapshots", "samples", "provenance", "wandb"}  # of a run: no runs in them
_FILES = ("status.json", "metrics.jsonl", "log.txt", "launches.jsonl", "args.json")
# Options that say how long a run is (the tag LENGTH of the scripts' tables, which import torch):
# they may be others in a later launch (`runtime.length`).
LENGTHS = ("outer_loops", "epochs", "steps", "duration", "total_iter")
_FRESH_S = 900.0  # a run on another machine that wrote so lately is taken to be alive


class Unreadable(UsageError):
    """A folder that looks like a run's and cannot be read as one. why: in one line."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path}: {why}")
        self.path, self.why = path, why


class NoSuchRun(UsageError):
    """A word that names no run."""


@dataclass(frozen=True)
class RunFolder:
    """What a run's folder says of it.

    name: the folder's. hash: the eight digits at the name's end, as args.json has them. options:
    values of all options at the first launch that came to a checkpoint, by name, and of those that
    say how long the run is at the last launch that had anything to do. shaping: names of those that
    decide what is computed. status: status.json, {} without one. state: one of STATES: preempted
    and stopped wait to be gone on with, died left no word, new has not begun its loop. step: steps
    done. nimg: images seen. started, updated: seconds since the epoch. last_rows: the last lines of
    metrics.jsonl.
    """

    path: Path
    script: str
    hash: str
    options: dict[str, Any]
    shaping: frozenset[str]
    provenance: dict[str, Any]
    status: dict[str, Any]
    state: str
    holder: str | None
    step: int | None
    nimg: int | None
    started: float | None
    updated: float | None
    last_rows: list[dict[str, Any]] = field(repr=False)

    @property
    def name(self) -> str:
        return self.path.name

    def launches(self) -> list[dict[str, Any]]:
        """One record a launch, oldest first; [] where they cannot be read."""
        return _lines(self.path / "launches.jsonl")

    def rows(self) -> list[dict[str, Any]]:
        """All lines of metrics.jsonl, each with its whole number `step`."""
        return _with_steps(_lines(self.path / "metrics.jsonl"))


@dataclass(frozen=True)
class Scan:
    """Below some folders: the runs, what looks like one and is not to be read, and other folders
    (pictures of generate_images.py, say)."""

    runs: list[RunFolder]
    unreadable: list[Unreadable]
    others: list[Path]


# ------------------------------------------------------------------------------------- one folder


def looks_like_run(names: Iterable[str]) -> bool:
    """Whether a folder with files of these names is, or was to be, a run's."""
    names = set(names)
    return "args.json" in names or "launches.jsonl" in names or {"lock", "log.txt"} <= names


def read_run(path: Path) -> RunFolder:
    """The run in a folder. Errors: Unreadable."""
    path = Path(os.path.abspath(path))
    try:
        names = os.listdir(path)
    except OSError as error:
        raise Unreadable(path, error.strerror or str(error)) from None
    if not looks_like_run(names):
        raise Unreadable(path, "no folder of a run (it has no args.json)")
    try:
        known = files.read_json(path / "args.json")
    except files.Damaged as error:
        raise Unreadable(
            path, f"args.json cannot be read ({' '.join(str(error).split())})"
        ) from None
    if known is None:
        raise Unreadable(path, "no args.json: the launch that made it was cut short")
    if not isinstance(known, dict) or not isinstance(known.get("shaping"), dict):
        raise Unreadable(path, "args.json is not of a run of this toolkit")
    return run_of(path, known)


def run_of(path: Path, known: Mapping[str, Any]) -> RunFolder:
    """The run in a folder, as far as its files tell. known: what args.json has, {} where that is
    lost."""
    args, origin = known.get("args"), known.get("provenance")
    shaping = known.get("shaping")
    shaping = shaping if isinstance(shaping, dict) else {}
    status = files.read_object(path / "status.json") or {}
    run = RunFolder(
        path=path,
        script=str(known.get("script") or "?"),
        hash=str(known.get("config_hash") or ""),
        options=args if isinstance(args, dict) else dict(shaping),
        shaping=frozenset(shaping),
        provenance=origin if isinstance(origin, dict) else {},
        status=status,
        state="new",
        holder=None,
        step=_whole(status.get("step")),
        nimg=_whole(status.get("nimg")),
        started=_started(path),
        updated=None,
        last_rows=_last_rows(path / "metrics.jsonl"),
    )
    run = replace(run, updated=_updated(run))
    state, holder = _state(run)
    step, nimg = run.step, run.nimg
    if run.last_rows:  # status.json is written when the run saves, figures oftener
        step = max(step or 0, run.last_rows[-1]["step"])
        nimg = max(nimg or 0, _whole(run.last_rows[-1].get("nimg")) or 0) or nimg
    run = replace(run, state=state, holder=holder, step=step, nimg=nimg)
    return replace(run, options=run.options | _length(run))


def _length(run: RunFolder) -> dict[str, Any]:
    """The options that say how long a run is, as it was last asked: it may have been made longer
    since args.json was written. A launch that finished at once, having more, changed nothing."""
    try:
        launches = files.read_last_lines(run.path / "launches.jsonl")
    except OSError:
        return {}
    for launch in reversed(launches):
        args, start = launch.get("args"), _whole(launch.get("from_step")) or 0
        idle = run.state == "finished" and start and start >= (run.step or 0)
        if isinstance(args, dict) and not (idle and str(args.get("resume")) != "0"):
            return {name: args[name] for name in LENGTHS if name in args and name in run.options}
    return {}


def _state(run: RunFolder) -> tuple[str, str | None]:
    """The state, and who holds the lock (in words), if anybody does."""
    said = run.status.get("state")
    lock = run.path / "lock"
    try:
        named = lock.stat().st_size > 0
    except OSError:
        named = False
    note = files.holder_of(lock) if named or said == "running" else None
    if note is not None:
        return "running", _holder(note)
    if said in ("finished", "failed", "preempted", "stopped"):
        return said, None
    if said != "running":
        return "new", None
    host = _note(_read_note(lock)).get("host") if named else None
    if host not in (None, socket.gethostname()):  # its lock may not reach this machine
        if run.updated is not None and time.time() - run.updated < _FRESH_S:
            return "running", _holder(_read_note(lock))
    return "died", None


def _read_note(lock: Path) -> str:
    try:
        with files.open_plain(lock) as file:
            return file.read(4096).decode("utf-8", errors="replace")
    except OSError:
        return ""


def _note(text: str) -> dict[str, Any]:
    try:
        note = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return note if isinstance(note, dict) else {}


def _holder(text: str) -> str:
    note = _note(text)
    if not note.get("host"):
        return "another process"
    who = f"job {note['job']}" if note.get("job") else f"process {note.get('pid')}"
    return f"{who} on {note['host']}"


def _started(path: Path) -> float | None:
    """Time of the first launch; of a long list only its first line is read."""
    try:
        with files.open_plain(path / "launches.jsonl") as file:
            return _when(_note(file.readline(1 << 20).decode(errors="replace")).get("time"))
    except OSError:
        return None


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        return files.read_lines(path)
    except OSError:
        return []


def _last_rows(path: Path) -> list[dict[str, Any]]:
    try:
        return _with_steps(files.read_last_lines(path))
    except OSError:
        return []


def _with_steps(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if _whole(row.get("step")) is not None]


def _when(text: Any) -> float | None:
    """Seconds since the epoch of a `runtime.rundir.timestamp`."""
    try:
        return datetime.strptime(str(text), "%Y-%m-%dT%H:%M:%S%z").timestamp()
    except ValueError:
        return None


def _updated(run: RunFolder) -> float | None:
    """When the run last wrote, as its files say themselves; copies of them have other times."""
    last = run.last_rows[-1].get("time") if run.last_rows else None
    found = [_when(run.status.get("time")), last if isinstance(last, int | float) else None]
    said = [float(moment) for moment in found if moment is not None]
    if not said:
        for name in _FILES:
            with contextlib.suppress(OSError):
                said.append((run.path / name).stat().st_mtime)
    return max(said, default=None)


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


# ------------------------------------------------------------------------------------ many folders


def folders(root: Path, depth: int = DEPTH) -> Iterator[tuple[Path, bool]]:
    """(folder, whether it looks like a run's) below `root` and itself, sorted.

    A run may have others below it (--outdir exp, then --outdir exp/second). Other folders are told
    of where nothing below them is one either, only the uppermost, and none of a run. Links lead to
    runs, but no further.
    """
    found, _ = _walk(Path(root), depth)
    yield from found


def _walk(folder: Path, depth: int) -> tuple[list[tuple[Path, bool]], bool]:
    try:
        with os.scandir(folder) as entries:
            below = sorted(entries, key=lambda e: e.name)
    except OSError:
        return [], False
    own_run = looks_like_run(e.name for e in below)
    found: list[tuple[Path, bool]] = [(folder, True)] if own_run else []
    others: list[tuple[Path, bool]] = []
    for entry in below:
        if entry.name.startswith(".") or entry.name in _OWN:
            continue
        path = folder / entry.name
        if _is_folder(entry) and not entry.is_symlink():
            own, any_run = _walk(path, depth - 1) if depth else ([], False)
            found += own
            if not any_run and not own_run:
                others.append((path, False))
        elif _is_folder(entry):
            with_files = _names(path)
            found += [(path, True)] if looks_like_run(with_files) else []
    has_runs = any(is_run for _, is_run in found)
    return (sorted(found + others) if has_runs else []), has_runs


def run_within(folder: Path) -> Path | None:
    """A folder below this one, however deep and whatever its name, that looks like a run's, if
    there is any."""
    for here, _, names in os.walk(folder):
        if Path(here) != folder and looks_like_run(names):
            return Path(here)
    return None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def scan(roots: Sequence[Path]) -> Scan:
    """All runs below the folders, in order of their paths. Errors: UsageError for no folder."""
    runs: dict[Path, RunFolder] = {}
    bad: dict[Path, Unreadable] = {}
    others: dict[Path, None] = {}
    for root in roots:
        root = Path(os.path.abspath(files.expanded(root)))
        if not root.is_dir():
            raise UsageError(f"{root}: no such folder")
        found = list(folders(root))
        for path, is_run in track(found, len(found), f"reading {root.name}", "folder"):
            if not is_run:
                others[path] = None
                continue
            try:
                runs[path] = read_run(path)
            except Unreadable as error:
                bad[path] = error
        if not found:
            others |= {root / name: None for name in sorted(_names(root)) if (root / name).is_dir()}
    return Scan(list(runs.values()), list(bad.values()), list(others))


def inner_folders(others: Iterable[Path]) -> list[Path]:
    """Of folders that are no runs those in them, which a script has filled one by one; a folder
    without any is itself."""
    found: list[Path] = []
    for folder in others:
        below = [folder / name for name in sorted(_names(folder)) if not name.startswith(".")]
        found += [path for path in below if path.is_dir()] or [folder]
    return found


def find_run(word: str | Path, roots: Sequence[Path]) -> Path:
    """The folder of the run that a word means: a path, a folder's name below the roots (or
    SCRIPT/NAME), its hash, or a beginning that no other run has.

    Errors: UsageError if there is none, or several.
    """
    text = str(word)
    here = files.expanded(text)
    if text not in ("", ".", "..") and looks_like_run(_names(here)):
        return Path(os.path.abspath(here))
    text = text.rstrip("/")
    places = [
        (path, Path(os.path.abspath(files.expanded(root))))
        for root in roots
        for path, is_run in folders(Path(os.path.abspath(files.expanded(root))))
        if is_run
    ]
    said = {path: (path.name, path.relative_to(root).as_posix()) for path, root in places}
    for fits in (
        lambda name, whole: text in (name, whole),
        lambda name, whole: name.endswith(f"-{text}") and len(text) == 8,
        lambda name, whole: bool(text) and (name.startswith(text) or whole.startswith(text)),
    ):
        found = [path for path, names in said.items() if fits(*names)]
        if len(found) == 1:
            return found[0]
        if found:
            few = ", ".join(said[path][1] for path in found[:8])
            more = f" and {len(found) - 8} more" if len(found) > 8 else ""
            raise UsageError(
                f"{text} may be {few}{more}: give more of the name, the hash or a path"
            )
    where = ", ".join(map(str, roots))
    if text and os.path.isdir(here):
        raise NoSuchRun(f"{text} is a folder, but no run's (it has no args.json)")
    raise NoSuchRun(f"{text}: no run of that name in {where}; `runs.py ls` lists them")
