"""What is around the updates of a step: phases, learning rates, which losses are logged."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from models.omnigan import (
    EWC,
    Distillation,
    Shared,
    Terms,
    Weights,
    clip_weights,
    freeze,
    generator_loss,
    phases_of,
    set_lr,
)
from recipes.omnigan.options import active
from recipes.omnigan.parts import Omnigan, learning_rate

Optimizers = Mapping[str, torch.optim.Optimizer]
SUMS = ("representation", "translation", "generator", "discriminator", "classifier")


def phases(opts: Mapping[str, Any], step: int) -> tuple[str, ...]:
    """What is trained in a step, which count from 0; without t there is one phase."""
    train = opts["train"]
    if "t" not in active(opts):
        return ("representation",)
    return phases_of(step, train["representational_training"], train["representation_steps"])


def begins_translation(opts: Mapping[str, Any], step: int) -> bool:
    """Whether a step is the first of the second phase."""
    train = opts["train"]
    two = train["representational_training"] and "t" in active(opts)
    return two and step == train["representation_steps"]


def second_phase(
    opts: Mapping[str, Any], trainer: Omnigan, optimizers: Optimizers
) -> dict[str, float]:
    """What becomes of the representation in the second phase: it is frozen where that is asked for
    (again and again, which changes nothing), else {its group: the factor of its learning rate}."""
    train = opts["train"]
    if train["freeze_representation"]:
        freeze(trainer.G.representation(), *optimizers.values())
        return {}
    return {"representation": train["representation_lr"]}


def remember(
    keeper: Distillation | EWC | None,
    trainer: Omnigan,
    batches: Mapping[str, Any],
    of: Weights,
) -> None:
    """Take the representation as it is now for what is to be kept; EWC measures it by the losses of
    each domain's batch."""
    if isinstance(keeper, Distillation):
        keeper.remember(trainer.G)
    elif isinstance(keeper, EWC):

        def lost(domain: str) -> Tensor:
            shared = Shared(trainer.G, {domain: batches[domain]})
            return generator_loss(
                shared, trainer.D, None, trainer.losses, of, ("representation",)
            ).total

        keeper.estimate(trainer.G, [partial(lost, domain) for domain in batches])


def kept(keeper: Distillation | EWC, trainer: Omnigan, shared: Shared) -> Tensor:
    """How far the representation has gone from what is to be kept."""
    return keeper(shared) if isinstance(keeper, Distillation) else keeper(trainer.G)


def bound(opts: Mapping[str, Any], trainer: Omnigan) -> None:
    """Keep the discriminators' weights within `dis.clip`, if it is set."""
    if opts["dis"]["clip"]:
        clip_weights([trainer.D], opts["dis"]["clip"])


def set_learning_rates(
    opts: Mapping[str, Any],
    optimizers: Optimizers,
    step: int,
    epoch_steps: int,
    factors: Mapping[str, float],
) -> None:
    """The learning rates of a step; `factors` are of the generator's groups."""
    for player, optimizer in optimizers.items():
        lr = learning_rate(opts, player, step, epoch_steps)
        set_lr(optimizer, lr, dict(factors) if player == "G" else {})


def figures(level: int, players: Mapping[str, Terms]) -> dict[str, Tensor]:
    """Losses to log, as `G/task_loss/d/rf`: none at level 0, sums at 1, all at 2."""
    found: dict[str, Tensor] = {}
    for player, terms in players.items():
        for name, value in terms.terms.items():
            if level > 1 or (level == 1 and name in SUMS):
                found[f"{player}/{name}"] = value
    return found
