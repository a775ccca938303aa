"""Speed of the code search: `python -m benchmarks.code_search` (`--quick`: does it run?).

Compared in one process, in turns, on the same trained weights, images and noise:

plain       the search of the CIMLE refactoring: for every chunk of `sp` candidates all levels are
            run again, weight norm and the target's features are recomputed, codes come from the CPU
            (they are drawn beforehand, so noise costs the plain search nothing).
ours fp32   imle.search: cascade cache, target features once a level, folded weights, channels_last,
            noise drawn on the device inside the search.
ours bf16   the same with distances in bf16, those of the best m again in fp32.

few         a search of few candidates, with cells, as the preset cpu-quick has it: fp32; bf16 with
            the best 4 again in fp32, which are all; bf16 alone (`--rescore 0` of the scripts).

Also: do the winners agree, how often does bf16 choose the fp32 winner (`--decisions`), and how the
peak memory depends on the number of candidates.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.imle_setup import (
    CONFIGS,
    Config,
    add_arguments,
    batch_of,
    make_loss,
    start,
    table,
    take_turns,
    trained,
)
from imle import CAMNet, CodeGenerator, ResolutionLoss
from imle.search import SearchResult, search
from runtime.cli import prepare


@torch.no_grad()
def plain_search(
    model: CAMNet,
    loss: ResolutionLoss,
    pools: Sequence[Tensor],
    cx: Tensor,
    ys: Sequence[Tensor],
    ns: int,
    sp: int,
) -> tuple[Tensor, list[Tensor]]:
    """Hierarchical sampling as the CIMLE refactoring does it; pools: per level [B, ns, d], CPU."""
    rows = torch.arange(len(cx), device=cx.device)
    chosen: list[Tensor] = []
    winners = []
    for level, y in enumerate(ys):
        best = torch.full((len(cx),), torch.inf, device=cx.device)
        best_id = torch.zeros(len(cx), dtype=torch.int64, device=cx.device)
        best_code = pools[level][:, 0].to(cx.device)
        for first in range(0, ns, sp):
            pool = pools[level][:, first : min(first + sp, ns)].to(cx.device)
            count = pool.shape[1]
            fx = model(cx, [*chosen, pool.flatten(0, 1)], loi=level)
            low, at = loss(fx, y).view(len(cx), count).min(1)
            better = low < best
            best = torch.where(better, low, best)
            best_id = torch.where(better, first + at, best_id)
            best_code = torch.where(better[:, None], pool[rows, at], best_code)
        chosen.append(best_code)
        winners.append(best_id)
    return torch.stack(winners, 1), chosen


def flops(run, *args) -> float:
    """GFLOP (two a multiply-add) that a call takes."""
    with FlopCounterMode(display=False) as counter:
        run(*args)
    return counter.get_total_flops() / 1e9


def compare(name: str, config: Config, args: argparse.Namespace, device: torch.device) -> None:
    """Time the methods on one configuration and print a table."""
    loss = make_loss(args, device)
    model = trained(name, config, loss, args, device)
    z = CodeGenerator(model.code_sizes, seed=args.seed)
    ns, sp = args.ns or config.ns, args.sp or config.sp
    if args.quick:
        ns = min(ns, 2 * sp)
    cx, ys = batch_of(config, args.images, device)
    ids = torch.arange(args.images, device=device)
    candidates = torch.arange(ns)
    pools = [
        z.draw(level, 0, ids.cpu(), candidates).view(args.images, ns, -1)
        for level in range(model.levels)
    ]

    def plain() -> Tensor:
        return plain_search(model, loss, pools, cx, ys, ns, sp)[0]

    def ours(precision: str) -> SearchResult:
        return search(
            model, loss, z, cx, ys, ids, 0, ns, sp, precision=precision, rescore=args.rescore
        )

    print(
        f"\n{name}: res {' '.join(map(str, config.res))}, {args.images} images, ns {ns}, sp {sp}, "
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters",
        flush=True,
    )
    theirs, found = plain(), ours("fp32")
    equal = int((theirs == found.winners).sum())
    print(f"winners of plain and ours fp32: {equal} of {theirs.numel()} equal")
    if args.flops and sp == 1:
        ratio = flops(plain) / flops(ours, "fp32")
        print(f"floating-point operations: plain / ours fp32 = {ratio:.2f}")
    times = take_turns(
        {
            "plain": plain,
            "ours fp32": lambda: ours("fp32"),
            f"ours bf16, m {args.rescore}": lambda: ours("bf16"),
        },
        1 if args.quick else args.repeats,
        device,
    )
    print(table(times, args.images * model.levels * ns, "candidates"), flush=True)


def few(name: str, config: Config, args: argparse.Namespace, device: torch.device) -> None:
    """Time the search of the preset cpu-quick, in which bf16's second look is most of the work."""
    loss = make_loss(args, device)
    model = trained(name, config, loss, args, device)
    z = CodeGenerator(model.code_sizes, seed=args.seed)
    images = 2 if args.quick else 16
    cx, ys = batch_of(config, images, device)
    ids = torch.arange(images, device=device)

    def run(precision: str, rescore: int) -> SearchResult:
        return search(
            model, loss, z, cx, ys, ids, 0, [4, 2], [4, 2],
            precision=precision, rescore=rescore, cells=4, local_ns=2,
        )  # fmt: skip

    ways = {"fp32": ("fp32", 4), "bf16, m 4": ("bf16", 4), "bf16, m 0": ("bf16", 0)}
    found = {way: run(*settings).winners for way, settings in ways.items()}
    print(f"\n{name}, few candidates: ns 4 2, cells 4, local_ns 2, {images} images")
    for way, winners in found.items():
        equal = (winners == found["fp32"]).float().mean()
        print(f"{way}: {100 * equal:.1f} % of what is chosen is as in fp32")
    times = take_turns(
        {way: lambda settings=settings: run(*settings) for way, settings in ways.items()},
        1 if args.quick else args.repeats,
        device,
    )
    print(table(times, images, "images"), flush=True)


