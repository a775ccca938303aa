"""Kill a training process with SIGKILL at random moments and see what it comes back as.

torch is imported once, in a fork server; every launch is a fork of it, with one thread, on the CPU.
(Forking the test process itself would not do: where there is a GPU, autograd refuses to run in a
child of a process that has used it.)

A target is a module-level function, `target(*args)`; its last launch must write a finished run into
the directory that it was given.  See `tests/runtime/test_kill.py` for use.
"""

import contextlib
import faulthandler
import json
import math
import multiprocessing
import os
import random
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from runtime.launch import call_main
from runtime.run import Run
from storage import checkpoint

# What a launch would spend seconds on importing; _dynamo comes with the first optimizer.
PRELOAD = ["torch", "torch._dynamo", "numpy", "PIL.Image", "matplotlib.figure", "runtime.run"]
Target = Callable[..., object]


class Report(NamedTuple):
    """kills: how many. where: at what, by `classify`. launches: processes in all."""

    kills: int
    where: Counter
    launches: int


def launch(
    target: Target, args: Sequence[Any], log: Path, env: Mapping[str, str] | None = None
) -> Any:
    """Start `target(*args)` in a forked process; its output goes to the end of `log`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    process = context.Process(target=_child, args=(target, tuple(args), str(log), dict(env or {})))
    process.start()
    return process


def _child(target: Target, args: tuple[Any, ...], log: str, env: dict[str, str]) -> None:
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    os.environ.update({"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"} | env)
    faulthandler.enable(sys.stderr)  # SIGABRT then says where every thread is
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # for data workers, as in a plain process
    code = call_main(lambda _: target(*args), None)  # as `launch` would
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def finish(
    target: Target,
    args: Sequence[Any],
    log: Path,
    env: Mapping[str, str] | None = None,
    timeout: float = 120.0,
) -> int:
    """Launch and wait; the exit code, negative for a signal."""
    return wait(launch(target, args, log, env), timeout)


def wait(process: Any, timeout: float = 120.0) -> int:
    """Exit code of a process; after `timeout` seconds it has to write into its log where it is, is
    killed, and an error raised."""
    process.join(timeout)
    if process.exitcode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGABRT)
        process.join(10.0)
        process.kill()
        process.join()
        raise TimeoutError(f"process {process.pid} did not end in {timeout:.0f} s")
    return process.exitcode


def launch_ranks(target: Target, args: Sequence[Any], log: Path, world: int, **env: str) -> list:
    """Start `world` processes with the variables that torchrun sets, meeting over gloo."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)} | env
    return [
        launch(target, args, log, common | {"RANK": str(r), "LOCAL_RANK": str(r)})
        for r in range(world)
    ]


def in_a_save(run_dir: Path) -> str:
    """What a killed process was at: "save" if it left an unfinished checkpoint, else "other"."""
    return "save" if list((run_dir / "checkpoints").glob(".tmp-*")) else "other"


def committed(run_dir: Path) -> int:
    """Newest committed step, after checking that the checkpoint is whole; 0 without one."""
    steps = checkpoint.steps_of(run_dir / "checkpoints")
    if not steps:
        return 0
    checkpoint.verify(run_dir / "checkpoints" / f"step-{steps[-1]:09d}")
    return steps[-1]


def kill_and_resume(
    target: Target,
    make_args: Callable[[Path], Sequence[Any]],
    folder: Path,
    *,
    kills: int,
    seconds: tuple[float, float],
    seed: int = 0,
    failpoints: Sequence[str] = (),
    classify: Callable[[Path], str] = in_a_save,
    check: Callable[[Path], None] = lambda run_dir: None,
    timeout: float = 120.0,
    until: float = math.inf,
) -> Report:
    """Kill launches of `target(*make_args(run_dir))` until `kills` died, then let it finish.

    seconds: a launch is killed after a time drawn from this range.  failpoints: values of
    IMLE_LAB_FAILPOINT for the first launches, which kill themselves there.  If a run finishes
    before all kills are used up, another is begun in a new directory.
    After each kill the newest committed checkpoint must be whole and not older than before; after
    each finished run `check(run_dir)` is called.
    A machine may be faster by now than when `seconds` was measured: whenever a whole run ends
    before its kill, kills come a fifth earlier. timeout: seconds of a launch. until: the time, by
    time.monotonic(), from which on nothing is killed any more, so that it returns fewer kills.
    """
    rng, where, launches, done, number = random.Random(seed), Counter(), 0, 0, 0
    points, earlier = list(failpoints), 1.0
    while done < kills and time.monotonic() < until:
        run_dir, newest = folder / f"run-{number}", 0
        number += 1
        while True:
            env = {"IMLE_LAB_FAILPOINT": points.pop(0)} if points else {}
            process = launch(target, make_args(run_dir), folder / "log.txt", env)
            launches += 1
            aimed = not env and done < kills and time.monotonic() < until
            if aimed:
                process.join(earlier * rng.uniform(*seconds))
                if process.exitcode is None:
                    os.kill(process.pid, signal.SIGKILL)
            code = wait(process, timeout)
            if code == 0:
                earlier *= 0.8 if aimed and newest == 0 else 1.0
                break
            said = (folder / "log.txt").read_text()[-2000:]
            assert code == -signal.SIGKILL, f"exit code {code}:\n{said}"
            done += 1
            where[classify(run_dir)] += 1
            step = committed(run_dir)
            assert step >= newest, f"went back from step {newest} to {step}"
            newest = step
        check(run_dir)
    return Report(done, where, launches)


def metrics(run_dir: Path) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl without what depends on the clock or the machine."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in line.items() if k != "time" and not k.startswith(("time/", "memory/"))}
        for line in lines
    ]


def final_state(run_dir: Path) -> dict[str, Any]:
    """Everything in the newest checkpoint that a second run must have too."""
    loaded = checkpoint.load_path(run_dir / "checkpoints" / f"step-{committed(run_dir):09d}")
    return {"step": loaded.step, "nimg": loaded.meta["nimg"], **loaded.state}


def differences(a: Any, b: Any, where: str = "") -> list[str]:
    """Places at which two states differ, bit for bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
        return [] if same else [where]
    if isinstance(a, dict) and isinstance(b, dict):
        found = [f"{where}.{k}" for k in a.keys() ^ b.keys()]
        return found + [
            d for k in a.keys() & b.keys() for d in differences(a[k], b[k], f"{where}.{k}")
        ]
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        return [
            d
            for i, (x, y) in enumerate(zip(a, b, strict=True))
            for d in differences(x, y, f"{where}[{i}]")
        ]
    return [] if a == b else [where]


def kill_in_step(step: int) -> None:
    """Have this process end without warning in the middle of a step: gradients are there, the
    update is not. step: how many are complete by then."""
    update = Run.step

    def killing(self: Run, *args: Any, **more: Any) -> bool:
        if self.completed == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return update(self, *args, **more)

    Run.step = killing  # type: ignore[method-assign]


def pause(seconds: float) -> None:
    """Sleep through signals."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(left)
