"""Seconds and memory of one NT-Xent, forward and backward: `python -m benchmarks.ntxent`.

plain    S = z z' / T of all 2n rows at once, its diagonal filled, cross entropy, autograd.
ours     models.NTXent: a few rows of S at a time, the gradient formed on the way.

On the CPU: `--threads` threads (1), their processor time (other work on the machine does not
count), the methods in turns, medians. Memory: growth of the resident peak over one call, median of
fresh processes (on a GPU: of the allocator's peak), the input and its gradient included. The last
column is the largest difference of gradients, relative to the largest entry.
`--quick`: does it run?
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.imle_setup import add_running, begin, parser_of
from benchmarks.selection import _status
from models.losses import NTXent
from runtime.precision import LOWEST_TEMPERATURE
from runtime.types import number

Loss = Callable[[Tensor, Tensor], Tensor]


def plain(temperature: float) -> Loss:
    """-S_ip + logsumexp over k != i of S_ik, with S as one matrix."""

    def loss(view0: Tensor, view1: Tensor) -> Tensor:
        n = len(view0)
        z = F.normalize(torch.cat([view0, view1]), dim=1)
        S = (z @ z.t() / temperature).fill_diagonal_(-torch.inf)
        return F.cross_entropy(S, torch.arange(2 * n, device=z.device).roll(n))

    return loss


def methods(args: argparse.Namespace) -> dict[str, Loss]:
    ours = NTXent(args.temperature, chunk=args.chunk)
    return {"plain": plain(args.temperature), "ours": ours}


def projections(n: int, args: argparse.Namespace, device: torch.device) -> list[Tensor]:
    """Two views [n, d] fp32: the same direction and as much noise."""
    generator = torch.Generator().manual_seed(args.seed)
    mean, *noise = torch.randn(3, n, args.dim, generator=generator)
    return [(mean + e).to(device).requires_grad_() for e in noise]


def seconds(loss: Loss, views: list[Tensor]) -> tuple[float, list[Tensor]]:
    """(seconds of one forward and backward, processor time on the CPU; the gradients)."""
    cuda = views[0].is_cuda
    clock = time.perf_counter if cuda else time.process_time
    if cuda:
        torch.cuda.synchronize()
    began = clock()
    grads = torch.autograd.grad(loss(*views), views)
    if cuda:
        torch.cuda.synchronize()
    return clock() - began, list(grads)


def compare(n: int, args: argparse.Namespace, device: torch.device) -> list[str]:
    """Rows of the table for one batch."""
    views, losses = projections(n, args, device), methods(args)
    found: dict[str, list[float]] = {name: [] for name in losses}
    for turn in range(args.repeats + 1):
        grads = {}
        for name, loss in losses.items():
            took, grads[name] = seconds(loss, views)
            if turn:  # the first one pays for what is loaded at first use
                found[name].append(took)
    far = max(
        float((a - b).abs().max() / a.abs().max())
        for a, b in zip(grads["plain"], grads["ours"], strict=True)
    )
    del grads
    peaks = {name: peak(n, name, args, device) for name in losses}
    rows = []
    for name, took in found.items():
        ratios = [a / b for a, b in zip(found["plain"], took, strict=True)]
        rows.append(
            f"| 2 x {n} | {name} | {statistics.median(took):.3f} | "
            f"{statistics.median(ratios):.1f} ({min(ratios):.1f}-{max(ratios):.1f}) | "
            f"{peaks[name] / 2**20:.0f} | {peaks['plain'] / peaks[name]:.1f} | "
            f"{'' if name == 'plain' else f'{far:.0e}'} |"
        )
    return rows


def peak(n: int, method: str, args: argparse.Namespace, device: torch.device) -> float:
    """Bytes by which the peak grows during one call; nan where the system cannot say."""
    if device.type == "cuda":
        loss, views = methods(args)[method], projections(n, args, device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        seconds(loss, views)
        return torch.cuda.max_memory_allocated(device) - before
    found = []
    for _ in range(1 if args.quick else args.processes):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found.append(pool.apply(_peak_cpu, (n, method, args)))
    return statistics.median(found)


def _peak_cpu(n: int, method: str, args: argparse.Namespace) -> float:
    torch.set_num_threads(args.threads)
    cpu = torch.device("cpu")
    loss = methods(args)[method]
    seconds(loss, projections(64, args, cpu))  # what is loaded at first use
    views = projections(n, args, cpu)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
        before = _status("VmRSS")
        seconds(loss, views)
        return _status("VmHWM") - before
    except OSError:
        return float("nan")


def main(argv: Sequence[str] | None = None) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--n", nargs="+", type=int, default=[2048, 8192], help="images")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--temperature", type=number(LOWEST_TEMPERATURE), default=0.5)
    parser.add_argument("--chunk", type=int, default=None, help="rows of S at once; default ours")
    parser.add_argument("--repeats", type=int, default=5, help="rounds; the methods take turns")
    parser.add_argument("--processes", type=int, default=3, help="memory: fresh processes each")
    add_running(parser)
    args = parser.parse_args(argv)
    if args.quick:
        args.n, args.repeats = [128], 1
    device = begin(args)
    print(f"d {args.dim}, temperature {args.temperature:g}, fp32, {args.repeats} rounds\n")
    print("| images | method | median s | times faster | peak MiB | times less | gradients |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for n in args.n:
        print("\n".join(compare(n, args, device)), flush=True)


if __name__ == "__main__":
    main()
