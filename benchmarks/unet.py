"""Seconds of a training step of the U-Net: `python -m benchmarks.unet` (`--quick`: does it run?).

Loss, backward, Adam and one EMA, on one batch; each line adds to the one before:

plain              the reference's form in fp32: attention as two products and a softmax, always
                   checkpointed; Adam and EMA parameter by parameter.
no checkpoint      activations of attention are kept (`use_checkpoint` is off).
SDPA               torch's scaled_dot_product_attention.
channels_last      weights and images in that memory format.
ours               Adam and EMA each in a few calls for all parameters.
ours bf16          the same under autocast to bf16 (only with `--bf16`: processors without AVX-512
                   emulate it, many times slower).
ours compiled      torch.compile of the network (only with `--compile`).
recomputed         ours with `use_checkpoint`: what memory saved costs (only with `--checkpoint`).

Before, the gradient of each is compared with that of plain. On one CPU thread times are the
process's own; the ratio is the median over rounds of plain / this one.
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from benchmarks.imle_setup import add_running, begin, parser_of
from benchmarks.layout_attention import seconds
from models.ddpm import AttentionBlock, UNet
from runtime.ema import EMA


class PlainAttention(AttentionBlock):
    """The reference's attention: convolutions, products over [B heads, C, L], checkpointed."""

    keep = False

    def forward(self, x: Tensor) -> Tensor:
        return self.plain(x) if self.keep else checkpoint(self.plain, x, use_reentrant=False)

    def plain(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        rows = x.reshape(batch, channels, -1)
        qkv = self.qkv(self.norm(rows)).reshape(batch * self.heads, -1, height * width)
        q, k, v = qkv.chunk(3, 1)
        scale = 1 / math.sqrt(math.sqrt(q.shape[1]))
        weight = torch.einsum("bct,bcs->bts", q * scale, k * scale)
        weight = torch.softmax(weight.float(), dim=-1).type(weight.dtype)
        a = torch.einsum("bts,bcs->bct", weight, v).reshape(batch, channels, -1)
        return (rows + self.proj_out(a)).reshape(x.shape)


class KeptAttention(PlainAttention):
    keep = True


class Step:
    """A network with its optimizer and average; calling it takes a training step."""

    def __init__(
        self,
        net: nn.Module,
        batch: tuple[Tensor, ...],
        *,
        plain_updates: bool = True,
        dtype: torch.dtype | None = None,
        last: bool = False,
        compiled: bool = False,
    ) -> None:
        layout = torch.channels_last if last else torch.contiguous_format
        self.net = net.to(memory_format=layout)  # type: ignore[call-overload]
        self.x, self.t, self.eps = batch
        self.x = self.x.contiguous(memory_format=layout)
        self.forward = torch.compile(net) if compiled else net
        self.dtype = dtype
        kind = dict(foreach=False) if plain_updates else dict(fused=True)
        self.optimizer = torch.optim.Adam(net.parameters(), lr=1e-4, **kind)
        self.average = copy.deepcopy(net).requires_grad_(False) if plain_updates else EMA(net, 0.99)

    def backward(self) -> None:
        """Gradients of the batch."""
        device = self.x.device.type
        with torch.autocast(device, self.dtype, enabled=self.dtype is not None):
            out = self.forward(self.x, self.t)
        (out.float() - self.eps).square().mean().backward()

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        self.backward()
        self.optimizer.step()
        if isinstance(self.average, EMA):
            self.average.update(self.net, 1000, len(self.x))
            return
        with torch.no_grad():
            for a, b in zip(self.average.parameters(), self.net.parameters(), strict=True):
                a.mul_(0.99).add_(b, alpha=0.01)


def network(args: argparse.Namespace, device: torch.device, attention: str = "AttentionBlock"):
    """The network of `--channels`, ..., with the same random weights, none of them 0."""
    torch.manual_seed(args.seed)
    net = UNet(
        args.image_channels,
        args.image_channels,
        model_channels=args.channels,
        channel_mult=args.mult,
        num_res_blocks=args.blocks,
        attention_resolutions=args.attention,
        num_heads=args.heads,
        attn_block_type=attention,
        blocks={c.__name__: c for c in (PlainAttention, KeptAttention)},
    )
    for parameter in net.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return net.to(device)


def methods(args: argparse.Namespace, device: torch.device) -> dict[str, Callable[[], Step]]:
    """How each line's step is made; made one after the other, each with its own weights."""
    generator = torch.Generator().manual_seed(args.seed)
    shape = (2, args.batch, args.image_channels, args.res, args.res)
    x, eps = torch.randn(shape, generator=generator).to(device)
    t = torch.linspace(0, 999, args.batch, device=device)
    batch = (x, t, eps)

    def recomputed() -> Step:
        net = network(args, device)
        net.set_checkpoint(True)
        return Step(net, batch, last=True, plain_updates=False)

    ours = dict(last=True, plain_updates=False)
    found: dict[str, Callable[[], Step]] = {
        "plain": lambda: Step(network(args, device, "PlainAttention"), batch),
        "no checkpoint": lambda: Step(network(args, device, "KeptAttention"), batch),
        "SDPA": lambda: Step(network(args, device), batch),
        "channels_last": lambda: Step(network(args, device), batch, last=True),
        "ours": lambda: Step(network(args, device), batch, **ours),
    }
    if args.bf16:
        found["ours bf16"] = lambda: Step(
            network(args, device), batch, dtype=torch.bfloat16, **ours
        )
    if args.compile:
        found["ours compiled"] = lambda: Step(network(args, device), batch, compiled=True, **ours)
    if args.checkpoint:
        found["recomputed"] = recomputed
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--res", type=int, default=32)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--image_channels", type=int, default=1)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument(
        "--mult", nargs="+", type=int, default=[1, 2, 2], help="width of each level"
    )
    parser.add_argument("--blocks", type=int, default=2, help="residual blocks a level")
    parser.add_argument("--attention", nargs="+", type=int, default=[2, 4], help="factors")
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--bf16", action="store_true", help="bf16 too")
    parser.add_argument("--compile", action="store_true", help="compiled too")
    parser.add_argument("--checkpoint", action="store_true", help="recomputed activations too")
    parser.add_argument("--repeats", type=int, default=5, help="rounds; the methods take turns")
    add_running(parser)
    args = parser.parse_args(argv)
    if args.quick:
        args.res, args.batch, args.channels, args.repeats = 8, 2, 32, 1
    device = begin(args)
    steps = {name: make() for name, make in methods(args, device).items()}
    number = sum(p.numel() for p in steps["plain"].net.parameters())
    print(f"{number:,} parameters, batch {args.batch} of {args.res} x {args.res}\n")
    gradients = {}
    for name, step in steps.items():
        step.backward()
        gradients[name] = torch.cat([p.grad.flatten() for p in step.net.parameters()])
    plain = gradients["plain"]
    far = {name: float((g - plain).norm() / plain.norm()) for name, g in gradients.items()}
    del gradients
    found: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(args.repeats + 1):
        for name, step in steps.items():
            took = seconds(step, device)
            if turn:  # the first one pays for what is loaded at first use
                found[name].append(took)
    print("| step | median s | times faster | gradient |")
    print("|---|---|---|---|")
    for name, took in found.items():
        ratios = [a / b for a, b in zip(found["plain"], took, strict=True)]
        print(
            f"| {name} | {statistics.median(took):.3f} | {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f}-{max(ratios):.2f}) | {far[name]:.0e} |"
        )


if __name__ == "__main__":
    main()
