"""The run directory: its name, its lock, and the small files in it.

args.json       the flags of the first launch that came to a checkpoint
launches.jsonl  one line a launch: time, flags, command, commit, host, job
status.json     what the run is doing or how it ended, for launchers
log.txt         what was printed
lock            held for life by the process that writes here
"""

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import time
import weakref
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from storage.checkpoint import write_atomic
from storage.errors import LockError, RunError, UsageError

# Flags that say where and how fast a run runs; all others shape what it computes.
EXECUTION_ONLY = frozenset(
    {
        "preset",
        "run_dir",
        "results_path",
        "resume",
        "save_every",
        "log_every",
        "num_workers",
        "wandb",
        "gpus",
        "compile",
        "deterministic",
    }
)


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
    """Flags that shape data, model and loss; those that are None are as good as absent."""
    out = EXECUTION_ONLY | set(exclude)
    flags = {k: plain(v) for k, v in sorted(vars(args).items()) if k not in out}
    return {k: v for k, v in flags.items() if v is not None}


def config_hash(script: str, flags: dict[str, Any]) -> str:
    """Eight hex digits of the script and its shaping flags."""
    text = json.dumps([script, flags], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def refuse_changes(
    before: dict[str, Any], now: dict[str, Any], where: str, exclude: Iterable[str]
) -> None:
    """UsageError with a table of the shaping flags that differ, if any do.

    A flag that has become execution-only since is not compared.
    """
    out = EXECUTION_ONLY | set(exclude)
    names = sorted((before.keys() | now.keys()) - out)
    rows = [
        (f"--{name}", _show(before.get(name)), _show(now.get(name)))
        for name in names
        if before.get(name) != now.get(name)
    ]
    if not rows:
        return
    rows.insert(0, ("flag", "checkpoint", "now"))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    table = "\n".join(
        "  " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
    raise UsageError(
        f"these flags differ from those that {where} was made with; leave them as they were, or "
        f"start another run (without --run-dir and --resume):\n{table}"
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


class RunDir:
    """One run directory held under an exclusive lock (rank 0 only)."""

    def __init__(self, path: Path, job: str | None) -> None:
        """Create the directory if needed and lock it; LockError if somebody has it."""
        self.path = path
        self.created = not path.exists()
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._fd: int | None = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o666)
        except (FileExistsError, NotADirectoryError):
            raise UsageError(f"run directory {path}: there is a file in the way") from None
        except OSError as error:
            raise UsageError(f"run directory {path}: {error.strerror}") from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            held = os.pread(self._fd, 4096, 0)
            os.close(self._fd)
            self._fd = None
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise LockError(f"{path} in use by {_holder(held)}; use --run-dir") from None
            raise RunError(f"cannot lock {path}: {error.strerror}") from error
        text = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "job": job})
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, text.encode(), 0)
        # A forked data worker would keep the lock alive after its parent was killed.
        me = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _forget(me))

    def release(self) -> None:
        """Give the lock back."""
        if self._fd is not None:
            os.ftruncate(self._fd, 0)
            fcntl.flock(self._fd, fcntl.LOCK_UN)
            os.close(self._fd)
            self._fd = None

    def discard(self) -> None:
        """Give the lock back and remove the directory: a launch that made it could not begin."""
        self.release()
        shutil.rmtree(self.path, ignore_errors=True)

    def read_args(self) -> dict[str, Any] | None:
        """What an earlier launch wrote; None if there was none. UsageError if it is not ours."""
        file = self.path / "args.json"
        try:
            known = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (ValueError, OSError) as error:
            raise UsageError(f"{file} cannot be read: {error}; use another --run-dir") from error
        if not isinstance(known, dict) or not isinstance(known.get("shaping"), dict):
            raise UsageError(f"{file} is not a run's; use another --run-dir")
        return known

    def admit(self, script: str, flags: dict[str, Any], exclude: Iterable[str]) -> bool:
        """Refuse the directory of another script, or one trained with other shaping flags.

        True if args.json may be written: before there is any checkpoint, flags may be corrected.
        Errors: UsageError.
        """
        known = self.read_args()
        if known is None:
            return True
        if known.get("script") != script:
            raise UsageError(f"{self.path} belongs to {known.get('script')}, not to {script}")
        if not any((self.path / "checkpoints").glob("step-*")):
            return True
        refuse_changes(known["shaping"], flags, str(self.path), exclude)
        return False

    def write_args(self, record: dict[str, Any]) -> None:
        """Write args.json."""
        write_atomic(self.path / "args.json", json.dumps(record, indent=1) + "\n")

    def add_launch(self, record: dict[str, Any]) -> None:
        """Append a line to launches.jsonl."""
        with open(self.path / "launches.jsonl", "a", encoding="utf-8") as fh:
            fh.write(json.dumps(record) + "\n")

    def launches(self) -> list[dict[str, Any]]:
        """Lines of launches.jsonl; one cut short by a kill is left out."""
        found = []
        try:
            text = (self.path / "launches.jsonl").read_text(encoding="utf-8")
        except OSError:
            return found
        for line in text.splitlines():
            try:
                launch = json.loads(line)
            except ValueError:
                continue
            if isinstance(launch, dict):
                found.append(launch)
        return found

    def made_progress(self, newest: int, launches: int) -> bool:
        """False if that many last launches all began at step `newest`, the one saved last."""
        starts = [launch.get("from_step") for launch in self.launches()][-launches:]
        return len(starts) < launches or any(start != newest for start in starts)

    def read_status(self) -> dict[str, Any]:
        """Content of status.json; empty if missing or unreadable."""
        try:
            status = json.loads((self.path / "status.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return status if isinstance(status, dict) else {}

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
        """Replace status.json; a full disk is no reason to stop, so errors are swallowed."""
        record = {
            "state": state,
            "step": step,
            "nimg": nimg,
            "exit_code": exit_code,
            "message": message,
            "wants_requeue": wants_requeue,
            "time": timestamp(),
        }
        try:
            write_atomic(self.path / "status.json", json.dumps(record, indent=1) + "\n")
        except OSError:
            pass

    def log(self, text: str) -> None:
        """Append a line to log.txt."""
        try:
            with open(self.path / "log.txt", "a", encoding="utf-8") as fh:
                fh.write(f"{timestamp()} {text}\n")
        except OSError:
            pass


def timestamp() -> str:
    """Local time with zone, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def _holder(text: bytes) -> str:
    try:
        who = json.loads(text)
        job = f"job {who['job']}" if who["job"] else f"process {who['pid']}"
        return f"{job} on {who['host']}"
    except (ValueError, KeyError, TypeError):
        return "another process"


def _forget(me: "weakref.ref[RunDir]") -> None:
    run_dir = me()
    if run_dir is not None and run_dir._fd is not None:
        os.close(run_dir._fd)
        run_dir._fd = None
