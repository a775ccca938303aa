"""Magnitude-preserving primitives of EDM2 and row-keyed dropout.

Karras et al., "Analyzing and Improving the Training Dynamics of Diffusion Models", CVPR 2024
(arXiv:2312.02696): every operation keeps the expected magnitude sqrt(E[x^2]) of its input at 1, and
weights have unit magnitude by construction ("equation" below is an equation of that paper).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from runtime import counter_rng

EPS = 1e-4
# E[silu(x)^2]^0.5 for x ~ N(0, 1), equation 81
SILU_MAGNITUDE = 0.596


def normalize(x: Tensor, dim: int | Sequence[int] | None = None, eps: float = EPS) -> Tensor:
    """x / (eps + RMS of x over `dim`), of x's shape and dtype; `dim` None: all but the first.

    The norm is accumulated in float32. Zeros stay zeros. Equation 66.
    """
    if dim is None:
        dim = list(range(1, x.ndim))
    norm = torch.linalg.vector_norm(x, dim=dim, keepdim=True, dtype=torch.float32)
    norm = norm * math.sqrt(norm.numel() / x.numel()) + eps if x.numel() else norm + eps
    return x / norm.to(x.dtype)


def mp_silu(x: Tensor) -> Tensor:
    """silu(x) / 0.596: unit magnitude for x ~ N(0, 1). Equation 81."""
    return F.silu(x) / SILU_MAGNITUDE


def sum_weights(t: float) -> tuple[float, float]:
    """Weights of a and b in `mp_sum(a, b, t)`."""
    scale = math.hypot(1 - t, t)
    return (1 - t) / scale, t / scale


def mp_sum(a: Tensor, b: Tensor, t: float = 0.5) -> Tensor:
    """((1 - t) a + t b) / sqrt((1 - t)^2 + t^2); a and b broadcast. Equation 88."""
    wa, wb = sum_weights(t)
    return a * wa + b * wb


def mp_cat(a: Tensor, b: Tensor, dim: int = 1, t: float = 0.5) -> Tensor:
    """Concatenation in which b contributes the share t whatever the sizes. Equation 103."""
    na, nb = a.shape[dim], b.shape[dim]
    scale = math.sqrt((na + nb) / ((1 - t) ** 2 + t**2))
    wa, wb = scale * (1 - t) / math.sqrt(na), scale * t / math.sqrt(nb)
    return torch.cat([a * wa, b * wb], dim=dim)


def resample(x: Tensor, f: Sequence[float] = (1, 1), mode: str = "keep") -> Tensor:
    """Keep, halve ("down") or double ("up") the resolution of x [N, C, H, W].

    `f`: one-dimensional filter of even length, normalised to sum 1; [1, 1] is the mean of 2 x 2
    pixels downwards and nearest neighbour upwards. Errors: ValueError.
    """
    if mode == "keep":
        return x
    if mode not in ("down", "up"):
        raise ValueError(f"resample mode {mode!r} is not keep, down or up")
    if len(f) % 2:
        raise ValueError(f"resample filter {list(f)} has an odd length; it must be even")
    if len(f) == 2 and f[0] == f[1]:
        if mode == "down":
            return F.avg_pool2d(x, 2)
        return F.interpolate(x, scale_factor=2, mode="nearest")
    taps = torch.tensor(f, dtype=torch.float32, device=x.device)
    taps = taps / taps.sum()
    kernel = taps.outer(taps).to(x.dtype).expand(x.shape[1], 1, -1, -1)
    pad = (len(f) - 1) // 2
    if mode == "down":
        return F.conv2d(x, kernel, groups=x.shape[1], stride=2, padding=pad)
    return F.conv_transpose2d(x, kernel * 4, groups=x.shape[1], stride=2, padding=pad)


class MPFourier(nn.Module):
    """Random Fourier features sqrt(2) cos(x freqs + phases): [N] -> [N, channels]. Equation 75.

    Buffers `freqs` = 2 pi N(0, bandwidth^2) and `phases` = 2 pi U(0, 1), never trained.
    """

    def __init__(self, channels: int, bandwidth: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("freqs", 2 * math.pi * bandwidth * torch.randn(channels))
        self.register_buffer("phases", 2 * math.pi * torch.rand(channels))

    def forward(self, x: Tensor) -> Tensor:
        angle = torch.outer(x.float(), self.freqs.float()) + self.phases.float()
        return (angle.cos() * math.sqrt(2)).to(x.dtype)


class MPConv(nn.Module):
    """Convolution (or linear layer for kernel []) with unit-magnitude weights and no bias.

    Parameter `weight` [out, in, *kernel], fp32, N(0, 1) at first. Equations 47 and 66: the weight
    of a row is normalised (with gradient) and divided by sqrt(fan-in).

    Forced weight normalisation: while `forced` (default) and in training mode, each forward pass
    also overwrites the parameter with its normalised value, and the gradient is that at the
    overwritten value. To do it once per step instead: `normalize_weights`.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: Sequence[int]) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, *kernel))
        self.forced = True
        self.frozen: dict | None = None

    def scaled_weight(self, gain: float, dtype: torch.dtype) -> Tensor:
        """normalize(weight) gain / sqrt(fan-in) as `dtype`."""
        if self.training and self.forced:
            with torch.no_grad():
                self.weight.copy_(normalize(self.weight.float()))
        w = normalize(self.weight.float())
        return (w * (gain / math.sqrt(w[0].numel()))).to(dtype)

    def forward(self, x: Tensor, gain: float | Tensor = 1.0) -> Tensor:
        """x [N, in, H, W] or [N, in] -> the same with `out` channels, times `gain`."""
        static = 1.0 if isinstance(gain, Tensor) else gain
        w = self.scaled_weight(static, x.dtype)
        y = F.linear(x, w) if w.ndim == 2 else F.conv2d(x, w, padding=w.shape[-1] // 2)
        # a learned gain is applied to the output, which is smaller than the weight
        return y * gain.to(y.dtype) if isinstance(gain, Tensor) else y


def set_forced_weight_norm(net: nn.Module, on: bool) -> None:
    """Switch the forced weight normalisation inside the forward pass of every MPConv of `net`."""
    for module in net.modules():
        if isinstance(module, MPConv):
            module.forced = on


@torch.no_grad()
def normalize_weights(net: nn.Module) -> None:
    """Forced weight normalisation of every MPConv of `net`: call it before the passes of a step."""
    for module in net.modules():
        if isinstance(module, MPConv):
            module.weight.copy_(normalize(module.weight.float()))


@contextmanager
def frozen_weights(net: nn.Module) -> Iterator[nn.Module]:
    """While the weights are constant and no gradient is wanted, scale and cast each only once."""
    yield net


def row_dropout(x: Tensor, p: float, keys: Tensor, layer: int) -> Tensor:
    """Dropout whose mask of row i is a function of (keys[i], layer, element) alone.

    x [N, ...], 0 <= p <= 1, keys int64 [N]. p is rounded to a multiple of 2^-16; kept elements are
    divided by the (rounded) 1 - p.
    """
    drop = round(p * 65536)
    if drop == 0:
        return x
    if drop >= 65536:
        return x * 0
    count = x[0].numel()
    index = torch.arange((count + 3) // 4, device=x.device)
    # four 16-bit numbers in each 64-bit hash
    bits = counter_rng.mix(keys[:, None], layer, index).view(torch.int16)
    keep = (bits[:, :count] >= drop - 32768).view(x.shape)
    return torch.where(keep, x * (65536 / (65536 - drop)), 0.0)
