"""`--profile N`: what N steps of a run spend their time and memory on, in RUN/profile/.

steps-FIRST-LAST.json.gz      what ran when, for https://ui.perfetto.dev or chrome://tracing
steps-FIRST-LAST.txt          the operators that cost most
steps-FIRST-LAST.memory.pickle  on GPUs: who held which memory, for https://pytorch.org/memory_viz

Steps are numbered as in the log, from 1. The run computes what it would without it.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from storage import files
from storage.errors import first_line

WARM_UP = 3  # steps of a launch that are not profiled, as far as there are others
_ROWS = 25  # of the table
_NAME = 60  # letters of an operator's name
_EVENTS = 100_000  # newest allocations and releases of the memory snapshot


class StepProfile:
    """Records `count` steps: `begin(completed, end)`, then around each step `turn()` and `end()`.

    folder: the run's. say: told where the files lie, or why there are none; a failure here ends
    nothing. Of several ranks the main one records.
    """

    def __init__(
        self, folder: Path, count: int, device: torch.device, say: Callable[[str], object]
    ) -> None:
        self.folder, self.count, self.say = folder / "profile", count, say
        self._cuda = device.type == "cuda"
        self._profiler: Any = None
        self._first = -1
        self._turns = 0  # that have ended since the profiler began, warm-up of its own included

    def begin(self, completed: int, end: int) -> None:
        """The loop begins; it is to reach step `end`."""
        count = min(self.count, end - completed)
        warm_up = min(WARM_UP, end - completed - count)
        self._first = completed + warm_up
        self._own_warm_up = min(1, warm_up)  # tracing of GPUs costs time when it begins
        self.count = count

    def turn(self, step: int) -> None:
        """Step `step`, counted from 0, begins."""
        if step == self._first - self._own_warm_up:
            self._try(self._start)
        if step == self._first and self._profiler is not None and self._cuda:
            self._try(lambda: torch.cuda.memory._record_memory_history(max_entries=_EVENTS))

    def end(self) -> None:
        """The step is over."""
        if self._profiler is None:
            return
        self._turns += 1
        if self._turns == self._own_warm_up + self.count:
            self.close()
        else:
            self._try(self._profiler.step)

    def close(self) -> None:
        """Write what there is."""
        profiler, self._profiler = self._profiler, None
        if profiler is None:
            return
        recorded = self._turns - self._own_warm_up
        try:
            self._try(lambda: self._write(profiler, recorded))
        finally:
            if self._cuda:
                torch.cuda.memory._record_memory_history(enabled=None)

    def _start(self) -> None:
        activities = [torch.profiler.ProfilerActivity.CPU]
        if self._cuda:
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        # One step more than wanted, so that it is `stop` which ends it and not `step`.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there is no warm-up, in a launch of N steps
            plan = torch.profiler.schedule(
                wait=0, warmup=self._own_warm_up, active=self.count + 1, repeat=1
            )
        self._turns = 0
        # Of its own lines on stderr, which tell of machines without a GPU, no more than errors.
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")
        profiler = torch.profiler.profile(activities=activities, schedule=plan)
        profiler.start()
        self._profiler = profiler

    def _write(self, profiler: Any, recorded: int) -> None:
        profiler.stop()
        if recorded < 1:
            self.say("--profile: no step came to its end, nothing is written")
            return
        files.make_folder(self.folder)
        stem = f"steps-{self._first + 1:09d}-{self._first + recorded:09d}"
        trace = self.folder / f"{stem}.json.gz"
        self._place(trace, lambda path: profiler.export_chrome_trace(str(path)))
        by = "self_device_time_total" if self._cuda else "self_cpu_time_total"
        table = profiler.key_averages().table(
            sort_by=by, row_limit=_ROWS, max_name_column_width=_NAME
        )
        files.write_text(self.folder / f"{stem}.txt", f"{table.strip()}\n")
        also = f", {stem}.txt"
        if self._cuda:
            memory = self.folder / f"{stem}.memory.pickle"
            self._place(memory, lambda path: torch.cuda.memory._dump_snapshot(str(path)))
            also += f", {memory.name}"
        self.say(f"profile of {recorded} steps: {trace}{also}")

    def _place(self, final: Path, write: Callable[[Path], object]) -> None:
        """Have a file by a function that takes a path, whole or not at all."""
        with files.scratch(final) as folder:
            folder.mkdir()
            write(folder / final.name)
            files.move(folder / final.name, final)

    def _try(self, do: Callable[[], object]) -> None:
        try:
            do()
        except (Exception, SystemExit) as error:  # a full disk, a driver without tracing
            self._profiler = None
            self.say(f"--profile: {first_line(error)}")
