"""Lines on a terminal, in a pipe or in a file: what cannot be written is never a reason to stop.

A letter that the encoding lacks is escaped, `\\xe9`; a pipe that nobody reads any more, or a full
disk behind a redirection, loses the line.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
from typing import TextIO

_WAIT_S = 1.0  # for a pipe that is full and does not block


def tell(text: str, stream: TextIO | None = None) -> None:
    """Print a line to `stream` (default: stdout) at once; see above for what cannot be written."""
    stream = sys.stdout if stream is None else stream
    if stream is None:  # a process without a terminal may have none
        return
    try:
        print(text, file=stream, flush=True)
    except UnicodeEncodeError:
        with contextlib.suppress(OSError, ValueError):
            print(escaped(text, getattr(stream, "encoding", None)), file=stream, flush=True)
    except (OSError, ValueError):  # a broken pipe, a full disk; a stream that was closed
        pass


def escaped(text: str, encoding: str | None = None) -> str:
    """The text with what `encoding` (default: UTF-8) lacks as `\\xe9`, `\\u20ac` or `\\udce9`, the
    last for a byte of a file's name that is not UTF-8."""
    code = encoding or "utf-8"
    return text.encode(code, "backslashreplace").decode(code, "replace")


class Unfailing(io.FileIO):
    """An open file descriptor to write to, which loses what the system refuses; it stays open.

    `lost`: the first refusal, None so far.
    """

    lost: OSError | None = None

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)

    def write(self, data: bytes | memoryview, /) -> int:  # type: ignore[override]
        try:
            done = super().write(data)
            if done is None:  # a pipe that does not block, and is full
                select.select([], [self], [], _WAIT_S)
                done = super().write(data)
        except OSError as error:
            self.lost = self.lost or error
            done = None
        return len(data) if done is None else done


def settle_streams() -> None:
    """Let stdout and stderr of this process escape and lose as `tell` does, whoever prints.

    One that was closed is /dev/null from now on, lest a file that is opened later gets its number.
    Streams that somebody has replaced stay as they are.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
    for number, name in ((1, "stdout"), (2, "stderr")):
        before = getattr(sys, name)
        known = isinstance(before, io.TextIOWrapper) and before is getattr(sys, f"__{name}__")
        if before is not None and not known:
            continue
        if before is not None:
            with contextlib.suppress(OSError, ValueError):
                before.flush()
        raw: io.RawIOBase = Unfailing(number)
        new = io.TextIOWrapper(
            io.BufferedWriter(raw),
            encoding=getattr(before, "encoding", "utf-8"),
            errors="backslashreplace",
            line_buffering=getattr(before, "line_buffering", False),
            write_through=getattr(before, "write_through", False),
        )
        setattr(sys, name, new)


def refused(stream: TextIO) -> OSError | None:
    """Why something that was printed to `stream` is lost; None if nothing is, as far as known."""
    with contextlib.suppress(OSError, ValueError):
        stream.flush()
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return raw.lost if isinstance(raw, Unfailing) else None