def agreement(name: str, config: Config, args: argparse.Namespace, device: torch.device) -> None:
    """How often bf16 with the best again in fp32 chooses as fp32 does; what other choices cost."""
    loss = make_loss(args, device)
    model = trained(name, config, loss, args, device)
    z = CodeGenerator(model.code_sizes, seed=args.seed)
    ns, sp = args.ns or config.ns, args.sp or config.sp
    images = -(-args.decisions // model.levels)
    cx, ys = batch_of(config, images, device)
    ids = torch.arange(images, device=device)
    call = (model, loss, z, cx, ys, ids, 1, ns, sp)
    exact = search(*call, code_bs=args.images, return_losses=True)
    margins = torch.cat([_margin(t) for t in exact.all_losses])
    print(
        f"\n{name}: {images * model.levels} decisions among {ns}; margin of the best: median "
        f"{100 * margins.median():.2f} %, 5 % of them below {100 * margins.quantile(0.05):.3f} %"
    )
    print("| m | equal | equal given equal codes before | worst excess loss of the others |")
    print("|---|---|---|---|")
    for m in args.agreement_m:
        low = search(*call, code_bs=args.images, precision="bf16", rescore=m)
        same = low.winners == exact.winners
        # a level is only comparable where the codes before it are the same
        fair = torch.cat([torch.ones_like(same[:, :1]), same[:, :-1].cummin(1).values], 1)
        # the loss is compared with that of fp32's own choice at this level
        excess = ((low.losses - exact.losses) / exact.losses)[fair & ~same]
        worst = f"{100 * excess.max():.3f} %" if excess.numel() else "none differ"
        print(
            f"| {m} | {100 * same.float().mean():.1f} % | "
            f"{100 * same[fair].float().mean():.1f} % of {int(fair.sum())} | {worst} |",
            flush=True,
        )


def _margin(losses: Tensor) -> Tensor:
    two = losses.sort(1).values[:, :2]
    return (two[:, 1] - two[:, 0]) / two[:, 0]


def memory(name: str, args: argparse.Namespace) -> None:
    """Peak memory of searches that differ in ns only, each in a process of its own."""
    print(f"\n{name}: peak memory of a search by ns")
    print("| ns | MB |\n|---|---|")
    for ns in args.memory_ns:
        command = [sys.executable, "-m", "benchmarks.code_search", "--peak_of", str(ns)]
        command += ["--configs", name, "--device", args.device, "--images", str(args.images)]
        command += ["--threads", str(args.threads or torch.get_num_threads())]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        print(f"| {ns} | {output.split()[-1]} |", flush=True)


def peak_of(ns: int, name: str, args: argparse.Namespace) -> None:
    """The child of `memory`: one search, then the peak in MB as the last word printed."""
    device, config = start(args), CONFIGS[name]
    torch.manual_seed(0)
    model, loss = config.model().to(device), make_loss(args, device)
    z = CodeGenerator(model.code_sizes)
    cx, ys = batch_of(config, args.images, device)
    ids = torch.arange(args.images, device=device)
    search(model, loss, z, cx, ys, ids, 0, ns, min(config.sp, 16))
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device) / 2**20
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{peak:.0f}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    parser.add_argument("--images", type=int, default=2, help="images searched at a time")
    parser.add_argument("--ns", type=int, default=None, help="candidates, default the config's")
    parser.add_argument("--sp", type=int, default=None, help="at a time, default the config's")
    parser.add_argument("--rescore", type=int, default=4, help="m of bf16")
    parser.add_argument("--flops", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--decisions", type=int, default=200, help="for the bf16 statistics; 0: no")
    parser.add_argument("--agreement_m", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--agreement_configs", nargs="*", default=["small"])
    parser.add_argument("--memory_ns", type=int, nargs="*", default=[32, 128, 512])
    parser.add_argument("--peak_of", type=int, default=None, help=argparse.SUPPRESS)
    prepare(parser)
    args = parser.parse_args(argv)
    if args.peak_of is not None:
        peak_of(args.peak_of, args.configs[0], args)
        return
    device = start(args)
    if args.quick:
        args.configs = [c for c in args.configs if c.endswith("small")]
        args.decisions, args.memory_ns = min(args.decisions, 8), args.memory_ns[:1]
    for name in args.configs:
        compare(name, CONFIGS[name], args, device)
    if "small" in args.configs:
        few("small", CONFIGS["small"], args, device)
    for name in args.agreement_configs if args.decisions else []:
        agreement(name, CONFIGS[name], args, device)
    if args.memory_ns:
        memory("small", args)


if __name__ == "__main__":
    main()
