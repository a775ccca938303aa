"""Seconds of an EDM2 training step: `python -m benchmarks.edm2_step` (`--quick`: does it run?).

Plain step, on one batch:
straightforward    the formulas as they stand in the paper: forced weight normalisation in every
                   forward pass, each primitive an operation of its own, gradients by autograd;
                   nan_to_num, Adam and two EMAs parameter by parameter.
ours               diffusion.Precond; weight normalisation, Adam and EMAs each once a step for all
                   parameters.
ours bf16          the same with compute_dtype bf16.
ours compiled      torch.compile of the network (only with `--compile`).

AJEST step, on a super-batch, once with a small reference and once with one of the learner's size:
straightforward    as one pass, with the straightforward network and updates (only with `--all`).
one pass           learner with gradient and reference without on all rows, draw, backward from the
                   chosen rows' losses through all rows; our network and updates.
two passes         learner and reference without gradient on all rows, draw, then forward and
                   backward on the chosen rows alone, with their sigma, noise, labels and dropout.

Before, on a quarter of the super-batch: the gradient of ours against that of the straightforward
network, and of two passes against one, without dropout and with it.

On one CPU thread times are the thread's own, so that other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.imle_setup import start, table
from diffusion import (
    Block,
    Precond,
    normalize_weights,
    per_pixel_loss,
    set_forced_weight_norm,
)
from diffusion.mp import MPConv
from runtime import ema as emas
from runtime.cli import prepare
from selection import jointly_sample_batch

STDS = (0.05, 0.1)


class Batch(NamedTuple):
    images: Tensor
    sigma: Tensor
    noise: Tensor
    labels: Tensor
    keys: Tensor

    def take(self, rows: Tensor) -> Batch:
        return Batch(*(t[rows] for t in self))


# --------------------------------------------------------------------- the straightforward network


def plain_normalize(x: Tensor, dim: Sequence[int]) -> Tensor:
    norm = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    return x / (1e-4 + norm * math.sqrt(norm.numel() / x.numel()))


def plain_sum(a: Tensor, b: Tensor, t: float) -> Tensor:
    return a.lerp(b, t) / math.sqrt((1 - t) ** 2 + t**2)


def plain_silu(x: Tensor) -> Tensor:
    return F.silu(x) / 0.596


def plain_conv(layer: MPConv, x: Tensor, gain: float | Tensor = 1.0) -> Tensor:
    dims = list(range(1, layer.weight.ndim))
    if layer.training:
        with torch.no_grad():
            layer.weight.copy_(plain_normalize(layer.weight, dims))
    w = plain_normalize(layer.weight, dims)
    w = w * (gain / math.sqrt(w[0].numel()))
    return x @ w.t() if w.ndim == 2 else F.conv2d(x, w, padding=w.shape[-1] // 2)


def plain_block(block: Block, x: Tensor, emb: Tensor) -> Tensor:
    if block.resample_mode != "keep":
        kernel = torch.full((x.shape[1], 1, 2, 2), 0.25, device=x.device)
        if block.resample_mode == "down":
            x = F.conv2d(x, kernel, groups=x.shape[1], stride=2)
        else:
            x = F.conv_transpose2d(x, kernel * 4, groups=x.shape[1], stride=2)
    if block.flavor == "enc":
        x = x if block.conv_skip is None else plain_conv(block.conv_skip, x)
        x = plain_normalize(x, [1])
    y = plain_conv(block.conv_res0, plain_silu(x))
    c = plain_conv(block.emb_linear, emb, block.emb_gain) + 1
    y = plain_conv(block.conv_res1, plain_silu(y * c[:, :, None, None]))
    if block.flavor == "dec" and block.conv_skip is not None:
        x = plain_conv(block.conv_skip, x)
    x = plain_sum(x, y, block.res_balance)
    if block.heads:
        n, c, height, width = x.shape
        y = plain_conv(block.attn_qkv, x).reshape(n, block.heads, -1, 3, height * width)
        q, k, v = plain_normalize(y, [2]).unbind(3)
        w = torch.einsum("nhcq,nhck->nhqk", q, k / math.sqrt(q.shape[2])).softmax(3)
        y = torch.einsum("nhqk,nhck->nhcq", w, v).reshape(n, c, height, width)
        x = plain_sum(x, plain_conv(block.attn_proj, y), block.attn_balance)
    return x.clip_(-block.clip_act, block.clip_act)


class Straightforward(nn.Module):
    """The same network, with the parameters of `net`, without labels' absence, dropout, dtypes."""

    def __init__(self, net: Precond) -> None:
        super().__init__()
        self.net = net

    def forward(
        self, x: Tensor, sigma: Tensor, labels: Tensor, return_logvar: bool, **unused: object
    ) -> tuple[Tensor, Tensor]:
        net, unet, sd = self.net, self.net.unet, self.net.sigma_data
        variance = sigma**2 + sd**2
        c_noise = sigma.flatten().log() / 4
        emb = plain_conv(unet.emb_noise, unet.emb_fourier(c_noise))
        labels = plain_conv(unet.emb_label, labels * math.sqrt(labels.shape[1]))
        emb = plain_silu(plain_sum(emb, labels, unet.label_balance))
        y, skips = x / variance.sqrt(), []
        y = torch.cat([y, torch.ones_like(y[:, :1])], 1)
        for module in unet.enc.values():
            y = plain_conv(module, y) if isinstance(module, MPConv) else plain_block(module, y, emb)
            skips.append(y)
        for name, module in unet.dec.items():
            if "block" in name:
                skip, t = skips.pop(), unet.concat_balance
                n, m = y.shape[1], skip.shape[1]
                scale = math.sqrt((n + m) / ((1 - t) ** 2 + t**2))
                a, b = scale * (1 - t) / math.sqrt(n), scale * t / math.sqrt(m)
                y = torch.cat([a * y, b * skip], 1)
            y = plain_block(module, y, emb)
        y = plain_conv(unet.out_conv, y, unet.out_gain)
        u = plain_conv(net.logvar_linear, net.logvar_fourier(c_noise)).reshape(-1, 1, 1, 1)
        return sd**2 / variance * x + sigma * sd / variance.sqrt() * y, u


