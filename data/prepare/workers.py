"""Many pictures over several processes, with a bar for who watches."""

from __future__ import annotations

import multiprocessing.connection
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from storage.errors import DataError

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
    try:
        with ProcessPoolExecutor(workers, initializer=_end_with_parent) as pool:
            for start in range(0, len(tasks), window):
                chunk = max(1, min(16, window // workers))
                yield from pool.map(function, tasks[start : start + window], chunksize=chunk)
    except BrokenProcessPool:
        raise DataError(
            "a worker process was killed (out of memory?); run again with fewer --num_workers"
        ) from None


def _end_with_parent() -> None:
    """In a worker: end when the parent is gone, else it waits for ever and keeps its lock."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    sentinel = parent.sentinel

    def watch() -> None:
        multiprocessing.connection.wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def bar(items: Iterable | None, total: int, what: str):  # -> tqdm
    """A progress bar, silent where nobody looks; without items, one to `update` by hand."""
    from tqdm import tqdm

    return tqdm(items, total=total, desc=what, unit="img", disable=None, mininterval=0.5)
