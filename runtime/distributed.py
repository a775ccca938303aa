"""Several processes as one: rendezvous, collectives that are safe without it, and the launcher.

Three ways to start, one code path after that:
- `python script.py`: one process; or, when `--gpus` names several GPUs (or the machine has
  several), one spawned process per GPU. IMLE_LAB_CPU_RANKS=N spawns N CPU processes instead
  (gloo), to try multi-process training on a laptop.
- `torchrun ... script.py`: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT are read.
- `srun python script.py`, one task per GPU: SLURM_PROCID, SLURM_NTASKS, SLURM_LOCALID are read; the
  meeting point is the first host of the node list, port 10000 + job id % 20000 (below the ephemeral
  range); MASTER_ADDR and MASTER_PORT win when set.

One process never initialises torch.distributed, and every function here then returns at once.
CPU tensors (and so flags and shapes) travel by gloo, CUDA tensors by NCCL, within one group.
"""

from __future__ import annotations

import argparse
import errno
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from multiprocessing.connection import wait as wait_any
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from storage.errors import RunError, UsageError

BUCKET_BYTES = 25 * 2**20  # flat all-reduce size: large enough for bandwidth, small beside a model
_CPU_RANKS = "IMLE_LAB_CPU_RANKS"
_STORE = "IMLE_LAB_STORE"  # a file; set by the launcher for its own ranks only
_TRACEBACK = "IMLE_LAB_TRACEBACK"

# -------------------------------------------------------------------------------------- rendezvous


class Place(NamedTuple):
    """This process among the others, as the environment says, before anything is initialised."""

    rank: int
    world: int
    local_rank: int
    source: str  # "one" | "spawn" | "torchrun" | "slurm"


def _env_int(env: Mapping[str, str], name: str) -> int:
    try:
        return int(env[name])
    except KeyError:
        raise UsageError(
            f"{name} is not set, but the other variables of its launcher are"
        ) from None
    except ValueError:
        raise UsageError(f"{name}={env[name]!r} is not a whole number") from None


def place(env: Mapping[str, str] | None = None) -> Place:
    """Read rank and world size from the launcher's variables. Errors: UsageError if they clash."""
    env = os.environ if env is None else env
    if "RANK" in env and "WORLD_SIZE" in env:
        source = "spawn" if _STORE in env else "torchrun"
        local = _env_int(env, "LOCAL_RANK") if "LOCAL_RANK" in env else 0
        found = Place(_env_int(env, "RANK"), _env_int(env, "WORLD_SIZE"), local, source)
    elif "SLURM_PROCID" in env and not _slurm_batch_shell(env):
        tasks = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in env else "SLURM_NTASKS"
        world = _env_int(env, tasks) if tasks in env else 1
        local = _env_int(env, "SLURM_LOCALID") if "SLURM_LOCALID" in env else 0
        found = Place(_env_int(env, "SLURM_PROCID"), world, local, "slurm")
    else:
        return Place(0, 1, 0, "one")
    if found.world == 1 and found.rank == 0 and found.source == "slurm":
        return Place(0, 1, 0, "one")  # one task may still use several GPUs: let the launcher spawn
    if not 0 <= found.rank < found.world or found.local_rank < 0:
        raise UsageError(f"rank {found.rank} of {found.world} processes makes no sense")
    return found


def _slurm_batch_shell(env: Mapping[str, str]) -> bool:
    # In a batch script, outside srun, SLURM sets PROCID=0 and NTASKS to the whole job's: believing
    # them would mean waiting for tasks that nobody started. Only srun sets a step id.
    return "SLURM_TASK_PID" in env and "SLURM_STEP_ID" not in env and "SLURM_STEPID" not in env


def first_host(nodelist: str) -> str:
    """First host of a SLURM node list: `gpu[03-05,07],node1` -> `gpu03`. Errors: UsageError."""
    if shutil.which("scontrol"):
        try:
            done = subprocess.run(
                ["scontrol", "show", "hostnames", nodelist],
                capture_output=True,
                text=True,
                timeout=30,
            )
            if done.returncode == 0 and done.stdout.split():
                return done.stdout.split()[0]
        except (OSError, subprocess.TimeoutExpired):
            pass  # containers often carry a scontrol that cannot reach the controller
    first = re.match(r"((?:[^,\[\]]|\[[^\[\]]*\])+)(?:,|$)", nodelist.strip())
    host = re.sub(r"\[([^\[\],-]+)[^\[\]]*\]", r"\1", first[1]) if first else ""
    if not re.fullmatch(r"(?!\d+$)[A-Za-z0-9][A-Za-z0-9._-]*", host):
        raise UsageError(f"no host name in the SLURM node list {nodelist!r}; set MASTER_ADDR")
    return host


