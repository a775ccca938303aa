"""Many pictures over several processes."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from storage.errors import DataError
from storage.waiting import wait_limit
from storage.watch import Watch, end_with_parent

_WINDOW = 512


def say(line: str) -> None:
    """A line for the person watching."""
    print(line, file=sys.stderr, flush=True)


def parallel_map(
    function: Callable, tasks: Sequence, workers: int, window: int = _WINDOW
) -> Iterator:
    """`map` in order, over processes if workers > 1; a killed worker is an error, not a hang.

    window: tasks given out at a time, so at most that many results wait.
    """
    window = min(window, _WINDOW)
    if workers <= 1 or len(tasks) < 32:
        yield from map(function, tasks)
        return
    others = set(multiprocessing.active_children())
    watch = Watch(wait_limit(), workers)
    try:
        with watch:
            with watch.asking():
                pool = ProcessPoolExecutor(workers, initializer=end_with_parent)
            try:
                for start in range(0, len(tasks), window):
                    chunk = max(1, min(16, window // workers))
                    part = tasks[start : start + window]
                    with watch.asking():
                        results = pool.map(function, part, chunksize=chunk)
                    ours = set(multiprocessing.active_children()) - others
                    watch.pids = [process.pid for process in ours]
                    for _ in part:
                        with watch.asking((BrokenProcessPool,)):  # others are the function's
                            result = next(results)
                        yield result
            except BaseException:
                watch.end_workers()  # the pool waits for all of them, and one may be stuck
                raise
            finally:
                pool.shutdown()
    except BrokenProcessPool:
        if watch.verdict is not None:
            raise watch.verdict from None
        raise DataError(
            "a worker process was killed (out of memory?); run again with fewer --num_workers"
        ) from None
