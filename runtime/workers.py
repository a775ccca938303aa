"""Worker processes that read: one way to wait for them, with a limit, and what their end means.

Whoever reads through a torch DataLoader writes `for batch in read(loader)`. Without it a worker
that cannot hand over a batch (no shared memory, no file descriptors, no place for its socket)
prints a traceback and the reader waits for ever; so it does where a worker is stopped, or hangs in
a read.
"""

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
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing.queues import Queue
from typing import Any

import torch
from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader
from torch.utils.data._utils import signal_handling

from runtime.preemption import shield_worker
from storage.console import tell
from storage.errors import OutOfMemory, WaitError, first_line, one_line
from storage.waiting import STATES, WAIT, state_of, wait_limit

NOTICE_S = 60  # seconds of waiting after which a line says so
SHARED = "/dev/shm"
_SIGNS = "DataLoader worker|data worker|shared memory|items of ancdata|open files"


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
                    batch = next(batches, watch)
            except BaseException:
                _end_at_once(batches)
                raise
            if batch is watch:
                return
            yield batch
            del batch  # or its memory would be held while the next one is waited for


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
    def asking(self) -> Iterator[None]:
        """Around whatever waits for the workers; what it fails with is told in our words."""
        self._waited, self._waiting = 0.0, True
        try:
            yield
        except (RuntimeError, OSError, EOFError) as error:
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
    size = _amount(_bytes_of(sent))
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
        f"shared memory is too small for the data workers: {_amount(free)} of {_amount(whole)} are "
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


def _amount(size: int) -> str:
    return f"{size / 2**20:.1f} MiB" if size >= 1 << 20 else f"{size / 1024:.0f} KiB"
