"""Errors that end a run, each with the exit code that the launcher gives to the shell.

The protocol is the attribute `exit_code`: any exception of any package may carry one, and
`runtime.launch.launch` turns it into one line on stderr and that code.  Nobody has to import
this file for that.  Codes: 2 usage, 3 checkpoint, 4 lock, 5 non-finite, 6 data, 7 disk, 8 memory,
9 waited in vain, 75 preempted (the EX_TEMPFAIL of sysexits.h: run the same command again).
"""

import errno
from collections.abc import Callable, Sequence

# What a full, read-only or forbidden disk answers; retrying elsewhere or later helps.
DISK_ERRNOS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
)
# And a disk that fails, or is gone: whatever was being written, the disk is at fault.
DISK_FAILURES = (*DISK_ERRNOS, errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO)
_FORBIDDEN = (errno.EACCES, errno.EPERM)


def one_line(error: BaseException, limit: int | None = None) -> str:
    """All that an error says, in one line of at most `limit` characters; its type if nothing."""
    return " ".join(str(error).split())[:limit] or type(error).__name__


def first_line(error: BaseException, limit: int | None = None) -> str:
    """The first line of what an error says, at most `limit` characters; its type if nothing."""
    text = str(error).strip()
    return text.splitlines()[0][:limit] if text else type(error).__name__


def shortened(text: str, limit: int) -> str:
    """The beginning of a text of more than `limit` characters, and dots."""
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


class RunError(Exception):
    """A failure to be told in one line: what was wrong, which value, what to do."""

    exit_code: int = 1


class UsageError(RunError):
    """A flag, or a use of this library by a script, that cannot be right."""

    exit_code = 2


class CheckpointError(RunError):
    """No usable state: damaged, foreign, refused or of other objects than the script's."""

    exit_code = 3


class LockError(RunError):
    """Another process holds the run directory."""

    exit_code = 4


class NonFiniteError(RunError):
    """Losses or gradients were NaN or infinite several updates in a row."""

    exit_code = 5


class DiskError(RunError):
    """Saving failed several times in a row; the last good checkpoint is intact."""

    exit_code = 7


def not_made(text: str, error: OSError) -> RunError:
    """The error for a folder that a command names and that cannot be made or written to: DiskError
    where the disk is at fault (no space, no inodes, an I/O error), else UsageError."""
    failing = error.errno in DISK_FAILURES and error.errno not in _FORBIDDEN
    return (DiskError if failing else UsageError)(text)


class OutOfMemory(RunError):
    """The device or the host had no memory for the batch."""

    exit_code = 8


class WaitError(RunError):
    """Another process (a data worker, a rank) died, or did not answer in time."""

    exit_code = 9


class Preempted(RunError):
    """A signal asked the run to stop; its state is saved (or about to be)."""

    exit_code = 75


class DataError(ValueError):
    """Data that cannot be read, found or fetched. The message is one line: what, where, what to do.

    `exit_code` is what a script ends with. A DataLoader worker re-raises by calling the class with
    its whole traceback as the message; only the line that matters is kept of that. `saying`: where
    the message names sides of pictures, the same one for other sides.
    """

    exit_code = 6
    saying: Callable[[Sequence[int]], str] | None = None

    def __init__(self, message: str = "") -> None:
        if message.startswith("Caught ") and "DataLoader worker" in message:
            last = message.strip().splitlines()[-1]
            message = last.split("Error: ", 1)[-1]
        super().__init__(message)


def data_changed(before: int, now: int, detail: str = "") -> DataError:
    """What a run is refused with that was trained on `before` pictures where there are `now`."""
    more = f" ({detail})" if detail else ""
    return DataError(
        f"the data set has changed: {before} pictures before, {now} now{more}; put it back as it "
        "was, or train on the new one in another folder (--outdir DIR), or here from the "
        "beginning (--resume 0)"
    )


class DataBusyError(DataError):
    """Another process is preparing the same data set."""

    exit_code = 4


class DataDiskError(DataError):
    """No space, or no right to write, where the data should go."""

    exit_code = 7


class DataShapeError(DataError):
    """A picture of another size than its set was said to have: never passed over as a bad one."""
