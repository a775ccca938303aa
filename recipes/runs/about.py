"""What the scripts' names and options mean to a reader: method, task, data, how to go on."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recipes.runs.reading import RunFolder
from storage.find import newest_epoch, newest_snapshot

Options = Mapping[str, Any]

METHODS = {
    "TrainGeneratorWandB": "IMLE",
    "TrainSimCLR": "SimCLR",
    "TrainISICLE": "ISICLE",
    "train_edm2": "EDM2",
    "train_ddpm": "DDPM",
    "train_omnigan": "omnigan",
    "toy_example": "EDM2 toy",
}
# Where a run's results go and what resuming is, not what was trained.
PLACES = {"preset", "run_dir", "results_path", "resume", "outdir", "command", "dry_run"}


def method(run: RunFolder) -> str:
    """The published name of the method; the script's name for one that is not known here."""
    return METHODS.get(run.script, run.script)


def data(run: RunFolder) -> str:
    """What a run was trained on, as it was asked for."""
    told = run.options
    found = told.get("data_tr") or told.get("data") or told.get("dataset")
    return str(found or (f"tree {told['cls']}" if told.get("cls") else "-"))


def task(run: RunFolder) -> str:
    """In a few words what the network is to do, or how it was trained."""
    told = run.options
    if run.script == "TrainGeneratorWandB":
        return _imle_task(told)
    if run.script == "train_edm2":
        labels = "" if told.get("cond") else ", no classes"
        size = f"{told['res']} px" if told.get("res") else "the data's own size"
        return f"{size}, {_selection(told)}{labels}"
    if run.script == "train_ddpm":
        size = f"{told['res']} px" if told.get("res") else "the data's own size"
        given = told.get("layout") if told.get("layout") not in (None, "none") else None
        given = given or ("by class" if told.get("cond") else "no classes")
        return f"{size}, {_selection(told)}, {given}"
    if run.script == "train_omnigan":
        return _omnigan_task(told)
    if run.script == "toy_example":
        return f"{told.get('layers')} x {told.get('dim')}, {_selection(told)}"
    if run.script == "TrainSimCLR":
        return "probes only" if told.get("probe_only") else str(told.get("backbone") or "-")
    if run.script == "TrainISICLE":
        return f"{told.get('backbone')}, {told.get('pair')} views"
    return "-"


def _omnigan_task(told: Options) -> str:
    """The tasks of decoders, if they were said; the network's other settings are in `set`."""
    words = [word for word in told.get("set") or [] if str(word).startswith("tasks=")]
    return f"tasks {str(words[0]).removeprefix('tasks=')}" if words else "tasks a d h s t w"


def _imle_task(told: Options) -> str:
    sides = told.get("res")
    if not isinstance(sides, list) or not sides:
        return "-"
    if told.get("unconditional"):
        return f"unconditional, {sides[-1]} px"
    parts = []
    if told.get("grayscale"):
        parts.append("colorization")
    if told.get("mask_frac"):
        parts.append("inpainting")
    if sides[0] != sides[-1] and not parts:
        parts.append("super-resolution")
    size = f"{sides[0]} to {sides[-1]} px" if sides[0] != sides[-1] else f"{sides[0]} px"
    return f"{', '.join(parts) or 'one to one'}, {size}"


def _selection(told: Options) -> str:
    if not (told.get("selection") or told.get("acid") or told.get("method")):
        return "all images"
    guided = bool(told.get("guide_path"))
    name = told.get("method") or ("jest" if told.get("acid") else "random")
    name = {"jest": "AJEST" if guided else "JEST"}.get(name, name)
    when = [word for word in ("early", "late") if told.get(word)]
    return " ".join([name, *when])


def network(run: RunFolder) -> Path | None:
    """The newest snapshot, for use; None if there is none yet."""
    try:
        return newest_snapshot(run.path)
    except OSError:
        return None


def command_to_go_on(run: RunFolder) -> str | None:
    """The shell command of the last launch, which goes on where the run is; None if not known."""
    for launch in reversed([*run.launches(), {"provenance": run.provenance}]):
        origin = launch.get("provenance")
        if isinstance(origin, dict) and isinstance(origin.get("command"), str):
            words = typed(origin["command"])
            folder = origin.get("cwd")
            return f"cd {shlex.quote(folder)} && {words}" if isinstance(folder, str) else words
    return None


def typed(command: str) -> str:
    """`/long/way/to/python script.py ..` as one would type it, where it is this very Python."""
    try:
        first, *rest = shlex.split(command)
    except ValueError:
        return command
    return shlex.join(["python" if first == sys.executable else first, *rest])


def command_to_use(run: RunFolder) -> str | None:
    """How to draw from the newest snapshot, or have features of it; None without one."""
    file = network(run)
    if file is None:
        return None
    told, path = run.options, shlex.quote(str(file))
    if run.script in ("TrainSimCLR", "TrainISICLE"):
        if told.get("probe_only"):
            return None
        encoder = newest_epoch(run.path) or file
        where = shlex.quote(str(told.get("data")))
        return f"python TrainSimCLR.py --probe_only {shlex.quote(str(encoder))} --data {where}"
    words = f"python generate_images.py --net {path}"
    if run.script == "TrainGeneratorWandB" and not told.get("unconditional"):
        held = told.get("data_val")
        held = told.get("data_tr") if held in (None, "cv") else held
        words += f" --data {shlex.quote(str(held))}"
    return words
