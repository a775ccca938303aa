"""Does averaging gradients during the backward pass pay?

    torchrun --standalone --nproc-per-node 2 -m benchmarks.gradient_average

after    what `run.step` does: the backward pass, then runtime.distributed.average_gradients.
overlap  torch's DistributedDataParallel: its hooks average a bucket as soon as it is filled, while
         the backward pass goes on.
alone    the backward pass without any average: what overlapping could gain at the most is
         `after` minus this.

Processes of one thread each (gloo; nccl with `--device cuda`), the methods in turns on the same
weights and pictures; a step is forward, backward and average, without the optimizer.
Medians over the rounds, ratios with their range; the largest difference of gradients between
`after` and `overlap` is relative to the largest gradient. `--quick`: does it run?
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.imle_setup import machine
from imle import CAMNet, CodeGenerator
from models import NTXent, SimCLR, two_views
from runtime import distributed
from runtime.cli import prepare

Step = tuple[nn.Module, Callable[[nn.Module], Tensor]]  # network, (forward) -> loss
METHODS = ("alone", "after", "overlap")


def simclr_step(
    batch: int, device: torch.device
) -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    """ResNet-18 (11 M parameters) at 32 px; two views of a rank's own pictures -> NT-Xent."""
    net = SimCLR("resnet18", stem="small").to(device)
    views = torch.rand(2, batch, 3, 32, 32, device=device)
    loss_fn = NTXent(0.5)
    return net, lambda forward: loss_fn(*two_views(forward, *views))


def camnet_step(
    batch: int, device: torch.device
) -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    """CAM-Net with the widths of cpu-small, 16 -> 32 -> 64; squared error of every level."""
    net = CAMNet(
        res=[16, 32, 64], resid_nc=[32, 16], dense_nc=[16, 16], n_blocks=2, map_nc=64, latent_nc=128
    ).to(device)
    cx = torch.rand(batch, 3, 16, 16, device=device)
    codes = CodeGenerator(net.code_sizes, seed=0, device=device)(batch)
    return net, lambda forward: sum(y.square().mean() for y in forward(cx, codes))


STEPS = {"simclr": simclr_step, "camnet": camnet_step}


def timed(
    name: str, batch: int, repeats: int, device: torch.device
) -> tuple[dict[str, list[float]], float]:
    """One rank's seconds of each method and round, and how far the two averages are apart."""
    cuda = device.type == "cuda"
    torch.manual_seed(0)
    net, _ = STEPS[name](batch, device)
    torch.manual_seed(1 + distributed.rank())  # other pictures on every rank
    _, loss_of = STEPS[name](batch, device)
    wrapped = DistributedDataParallel(net, device_ids=[device] if cuda else None)
    params = list(net.parameters())
    found: dict[str, list[float]] = {method: [] for method in METHODS}
    far, kept = 0.0, {}
    for turn in range(repeats + 1):
        for method in METHODS:
            for p in params:
                p.grad = None
            distributed.barrier()
            began = time.perf_counter()
            loss_of(wrapped if method == "overlap" else net).backward()
            if method == "after":
                distributed.average_gradients(params)
            if cuda:
                torch.cuda.synchronize()
            distributed.barrier()
            if turn:  # the first one pays for what is made at first use
                found[method].append(time.perf_counter() - began)
            kept[method] = [p.grad.clone() for p in params if p.grad is not None]
    biggest = max(float(g.abs().max()) for g in kept["after"])
    for a, b in zip(kept["after"], kept["overlap"], strict=True):
        far = max(far, float((a - b).abs().max()) / biggest)
    return found, far


def rows(name: str, args: argparse.Namespace, device: torch.device) -> list[str]:
    """Lines of the table for one network."""
    found, far = timed(name, args.batch, args.repeats, device)
    lines = []
    for method, took in found.items():
        ratios = [a / b for a, b in zip(took, found["alone"], strict=True)]
        lines.append(
            f"| {name} | {method} | {1000 * statistics.median(took):.0f} | "
            f"{statistics.median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f}) | "
            f"{f'{far:.0e}' if method == 'overlap' else ''} |"
        )
    return lines


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nets", nargs="+", choices=tuple(STEPS), default=list(STEPS))
    parser.add_argument("--batch", type=int, default=32, help="pictures a rank")
    parser.add_argument("--repeats", type=int, default=15, help="rounds; the methods take turns")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="seconds: does it run?")
    prepare(parser)
    args = parser.parse_args(argv)
    if args.quick:
        args.batch, args.repeats = 4, 1
    torch.set_num_threads(1)
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", rank) if args.device == "cuda" else torch.device("cpu")
    distributed.init(device)
    if distributed.world_size() == 1:
        parser.error("nothing to average in one process: start it by torchrun, as above")
    say = print if distributed.is_main() else lambda *_, **__: None
    say(machine(device))
    say(f"{distributed.world_size()} ranks, {args.batch} pictures each, {args.repeats} rounds\n")
    say("| network | method | median ms | over alone | gradients |")
    say("|---|---|---|---|---|", flush=True)
    for name in args.nets:
        say("\n".join(rows(name, args, device)), flush=True)
    distributed.shutdown()


if __name__ == "__main__":
    main()
