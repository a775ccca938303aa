"""Decoders conditioned by SPADE: of a latent and a map of conditions, a picture.

Source of the normalisation and of its residual block: Park et al. 2019, "Semantic Image Synthesis
with Spatially-Adaptive Normalization". Parameters have the published names (mlp_shared, mlp_gamma,
mlp_beta); scale and shift are computed at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.omnigan.blocks import upsampling
from models.omnigan.norms import spectral

HIDDEN = 128


class SPADE(nn.Module):
    """Normalisation whose scale and shift are computed from a map of conditions.

    x [B, norm_nc, H, W], cond [B, cond_nc, any, any] -> norm(x) (1 + gamma(c)) + beta(c), with c =
    relu(conv(cond resized to H x W by its nearest pixels)). param_free_norm: instance or batch.
    Errors: ValueError.
    """

    def __init__(
        self,
        norm_nc: int,
        cond_nc: int,
        kernel_size: int = 3,
        param_free_norm: str = "instance",
    ) -> None:
        super().__init__()
        if param_free_norm == "instance":
            self.param_free_norm: nn.Module = nn.InstanceNorm2d(norm_nc)
        elif param_free_norm == "batch":
            self.param_free_norm = nn.BatchNorm2d(norm_nc, affine=False)
        else:
            raise ValueError(f"param_free_norm {param_free_norm!r}: it is instance or batch")
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size {kernel_size}: SPADE's is odd")
        pad = kernel_size // 2
        self.mlp_shared = nn.Sequential(
            nn.Conv2d(cond_nc, HIDDEN, kernel_size, padding=pad), nn.ReLU()
        )
        self.mlp_gamma = nn.Conv2d(HIDDEN, norm_nc, kernel_size, padding=pad)
        self.mlp_beta = nn.Conv2d(HIDDEN, norm_nc, kernel_size, padding=pad)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        hidden = self.mlp_shared(resized(cond, x))
        return self.modulated(self.param_free_norm(x), hidden)

    def modulated(self, normalised: Tensor, hidden: Tensor) -> Tensor:
        """normalised (1 + gamma) + beta, of the hidden map of the condition."""
        gamma, beta = _together((self.mlp_gamma, self.mlp_beta), hidden).chunk(2, 1)
        return torch.addcmul(normalised + beta, normalised, gamma)


def resized(cond: Tensor, x: Tensor) -> Tensor:
    """The condition at the size of x, by nearest pixels."""
    same = cond.shape[-2:] == x.shape[-2:]
    return cond if same else F.interpolate(cond, x.shape[-2:], mode="nearest")


def _together(convolutions: Sequence[nn.Conv2d], x: Tensor) -> Tensor:
    """The outputs of several convolutions of one input, by one of them all."""
    weight = torch.cat([conv.weight for conv in convolutions])
    biases = [conv.bias for conv in convolutions if conv.bias is not None]
    return F.conv2d(x, weight, torch.cat(biases), padding=convolutions[0].padding)


class SPADEResnetBlock(nn.Module):
    """Two 3x3 convolutions, each behind SPADE and leaky ReLU, around which the input goes.

    x [B, fin, H, W], cond [B, cond_nc, ...] -> [B, fout, H, W]. Where fin is not fout, the way
    around has SPADE and a 1x1 convolution without a bias, and no activation. spectral_norm: of the
    three convolutions; those inside SPADE have none.
    """

    def __init__(
        self,
        fin: int,
        fout: int,
        cond_nc: int,
        spectral_norm: bool = True,
        param_free_norm: str = "instance",
        kernel_size: int = 3,
    ) -> None:
        super().__init__()
        middle = min(fin, fout)
        wrap = spectral if spectral_norm else _as_it_is
        how = (cond_nc, kernel_size, param_free_norm)
        self.conv_0 = wrap(nn.Conv2d(fin, middle, 3, padding=1))
        self.conv_1 = wrap(nn.Conv2d(middle, fout, 3, padding=1))
        self.norm_0, self.norm_1 = SPADE(fin, *how), SPADE(middle, *how)
        self.conv_s: nn.Module | None = None
        self.norm_s: SPADE | None = None
        if fin != fout:
            self.conv_s = wrap(nn.Conv2d(fin, fout, 1, bias=False))
            self.norm_s = SPADE(fin, *how)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        norms = [self.norm_0, self.norm_1] + ([self.norm_s] if self.norm_s is not None else [])
        cond = resized(cond, x)
        # Not in one convolution, as gamma and beta are: its parts would have to be copied for the
        # convolutions behind it, which took an eighth of a block of 32 channels at 128 px.
        hidden = [norm.mlp_shared(cond) for norm in norms]
        normalised = self.norm_0.param_free_norm(x)
        dx = self.conv_0(F.leaky_relu(self.norm_0.modulated(normalised, hidden[0]), 0.2))
        dx = self.norm_1.modulated(self.norm_1.param_free_norm(dx), hidden[1])
        dx = self.conv_1(F.leaky_relu(dx, 0.2))
        if self.norm_s is None or self.conv_s is None:
            return x + dx
        if isinstance(self.norm_s.param_free_norm, nn.BatchNorm2d):
            normalised = self.norm_s.param_free_norm(x)  # it has running statistics of its own
        return self.conv_s(self.norm_s.modulated(normalised, hidden[2])) + dx


def _as_it_is(layer: nn.Module) -> nn.Module:
    return layer


class SpadeDecoder(nn.Module):
    """omnigan's translation decoder: z [B, z_nc, h, w], cond [B, cond_nc, H, W] -> [B, 3, h 2^n,
    w 2^n] in [-1, 1].

    n_up + 1 blocks with an enlarging by 2 between any two: three that keep z_nc channels, then
    n_up - 2 that halve them; leaky ReLU, 3x3 convolution, tanh. Errors: ValueError for n_up < 2.
    """

    def __init__(
        self,
        z_nc: int,
        cond_nc: int,
        n_up: int = 3,
        *,
        spectral_norm: bool = True,
        param_free_norm: str = "instance",
        kernel_size: int = 3,
    ) -> None:
        super().__init__()
        if n_up < 2:
            raise ValueError(f"a SPADE decoder of {n_up} upsamplings: it has at least 2")
        if z_nc % 2 ** (n_up - 2):
            raise ValueError(f"{z_nc} channels cannot be halved {n_up - 2} times")

        def block(fin: int, fout: int) -> SPADEResnetBlock:
            return SPADEResnetBlock(fin, fout, cond_nc, spectral_norm, param_free_norm, kernel_size)

        self.head_0 = block(z_nc, z_nc)
        self.G_middle_0 = block(z_nc, z_nc)
        self.G_middle_1 = block(z_nc, z_nc)
        widths = [z_nc // 2**i for i in range(n_up - 1)]
        self.up_spades = nn.ModuleList(
            block(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True)
        )
        self.conv_img = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, z: Tensor, cond: Tensor) -> Tensor:
        y = self.head_0(z, cond)
        for block in (self.G_middle_0, self.G_middle_1, *self.up_spades):
            y = block(F.interpolate(y, scale_factor=2), cond)
        return torch.tanh(self.conv_img(F.leaky_relu(y, 0.2)))


class SpadeMunitDecoder(nn.Module):
    """omnigan's first translation decoder: SPADE at the latent's size, then MUNIT's enlarging.

    z [B, z_nc, h, w], cond [B, cond_nc, ...] -> [B, 3, h 2^n, w 2^n] in [-1, 1]. It is the one of
    the published parameter counts.
    """

    def __init__(
        self,
        z_nc: int,
        cond_nc: int,
        n_up: int = 3,
        n_res: int = 4,
        *,
        activ: str = "lrelu",
        pad_type: str = "zero",
        spectral_norm: bool = False,
        param_free_norm: str = "instance",
        kernel_size: int = 3,
    ) -> None:
        super().__init__()
        how = (cond_nc, spectral_norm, param_free_norm, kernel_size)
        self.blocks = nn.ModuleList(SPADEResnetBlock(z_nc, z_nc, *how) for _ in range(n_res))
        enlarged, last = upsampling(z_nc, n_up, 3, activ, pad_type, "tanh", "reflect")
        self.model = nn.Sequential(*enlarged, last)

    def forward(self, z: Tensor, cond: Tensor) -> Tensor:
        for block in self.blocks:
            z = block(z, cond)
        return self.model(z)
