"""Normalisations of omnigan's networks, the spectral one of weights, and initial weights."""

from __future__ import annotations

import contextlib
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

INITS = ("kaiming", "normal", "orthogonal", "xavier")


class LayerNorm(nn.Module):
    """MUNIT's: each sample by its mean and unbiased deviation over C, H, W; scale by channel.

    [B, C, H, W] -> the same. y = (x - mean) / (std + eps) * gamma_c + beta_c: eps is added to the
    deviation, not to the variance. gamma starts uniform in [0, 1), beta at 0. Statistics are fp32.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.gamma = nn.Parameter(torch.rand(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        var, mean = torch.var_mean(x.float(), (1, 2, 3), keepdim=True)
        scale = self.gamma[None, :, None, None] / (var.sqrt() + self.eps)
        return (x * scale + (self.beta[None, :, None, None] - mean * scale)).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{len(self.gamma)}, eps={self.eps:g}"


class AdaIN(nn.Module):
    """Instance normalisation whose scale and shift are given for each sample and channel.

    forward(x [B, C, H, W], gamma [B, C], beta [B, C]) -> gamma * normalised + beta. Source: Huang
    and Belongie 2017, equation 8, as in MUNIT. They are arguments, not set beforehand.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.channels, self.eps = channels, eps

    def forward(self, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        return gamma[..., None, None] * F.instance_norm(x, eps=self.eps) + beta[..., None, None]


class SpectralNorm(nn.Module):
    """A weight divided by an estimate of its largest singular value; of `parametrize`.

    Rows are the first dimension. One power iteration a forward pass in training mode, v before u,
    as published (Miyato et al. 2018, algorithm 1); none in evaluation, where outputs are thus a
    function of the input alone. u and v are buffers: no optimizer sees them.
    """

    _u: Tensor
    _v: Tensor

    def __init__(self, weight: Tensor, eps: float = 1e-12) -> None:
        super().__init__()
        self.eps = eps
        rows = weight.flatten(1)
        self.register_buffer("_u", F.normalize(torch.randn(rows.shape[0]), dim=0, eps=eps))
        self.register_buffer("_v", F.normalize(torch.randn(rows.shape[1]), dim=0, eps=eps))
        self.converge(weight)

    @torch.no_grad()
    def converge(self, weight: Tensor, iterations: int = 15) -> None:
        """Power iterations: for weights that are new. Of meta tensors nothing is asked for."""
        if weight.is_meta:
            return
        rows = weight.detach().flatten(1).float()
        for _ in range(iterations):
            u, v = self._iterated(rows)
            self._u.copy_(u)
            self._v.copy_(v)

    def _iterated(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        v = F.normalize(rows.T @ self._u, dim=0, eps=self.eps)
        return F.normalize(rows @ v, dim=0, eps=self.eps), v

    def forward(self, weight: Tensor) -> Tensor:
        with _without_autocast(weight):
            rows = weight.flatten(1).float()
            u, v = self._u, self._v
            if self.training:
                with torch.no_grad():
                    u, v = self._iterated(rows)
                    self._u.copy_(u)
                    self._v.copy_(v)
            else:
                u, v = u.clone(), v.clone()  # a later iteration must not reach this graph
            return weight / torch.dot(u, rows @ v).to(weight.dtype)


def _without_autocast(x: Tensor) -> contextlib.AbstractContextManager[object]:
    """No lower precision inside, on the tensor's device; of meta tensors there is none anyway."""
    return contextlib.nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


def spectral(layer: nn.Module) -> nn.Module:
    """The layer, its weight under SpectralNorm."""
    parametrize.register_parametrization(layer, "weight", SpectralNorm(cast(Tensor, layer.weight)))
    return layer


def is_spectral(layer: nn.Module) -> bool:
    """Whether a layer's weight is under SpectralNorm."""
    return parametrize.is_parametrized(layer, "weight")


def make_norm(norm: str, channels: int) -> nn.Module:
    """batch, instance, layer or none; the last is an Identity. Errors: ValueError."""
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "instance":
        return nn.InstanceNorm2d(channels)
    if norm == "layer":
        return LayerNorm(channels)
    if norm == "none":
        return nn.Identity()
    raise ValueError(f"norm {norm!r}: it is batch, instance, layer or none")


class _GroupNorm(nn.GroupNorm):
    """As torch's, also for one number a group, which it takes for an error: the shift is left."""

    def forward(self, x: Tensor) -> Tensor:
        if x.numel() == self.num_groups:
            return x * 0 + self.bias[None, :, None, None]
        return super().forward(x)


def group_norm(channels: int, most: int = 32) -> nn.GroupNorm:
    """GroupNorm of the largest number of groups, at most `most`, of two channels at least."""
    fits = [n for n in range(1, most + 1) if channels % n == 0 and (channels // n > 1 or n == 1)]
    return _GroupNorm(max(fits), channels)


@torch.no_grad()
def init_weights(
    module: nn.Module,
    kind: str = "kaiming",
    gain: float = 0.2,
    generator: torch.Generator | None = None,
) -> None:
    """New weights of all convolutions and linear layers of a module; biases 0.

    kind: normal of deviation `gain`, xavier or orthogonal times `gain`, or kaiming (fan in), which
    has no gain. Of weights under spectral normalisation it is the raw one that is drawn; what is
    used has largest singular value 1 whatever the scale. Batch normalisations start at N(1, gain).
    generator: where numbers are drawn (default: torch's). Errors: ValueError.
    """
    if kind not in INITS:
        raise ValueError(f"init {kind!r}: it is one of {', '.join(INITS)}")
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            raw = _raw_weight(layer)
            if kind == "normal":
                raw.normal_(0, gain, generator=generator)
            elif kind == "xavier":
                nn.init.xavier_normal_(raw, gain, generator=generator)
            elif kind == "orthogonal":
                nn.init.orthogonal_(raw, gain, generator=generator)
            else:
                nn.init.kaiming_normal_(raw, generator=generator)
            if is_spectral(layer):
                parametrizations = cast(nn.ModuleDict, layer.parametrizations)
                cast(SpectralNorm, cast(nn.ModuleList, parametrizations["weight"])[0]).converge(raw)
            if layer.bias is not None:
                layer.bias.zero_()
        elif isinstance(layer, nn.BatchNorm2d) and layer.affine:
            layer.weight.normal_(1, gain, generator=generator)
            layer.bias.zero_()


def _raw_weight(layer: nn.Conv2d | nn.Linear) -> Tensor:
    if is_spectral(layer):
        parametrizations = cast(nn.ModuleDict, layer.parametrizations)
        return cast(Tensor, parametrizations["weight"].original)
    return layer.weight