# -------------------------------------------------------------------------------------- the updates


class Learner:
    """A network with its optimizers and averages; every method trains the same one, in turns."""

    def __init__(self, net: Precond, device: torch.device) -> None:
        self.net = net.train()
        self.nimg = 0
        betas = dict(lr=1e-4, betas=(0.9, 0.99))
        self.fused = torch.optim.Adam(net.parameters(), fused=True, **betas)
        self.single = torch.optim.Adam(net.parameters(), foreach=False, **betas)
        self.averages = [emas.EMA(net, emas.power(std)) for std in STDS]

    def begin(self, ours: bool) -> None:
        set_forced_weight_norm(self.net, False)
        if ours:
            normalize_weights(self.net)

    def end(self, ours: bool, images: int) -> None:
        self.nimg += images
        if ours:
            self.fused.step()
            for average in self.averages:
                average.update(self.net, self.nimg, images)
        else:
            for p in self.net.parameters():
                torch.nan_to_num(p.grad, nan=0, posinf=0, neginf=0, out=p.grad)
            self.single.step()
            with torch.no_grad():
                for average in self.averages:
                    beta = average.profile(self.nimg, images)
                    pairs = zip(average.module.parameters(), self.net.parameters(), strict=True)
                    for old, new in pairs:
                        old.lerp_(new, 1 - beta)
        self.net.zero_grad(set_to_none=True)


def losses(net: nn.Module, batch: Batch) -> Tensor:
    """Of every row, summed over channels and pixels."""
    images, sigma, noise, labels, keys = batch
    each = per_pixel_loss(net, images, sigma, noise, labels, sigma_data=0.5, dropout_keys=keys)
    return each.sum((1, 2, 3))


def draw(learner: Tensor, ref: Tensor, args: argparse.Namespace) -> Tensor:
    generator = torch.Generator(learner.device).manual_seed(args.seed)
    return jointly_sample_batch(learner, ref, args.n, args.filt, generator=generator)


