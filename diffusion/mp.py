"""Magnitude-preserving primitives of EDM2.

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
from torch.autograd.function import once_differentiable

EPS = 1e-4
# E[silu(x)^2]^0.5 for x ~ N(0, 1), equation 81
SILU_MAGNITUDE = 0.596
_TINY = torch.finfo(torch.float32).tiny


def normalize(x: Tensor, dim: int | Sequence[int] | None = None, eps: float = EPS) -> Tensor:
    """x / (eps + RMS of x over `dim`), of x's shape and dtype; `dim` None: all but the first.

    The norm is accumulated in float32. Zeros stay zeros. Equation 66.
    """
    if dim is None:
        dim = tuple(range(1, x.ndim))
    return _Normalize.apply(x, (dim,) if isinstance(dim, int) else tuple(dim), eps)


def _norm_and_divisor(x: Tensor, dim: tuple[int, ...], eps: float) -> tuple[Tensor, Tensor, float]:
    """L2 norm n over `dim` (kept, fp32), eps + n / root, and root = sqrt(elements of a norm)."""
    norm = torch.linalg.vector_norm(x, dim=dim, keepdim=True, dtype=torch.float32)
    count = 1  # as x.numel() / norm.numel(), which torch.export cannot tell for batches of any size
    for d in dim:
        count *= x.shape[d]
    root = math.sqrt(count) or 1.0
    return norm, norm * (1 / root) + eps, root


class _Normalize(torch.autograd.Function):
    """The gradient in closed form: autograd's own passes over the memory three times as often."""

    @staticmethod
    def forward(ctx, x: Tensor, dim: tuple[int, ...], eps: float) -> Tensor:
        norm, divisor, ctx.root = _norm_and_divisor(x, dim, eps)
        divisor = divisor.to(x.dtype)
        y = x / divisor
        ctx.dim = dim
        # y, not x: what comes next keeps it anyway
        ctx.save_for_backward(y, norm, divisor)
        return y

    @staticmethod
    @once_differentiable  # a second derivative would be wrong, silently
    def backward(ctx, grad: Tensor):
        y, norm, divisor = ctx.saved_tensors
        # y = x / d, d = eps + |x| / root: dL/dx = g / d - y (g . y) / (root |x|)
        dot = (grad * y).sum(ctx.dim, keepdim=True, dtype=torch.float32)
        share = (dot / (norm * ctx.root).clamp_min(_TINY)).to(y.dtype)
        return (grad / divisor).addcmul_(y, share, value=-1), None, None


class _ScaledWeight(torch.autograd.Function):
    """scale * normalize(w), in one pass over w and two back."""

    @staticmethod
    def forward(ctx, w: Tensor, scale: float) -> Tensor:
        norm, divisor, root = _norm_and_divisor(w, tuple(range(1, w.ndim)), EPS)
        factor = scale / divisor
        ctx.save_for_backward(w, factor, norm * divisor * root)
        return w * factor

    @staticmethod
    @once_differentiable  # a second derivative would be wrong, silently
    def backward(ctx, grad: Tensor):
        w, factor, curvature = ctx.saved_tensors
        # y = s w / d, d = eps + |w| / root: dL/dw = s / d (g - w (g . w) / (d root |w|))
        dot = torch.linalg.vecdot(grad.flatten(1), w.flatten(1)).view_as(factor)
        share = factor * dot / curvature.clamp_min(_TINY)
        return (grad * factor).addcmul_(w, share, value=-1), None


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
    # Filled on the device: a copy from the host would wait for it
    taps = torch.stack([x.new_full((), tap / sum(f), dtype=torch.float32) for tap in f])
    kernel = taps.outer(taps).to(x.dtype).expand(x.shape[1], 1, -1, -1)
    pad = (len(f) - 1) // 2
    if mode == "down":
        return F.conv2d(x, kernel, groups=x.shape[1], stride=2, padding=pad)
    return F.conv_transpose2d(x, kernel * 4, groups=x.shape[1], stride=2, padding=pad)


