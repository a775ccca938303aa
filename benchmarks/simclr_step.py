"""A training step of SimCLR: `python -m benchmarks.simclr_step` (`--quick`: does it run?).

First the encoder alone, views given: both views forward, NT-Xent, backward, SGD; fp32 and bf16, in
both memory formats, and compiled (`--compile`). Then the whole pipeline, from uint8 pictures to the
weights after the step:

per sample      torchvision on PIL pictures, one at a time, and the encoder in fp32. On the CPU in
                the process itself; on a GPU by a DataLoader with `--workers` processes, pinned.
per sample bf16 the same views, and the encoder in bf16 and channels_last.
exact           data.views.recipes.ExactViews on the batch, the encoder in bf16 and channels_last.
folded          data.views.recipes.FoldedViews, the same: what TrainSimCLR.py does.

On the CPU: one thread, its processor time (other work on the machine does not count), methods in
turns, medians; the ratio's range over the rounds in brackets. On a GPU (`--device cuda`): elapsed
time. Images are source images; each is seen in two views.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import statistics
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.functional import to_pil_image

from benchmarks.augment import pictures
from benchmarks.imle_setup import machine
from data.views.recipes import ExactViews, FoldedViews, Recipe, per_sample, recipe, view_keys
from models import NTXent, SimCLR, two_views
from runtime.cli import prepare

Step = Callable[[Tensor, Tensor], None]


def encoder_step(net: SimCLR, device: torch.device, bf16: bool, last: bool, compiled: bool) -> Step:
    """A function that takes one training step on two views, float32 on the device."""
    layout = torch.channels_last if last else torch.contiguous_format
    net = copy.deepcopy(net).to(device, memory_format=layout).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)
    forward: nn.Module = torch.compile(net) if compiled else net
    loss_fn = NTXent(0.5)

    def step(a: Tensor, b: Tensor) -> None:
        low = torch.autocast(device.type, torch.bfloat16) if bf16 else contextlib.nullcontext()
        with low:
            z0, z1 = two_views(
                forward, a.contiguous(memory_format=layout), b.contiguous(memory_format=layout)
            )
        loss_fn(z0, z1).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


class Pairs(Dataset):
    """Two views of a PIL picture, by torchvision."""

    def __init__(self, plan: Recipe, images: Tensor, length: int) -> None:
        self.make, self.length = per_sample(plan), length
        self.pictures = [to_pil_image(image) for image in images]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        picture = self.pictures[i % len(self.pictures)]
        return self.make(picture), self.make(picture)


def pairs(dataset: Pairs, args: argparse.Namespace, cuda: bool) -> Iterator[list[Tensor]]:
    """Batches without end; workers stay ahead of the step, as in training."""
    loader = DataLoader(
        dataset,
        args.bs,
        num_workers=args.workers if cuda else 0,
        pin_memory=cuda,
        drop_last=True,
        multiprocessing_context="fork" if cuda and args.workers else None,
    )
    while True:
        yield from loader


def pipelines(
    net: SimCLR, plan: Recipe, args: argparse.Namespace, device: torch.device
) -> dict[str, Callable[[int], None]]:
    """Functions of the step's number: from pictures to weights."""
    cuda = device.type == "cuda"
    images = pictures(max(args.bs, 256), args.size, args.seed)
    length = args.bs * (args.repeats + 1) * args.times * 4
    plain = encoder_step(net, device, bf16=False, last=False, compiled=False)
    fast = [
        encoder_step(net, device, bf16=True, last=True, compiled=args.compile) for _ in range(3)
    ]

    def one_by_one(step: Step) -> Callable[[int], None]:
        batches = pairs(Pairs(plan, images, length), args, cuda)

        def take(number: int) -> None:
            a, b = next(batches)
            step(a.to(device, non_blocking=True), b.to(device, non_blocking=True))

        return take

    there = images.to(device)

    def batched(kind: type, step: Step) -> Callable[[int], None]:
        views = kind(plan, channels_last=True)

        def take(number: int) -> None:
            ids = torch.randperm(len(there))[: args.bs].to(device)
            batch = there[ids]
            step(*(views(batch, view_keys(args.seed, number, ids, v)) for v in (0, 1)))

        return take

    return {
        "per sample": one_by_one(plain),
        "per sample bf16": one_by_one(fast[0]),
        "exact": batched(ExactViews, fast[1]),
        "folded": batched(FoldedViews, fast[2]),
    }


def take_turns(
    methods: dict[str, Callable[[int], None]], args: argparse.Namespace, device: torch.device
) -> dict[str, list[float]]:
    """Seconds a step of each method, `repeats` rounds in turns after one to warm up."""
    cuda = device.type == "cuda"
    clock = time.perf_counter if cuda else time.process_time
    found: dict[str, list[float]] = {name: [] for name in methods}
    for turn in range(args.repeats + 1):
        for name, method in methods.items():
            if cuda:
                torch.cuda.synchronize()
            began = clock()
            for k in range(args.times):
                method(turn * args.times + k)
            if cuda:
                torch.cuda.synchronize()
            if turn:
                found[name].append((clock() - began) / args.times)
    return found


def table(found: dict[str, list[float]], bs: int) -> str:
    first = next(iter(found.values()))
    rows = ["| method | s a step | images/s | times the first |", "|---|---|---|---|"]
    for name, took in found.items():
        ratios = [a / b for a, b in zip(first, took, strict=True)]
        rows.append(
            f"| {name} | {statistics.median(took):.4f} | {bs / statistics.median(took):.1f} | "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}) |"
        )
    return "\n".join(rows)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--backbone", default="resnet18")
    add("--size", type=int, default=32, help="side of pictures and views")
    add("--bs", type=int, default=32, help="pictures of a step")
    add("--repeats", type=int, default=5, help="rounds; the methods take turns")
    add("--times", type=int, default=1, help="steps a round")
    add("--workers", type=int, default=8, help="of the per-sample DataLoader, on a GPU")
    add("--device", default="cpu")
    add("--compile", action="store_true")
    add("--seed", type=int, default=0)
    add("--quick", action="store_true")
    prepare(parser)
    args = parser.parse_args(argv)
    if args.quick:
        args.repeats, args.times, args.size, args.bs = 1, 1, 8, 4
    device = torch.device(args.device)
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    print(machine(device))
    net = SimCLR(args.backbone, resolution=args.size)
    print(net.describe())
    plan = recipe("cifar" if args.size <= 64 else "imagenet", crop_size=args.size)
    whole = pipelines(net, plan, args, device)
    a, b = torch.rand(2, args.bs, 3, args.size, args.size, generator=torch.Generator()).to(device)
    formats = [(bf16, last, False) for bf16 in (False, True) for last in (False, True)]
    formats += [(True, True, True)] * args.compile
    encoders = {}
    for bf16, last, compiled in formats:
        step = encoder_step(net, device, bf16, last, compiled)
        name = ("bf16" if bf16 else "fp32") + ", channels_last" * last + ", compiled" * compiled
        encoders[name] = lambda number, step=step: step(a, b)
    for title, methods in (("Encoder alone", encoders), ("Whole pipeline", whole)):
        found = take_turns(methods, args, device)
        print(f"\n{title}, {args.bs} images\n\n{table(found, args.bs)}", flush=True)


if __name__ == "__main__":
    main()
