"""Taking a run's folder away: what is refused, and how it goes."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from pathlib import Path

from recipes.runs.reading import Unreadable, read_run, run_within
from storage import files
from storage.errors import DiskError, LockError


def why_not(path: Path, roots: Sequence[Path]) -> str | None:
    """Why a folder may not be removed, in a sentence; None if it may.

    A link, what lies outside the folders of results (or is one of them), what is no run, a run that
    is running, one with another run in its folder.
    """
    if path.is_symlink():
        return f"{path} is a link; remove it yourself"
    real = Path(os.path.realpath(path))
    homes = [Path(os.path.realpath(files.expanded(root))) for root in roots]
    if not any(home in real.parents for home in homes):
        return f"{path} is not in {' or '.join(map(str, homes))} (--results_path says where)"
    try:
        run = read_run(path)
    except Unreadable as error:
        return str(error)
    if run.state == "running":
        return f"{path} is in use by {run.holder}"
    if (other := run_within(path)) is not None:
        return f"{path} has another run in it, {other}: remove that one first, or move it out"
    return None


def remove_run(path: Path) -> None:
    """Remove a run's folder: first out of sight as a whole, then file by file.

    Errors: LockError if somebody has begun to use it, or another run in it; DiskError if it cannot
    be removed.
    """
    note = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "job": None})
    try:
        lock = files.Lock(path / "lock", note)
    except files.Busy:
        raise LockError(f"{path} is in use by now: not removed") from None
    except OSError as error:
        raise DiskError(f"{path} cannot be removed: {error.strerror}") from None
    try:
        if (other := run_within(path)) is not None:
            raise LockError(f"{path} has another run in it by now, {other}: not removed")
        hidden = files.temporary(path)
        files.move(path, hidden)
    except OSError as error:
        raise DiskError(f"{path} cannot be removed: {error.strerror}") from None
    finally:
        lock.release()
    files.remove(hidden)
    if hidden.exists():
        raise DiskError(f"{path} is gone from the list, but files of it stay in {hidden}")
