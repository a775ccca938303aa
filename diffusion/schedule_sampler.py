"""Which steps t a batch is trained at: all alike, or in proportion to how much they vary the loss.

    sampler = schedule_sampler("loss-second-moment", gaussian.T)
    run.restore(..., schedule_sampler=sampler)
    t, weight = sampler.sample(keys)
    ...
    loss = (weight * losses["loss"]).mean()
    ...
    if run.step(optimizer):
        sampler.update(t, losses["loss"])

A step is a function of its row's key (`diffusion.rows.row_keys`) and of the state, which is the
same on every rank, so the number of ranks changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from runtime.counter_rng import uniform
from runtime.distributed import interleave

NAMES = ("uniform", "loss-second-moment")
_LEVEL = 0  # the stream of a row's random numbers that `diffusion.rows` has for its noise level


class UniformSampler:
    """Every step alike; weights are 1. Errors: ValueError for T < 1."""

    def __init__(self, T: int) -> None:
        if T < 1:
            raise ValueError(f"steps are drawn of at least 1, not {T}")
        self.T = T

    def weights(self) -> Tensor:
        """How often a step is drawn, not normalised: float64 [T] on the CPU."""
        return torch.ones(self.T, dtype=torch.float64)

    def probabilities(self) -> Tensor:
        """float64 [T] on the CPU, of sum 1."""
        weights = self.weights()
        return weights / weights.sum()

    def importance(self, t: Tensor) -> Tensor:
        """1 / (T p(t)), float32 like t: with it a mean over drawn steps is one over all steps."""
        weight = 1 / (self.T * self.probabilities())
        return weight.float().to(t.device)[t]

    def sample(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Steps int64 [B] of rows with these keys, int64 [B], and their `importance`."""
        # By inversion. Its numbers are multiples of 2^-24, so p is met to 6e-8.
        edges = self.probabilities().cumsum(0).to(torch.float32).to(keys.device)
        number = uniform(keys, 1, stream=_LEVEL)[:, 0]
        t = torch.searchsorted(edges, number, right=True).clamp_max(self.T - 1)
        return t, self.importance(t)

    def update(self, t: Tensor, losses: Tensor) -> None:
        """What was lost at which step: of no consequence here."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing but what it is of."""
        return {"T": self.T}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`. Errors: ValueError for a state of another number of steps."""
        if int(state["T"]) != self.T:
            raise ValueError(f"the state is of {state['T']} steps, the sampler of {self.T}")


class LossSecondMoment(UniformSampler):
    """Steps in proportion to the root of the mean squared loss of their last `history` rows.

    All alike until every step has that many; then mixed with a share `uniform_prob` of all alike.
    For L_vlb, whose terms differ by orders of magnitude: Nichol and Dhariwal 2021
    (arXiv:2102.09672), section 3.3. Errors: ValueError.
    """

    def __init__(self, T: int, history: int = 10, uniform_prob: float = 0.001) -> None:
        super().__init__(T)
        if history < 1 or not 0 <= uniform_prob <= 1:
            raise ValueError(f"history {history} >= 1 and uniform_prob {uniform_prob} in 0 .. 1")
        self.uniform_prob = uniform_prob
        self.losses = torch.zeros(T, history, dtype=torch.float64)  # the oldest first
        self.counts = torch.zeros(T, dtype=torch.int64)

    @property
    def warmed_up(self) -> bool:
        """Whether every step has its history."""
        return bool((self.counts == self.losses.shape[1]).all())

    def weights(self) -> Tensor:
        if not self.warmed_up:
            return super().weights()
        root = self.losses.square().mean(1).sqrt()
        total = root.sum()
        if not total > 0:  # nothing is lost anywhere
            return super().weights()
        return root / total * (1 - self.uniform_prob) + self.uniform_prob / self.T

    def update(self, t: Tensor, losses: Tensor) -> None:
        """Take in the losses [B] (of this rank's rows, unweighted) at steps t [B].

        A collective: every rank calls it once an optimizer step, with as many rows. Rows come in
        the order of the whole batch, which ranks share row by row. Losses that are not finite are
        left out; it is the optimizer's guard that tells of them. Waits for the device.
        Errors: ValueError, for sizes that differ too.
        """
        if t.shape != losses.shape or t.ndim != 1:
            raise ValueError(f"steps {list(t.shape)} and losses {list(losses.shape)} do not fit")
        both = torch.stack([t.detach().double(), losses.detach().double()], 1).cpu()
        kept, counts = self.losses.numpy(), self.counts.numpy()  # the same memory, faster by number
        for number, loss in interleave(both).tolist():
            if not math.isfinite(loss):
                continue
            step = int(number)
            if counts[step] == kept.shape[1]:
                kept[step, :-1] = kept[step, 1:].copy()
                kept[step, -1] = loss
            else:
                kept[step, counts[step]] = loss
                counts[step] += 1

    def state_dict(self) -> dict[str, Any]:
        """The history."""
        return {"T": self.T, "losses": self.losses.clone(), "counts": self.counts.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`. Errors: ValueError for another number of steps or history."""
        super().load_state_dict(state)
        if state["losses"].shape != self.losses.shape:
            raise ValueError(
                f"the state has a history of {state['losses'].shape[1]}, the sampler of "
                f"{self.losses.shape[1]}"
            )
        self.losses.copy_(state["losses"])
        self.counts.copy_(state["counts"])


def schedule_sampler(name: str, T: int) -> UniformSampler:
    """The one of that name, uniform or loss-second-moment, for T steps. Errors: ValueError."""
    if name not in NAMES:
        raise ValueError(f"schedule sampler {name!r} is none of {', '.join(NAMES)}")
    return UniformSampler(T) if name == "uniform" else LossSecondMoment(T)
