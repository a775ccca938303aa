"""The one error the data package raises: a line for a person, and the exit code of a data fault."""

import errno

# What a full, read-only or forbidden disk answers; retrying elsewhere or later helps.
DISK_ERRNOS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
)


class DataError(ValueError):
    """Data that cannot be read, found or fetched. The message is one line: what, where, what to do.

    `exit_code` is what a script ends with. A DataLoader worker re-raises by calling the class with
    its whole traceback as the message; only the line that matters is kept of that.
    """

    exit_code = 6

    def __init__(self, message: str = "") -> None:
        if message.startswith("Caught ") and "DataLoader worker" in message:
            last = message.strip().splitlines()[-1]
            message = last.split("Error: ", 1)[-1]
        super().__init__(message)


class DataBusyError(DataError):
    """Another process is preparing the same data set."""

    exit_code = 4


class DataDiskError(DataError):
    """No space, or no right to write, where the data should go."""

    exit_code = 7


class DataShapeError(DataError):
    """A picture of another size than its set was said to have: never passed over as a bad one."""
