"""How a process ends when a signal comes while no run of its own heeds it."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from types import FrameType
from typing import Any

from storage.errors import Preempted


class Ends:
    """What SIGTERM, SIGUSR1 and SIGHUP do while no run has handlers of its own: they end this
    process with exit code 75 and a line, and once it is settled how it ends, with that code.

    75 holds while modules are imported, data are looked through, and wherever else no run has begun
    that could be saved (`runtime.preemption`). Temporary files that stay are those of a kill.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._code: int | None = None
        self._before: dict[int, Any] = {}

    def install(self) -> None:
        """Take over these signals, but those that are ignored (nohup) or are somebody's. Outside of
        the main thread Python forbids it, and nothing is done."""
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
            before = signal.getsignal(number)
            if before is signal.SIG_DFL or isinstance(getattr(before, "__self__", None), Ends):
                with contextlib.suppress(ValueError):
                    self._before[number] = signal.signal(number, self._end)

    def expect(self, code: int | None) -> None:
        """How the process would end now, as a run has that is over: a signal only ends it sooner,
        with this code and without a line. None: with 75 and a line again, as at first."""
        self._code = code

    def settle(self, code: int) -> None:
        """From now on the process is as good as ended, with `code`: a signal only ends it sooner,
        Ctrl-C too. In a process that is no script of ours, and goes on, signals are given back."""
        self.expect(code)
        ours = any(before is not signal.SIG_DFL for before in self._before.values())
        with contextlib.suppress(ValueError):
            if not ours:
                for number, before in self._before.items():
                    signal.signal(number, before)
            elif code == 130 or signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                signal.signal(signal.SIGINT, self._end)

    def _end(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:  # a forked child's, which is ended as ever
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        name = signal.Signals(number).name
        said = f"{name}: ended; the same command goes on from what is saved, or begins anew\n"
        if self._code is not None:
            said = ""
        for work in (sys.stdout.flush, lambda: os.write(2, said.encode())):
            with contextlib.suppress(Exception):  # closed; or interrupted in a flush of its own
                work()
        os._exit(Preempted.exit_code if self._code is None else self._code)
