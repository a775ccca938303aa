"""Files that appear whole or not at all, and a lock."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from storage.errors import DataBusyError, DataDiskError


def write_bytes(file: Path, data: bytes) -> None:
    """Replace `file` atomically: a reader sees the old bytes or the new ones."""
    temporary = file.with_name(f".tmp-{os.getpid()}-{file.name}")
    try:
        with open(temporary, "wb") as out:
            out.write(data)
        os.replace(temporary, file)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def write_json(file: Path, value: object) -> None:
    """`write_bytes` of JSON, synced to disk: it usually says that something else is complete."""
    write_bytes(file, (json.dumps(value, ensure_ascii=True) + "\n").encode())
    handle = os.open(file, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> Path:
    """`folder`, created with its parents; one line if it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise DataDiskError(f"cannot create {folder}: a file of that name is there") from None
    except OSError as error:
        raise DataDiskError(f"cannot create {folder}: {error.strerror}") from None
    return folder


@contextlib.contextmanager
def locked(file: Path, *, wait: bool, what: str) -> Iterator[None]:
    """Hold an exclusive lock on `file`; the system drops it however the process dies."""
    import fcntl

    make_folder(file.parent)
    try:
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise DataDiskError(f"cannot write {file}: {error.strerror}") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            holder = os.pread(handle, 1000, 0).decode(errors="replace") or "another process"
            raise DataBusyError(f"{what} is being prepared by {holder}; wait for it") from None
        with contextlib.suppress(OSError):  # on a full disk the lock holds, only nameless
            os.truncate(handle, 0)
            os.pwrite(handle, f"process {os.getpid()} on {os.uname().nodename}".encode(), 0)
        yield
    finally:
        os.close(handle)
