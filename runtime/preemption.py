"""Signals that ask a run to stop: SIGTERM, SIGUSR1, Ctrl-C and SIGHUP, that of a terminal which was
closed, become a flag that `Run` reads.

The handler does nothing but set the flag, so it cannot corrupt what it interrupts, a save least of
all.  The step is finished, the state saved, and the process exits 75.
"""

import atexit
import contextlib
import multiprocessing
import multiprocessing.util
import os
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from runtime.grace import Grace
from storage.ending import Ends

NO_PROGRESS = 3  # launches preempted at one and the same step: another would be too
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)


class PreemptionFlag:
    """Set by the first of SIGTERM, SIGUSR1, SIGINT or SIGHUP after `install`.

    More of them change nothing (schedulers and torchrun send several).  A second
    Ctrl-C, at least a second after the first and not during a save, raises KeyboardInterrupt, for
    the impatient.  Forked children inherit the handler, which knows that it is not theirs.
    A process that does not get to look at the flag is ended (`runtime.grace`, also for last_words).
    """

    def __init__(self, last_words: Callable[[str], str] | None = None) -> None:
        self.signal: str | None = None
        words = {} if last_words is None else {"last_words": last_words}
        self._grace = Grace(saving=lambda: self.saving, **words)
        self.saving = False
        self._first_time = 0.0
        self._pid = 0
        self._previous: dict[signal.Signals, Any] = {}
        self._expect: Callable[[int | None], None] = lambda code: None

    @property
    def is_set(self) -> bool:
        return self.signal is not None

    def install(self) -> None:
        """Take over the signals; outside the main thread python forbids it and nothing is done."""
        self._pid = os.getpid()
        atexit.unregister(_end_workers)
        atexit.register(_end_workers)  # registered last, so it runs before multiprocessing's
        multiprocessing.util.Finalize(None, _end_workers, exitpriority=100)
        try:
            for signum in heeded():
                self._previous[signum] = signal.signal(signum, self._handle)
                before = getattr(self._previous[signum], "__self__", None)
                if isinstance(before, Ends):
                    self._expect = before.expect
            self._expect(None)  # of a run before this one in the same process
            self._grace.start()
        except ValueError:
            self._previous.clear()

    def restore(self, code: int | None = None) -> None:
        """Give the signals back to whoever had them. code: what the process is to end with, if that
        is known; a signal that comes now changes it no more."""
        if os.getpid() != self._pid:
            return
        self._expect(code)
        self._grace.stop()
        for signum, handler in self._previous.items():
            signal.signal(signum, handler if handler is not None else signal.SIG_DFL)
        self._previous.clear()

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            return
        if self.signal is None:
            self.signal = signal.Signals(signum).name
            self._first_time = time.monotonic()
        elif signum == signal.SIGINT and not self.saving:
            if time.monotonic() - self._first_time >= 1.0:
                raise KeyboardInterrupt


def heeded() -> list[signal.Signals]:
    """The signals that ask this process to stop: not SIGHUP under nohup, which ignores it."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [s for s in SIGNALS if s != signal.SIGHUP or not ignored]


def last_words(step: int, saved: bool, earlier: bool, requeue: bool) -> str:
    """What a preempted run says: what is kept, and whether to run it again.

    step: steps that are done; saved: they are; earlier: something else is.
    """
    at = f"state of step {step} is saved" if saved else "going back to the last save"
    if not saved and not earlier:
        at = "nothing was saved yet"
    if requeue:
        return f"{at}; run the same command to go on"
    return f"{at}; no progress in {NO_PROGRESS} launches: not worth running again as it is"


def shield_worker() -> None:
    """Make a data worker deaf to the signals of its group.

    A scheduler signals every process of the job.  A worker that died of it would turn a preemption
    into "worker killed" in the parent; workers end when their parent closes them or is gone.
    """
    for signum in SIGNALS:
        signal.signal(signum, signal.SIG_IGN)


def _end_workers() -> None:
    """Kill the workers that an error left open when the process ends.

    multiprocessing would send them SIGTERM, to which they are deaf, and wait for ever. So nothing
    may stop this: Ctrl-C does no more, and where one came just before, this is done once more from
    the end of multiprocessing itself.
    """
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # torch's handler would call their end an error
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()