class MPFourier(nn.Module):
    """Random Fourier features sqrt(2) cos(x freqs + phases): [N] -> [N, channels]. Equation 75.

    Buffers `freqs` = 2 pi N(0, bandwidth^2) and `phases` = 2 pi U(0, 1), never trained.
    """

    freqs: Tensor
    phases: Tensor

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
    of a row is normalised (with gradient) and divided by sqrt(fan-in), then cast to the input's
    dtype. Kernels are odd.

    Forced weight normalisation: while `forced` (default) and in training mode, each forward pass
    first overwrites the parameter with its normalised value, and the gradient is the one at that
    value. `normalize_weights` does it for all layers, once per step.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: Sequence[int]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, *kernel))
        self.forced = True
        # By `frozen_weights`: (gain, dtype) -> (version of the weight, scaled weight)
        self.frozen: dict[tuple[float, torch.dtype], tuple[int, Tensor]] | None = None

    def _scaled_weight(self, gain: float, dtype: torch.dtype) -> Tensor:
        if self.training and self.forced:
            _overwrite(self.weight)
        fan_in = self.weight[0].numel()
        return _ScaledWeight.apply(self.weight.float(), gain / math.sqrt(fan_in)).to(dtype)

    def scaled_weight(self, gain: float, dtype: torch.dtype) -> Tensor:
        """normalize(weight) gain / sqrt(fan-in) as `dtype`, kept while `frozen_weights` says so."""
        recorded = torch.is_grad_enabled() or torch.compiler.is_compiling()
        # Inference tensors do not count their versions
        if self.frozen is None or recorded or self.weight.is_inference():
            return self._scaled_weight(gain, dtype)
        held = self.frozen.get((gain, dtype))
        if held is None or held[0] != self.weight._version:
            scaled = self._scaled_weight(gain, dtype)
            held = self.frozen[gain, dtype] = (self.weight._version, scaled)
        return held[1]

    def forward(self, x: Tensor, gain: float | Tensor = 1.0) -> Tensor:
        """x [N, in, H, W] or [N, in] -> the same with `out` channels, times `gain`."""
        w = self.scaled_weight(1.0 if isinstance(gain, Tensor) else gain, x.dtype)
        y = F.linear(x, w) if w.ndim == 2 else F.conv2d(x, w, padding=w.shape[-1] // 2)
        # A learned gain multiplies the output: smaller than the weight, and the weight stays fixed
        return y * gain.to(y.dtype) if isinstance(gain, Tensor) else y


@torch.no_grad()
def _overwrite(weight: Tensor) -> None:
    weight.copy_(normalize(weight.float()))


# torch.compile must not touch it: Inductor (torch 2.15) loses what a graph with a convolution
# writes to its weight. This is the mark of torch.compiler.disable, without the second that the
# import of the compiler takes.
_overwrite._torchdynamo_disable = True  # type: ignore[attr-defined]


def _layers(net: nn.Module) -> list[MPConv]:
    return [module for module in net.modules() if isinstance(module, MPConv)]


def set_forced_weight_norm(net: nn.Module, on: bool) -> None:
    """Switch the forced weight normalisation inside the forward pass of every MPConv of `net`."""
    for layer in _layers(net):
        layer.forced = on


# Rows are stacked up to this many elements for one norm: few kernels on a GPU, no copies of large
# weights on a CPU, where they cost more than the calls.
_STACK_CPU = 1 << 18
_STACK_CUDA = 1 << 26


@torch.no_grad()
def normalize_weights(net: nn.Module) -> None:
    """Forced weight normalisation of every MPConv of `net`, in place, in a few foreach calls.

    For training loops that switch off the layers' own (`set_forced_weight_norm(net, False)`): call
    it at the start of each step, before its first forward pass. The result is that of the layers'
    own normalisation in the first forward pass of the step.
    """
    stacks: dict[tuple, list[list[Tensor]]] = {}
    for layer in _layers(net):
        w = layer.weight
        group = stacks.setdefault((w.device, w.dtype, w[0].numel()), [[]])
        limit = _STACK_CUDA if w.is_cuda else _STACK_CPU
        if group[-1] and sum(v.numel() for v in group[-1]) + w.numel() > limit:
            group.append([])
        group[-1].append(w)
    weights: dict[tuple, list[Tensor]] = {}
    divisors: dict[tuple, list[Tensor]] = {}
    for (device, dtype, _), group in stacks.items():
        for stack in group:
            flat = [w.flatten(1) for w in stack]
            rows = flat[0] if len(flat) == 1 else torch.cat(flat)
            _, divisor, _ = _norm_and_divisor(rows, (1,), EPS)
            weights.setdefault((device, dtype), []).extend(stack)
            divisors.setdefault((device, dtype), []).extend(
                d.view(-1, *[1] * (w.ndim - 1))
                for w, d in zip(stack, divisor.split([len(w) for w in stack]), strict=True)
            )
    for key, weights_of in weights.items():
        torch._foreach_div_(weights_of, divisors[key])


@contextmanager
def frozen_weights(*nets: nn.Module) -> Iterator[None]:
    """Scale and cast each weight of `nets` once, not at every call: for sampling and selection.

        with torch.no_grad(), frozen_weights(net, guide):
            heun(...)

    Results are those without it, bit for bit. Nothing is kept for calls that record gradients or
    are compiled, and a weight that is changed in place is scaled anew. The end of the block drops
    what was kept.
    """
    layers = [layer for net in nets for layer in _layers(net) if layer.frozen is None]
    for layer in layers:
        layer.frozen = {}
    try:
        yield
    finally:
        for layer in layers:
            layer.frozen = None
