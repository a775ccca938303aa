"""What a draw looks at: losses on a stated scale, strata of sigma, spread of a distribution.

Everything is float64 on the losses' own device, detached, and never waits for the device.

Non-finite losses: a row whose learner or reference loss is NaN or infinite has no part in any
statistic here, stays non-finite, and is drawn last (see `selection.jest`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from selection.arrays import Losses, as_tensor

SCALES = ("standardised", "autoguided", "raw", "mean")


def checked_losses(learner_loss: Losses, ref_loss: Losses | None) -> tuple[Tensor, Tensor]:
    """The two losses, detached, [B] or [B, B] alike; [B, 1, ..] becomes [B], arrays tensors.

    Errors: ValueError.
    """
    if ref_loss is None:
        raise ValueError("this method compares with a reference: give ref_loss as well")
    learner, ref = as_tensor("learner_loss", learner_loss), as_tensor("ref_loss", ref_loss)
    shape = list(learner.shape)
    if len(shape) not in (1, 2) or shape[0] < 1 or (len(shape) == 2 and shape[0] != shape[1]):
        raise ValueError(
            f"losses must be [B] (per row) or [B, B] (per pair); [B, 1] and [B, 1, 1, 1] are as "
            f"[B]; got {shape}"
        )
    if list(ref.shape) != shape:
        raise ValueError(
            f"learner_loss is {shape} but ref_loss is {list(ref.shape)}: they must be of the "
            "same rows"
        )
    if ref.device != learner.device:
        raise ValueError(f"learner_loss is on {learner.device} but ref_loss is on {ref.device}")
    return learner, ref


def check_generator(generator: torch.Generator | None, device: torch.device) -> None:
    """ValueError unless the generator can draw on `device`."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise ValueError(
            f"generator must be a torch.Generator, got {type(generator).__name__}: "
            f"torch.Generator({str(device)!r}).manual_seed(SEED) is one"
        )
    if generator is not None and generator.device.type != device.type:
        raise ValueError(
            f"the losses are on {device} but the generator is on {generator.device}: make it by "
            f"torch.Generator({str(device)!r})"
        )


