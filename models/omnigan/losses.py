"""The losses of omnigan as one tree: of generator, discriminators, classifier."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from models.omnigan.domains import DOMAINS, checked_tasks, domain_of, other_reality
from models.omnigan.gan_losses import GANLoss
from models.omnigan.task_losses import DEPTH, DIFFERENCES, WATER, Loss, cross_entropy_2d

CLASSIFIER = ("cross_entropy", "l1", "l2")


class DomainLoss:
    """Of a classifier's outputs [B, 4] for pictures of a domain; a scalar.

    name: cross_entropy of logits, l1 or l2 of probabilities. fool: the target is not the domain but
    what an encoder should make the classifier say: the same flood of the other reality, or for l1
    and l2 a quarter everywhere. Errors: ValueError.
    """

    def __init__(self, name: str = "cross_entropy", fool: bool = False) -> None:
        if name not in CLASSIFIER:
            raise ValueError(f"classifier {name!r}: it is one of {', '.join(CLASSIFIER)}")
        self.name, self.fool = name, fool

    def target(self, domain: str, batch: int, device: torch.device | str = "cpu") -> Tensor:
        """int64 [B] for cross entropy, else float32 [B, 4]."""
        if self.name == "cross_entropy":
            wanted = other_reality(domain) if self.fool else domain
            return torch.full((batch,), domain_of(wanted), device=device)
        shape = (batch, len(DOMAINS))
        if self.fool:
            return torch.full(shape, 1 / len(DOMAINS), device=device)
        return F.one_hot(
            torch.full((batch,), domain_of(domain), device=device), len(DOMAINS)
        ).float()

    def __call__(self, output: Tensor, domain: str) -> Tensor:
        target = self.target(domain, len(output), output.device)
        if self.name == "cross_entropy":
            return F.cross_entropy(output.float(), target)
        return DIFFERENCES[self.name](output, target)


def _one_of(known: dict[str, Loss], name: str, what: str) -> Loss:
    if name not in known:
        raise ValueError(f"loss {name!r} of {what}: it is one of {', '.join(known)}")
    return known[name]


def make_losses(
    tasks: str | Iterable[str] = "adhstw",
    *,
    gan: str = "lsgan",
    cycle: str = "l2",
    auto: str = "l2",
    d: str = "l2",
    h: str = "l2",
    w: str = "bce",
    classifier: str = "cross_entropy",
    soft_shift: float | None = None,
    flip_prob: float = 0.05,
    smooth_fake: bool = True,
    ignore_index: int = 255,
) -> dict[str, Any]:
    """The losses of tasks: {"G": {"gan", "cycle", "auto", "tasks", "classifier"}, "D", "C"}.

    gan, cycle and auto have an entry for a and t, tasks for d, h, s, w, those that there are. gan:
    a mode of GANLoss; soft_shift (default 0.2, and 0 for hinge and wgan, which have no targets),
    flip_prob and smooth_fake are the discriminators'. cycle, auto, h:
    l1 or l2; d: those, simse, sigm or dada; w: bce or dice_bce, of logits; classifier:
    cross_entropy, l1 or l2. ignore_index: of segmentations. Errors: ValueError.
    """
    given = checked_tasks(tasks)
    if soft_shift is None:
        soft_shift = 0.2 if gan in ("lsgan", "vanilla") else 0.0
    pictures = [task for task in ("a", "t") if task in given]
    of_tasks = {
        "d": _one_of(DEPTH, d, "d"),
        "h": _one_of(DIFFERENCES, h, "h"),
        "s": functools.partial(cross_entropy_2d, ignore_index=ignore_index),
        "w": _one_of(WATER, w, "w"),
    }
    return {
        "G": {
            "gan": {task: GANLoss(gan) for task in pictures},
            "cycle": {task: _one_of(DIFFERENCES, cycle, "cycle") for task in pictures},
            "auto": {task: _one_of(DIFFERENCES, auto, "auto") for task in pictures},
            "tasks": {task: loss for task, loss in of_tasks.items() if task in given},
            "classifier": DomainLoss(classifier, fool=True),
        },
        "D": GANLoss(gan, soft_shift, flip_prob, smooth_fake),
        "C": DomainLoss(classifier),
    }
