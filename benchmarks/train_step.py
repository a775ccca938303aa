"""Images a second of a training step: `python -m benchmarks.train_step` (`--quick`: does it run?).

One step is: all levels forward, LPIPS + MSE at each, backward, AdamW. Options are switched on one
after the other, each on top of those before it, and measured in turns:

reference          as the CIMLE refactoring: the loss network's weights gather gradients that nobody
                   uses, and the target's features are part of the graph.
frozen loss        imle.ResolutionLoss: neither.
channels_last      memory format of network, loss network and images.
bf16               autocast of network and loss network.
fused distance     the gradient of LPIPS made beside its value (imle.fused_distance).
compile            torch.compile of the network (only with `--compile`).
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from benchmarks.imle_setup import (
    CONFIGS,
    Config,
    add_arguments,
    batch_of,
    make_loss,
    start,
    table,
    take_turns,
)
from imle import CodeGenerator, ResolutionLoss
from recipes.imle.step import imle_loss
from runtime.cli import prepare

Loss = Callable[[Tensor, Tensor], Tensor]


def reference_loss(loss: ResolutionLoss) -> Loss:
    """The same value as `loss`, computed with a trainable loss network and no frozen target."""
    for buffer in loss.features.buffers():
        buffer.requires_grad_(True)

    def call(fx: Tensor, y: Tensor) -> Tensor:
        total = loss.alpha * (fx - y).square().mean((1, 2, 3))
        for a, b in zip(loss.features(fx), loss.features(y), strict=True):
            total = total + (a - b).square().sum((1, 2, 3)) / (a.shape[2] * a.shape[3])
        return total

    return call


def stepper(
    config: Config,
    loss: Loss,
    args: argparse.Namespace,
    device: torch.device,
    *,
    channels_last: bool = False,
    bf16: bool = False,
    compiled: bool = False,
) -> Callable[[], Tensor]:
    """A function that takes one training step on a batch in memory and returns the loss."""
    torch.manual_seed(args.seed)
    net: nn.Module = config.model().to(device)
    cx, ys = batch_of(config, args.bs, device)
    codes = CodeGenerator(net.code_sizes, device=device)(args.bs)
    if channels_last:
        net = net.to(memory_format=torch.channels_last)
        cx = cx.contiguous(memory_format=torch.channels_last)
        ys = [y.contiguous(memory_format=torch.channels_last) for y in ys]
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)
    forward = torch.compile(net) if compiled else net

    def step() -> Tensor:
        low = torch.autocast(device.type, torch.bfloat16) if bf16 else contextlib.nullcontext()
        with low:
            images = forward(cx, codes)
            total = imle_loss(loss, images, ys)
        total.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return total.detach()

    return step


def compare(name: str, config: Config, args: argparse.Namespace, device: torch.device) -> None:
    """Time the options on one configuration and print a table."""
    plain = reference_loss(make_loss(args, device, fused=False))
    ours = make_loss(args, device, fused=False)
    last, fused = (
        make_loss(args, device, fused=on).to(memory_format=torch.channels_last)
        for on in (False, True)
    )
    steps = {
        "reference": stepper(config, plain, args, device),
        "frozen loss": stepper(config, ours, args, device),
        "+ channels_last": stepper(config, last, args, device, channels_last=True),
        "+ bf16": stepper(config, last, args, device, channels_last=True, bf16=True),
        "+ fused distance": stepper(config, fused, args, device, channels_last=True, bf16=True),
    }
    if args.compile:
        steps["+ compile"] = stepper(
            config, fused, args, device, channels_last=True, bf16=True, compiled=True
        )
    print(f"\n{name}: res {' '.join(map(str, config.res))}, batch {args.bs}", flush=True)
    first = {label: step().item() for label, step in steps.items()}
    print("loss of the first step: " + ", ".join(f"{k} {v:.5f}" for k, v in first.items()))
    times = take_turns(steps, 1 if args.quick else args.repeats, device)
    print(table(times, args.bs, "images"), flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    parser.set_defaults(configs=["small", "default"])
    parser.add_argument("--bs", type=int, default=4, help="images of a step")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=False)
    prepare(parser)
    args = parser.parse_args(argv)
    device = start(args)
    if args.quick:
        args.configs = [c for c in args.configs if c.endswith("small")]
    for name in args.configs:
        compare(name, CONFIGS[name], args, device)


if __name__ == "__main__":
    main()
