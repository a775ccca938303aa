"""What stands in a template's `{{param}}`: from the experiment and a run's `sbatch`, checked."""

from __future__ import annotations

import os
import re
import shlex
import sys
from argparse import ArgumentTypeError
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from recipes.experiment.shell import plain
from runtime.types import tag
from storage.errors import UsageError


class Code(str):
    """Shell text that was made of quoted words already."""


# One value; several words; shell text; None: nothing gives it a value.
Param = str | int | tuple[str, ...] | Code | None

ROOT = Path(__file__).resolve().parents[2]  # the toolkit's own folder
STAGED = '"$STAGED"'  # what the template calls the copy of sbatch.stage on a node's own disk
_TIME = re.compile(r"\d+|\d+:\d\d(:\d\d)?|\d+-\d\d?(:\d\d){0,2}")
_GPU = re.compile(r"(?:gpu)?:?(?:([A-Za-z][\w.-]*):)?(\d+)")


def _count(least: int) -> Callable[[str, Any], Param]:
    def check(name: str, value: Any) -> Param:
        if isinstance(value, bool) or not re.fullmatch(r"\d{1,9}", str(value)):
            raise UsageError(f"{name} {value!r} is not a whole number")
        if int(value) < least:
            raise UsageError(f"{name} {value} is below {least}")
        return int(value)

    return check


def _name(name: str, value: Any) -> Param:
    if isinstance(value, bool) or not isinstance(value, str | int) or not plain(str(value)):
        raise UsageError(
            f"{name} {value!r} is no name: letters, digits and _@%+=:,./- are what it may have"
        )
    return str(value)


def _memory(name: str, value: Any) -> Param:
    if isinstance(value, bool) or not re.fullmatch(r"[1-9]\d*([KMGT]B?)?", str(value)):
        raise UsageError(f"{name} {value!r} is no amount of memory: 32G, or 32, which is the same")
    return str(value)


def _duration(name: str, value: Any) -> Param:
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        raise UsageError(
            f'{name} {value!r} is no time: in quotes, "90" for minutes, "12:00:00" for hours, '
            '"2-00" for days'
        )
    return value


def _gpus(name: str, value: Any) -> Param:
    found = _GPU.fullmatch(str(value))
    if found is None or isinstance(value, bool):
        raise UsageError(f"{name} {value!r} is no number of GPUs: 4, or with their kind a100:4")
    return ":".join(filter(None, found.groups()))


def _text(name: str, value: Any) -> Param:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UsageError(f"{name} {value!r} is no text")
    return str(value)


# What SLURM is asked for. Others are a template's own, any text.
SBATCH: dict[str, Callable[[str, Any], Param]] = {
    "nodes": _count(1), "cpu": _count(1), "gpu": _gpus, "mem": _memory, "time": _duration,
    "duration": _duration, "partition": _name, "account": _name, "qos": _name,
    "constraint": _name, "warning": _count(1), "stage": _text,
}  # fmt: skip
_UNSAID: dict[str, Param] = {
    **dict.fromkeys(("gpu", "mem", "time", "partition", "account", "qos", "constraint")),
    **{"nodes": 1, "cpu": 1, "warning": 120, "stage": ""},
}


def sbatch_of(run: Mapping[str, Any]) -> dict[str, Param]:
    """A run's `sbatch`, checked; `time` and `duration` are the same. Errors: UsageError."""
    given = dict(run.get("sbatch") or {})
    if "time" in given and "duration" in given:
        raise UsageError("sbatch.time and sbatch.duration are the same: give one")
    found = dict(_UNSAID)
    for key, value in given.items():
        if value is None:
            continue
        name = "time" if key == "duration" else key
        found[name] = SBATCH.get(key, _text)(f"sbatch.{key}", value)
    if found["gpu"] is not None and str(found["gpu"]).rpartition(":")[2] == "0":
        found["gpu"] = None
    return found


