"""Seconds of a step of omnigan: `python -m benchmarks.omnigan_step` (`--quick`: does it run?).

The losses of generator, discriminators and classifier and their gradients, on a batch of each of
four domains; each line adds to the one before:

plain              as the original computes a step: every domain by itself, encoded anew by every
                   loss, translated anew for the discriminators, whose gradient goes on into the
                   generator; SPADE with a convolution each for gamma and beta, and a normalisation
                   and a resized condition for each of its layers.
detached           neither discriminators nor classifier reach the generator (the same gradients).
one pass           one encoder pass of all domains, all of a kind through each network at once, and
                   the pictures of the generator's update for the discriminators.
shared SPADE       gamma and beta in one convolution, a block's normalisation and resized
                   condition once.
channels_last      weights and pictures in that memory format.
bf16               the same under autocast to bf16 (only with `--bf16`: processors that do not have
                   it emulate it, many times slower).

Each one's losses and gradients are compared with those of plain. On one CPU thread times are the
process's own; the ratio is the median over rounds of plain / this one. `--parts` adds where the
time goes, by module.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.imle_setup import add_running, begin, parser_of
from benchmarks.layout_attention import seconds
from models.omnigan import (
    DOMAINS,
    DomainClassifier,
    OmniGenerator,
    Shared,
    Weights,
    classifier_loss,
    discriminator_loss,
    generator_loss,
    make_discriminators,
    make_losses,
    other_flood,
    other_reality,
)
from models.omnigan.shared import frozen
from models.omnigan.spade import SPADE, SPADEResnetBlock
from models.omnigan.steps import PHASES, consistency

LOSSES = make_losses(soft_shift=0, flip_prob=0)
WEIGHTS = Weights(t_hm=0)
LINES = ("detached", "one pass", "shared SPADE", "channels_last")
Nets = tuple[OmniGenerator, Any, nn.Module]
Found = tuple[Tensor, Tensor]  # losses of generator, discriminators, classifier; gradients of all


class PlainSPADE(SPADE):
    """As published: a normalisation, a resized condition, and three convolutions."""

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        hidden = self.mlp_shared(F.interpolate(cond, x.shape[-2:], mode="nearest"))
        return self.param_free_norm(x) * (1 + self.mlp_gamma(hidden)) + self.mlp_beta(hidden)


class PlainBlock(SPADEResnetBlock):
    """As published: each SPADE by itself."""

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        around = x
        if self.norm_s is not None and self.conv_s is not None:
            around = self.conv_s(self.norm_s(x, cond))
        dx = self.conv_0(F.leaky_relu(self.norm_0(x, cond), 0.2))
        return around + self.conv_1(F.leaky_relu(self.norm_1(dx, cond), 0.2))


def plain_spade(G: nn.Module) -> None:
    """SPADE as published, in place."""
    for module in G.modules():
        if isinstance(module, SPADEResnetBlock):
            module.__class__ = PlainBlock
        elif isinstance(module, SPADE):
            module.__class__ = PlainSPADE


def plain_step(nets: Nets, batches: dict[str, Any], phase: str, detached: bool) -> Found:
    """The three losses as the original computes them; masks of consistency are ones."""
    G, D, C = nets
    of, W = LOSSES["G"], WEIGHTS

    def cond(z: Tensor) -> Tensor:
        return G.conditioning(G.decode_tasks(z))

    def represent() -> Tensor:
        total = torch.zeros(())
        for domain, batch in batches.items():
            x = batch["data"]["x"]
            z = G.encode(x)
            total = total + of["classifier"](C(z), domain)
            for task, output in G.decode_tasks(z).items():
                total = total + of["tasks"][task](output, batch["data"][task])
            total = total + of["auto"]["t"](G.translate(z, cond(z), domain), x)
            total = total + of["auto"]["a"](G.adapt(z, domain[0]), x)
        for domain in DOMAINS:
            x, to = batches[domain]["data"]["x"], other_reality(domain)
            fake = G.adapt(G.encode(x), to[0])
            cycle = G.adapt(G.encode(fake), domain[0])
            heads = D["a"]
            total = total + of["gan"]["a"](heads[to[0]](fake), True)
            total = total + of["gan"]["a"](heads[domain[0]](cycle), True)
            total = total + of["cycle"]["a"](cycle, x)
        return total

    def translate() -> Tensor:
        total = torch.zeros(())
        for domain in DOMAINS:
            x, to = batches[domain]["data"]["x"], other_flood(domain)
            z = G.encode(x)
            fake = G.translate(z, cond(z), to)
            z_fake = G.encode(fake)
            cycle = G.translate(z_fake, cond(z_fake), domain)
            heads = D["t"]
            total = total + of["gan"]["t"](heads[to[1]](fake), True)
            total = total + of["gan"]["t"](heads[domain[1]](cycle), True)
            total = total + of["cycle"]["t"](cycle, x)
            real = G.decode_tasks(z, "ds")
            decoders = [G.decoders[task] for task in "ds"]
            with frozen(*decoders):
                seen = G.decode_tasks(z_fake, "ds")
            ones = torch.ones_like(x[:, :1])
            for task in "ds":
                total = total + consistency(task, seen[task], real[task], ones)
        return total

    def discriminate() -> Tensor:
        total = torch.zeros(())
        for domain, batch in batches.items():
            x = batch["data"]["x"]
            with torch.set_grad_enabled(not detached):
                z = G.encode(x)
                a, t = other_reality(domain)[0], other_flood(domain)[1]
                fakes = {"a": G.adapt(z, a), "t": G.translate(z, cond(z), t)}
            for task, other, own in (("a", a, domain[0]), ("t", t, domain[1])):
                total = total + LOSSES["D"](D[task][own](x), True, discriminator=True)
                total = total + LOSSES["D"](D[task][other](fakes[task]), False, discriminator=True)
        return total

    def classify() -> Tensor:
        total = torch.zeros(())
        for domain, batch in batches.items():
            with torch.set_grad_enabled(not detached):
                z = G.encode(batch["data"]["x"])
            total = total + LOSSES["C"](C(z), domain) * W.C
        return total

    return _backward(
        nets, represent if phase == "representation" else translate, discriminate, classify
    )


def our_step(nets: Nets, batches: dict[str, Any], phase: str) -> Found:
    """The three losses as train_omnigan.py computes them."""
    G, D, C = nets
    shared = Shared(G, batches)
    made: dict[str, Any] = {}

    def generate() -> Tensor:
        terms = generator_loss(shared, D, C, LOSSES, WEIGHTS, (phase,), "ones")
        made.update(terms.fakes)
        return terms.total

    return _backward(
        nets, generate,
        lambda: discriminator_loss(shared, D, LOSSES, made).total,
        lambda: classifier_loss(shared, C, LOSSES, WEIGHTS).total,
    )  # fmt: skip


def _backward(nets: Nets, *losses: Callable[[], Tensor]) -> Found:
    """Each loss and the gradients of its own network, as an update would take them."""
    values, grads = [], []
    for net, loss in zip(nets, losses, strict=True):
        value = loss()
        value.backward()
        own = [p.grad.flatten() for p in net.parameters() if p.grad is not None]
        values.append(value.detach())
        grads.append(torch.cat(own))
        for each in nets:  # what went into the others is thrown away
            each.zero_grad()
    return torch.stack(values), torch.cat(grads)


# ------------------------------------------------------------------------------- the lines


class Step:
    """Networks of their own, and a way to compute their step."""

    def __init__(
        self,
        nets: Nets,
        batches: dict[str, Any],
        phase: str,
        how: str,
        *,
        spade: bool,
        last: bool = False,
        dtype: torch.dtype | None = None,
    ) -> None:
        form = torch.channels_last if last else torch.contiguous_format
        self.nets: Any = tuple(copy.deepcopy(net).to(memory_format=form) for net in nets)
        if not spade:
            plain_spade(self.nets[0])
        self.batches = {
            d: {"data": {k: v.contiguous(memory_format=form) if v.ndim == 4 else v
                         for k, v in b["data"].items()}}
            for d, b in batches.items()
        }  # fmt: skip
        self.phase, self.how, self.dtype = phase, how, dtype
        self.found: Found | None = None

    def __call__(self) -> None:
        for net in self.nets:
            net.zero_grad()
        device = next(self.nets[0].parameters()).device.type
        with torch.autocast(device, self.dtype, enabled=self.dtype is not None):
            if self.how == "ours":
                self.found = our_step(self.nets, self.batches, self.phase)
            else:
                self.found = plain_step(self.nets, self.batches, self.phase, self.how == "detached")


def lines(
    nets: Nets, batches: dict[str, Any], phase: str, bf16: bool
) -> dict[str, Callable[[], Step]]:
    """How the step of each line is made."""
    common = (nets, batches, phase)
    found = {
        "plain": lambda: Step(*common, "plain", spade=False),
        "detached": lambda: Step(*common, "detached", spade=False),
        "one pass": lambda: Step(*common, "ours", spade=False),
        "shared SPADE": lambda: Step(*common, "ours", spade=True),
        "channels_last": lambda: Step(*common, "ours", spade=True, last=True),
    }
    if bf16:
        found["bf16"] = lambda: Step(*common, "ours", spade=True, last=True, dtype=torch.bfloat16)
    return found


def parts(step: Step) -> dict[str, float]:
    """Seconds of forward passes by module, of one step; the rest is mostly backward."""
    spent: dict[str, float] = {}
    G, D, C = step.nets
    watched = {"encoder": G.encoder, "discriminators": D["a"]["r"], "classifier": C}
    watched |= {f"decoder {task}": G.decoders[task] for task in "dhsw"}
    watched |= {"translation": G.decoders["t"]["shared"], "adaptation": G.decoders["a"]["r"]}
    again = {"discriminators": [D["a"]["s"], D["t"]["f"], D["t"]["n"]],
             "adaptation": [G.decoders["a"]["s"]]}  # fmt: skip
    hooks = []
    for name, module in watched.items():
        for each in (module, *again.get(name, [])):
            begun: list[float] = []
            hooks.append(
                each.register_forward_pre_hook(
                    lambda *_, begun=begun: begun.append(time.process_time())
                )
            )
            hooks.append(
                each.register_forward_hook(
                    lambda *_, begun=begun, name=name: spent.__setitem__(
                        name, spent.get(name, 0.0) + time.process_time() - begun.pop()
                    )
                )
            )
    began = time.process_time()
    step()
    whole = time.process_time() - began
    for hook in hooks:
        hook.remove()
    return {**spent, "backward, losses": whole - sum(spent.values())}


def setup(args: argparse.Namespace, device: torch.device) -> tuple[Nets, dict[str, Any]]:
    """Networks and a batch of each domain. The classifier's normalisation is of groups, so that all
    domains can go through it at once, as those of the other networks can; in evaluation spectral
    normalisation does not iterate, so that all lines have the same weights."""
    torch.manual_seed(args.seed)
    decoder = {"n_res": args.n_res}
    G = OmniGenerator(
        encoder={"dim": args.dim, "n_res": args.n_res, "n_downsample": 2 if args.quick else 3},
        a=decoder, d=decoder, h=decoder, s=decoder, w=decoder,
    )  # fmt: skip
    head = {"ndf": args.dim, "n_layers": 1 if args.quick else 3}
    D = make_discriminators(a=head, t=head)
    C = DomainClassifier(G.latent_shape((args.res, args.res)), norm="group")
    batches = {}
    for domain in DOMAINS:
        u = torch.rand(3, args.batch, 3, args.res, args.res)
        labels = {"d": u[1, :, :1], "h": u[1, :, 1:2], "w": (u[1, :, 2:] > 0.5).float()}
        data = {"x": u[0] * 2 - 1, "s": (u[2, :, 0] * 19).long(), **labels}
        batches[domain] = {"data": {k: v.to(device) for k, v in data.items()}}
    nets = G.to(device).eval(), D.to(device).eval(), C.to(device).eval()
    return nets, batches


def far(found: Found, plain: Found) -> tuple[float, float]:
    """How far losses (the largest of the three) and gradients are from plain's, relative."""
    off = float(((found[0] - plain[0]).abs() / plain[0].abs()).max())
    return off, float((found[1] - plain[1]).norm() / plain[1].norm())