def slurm_meeting_point(env: Mapping[str, str]) -> tuple[str, int]:
    """(host, port) where the tasks of a SLURM step meet. Never guesses localhost: UsageError."""
    nodelist = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST") or ""
    nodes = env.get("SLURM_STEP_NUM_NODES") or env.get("SLURM_NNODES") or ""
    one_node = nodes == "1" or (not nodes and re.fullmatch(r"[^,\[\]]+", nodelist) is not None)
    host = env.get("MASTER_ADDR")
    if not host and one_node:
        host = "127.0.0.1"
    if not host and not nodelist:
        raise UsageError("several SLURM tasks but no SLURM_JOB_NODELIST: set MASTER_ADDR")
    if not host:
        host = first_host(nodelist)
    if env.get("MASTER_PORT"):
        return host, _env_int(env, "MASTER_PORT")
    if "SLURM_JOB_ID" not in env:
        raise UsageError("several SLURM tasks but no SLURM_JOB_ID: set MASTER_PORT")
    step = env.get("SLURM_STEP_ID", "0")
    # Steps of one job may run side by side, so each gets a port of its own.
    return host, 10000 + (
        _env_int(env, "SLURM_JOB_ID") + (int(step) if step.isdigit() else 0)
    ) % 20000


def choose_device(gpus: Sequence[int] | None = None) -> torch.device:
    """The device of this rank.

    `gpus`: numbers to use, one per local rank; [] = CPU; None = what is there, and without a GPU
    that is the CPU, said once. Errors: UsageError for a GPU that was named and is missing.
    """
    here = place()
    if gpus is not None and not len(gpus):
        return torch.device("cpu")
    if os.environ.get(_CPU_RANKS):
        if gpus:
            raise UsageError(f"--gpus {_words(gpus)} and {_CPU_RANKS} exclude each other")
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpus is None and count == 0:
        if here.rank == 0:
            print("no GPU found: running on the CPU", flush=True)
        return torch.device("cpu")
    _check_gpus(gpus, count)
    listed = list(range(count)) if gpus is None else list(gpus)
    if len(listed) == 1 and here.source == "slurm":
        index = listed[0]  # SLURM usually shows every task its own GPU only, as number 0
    elif here.local_rank < len(listed):
        index = listed[here.local_rank]
    else:
        raise UsageError(
            f"process {here.local_rank + 1} on this machine has no GPU: there are {len(listed)} "
            f"({_words(listed)}); start fewer processes or use --gpus cpu"
        )
    device = torch.device("cuda", index)
    torch.cuda.set_device(device)
    return device


def _check_gpus(gpus: Sequence[int] | None, count: int) -> None:
    missing = [g for g in gpus or () if not 0 <= g < count]
    if missing:
        there = f"GPUs 0 to {count - 1}" if count else "no GPU"
        raise UsageError(f"--gpus {_words(missing)}: this machine has {there} that torch can use")


def _words(values: Iterable[object]) -> str:
    return " ".join(str(v) for v in values)