def scaled(
    learner_loss: Tensor,
    ref_loss: Tensor,
    *,
    scale: str = "standardised",
    learnability: bool = True,
    pixels: int | None = None,
    loss_scaling: float = 1.0,
    batch_gpu_total: int | None = None,
    strata: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Both losses, float64, on the scale that a draw (`jointly_sample_batch`) is to see.

    Losses: sums over the `pixels` values (C*H*W) of each row, [B]; [B, B] but for "standardised".

    - "raw": as they are.
    - "mean": divided by `pixels`.
    - "autoguided": times loss_scaling / batch_gpu_total, as the training loop of the Autoguided
      code feeds them, so that the temperature depends on the batch of a GPU, hence on the number
      of GPUs.
    - "standardised": shifted and divided so that the score (learner - ref, or with
      learnability=False -ref) has mean 0 and population standard deviation 1 over the draw's
      finite rows, or over those of each stratum (`strata` of `sigma_strata`). Scores that are all
      equal become zeros. Temperature then means the same at any resolution, batch or loss.
    Errors: ValueError.
    """
    learner, ref = (t.double() for t in checked_losses(learner_loss, ref_loss))
    if scale == "raw":
        return learner, ref
    if scale == "mean":
        if pixels is None or pixels < 1:
            raise ValueError(f"scale 'mean' divides by pixels = C*H*W, got {pixels}")
        return learner / pixels, ref / pixels
    if scale == "autoguided":
        if batch_gpu_total is None or batch_gpu_total < 1:
            raise ValueError(
                f"scale 'autoguided' divides by batch_gpu_total, the batch of one GPU, got "
                f"{batch_gpu_total}"
            )
        factor = loss_scaling / batch_gpu_total
        return learner * factor, ref * factor
    if scale == "standardised":
        return _standardised(learner, ref, learnability, strata)
    raise ValueError(f"score scale {scale!r} is not one of: {', '.join(SCALES)}")


def _standardised(
    learner: Tensor, ref: Tensor, learnability: bool, strata: Tensor | None
) -> tuple[Tensor, Tensor]:
    if learner.dim() != 1:
        raise ValueError("scale 'standardised' is of losses [B]; pair losses [B, B] take 'raw'")
    table = table_of(strata, len(learner), learner.device)
    good = (learner - ref).isfinite()
    here, at = table >= 0, table.clamp(min=0)
    use = good[at] & here
    count = use.sum(1, keepdim=True).clamp(min=1)

    def mean(x: Tensor) -> Tensor:
        return x.masked_fill(~use, 0).sum(1, keepdim=True) / count

    learner_rows, ref_rows = learner[at], ref[at]  # [K, M]
    score = learner_rows - ref_rows if learnability else ref_rows
    size = torch.maximum(learner_rows.abs(), ref_rows.abs()).masked_fill(~use, 0)
    size = size.amax(1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    spread = mean(((score - mean(score)) / size).square()).sqrt()
    # What the subtractions leave of equal scores is rounding, and counts as nothing.
    factor = torch.where(spread > 1e-14, 1 / (spread * size), 0)
    # Padding goes to an entry of its own past the end.
    to = torch.where(here, table, len(learner)).flatten()

    def back(rows: Tensor) -> Tensor:
        out = ((rows - mean(rows)) * factor).flatten()
        out = out.new_zeros(len(learner) + 1).scatter_(0, to, out)[:-1]
        return out.masked_fill(~good, torch.nan)

    return back(learner_rows), back(ref_rows)


def sigma_strata(sigma: Tensor, K: int | None = None) -> Tensor:
    """Rows of a draw sorted by noise level and cut into K strata of equal count.

    sigma: [B] (or [B, 1, 1, 1]). Returns int64 [K, M], M = ceil(B / K), row numbers, -1 where a
    stratum has one row less; stratum k holds ranks k B // K to (k + 1) B // K - 1. K None: one
    stratum for every 16 rows, at most 32. Errors: ValueError.
    """
    sigma = sigma.detach().reshape(-1)
    B = len(sigma)
    if K is None:
        K = max(1, min(32, B // 16))
    if not 1 <= K <= B:
        raise ValueError(f"{K} sigma strata of {B} rows: give a number from 1 to {B}")
    order = sigma.argsort(stable=True)
    edge = edges(K, B, sigma.device)
    rank = edge[:-1, None] + torch.arange(-(-B // K), device=sigma.device)
    return torch.where(rank < edge[1:, None], order[rank.clamp(max=B - 1)], -1)


def edges(K: int, B: int, device: torch.device) -> Tensor:
    """First rank of each stratum and B: int64 [K + 1]."""
    return torch.arange(K + 1, device=device) * B // K


def table_of(strata: Tensor | None, B: int, device: torch.device) -> Tensor:
    """The strata, checked; one stratum of all rows for None."""
    if strata is None:
        return torch.arange(B, device=device)[None]
    K = len(strata) if strata.dim() == 2 else 0
    if K < 1 or strata.shape[1] != -(-B // K) or strata.dtype != torch.int64:
        raise ValueError(
            f"strata {list(strata.shape)} {strata.dtype} are not sigma_strata of {B} rows"
        )
    return strata


class Spread(NamedTuple):
    """How even a distribution is; each a float64 tensor []."""

    entropy: Tensor  # nats
    perplexity: Tensor  # exp(entropy): the number of equally likely rows, 1 to B
    relative: Tensor  # perplexity / B


def entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of softmax(logits) along the last dimension; -inf entries have no part."""
    return torch.special.entr(logits.detach().double().softmax(-1)).sum(-1)


def perplexity(logits: Tensor) -> Tensor:
    """exp(entropy(logits)): 1 when one row is certain, the number of rows when all are alike."""
    return entropy(logits).exp()
