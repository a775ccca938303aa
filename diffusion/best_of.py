"""Of several noises for each image the one that is lost least: the rule of IMLE inside diffusion.

    keys = best_keys(keys, 4, losses)            # losses(keys) -> [n], without gradients
    eps = keyed_noise(keys, x0.shape[1:])

A network that is trained at the nearest of K noises explores K pairs of image and noise and learns
the one that it is nearest to, as implicit maximum likelihood estimation (Li and Malik 2018,
arXiv:1809.09087) learns the nearest of K samples. With a least distance, candidates nearer than
that are left out first, as rejection sampling does there (Vashist et al. 2024, arXiv:2409.17439).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from runtime.counter_rng import mix

_TAG = 0x626573746F66  # "bestof"


@torch.no_grad()
def best_keys(
    keys: Tensor, count: int, losses: Callable[[Tensor], Tensor], *, reject: float = 0.0
) -> Tensor:
    """For each row the key, of `count` for its noise, that loses least: int64 [n].

    keys int64 [n]: of the rows; they are candidate 0 themselves, so that count 1 changes nothing
    and asks for no loss. losses(keys) -> [n]: of the rows with the noise of these keys. reject:
    candidates that lose less are left out; of a row that has no others the one that loses most is
    taken. Errors: ValueError.
    """
    if count < 1 or not 0 <= reject < float("inf"):
        raise ValueError(f"best of {count} noises, rejecting below {reject}: 1 or more, 0 or more")
    if count == 1:
        return keys
    candidates = torch.stack([keys, *(mix(_TAG, keys, k) for k in range(1, count))])
    lost = torch.stack([losses(one).detach().float() for one in candidates])
    near = lost < reject
    allowed = lost.masked_fill(near, float("inf")).argmin(0)
    chosen = torch.where(near.all(0), lost.argmax(0), allowed)
    return candidates.gather(0, chosen[None])[0]
