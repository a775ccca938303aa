"""Worker processes that read: one way to wait for them, with a limit, and what their end means.

Whoever reads through a torch DataLoader writes `for batch in read(loader)`. Without it a worker
that cannot hand over a batch (no shared memory, no file descriptors, no place for its socket)
prints a traceback and the reader waits for ever; so it does where a worker is stopped, or hangs in
a read.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.queues import Queue
from typing import Any

import torch
from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader
from torch.utils.data._utils import signal_handling

from runtime.preemption import shield_worker
from storage.errors import first_line
from storage.waiting import wait_limit
from storage.watch import Watch, amount, end_with_parent


def read(loader: DataLoader) -> Iterator[Any]:
    """The batches of a DataLoader; what ends its workers ends this in a line.

    Errors: OutOfMemory where shared memory is too small or a worker was killed; WaitError where
    none comes within `wait_limit()`, or a worker dies of something else. Time in which this process
    itself was stopped does not count.
    """
    if not loader.num_workers:
        yield from loader
        return
    if getattr(loader.worker_init_fn, "func", None) is not _begin:
        loader.worker_init_fn = partial(_begin, loader.worker_init_fn)
    with Watch(wait_limit(), loader.num_workers) as watch:
        with watch.asking():
            batches = iter(loader)
        watch.pids = [w.pid for w in getattr(batches, "_workers", ())]
        while True:
            try:
                with watch.asking():
                    batch = _next(batches, watch)
            except BaseException:
                _end_at_once(batches)
                raise
            if batch is watch:
                return
            yield batch
            del batch  # or its memory would be held while the next one is waited for


def _next(batches: Any, end: object) -> Any:
    """The next batch, or `end`. Errors: as torch's; RuntimeError, in its words, also where a worker
    ends while a batch of its is being taken over, of which torch sees but a broken connection."""
    try:
        return next(batches, end)
    except (EOFError, ConnectionError) as error:
        for worker in getattr(batches, "_workers", ()):
            worker.join(0.5)
            if worker.exitcode:
                how = f"with exit code {worker.exitcode}"
                if worker.exitcode < 0:
                    how = f"killed by signal: {signal.strsignal(-worker.exitcode)}"
                raise RuntimeError(f"DataLoader worker (pid {worker.pid}) {how}.") from error
        raise


def _end_at_once(batches: Any) -> None:
    """Kill the workers of a DataLoader's iterator, in which one may be stuck.

    torch would wait ten seconds for each; and call it an error that they were killed, were they
    still on its list.
    """
    if getattr(batches, "_worker_pids_set", False):
        signal_handling._remove_worker_pids(id(batches))
        batches._worker_pids_set = False
    for worker in getattr(batches, "_workers", ()):
        worker.kill()
        worker.join(1.0)


# ------------------------------------------------------------------------------- in the workers


class _Handover(RuntimeError):
    """A batch that a worker read and could not send."""


def _begin(inner: Callable[[int], None] | None, worker_id: int) -> None:
    """What a worker does first: a batch that cannot be sent is an error, not silence."""
    # multiprocessing's own hook prints a traceback and forgets the batch
    Queue._on_queue_feeder_error = _send_the_error  # type: ignore[attr-defined]
    end_with_parent()
    shield_worker()
    if inner is not None:
        inner(worker_id)


def _send_the_error(queue: Any, error: BaseException, sent: Any) -> None:
    size = amount(_bytes_of(sent))
    found = _Handover(f"cannot hand over a batch of {size}: {first_line(error)}")
    try:
        if isinstance(sent[1], ExceptionWrapper):  # not even this
            raise TypeError
        queue.put((sent[0], ExceptionWrapper((_Handover, found, None), "in a data worker")))
    except (TypeError, IndexError):
        os._exit(1)  # which the reader is told of


def _bytes_of(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        value = list(value.values())
    return sum(map(_bytes_of, value)) if isinstance(value, (list, tuple)) else 0
