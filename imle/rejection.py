"""Rejection of candidates that are too near already: RS-IMLE.

Vashist, Peng and Li, "Rejection Sampling IMLE: Designing Priors for Better Few-Shot Image
Synthesis" (ECCV 2024, arXiv 2409.17439): the nearest of many candidates is distributed unlike a
code at test time; training on the nearest one that is *not* nearer than a radius eps brings the two
closer. Here `Rejection` says the radius of each level to a search per image (`imle.search`), which
leaves nearer candidates out, and `outside` does it in a pool that all images share (`imle.pool`).

`rs_loss` is the conditional form of IMLE Policy (Rana et al., RSS 2025), in which no search goes
before the loss.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

Levels = Literal["last", "all"]
Empty = Literal["skip", "keep"]


class Rejection:
    """The radius below which candidates are rejected, one a level, in units of the search's loss.

    eps: the radius; 0 rejects nothing. quantile: instead, in (0, 1): the radius is that quantile
        of the losses of the first loop's winners, a level's own for each level; in that loop
        nothing is rejected, and from then on it is fixed.
    levels: "last", or "all": of the others the nearest candidate is taken.
    empty: what becomes of an image all of whose candidates are rejected at some level: "skip", it
        is left out of the loop's training, or "keep", it has its farthest candidate. Where that
        befalls all images of a loop they are kept, since there is nothing else to train on.
    """

    def __init__(
        self,
        eps: float | None = None,
        *,
        quantile: float | None = None,
        levels: Levels = "last",
        empty: Empty = "skip",
    ) -> None:
        if (eps is None) == (quantile is None):
            raise ValueError("a rejection needs either eps or quantile")
        if eps is not None and not (math.isfinite(eps) and eps >= 0):
            raise ValueError(f"eps must be finite and at least 0, got {eps}")
        if quantile is not None and not 0 < quantile < 1:
            raise ValueError(f"quantile must lie between 0 and 1, got {quantile}")
        if levels not in ("last", "all"):
            raise ValueError(f"levels must be last or all, got {levels!r}")
        if empty not in ("skip", "keep"):
            raise ValueError(f"empty must be skip or keep, got {empty!r}")
        self.eps, self.quantile, self.levels, self.empty = eps, quantile, levels, empty
        self.measured: list[float] | None = None  # of each level, with a quantile
        self.measured_in = -1  # the loop

    def radii(self, loop: int, levels: int) -> list[float]:
        """The radius of each of so many levels in a loop; 0 where nothing is rejected."""
        found = [0.0] * levels
        if self.eps is not None:
            found = [self.eps] * levels
        elif self.measured is not None and loop > self.measured_in:
            found = list(self.measured)
        return found if self.levels == "all" else [0.0] * (levels - 1) + found[-1:]

    def observe(self, loop: int, losses: Tensor) -> None:
        """What a loop's winners lost, [U, L]: the radius follows from those of the first loop."""
        if self.quantile is None or (self.measured is not None and loop != self.measured_in):
            return
        self.measured = losses.double().quantile(self.quantile, dim=0).tolist()
        self.measured_in = loop

    def described(self) -> str:
        """What is asked for, in a word: a state is of one such."""
        radius = f"q{self.quantile:g}" if self.quantile is not None else f"{self.eps:g}"
        return f"{radius} {self.levels} {self.empty}"

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"measured": self.measured, "measured_in": self.measured_in}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the radius that was measured."""
        measured = state["measured"]
        self.measured = None if measured is None else [float(r) for r in measured]
        self.measured_in = int(state["measured_in"])


class Near:
    """The candidates of one level for B images that are nearer than a radius: none is to win.

    count: how many were met, int64 [B].
    """

    def __init__(self, radius: float, batch: int, device: torch.device) -> None:
        self.radius = radius
        self.count = torch.zeros(batch, dtype=torch.int64, device=device)

    def __bool__(self) -> bool:
        """Whether any can be."""
        return self.radius > 0

    def met(self, losses: Tensor) -> None:
        """Counts those among losses [B, K]."""
        self.count += (losses < self.radius).sum(1)

    def without(self, losses: Tensor) -> Tensor:
        """Losses with inf in their place."""
        return torch.where(losses < self.radius, torch.inf, losses)

    def farthest_first(self, losses: Tensor) -> Tensor:
        """Theirs alone, negative: the smallest is the farthest. inf in the place of others."""
        return torch.where(losses < self.radius, -losses, torch.inf)


# ------------------------------------------------------------------------------- a shared pool


def outside(distances: Tensor, eps: float, knn_ignore: int, *, chunk: int | None = None) -> Tensor:
    """Which samples of a pool no image has rejected: bool [N].

    distances: [S, N], of images to samples. Every image rejects, for all images, those of its
    `knn_ignore` nearest samples that are nearer than eps. chunk: samples whose nearest are looked
    for together, default all; the released code has 1024.
    """
    kept = torch.ones(distances.shape[1], dtype=torch.bool, device=distances.device)
    step = distances.shape[1] if chunk is None else chunk
    for first in range(0, distances.shape[1], max(1, step)):
        part = distances[:, first : first + step]
        near, at = part.topk(min(knn_ignore, part.shape[1]), dim=1, largest=False)
        kept[first + at[near < eps]] = False
    return kept


def nearest_outside(
    distances: Tensor, eps: float, knn_ignore: int, *, chunk: int | None = None
) -> tuple[Tensor, Tensor]:
    """(Nearest sample that nobody has rejected, int64 [S]; which samples were, bool [N]).

    Arguments as `outside`. ValueError where nothing is left.
    """
    kept = outside(distances, eps, knn_ignore, chunk=chunk)
    if not bool(kept.any()):
        raise ValueError(f"all {len(kept)} samples are nearer than {eps} to some image")
    return torch.where(kept, distances, torch.inf).argmin(1), ~kept


# ------------------------------------------------------------------------------- without search


def rs_loss(real: Tensor, fake: Tensor, eps: float, *, published: bool = False) -> Tensor:
    """RS-IMLE's loss of conditions that each have candidates of their own: a scalar.

    real: [B, ...]; fake: [B, n, ...]. The mean over conditions of the Euclidean distance of the
    nearest candidate that is farther than eps; conditions without one are left out, and 0 (with a
    gradient of 0) is what remains of none. published: also leave out, as the release of IMLE Policy
    does, a condition whose only candidate left is the farthest of the batch; all left out is then a
    constant there.
    """
    distances = torch.linalg.vector_norm((fake - real[:, None]).flatten(2), dim=2)
    largest = distances.detach().amax()
    near = torch.where(distances > eps, distances, torch.inf).amin(1)
    valid = near < largest if published else near.isfinite()
    if not bool(valid.any()):
        return (fake * 0).sum()
    return near[valid].mean()


def parse(word: str) -> tuple[float | None, float | None]:
    """`0.02` -> (0.02, None), `q0.1` -> (None, 0.1): radius and quantile. Errors: ValueError."""
    try:
        number = float(word.removeprefix("q"))
    except ValueError:
        number = math.nan
    if word.startswith("q"):
        if not 0 < number < 1:
            raise ValueError(f"{word} is no quantile: q and a number between 0 and 1")
        return None, number
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(f"{word} is no radius: a loss of 0 or more, or q and a quantile")
    return number, None
