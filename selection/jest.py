"""JEST: joint example selection (Evans et al. 2024, arXiv:2406.17711), without the B x B work.

A super-batch of B candidates is reduced to b rows in N chunks. With S the n rows drawn so far and
s_ij the score of a pair, each chunk is drawn without replacement from the softmax of

    logit_j = (s_jj + sum_{k in S} s_kj + sum_{k in S} s_jk) / (2n + 1)                (1)

over the rows not in S (the published rule does not divide: `normalise=False`).

Scores of single rows (s_ij = learner_i - ref_j, or -ref_j) make (1) collapse: with score s_j =
learner_j - ref_j or -ref_j,

    logit_j = ((n + 1) s_j + sum_{k in S} s_k) / (2n + 1) = a_n s_j + const             (2)

with a_n = (n + 1) / (2n + 1) from 2/3 to 1/2 (n + 1 unnormalised). So a draw is N successive
draws of softmax(a_n s), O(B) each, and nothing joint is left of it. Pair scores [B, B] of a
contrastive loss keep (1), by sums of rows and columns that grow by what is new: O(B b) in all.

Drawing without replacement is Gumbel-top-k (Kool et al. 2019, arXiv:1903.06059): with fresh
exponential E_j, the c smallest log E_j - logit_j in order are c successive draws of the softmax.
All is in log-space and float64, whatever the dtype of the losses: no overflow, no underflow.

Rules: nothing waits for the device; no gradient is kept; rows whose score is not finite (a NaN or
infinite loss of learner or reference) are drawn only when fewer finite rows than needed are left,
then in no particular order. Scores far from 0 (beyond 1e12, say) are ranked, but the noise that
would tell equal ones apart falls below their last digit, unless all scores are alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from runtime.precision import LOWEST_TEMPERATURE
from selection.arrays import Given, Losses, as_given, refuse
from selection.scores import Spread, check_generator, checked_losses, edges, perplexity, table_of
from selection.sizes import Ratio, chunk_sizes, rows_of, split

FIRST_CHUNKS = ("uniform", "scored")
EASY_REFERENCES = ("intended", "source")

_LAST = -1e300  # score of rows that have none: below all others, above those already drawn (-inf)
_NOISE = 1 << 16  # random numbers made at once, unless one chunk needs more


def jointly_sample_batch(
    learner_loss: Given,
    ref_loss: Losses,
    N: int = 16,
    filter_ratio: Ratio = 0.8,
    learnability: bool = True,
    inverted: bool = False,
    *,
    first_chunk: str = "uniform",
    normalise: bool = True,
    rounding: str = "exact",
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    strata: Tensor | None = None,
    easy_reference: str = "intended",
    selection_size: int | None = None,
    numeric_stability_trick: bool = False,
    device: torch.device | str | int | None = None,
    **unknown: Any,
) -> Given:
    """Draw the rows to train on: int64 [b] in order of drawing, as the losses came: an array for a
    NumPy array, else a tensor on the losses' device.

    - learner_loss, ref_loss: [B] losses of the same rows ([B, 1] and [B, 1, 1, 1] are the same), or
      [B, B] losses of pairs (entry i, j: row i of one modality, j of the other); any floating
      dtype, tensors or NumPy arrays; scale: see `selection.scaled`.
    - N: number of chunks; a selection of b < N rows is drawn in b chunks of one.
    - filter_ratio: share of rows left out, [0, 1); b = floor(B (1 - filter_ratio)) exactly, or
      Autoguided's truncation with rounding="reference" (see `selection_size`).
    - learnability: score learner - reference, else easy reference, -reference. inverted: negated.
    - first_chunk: "uniform" (Autoguided; with N = 1 no score counts) or "scored" (the rule from the
      first row on, n = 0).
    - normalise: divide by 2n + 1 (Autoguided: a soft draw), or not (published: nearly greedy).
    - temperature: at least 1e-30, divides the logits.
    - generator: on the losses' device; default torch's own.
    - strata: table of `sigma_strata`. Every stratum then is a super-batch of its own, with N
      chunks, and gives b times its share of the rows, rounded up or down at random so that the
      sum is b and the expectation exact: up to any stratum's edge, the number of rows chosen
      differs from the proportional one by less than 1. What is kept is P(sigma) to within a
      stratum; inside one, rows still compete.
    - easy_reference: with learnability=False and losses [B], "source" draws as Autoguided's code
      does, whose scores lost a row: a_n = n / (2n + 1) in (2), n unnormalised, instead of n + 1.
    - selection_size: b itself, instead of filter_ratio.
    - numeric_stability_trick: Autoguided's option, accepted and without effect (see the file).
    - device: where a tensor of rows goes, by default the losses' device.
    `random_baseline` takes the same keywords. Errors: ValueError; UnknownKeyword (a TypeError and a
    ValueError) for any other.
    """
    refuse(jointly_sample_batch, unknown)
    learner, ref = checked_losses(learner_loss, ref_loss)
    rows = _rows(
        learner, ref, N, filter_ratio, learnability, inverted, first_chunk, normalise, rounding,
        temperature, generator, strata, easy_reference, selection_size,
    )  # fmt: skip
    return as_given(rows, learner_loss, device)


def _rows(
    learner: Tensor,
    ref: Tensor,
    N: int,
    filter_ratio: Ratio,
    learnability: bool,
    inverted: bool,
    first_chunk: str,
    normalise: bool,
    rounding: str,
    temperature: float,
    generator: torch.Generator | None,
    strata: Tensor | None,
    easy_reference: str,
    selection_size: int | None,
) -> Tensor:
    """`jointly_sample_batch` of losses that are checked."""
    if first_chunk not in FIRST_CHUNKS:
        raise ValueError(f"first_chunk {first_chunk!r} is not one of: {', '.join(FIRST_CHUNKS)}")
    _check_temperature(temperature)
    easy = _easy(easy_reference, learnability, learner)
    check_generator(generator, learner.device)
    B = len(learner)
    if selection_size is None:
        sizes = chunk_sizes(B, filter_ratio, N, rounding)
    else:
        sizes = split(rows_of(B, filter_ratio, N, rounding, selection_size), N)
    if learner.dim() == 2:
        if strata is not None:
            raise ValueError("strata are for losses [B], not for pair losses [B, B]")
        pairs = _Pairs(learner, ref, learnability, inverted)
        return _draw_pairs(pairs, sizes, first_chunk, normalise, temperature, generator)
    score = _ranked(_row_scores(learner, ref, learnability, inverted), temperature)
    if strata is None:
        return _draw(score[None], sizes, first_chunk, normalise, generator, easy)[0]
    table = table_of(strata, B, score.device)
    b, K = sum(sizes), len(table)
    most = -(-b * table.shape[1] // B)  # no stratum gives more
    score = score[table.clamp(min=0)].masked_fill_(table < 0, -torch.inf)
    drawn = _draw(score, split(most, N), first_chunk, normalise, generator, easy)
    # A prefix of a draw without replacement is a draw: every stratum draws `most`, and gives the
    # first quota_k. Systematic sampling: quota_k = floor((b edge_{k+1} + u) / B) - floor((b edge_k
    # + u) / B) with u uniform on 0..B-1, in integers; the sum telescopes to b.
    u = torch.randint(B, (1,), device=score.device, generator=generator)
    quota = ((b * edges(K, B, score.device) + u) // B).diff()
    rows = table.gather(1, drawn).T.reshape(-1)
    over = torch.arange(most, device=score.device)[:, None] >= quota
    return rows[over.reshape(-1).argsort(stable=True)[:b]]


def selection_logits(
    learner_loss: Tensor,
    ref_loss: Tensor,
    sampled: Tensor | Iterable[int] | None = None,
    *,
    learnability: bool = True,
    inverted: bool = False,
    normalise: bool = True,
    temperature: float = 1.0,
    easy_reference: str = "intended",
) -> Tensor:
    """Logits float64 [B] of the next chunk, given the rows `sampled` so far, int64 [n].

    (1) of the file for losses [B, B], (2) with its constant for losses [B]; -inf at sampled rows
    and at rows whose score is not finite. No row sampled: the logits of a scored first chunk.
    easy_reference="source": what Autoguided's easy-reference scores come to (losses [B] and
    learnability=False only), whose matrix lost its rows: (n s_j + s_0 + sum_{k in S} s_k) / (2n+1).
    Errors: ValueError.
    """
    learner, ref = checked_losses(learner_loss, ref_loss)
    _check_temperature(temperature)
    source = _easy(easy_reference, learnability, learner)
    if sampled is None:
        sampled = ()
    if not isinstance(sampled, Tensor):
        sampled = torch.tensor(list(sampled), dtype=torch.int64, device=learner.device)
    n = len(sampled)
    if learner.dim() == 2:
        pairs = _Pairs(learner, ref, learnability, inverted)
        total = pairs.diagonal() + pairs.sums(sampled)
        good = total.isfinite()
    else:
        s = _row_scores(learner, ref, learnability, inverted)
        good = s.isfinite()
        s = s.masked_fill(~good, 0)
        total = (n * s + s[0] if source else (n + 1) * s) + s[sampled].sum()
    logits = total / ((2 * n + 1 if normalise else 1) * temperature)
    return logits.masked_fill(~good, -torch.inf).index_fill(0, sampled, -torch.inf)


def draw_spread(
    learner_loss: Tensor,
    ref_loss: Tensor,
    N: int = 16,
    filter_ratio: Ratio = 0.8,
    learnability: bool = True,
    inverted: bool = False,
    *,
    first_chunk: str = "uniform",
    normalise: bool = True,
    rounding: str = "exact",
    temperature: float = 1.0,
    strata: Tensor | None = None,
    easy_reference: str = "intended",
) -> Spread:
    """How selective `jointly_sample_batch` with these arguments is: entropy, perplexity, / B.

    Of the softmax over all B rows with the coefficient a_n of the second chunk (of the only one,
    if there is one), where scores begin to count and which hardly changes after: relative 1 is a
    uniform draw, 1/B a certain one. In strata, the perplexities add up. Pair losses: of the
    diagonal scores alone. Tensors on the losses' device; nothing waits for it. Errors: ValueError.
    """
    learner, ref = checked_losses(learner_loss, ref_loss)
    _check_temperature(temperature)
    easy = _easy(easy_reference, learnability, learner)
    B = len(learner)
    sizes = chunk_sizes(B, filter_ratio, N, rounding)
    if learner.dim() == 2:
        learner, ref = learner.diagonal(), ref.diagonal()
    table = table_of(strata, B, learner.device)
    if strata is not None:
        sizes = split(-(-sum(sizes) * table.shape[1] // B), N)
    if len(sizes) > 1:
        a = _coefficient(sizes[0], normalise, easy)
    else:
        a = _coefficient(0, normalise, easy) if first_chunk == "scored" else 0.0
    score = _ranked(_row_scores(learner, ref, learnability, inverted), temperature)
    score = score[table.clamp(min=0)]
    out = (table < 0) | (score <= _LAST)
    total = perplexity((a * score).masked_fill(out, -torch.inf)).sum()
    return Spread(total.log(), total, total / B)


def _check_temperature(temperature: float) -> None:
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature {temperature} is not a positive number")
    if temperature < LOWEST_TEMPERATURE:
        raise ValueError(
            f"temperature {temperature} is below {LOWEST_TEMPERATURE:g}, where scores divided by "
            "it leave the range of numbers"
        )


def _easy(easy_reference: str, learnability: bool, learner: Tensor) -> bool:
    """Whether easy-reference scores are to be those of Autoguided's code. Errors: ValueError."""
    if easy_reference not in EASY_REFERENCES:
        raise ValueError(
            f"easy_reference {easy_reference!r} is not one of: {', '.join(EASY_REFERENCES)}"
        )
    source = easy_reference == "source"
    if source and (learnability or learner.dim() == 2):
        raise ValueError("easy_reference='source' needs learnability=False and losses [B]")
    return source


