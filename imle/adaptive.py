"""Adaptive IMLE: an image is searched again only when it is solved as far as it was to be.

Aghabozorgi, Peng and Li, "Adaptive IMLE for Few-shot Pretraining-free Generative Modelling" (ICML
2023). Every image i keeps its code, a threshold tau_i and an age. When it comes up,

    age_i <- age_i + 1,    d_i = loss of its stored code with the weights as they are,
    searched again if (d_i < tau_i and age_i >= staleness) or age_i >= force,
    and then tau_i <- (1 - gamma) * loss of the new code,    age_i <- 0.

A new image is searched. All are trained on, searched or not. The released code takes the loss of
the *old* code for tau_i (`compat`). Ages count appearances in a subsample, not loops.

What is kept of an image is small: the numbers of its winning candidates and the loop they were
drawn in, of which its code, its flip and its corruption are functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from imle.cascade import map_tree
from imle.types import is_keyed_codes, is_keyed_corruption

T = TypeVar("T")


class Memory(NamedTuple):
    """What is known of the images that came up so far, M of them; on the CPU, never changed."""

    images: Tensor  # [M] int64: their ids
    tau: Tensor  # [M] float64: the loss below which an image is solved
    age: Tensor  # [M] int64: appearances since its code was searched
    loop: Tensor  # [M] int64: the loop its code, flip and corruption are of
    empty: Tensor  # [M] bool: all candidates were rejected (imle.rejection): not to be trained on
    winners: Tensor  # [M, ...] int64: what its codes are drawn from

    @staticmethod
    def blank() -> Memory:
        """Of nothing."""
        whole = torch.zeros(0, dtype=torch.int64)
        return Memory(whole, whole.double(), whole, whole, whole.bool(), whole)

    def rows(self, images: Sequence[int]) -> Tensor:
        """Where these images are, int64 [U]; -1 for unknown ones."""
        asked = torch.tensor(images, dtype=torch.int64)
        if not len(self.images):
            return torch.full_like(asked, -1)
        known, order = self.images.sort()
        at = torch.searchsorted(known, asked).clamp_max(len(known) - 1)
        return torch.where(known[at] == asked, order[at], -1)

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors, by name."""
        return self._asdict()


class Searched(NamedTuple):
    """What a search found of V images."""

    winners: Tensor  # [V, ...] int64
    losses: Tensor  # [V, L]
    empty: Tensor  # [V] bool


class Turn(NamedTuple):
    """What became of the images of a loop."""

    memory: Memory
    searched: list[int]  # images
    checked: int  # images whose stored code was measured


class Adaptive:
    """Settings. gamma: in [0, 1), how far below a code's loss an image is solved.

    staleness, force: appearances after which an image may, and must, be searched again, 1 <=
    staleness <= force; force 1 searches all images always. compat: tau of the old code's loss, as
    the released code has it.
    """

    def __init__(
        self, gamma: float = 0.04, staleness: int = 7, force: int = 30, compat: bool = False
    ) -> None:
        if not (math.isfinite(gamma) and 0 <= gamma < 1):
            raise ValueError(f"gamma must lie in [0, 1), got {gamma}")
        if not 1 <= staleness <= force:
            raise ValueError(
                f"staleness must be at least 1 and at most force, got {staleness} and {force}"
            )
        self.gamma, self.staleness, self.force = float(gamma), int(staleness), int(force)
        self.compat = bool(compat)

    def due(self, age: Tensor, tau: Tensor, d: Tensor) -> Tensor:
        """Which images are searched again: bool [U]; age with this appearance, d losses now."""
        return (d < tau) & (age >= self.staleness) | (age >= self.force)

    def lowered(self, d: Tensor) -> Tensor:
        """The threshold after a search: d of the new code (compat: of the old one)."""
        return (1 - self.gamma) * d

    def described(self) -> str:
        """What is asked for, in a word: a state is of one such."""
        return f"{self.gamma:g} {self.staleness} {self.force}{' compat' * self.compat}"

    def turn(
        self,
        memory: Memory,
        images: Sequence[int],
        loop: int,
        check: Callable[[list[int], Memory], Tensor],
        search: Callable[[list[int]], Searched],
        *,
        skips: bool = False,
    ) -> Turn:
        """The different images of a loop come up: those that are due are searched.

        check: images [V] and a memory with a row for each, in order -> losses [V] of their stored
        codes. search: images -> what was found. Neither is called with no image. `memory` is left
        alone. skips: images all of whose candidates were rejected are not trained on, so that they
        have no code to keep: they are searched whenever they come up.
        """
        rows = memory.rows(images)
        known = rows >= 0
        if skips and len(memory.images):
            known &= ~memory.empty[rows]
        age = torch.where(known, memory.age[rows], 0) + 1 if len(memory.age) else known.long() + 1
        looked = known & (age >= self.staleness)
        if not self.compat:  # where it is searched in any case, nobody asks for its loss
            looked &= age < self.force
        d = torch.full((len(rows),), torch.inf, dtype=torch.float64)
        if bool(looked.any()):
            of = Memory(*(t[rows[looked]] for t in memory))
            d[looked] = check(_taken(images, looked), of).cpu().double()
        due = ~known
        if bool(known.any()):
            tau = torch.where(known, memory.tau[rows], -torch.inf)
            due = due | self.due(age, tau, d)
        searched = _taken(images, due)
        there = rows >= 0
        memory = _aged(memory, rows[there], age[there])
        if searched:
            found = search(searched)
            cost = found.losses.cpu().double().sum(1)
            if self.compat:
                cost = torch.where(known[due], d[due], cost)
            memory = _renewed(memory, rows[due], searched, found, self.lowered(cost), loop)
        return Turn(memory, searched, int(looked.sum()))


