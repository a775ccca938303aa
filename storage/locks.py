"""The lock on a file that a process holds for life: `storage.files.Lock`, in a file of its own.

The system drops it however the process dies, and a note in it says who has it. Errors: OSError, as
the system raises them, unless a function says otherwise.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from pathlib import Path

from storage.forks import in_children


class Busy(Exception):
    """Somebody else has the lock; `holder` is what they wrote into its file."""

    def __init__(self, holder: str) -> None:
        super().__init__(holder)
        self.holder = holder


class CannotLock(OSError):
    """A file system that knows no locks, or another reason of the system's."""


class Lock:
    """An exclusive lock on `path`, a file with `note` in it that says who holds it.

    The system drops it however the process dies. Errors: Busy where it is taken. Children forked
    while it is held let go of it, so that it never outlives its owner. Errors: OSError where
    the file cannot be made, CannotLock.
    """

    def __init__(self, path: Path, note: str) -> None:
        self._path = os.path.abspath(path)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(handle, 4096, 0).decode(errors="replace")
            os.close(handle)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise Busy(holder) from None
            raise CannotLock(error.errno, error.strerror) from None
        with contextlib.suppress(OSError):  # on a full disk the lock holds, only nameless
            os.ftruncate(handle, 0)
            os.pwrite(handle, note.encode(), 0)
        self._handle: int | None = handle
        in_children(self._close)

    @property
    def held(self) -> bool:
        """Whether this process has it."""
        return self._handle is not None

    def in_place(self) -> bool:
        """Whether the file under the lock's name is still the one that is held.

        One that was removed or put in its place keeps nobody else out. True where the system does
        not tell.
        """
        if self._handle is None:
            return False
        try:
            there, mine = os.stat(self._path), os.fstat(self._handle)
        except OSError as error:
            return error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)
        return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)

    def release(self) -> None:
        """Give it back; safe to call twice."""
        if self._handle is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._handle, 0)
            fcntl.flock(self._handle, fcntl.LOCK_UN)
            self._close()

    def _close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def holder_of(path: Path) -> str | None:
    """What the holder of the `Lock` on `path` wrote into it; None if nobody has it now.

    Writes nothing. Where the system does not tell, whoever is named counts as the holder. The lock
    is touched for an instant, so ask only of one that should be held: whoever takes it in that
    instant is told that it is busy.
    """
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        note = os.pread(handle, 4096, 0).decode(errors="replace")
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)  # dropped when it is closed
        except OSError as error:
            return note if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else note or None
        return None
    except OSError:
        return None
    finally:
        os.close(handle)
