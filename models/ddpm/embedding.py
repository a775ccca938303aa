"""The time, or a continuous noise level, as a vector."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

# A noise level sqrt(alpha_bar) in (0, 1] is embedded as the time 1000 times it would be: the
# frequencies are made for times up to 1000 or so and would not tell levels apart.
NOISE_LEVEL_SCALE = 1000.0


def timestep_embedding(t: Tensor, dim: int, max_period: float = 10000.0) -> Tensor:
    """Sines and cosines of t [B] at frequencies max_period^(-i / half): fp32 [B, dim], dim >= 2.

    half = dim // 2 cosines come first, then as many sines, and one zero if dim is odd. Whole or
    fractional times. Vaswani et al. 2017, section 3.5, in the order of guided-diffusion.
    """
    half = dim // 2
    place = torch.arange(half, dtype=torch.float32, device=t.device)
    angle = t.float()[:, None] * torch.exp(place * (-math.log(max_period) / half))
    parts = [angle.cos(), angle.sin()]
    if dim % 2:
        parts.append(torch.zeros_like(angle[:, :1]))
    return torch.cat(parts, 1)


class TimeEmbedding(nn.Sequential):
    """t [], [1] or [rows], times `scale` -> [rows, 4 channels]: the embedding and two layers."""

    def __init__(self, channels: int, scale: float = 1.0) -> None:
        first, last = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, 4 * channels)
        super().__init__(first, nn.SiLU(), last)
        self.channels, self.scale = channels, scale

    def forward(self, t: Tensor, rows: int) -> Tensor:  # type: ignore[override]
        t = t.reshape(-1).expand(rows).float() * self.scale
        weight = next(self.parameters())
        return super().forward(timestep_embedding(t, self.channels).to(weight.dtype))