def init(device: torch.device | None = None, *, timeout_s: float = 1800.0) -> None:
    """Join the other processes, if there are any. Idempotent; does nothing in a single process.

    `timeout_s`: how long a collective waits for a slow rank. Errors: RunError when the ranks do not
    meet within five minutes.
    """
    here = place()
    if here.world == 1 or dist.is_initialized():
        return
    # Imported by torch.optim and others at their own time. Its functions have the group that exists
    # then as a default argument: a group so held outlives shutdown, and a thread of gloo's that
    # lets go of a tensor while the interpreter ends aborts the process.
    from torch.distributed.nn import functional  # noqa: F401

    cuda = device is not None and device.type == "cuda"
    if cuda:
        torch.cuda.set_device(device)
    meet = timedelta(seconds=min(300.0, timeout_s))
    env = os.environ
    try:
        if here.source == "spawn":
            # One machine: a file needs no port that somebody else could take meanwhile.
            where = env[_STORE]
            store = dist.FileStore(where, here.world)
            store.set_timeout(meet)
        elif here.source == "slurm":
            host, port = slurm_meeting_point(env)
            where = f"{host}:{port}"
            store = dist.TCPStore(host, port, here.world, here.rank == 0, meet)
        else:
            where = f"{env.get('MASTER_ADDR')}:{env.get('MASTER_PORT')}"
            store = None
        dist.init_process_group(
            backend="cpu:gloo,cuda:nccl" if cuda else "gloo",
            init_method="env://" if store is None else None,
            store=store,
            rank=here.rank,
            world_size=here.world,
            timeout=timedelta(seconds=timeout_s),
        )
        all_reduce_max(0)  # connects everyone now, where a failure can still be explained
    except UsageError:
        raise
    except (RuntimeError, ValueError, OSError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RunError(
            f"rank {here.rank} of {here.world} could not meet the others at {where}: {first}"
        ) from error


def shutdown() -> None:
    """Leave the group, if there is one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """This process's number among all; 0 without init."""
    return dist.get_rank() if _joined() else 0


def world_size() -> int:
    """How many processes train together; 1 without init."""
    return dist.get_world_size() if _joined() else 1


def local_rank() -> int:
    """This process's number on its machine; 0 when alone."""
    return place().local_rank


def is_main() -> bool:
    """True in the one process that writes, logs and shows bars."""
    return rank() == 0


# ------------------------------------------------------------------------------------- collectives


def barrier() -> None:
    """Wait until every rank is here."""
    all_reduce_max(0)


def all_reduce_max(value: int) -> int:
    """The largest of the ranks' whole numbers (flags, counts), over gloo: no GPU is waited for."""
    if not _joined():
        return int(value)
    box = torch.tensor([int(value)], dtype=torch.int64)
    dist.all_reduce(box, op=dist.ReduceOp.MAX)
    return int(box.item())


def all_reduce_sum(t: torch.Tensor) -> torch.Tensor:
    """Sum over ranks, same shape and type, a new tensor; half types add in fp32. No gradient."""
    t = t.detach()
    if not _joined():
        return t.clone()
    wide = t.to(_sum_type(t.dtype), copy=True, memory_format=torch.contiguous_format)
    dist.all_reduce(wide)
    return wide.to(t.dtype)


def mean(t: torch.Tensor) -> torch.Tensor:
    """Mean over ranks of a tensor of the same shape on each, as a new float tensor. No gradient."""
    t = t.detach()
    if not t.is_floating_point():
        t = t.to(torch.float64 if t.device.type == "cpu" else torch.float32)
    if not _joined():
        return t.clone()
    wide = t.to(_sum_type(t.dtype), copy=True, memory_format=torch.contiguous_format)
    dist.all_reduce(wide)
    return wide.div_(world_size()).to(t.dtype)


def _sum_type(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _check_equal(t: torch.Tensor, what: str) -> None:
    """Compare shape and type over ranks, on the CPU. Errors: ValueError, on every rank the same."""
    kind = sum(ord(c) * 257**i for i, c in enumerate(str(t.dtype))) % (2**61 - 1)
    mine = torch.full((12,), -1, dtype=torch.int64)
    mine[0], mine[1] = t.ndim, kind
    mine[2 : 2 + t.ndim] = torch.tensor(t.shape, dtype=torch.int64)
    all_ = [torch.empty_like(mine) for _ in range(world_size())]
    dist.all_gather(all_, mine)
    if any(not torch.equal(a, all_[0]) for a in all_):
        shapes = [tuple(a[2 : 2 + int(a[0])].tolist()) for a in all_]
        said = "types" if all(s == shapes[0] for s in shapes) else f"shapes {shapes} by rank"
        raise ValueError(f"{what} needs equal tensors on every rank, got different {said}")


def _gather_list(t: torch.Tensor) -> list[torch.Tensor]:
    # As bytes: gloo and NCCL each know their own subset of element types, both know uint8.
    raw = t.detach().contiguous().view(-1).view(torch.uint8) if t.numel() else t.new_empty(0)
    if not t.numel():
        return [t.detach().clone() for _ in range(world_size())]
    parts = [torch.empty_like(raw) for _ in range(world_size())]
    dist.all_gather(parts, raw)
    return [p.view(t.dtype).view(t.shape) for p in parts]


def gather(t: torch.Tensor) -> torch.Tensor:
    """[n, ...] on each rank -> [world * n, ...] in rank order, the same on all.

    A scalar gives [world]. No gradient. Errors: ValueError, on all ranks, if shapes differ.
    """
    t = t.detach()
    t = t.reshape(1) if t.ndim == 0 else t
    if not _joined():
        return t.clone()
    _check_equal(t, "gather")
    return torch.cat(_gather_list(t))


def interleave(t: torch.Tensor) -> torch.Tensor:
    """[n, ...] on each rank -> [world * n, ...] where row i is row i // world of rank i % world.

    The order of a batch that ranks share row by row (`data.samplers.StepSampler`), so that it is
    the same for every number of ranks. No gradient. Errors: ValueError as `gather`.
    """
    gathered = gather(t)
    world = world_size()
    return gathered.view(world, -1, *gathered.shape[1:]).transpose(0, 1).flatten(0, 1)


def take_interleaved(tensors: Sequence[torch.Tensor], rows: torch.Tensor) -> list[torch.Tensor]:
    """This rank's share of chosen rows of a batch that ranks share row by row, wherever they lie.

    tensors: [n, ...] each, row i of the whole batch being row i // world of rank i % world.
    rows: int64 [b], rows of the whole batch, the same on every rank. Returns rows[rank::world] of
    each tensor, so shares differ by at most one, and may be empty. No gradient; all ranks call it.
    Several ranks wait for the device: what is sent depends on how many rows each owns.
    """
    world, me = world_size(), rank()
    if world == 1:
        return [t.detach()[rows] for t in tensors]
    owner, place = rows % world, rows // world
    # How many each rank owns, and the how-manieth of its owner's each row is.
    owned = torch.nn.functional.one_hot(owner, world).cumsum(0)
    slot = owned.gather(1, owner[:, None])[:, 0] - 1
    most = int(owned[-1].max()) if len(rows) else 0
    own, wanted = place[owner == me], slice(me, None, world)
    out = []
    for t in tensors:
        mine = t.detach()[own]
        padded = mine.new_zeros(most, *mine.shape[1:])
        padded[: len(mine)] = mine
        everyone = gather(padded).view(world, most, *mine.shape[1:])
        out.append(everyone[owner[wanted], slot[wanted]])
    return out


class _GatherGrad(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, t: torch.Tensor) -> torch.Tensor:
        ctx.rows = t.shape[0]
        return torch.cat(_gather_list(t))

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        # Every rank's loss depends on every row: the cotangents add up, then each keeps its rows.
        start = rank() * ctx.rows
        return all_reduce_sum(grad)[start : start + ctx.rows]


def gather_grad(t: torch.Tensor) -> torch.Tensor:
    """`gather` through which gradients flow: d(sum of all ranks' losses)/dt.

    Every rank must run backward through it equally often. Each rank's gradient is that of the *sum*
    of losses, so averaging over ranks afterwards gives the gradient of their mean.
    Errors: ValueError (on every rank) if shapes or types differ.
    """
    t = t.reshape(1) if t.ndim == 0 else t
    if not _joined():
        return t
    _check_equal(t, "gather_grad")
    return _GatherGrad.apply(t)


def gather_object(obj: Any) -> list[Any]:
    """Any picklable object of each rank, in rank order, on every rank. Small things only."""
    if not _joined():
        return [obj]
    out: list[Any] = [None] * world_size()
    dist.all_gather_object(out, obj)
    return out


def shard(n: int) -> range:
    """This rank's contiguous share of range(n); shares differ by at most one and cover it once."""
    r, w = rank(), world_size()
    return range(n * r // w, n * (r + 1) // w)


def _buckets(tensors: Iterable[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Consecutive tensors of one device and type, about BUCKET_BYTES together."""
    groups: dict[tuple[torch.device, torch.dtype], list[torch.Tensor]] = {}
    for t in tensors:
        groups.setdefault((t.device, t.dtype), []).append(t)
    for group in groups.values():
        bucket: list[torch.Tensor] = []
        size = 0
        for t in group:
            bucket.append(t)
            size += t.numel() * t.element_size()
            if size >= BUCKET_BYTES:
                yield bucket
                bucket, size = [], 0
        if bucket:
            yield bucket


def _unflatten(flat: torch.Tensor, tensors: Sequence[torch.Tensor]) -> None:
    start = 0
    for t in tensors:
        t.copy_(flat[start : start + t.numel()].view(t.shape))
        start += t.numel()


@torch.no_grad()
def broadcast_module(module: torch.nn.Module, src: int = 0) -> None:
    """Copy rank `src`'s parameters and buffers to all ranks, in place.

    Errors: ValueError (on every rank) if the ranks built different modules.
    """
    if not _joined():
        return
    named = [*module.named_parameters(), *module.named_buffers()]
    layout = [(name, tuple(t.shape), str(t.dtype)) for name, t in named]
    for r, other in enumerate(gather_object(layout)):
        if other != layout:
            diff = sorted({x[0] for x in other} ^ {x[0] for x in layout})
            said = f"; not in both: {_words(diff[:3])}" if diff else ""
            raise ValueError(f"rank {r} built another module than rank {rank()}{said}")
    for bucket in _buckets(t.detach() for _, t in named):
        flat = torch.cat([t.reshape(-1) for t in bucket])
        raw = flat.view(torch.uint8)
        if raw.numel():
            dist.broadcast(raw, src=src)
            _unflatten(flat, bucket)


@torch.no_grad()
def average_gradients(params: Iterable[torch.nn.Parameter]) -> None:
    """Replace every .grad by its mean over ranks, in place, bit-identical on all of them.

    A gradient that is None on some ranks counts as zeros there; one that is None on all stays None.
    Half types are averaged in fp32. Every rank must pass the same parameters in the same order.
    Errors: ValueError (on every rank) if their number or sizes differ; sparse gradients.
    """
    if not _joined():
        return
    params = [p for p in params if p.requires_grad]
    if any(p.grad is not None and p.grad.is_sparse for p in params):
        raise ValueError("average_gradients: sparse gradients are not supported")
    # First the sizes, so that ranks that disagree say so instead of adding unrelated numbers.
    sizes = [p.numel() * (i + 1) for i, p in enumerate(params)]
    check = torch.tensor([len(params), -len(params), sum(sizes), -sum(sizes)])
    dist.all_reduce(check, op=dist.ReduceOp.MAX)
    if check[0] != -check[1] or check[2] != -check[3]:
        raise ValueError("average_gradients: the ranks passed different parameters")
    if not params:
        return
    have = torch.tensor([p.grad is not None for p in params], dtype=torch.uint8)
    dist.all_reduce(have, op=dist.ReduceOp.MAX)
    used = [p for p, h in zip(params, have.tolist(), strict=True) if h]
    for p in used:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    world = world_size()
    for bucket in _buckets(p.grad for p in used):  # type: ignore[arg-type]
        wide = _sum_type(bucket[0].dtype)
        flat = torch.cat([g.reshape(-1).to(wide) for g in bucket])
        dist.all_reduce(flat)
        _unflatten(flat.div_(world), bucket)


# ---------------------------------------------------------------------------------------- launcher

Main = Callable[[argparse.Namespace], object]

_PROTOCOL = (2, 3, 4, 5, 6, 7, 8, 75)  # exit codes that mean something (storage.errors)
_FORWARDED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


def launch(
    main: Main, args: argparse.Namespace, *, start_method: str = "spawn", grace_s: float = 20.0
) -> None:
    """Run `main(args)` here, or one copy per rank, and turn failures into exit codes.

    Returns only after success. An exception with an `exit_code` attribute becomes one line on
    stderr and that code; out of memory 8, full disk 7; any other keeps its traceback and gives 1
    (IMLE_LAB_TRACEBACK=1 shows all tracebacks). With spawned ranks the code is the first meaningful
    one among theirs; SIGTERM, SIGUSR1 and SIGINT are passed on to them; when one dies the others
    get `grace_s` seconds to notice, then SIGTERM, then SIGKILL. `main` must be importable (a
    top-level function, the script guarded by `if __name__ == "__main__"`).
    """
    try:
        count = _ranks_to_spawn(getattr(args, "gpus", None))
    except UsageError as error:
        sys.exit(_report(error, ""))
    code = _call(main, args) if count == 1 else _spawn(main, args, count, start_method, grace_s)
    if code != 0:
        sys.exit(code)


def _ranks_to_spawn(gpus: Sequence[int] | None) -> int:
    if place().source != "one":
        return 1
    cpu_ranks = os.environ.get(_CPU_RANKS, "")
    if cpu_ranks:
        if gpus:
            raise UsageError(f"--gpus {_words(gpus)} and {_CPU_RANKS} exclude each other")
        if not cpu_ranks.isdigit() or not 1 <= int(cpu_ranks) <= 1024:
            raise UsageError(f"{_CPU_RANKS}={cpu_ranks!r} is not a number of processes (1 to 1024)")
        return int(cpu_ranks)
    if gpus is not None and not len(gpus):
        return 1
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    _check_gpus(gpus, count)
    return max(1, count if gpus is None else len(gpus))


def _call(main: Main, args: argparse.Namespace) -> int:
    """main(args) -> exit code; says what went wrong."""
    here = place()
    who = f"rank {here.rank}: " if here.world > 1 else ""
    try:
        main(args)
        shutdown()
        return 0
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0
        print(f"error: {who}{stop.code}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        print(f"error: {who}interrupted", file=sys.stderr, flush=True)
        return 128 + signal.SIGINT
    except Exception as error:
        return _report(error, who)


def _report(error: BaseException, who: str) -> int:
    code = getattr(error, "exit_code", None)
    text = str(error).strip() or type(error).__name__
    if not isinstance(code, int) or isinstance(code, bool):
        code, text = _common_failure(error, text)
    if code is None or os.environ.get(_TRACEBACK) == "1":
        traceback.print_exception(error)
    if code is None:
        first = text.splitlines()[0]
        text, code = f"{type(error).__name__}: {first}", 1
    said = "" if code == 75 else "error: "
    print(f"{said}{who}{text}", file=sys.stderr, flush=True)
    return code


def _common_failure(error: BaseException, text: str) -> tuple[int | None, str]:
    """Failures of the machine that raise types of their own: memory and disk."""
    first = text.splitlines()[0]
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in text:
        return 8, f"out of memory: {first}; use a smaller batch"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return 7, f"no space left: {first}"
    if isinstance(error, RuntimeError) and re.search(r"Connection (closed|reset) by peer", text):
        return 1, "lost contact with another rank, which ended or died"
    return None, text


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
            _STORE: store,
        }
    )
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // world))
    sys.exit(_call(main, args))


def _die_with_parent() -> None:
    if sys.platform != "linux":
        return
    import ctypes

    # PR_SET_PDEATHSIG: ranks never outlive a launcher that was killed with -9.
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _spawn(
    main: Main, args: argparse.Namespace, world: int, start_method: str, grace_s: float
) -> int:
    context = torch.multiprocessing.get_context(start_method)
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
    before = {s: signal.signal(s, forward) for s in _FORWARDED} if main_thread else {}
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
    while len(gone) < len(ranks):
        sentinels = {p.sentinel: r for r, p in enumerate(ranks) if r not in gone}
        timeout = min(term_at, kill_at) - time.monotonic()
        ready = wait_any(list(sentinels), timeout=max(0.0, min(timeout, 1.0)))
        for sentinel in ready:
            r = sentinels[sentinel]  # type: ignore[index]
            gone.add(r)
            ranks[r].join()
            code = ranks[r].exitcode
            ended.append((r, code))
            if code < 0 and not (forwarded and -code in forwarded):
                name = signal.Signals(-code).name
                hint = " (out of host memory?)" if -code == signal.SIGKILL else ""
                if term_at == math.inf:
                    print(f"error: rank {r} died ({name}){hint}", file=sys.stderr, flush=True)
            if code != 0 and kill_at == math.inf:
                # 75 is an orderly end: another rank may still be writing the checkpoint.
                term_at = min(term_at, time.monotonic() + (600.0 if code == 75 else grace_s))
        now = time.monotonic()
        if now >= kill_at:
            send(signal.SIGKILL)
            kill_at = math.inf
        elif now >= term_at and kill_at == math.inf and len(gone) < len(ranks):
            send(signal.SIGTERM)
            kill_at, term_at = now + min(10.0, grace_s), now + 1e9
    return ended


def _overall_code(ended: Sequence[tuple[int, int]], forwarded: Sequence[int]) -> int:
    """First meaningful code in order of ending, else the first failure, else 0."""
    codes = [75 if c < 0 and -c in forwarded and -c != signal.SIGINT else c for _, c in ended]
    failed = [c for c in codes if c != 0]
    if not failed:
        return 0
    meaningful = [c for c in failed if c in _PROTOCOL]
    first = meaningful[0] if meaningful else failed[0]
    return 128 - first if first < 0 else first
