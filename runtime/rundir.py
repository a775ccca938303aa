"""The run directory: its name, its lock, and the small files in it.

args.json       the flags of the first launch that came to a checkpoint
launches.jsonl  one line a launch: time, flags, command, commit, host, job
inputs.json     what the data sets and files of its options are (`runtime.inputs`)
status.json     what the run is doing or how it ended, for launchers
log.txt         what was printed
lock            held for life by the process that writes here
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import socket
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from runtime import inputs as known_inputs
from runtime import provenance
from runtime.inputs import Inputs
from runtime.options import run_options
from storage import checkpoint, files
from storage.dirs import output_folder
from storage.errors import (
    DISK_FAILURES,
    CheckpointError,
    LockError,
    RunError,
    UsageError,
    first_line,
    not_made,
)

_LEFT_BY_LAUNCHES = ("launches.jsonl", "status.json", "log.txt")  # beside the lock

# Of the options that every run has, those that shape what it computes; all others say where and how
# fast it runs.
SHAPING = ("precision", "seed")


def execution_only() -> frozenset[str]:
    """Names of the options of every run that say where and how fast it runs."""
    return frozenset(run_options()) - set(SHAPING)


def asked_folder(args: Namespace, script: str, say: Callable[[str], object]) -> Path | None:
    """The run's folder as --outdir or --run-dir says; None if neither does. Errors: UsageError."""
    if args.outdir is None:
        return None if args.run_dir is None else Path(args.run_dir)
    if args.run_dir is not None:
        raise UsageError(f"--outdir {args.outdir} and --run-dir {args.run_dir}: give one")
    return output_folder(args.outdir, script, args.results_path, say)


