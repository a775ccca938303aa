"""One training step of omnigan: losses of generator, discriminators, classifier, in this order.

    shared = Shared(G, batches)
    g = generator_loss(shared, D, C, losses, weights, phases)     # backward, update G
    d = discriminator_loss(shared, D, losses, g.fakes)            # backward, update D
    c = classifier_loss(shared, C, losses, weights)               # backward, update C

The pictures that the generator made for its own update are those that the discriminators judge, and
the classifier sees the latents of them: nothing is computed twice, and neither update reaches the
generator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.omnigan.domains import other_flood, other_reality
from models.omnigan.gan_losses import feature_matching, gradient_penalty, r1_penalty
from models.omnigan.shared import Shared, frozen, over_parts
from models.omnigan.task_losses import bce, nothing, total_variation

PHASES = ("representation", "translation")
MASKS = ("non-water", "ones")
Pictures = dict[str, dict[str, Tensor]]  # {"a" | "t": {domain that they were made of: pictures}}


@dataclass(frozen=True)
class Weights:
    """By what each loss counts.

    d, h, s, w: of the tasks. a_, t_: of adaptation and translation, gan, cycle, auto; feature
    matching, of a picture and its cycle in a multi-scale discriminator. t_sm, t_dm, t_hm: that a
    translation keeps segmentation, depth, height. t_wm: that a flooded one has water where it is
    low. t_tv: total variation of translated pictures.
    classifier: of fooling it; C: of the classifier itself.
    """

    d: float = 1.0
    h: float = 1.0
    s: float = 1.0
    w: float = 1.0
    a_gan: float = 1.0
    a_cycle: float = 1.0
    a_auto: float = 1.0
    a_features: float = 0.0
    t_gan: float = 1.0
    t_cycle: float = 1.0
    t_auto: float = 1.0
    t_features: float = 0.0
    t_sm: float = 1.0
    t_dm: float = 1.0
    t_hm: float = 1.0
    t_wm: float = 0.0
    t_tv: float = 0.0
    classifier: float = 1.0
    C: float = 1.0


@dataclass
class Terms:
    """Losses of an update. total: to go backward from. terms: every loss by name, without its
    weight and without a gradient. fakes: pictures made on the way, without a gradient."""

    total: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)
    fakes: Pictures = field(default_factory=dict)

    def add(self, name: str, value: Tensor, weight: float = 1.0) -> None:
        """A loss, counted and named."""
        self.terms[name] = value.detach()
        if weight:
            self.total = self.total + weight * value


def _no_terms(shared: Shared) -> Terms:
    return Terms(next(iter(shared.x.values())).new_zeros((), dtype=torch.float32))


# ------------------------------------------------------------------------------- the generator


def generator_loss(
    shared: Shared,
    D: nn.ModuleDict,
    C: nn.Module | None,
    losses: Mapping[str, Any],
    weights: Weights,
    phases: Sequence[str] = PHASES,
    mask: str = "non-water",
    flood_height: float = 0.1,
) -> Terms:
    """The generator's loss, of the phases that there are.

    Terms are named task_loss/d/rf, t/auto/rf, a/gan/rn_to_sn, t/dm/rn_to_rf, classifier/rf; beside
    them their weighted sums representation, translation and generator. mask: where translation must
    keep what is there: "non-water", neither in the picture (by its label, or else by the decoder w)
    nor in the translated one, or "ones", everywhere. flood_height: where t_wm wants water, of h.
    `fakes` has what the discriminators' update
    needs, also of a phase that is off. Errors: ValueError.
    """
    wrong = [phase for phase in phases if phase not in PHASES]
    if wrong or not phases:
        raise ValueError(f"phases {list(phases)}: of {', '.join(PHASES)}, one at least")
    if mask not in MASKS:
        raise ValueError(f"mask {mask!r}: it is one of {', '.join(MASKS)}")
    whole = _no_terms(shared)
    with frozen(D, *([C] if C is not None else [])):
        if "representation" in phases:
            part = _representation(shared, D, C, losses, weights)
            _take(whole, part, "representation")
        if "translation" in phases and "t" in shared.G.tasks:
            part = _translation(shared, D, losses, weights, mask, flood_height)
            _take(whole, part, "translation")
    _complete(shared, whole.fakes)
    if not whole.total.requires_grad:  # no batch has a label
        whole.total = whole.total + nothing(*shared.z.values())
    whole.terms["generator"] = whole.total.detach()
    return whole


def _take(whole: Terms, part: Terms, name: str) -> None:
    whole.total = whole.total + part.total
    whole.terms |= part.terms | {name: part.total.detach()}
    whole.fakes |= part.fakes


def _representation(
    shared: Shared,
    D: nn.ModuleDict,
    C: nn.Module | None,
    losses: Mapping[str, Any],
    weights: Weights,
) -> Terms:
    G, of, out = shared.G, losses["G"], _no_terms(shared)
    if C is not None:
        said = over_parts(C, C, {d: (z,) for d, z in shared.z.items()})
        for domain, output in said.items():
            out.add(f"classifier/{domain}", of["classifier"](output, domain), weights.classifier)
    for task in G.conditions:
        for domain in shared.domains:
            if (label := shared.label(domain, task)) is not None:
                value = of["tasks"][task](shared.decoded[domain][task], label[0], weight=label[1])
                out.add(f"task_loss/{task}/{domain}", value, getattr(weights, task))
    if "t" in G.tasks:
        own = shared.translate(shared.z, shared.decoded, lambda domain: domain)
        for domain, picture in own.items():
            value = of["auto"]["t"](picture, shared.x[domain])
            out.add(f"t/auto/{domain}", value, weights.t_auto)
    if "a" in G.tasks:
        _adaptation(shared, D, of, weights, out)
    return out


def _adaptation(
    shared: Shared, D: nn.ModuleDict, of: Mapping[str, Any], weights: Weights, out: Terms
) -> None:
    paired = shared.paired(other_reality)
    fakes: dict[str, Tensor] = {}
    for reality in "rs":  # of each decoder, its own domains' pictures again and the others' adapted
        own = [d for d in shared.domains if d[0] == reality]
        others = [d for d in paired if d[0] != reality]
        made = shared.adapt({d: shared.z[d] for d in own + others}, reality)
        for domain in own:
            value = of["auto"]["a"](made[domain], shared.x[domain])
            out.add(f"a/auto/{domain}", value, weights.a_auto)
        fakes |= {d: made[d] for d in others}
    fakes = {d: fakes[d] for d in paired}
    z = shared.encode(fakes)
    cycles: dict[str, Tensor] = {}
    for reality in "rs":
        cycles |= shared.adapt({d: v for d, v in z.items() if d[0] == reality}, reality)
    _judged(shared, D, "a", fakes, cycles, of, weights, out)


def _translation(
    shared: Shared,
    D: nn.ModuleDict,
    losses: Mapping[str, Any],
    weights: Weights,
    mask: str,
    flood_height: float,
) -> Terms:
    G, of, out = shared.G, losses["G"], _no_terms(shared)
    paired = shared.paired(other_flood)
    z = {d: shared.z[d] for d in paired}
    fakes = shared.translate(z, shared.decoded, other_flood)
    z_fake = shared.encode(fakes)
    seen = shared.decode(z_fake)
    cycles = shared.translate(z_fake, seen, lambda domain: domain)
    _judged(shared, D, "t", fakes, cycles, of, weights, out)
    if weights.t_sm or weights.t_dm or weights.t_hm or weights.t_wm:
        tasks = ("d", "h", "s", "w") if weights.t_wm else ("d", "h", "s")
        kept = _with_frozen_decoders(shared, z_fake, seen, tasks)
    else:
        kept = seen
    for domain in paired:
        to = f"{domain}_to_{other_flood(domain)}"
        where = _mask(shared, domain, seen[domain], mask)
        for task, name in (("s", "sm"), ("d", "dm"), ("h", "hm")):
            if task in G.conditions:
                weight = getattr(weights, f"t_{name}")
                value = consistency(task, kept[domain][task], shared.decoded[domain][task], where)
                out.add(f"t/{name}/{to}", value if weight else value.detach(), weight)
        if weights.t_wm and domain[1] == "n":
            low = low_ground(shared.decoded[domain]["h"], flood_height)
            before = G.water(shared.decoded[domain]["w"].detach())
            value = bce(kept[domain]["w"], torch.maximum(low, before))
            out.add(f"t/wm/{to}", value, weights.t_wm)
        if weights.t_tv:
            out.add(f"t/tv/{to}", total_variation(fakes[domain]), weights.t_tv)
    return out


def _with_frozen_decoders(
    shared: Shared,
    z: Mapping[str, Tensor],
    seen: dict[str, dict[str, Tensor]],
    tasks: Sequence[str],
) -> dict[str, dict[str, Tensor]]:
    """What decoders see in latents, with no gradient for them: they are to measure what a
    translation keeps, not to be taught to see it."""
    there = [task for task in shared.G.conditions if task in tasks]
    decoders = [shared.G.decoders[task] for task in there]
    if not any(p.requires_grad for module in decoders for p in module.parameters()):
        return seen
    with frozen(*decoders):
        parts = {d: (v,) for d, v in z.items()}
        G = shared.G
        return over_parts(G.decoders, lambda v: G.decode_tasks(v, there), parts)


def low_ground(h: Tensor, below: float) -> Tensor:
    """1 where a decoded height is below a bound, else 0; without a gradient."""
    return (h.detach().float() < below).float()


def consistency(task: str, of_fake: Tensor, of_real: Tensor, mask: Tensor) -> Tensor:
    """How much a decoder's output changed by a translation where mask [B, 1, H, W] is 1, a scalar.

    s: cross entropy against the class that it had; d, h: squared difference; mean over all pixels.
    No gradient into the real picture's output.
    """
    real = of_real.detach().float()
    if task == "s":
        lost = F.cross_entropy(of_fake.float(), real.argmax(1), reduction="none")
        return (lost * mask[:, 0]).mean()
    return ((of_fake.float() - real) * mask).square().mean()


@torch.no_grad()
def _mask(shared: Shared, domain: str, seen: Mapping[str, Tensor], mask: str) -> Tensor:
    x = shared.x[domain]
    dry = x.new_ones((len(x), 1, *x.shape[-2:]), dtype=torch.float32)
    if mask == "ones":
        return dry
    label = shared.label(domain, "w")
    decoded = shared.decoded[domain].get("w")
    before = torch.zeros_like(dry) if decoded is None else shared.G.wet(decoded).float()
    if label is not None:
        has = torch.ones(len(x), device=x.device) if label[1] is None else label[1].to(x.device)
        before = torch.where(has[:, None, None, None] > 0, (label[0] > 0.5).float(), before)
    after = shared.G.wet(seen["w"]).float() if "w" in seen else torch.zeros_like(dry)
    return dry - torch.maximum(before, after)


def _judged(
    shared: Shared,
    D: nn.ModuleDict,
    task: str,
    fakes: Mapping[str, Tensor],
    cycles: Mapping[str, Tensor],
    of: Mapping[str, Any],
    weights: Weights,
    out: Terms,
) -> None:
    """The terms gan and cycle of adaptation or translation: a picture made of another domain's, and
    the one made back of it, should both pass for real."""
    to, letter = (other_reality, 0) if task == "a" else (other_flood, 1)
    heads = cast(nn.ModuleDict, D[task])
    features = getattr(weights, f"{task}_features")
    found: dict[str, Any] = {}
    for name, head in heads.items():
        parts = {f"fake {d}": (x,) for d, x in fakes.items() if to(d)[letter] == name}
        own = {d: x for d, x in cycles.items() if d[letter] == name}
        parts |= {f"cycle {d}": (x,) for d, x in own.items()}
        if features:
            with torch.no_grad():
                real = over_parts(head, head, {f"real {d}": (shared.x[d],) for d in own})
            found |= real
        found |= over_parts(head, head, parts)
    for domain in fakes:
        there = f"{domain}_to_{to(domain)}"
        gan = of["gan"][task]
        value = gan(found[f"fake {domain}"], True) + gan(found[f"cycle {domain}"], True)
        out.add(f"{task}/gan/{there}", value, getattr(weights, f"{task}_gan"))
        value = of["cycle"][task](cycles[domain], shared.x[domain])
        out.add(f"{task}/cycle/{there}", value, getattr(weights, f"{task}_cycle"))
        if features:
            value = feature_matching(found[f"real {domain}"], found[f"cycle {domain}"])
            out.add(f"{task}/features/{there}", value, features)
    out.fakes[task] = {domain: x.detach() for domain, x in fakes.items()}


@torch.no_grad()
def _complete(shared: Shared, fakes: Pictures) -> None:
    """Pictures that the discriminators need and no loss of the generator has made: of every domain,
    also of one whose partner is not there."""
    for task in ("a", "t"):
        if task not in shared.G.tasks:
            continue
        made = fakes.setdefault(task, {})
        z = {d: shared.z[d] for d in shared.domains if d not in made}
        if task == "t":
            made |= shared.translate(z, shared.decoded, other_flood)
            continue
        for reality in "rs":
            made |= shared.adapt({d: v for d, v in z.items() if d[0] != reality}, reality)


# ------------------------------------------------------------- discriminators and classifier


def discriminator_loss(
    shared: Shared,
    D: nn.ModuleDict,
    losses: Mapping[str, Any],
    fakes: Pictures | None = None,
    *,
    r1: float = 0.0,
    gp: float = 0.0,
    generator: torch.Generator | None = None,
) -> Terms:
    """The discriminators' loss: for the batch of each domain four terms, their sum without weights.

    Of a batch rf: real D.a.r(x), fake D.a.s(x adapted), real D.t.f(x), fake D.t.n(x translated);
    and so on, sixteen with four domains. They are named rf/a/r, ...; discriminator is their sum.
    fakes: `generator_loss(...).fakes`; None: they are made here, without a gradient for the
    generator. r1, gp: weights of `r1_penalty` on real pictures and of `gradient_penalty`, a term
    for each head. generator: where shifts and flips of targets are drawn.
    """
    if fakes is None:
        fakes = {}
        _complete(shared, fakes)
    out, loss = _no_terms(shared), losses["D"]
    said: dict[tuple[str, str, str], tuple[Any, bool]] = {}
    for task, heads in D.items():
        to, letter = (other_reality, 0) if task == "a" else (other_flood, 1)
        for name, head in cast(nn.ModuleDict, heads).items():
            reals = {d: (x,) for d, x in shared.x.items() if d[letter] == name}
            mades = {d: (x.detach(),) for d, x in fakes[task].items() if to(d)[letter] == name}
            both = {**reals, **mades}  # no domain is in both: one has this letter, one has not
            for domain, maps in over_parts(head, head, both).items():
                said[domain, task, name] = (maps, domain in reals)
            if reals and r1:
                x = torch.cat([part[0] for part in reals.values()])
                out.add(f"r1/{task}/{name}", r1_penalty(head, x), r1)
            if reals and mades and gp:
                x, y = (torch.cat([p[0] for p in each.values()]) for each in (reals, mades))
                n = min(len(x), len(y))
                out.add(f"gp/{task}/{name}", gradient_penalty(head, x[:n], y[:n], generator), gp)
    for domain, task, name in sorted(said):
        maps, real = said[domain, task, name]
        value = loss(maps, real, discriminator=True, generator=generator)
        out.add(f"{domain}/{task}/{name}", value)
    out.terms["discriminator"] = out.total.detach()
    return out


def classifier_loss(
    shared: Shared, C: nn.Module, losses: Mapping[str, Any], weights: Weights
) -> Terms:
    """The classifier's loss, a term C/rf, C/rn, .. for each domain's latents and their weighted sum
    classifier; nothing reaches the encoder."""
    out = _no_terms(shared)
    said = over_parts(C, C, {d: (z.detach(),) for d, z in shared.z.items()})
    for domain, output in said.items():
        out.add(f"C/{domain}", losses["C"](output, domain), weights.C)
    out.terms["classifier"] = out.total.detach()
    return out
