"""The sinusoidal embedding of a step, which networks of DDPM are told their noise level by."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def timestep_embedding(t: Tensor, dim: int, max_period: float = 10000.0) -> Tensor:
    """cos(t f_i), then sin(t f_i), with f_i = max_period^(-i / (dim // 2)): float32 [N, dim].

    t [N], whole or fractional steps; an odd `dim` ends with a zero. Vaswani et al. 2017
    (arXiv:1706.03762), section 3.5, in the order of Dhariwal and Nichol 2021 (arXiv:2105.05233).
    Errors: ValueError.
    """
    if t.ndim != 1 or dim < 1:
        raise ValueError(f"timestep_embedding takes t [N] and dim >= 1, not {list(t.shape)}, {dim}")
    half = dim // 2
    index = torch.arange(half, dtype=torch.float32, device=t.device)
    frequencies = torch.exp(-math.log(max_period) * index / max(half, 1))
    angles = t[:, None].float() * frequencies
    waves = torch.cat([angles.cos(), angles.sin()], dim=1)
    return torch.nn.functional.pad(waves, (0, dim - 2 * half))
