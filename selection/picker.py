"""One draw of a selection: a method and its settings, from losses on the raw scale to rows.

picker = Picker(method="jest", filter_ratio=0.8, num_chunks=16, values=3 * 32 * 32)
rows, spread = picker.pick(len(images), learner_loss, ref_loss, sigma, random=generator)
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from selection.jest import draw_spread
from selection.methods import METHODS, select
from selection.scores import Spread, scaled, sigma_strata
from selection.sizes import selection_size


class Picked(NamedTuple):
    """rows: int64 [b] in order of drawing. spread: how selective the draw was, of JEST only."""

    rows: Tensor
    spread: Spread | None


@dataclass(frozen=True)
class Picker:
    """The settings of a draw.

    - method: a key of `selection.METHODS`.
    - filter_ratio, num_chunks, rounding: how many rows, in how many chunks (`selection_size`).
    - scale, values, loss_scaling, batch_gpu_total: what scores are measured in (`scaled`, where
      `values` is called pixels: the numbers that the loss of a row is a sum over).
    - by_sigma: rank rows among those of like sigma (`sigma_strata`).
    - learnability, inverted, temperature, first_chunk, normalise, easy_reference: of JEST
      (`jointly_sample_batch`), and of other methods that have parameters of these names.
    """

    method: str = "jest"
    filter_ratio: float = 0.8
    num_chunks: int = 16
    rounding: str = "exact"
    scale: str = "standardised"
    values: int | None = None
    loss_scaling: float = 1.0
    batch_gpu_total: int | None = None
    by_sigma: bool = False
    learnability: bool = True
    inverted: bool = False
    temperature: float = 1.0
    first_chunk: str = "uniform"
    normalise: bool = True
    easy_reference: str = "intended"

    @property
    def needs_ref(self) -> bool:
        """Whether the draw compares with a reference's losses."""
        return METHODS[self.method].needs_ref

    @property
    def needs_losses(self) -> bool:
        """Whether the draw looks at the learner's losses."""
        return METHODS[self.method].needs_losses

    def blind(self, learner: Tensor | None, ref: Tensor | None) -> Tensor:
        """Whether the draw from these losses would see nothing, since no row has finite ones: bool
        scalar on their device. Rows are then taken in no order that means anything."""
        seen = [learner if self.needs_losses else None, ref if self.needs_ref else None]
        good = [losses.isfinite() for losses in seen if losses is not None]
        return ~torch.stack(good).all(0).any() if good else torch.tensor(False)

    def size(self, super_batch: int) -> int:
        """Rows kept out of so many. Errors: ValueError if that is none."""
        chunks = 1 if self.method == "random" else self.num_chunks
        return selection_size(super_batch, self.filter_ratio, chunks, self.rounding)

    def pick(
        self,
        count: int,
        learner: Tensor | None = None,
        ref: Tensor | None = None,
        sigma: Tensor | None = None,
        *,
        random: torch.Generator,
        spread: bool = True,
    ) -> Picked:
        """Draw from `count` rows.

        learner, ref: [count] losses, sums over the values of a row. sigma: [count] noise levels.
        What the method does not look at may be None, and has no effect. random: what the draw is
        a function of besides, on the losses' device. spread: whether to find out how selective the
        draw is. Errors: ValueError.
        """
        if not self.needs_losses:
            learner = torch.zeros(count, device=random.device)
        if learner is None:
            raise ValueError(f"selection method {self.method!r} needs the learner's losses")
        strata = None
        if not self.needs_ref:
            ref = None
        elif ref is not None:
            if self.by_sigma:
                if sigma is None:
                    raise ValueError("a selection by noise level needs sigma")
                strata = sigma_strata(sigma)
            learner, ref = scaled(
                learner,
                ref,
                scale=self.scale,
                learnability=self.learnability,
                pixels=self.values,
                loss_scaling=self.loss_scaling,
                batch_gpu_total=self.batch_gpu_total,
                strata=strata,
            )
        # A method gets those of the further settings that it has a parameter for.
        further: dict[str, Any] = {
            "learnability": self.learnability,
            "inverted": self.inverted,
            "first_chunk": self.first_chunk,
            "normalise": self.normalise,
            "temperature": self.temperature,
            "strata": strata,
            "easy_reference": self.easy_reference,
        }
        takes = inspect.signature(METHODS[self.method].function).parameters
        options = {name: value for name, value in further.items() if name in takes}
        found = None
        if self.method == "jest" and ref is not None and spread:
            found = draw_spread(
                learner,
                ref,
                self.num_chunks,
                self.filter_ratio,
                rounding=self.rounding,
                **options,
            )
        rows = select(
            self.method,
            learner,
            ref,
            filter_ratio=self.filter_ratio,
            N=self.num_chunks,
            rounding=self.rounding,
            generator=random,
            options=options,
        )
        return Picked(rows, found)