def _taken(images: Sequence[int], mask: Tensor) -> list[int]:
    return [image for image, wanted in zip(images, mask.tolist(), strict=True) if wanted]


def _aged(memory: Memory, rows: Tensor, age: Tensor) -> Memory:
    ages = memory.age.clone()
    ages[rows] = age
    return memory._replace(age=ages)


def _renewed(
    memory: Memory, rows: Tensor, images: list[int], found: Searched, tau: Tensor, loop: int
) -> Memory:
    """With what was searched in a loop; rows [V]: of the images in the memory, -1 for new ones."""
    fresh = Memory(
        torch.tensor(images, dtype=torch.int64),
        tau,
        torch.zeros(len(images), dtype=torch.int64),
        torch.full((len(images),), loop, dtype=torch.int64),
        found.empty.cpu(),
        found.winners.cpu(),
    )
    if not len(memory.images):
        return fresh
    new = rows < 0
    made = []
    for old, value in zip(memory, fresh, strict=True):
        kept = old.clone()
        kept[rows[~new]] = value[~new]
        made.append(torch.cat([kept, value[new]]))
    return Memory(*made)


def check_adaptive(z_gen: object, corruptor: object, searcher: object = None) -> None:
    """ValueError, in a sentence, for pieces whose past cannot be had again from numbers."""
    if not is_keyed_codes(z_gen):
        raise ValueError(
            f"adaptive: codes of a {type(z_gen).__name__} cannot be drawn again in a later loop "
            "(those of a CodeGenerator can: they are drawn by number)"
        )
    if corruptor is not None and not is_keyed_corruption(corruptor):
        raise ValueError(
            f"adaptive: what a {type(corruptor).__name__} took away cannot be taken again in a "
            "later loop (a Corruption has keyed(x, loop, image_ids))"
        )
    if searcher is not None and not hasattr(searcher, "measure"):
        raise ValueError(
            f"adaptive: a {type(searcher).__name__} does not say what a stored code loses: it has "
            "no measure(model, codes, ys) (PoolSearch has)"
        )


def by_loop(loops: Tensor, make: Callable[[int, Tensor], T]) -> T:
    """Rows made loop by loop, in their own order: what is a function of a loop may differ in it.

    loops: int64 [b] on the CPU. make: a loop and the rows of it, int64 [n] -> a nest of tensors
    with n rows each.
    """
    parts, order = [], []
    for loop in loops.unique().tolist():
        at = (loops == loop).nonzero()[:, 0]
        parts.append(make(loop, at))
        order.append(at)
    if len(parts) == 1:
        return parts[0]
    back = torch.cat(order).argsort()
    return map_tree(lambda *t: torch.cat(t)[back.to(t[0].device)], *parts)


def schedule(
    adaptive: Adaptive, distances: Tensor, *, tau: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """The released schedule for given losses [E, n] of n images in E epochs, each epoch of all.

    tau: thresholds before the first epoch, in which all are searched. Returns which are searched
    (bool), thresholds after the epoch, and ages in the epoch, [E, n] each; thresholds follow the
    losses of old codes.
    """
    thresholds = torch.full(distances.shape[1:], tau, dtype=distances.dtype)
    age = torch.zeros(distances.shape[1:], dtype=torch.int64)
    rows = []
    for epoch, d in enumerate(distances):
        age = age + 1
        due = adaptive.due(age, thresholds, d) | (epoch == 0)
        thresholds = torch.where(due, adaptive.lowered(d), thresholds)
        rows.append((due, thresholds, age))
        age = torch.where(due, 0, age)
    due_rows, tau_rows, age_rows = (torch.stack(column) for column in zip(*rows, strict=True))
    return due_rows, tau_rows, age_rows


def memory_of(state: dict[str, Any] | None) -> Memory:
    """What `Memory.state_dict` gave."""
    return Memory.blank() if state is None else Memory(**state)