def params_of(experiment: Mapping[str, Any], run: Mapping[str, Any], folder: Path) -> dict:
    """{parameter: value} of a run's batch script. folder: the run's.

    experiment, run: as `recipes.experiment.template.write_run_template` takes them; a run planned
    by `recipes.experiment.plan` has its `command` too. Errors: UsageError.
    """
    asked = sbatch_of(run)
    gpus = 0 if asked["gpu"] is None else int(str(asked["gpu"]).rpartition(":")[2])
    cpus, processes = int(str(asked["cpu"])), max(1, gpus)
    told = told_of(experiment, run)
    off, dev = told["off"], bool(experiment.get("dev_mode"))
    tags = [word for tag in told["tags"] for word in _option("--tag", tag)]
    partition = asked["partition"]
    command = run.get("command") or ("train_omnigan.py", "--config", str(folder / "config.yaml"))
    return {
        **asked,
        "gpus": gpus,
        "processes": processes,
        "threads": max(1, cpus // processes),
        "name": str(experiment.get("name") or "experiment"),
        "description": told["description"],
        "output_path": str(folder),
        "folder": os.getcwd(),
        "toolkit": str(ROOT),
        "python": sys.executable,
        "command": Code(staged(command, str(asked["stage"]))),
        "exports": Code(exports(experiment, run)),
        # As the original's templates have them, for a script that takes them as options.
        "main_partition": Code("" if partition is None else f"#SBATCH -p {partition}"),
        "config": (f"--config={folder / 'config.yaml'}",),
        "no_comet": ("--no_comet",) if off else (),
        "no_wandb": ("--no_wandb",) if off else (),
        "dev_mode": ("--dev_mode",) if dev else (),
        "exp_desc": _option("--exp_desc", told["description"]),
        "note": _option("--note", told["note"]),
        "tags": tuple(tags),
    }


def _option(name: str, value: str) -> tuple[str, ...]:
    """An option and its value, nothing without one; a value that would look like one itself is
    written behind `=`."""
    if not value:
        return ()
    return (f"{name}={value}",) if value.startswith("-") else (name, value)


def staged(command: Sequence[str], stage: str) -> str:
    """Words of a command, quoted; in place of the path `stage` the copy on the node's own disk."""
    return " ".join(_staged(word, stage) for word in command)


def _staged(word: str, stage: str) -> str:
    front, equals, path = word.rpartition("=")
    if stage and path == stage:
        return (shlex.quote(front) if front else "") + equals + STAGED
    return shlex.quote(word)


def told_of(experiment: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, Any]:
    """What W&B is told of a run: note, tags (white space as `_`), description; off: nothing.

    A block `comet` is read as one of `wandb`. Errors: UsageError.
    """
    block = run.get("wandb") or run.get("comet") or {}
    note = block.get("note")
    if not isinstance(note, str | int | float | None) or isinstance(note, bool):
        raise UsageError(f"wandb.note {note!r} is no text")
    tags = block.get("tags") or []
    tags = [tags] if isinstance(tags, str) else tags
    if not isinstance(tags, list) or not all(isinstance(t, str | int | float) for t in tags):
        raise UsageError(f"wandb.tags {tags!r} is no list of texts")
    tags = [re.sub(r"\s+", "_", str(word).strip()) for word in tags]
    for word in tags:
        try:
            tag(word)
        except ArgumentTypeError as error:
            raise UsageError(f"wandb.tags: {error}") from None
    switched = any(experiment.get(key) for key in ("no_wandb", "no_comet", "dev_mode"))
    return {
        "note": "" if note is None else str(note),
        "tags": tags,
        "description": str(experiment.get("exp_desc") or ""),
        "off": switched,
    }


def exported(experiment: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, str]:
    """Variables by which W&B itself learns what it is told of a run."""
    told = told_of(experiment, run)
    if told["off"]:
        return {"WANDB_MODE": "disabled"}
    notes = "\n".join(filter(None, (told["description"], told["note"])))
    found = {"WANDB_NOTES": notes, "WANDB_TAGS": ",".join(told["tags"])}
    found["WANDB_RUN_GROUP"] = str(experiment.get("name") or "")
    return {name: value for name, value in found.items() if value}


def exports(experiment: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    """`export A=1 B='two words'`; nothing where there is nothing to export."""
    words = [f"{name}={shlex.quote(v)}" for name, v in exported(experiment, run).items()]
    return " ".join(["export", *words]) if words else ""
