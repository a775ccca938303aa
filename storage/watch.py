"""Somebody who waits for worker processes: a limit, and what their end means in a line."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import multiprocessing.connection
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence

from storage.console import tell
from storage.errors import OutOfMemory, WaitError, one_line
from storage.waiting import STATES, WAIT, state_of

NOTICE_S = 60  # seconds of waiting after which a line says so
SHARED = "/dev/shm"
_SIGNS = "DataLoader worker|data worker|shared memory|items of ancdata|open files"


class Watch:
    """A thread that sees how long somebody waits for workers, and ends them at the limit.

    limit: in seconds of its own, so that time in which this process was stopped does not count.
    workers: how many were asked for. Set `pids` when they have started. Whoever waits does so in
    `with watch.asking():`, which the end of the workers wakes.
    """

    def __init__(self, limit: float, workers: int) -> None:
        self.limit, self.workers = limit, workers
        self.pids: Sequence[int | None] = ()
        self.verdict: WaitError | None = None
        self._over = threading.Event()
        self._waiting = False
        self._waited = 0.0

    def __enter__(self) -> Watch:
        threading.Thread(target=self._look, name="watch of workers", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    @contextlib.contextmanager
    def asking(
        self, ends: tuple[type[Exception], ...] = (RuntimeError, OSError, EOFError)
    ) -> Iterator[None]:
        """Around whatever waits for the workers; what it fails with is told in our words.

        ends: errors that may come of workers that ended, rather than of what they were asked to do.
        """
        self._waited, self._waiting = 0.0, True
        try:
            yield
        except ends as error:
            told = self.verdict or explained(error, self.workers)
            if told is None:
                raise
            raise told from error
        finally:
            self._waiting = False

    def end_workers(self) -> None:
        """Kill them: whoever waits for one is woken, and nobody waits for one that is stuck."""
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                if pid is not None:
                    os.kill(pid, signal.SIGKILL)

    def _look(self) -> None:
        # Ticks are counted, not the clock: while this process is stopped none pass.
        tick = min(1.0, self.limit / 4)
        said = 0.0
        while not self._over.wait(tick):
            if not self._waiting:
                said = 0.0
                continue
            self._waited += tick
            if self._waited >= self.limit and self.pids:
                self.verdict = WaitError(
                    f"{self._what()}; {_advice(self.workers)}; {WAIT} is the limit in seconds"
                )
                self.end_workers()
                return
            if self._waited - said >= (NOTICE_S if not said else 10 * NOTICE_S):
                said = self._waited
                tell(
                    f"{self._what()}; giving up after {self.limit:g} s ({WAIT}); "
                    f"{_advice(self.workers)}",
                    sys.stderr,
                )

    def _what(self) -> str:
        line = f"no pictures from the data workers for {self._waited:.0f} s"
        states = [(pid, state_of(pid)) for pid in self.pids if pid is not None]
        odd = [f"process {pid} is {STATES[s]}" for pid, s in states if s in STATES]
        return line + (f" ({', '.join(odd[:4])})" if odd else "")


def _advice(workers: int) -> str:
    return (
        f"--num_workers 0 (now {workers}) reads without workers, so that the error shows, if there "
        "is one"
    )


def end_with_parent() -> None:
    """In a worker: end when the parent is gone, else it waits for ever and keeps its lock."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    sentinel = parent.sentinel

    def watch() -> None:
        multiprocessing.connection.wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


# ------------------------------------------------------------------------------- what it means


def explained(error: BaseException, workers: int) -> Exception | None:
    """The error to raise instead of one that workers ended with; None if it says enough itself."""
    text = f"{error} {error.__cause__ or ''}"  # torch's first words are in the cause
    if isinstance(error, OSError):
        if error.errno not in (errno.ENOSPC, errno.EMFILE, errno.EAGAIN, errno.ENOMEM):
            return None
    elif not re.search(_SIGNS, text):
        return None
    found = re.search(r"cannot hand over a batch.*", text)
    sent = found[0] if found else ""
    if "oo many open files" in text or "ancdata" in text or "Errno 24" in text:
        return WaitError(
            f"data workers need more open files than this shell allows (ulimit -n); raise it, or "
            f"lower --num_workers ({workers}), 0 needs none"
        )
    if "shared memory" in text or "Bus error" in text or "/dev/shm" in text:
        return OutOfMemory(_shared_memory(sent, workers))
    if isinstance(error, OSError) and error.errno == errno.ENOSPC and free_shared()[0] < 1 << 20:
        return OutOfMemory(_shared_memory(sent, workers))
    if sent:
        return WaitError(f"a data worker {sent}; {_advice(workers)}")
    if isinstance(error, OSError):
        return WaitError(f"data workers cannot be started ({one_line(error)}); {_advice(workers)}")
    died = re.search(r"killed by signal: ([\w ]+)|with exit code (\d+)", text)
    if died and died[1] != "Killed":
        how = died[1] or f"exit code {died[2]}"
        return WaitError(f"a data worker died ({how}); {_advice(workers)}")
    if died or "exited unexpectedly" in text:
        return OutOfMemory(
            "a data worker was killed, most likely for lack of memory on the host; lower "
            f"--num_workers ({workers}), 0 has none"
        )
    return None


def _shared_memory(sent: str, workers: int) -> str:
    free, whole = free_shared()
    size = re.search(r"a batch of ([\d.]+ [KM]iB)", sent)
    need = f", a batch has {size[1]} and {workers} workers read several ahead" if size else ""
    return (
        f"shared memory is too small for the data workers: {amount(free)} of {amount(whole)} are "
        f"free in {SHARED}{need}; use --num_workers 0 (now {workers}), or give the machine more "
        "(docker run --shm-size=8g)"
    )


def free_shared() -> tuple[int, int]:
    """Bytes free, and in all, of the system's shared memory; zeros where there is none."""
    try:
        found = os.statvfs(SHARED)
    except OSError:
        return 0, 0
    return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize


def amount(size: int) -> str:
    return f"{size / 2**20:.1f} MiB" if size >= 1 << 20 else f"{size / 1024:.0f} KiB"
