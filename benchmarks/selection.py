"""Seconds and memory of one JEST draw: `python -m benchmarks.selection` (`--quick`: does it run?).

masked      the algorithm as published and in the Autoguided code: a B x B score matrix, and for
            every chunk an indicator of the rows drawn so far (rows of an eye(B), summed), two
            masked B x B products with their sums, a softmax, and NumPy's choice without
            replacement.
ours        selection.jointly_sample_batch: the closed form of the same draw.
pairs       the same function on B x B pair losses: sums of rows and columns, as far as new.

On the CPU: one thread, its processor time (other work on the machine does not count), the methods
in turns, medians. Memory: growth of the resident peak over one draw, median of three fresh
processes (on a GPU: of the allocator's peak), losses not included, B x B pair losses neither.
The last column shows that both draw from one distribution.
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.imle_setup import add_running, begin, parser_of
from selection import jointly_sample_batch

Draw = Callable[[Tensor, Tensor], Tensor]


def masked(learner: Tensor, ref: Tensor, N: int, filter_ratio: float) -> Tensor:
    """logits_j = (s_jj + sum_{k in S} s_kj + sum_{k in S} s_jk) / (2n + 1), -1e8 in S."""
    B = len(learner)
    c = int(B * (1 - filter_ratio) / N)
    scores = learner[:, None] - ref[None, :]
    diagonal = scores.diagonal()
    rows = np.random.choice(B, c, replace=False)
    for _ in range(N - 1):
        drawn = torch.eye(B)[torch.from_numpy(rows)].sum(0).to(scores.device)
        joint = (scores * drawn[:, None]).sum(0) + (scores * drawn[None, :]).sum(1)
        logits = (diagonal + joint) / (2 * len(rows) + 1) - 1e8 * drawn
        p = logits.softmax(0).cpu().numpy().astype(np.float64)
        more = np.random.choice(B, c, replace=False, p=p / p.sum())
        rows = np.concatenate([rows, more])
    return torch.from_numpy(rows)


def draws(N: int, filter_ratio: float) -> dict[str, Draw]:
    return {
        "masked": lambda a, b: masked(a, b, N, filter_ratio),
        "ours": lambda a, b: jointly_sample_batch(a, b, N, filter_ratio),
        "pairs": lambda a, b: jointly_sample_batch(a, b, N, filter_ratio),
    }


def losses(B: int, method: str, device: torch.device, seed: int) -> tuple[Tensor, Tensor]:
    """Learner and reference losses [B], or [B, B] for pairs."""
    generator = torch.Generator().manual_seed(seed)
    shape = (2, B, B) if method == "pairs" else (2, B)
    both = torch.randn(shape, generator=generator).to(device)
    return both[0], both[1]


def seconds(draw: Draw, data: tuple[Tensor, Tensor], times: int) -> float:
    """Seconds of one draw, over `times` of them: processor time on the CPU."""
    cuda = data[0].is_cuda
    clock = time.perf_counter if cuda else time.process_time
    if cuda:
        torch.cuda.synchronize()
    began = clock()
    for _ in range(times):
        draw(*data)
    if cuda:
        torch.cuda.synchronize()
    return (clock() - began) / times


def compare(B: int, args: argparse.Namespace, device: torch.device) -> list[str]:
    """Rows of the table for one super-batch."""
    methods = draws(args.N, args.filter_ratio)
    data = {name: losses(B, name, device, args.seed) for name in methods}
    chosen = {}
    for name in ("masked", "ours"):  # the same distribution: mean score of the rows drawn
        learner, ref = data["ours"]
        picks = [methods[name](learner, ref).to(device) for _ in range(3 if B > 4096 else 50)]
        chosen[name] = statistics.mean((learner - ref)[i].mean().item() for i in picks)
    found: dict[str, list[float]] = {name: [] for name in methods}
    for turn in range(args.repeats + 1):
        for name, draw in methods.items():
            took = seconds(draw, data[name], 100 if name == "ours" else 1)
            if turn:
                found[name].append(took)
    rows = []
    for name, took in found.items():
        ratios = [a / b for a, b in zip(found["masked"], took, strict=True)]
        score = f"{chosen[name]:.2f}" if name in chosen else ""
        rows.append(
            f"| {B} | {name} | {statistics.median(took) * 1e3:.3f} | "
            f"{statistics.median(ratios):.1f} ({min(ratios):.1f}-{max(ratios):.1f}) | "
            f"{peak(B, name, args, device) / 2**20:.1f} | {score} |"
        )
    return rows


def peak(B: int, method: str, args: argparse.Namespace, device: torch.device) -> float:
    """Bytes by which the peak grows during one draw; nan where the system cannot say."""
    if device.type == "cuda":
        return _peak_cuda(B, method, args, device)
    found = []
    for _ in range(1 if args.quick else 3):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found.append(pool.apply(_peak_cpu, (B, method, args.N, args.filter_ratio)))
    return statistics.median(found)


def _peak_cuda(B: int, method: str, args: argparse.Namespace, device: torch.device) -> float:
    draw, data = draws(args.N, args.filter_ratio)[method], losses(B, method, device, 0)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    draw(*data)
    return torch.cuda.max_memory_allocated(device) - before


def _peak_cpu(B: int, method: str, N: int, filter_ratio: float) -> float:
    torch.set_num_threads(1)
    draw = draws(N, filter_ratio)[method]
    draw(*losses(64, method, torch.device("cpu"), 0))  # what is loaded at first use
    data = losses(B, method, torch.device("cpu"), 0)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
        before = _status("VmRSS")
        draw(*data)
        return _status("VmHWM") - before
    except OSError:
        return float("nan")


def _status(field: str) -> int:
    text = Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+) kB", text)[1]) * 1024


def main(argv: Sequence[str] | None = None) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--super_batch", nargs="+", type=int, default=[256, 2048, 8192])
    parser.add_argument("--N", type=int, default=8, help="chunks")
    parser.add_argument("--filter_ratio", type=float, default=0.8)
    parser.add_argument("--repeats", type=int, default=7, help="rounds; the methods take turns")
    add_running(parser)
    args = parser.parse_args(argv)
    if args.quick:
        args.super_batch, args.repeats = [128], 1
    np.random.seed(args.seed)
    device = begin(args)
    print(f"N {args.N}, filter ratio {args.filter_ratio}, {args.repeats} rounds\n")
    print("| B | method | median ms | times faster | peak MiB | mean score drawn |")
    print("|---|---|---|---|---|---|", flush=True)
    for B in args.super_batch:
        print("\n".join(compare(B, args, device)), flush=True)


if __name__ == "__main__":
    main()
