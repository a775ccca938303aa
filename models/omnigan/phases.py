"""The two phases of omnigan's training, and what becomes of the representation in the second.

First the representation is trained: encoder, task decoders, adaptation. Then the translation, which
that conditions. Meanwhile the representation is frozen, or trained on, at a lower learning rate, or
kept from forgetting: by distillation to a frozen copy of it, or by elastic weight consolidation.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.omnigan.extra_adam import restore
from models.omnigan.generator import OmniGenerator
from models.omnigan.shared import Shared
from runtime import distributed


def phases_of(
    step: int, representational_training: bool = True, representation_steps: int = 10000
) -> tuple[str, ...]:
    """The phases of a step, which count from 0: the first `representation_steps` are of the
    representation, all others of the translation; both always without representational_training."""
    if not representational_training:
        return ("representation", "translation")
    return ("representation",) if step < representation_steps else ("translation",)


def freeze(modules: Iterable[nn.Module], *optimizers: torch.optim.Optimizer) -> None:
    """No weight of the modules moves any more, also where an optimizer still has momentum for it.

    Gradients become None, which optimizers pass over, and their state of these weights is dropped;
    one that an extrapolation had moved is put back. Groups of the optimizers stay as they are, so
    that checkpoints of before and after fit. Doing it again changes nothing.
    """
    for module in modules:
        for p in module.parameters():
            p.requires_grad_(False)
            p.grad = None
            for optimizer in optimizers:
                restore(optimizer, [p])
                optimizer.state.pop(p, None)


def unfreeze(modules: Iterable[nn.Module]) -> None:
    """Weights that `freeze` has frozen are trained again; those of batch normalisation in a
    Deeplabv2 encoder are not, as they never are."""
    for module in modules:
        for part in module.modules():
            if not (isinstance(part, nn.BatchNorm2d) and not part.training):
                for p in part.parameters(recurse=False):
                    p.requires_grad_(True)


def parameter_groups(G: OmniGenerator, lr: float) -> list[dict[str, Any]]:
    """The generator's parameters as groups named representation (encoder, decoders of d, h, s, w)
    and translation (the others), of one learning rate; an empty one is left out."""
    own = {id(p) for module in G.representation() for p in module.parameters()}
    params = list(G.parameters())
    groups = [
        {"name": "representation", "params": [p for p in params if id(p) in own], "lr": lr},
        {"name": "translation", "params": [p for p in params if id(p) not in own], "lr": lr},
    ]
    return [group for group in groups if group["params"]]


def set_lr(optimizer: torch.optim.Optimizer, lr: float, factors: dict[str, float]) -> None:
    """The learning rate of each group: lr, times the factor of its name if there is one.

    Errors: ValueError for a name that no group has.
    """
    names = [group.get("name") for group in optimizer.param_groups]
    for name in factors:
        if name not in names:
            raise ValueError(
                f"no group of parameters is named {name!r}: {', '.join(map(str, names))}"
            )
    for group in optimizer.param_groups:
        group["lr"] = lr * factors.get(str(group.get("name")), 1.0)


class Distillation(nn.Module):
    """A frozen copy of the representation, and how far the trained one has gone from it.

    Its state is the copy. Make it when the representation phase ends (`remember` takes a later
    state); before it is, the loss is that of a copy of the start. Source: Li and Hoiem 2016,
    "Learning without Forgetting", with the latents besides.
    """

    def __init__(self, G: OmniGenerator) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(G.encoder)
        self.decoders = nn.ModuleDict({t: copy.deepcopy(G.decoders[t]) for t in G.conditions})
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Distillation:
        """It stays in evaluation, whatever it is part of."""
        return super().train(False)

    def remember(self, G: OmniGenerator) -> None:
        """Take the representation as it is now."""
        self.encoder.load_state_dict(G.encoder.state_dict())
        for task, decoder in self.decoders.items():
            decoder.load_state_dict(G.decoders[task].state_dict())

    def forward(self, shared: Shared) -> Tensor:
        """Mean over the pictures of all domains: squared differences of latents, d, h; the
        divergence of s, per pixel; cross entropy of w against the copy's probability."""
        x = torch.cat(list(shared.x.values()))
        z = torch.cat(list(shared.z.values()))
        with torch.no_grad():
            z0 = self.encoder(x)
            before = {task: decoder(z0).float() for task, decoder in self.decoders.items()}
        total = F.mse_loss(z.float(), z0.float())
        for task, old in before.items():
            new = torch.cat([shared.decoded[d][task] for d in shared.domains]).float()
            if task == "s":
                logs = new.log_softmax(1), old.log_softmax(1)
                lost = F.kl_div(*logs, reduction="none", log_target=True).sum(1).mean()
            elif task == "w":
                lost = F.binary_cross_entropy_with_logits(new, old.sigmoid())
            else:
                lost = F.mse_loss(new, old)
            total = total + lost
        return total


class EWC(nn.Module):
    """Elastic weight consolidation: weights of the representation that mattered are held.

    The penalty is sum over weights of F (w - w0)^2 / 2, w0 where they were and F the mean square of
    the representation loss's gradient there. Both are its state. Source: Kirkpatrick et al. 2017,
    equation 3.
    """

    def __init__(self, G: OmniGenerator) -> None:
        super().__init__()
        for i, p in enumerate(_weights(G)):
            self.register_buffer(f"w0_{i}", p.detach().clone())
            self.register_buffer(f"fisher_{i}", torch.zeros_like(p))

    def estimate(self, G: OmniGenerator, losses: Iterable[Callable[[], Tensor]]) -> None:
        """Take the weights as they are now, and F of the gradients of these losses: functions that
        compute the representation loss, each of other pictures. Gradients that G had are gone.

        With several ranks each one's losses are of its share of the pictures: gradients are
        averaged before they are squared, so that F is that of one rank with all of them.
        """
        weights = _weights(G)
        sums, count = [torch.zeros_like(p) for p in weights], 0
        for loss in losses:
            grads = torch.autograd.grad(loss(), weights, allow_unused=True)
            for total, grad in zip(sums, grads, strict=True):
                total.add_(_over_ranks(torch.zeros_like(total) if grad is None else grad).square())
            count += 1
        if not count:
            raise ValueError("EWC is estimated of one loss at least")
        for i, (p, total) in enumerate(zip(weights, sums, strict=True)):
            cast(Tensor, getattr(self, f"w0_{i}")).copy_(p.detach())
            cast(Tensor, getattr(self, f"fisher_{i}")).copy_(total / count)

    def forward(self, G: OmniGenerator) -> Tensor:
        """The penalty, a scalar."""
        lost = [
            (getattr(self, f"fisher_{i}") * (p - getattr(self, f"w0_{i}")).square()).sum()
            for i, p in enumerate(_weights(G))
        ]
        return torch.stack(lost).sum() / 2


def _over_ranks(grad: Tensor) -> Tensor:
    """The mean over ranks; of one rank the same."""
    return distributed.mean(grad) if distributed.world_size() > 1 else grad


def _weights(G: OmniGenerator) -> list[nn.Parameter]:
    """The trainable weights of the representation, in its order."""
    params = [p for module in G.representation() for p in module.parameters()]
    return [p for p in params if p.requires_grad]