def plain(value: Any) -> Any:
    """JSON form of a flag's value; equal numbers become equal (1.0 -> 1, tuples -> lists)."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, (int, float)):
        return int(value) if float(value).is_integer() and abs(value) < 2**53 else value
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    return str(value)


def shaping(args: Namespace, exclude: Iterable[str]) -> dict[str, Any]:
    """Flags that shape data, model and loss; those that are None are as good as absent, and so are
    some at their default (`runtime.options.ADDED`)."""
    absent = getattr(args, "absent_at", {})
    out = execution_only() | set(exclude)
    out |= {k for k, default in absent.items() if getattr(args, k) == default}
    flags = {k: plain(v) for k, v in sorted(vars(args).items()) if k not in out}
    return {k: v for k, v in flags.items() if v is not None}


def config_hash(script: str, flags: dict[str, Any]) -> str:
    """Eight hex digits of the script and its shaping flags."""
    text = json.dumps([script, flags], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def changed(before: dict[str, Any], now: dict[str, Any], exclude: Iterable[str]) -> list[str]:
    """Names of the shaping flags that differ; not of one that has become execution-only since."""
    names = sorted((before.keys() | now.keys()) - execution_only() - set(exclude))
    return [name for name in names if before.get(name) != now.get(name)]


def refuse_changes(
    before: dict[str, Any],
    now: dict[str, Any],
    where: str | Path,
    exclude: Iterable[str],
    typed_as: Mapping[str, str] | None = None,
) -> None:
    """UsageError with a table of the shaping flags that differ, if any do.

    typed_as: flag -> its option, where that has another name.
    """
    rows = [
        ((typed_as or {}).get(name, f"--{name}"), _show(before.get(name)), _show(now.get(name)))
        for name in changed(before, now, exclude)
    ]
    if not rows:
        return
    rows.insert(0, ("option", "before", "now"))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    table = "\n".join(
        "  " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
    raise UsageError(
        f"these options differ from those that {where} was made with; leave them as they were, or "
        f"start another run (with another --outdir, and without --resume):\n{table}"
    )


def derived(args: Namespace, asked: Namespace | None, exclude: Iterable[str]) -> dict[str, Any]:
    """Flags of `args` that are not as `asked` for, since they follow from the data."""
    if asked is None:
        return {}
    values, before = shaping(args, exclude), shaping(asked, exclude)
    return {name: values[name] for name in changed(before, values, ()) if name in values}


class Asked(Protocol):
    """What a launch asks for, as far as it decides whether it may go on from an earlier one.

    derived: what follows from the data, by option. exclude: shaping flags that may change.
    typed_as: flag -> its option, where that has another name. inputs: what it reads; a path to the
    same is no change.
    """

    script: str
    flags: dict[str, Any]
    derived: dict[str, Any]
    exclude: frozenset[str]
    typed_as: dict[str, str]
    inputs: Inputs


def admit(path: Path, meta: Mapping[str, Any], run: Asked) -> None:
    """Whether a run may go on from a checkpoint, by its meta.json.

    Errors: CheckpointError for another script's, UsageError as `refuse_derived` and
    `refuse_changes`.
    """
    if meta["script"] != run.script:
        raise CheckpointError(f"{path} was written by {meta['script']}, not by {run.script}")
    refuse_derived(meta["args"], run.derived, str(path))
    free = run.exclude | known_inputs.moved(path.parent.parent, meta, run.inputs, run.flags)
    refuse_changes(meta["shaping"], run.flags, path, free, run.typed_as)


def refuse_derived(before: Mapping[str, Any], now: Mapping[str, Any], where: str) -> None:
    """UsageError if what follows from the data is not what a checkpoint's `args` have.

    Where the data are compared first, this is a data set that changed under equal names.
    """
    for name, value in now.items():
        if before.get(name, value) != value:
            raise UsageError(
                f"{where} was made with --{name} {_show(before[name])}, as followed from its data "
                f"set; from that of now follows {_show(value)}: bring the data set back to what it "
                "was, or start another run with another --outdir"
            )


def _show(value: Any) -> str:
    return "-" if value is None else json.dumps(value)


def folder_name(stem: str, digest: str) -> str:
    """`stem-digest` with everything but letters, digits and `._+-` replaced, at most 120 long."""
    stem = re.sub(r"[^A-Za-z0-9._+-]+", "_", stem).strip("._-") or "run"
    return f"{stem[:111]}-{digest}"


def siblings(folder: Path, stem: str) -> list[str]:
    """Names of other run directories with the same stem and another hash."""
    base = folder.name[: -len(folder.name.rsplit("-", 1)[-1])]
    if not folder.parent.is_dir():
        return []
    return sorted(
        path.name
        for path in folder.parent.iterdir()
        if path != folder
        and path.name.startswith(base)
        and re.fullmatch(r"[0-9a-f]{8}", path.name[len(base) :])
    )


def known_of(folder: Path) -> tuple[dict[str, Any] | None, str]:
    """What the run in `folder` was launched with: args.json or, where that is of no use, what its
    newest checkpoint knows; None if neither tells. And what is wrong with args.json, "" if nothing.
    """
    wrong = "missing"
    try:
        known = files.read_json(folder / "args.json")
        told = isinstance(known, dict) and [known.get(k, {}) for k in ("shaping", "args", "inputs")]
        if told and "shaping" in known and all(isinstance(part, dict) for part in told):
            if isinstance(known.get("script"), str):
                return known, ""
        if (folder / "args.json").exists():
            wrong = "not a run's"
    except files.Damaged as error:
        wrong = f"damaged ({first_line(error)})"
    return _of_checkpoint(folder), wrong


def _of_checkpoint(folder: Path) -> dict[str, Any] | None:
    """What the newest checkpoint of the run in `folder` that can be read knows of its launch."""
    for step in reversed(checkpoint.steps_of(folder / "checkpoints")):
        name = f"step-{step:09d}"
        with contextlib.suppress(CheckpointError, KeyError):
            meta = checkpoint.read_meta(folder / "checkpoints" / name)
            told = {key: meta[key] for key in ("script", "config_hash", "args", "shaping")}
            told["name"] = folder.name.rpartition("-")[0]
            return told | {"inputs": meta.get("inputs", {}), "restored_from": name}
    return None


class RunDir:
    """One run directory held under an exclusive lock (rank 0 only)."""

    def __init__(self, path: Path, job: str | None) -> None:
        """Create the directory if needed and lock it; LockError if somebody has it."""
        self.path = path
        self.created = not path.exists()
        self._told: dict[str, Any] | None = None  # what args.json said when the launch began
        note = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "job": job})
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = files.Lock(path / "lock", note)
        except files.Busy as busy:
            raise LockError(
                f"{path} in use by {_holder(busy.holder)}; use another --outdir"
            ) from None
        except files.CannotLock as error:
            raise RunError(f"cannot lock {path}: {error.strerror}") from error
        except (FileExistsError, NotADirectoryError):
            raise UsageError(f"run directory {path}: there is a file in the way") from None
        except OSError as error:
            where = Path(error.filename or path).name
            raise not_made(f"run directory {path}: {error.strerror} ({where})", error) from error
        for name in _LEFT_BY_LAUNCHES:
            if (path / name).is_fifo():  # which appending would wait for
                files.set_aside(path / name, "bad")

    @property
    def mine(self) -> bool:
        """Whether the lock still keeps others out: its file is there, and is the one held. True
        once it is given back."""
        return self._lock.in_place() or not self._lock.held

    def check(self) -> None:
        """LockError where the folder or its lock was removed, moved or taken by another process:
        whatever is written from here on might be written over what that one saves."""
        if not self.mine:
            raise LockError(
                f"{self.path / 'lock'} is not the file any more that this process holds: the run's "
                "folder, or the lock in it, was removed, moved or replaced while it ran; nothing "
                "more is written; the same command goes on from what is there"
            )

    def sweep(self, say: Callable[[str], object]) -> None:
        """Remove what killed launches left unfinished of the small files and the networks."""
        for path in files.sweep_dead(self.path, below=True):
            say(f"removed unfinished {path.relative_to(self.path)}")

    def release(self) -> None:
        """Give the lock back."""
        self._lock.release()

    def discard(self) -> None:
        """Give the lock back and remove the directory: a launch that made it could not begin."""
        mine = self.mine
        self.release()
        if mine:
            shutil.rmtree(self.path, ignore_errors=True)

    def read_args(self, say: Callable[[str], object]) -> dict[str, Any] | None:
        """What an earlier launch was told; None if there was none, or nothing is known of it.

        An args.json that is of no use is set aside and written anew from the newest checkpoint,
        which is said. Errors: UsageError for the file of another program.
        """
        file = self.path / "args.json"
        known, wrong = known_of(self.path)
        if not wrong or (known is None and not file.exists()):
            return known
        if known is None and not any((self.path / name).exists() for name in _LEFT_BY_LAUNCHES):
            raise UsageError(f"{file} is {wrong}; use another --outdir")
        if known is None:
            kept = files.set_aside(file, "bad").name
            say(
                f"args.json is {wrong}, and nothing was saved here: the run begins anew (kept as "
                f"{kept})"
            )
            return None
        self._restore(known, wrong, say)
        return known

    def _restore(self, known: dict[str, Any], wrong: str, say: Callable[[str], object]) -> None:
        file = self.path / "args.json"
        kept = f" (kept as {files.set_aside(file, 'bad').name})" if file.exists() else ""
        self.write_args(known)
        say(f"args.json is {wrong}: restored from checkpoint {known['restored_from']}{kept}")

    def admit(self, run: Asked, say: Callable[[str], object]) -> bool:
        """Refuse the directory of another script, or one trained with other shaping flags.

        say: told where args.json is of no use. True if it may be written: before there is any
        checkpoint, flags may be corrected. Errors: UsageError.
        """
        known = self.read_args(say)
        if known is None:
            return True
        try:
            self._refuse(known, run)
        except UsageError:
            saved = _of_checkpoint(self.path)
            if saved is None or saved["shaping"] == known["shaping"]:
                raise
            self._refuse(saved, run)
            self._restore(saved, "not what this run was made with", say)
        return not any((self.path / "checkpoints").glob("step-*"))

    def _refuse(self, known: dict[str, Any], run: Asked) -> None:
        """UsageError if a run of which this is known is not the one that is asked for."""
        if known["script"] != run.script:
            raise UsageError(f"{self.path} belongs to {known['script']}, not to {run.script}")
        if any((self.path / "checkpoints").glob("step-*")):
            free = run.exclude | known_inputs.moved(self.path, known, run.inputs, run.flags)
            refuse_changes(known["shaping"], run.flags, str(self.path), free, run.typed_as)

    def take_id(self, uid: str | None, say: Callable[[str], object]) -> str | None:
        """The W&B id that this run is asked to have, noted in wandb_id; None for any.

        One that it has already stays, since W&B has its figures under it, which is said.
        """
        file = self.path / "wandb_id"
        if uid is None:
            return None
        try:
            has = files.read_bytes(file).decode("utf-8", "replace").strip()
        except OSError:
            has = ""
        if not has:
            with contextlib.suppress(OSError):  # a full disk: the checkpoint has it too
                files.write_text(file, uid + "\n")
        elif has != uid:
            say(f"--uid {uid}: this run has its figures under the W&B id {has}, which stays")
            return has
        return uid

    def begin(
        self, record: dict[str, Any], correctable: bool, job: str | None, world_size: int
    ) -> dict[str, Any]:
        """Write down that a launch begins here; what snapshots tell of where they come from.

        record: what args.json is to say; it is written where it is `correctable` still.
        """
        origin = provenance.collect(self.path)
        if correctable:
            self.write_args(record | {"provenance": origin})
        newest = checkpoint.steps_of(self.path / "checkpoints")[-1:]
        self.add_launch(
            {"time": timestamp(), "from_step": newest[0] if newest else 0, "job": job}
            | {"world_size": world_size, "args": record["args"], "provenance": origin}
        )
        self._told = files.read_object(self.path / "args.json")
        if self.read_status().get("state") != "finished":
            self.write_status("running", step=newest[0] if newest else 0, nimg=0)
        return {k: origin[k] for k in ("command", "git", "host", "python", "slurm")}

    def write_args(self, record: dict[str, Any]) -> None:
        """Write args.json."""
        files.write_json(self.path / "args.json", record, indent=1)

    def keep_args(self, say: Callable[[str], object]) -> None:
        """Write args.json again, which is said, where it was taken away since the launch began.

        Errors: OSError.
        """
        if self._told is not None and files.read_object(self.path / "args.json") is None:
            self.write_args(self._told)
            say("args.json was gone: written again, as it was when this launch began")

    def add_launch(self, record: dict[str, Any]) -> None:
        """Append a line to launches.jsonl; a full disk is no reason to stop."""
        with contextlib.suppress(OSError):
            files.append_line(self.path / "launches.jsonl", json.dumps(record))

    def launches(self) -> list[dict[str, Any]]:
        """Lines of launches.jsonl; one cut short by a kill is left out."""
        try:
            return files.read_lines(self.path / "launches.jsonl")
        except OSError:
            return []

    def made_progress(self, newest: int, launches: int) -> bool:
        """False if that many last launches all began at step `newest`, the one saved last."""
        starts = [launch.get("from_step") for launch in self.launches()][-launches:]
        return len(starts) < launches or any(start != newest for start in starts)

    def reached(self) -> int:
        """The highest step that earlier launches tell of, saved or not; 0 without any."""
        with contextlib.suppress(OSError):
            last = (files.read_last_lines(self.path / "metrics.jsonl") or [{}])[-1]
            steps = [last.get("step"), self.read_status().get("step")]
            return max([step for step in steps if isinstance(step, int)], default=0)
        return 0

    def read_status(self) -> dict[str, Any]:
        """Content of status.json; empty if missing or unreadable."""
        return files.read_object(self.path / "status.json") or {}

    def write_status(
        self,
        state: str,
        *,
        step: int,
        nimg: int,
        exit_code: int | None = None,
        message: str = "",
        wants_requeue: bool = False,
    ) -> None:
        """Replace status.json; a full disk is no reason to stop, so errors are swallowed.

        How a run ended is flushed to the disk; where it stands is soon written again.
        """
        record = {
            "state": state,
            "step": step,
            "nimg": nimg,
            "exit_code": exit_code,
            "message": message,
            "wants_requeue": wants_requeue,
            "time": timestamp(),
        }
        with contextlib.suppress(OSError):
            durable = state != "running"
            if self.mine:
                files.write_json(self.path / "status.json", record, indent=1, durable=durable)

    def log(self, text: str) -> None:
        """Append a line to log.txt."""
        with contextlib.suppress(OSError):
            if self.mine:
                files.append_line(self.path / "log.txt", f"{timestamp()} {text}")


def exit_code_of(error: BaseException) -> int:
    """What a script ends with because of an error: its `exit_code`, that of SystemExit, 7 for a
    disk that is full or fails, 2 for a name that no disk takes, else 1."""
    code = error.code if isinstance(error, SystemExit) else getattr(error, "exit_code", None)
    if isinstance(error, SystemExit) and code is None:
        return 0
    if isinstance(code, int) and not isinstance(code, bool):
        return code
    number = error.errno if isinstance(error, OSError) else None
    return 7 if number in DISK_FAILURES else 2 if number == errno.ENAMETOOLONG else 1


def timestamp() -> str:
    """Local time with zone, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def _holder(text: str) -> str:
    try:
        who = json.loads(text)
        job = f"job {who['job']}" if who["job"] else f"process {who['pid']}"
        return f"{job} on {who['host']}"
    except (ValueError, KeyError, TypeError, RecursionError):
        return "another process"
