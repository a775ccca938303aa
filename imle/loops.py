"""An outer loop of conditional IMLE: what its search found, and what its batches are made from."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from imle.adaptive import Memory
from imle.types import State


class Found(NamedTuple):
    """What a search found for V images, the same on all ranks."""

    winners: Tensor  # [V, L] int64, CPU; with cells [V, L, 1 + most cells of a level]
    losses: Tensor  # [V, L] float32, CPU: of what was chosen
    empty: Tensor  # [V, L] bool, CPU: all candidates were rejected
    rejected: float  # share of the candidates, where some could be, that were
    first: Tensor | None  # [V, L] float32, of each level's first candidate
    whole: Tensor | None  # [V, L] float32, of the best candidate as it is, without cells
    codes: list[Tensor] | None  # per level [V, d_l], when they cannot be drawn again
    inputs: Tensor | None  # [V, ...] corrupted inputs, when the corruption cannot be repeated


class SearchReport(NamedTuple):
    """What the search of a loop found."""

    loop: int
    image_ids: Tensor  # [U] int64, the images that were searched
    winners: Tensor  # [U, L] int64; with cells [U, L, 1 + most cells of a level]
    losses: Tensor  # [U, L] float32, of what was chosen
    seconds: float
    first: Tensor | None = None  # [U, L] float32, of each level's first candidate
    whole: Tensor | None = None  # [U, L] float32, of the best candidate as it is, without cells
    adaptive: tuple[float, int] | None = None  # share of the images that were searched, and how
    # many outputs of a level were compared, of all images and levels together
    rejection: tuple[float, int] | None = None  # share of the candidates that were too near, and
    # how many images had no other

    def figures(self) -> dict[str, float | Tensor]:
        """What a log is to say, by name; the loss is missing where nothing was searched."""
        found: dict[str, float | Tensor] = {}
        if len(self.losses):
            found["search loss"] = self.losses.sum(1).mean()
        found |= {f"search/{name}": gain for name, gain in self.gains().items()}
        if self.adaptive is not None:
            found["search/searched_fraction"], found["search/evaluations"] = self.adaptive
        if self.rejection is not None:
            found["search/rejected_fraction"], found["search/empty_rows"] = self.rejection
        return found

    def gains(self) -> dict[str, Tensor]:
        """`gain_0`, ..: what part of the mean loss of a first candidate the search of each level
        took away; with cells `cells_gain_0`, ..: what part of the winners' loss they took away.
        Nothing for a search that is not level by level (`Searcher`)."""
        if self.first is None or self.whole is None or not len(self.losses):
            return {}
        named = {"gain": 1 - self.losses.mean(0) / self.first.mean(0)}
        if self.winners.dim() == 3:
            named["cells_gain"] = 1 - self.losses.mean(0) / self.whole.mean(0)
        return {f"{name}_{i}": g for name, gain in named.items() for i, g in enumerate(gain)}


class Loop(NamedTuple):
    """An outer loop whose codes are known."""

    number: int
    ids: list[int]  # [S] the subsample, in the order popped
    kkm: State | None  # state after popping it
    row: dict[int, int]  # image id -> row of the tensors below
    winners: Tensor  # [U, L] int64, CPU; [U, L, 1 + most cells] with cells
    cells: list[int]  # of each level, along a side, in the order of winners; [] without
    codes: list[Tensor] | None  # per level [U, d_l], when they cannot be drawn again
    inputs: Tensor | None  # [U, ...] corrupted inputs, when the corruption cannot be repeated
    empty: Tensor | None = None  # [U] bool, CPU: images to leave out; None: none
    drawn: Tensor | None = None  # [U] int64, CPU: the loop codes are of; None: this one
    memory: Memory | None = None  # behind its search, of all images that came up (imle.adaptive)

    @property
    def trained(self) -> list[int]:
        """The images of the subsample that are trained on: all, if none would be left."""
        if self.empty is None or not bool(self.empty.any()) or bool(self.empty.all()):
            return self.ids
        return [image for image in self.ids if not self.empty[self.row[image]]]


def rows_of(images: list[int]) -> dict[int, int]:
    """The row of each different image."""
    return {image: r for r, image in enumerate(dict.fromkeys(images))}


def no_losses(levels: int) -> Tensor:
    """Of a search that had nothing to do: [0, L]."""
    return torch.zeros(0, levels)
