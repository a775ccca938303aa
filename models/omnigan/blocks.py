"""Blocks of MUNIT that omnigan's encoder and decoders are made of."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from models.omnigan.norms import make_norm, spectral

ACTIVATIONS = ("lrelu", "none", "prelu", "relu", "selu", "sigmoid", "tanh")
PADDINGS = {"reflect": "reflect", "replicate": "replicate", "zero": "constant"}


def make_activation(name: str) -> nn.Module:
    """One of ACTIVATIONS; lrelu has slope 0.2, prelu one weight. Errors: ValueError."""
    made: dict[str, nn.Module] = {
        "lrelu": nn.LeakyReLU(0.2), "none": nn.Identity(), "relu": nn.ReLU(), "selu": nn.SELU(),
        "sigmoid": nn.Sigmoid(), "tanh": nn.Tanh(),
    }  # fmt: skip
    if name == "prelu":
        return nn.PReLU()
    if name not in made:
        raise ValueError(f"activation {name!r}: it is one of {', '.join(ACTIVATIONS)}")
    return made[name]


class Conv2dBlock(nn.Module):
    """Padding, convolution with a bias, normalisation, activation.

    [B, input_dim, H, W] -> [B, output_dim, ...]. norm: batch, instance, layer, none, or spectral:
    of the convolution's weight, with no other one, and spectral_instance and so on: both.
    pad_type: reflect, replicate or zero. Errors: ValueError.
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        *,
        dilation: int = 1,
        norm: str = "none",
        activation: str = "relu",
        pad_type: str = "zero",
    ) -> None:
        super().__init__()
        if pad_type not in PADDINGS:
            raise ValueError(f"pad_type {pad_type!r}: it is one of {', '.join(PADDINGS)}")
        inside = padding if pad_type == "zero" else 0  # the convolution itself pads with zeros
        conv = nn.Conv2d(
            input_dim, output_dim, kernel_size, stride, padding=inside, dilation=dilation
        )
        other = norm.removeprefix("spectral").removeprefix("_") or "none"
        self.conv = spectral(conv) if norm.startswith("spectral") else conv
        self.norm = make_norm(other, output_dim)
        self.activation = make_activation(activation)
        self.padding, self.mode = padding - inside, PADDINGS[pad_type]

    def forward(self, x: Tensor) -> Tensor:
        if self.padding:
            self._check(x)
            x = F.pad(x, (self.padding,) * 4, self.mode)
        return self.activation(self.norm(self.conv(x)))

    def _check(self, x: Tensor) -> None:
        if self.mode == "reflect" and min(x.shape[-2:]) <= self.padding:
            raise ValueError(
                f"pictures are too small: a map of {x.shape[-2]} x {x.shape[-1]} cannot be "
                f"reflected by {self.padding}; larger pictures, fewer downsamplings, or pad_type "
                "zero or replicate"
            )


class ResBlock(nn.Module):
    """Two 3x3 convolutions around which the input goes: y = block(x) + x, nothing after the sum."""

    def __init__(
        self, dim: int, norm: str = "instance", activation: str = "relu", pad_type: str = "zero"
    ) -> None:
        super().__init__()
        how: dict[str, Any] = dict(norm=norm, pad_type=pad_type)
        self.model = nn.Sequential(
            Conv2dBlock(dim, dim, 3, 1, 1, activation=activation, **how),
            Conv2dBlock(dim, dim, 3, 1, 1, activation="none", **how),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.model(x)


class ResBlocks(nn.Module):
    """n_res of them, one after the other."""

    def __init__(
        self,
        n_res: int,
        dim: int,
        norm: str = "instance",
        activation: str = "relu",
        pad_type: str = "zero",
    ) -> None:
        super().__init__()
        self.model = nn.Sequential(
            *(ResBlock(dim, norm, activation, pad_type) for _ in range(n_res))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class ContentEncoder(nn.Module):
    """MUNIT's content encoder: a picture [B, input_dim, H, W] -> [B, dim 2^n, H / 2^n, W / 2^n].

    A 7x7 convolution to `dim` channels, `n_downsample` of 4x4 and stride 2 that double them,
    `n_res` residual blocks. norm: of the convolutions, res_norm: of the residual blocks.
    """

    def __init__(
        self,
        input_dim: int = 3,
        dim: int = 32,
        n_downsample: int = 3,
        n_res: int = 4,
        norm: str = "spectral",
        res_norm: str = "instance",
        activ: str = "lrelu",
        pad_type: str = "reflect",
    ) -> None:
        super().__init__()
        how: dict[str, Any] = dict(norm=norm, activation=activ, pad_type=pad_type)
        layers: list[nn.Module] = [Conv2dBlock(input_dim, dim, 7, 1, 3, **how)]
        for _ in range(n_downsample):
            layers.append(Conv2dBlock(dim, 2 * dim, 4, 2, 1, **how))
            dim *= 2
        layers.append(ResBlocks(n_res, dim, res_norm, activ, pad_type))
        self.model = nn.Sequential(*layers)
        self.output_dim, self.n_downsample = dim, n_downsample

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def upsampling(
    dim: int,
    n_upsample: int,
    output_dim: int,
    activ: str,
    pad_type: str,
    activation: str,
    last_pad: str,
) -> tuple[list[nn.Module], nn.Module]:
    """(n_upsample times enlarging by 2 and a 5x5 convolution that halves the channels; the last
    7x7 convolution) of a decoder. Errors: ValueError."""
    if dim % 2**n_upsample:
        raise ValueError(f"{dim} channels cannot be halved {n_upsample} times")
    layers: list[nn.Module] = []
    for _ in range(n_upsample):
        layers.append(nn.Upsample(scale_factor=2))
        layers.append(
            Conv2dBlock(dim, dim // 2, 5, 1, 2, norm="layer", activation=activ, pad_type=pad_type)
        )
        dim //= 2
    last = Conv2dBlock(dim, output_dim, 7, 1, 3, activation=activation, pad_type=last_pad)
    return layers, last


class BaseDecoder(nn.Module):
    """MUNIT's decoder: residual blocks, then enlarging: [B, res_dim, h, w] -> [B, output_dim,
    h 2^n, w 2^n].

    activation: of the last convolution.
    """

    def __init__(
        self,
        res_dim: int,
        output_dim: int,
        n_res: int = 4,
        n_upsample: int = 3,
        res_norm: str = "instance",
        activ: str = "lrelu",
        pad_type: str = "reflect",
        activation: str = "tanh",
    ) -> None:
        super().__init__()
        enlarged, last = upsampling(
            res_dim, n_upsample, output_dim, activ, pad_type, activation, pad_type
        )
        self.model = nn.Sequential(
            ResBlocks(n_res, res_dim, res_norm, activ, pad_type), *enlarged, last
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.model(z)
