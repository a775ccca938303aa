"""Rows of a batch of DDPM: step, noise and a sampler's noise as functions of the row's key.

Keys are `diffusion.rows.row_keys` of (seed, step of training, row), so that how rows are shared by
ranks, or scored before one is chosen, changes none of their numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from diffusion.gaussian import Gaussian
from diffusion.schedule_sampler import UniformSampler
from runtime.counter_rng import mix, normal

_NOISE = 1  # the stream that `diffusion.rows` has for it too
_TAG_SAMPLER = 0x73616D706C65  # "sample"


class Noised(NamedTuple):
    """Steps t int64 [B], their weights float32 [B], noise eps and noised images x_t [B, ...]."""

    t: Tensor
    weight: Tensor
    eps: Tensor
    x_t: Tensor


def keyed_noise(keys: Tensor, shape: Sequence[int], draw: int = 0) -> Tensor:
    """Unit normals float32 [B, *shape], row i a function of keys[i] and `draw`."""
    keys = keys if draw == 0 else mix(keys, draw)
    return normal(keys, math.prod(shape), stream=_NOISE).view(len(keys), *shape)


def noisy_rows(
    gaussian: Gaussian, x0: Tensor, keys: Tensor, sampler: UniformSampler, draw: int = 0
) -> Noised:
    """Images x0 [B, ...] noised as training sees them.

    keys int64 [B]. draw: another number gives other noise at the same steps, for choosing among
    several. Errors: ValueError.
    """
    if len(keys) != len(x0):
        raise ValueError(f"{len(keys)} keys do not fit images {list(x0.shape)}")
    t, weight = sampler.sample(keys)
    eps = keyed_noise(keys, x0.shape[1:], draw).to(x0.dtype)
    return Noised(t, weight, eps, gaussian.q_sample(x0, t, eps))


class KeyedRandn:
    """Noise for a sampler: `randn(x)` gives unit normals like x, others at each call.

    Row i is a function of keys[i] and of how many calls there were. Errors: ValueError.
    """

    def __init__(self, keys: Tensor) -> None:
        self.keys = mix(_TAG_SAMPLER, keys)
        self.calls = 0

    def __call__(self, x: Tensor) -> Tensor:
        """Unit normals of x's shape and type, on the keys' device."""
        if x.ndim == 0 or len(x) != len(self.keys):
            raise ValueError(f"{len(self.keys)} keys do not fit a batch {list(x.shape)}")
        self.calls += 1
        return keyed_noise(self.keys, x.shape[1:], self.calls).to(x.dtype)