def _coefficient(n: int, normalise: bool, source: bool = False) -> float:
    """a_n of (2), or of Autoguided's easy-reference scores (`source`)."""
    above = n if source else n + 1.0
    return above / (2 * n + 1) if normalise else above


def _row_scores(learner: Tensor, ref: Tensor, learnability: bool, inverted: bool) -> Tensor:
    """s_j of (2), float64 [B]; not finite where either loss is not."""
    score = learner.double() - ref
    if not learnability:
        score = score.sub_(score).sub_(ref)  # the first is 0, or NaN where a loss is not finite
    return score.neg_() if inverted else score


def _ranked(score: Tensor, temperature: float) -> Tensor:
    """Scores [B] / temperature, shifted; `_LAST` where they are not finite."""
    score = score.nan_to_num(-torch.inf, -torch.inf, -torch.inf)
    # Equal scores of any size become 0, where noise tells them apart; the shift is the score next
    # to 0, so that no outlier takes the digits of the others.
    shift = score.gather(0, score.abs().argmin(0, keepdim=True)).nan_to_num_()
    return score.sub_(shift).div_(temperature).clamp_(min=_LAST)


def _noise(
    draws: int, shape: Sequence[int], device: torch.device, generator: torch.Generator | None
) -> Iterator[Tensor]:
    """Blocks [n, *shape] of log E, E ~ Exp(1), `draws` in all."""
    most = max(1, _NOISE // math.prod(shape))
    for first in range(0, draws, most):
        size = (min(most, draws - first), *shape)
        u = torch.rand(size, dtype=torch.float64, device=device, generator=generator)
        # E = -log(1 - u) in 53 bits; exponential_ has half of them on CPUs, and takes longer
        yield u.neg_().log1p_().neg_().log_()


def _draw(
    score: Tensor,
    sizes: list[int],
    first_chunk: str,
    normalise: bool,
    generator: torch.Generator | None,
    source: bool = False,
) -> Tensor:
    """Columns drawn in each row of `score` [K, M] (overwritten): int64 [K, sum(sizes)]."""
    noise = _noise(len(sizes), score.shape, score.device, generator)
    by = _draw_by_numpy if score.device.type == "cpu" and len(score) == 1 else _draw_by_torch
    uniform = first_chunk == "uniform" or source  # a_0 is 0 there
    return by(score, sizes, uniform, normalise, noise, source)


def _draw_by_torch(
    score: Tensor,
    sizes: list[int],
    uniform: bool,
    normalise: bool,
    noise: Iterator[Tensor],
    source: bool = False,
) -> Tensor:
    drawn: list[Tensor] = []
    n = 0
    for c, key in zip(sizes, chain.from_iterable(noise), strict=True):
        if n == 0 and uniform:
            key = torch.where(score > _LAST, key, -score)
        else:
            key.sub_(score, alpha=_coefficient(n, normalise, source))
        index = key.topk(c, dim=1, largest=False).indices
        score.scatter_(1, index, -torch.inf)
        drawn.append(index)
        n += c
    return torch.cat(drawn, 1)


def _draw_by_numpy(
    score: Tensor,
    sizes: list[int],
    uniform: bool,
    normalise: bool,
    noise: Iterator[Tensor],
    source: bool = False,
) -> Tensor:
    """The same picks for one row on the CPU: less overhead, and vector instructions select."""
    drawn = np.empty(sum(sizes), np.int64)
    left = score.numpy()[0]
    n = 0
    for c, key in zip(sizes, chain.from_iterable(block.numpy() for block in noise), strict=True):
        key = key[0]
        if n == 0 and uniform:
            key = np.where(left > _LAST, key, -left)
        else:
            key -= left * _coefficient(n, normalise, source)
        index = key.argpartition(c - 1)[:c]
        index = index[key[index].argsort()]
        left[index] = -np.inf
        drawn[n : n + c] = index
        n += c
    return torch.from_numpy(drawn)[None]


class _Pairs:
    """Pair scores s_ij = learner_ij - ref_ij, or -ref_ij, never formed as a whole."""

    def __init__(self, learner: Tensor, ref: Tensor, learnability: bool, inverted: bool) -> None:
        self.learner, self.ref = learner, ref
        self.learnability, self.inverted = learnability, inverted

    def diagonal(self) -> Tensor:
        """s_jj [B]; non-finite where either loss is."""
        learner, ref = self.learner.diagonal(), self.ref.diagonal()
        return _row_scores(learner, ref, self.learnability, self.inverted)

    def sums(self, index: Tensor) -> Tensor:
        """sum_{k in index} s_kj + s_jk, float64 [B]."""
        out = self._sums(index, 0) + self._sums(index, 1)
        return -out if self.inverted else out

    def _sums(self, index: Tensor, dim: int) -> Tensor:
        """Scores summed over the rows (dim 0) or columns of `index`, not inverted."""
        out = -self.ref.index_select(dim, index).sum(dim, dtype=torch.float64)
        if self.learnability:
            out += self.learner.index_select(dim, index).sum(dim, dtype=torch.float64)
        return out


def _draw_pairs(
    pairs: _Pairs,
    sizes: list[int],
    first_chunk: str,
    normalise: bool,
    temperature: float,
    generator: torch.Generator | None,
) -> Tensor:
    """Rows drawn by (1), chunk by chunk: int64 [sum(sizes)]."""
    total = pairs.diagonal()
    noise = _noise(len(sizes), total.shape, total.device, generator)
    taken = torch.zeros_like(total)
    drawn: list[Tensor] = []
    n = 0
    for c, key in zip(sizes, chain.from_iterable(noise), strict=True):
        logits = _ranked(total + taken, temperature * (2 * n + 1 if normalise else 1))
        if n == 0 and first_chunk == "uniform":
            logits = torch.where(logits > _LAST, 0, logits)
        index = key.sub_(logits).sub_(taken).topk(c, largest=False).indices
        drawn.append(index)
        n += c
        if n < sum(sizes):
            taken.index_fill_(0, index, -torch.inf)
            total = total + pairs.sums(index)
    return torch.cat(drawn)
