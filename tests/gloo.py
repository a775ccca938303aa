"""Run a function in N gloo processes and get back what each returned.

    def double(x):                       # a module-level function
        return distributed.gather(torch.tensor([x * distributed.rank()]))

    results = gloo.run(2, double, 3)     # [rank 0's, rank 1's]

Each process has one thread and has joined the group through `runtime.distributed.init` (unless
`join=False`: then only the launcher's variables are set). A child that raises, dies or is late
fails the caller, with the child's traceback.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import wait as wait_any
from typing import Any

import torch

from runtime import distributed


class ChildFailed(AssertionError):
    """A rank raised, died or was late; the message has its traceback."""


def shard(n: int) -> range:
    """This rank's contiguous share of range(n); shares differ by at most one and cover it once."""
    r, w = distributed.rank(), distributed.world_size()
    return range(n * r // w, n * (r + 1) // w)


def _child(
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    rank: int,
    world: int,
    store: str,
    join: bool,
    env: Mapping[str, str],
    pipe: Any,
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.environ.update({"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)})
    os.environ.update({"IMLE_LAB_STORE": store, "IMLE_LAB_CPU_RANKS": str(world), **env})
    torch.set_num_threads(1)
    try:
        if join:
            distributed.init(torch.device("cpu"), timeout_s=60)
        answer = ("ok", fn(*args))
    except BaseException:
        answer = ("error", traceback.format_exc())
    try:
        pipe.send(answer)
    except Exception:
        pipe.send(("error", traceback.format_exc()))
    pipe.recv()  # tensors travel through shared memory: stay until the parent has them
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def run(
    world: int,
    fn: Callable[..., Any],
    *args: Any,
    timeout: float = 60.0,
    join: bool = True,
    env: Mapping[str, str] | None = None,
) -> list[Any]:
    """[fn(*args) of rank 0, of rank 1, ...]. `env`: more variables for the children.

    `fn` must be a module-level function and `args` picklable: where autograd has threads in this
    process, which would not survive it, the others are not forked from it. So it is on a machine
    with GPUs, and was once on one without, behind some other test of the suite.
    Errors: ChildFailed.
    """
    if "<locals>" in fn.__qualname__ or "<lambda>" in fn.__qualname__:
        raise TypeError(f"{fn.__qualname__}: gloo.run needs a module-level function")
    if not torch.cuda.is_available():
        try:
            return _run("fork", world, fn, args, timeout, join, dict(env or {}))
        except ChildFailed as error:
            if "fork-based multiprocessing" not in str(error):
                raise
    return _run("forkserver", world, fn, args, timeout, join, dict(env or {}))


def _run(
    method: str,
    world: int,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    timeout: float,
    join: bool,
    env: dict[str, str],
) -> list[Any]:
    context = torch.multiprocessing.get_context(method)
    # A file, not a TCPStore: its server thread would be a lock held forever in a forked child.
    folder = tempfile.mkdtemp(prefix="gloo-")
    store = os.path.join(folder, "store")
    pipes, ranks = [], []
    sys.stdout.flush()
    sys.stderr.flush()
    for r in range(world):
        ours, theirs = context.Pipe()
        p = context.Process(target=_child, args=(fn, args, r, world, store, join, env, theirs))
        p.start()
        theirs.close()
        pipes.append(ours)
        ranks.append(p)
    answers: dict[int, Any] = {}
    deadline = time.monotonic() + timeout
    try:
        while len(answers) < world:
            open_ = {pipes[r]: r for r in range(world) if r not in answers}
            ready = wait_any(list(open_), timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                raise ChildFailed(f"ranks {sorted(open_.values())} gave no answer in {timeout:g} s")
            for pipe in ready:
                r = open_[pipe]
                try:
                    kind, value = pipe.recv()
                except (EOFError, ConnectionResetError):
                    ranks[r].join(5)
                    raise ChildFailed(f"rank {r} died (exit {ranks[r].exitcode})") from None
                if kind == "error":
                    raise ChildFailed(f"rank {r} raised:\n{value}")
                answers[r] = value
        for pipe in pipes:
            pipe.send("done")
        for p in ranks:
            p.join(10)
    finally:
        for p in ranks:
            if p.is_alive():
                p.kill()
            p.join()
        shutil.rmtree(folder, ignore_errors=True)
    return [answers[r] for r in range(world)]
