"""Blocks of CAM-Net: weight-normalised convolutions, residual dense blocks, style modulation.

Sources: residual-in-residual dense blocks from ESRGAN (Wang et al., 2018, section 3.1); weight
normalisation w = g * v / ||v|| per output channel (Salimans and Kingma, 2016, eq. 2); instance
normalisation with a learnt style (g, b) as in StyleGAN / AdaIN; their arrangement from CAM-Net
(Peng, Moazeni and Li, arXiv 2106.09015). Module names give the state-dict keys of the CIMLE
refactoring, e.g. `sub.0.RDB1.conv1.0.weight_g`.

Two forms of every block exist. The trainable form keeps g and v. `freeze(module, dtype, ...)` makes
a copy for a search phase, when the weights stand still: weight norm folded once, low precision
where it is safe, a memory format of choice. Both share the forward code, except where noted.
"""

from __future__ import annotations

import copy
import math
from typing import Literal, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Padding = Literal["zeros", "reflect", "replicate"]
Norm = Literal["instance", "none"]

SLOPE = 0.2  # of every LeakyReLU
EPS = 1e-5  # of the instance norm


def _is_channels_last(weight: Tensor) -> bool:
    return weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()


def same_conv(x: Tensor, weight: Tensor, bias: Tensor | None, padding: Padding) -> Tensor:
    """Stride-1 'same' convolution of x `[B, C, H, W]` with weight `[out, C, k, k]`, k odd, and how
    the picture goes on beyond its border."""
    width = weight.shape[-1] // 2
    if padding == "zeros":
        return F.conv2d(x, weight, bias, padding=width)
    return F.conv2d(padded(x, padding, width), weight, bias)


def padded(x: Tensor, padding: Padding, width: int = 1) -> Tensor:
    """x `[B, C, H, W]` with a border of `width` pixels, `[B, C, H + 2 width, ..]`."""
    return F.pad(x, [width] * 4, mode="constant" if padding == "zeros" else padding)


class WNConv2d(nn.Module):
    """Stride-1 'same' convolution whose weight is g * v / ||v|| (norm per output channel).

    x `[B, in_nc, H, W]` -> `[B, out_nc, H, W]`. Keys: bias, weight_g `[out, 1, 1, 1]`, weight_v
    `[out, in, k, k]`. Own module, because the originals' state dict is that of torch's legacy
    `weight_norm`, whose hooks also made their initialisation a no-op. padding: see `same_conv`;
    `set_padding` sets it for a whole network.
    """

    def __init__(self, in_nc: int, out_nc: int, kernel_size: int = 3) -> None:
        super().__init__()
        self.padding: Padding = "zeros"
        self.bias = nn.Parameter(torch.zeros(out_nc))
        self.weight_g = nn.Parameter(torch.ones(out_nc, 1, 1, 1))
        self.weight_v = nn.Parameter(torch.empty(out_nc, in_nc, kernel_size, kernel_size))
        if not self.weight_v.is_meta:
            self.set_weight_(torch.randn(self.weight_v.shape) / math.sqrt(self.fan_in))

    @property
    def fan_in(self) -> int:
        return self.weight_v[0].numel()

    @torch.no_grad()
    def set_weight_(self, weight: Tensor) -> None:
        """Make `weight` the effective weight: v = weight, g = its norm per output channel."""
        self.weight_v.copy_(weight)
        self.weight_g.copy_(torch.linalg.vector_norm(weight, dim=(1, 2, 3), keepdim=True))

    def weight(self) -> Tensor:
        """The effective weight `[out, in, k, k]` (the fused kernel of torch's weight_norm)."""
        weight = torch._weight_norm(self.weight_v, self.weight_g, 0)
        if _is_channels_last(self.weight_v):  # the kernel gives a plain layout; conv follows weight
            weight = weight.contiguous(memory_format=torch.channels_last)
        return weight

    def forward(self, x: Tensor) -> Tensor:
        return same_conv(x, self.weight(), self.bias, self.padding)

    def inside(self, x: Tensor) -> Tensor:
        """The convolution of a picture that has its border already: it comes out smaller by it."""
        return F.conv2d(x, self.weight(), self.bias)

    @torch.no_grad()
    def frozen(self, dtype: torch.dtype, memory_format: torch.memory_format) -> FrozenConv2d:
        weight = self.weight().to(dtype).contiguous(memory_format=memory_format)
        return FrozenConv2d(weight, self.bias.to(dtype), self.padding)


