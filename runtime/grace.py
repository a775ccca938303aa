"""The time that a signal leaves: a process that is still there when it is over is ended.

A signal's handler runs between two lines of Python. A process that waits inside a library (for
another rank, for a picture from a stalled disk, for a driver) comes to no next line, so the flag of
`runtime.preemption` is never looked at and SIGTERM would be without effect until SIGKILL. Here a
thread is told of signals by the system itself.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from storage.errors import Preempted
from storage.forks import in_children
from storage.waiting import seconds_in

GRACE = "IMLE_LAB_GRACE_S"
GRACE_S = 20.0  # SLURM and Kubernetes send SIGKILL 30 s after SIGTERM
AFTER_SECOND_S = 5.0  # after a second Ctrl-C
ENDING = frozenset({signal.SIGTERM, signal.SIGHUP})
_APART_S = 1.0  # two Ctrl-C are two if they are this far apart
_STOP = b"\0"
ROOT = Path(__file__).resolve().parents[1]


def grace_limit() -> float:
    """Seconds from SIGTERM to the end of a process that is stuck: IMLE_LAB_GRACE_S, else 20.

    Errors: UsageError for a value that is no positive number.
    """
    return seconds_in(GRACE, GRACE_S)


class Grace:
    """Ends this process `grace_limit()` seconds after SIGTERM or SIGHUP, 5 s after a second Ctrl-C.

    It ends with exit code 75, its workers with it, and one line that says where it was. saving:
    whether a checkpoint is being written, for which the time is given once more. last_words: called
    with the signal's name before the end; writes down what is to be kept and returns what to say.
    """

    def __init__(
        self,
        saving: Callable[[], bool] = lambda: False,
        last_words: Callable[[str], str] = lambda name: f"{name}: the same command goes on",
    ) -> None:
        self.saving, self.last_words = saving, last_words
        self._limit = grace_limit()
        self._reader, self._writer = -1, -1
        self._before = -1
        self._main = threading.get_ident()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to listen. Errors: ValueError outside the main thread."""
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        try:
            self._before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        except ValueError:
            os.close(self._reader)
            os.close(self._writer)
            self._writer = -1
            raise
        in_children(self._forget)
        thread = threading.Thread(target=self._listen, name="grace", daemon=True)
        thread.start()
        self._thread = thread

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """As `start` and `stop`; does nothing outside the main thread."""
        with contextlib.suppress(ValueError):
            self.start()
        try:
            yield
        finally:
            self.stop()

    def stop(self) -> None:
        """No longer listen; safe to call twice."""
        if self._writer >= 0:
            signal.set_wakeup_fd(self._before)
            os.write(self._writer, _STOP)
            os.close(self._writer)
            self._writer = -1
            if self._thread is not None:
                self._thread.join(1.0)  # it knows the run, which nothing is to keep
                self._thread = None

    def _forget(self) -> None:
        # In a forked child: what is sent to it is not for the parent.
        if self._writer >= 0:
            signal.set_wakeup_fd(-1)
            os.close(self._writer)
            self._writer = -1

    def _listen(self) -> None:
        deadline: float | None = None
        first: float | None = None  # Ctrl-C
        name = ""
        extended = False
        while True:
            now = time.monotonic()
            wait = None if deadline is None else max(0.0, deadline - now)
            if select.select([self._reader], [], [], wait)[0]:
                for number in os.read(self._reader, 4096):
                    now = time.monotonic()
                    if number == _STOP[0]:
                        os.close(self._reader)
                        return
                    if number in ENDING and name in ("", "SIGINT"):
                        name = signal.Signals(number).name
                        deadline = min(deadline or now + self._limit, now + self._limit)
                    if number != signal.SIGINT or deadline is not None:
                        continue
                    if first is None:
                        first = now
                    elif now - first >= _APART_S:
                        name, deadline = "SIGINT", now + AFTER_SECOND_S
            elif self.saving() and not extended:
                extended, deadline = True, time.monotonic() + self._limit
            else:
                self._end(name)

    def _end(self, name: str) -> None:
        place = where(self._main)
        said = [f"{name}: the same command goes on from the last save"]

        def keep() -> None:
            with contextlib.suppress(Exception):  # a run that is not open yet, a disk that fails
                said[0] = self.last_words(name)

        def tell() -> None:
            with contextlib.suppress(OSError, ValueError):
                print(f"{said[0]} (stuck in {place}, and ended there)", file=sys.stderr, flush=True)
                sys.stdout.flush()

        # Disks and terminals may be what is stuck.
        for work, seconds in ((keep, 3.0), (tell, 1.0)):
            thread = threading.Thread(target=work, daemon=True)
            thread.start()
            thread.join(seconds)
        for child in multiprocessing.active_children():
            child.kill()
        os._exit(Preempted.exit_code)


def where(thread: int) -> str:
    """The innermost line of ours that a thread is in, as `imle/reading.py:52 (read_items)`."""
    frame = sys._current_frames().get(thread)
    inner = frame
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if file.is_relative_to(ROOT) and "site-packages" not in file.parts:
            return f"{file.relative_to(ROOT)}:{frame.f_lineno} ({frame.f_code.co_name})"
        frame = frame.f_back
    if inner is None:
        return "no Python at all"
    return f"{Path(inner.f_code.co_filename).name}:{inner.f_lineno} ({inner.f_code.co_name})"
