"""Start a script's `main`, once or once per rank, and turn what goes wrong into exit codes.

Three ways to start, one code path after that:
- `python script.py`: one process; or, when `--gpus` names several GPUs (or the machine has
  several), one spawned process per GPU. IMLE_LAB_CPU_RANKS=N spawns N CPU processes instead
  (gloo), to try multi-process training on a laptop.
- `torchrun ... script.py` and `srun python script.py`, one task per GPU: the processes are there
  already (`runtime.place`).
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import math
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait as wait_any
from typing import Any

import torch

from runtime.distributed import lost_rank, shutdown
from runtime.grace import ENDING, Grace, grace_limit
from runtime.place import CPU_RANKS, STORE, check_gpus, place, shell_of_several, words
from runtime.preemption import heeded
from storage.console import tell
from storage.ending import Ends
from storage.errors import DISK_FAILURES, UsageError, first_line, shortened
from storage.user_code import blame
from storage.waiting import state_of

Main = Callable[[argparse.Namespace], object]

TORCHRUN = "TORCHELASTIC_RUN_ID"  # set in the ranks that torchrun starts
_TRACEBACK = "IMLE_LAB_TRACEBACK"
_PROTOCOL = (2, 3, 4, 5, 6, 7, 8, 9, 75)  # exit codes that mean something (storage.errors)
_LOOK_S = 1.0  # between two looks at whether a signal came
_SPARE_S = 4.0  # that ranks have over the grace time, before SIGKILL


def launch(
    main: Main, args: argparse.Namespace, *, start_method: str = "spawn", grace_s: float = 20.0
) -> None:
    """Run `main(args)` here, or one copy per rank, and turn failures into exit codes.

    Returns only after success. An exception with an `exit_code` attribute becomes one line on
    stderr and that code; out of memory 8, a disk that is full or fails 7; any other keeps its
    traceback, behind a line that names a user's own file where it is of one, and gives 1
    (IMLE_LAB_TRACEBACK=1 shows all tracebacks). With spawned ranks the code is the first meaningful
    one among theirs; signals that ask for an end are passed on to them; when one dies the others
    get `grace_s` seconds to notice, then SIGTERM, then SIGKILL. `main` must be importable (a
    top-level function, the script guarded by `if __name__ == "__main__"`).
    """
    ends = Ends()
    ends.install()  # from here to the end, but for the time that a run has its own handlers
    try:
        count = _ranks_to_spawn(getattr(args, "gpus", None))
        grace = Grace()
    except UsageError as error:
        sys.exit(_report(error, ""))
    if tasks := shell_of_several():
        tell(
            f"SLURM has {tasks} tasks here, but this was started in a shell: running alone (srun "
            "python ... starts one process a task)"
        )
    if TORCHRUN in os.environ:  # else ranks train on, and hold the lock, when it is killed
        _die_with_parent(signal.SIGTERM)
    if count == 1:
        with grace.listening():  # before a run, which has one of its own, and after it
            code = call_main(main, args, ends)
    else:
        code = _spawn(main, args, count, start_method, grace_s)
    ends.settle(code)
    if code != 0:
        sys.exit(code)


def _ranks_to_spawn(gpus: Sequence[int] | None) -> int:
    if place().source != "one":
        return 1
    cpu_ranks = os.environ.get(CPU_RANKS, "")
    if cpu_ranks:
        if gpus:
            raise UsageError(f"--gpus {words(gpus)} and {CPU_RANKS} exclude each other")
        if not re.fullmatch(r"[0-9]{1,9}", cpu_ranks) or not 1 <= int(cpu_ranks) <= 1024:
            raise UsageError(f"{CPU_RANKS}={cpu_ranks!r} is not a number of processes (1 to 1024)")
        return int(cpu_ranks)
    if gpus is not None and not len(gpus):
        return 1
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    check_gpus(gpus, count)
    return max(1, count if gpus is None else len(gpus))


def call_main(main: Main, args: argparse.Namespace, ends: Ends | None = None) -> int:
    """main(args) -> exit code; says what went wrong. ends: told when nothing is left to be done."""
    here = place()
    who = f"rank {here.rank}: " if here.world > 1 else ""
    try:
        main(args)
        if ends is not None:
            ends.expect(0)
        shutdown()
        return 0
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0
        tell(f"error: {who}{stop.code}", sys.stderr)
        return 1
    except KeyboardInterrupt:
        with contextlib.suppress(ValueError):  # another would stop the line, and what comes then
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        tell(f"error: {who}interrupted", sys.stderr)
        return 128 + signal.SIGINT
    except Exception as error:
        return _report(error, who)


def _report(error: BaseException, who: str) -> int:
    code = getattr(error, "exit_code", None)
    text = str(error).strip() or type(error).__name__
    if not isinstance(code, int) or isinstance(code, bool):
        code, text = _common_failure(error, text)
    if code is None and (place := blame(error)):
        tell(f"{who}the error is of your own code, {place}:", sys.stderr)
    if code is None or os.environ.get(_TRACEBACK) == "1":
        traceback.print_exception(error)
    if code is None:
        text, code = f"{type(error).__name__}: {first_line(error)}", 1
    said = "" if code == 75 else "error: "
    tell(f"{said}{who}{text}", sys.stderr)
    return code


def _common_failure(error: BaseException, text: str) -> tuple[int | None, str]:
    """Failures of the machine that raise types of their own: memory and disk."""
    first = first_line(error)
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in text:
        return 8, f"out of memory: {first}; use a smaller batch"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return 7, f"no space left: {first}"
    if isinstance(error, OSError) and error.errno in DISK_FAILURES:
        return 7, f"the disk does not take it, or does not give it: {first}; run the same again"
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return 2, f"{shortened(str(error.filename), 80)}: a name in this path is too long"
    lost = lost_rank(error)
    return (None, text) if lost is None else (lost.exit_code, str(lost))


def _rank_entry(main: Main, args: argparse.Namespace, rank_: int, world: int, store: str) -> None:
    """What a spawned rank runs."""
    _die_with_parent()
    # A group of its own: Ctrl-C in a terminal then reaches the launcher only, which passes it on
    # once. Otherwise ranks would see it twice, and a second Ctrl-C asks for more than the first.
    os.setpgid(0, 0)
    os.environ.update(
        {
            "RANK": str(rank_),
            "LOCAL_RANK": str(rank_),
            "WORLD_SIZE": str(world),
            "LOCAL_WORLD_SIZE": str(world),
            STORE: store,
        }
    )
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // world))
    sys.exit(call_main(main, args))


def _die_with_parent(number: signal.Signals = signal.SIGKILL) -> None:
    if sys.platform != "linux":
        return
    import ctypes

    # PR_SET_PDEATHSIG: ranks never outlive a launcher that was killed with -9.
    ctypes.CDLL(None).prctl(1, number)


def _spawn(
    main: Main, args: argparse.Namespace, world: int, start_method: str, grace_s: float
) -> int:
    context: Any = torch.multiprocessing.get_context(start_method)
    folder = tempfile.mkdtemp(prefix="imle-lab-")
    store = os.path.join(folder, "store")
    ranks = [
        context.Process(target=_rank_entry, args=(main, args, r, world, store), name=f"rank {r}")
        for r in range(world)
    ]
    forwarded: list[int] = []
    gone: set[int] = set()

    def send(number: int) -> None:
        for r, p in enumerate(ranks):
            if p.pid is not None and r not in gone:
                try:
                    os.kill(p.pid, number)
                except ProcessLookupError:
                    pass

    def forward(number: int, frame: object) -> None:
        forwarded.append(number)
        send(number)

    main_thread = threading.current_thread() is threading.main_thread()
    before = {s: signal.signal(s, forward) for s in heeded()} if main_thread else {}
    try:
        for p in ranks:
            p.start()
        codes = _watch(ranks, gone, send, grace_s, forwarded)
    except BaseException:
        send(signal.SIGKILL)
        raise
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
        shutil.rmtree(folder, ignore_errors=True)
    if all(code < 0 and -code in forwarded for _, code in codes):  # nobody came to say so
        name = signal.Signals(forwarded[0]).name
        tell(f"{name}: ended before the run began; the same command begins it", sys.stderr)
    return _overall_code(codes, forwarded)


def _watch(
    ranks: Sequence[Any],
    gone: set[int],
    send: Callable[[int], None],
    grace_s: float,
    forwarded: Sequence[int],
) -> list[tuple[int, int]]:
    """Wait for all ranks. Returns (rank, exit code) in the order they ended."""
    ended: list[tuple[int, int]] = []
    term_at = kill_at = math.inf
    asked = again = False
    while len(gone) < len(ranks):
        sentinels: dict[Any, int] = {p.sentinel: r for r, p in enumerate(ranks) if r not in gone}
        timeout = min(term_at, kill_at) - time.monotonic()
        ready = wait_any(list(sentinels), timeout=max(0.0, min(timeout, _LOOK_S)))
        for sentinel in ready:
            r = sentinels[sentinel]
            gone.add(r)
            ranks[r].join()
            code = ranks[r].exitcode
            ended.append((r, code))
            if code < 0 and not (forwarded and -code in forwarded):
                name = signal.Signals(-code).name
                hint = " (out of host memory?)" if -code == signal.SIGKILL else ""
                if term_at == math.inf:
                    tell(f"error: rank {r} died ({name}){hint}", sys.stderr)
            if code != 0 and kill_at == math.inf:
                # 75 is an orderly end: another rank may still be writing the checkpoint.
                term_at = min(term_at, time.monotonic() + (600.0 if code == 75 else grace_s))
        now = time.monotonic()
        if not asked and not ENDING.isdisjoint(forwarded):
            # They end themselves by then, but for one that is stopped or still saves.
            asked = again = True
            kill_at = min(kill_at, now + grace_limit() + _SPARE_S)
        if now >= kill_at and again and not _any_stopped(ranks, gone):
            again, kill_at = False, kill_at + grace_limit()  # as long as a save is given
        elif now >= kill_at:
            send(signal.SIGKILL)
            kill_at = math.inf
        elif now >= term_at and kill_at == math.inf and len(gone) < len(ranks):
            send(signal.SIGTERM)
            kill_at, term_at = now + min(10.0, grace_s), now + 1e9
    return ended


def _any_stopped(ranks: Sequence[Any], gone: set[int]) -> bool:
    """Whether a rank that has not ended is stopped, so that it will not end itself."""
    pids = (p.pid for r, p in enumerate(ranks) if r not in gone)
    return any(pid is not None and state_of(pid) in ("T", "t") for pid in pids)


def _overall_code(ended: Sequence[tuple[int, int]], forwarded: Sequence[int]) -> int:
    """First meaningful code in order of ending, else the first failure, else 0."""
    codes = [75 if c < 0 and -c in forwarded and -c != signal.SIGINT else c for _, c in ended]
    failed = [c for c in codes if c != 0]
    if not failed:
        return 0
    meaningful = [c for c in failed if c in _PROTOCOL and c != 9]  # 9: another one's failure
    meaningful = meaningful or [c for c in failed if c == 9]
    first = meaningful[0] if meaningful else failed[0]
    return 128 - first if first < 0 else first
