"""Several processes as one: joining them, and collectives that are safe without it.

One process never initialises torch.distributed, and every function here then returns at once.
CPU tensors (and so flags and shapes) travel by gloo, CUDA tensors by NCCL, within one group.
Who starts the processes: `runtime.launch`, torchrun or srun; who is who: `runtime.place`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from runtime.meeting import Meeting
from runtime.place import place
from storage.console import tell
from storage.errors import RunError, WaitError, first_line
from storage.waiting import WAIT, wait_limit

T = TypeVar("T")
_MEET_S = 300.0  # seconds that ranks wait for one another to be started
# What gloo and NCCL say when a rank does not come to a collective.
_LATE = r"Timed out waiting|collective operation timeout|timed out after \d+ ?m?s"
BUCKET_BYTES = 25 * 2**20  # flat all-reduce size: large enough for bandwidth, small beside a model

# ------------------------------------------------------------------------------------------- ranks


def init(device: torch.device | None = None, *, timeout_s: float | None = None) -> None:
    """Join the other processes, if there are any. Idempotent; does nothing in a single process.

    `timeout_s`: how long a collective waits for a slow rank, by default
    `storage.waiting.wait_limit()`. Whom this process waits for is said when they are not there at
    once. Errors: WaitError when the ranks do not meet within five minutes.
    """
    here = place()
    if here.world == 1 or dist.is_initialized():
        return
    # Imported by torch.optim and others at their own time. Its functions have the group that exists
    # then as a default argument: a group so held outlives shutdown, and a thread of gloo's that
    # lets go of a tensor while the interpreter ends aborts the process.
    from torch.distributed.nn import functional  # noqa: F401

    seconds = wait_limit() if timeout_s is None else timeout_s
    cuda = device is not None and device.type == "cuda"
    if cuda:
        torch.cuda.set_device(device)
    meeting = Meeting(here, min(_MEET_S, seconds))

    def join() -> None:
        if cuda:
            torch.cuda.set_device(device)  # of this thread
        store = meeting.store()
        dist.init_process_group(
            backend="cpu:gloo,cuda:nccl" if cuda else "gloo",
            init_method="env://" if store is None else None,
            store=store,
            rank=here.rank,
            world_size=here.world,
            timeout=timedelta(seconds=seconds),
        )
        all_reduce_max(0)  # connects everyone now, where a failure can still be explained

    try:
        meeting.wait(join)
    except RunError:
        raise
    except (RuntimeError, ValueError, OSError) as error:
        raise WaitError(f"{meeting.failed()}: {first_line(error)}; {meeting.advice()}") from error


def shutdown() -> None:
    """Leave the group, if there is one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def lost_rank(error: BaseException) -> WaitError | None:
    """The error to raise instead of what a collective ends with where another rank is dead, stopped
    or stuck; None if it is something else."""
    if not isinstance(error, RuntimeError):
        return None
    if re.search(r"Connection (closed|reset) by peer", str(error)):
        return WaitError("lost contact with another rank, which ended or died")
    if re.search(_LATE, str(error)):
        return WaitError(
            f"another rank did not answer in time: it is stopped, stuck or dead ({WAIT}, in "
            "seconds, is how long ranks wait)"
        )
    return None


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


def say(line: str) -> None:
    """Print a line, once for all ranks."""
    if is_main():
        tell(line)


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
    owner, local_row = rows % world, rows // world
    # How many each rank owns, and the how-manieth of its owner's each row is.
    owned = torch.nn.functional.one_hot(owner, world).cumsum(0)
    slot = owned.gather(1, owner[:, None])[:, 0] - 1
    most = int(owned[-1].max()) if len(rows) else 0
    own, wanted = local_row[owner == me], slice(me, None, world)
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


def from_main(work: Callable[[], T]) -> T:
    """Do `work` on rank 0 only; its result, or its error, reaches every rank. Picklable things."""
    result: T | None = None
    error: Exception | None = None
    if is_main():
        try:
            result = work()
        except Exception as caught:
            error = caught
    result, error = gather_object((result, error))[0]
    if error is not None:
        raise error
    return result


@torch.no_grad()
def copy_from_main(tensors: Iterable[torch.Tensor]) -> None:
    """Give tensors of equal shapes and types on every rank, in place, the values of rank 0's."""
    if not _joined():
        return
    for t in tensors:
        if t.numel():
            raw = t.detach().contiguous().view(-1).view(torch.uint8).clone()  # as `_gather_list`
            dist.broadcast(raw, src=0)
            t.copy_(raw.view(t.dtype).view(t.shape))


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
    for bucket in _buckets(p.grad for p in used if p.grad is not None):
        wide = _sum_type(bucket[0].dtype)
        flat = torch.cat([g.reshape(-1).to(wide) for g in bucket])
        dist.all_reduce(flat)
        _unflatten(flat.div_(world), bucket)