class FrozenConv2d(nn.Module):
    """A convolution with fixed weights in its own dtype; casts its input to that dtype."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, padding: Padding) -> None:
        super().__init__()
        self.padding = padding
        self.register_buffer("weight", weight.detach().clone(memory_format=torch.preserve_format))
        self.register_buffer("bias", None if bias is None else bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return same_conv(x.to(self.weight.dtype), self.weight, self.bias, self.padding)


class Freezes(Protocol):
    """A module that makes its own frozen copy."""

    def frozen(self, dtype: torch.dtype, memory_format: torch.memory_format, /) -> nn.Module: ...


def freeze(module: nn.Module, dtype: torch.dtype, memory_format: torch.memory_format) -> nn.Module:
    """A copy of `module` with every convolution folded; no parameter is shared, none needs grad.

    Linear layers (mapping network, style transforms: < 0.5 % of the work, but their error would
    move the whole image) stay in float32; so do convolutions of modules marked `keep_fp32 = True`.
    """
    if getattr(module, "keep_fp32", False):
        dtype = torch.float32
    if hasattr(module, "frozen"):
        return cast(Freezes, module).frozen(dtype, memory_format)
    new = copy.copy(module)
    new._parameters = {}
    new._buffers = {}
    new._modules = {
        name: freeze(child, dtype, memory_format) for name, child in module.named_children()
    }
    for name, parameter in module.named_parameters(recurse=False):
        copied = parameter.detach().float().clone()
        new._parameters[name] = nn.Parameter(copied, requires_grad=False)
    for name, tensor in module.named_buffers(recurse=False):
        new._buffers[name] = tensor.detach().clone()
    new.training = False
    return new


def set_padding(module: nn.Module, padding: Padding) -> None:
    """Say for all convolutions of a module how pictures go on beyond their border."""
    for part in module.modules():
        if isinstance(part, WNConv2d):
            part.padding = padding


def conv_act(in_nc: int, out_nc: int, *, act: bool = True) -> nn.Sequential:
    """3x3 weight-normalised convolution, then LeakyReLU(0.2) unless act is False."""
    layers: list[nn.Module] = [WNConv2d(in_nc, out_nc)]
    if act:
        layers.append(nn.LeakyReLU(SLOPE, inplace=True))
    return nn.Sequential(*layers)


class RDB(nn.Module):
    """x + 0.2 * conv5(concat(x, x1, .., x4)) with x_k = lrelu(conv_k(concat(x, .., x_{k-1})))."""

    def __init__(self, nc: int, gc: int) -> None:
        super().__init__()
        self.conv1 = conv_act(nc, gc)
        self.conv2 = conv_act(nc + gc, gc)
        self.conv3 = conv_act(nc + 2 * gc, gc)
        self.conv4 = conv_act(nc + 3 * gc, gc)
        self.conv5 = conv_act(nc + 4 * gc, nc, act=False)

    def forward(self, x: Tensor) -> Tensor:
        first = cast(WNConv2d, self.conv1[0])
        if first.padding != "zeros":
            return self._padded(x, first.padding)
        features = [x, self.conv1(x)]
        for conv in (self.conv2, self.conv3, self.conv4):
            features.append(conv(torch.cat(features, 1)))
        return x + 0.2 * self.conv5(torch.cat(features, 1))

    def _padded(self, x: Tensor, padding: Padding) -> Tensor:
        """The same with every feature padded once, not once for every convolution that reads it."""
        features = [padded(x, padding)]
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4):
            made = layer[1](cast(WNConv2d, layer[0]).inside(torch.cat(features, 1)))
            features.append(padded(made, padding))
        return x + 0.2 * cast(WNConv2d, self.conv5[0]).inside(torch.cat(features, 1))

    @torch.no_grad()
    def frozen(self, dtype: torch.dtype, memory_format: torch.memory_format) -> FrozenRDB:
        layers = (self.conv1, self.conv2, self.conv3, self.conv4, self.conv5)
        convs = [cast(WNConv2d, layer[0]) for layer in layers]
        weights = [conv.weight().float() for conv in convs]
        biases = [conv.bias.detach().float().clone() for conv in convs]
        return FrozenRDB(weights, biases, dtype, memory_format, convs[0].padding)


class FrozenRDB(nn.Module):
    """RDB with folded weights, in one of two equal forms.

    `split` (plain layout): conv(concat(x, x1, ..)) is a sum of convolutions, so each x_k meets the
    weights of all later convolutions at once and adds to one accumulator; nothing is concatenated.
    `dense` (channels_last): every convolution reads a slice of one buffer of nc + 4 gc channels.
    Measured on 2 cores (AVX-512): in the plain layout split takes from 26 % less to 45 % more time
    than concatenation, by shape; in channels_last it is up to 2.7x slower, for bfloat16 sums cost
    more than the copies. channels_last is the faster layout by up to 2.4x, and what a search uses
    unless told otherwise.

    Args: five effective weights `[out, in, 3, 3]` and biases of the block, their target dtype and
    layout, and the padding.
    """

    weight0: Tensor
    weight4: Tensor
    bias4: Tensor
    bias: Tensor  # of the split form

    def __init__(
        self,
        weights: list[Tensor],
        biases: list[Tensor],
        dtype: torch.dtype,
        memory_format: torch.memory_format,
        padding: Padding = "zeros",
    ) -> None:
        super().__init__()
        self.padding: Padding = padding
        self.gc, self.nc = weights[0].shape[:2]
        self.split = memory_format != torch.channels_last
        if self.split:
            edges = [0] + [self.nc + k * self.gc for k in range(5)]
            for j in range(5):
                part = torch.cat([w[:, edges[j] : edges[j + 1]] for w in weights[j:]])
                self.register_buffer(f"weight{j}", part.to(dtype).contiguous())
            self.register_buffer("bias", torch.cat(biases).to(dtype))
        else:
            for j, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
                weight = weight.to(dtype).contiguous(memory_format=memory_format)
                self.register_buffer(f"weight{j}", weight)
                self.register_buffer(f"bias{j}", bias.to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.weight0.dtype)
        return self._split(x) if self.split else self._dense(x)

    def _split(self, x: Tensor) -> Tensor:
        gc = self.gc
        total = same_conv(x, self.weight0, self.bias, self.padding)
        for k in range(1, 5):
            x_k = F.leaky_relu(total[:, :gc], SLOPE)
            part = same_conv(x_k, getattr(self, f"weight{k}"), None, self.padding)
            total = part.add_(total[:, gc:])
        return total.mul_(0.2).add_(x)

    def _dense(self, x: Tensor) -> Tensor:
        nc, gc = self.nc, self.gc
        if self.padding != "zeros":
            return self._dense_padded(x)
        shape = (x.shape[0], nc + 4 * gc, x.shape[2], x.shape[3])
        buffer = torch.empty(
            shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last
        )
        buffer[:, :nc] = x
        for k in range(4):
            end = nc + k * gc
            x_k = self._conv(buffer[:, :end], k)
            buffer[:, end : end + gc] = F.leaky_relu_(x_k, SLOPE)
        return self._conv(buffer, 4).mul_(0.2).add_(x)

    def _dense_padded(self, x: Tensor) -> Tensor:
        """As `_dense`, every feature padded once, in the buffer."""
        nc, gc = self.nc, self.gc
        shape = (x.shape[0], nc + 4 * gc, x.shape[2] + 2, x.shape[3] + 2)
        buffer = torch.empty(
            shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last
        )
        buffer[:, :nc] = padded(x, self.padding)
        for k in range(4):
            end = nc + k * gc
            x_k = F.conv2d(buffer[:, :end], getattr(self, f"weight{k}"), getattr(self, f"bias{k}"))
            buffer[:, end : end + gc] = padded(F.leaky_relu_(x_k, SLOPE), self.padding)
        return F.conv2d(buffer, self.weight4, self.bias4).mul_(0.2).add_(x)

    def _conv(self, x: Tensor, k: int) -> Tensor:
        return F.conv2d(x, getattr(self, f"weight{k}"), getattr(self, f"bias{k}"), padding=1)


class RRDB(nn.Module):
    """x + 0.2 * RDB3(RDB2(RDB1(x))), x `[B, nc, H, W]`; gc growth channels."""

    def __init__(self, nc: int, gc: int) -> None:
        super().__init__()
        self.RDB1 = RDB(nc, gc)
        self.RDB2 = RDB(nc, gc)
        self.RDB3 = RDB(nc, gc)

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.2 * self.RDB3(self.RDB2(self.RDB1(x)))


def modulate(u: Tensor, style: Tensor, norm: Norm = "instance") -> Tensor:
    """(1 + g) * InstanceNorm(u) + b with (g, b) the halves of `style`; norm none: (1 + g) * u + b.

    u `[B, C, H, W]`, style `[B, 2C]`. No affine, no running statistics, biased variance, eps 1e-5;
    statistics in float32. Without grad two plain reductions are used: they keep channels_last and
    are 2-6x faster on CPU than the native kernel, which is the better one when gradients are
    needed. The norm brings every picture to the same variance, a flat one too, whose few traces of
    texture it enlarges to ripples.
    """
    g, b = style.float()[:, :, None, None].chunk(2, 1)
    if norm == "none":
        return torch.addcmul(b.to(u.dtype), u, (1 + g).to(u.dtype))
    if torch.is_grad_enabled():
        return ((1 + g) * F.instance_norm(u.float(), eps=EPS) + b).to(u.dtype)
    centred = u.float()
    centred = centred - centred.mean((2, 3), keepdim=True)
    variance = (centred * centred).mean((2, 3), keepdim=True)
    return torch.addcmul(b, centred, (1 + g) * torch.rsqrt(variance + EPS)).to(u.dtype)


class StyleBlock(nn.Module):
    """n_blocks of (RRDB, modulation by the mapped latent), a 3x3 convolution, and a long skip.

    h `[B, nc, H, W]`, w `[B, latent_nc]` -> h + lr_conv(blocks(h, w)). A block's output is not
    added to its input (only inside the RRDB). norm: before the modulation, see `modulate`.
    """

    def __init__(
        self, nc: int, gc: int, latent_nc: int, n_blocks: int, norm: Norm = "instance"
    ) -> None:
        super().__init__()
        self.n_blocks, self.norm = n_blocks, norm
        self.sub = nn.ModuleDict()
        for k in range(n_blocks):
            self.sub[str(k)] = RRDB(nc, gc)
            self.sub[f"transform_{k}"] = nn.Linear(latent_nc, 2 * nc)
        self.sub["lr_conv"] = conv_act(nc, nc, act=False)

    def forward(self, h: Tensor, w: Tensor) -> Tensor:
        u = h
        for k in range(self.n_blocks):
            u = modulate(self.sub[str(k)](u), self.sub[f"transform_{k}"](w), self.norm)
        return h + self.sub["lr_conv"](u)


class MappingNet(nn.Module):
    """Eight (Linear, LeakyReLU 0.2): z `[B, map_nc]` -> w `[B, latent_nc]`; z is not normalised."""

    def __init__(self, map_nc: int, latent_nc: int, n_layers: int = 8) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(n_layers):
            layers += [nn.Linear(map_nc if i == 0 else latent_nc, latent_nc)]
            layers += [nn.LeakyReLU(SLOPE, inplace=True)]
        self.model = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        return self.model(z)


class Upsample(nn.Module):
    """lrelu(conv(lrelu(conv(x)))), with a nearest x2 enlargement first when `double`.

    x `[B, nc, H, W]` -> `[B, nc, 2H, 2W]` (or `[B, nc, H, W]`).
    """

    def __init__(self, nc: int, *, double: bool) -> None:
        super().__init__()
        first = [nn.Upsample(scale_factor=2, mode="nearest")] if double else []
        self.model = nn.Sequential(
            nn.Sequential(*first, *conv_act(nc, nc)),
            conv_act(nc, nc),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)