def main(argv: Sequence[str] | None = None) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--res", type=int, default=128)
    parser.add_argument("--batch", type=int, default=1, help="pictures of each domain")
    parser.add_argument("--dim", type=int, default=16, help="first width of encoder and critics")
    parser.add_argument("--n_res", type=int, default=2, help="residual blocks of each network")
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=["translation"])
    parser.add_argument("--lines", nargs="+", choices=LINES, help="beside plain (default: all)")
    parser.add_argument("--bf16", action="store_true", help="bf16 too")
    parser.add_argument("--parts", action="store_true", help="where the time goes too")
    parser.add_argument("--repeats", type=int, default=3, help="rounds; the lines take turns")
    add_running(parser)
    args = parser.parse_args(argv)
    if args.quick:
        args.res, args.dim, args.n_res, args.repeats = 16, 4, 1, 1
    device = begin(args)
    nets, batches = setup(args, device)
    number = sum(p.numel() for net in nets for p in net.parameters())
    print(f"{number:,} parameters, 4 x {args.batch} of {args.res} x {args.res}")
    for phase in args.phases:
        makers = lines(nets, batches, phase, args.bf16)
        wanted = ["plain", *(name for name in args.lines or makers if name != "plain")]
        steps = {name: makers[name]() for name in wanted}
        found: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(args.repeats):
            for name, step in steps.items():
                found[name].append(seconds(step, device))
        plain = steps["plain"].found
        assert plain is not None
        print(f"\n| step, {phase} | median s | times faster | losses | gradients |")
        print("|---|---|---|---|---|")
        for name, took in found.items():
            ratios = [a / b for a, b in zip(found["plain"], took, strict=True)]
            off = far(steps[name].found or plain, plain)
            print(
                f"| {name} | {statistics.median(took):.2f} | {statistics.median(ratios):.2f} "
                f"({min(ratios):.2f}-{max(ratios):.2f}) | {off[0]:.0e} | "
                f"{off[1]:.0e} |"
            )
        if args.parts:
            for name in ("plain", wanted[-1]):
                spent = parts(steps[name])
                print(f"\n| {name}, {phase} | s | share |")
                print("|---|---|---|")
                for part, of_it in sorted(spent.items(), key=lambda item: -item[1]):
                    print(f"| {part} | {of_it:.2f} | {of_it / sum(spent.values()):.0%} |")


if __name__ == "__main__":
    main()