def one_pass(
    forward: nn.Module, ref: nn.Module, batch: Batch, pick: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Gradient of the mean loss of the chosen rows, through all rows; returns the rows."""
    learner = losses(forward, batch)
    with torch.no_grad():
        rows = pick(learner.detach(), losses(ref, batch))
    learner[rows].mean().backward()
    return rows


def two_passes(
    forward: nn.Module, ref: nn.Module, batch: Batch, pick: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """The same gradient, from the chosen rows alone."""
    with torch.no_grad():  # one call each: frozen_weights would have nothing to reuse
        rows = pick(losses(forward, batch), losses(ref, batch))
    losses(forward, batch.take(rows)).mean().backward()
    return rows


# --------------------------------------------------------------------------------------- the tables


def network(channels: int, args: argparse.Namespace, device: torch.device) -> Precond:
    """With gains as after some training: at 0, as they begin, most gradients would be 0."""
    net = Precond(args.res, 3, args.labels, model_channels=channels)
    net.compute_dtype = torch.bfloat16 if args.precision == "bf16" else torch.float32
    with torch.no_grad():
        for name, p in net.named_parameters():
            if name.endswith("gain"):
                p.fill_(0.5)
    normalize_weights(net)
    return net.to(device)


def batch_of(n: int, args: argparse.Namespace, device: torch.device) -> Batch:
    images = torch.randn(n, 3, args.res, args.res) * 0.5
    sigma = (torch.randn(n) - 0.4).exp()
    labels = F.one_hot(torch.arange(n) % args.labels, args.labels).float()
    return Batch(
        *(t.to(device) for t in (images, sigma, torch.randn_like(images), labels, torch.arange(n)))
    )


def check_straightforward(learner: Learner, batch: Batch) -> None:
    """Both networks are the same function, with the same gradient."""
    if learner.net.compute_dtype != torch.float32:
        return
    found = []
    for ours in (False, True):
        learner.begin(ours)
        net = learner.net if ours else Straightforward(learner.net)
        losses(net, batch).mean().backward()
        found.append([p.grad for p in learner.net.parameters()])
        learner.net.zero_grad(set_to_none=True)
    print(f"gradient of ours against straightforward: {difference(*found)}", flush=True)


def check_gradients(learner: Learner, ref: Precond, batch: Batch, args: argparse.Namespace) -> None:
    """Two passes against one, of the same weights, with and without dropout."""
    blocks = [m for m in learner.net.modules() if isinstance(m, Block)]
    for dropout in (0.0, 0.1):
        for block in blocks:
            block.dropout = dropout
        learner.begin(ours=True)
        rows = one_pass(learner.net, ref, batch, lambda a, b: draw(a, b, args))
        whole = [p.grad for p in learner.net.parameters()]
        learner.net.zero_grad(set_to_none=True)
        picked = two_passes(learner.net, ref, batch, lambda a, b: draw(a, b, args))
        same = "the same rows" if torch.equal(rows, picked) else f"OTHER ROWS {rows} {picked}"
        some = [p.grad for p in learner.net.parameters()]
        learner.net.zero_grad(set_to_none=True)
        print(
            f"gradient of two passes against one, dropout {dropout}: {same} ({len(rows)} of "
            f"{len(batch.keys)}), {difference(whole, some)}",
            flush=True,
        )
    for block in blocks:
        block.dropout = args.dropout


def difference(a: list[Tensor], b: list[Tensor]) -> str:
    """Of two gradients: of the whole vectors, and of the worst parameter."""
    each = [((x - y).norm(), x.norm()) for x, y in zip(a, b, strict=True)]
    errors, norms = (torch.stack(v).double() for v in zip(*each, strict=True))
    whole, worst = (errors.norm() / norms.norm()).item(), (errors / norms).max().item()
    return f"|difference| / |gradient| {whole:.1e}, largest of a parameter {worst:.1e}"


def take_turns(
    steps: dict[str, Callable[[], None]], repeats: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of each, in turns; on one CPU thread its own time."""
    own = device.type == "cpu" and torch.get_num_threads() == 1
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(repeats + (device.type == "cuda")):  # a GPU warms up
        for name, step in steps.items():
            _wait(device)
            began = time.process_time() if own else time.perf_counter()
            step()
            _wait(device)
            ended = time.process_time() if own else time.perf_counter()
            if turn or device.type != "cuda":
                times[name].append(ended - began)
    return times


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def compare_plain(learner: Learner, batch: Batch, args: argparse.Namespace) -> None:
    net, device = learner.net, batch.images.device

    def stepper(forward: nn.Module, ours: bool, low: bool = False) -> Callable[[], None]:
        def step() -> None:
            net.compute_dtype = torch.bfloat16 if low else before
            learner.begin(ours)
            losses(forward, batch).mean().backward()
            learner.end(ours, len(batch.keys))
            net.compute_dtype = before

        return step

    before = net.compute_dtype
    steps = {
        "straightforward": stepper(Straightforward(net), False),
        "ours": stepper(net, True),
    }
    if args.precision == "fp32":
        steps["ours bf16"] = stepper(net, True, low=True)
    if args.compile:
        steps["ours compiled"] = stepper(torch.compile(net), True)
    print(f"\nplain step, {args.channels} channels, batch {args.batch} of {args.res}x{args.res}")
    times = take_turns(steps, args.repeats, device)
    print(table(times, args.batch, "images"), flush=True)


def compare_ajest(
    learner: Learner, ref: Precond, channels: int, batch: Batch, args: argparse.Namespace
) -> None:
    def stepper(
        way: Callable[..., Tensor], forward: nn.Module, reference: nn.Module, ours: bool
    ) -> Callable[[], None]:
        def step() -> None:
            learner.begin(ours)
            rows = way(forward, reference, batch, lambda a, b: draw(a, b, args))
            learner.end(ours, len(rows))

        return step

    net = learner.net
    steps = {
        "one pass": stepper(one_pass, net, ref, True),
        "two passes": stepper(two_passes, net, ref, True),
    }
    if args.all:
        plain = stepper(one_pass, Straightforward(net), Straightforward(ref), False)
        steps = {"straightforward": plain, **steps}
    print(
        f"\nAJEST step, {args.channels} channels, reference {channels}, filter {args.filt}, "
        f"super-batch {args.super_batch} of {args.res}x{args.res}"
    )
    times = take_turns(steps, args.repeats, batch.images.device)
    print(table(times, args.super_batch, "candidates"))
    if args.all:
        ratios = [a / b for a, b in zip(times["one pass"], times["two passes"], strict=True)]
        print(
            f"two passes against one pass: {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f}-{max(ratios):.2f})"
        )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--res", type=int, default=16)
    parser.add_argument("--batch", type=int, default=32, help="images of a plain step")
    parser.add_argument("--super_batch", type=int, default=64, help="candidates of an AJEST step")
    parser.add_argument("--channels", type=int, default=128, help="of the learner (xs: 128)")
    parser.add_argument("--ref_channels", type=int, default=64, help="of the reference (xxs: 64)")
    parser.add_argument("--labels", type=int, default=10)
    parser.add_argument("--dropout", type=float, default=0.0, help="while timing")
    parser.add_argument("--filt", type=float, default=0.8, help="share of the candidates left out")
    parser.add_argument("--n", type=int, default=8, help="chunks of a draw")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=False)
    parser.add_argument("--all", action="store_true", help="AJEST straightforward too")
    parser.add_argument("--parts", nargs="+", choices=("plain", "small", "same"), default=None)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads")
    parser.add_argument("--repeats", type=int, default=3, help="rounds; the methods take turns")
    parser.add_argument("--quick", action="store_true", help="seconds: does it run?")
    parser.add_argument("--seed", type=int, default=0)
    prepare(parser)
    args = parser.parse_args(argv)
    if args.quick:
        args.res, args.channels, args.ref_channels, args.repeats = 8, 16, 8, 1
        args.batch = args.super_batch = 16
    parts = args.parts or ("plain", "small", "same")
    device = start(args)
    learner = Learner(network(args.channels, args, device), device)
    ref = network(args.ref_channels, args, device).eval().requires_grad_(False)
    batch, candidates = (batch_of(n, args, device) for n in (args.batch, args.super_batch))
    few = candidates.take(torch.arange(max(args.super_batch // 4, 10), device=device))
    check_straightforward(learner, few)
    check_gradients(learner, ref, few, args)
    for ours in (True, False):  # the first step of an optimizer makes its state
        losses(learner.net, few).mean().backward()
        learner.end(ours, len(few.keys))
    if "plain" in parts:
        compare_plain(learner, batch, args)
    if "small" in parts:
        compare_ajest(learner, ref, args.ref_channels, candidates, args)
    if "same" in parts:
        ref = copy.deepcopy(learner.averages[0].module)
        compare_ajest(learner, ref, args.channels, candidates, args)


if __name__ == "__main__":
    main()
