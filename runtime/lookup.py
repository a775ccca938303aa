"""Which folder a launch goes on in, before it begins one of its own.

The options name a folder, `NAME-HASH`. Before it is made new, the runs beside it are looked at: one
whose options are equal but for its length (`runtime.length`), or for where its data and networks
lie (`runtime.inputs`), is the same run and is gone on with. Names and hashes stay as they are, so
that runs of earlier versions are found by their commands. A run is also found by its W&B id.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from runtime import inputs as known_inputs
from runtime import near, rundir
from runtime.inputs import Inputs
from runtime.length import Length
from runtime.resume import Resume
from storage import dirs
from storage.checkpoint import steps_of
from storage.errors import CheckpointError, UsageError
from storage.files import expanded, read_bytes, read_object

ID_FILE = "wandb_id"


class Named(Protocol):
    """What a run is known by: its script, readable name, shaping flags, and those that may change,
    that of its length among them; what it reads."""

    script: str
    name: str
    flags: dict[str, Any]
    exclude: frozenset[str]
    config_hash: str
    length: Length
    inputs: Inputs
    uid: str | None


class Found(NamedTuple):
    """A run beside. steps: of its newest checkpoint, -1 for none. moved: options that name the same
    data or file by another path. unsure: it may be the same, for all that its record tells."""

    steps: int
    name: str
    known: dict[str, Any]
    moved: frozenset[str]
    longer: bool
    unsure: bool


def choose(run: Named, resume: Resume, results: str | None) -> tuple[Path, list[str]]:
    """The folder that a launch goes on in or begins, and lines to say of it.

    resume: what --resume and --outdir ask for. Errors: as `by_id`; UsageError for an --outdir that
    is the folder of a run of another id.
    """
    home = (Path(results) if results else dirs.results_home()) / run.script
    home = Path(os.path.abspath(expanded(home)))
    path = home / rundir.folder_name(run.name, run.config_hash)
    anew = resume.lineage == "0"
    if resume.run_dir is not None:
        path = Path(os.path.abspath(expanded(resume.run_dir)))
    if run.uid is not None and resume.run_dir is None:
        own = by_id(home, run.uid, run, must=resume.is_rewind())
        if own is not None:
            said = [] if own == path else [f"going on with {own.name}, the run of --uid {run.uid}"]
            return own, said
    elif run.uid is not None and run.uid not in (ids := ids_of(path)):
        other = by_id(home, run.uid, run, must=False)
        if ids or other:
            whose = f"is the id of {other}" if other else f"is not that of {path}: {ids[0]}"
            raise UsageError(f"--uid {run.uid} {whose}; leave out --uid or --outdir")
    return (path, []) if resume.run_dir is not None else settle(path, run, anew)


def settle(path: Path, run: Named, anew: bool) -> tuple[Path, list[str]]:
    """The folder of a run that its options name `path`, and what to say of its neighbours.

    anew: it is begun from scratch, so that it goes on with no other, unless that was begun by the
    same command and moved since.
    """
    path, said = folder(path, run, anew)
    others = rundir.siblings(path, run.name)
    lines = [f"another run of this name with other options is there: {other}" for other in others]
    return path, [*said, *lines]


def folder(path: Path, run: Named, anew: bool = False) -> tuple[Path, list[str]]:
    """The folder of the run, and lines to say if it is not `path`, or perhaps should not be.

    path: as the options name it, and the run's if it has checkpoints of the same data: then it was
    begun, perhaps by an earlier version, beside one of another length or path. Otherwise it may be
    a run of the same name whose shaping flags differ in these alone; of several the one with the
    most steps.
    """
    there = bool(steps_of(path / "checkpoints"))
    if there and not _reads_others(path, run):
        return path, []
    found = [one for one in _beside(path, run) if not there or one.moved]
    if anew:
        found = [one for one in found if not one.longer and _from_scratch(path.parent / one.name)]
    sure = [one for one in found if not one.unsure]
    if not sure or (path.exists() and not there and max(sure)[0] < 0):
        return path, [] if there else [_perhaps(path, run, one) for one in found if one.unsure]
    best = max(sure, key=lambda one: one[:2])
    said = [_told(best, run)]
    if len(sure) > 1:
        said[0] += f" (of {len(sure)} such runs the one with the most steps)"
    return path.parent / best.name, said


def _reads_others(path: Path, run: Named) -> bool:
    """Whether the run in `path` is known to read other data than this one, by the same words."""
    before = known_inputs.read(path)
    return any(
        option in before and "digest" in what and not known_inputs.alike(before[option], what)
        for option, what in run.inputs.items()
    )


def _from_scratch(other: Path) -> bool:
    """Whether the newest checkpoint of a run was made under --resume 0."""
    newest = steps_of(other / "checkpoints")[-1:]
    return any(
        (read_object(other / "checkpoints" / f"step-{step:09d}" / "meta.json") or {}).get("lineage")
        == "0"
        for step in newest
    )


def _beside(path: Path, run: Named) -> list[Found]:
    """Runs in the folder of `path` that are this one, or may be."""
    if not path.parent.is_dir() or not (run.length.option or run.inputs):
        return []
    found: list[Found] = []
    for other in sorted(path.parent.iterdir()):
        if other == path or not re.fullmatch(r".+-[0-9a-f]{8}", other.name):
            continue
        known = rundir.known_of(other)[0]
        if known is None or known["script"] != run.script:
            continue
        before = known["shaping"]
        differing = set(rundir.changed(before, run.flags, run.exclude))
        if not differing <= run.inputs.keys() or not _same_name(other, known, run):
            continue
        longer = bool(run.length.option) and (
            before.get(run.length.option) != run.flags.get(run.length.option)
        )
        if not differing and not longer:
            continue
        recorded = known_inputs.read(other, known)
        flags = before, run.flags
        same = known_inputs.same(recorded, run.inputs, flags, sure=True)
        unsure = not differing <= same
        if unsure and not differing <= known_inputs.same(recorded, run.inputs, flags, sure=False):
            continue
        steps = steps_of(other / "checkpoints")
        found.append(
            Found(
                steps[-1] if steps else -1, other.name, known, frozenset(differing), longer, unsure
            )
        )
    return found


def _same_name(other: Path, known: Mapping[str, Any], run: Named) -> bool:
    """Whether two runs bear the same readable name but for that of a data set."""
    theirs, mine = other.name.rpartition("-")[0], rundir.folder_name(run.name, "").removesuffix("-")
    if theirs == mine:
        return True
    for option in run.inputs:
        words = known["shaping"].get(option), run.flags.get(option)
        named = [_last(word) for word in words]
        if theirs.replace(named[0], "", 1) == mine.replace(named[1], "", 1):
            return True
    return False


def _last(word: Any) -> str:
    parts = [p for p in Path(str(word)).parts if p not in ("train", "val", "test", "/")]
    return rundir.folder_name(Path(parts[-1]).stem, "").removesuffix("-") if parts else ""


def _told(one: Found, run: Named) -> str:
    but, words = [], []
    if one.longer:
        made = (one.known.get("args") or one.known["shaping"]).get(run.length.option)
        but.append("for its length")
        words.append(f"--{run.length.option} {made} at first, {run.length.asked} now")
    for option in sorted(one.moved):
        but.append(f"for where {_what(run, option)} lies")
        before, now = one.known["shaping"].get(option), run.flags.get(option)
        words.append(f"{_typed(run, option)} {before} at first, {now} now")
    return f"going on with {one.name}, the same run but {' and '.join(but)}: {'; '.join(words)}"


def _perhaps(path: Path, run: Named, one: Found) -> str:
    options = " and ".join(_typed(run, option) for option in sorted(one.moved))
    return (
        f"a run of equal options but for {options} is there, and what that was is not known for "
        f"certain (another name, or pictures that an earlier version did not look at): to go on "
        f"with it, add --outdir {one.name}"
    )


def _what(run: Named, option: str) -> str:
    what = run.inputs[option]
    if "sha256" in what:
        return f"the same file ({_typed(run, option)})"
    return f"the same data set ({what.get('pictures')} pictures)"


def _typed(run: Named, option: str) -> str:
    return getattr(run, "typed_as", {}).get(option, f"--{option}")


# ---------------------------------------------------------------------------------- by its W&B id


def by_id(home: Path, uid: str, run: Named, *, must: bool) -> Path | None:
    """The folder of the run of a W&B id below `home`, the runs of a script; None if there is none.

    Of several, as versions that did not look wrote them, the one that the options name. must:
    CheckpointError with ids like it if there is none. Errors: UsageError for several.
    """
    ids = {other: ids_of(other) for other in sorted(home.iterdir())} if home.is_dir() else {}
    found = [other for other, names in ids.items() if uid in names]
    if len(found) > 1:
        named = rundir.folder_name(run.name, run.config_hash)
        found = [other for other in found if other.name == named] or found
    if len(found) > 1:
        names = ", ".join(other.name for other in found)
        raise UsageError(f"--uid {uid} is the id of several runs ({names}): add --outdir NAME")
    if found or not must:
        return found[0] if found else None
    there = sorted({name for names in ids.values() for name in names})
    raise CheckpointError(
        f"--uid {uid}: no run in {home} has this W&B id{_near(uid, there)}; without --resume, or "
        "with --resume 0, one of this id begins"
    )


def _near(uid: str, there: list[str]) -> str:
    if not there:
        return " (there are no runs with one)"
    close = near.closest(uid, there)
    return f" (did you mean {close}?)" if close else f" (ids there: {', '.join(there[:8])})"


def ids_of(path: Path) -> list[str]:
    """The W&B ids of the run in a folder: the one in its file, and one that it was given."""
    ids: list[object] = []
    try:
        ids.append(read_bytes(path / ID_FILE).decode("utf-8", "replace").strip())
    except OSError:
        pass
    if path.is_dir() and (path / "args.json").exists():
        args = (rundir.known_of(path)[0] or {}).get("args")
        ids.append(args.get("uid") if isinstance(args, dict) else None)
    return list(dict.fromkeys(name for name in ids if isinstance(name, str) and name))
