"""A generator for unconditional IMLE: latent vector in, image out, no input picture.

The design is StyleGAN2's (Karras et al., "Analyzing and Improving the Image Quality of StyleGAN",
CVPR 2020) without what only its discriminator needs:

- mapping network z -> w, initialised so that w has unit scale (a mapping that starts dead leaves
  IMLE nothing to choose from: all candidates would be one picture);
- a learned constant at the coarsest side (4..7 pixels), then one block for each doubling, every
  convolution modulated by w and demodulated (their eq. 1-3);
- an RGB output at every resolution, upsampled and *summed*. The skips give a new resolution
  something sensible to start from, so the whole pyramid trains at once: the first StyleGAN's
  progressive growing with fade-in, with learning rates and loop counts for every depth, is not
  needed.

Where does the randomness come from? Only from the code, so a candidate is its code: the same code
gives the same picture, and the pool search (`imle.pool`) can keep candidate numbers and draw the
winners again. By default the code is z alone. Noise planes of full resolution, as StyleGAN adds
them, are an option (`noise=True`, the code then is [z | planes]) and off for a reason: IMLE has no
critic that would reward texture for its own sake. A plane of thousands of numbers cannot be
searched with a pool of thousands of candidates, so to the distance it is only an error that the
network learns to mute, while the code grows from z_nc to thousands of floats.

Truncation and style mixing exist at sampling time only (`sample`). Training with mixed styles would
separate a picture from the code that was found for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imle.rrdb import SLOPE, MappingNet
from storage.arguments import Depth, Side, Width


def resolutions(resolution: int) -> list[int]:
    """The doubling sides that end at `resolution`, the first of them 4..7: 28 -> [7, 14, 28].

    ValueError if there is no such list (a side below 4, or an odd one above 7).
    """
    sides = [int(resolution)]
    while sides[0] > 7:
        if sides[0] % 2:
            raise ValueError(
                f"resolution {resolution} is no 4, 5, 6 or 7 times a power of two; take e.g. "
                f"{_nearest_side(resolution)}"
            )
        sides.insert(0, sides[0] // 2)
    if sides[0] < 4:
        raise ValueError(f"resolution must be at least 4, got {resolution}")
    return sides


def default_channels(resolution: int, *, base: int = 1024, cap: int = 128) -> list[int]:
    """Channels of each side of `resolutions(resolution)`: base / side in [16, cap], in eights."""
    return [max(16, min(cap, base // side) // 8 * 8) for side in resolutions(resolution)]


class Start(NamedTuple):
    """State before the only level: nothing but the batch size, as [B, 0] so that it has rows."""

    rows: Tensor


class UnconditionalGenerator(nn.Module):
    """z -> w -> image [N, out_nc, resolution, resolution] in [0, 1], one IMLE level.

    resolution: 4, 5, 6 or 7 times a power of two. z_nc: length of z. latent_nc, map_layers: width
    and depth of the mapping network. channels: one number a side from coarse to fine
    (`default_channels` if None). noise: add one noise plane a convolution, read from the code.

    It has the interface of a CAM-Net of one level (`levels`, `code_sizes`, `start`, `advance`,
    `forward(cx, codes, loi)`), so the loader, the search and the script take either; `cx` is
    ignored and may be None. The code is [z (z_nc) | planes (row-major, coarse to fine)].
    """

    levels = 1

    def __init__(
        self,
        resolution: Side,
        *,
        z_nc: Width = 64,
        latent_nc: Width = 128,
        map_layers: Depth = 4,
        channels: Sequence[Width] | None = None,
        noise: bool = False,
        out_nc: Width = 3,
    ):
        super().__init__()
        self.sides = resolutions(resolution)
        channels = list(default_channels(resolution) if channels is None else channels)
        if len(channels) != len(self.sides):
            raise ValueError(
                f"resolution {resolution} has the sides {self.sides}: give {len(self.sides)} "
                f"channel numbers, got {len(channels)}"
            )
        for name, value in [("z_nc", z_nc), ("latent_nc", latent_nc), ("map_layers", map_layers)]:
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if min(channels) < 1:
            raise ValueError(f"channels must be at least 1, got {channels}")
        self.config = {
            "resolution": int(resolution),
            "z_nc": z_nc,
            "latent_nc": latent_nc,
            "map_layers": map_layers,
            "channels": channels,
            "noise": noise,
            "out_nc": out_nc,
        }
        self.resolution, self.z_nc, self.noise = int(resolution), z_nc, noise
        self.mapping_net = MappingNet(z_nc, latent_nc, map_layers)
        for module in self.mapping_net.modules():
            if isinstance(module, nn.Linear):  # keeps E[w^2] at 1 through any number of layers
                nn.init.kaiming_normal_(module.weight, a=SLOPE)
                nn.init.zeros_(module.bias)
        self.const = nn.Parameter(torch.randn(1, channels[0], self.sides[0], self.sides[0]))
        before = [channels[0], *channels[:-1]]
        self.blocks = nn.ModuleList(
            SynthesisBlock(
                b, c, latent_nc, out_nc, convs=1 if i == 0 else 2, upsample=i > 0, noise=noise
            )
            for i, (b, c) in enumerate(zip(before, channels, strict=True))
        )
        for block in self._synthesis():
            # the sum over the sides starts at unit variance, where tanh is not saturated
            block.to_rgb.weight.data.mul_(1.0 / math.sqrt(len(self.sides)))

    @property
    def code_sizes(self) -> list[int]:
        """[length of the code]; one entry, because there is one level."""
        pairs = zip(self._synthesis(), self.sides, strict=True)
        planes = sum(len(block.convs) * side * side for block, side in pairs)
        return [self.z_nc + (planes if self.noise else 0)]

    def _synthesis(self) -> list[SynthesisBlock]:
        return [cast(SynthesisBlock, block) for block in self.blocks]

    # -- the interface of a CAM-Net ----------------------------------------------------------------

    def forward(self, cx: Tensor | None, codes: list[Tensor], loi: int | None = None):
        """codes = [[N, code_sizes[0]]] -> [image]; the image alone if `loi` (0 or -1) is given.

        cx is ignored: N may be any number, whatever its rows.
        """
        if loi not in (None, 0, -1):
            raise ValueError(f"an unconditional generator has one level, there is no level {loi}")
        if len(codes) != 1:
            raise ValueError(f"an unconditional generator takes one code, got {len(codes)}")
        image = self.sample(codes[0])
        return [image] if loi is None else image

    def start(self, cx: Tensor) -> Start:
        """State of the search for the rows of cx [B, ...]."""
        return Start(cx.new_empty(cx.shape[0], 0))

    def advance(self, state: Start | None, code: Tensor, level: int) -> tuple[Tensor, Start]:
        """One level: code [n*B, d] -> (image [n*B, ...], state of n*B rows)."""
        return self(None, [code], loi=level), Start(code.new_empty(code.shape[0], 0))

    # -- sampling ----------------------------------------------------------------------------------

    def style(self, code: Tensor) -> Tensor:
        """w [N, latent_nc] of codes [N, d]; d must be code_sizes[0].

        z is scaled to unit RMS first (StyleGAN), so that a Gaussian mixture with far-apart means is
        as good an input as a single Gaussian.
        """
        if code.ndim != 2 or code.shape[1] != self.code_sizes[0]:
            raise ValueError(f"codes must be [N, {self.code_sizes[0]}], got {list(code.shape)}")
        z = code[:, : self.z_nc]
        return self.mapping_net(z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8))

    @torch.no_grad()
    def mean_style(self, codes: Tensor) -> Tensor:
        """Mean w [latent_nc] over codes [N, d]: the centre `sample` truncates to.

        Nothing is tracked while training; a few thousand fresh codes say it well enough.
        """
        return self.style(codes).mean(0)

    def sample(
        self,
        code: Tensor,
        *,
        truncation: float = 1.0,
        center: Tensor | None = None,
        mix_with: Tensor | None = None,
        crossover: int | None = None,
    ) -> Tensor:
        """Images [N, out_nc, R, R] in [0, 1] of codes [N, d].

        truncation psi < 1 trades variety for safety: w -> center + psi (w - center), with `center`
        from `mean_style`. mix_with [N, d] takes the styles of blocks >= crossover (1 .. number of
        sides - 1) from a second code: shape of the one, finish of the other. The noise planes are
        those of `code`. A network in another floating dtype casts the code to its own.
        """
        code = code.to(self.const.dtype)
        styles = [self.style(code)] * len(self.blocks)
        if mix_with is not None:
            if crossover is None or not 0 < crossover < len(self.blocks):
                raise ValueError(
                    f"mixing needs a crossover block in 1..{len(self.blocks) - 1}, got {crossover}"
                )
            second = self.style(mix_with.to(self.const.dtype))
            styles[crossover:] = [second] * (len(self.blocks) - crossover)
        if truncation != 1.0:
            if center is None:
                raise ValueError("truncation needs a center: pass mean_style(codes)")
            styles = [center + truncation * (w - center) for w in styles]
        x = self.const.expand(code.shape[0], -1, -1, -1)
        rgb: Tensor | None = None
        planes = code[:, self.z_nc :]
        for block, w, side in zip(self._synthesis(), styles, self.sides, strict=True):
            noise = None
            if self.noise:
                noise, planes = planes.tensor_split([len(block.convs) * side * side], dim=1)
                noise = noise.unflatten(1, (len(block.convs), side, side))
            x, rgb = block(x, rgb, w, noise)
        assert rgb is not None, "there is a side"
        return (torch.tanh(rgb) + 1.0) / 2.0


class ModulatedConv2d(nn.Module):
    """k x k convolution whose input channels are scaled by a style (StyleGAN2 eq. 1), zero padding.

    Demodulation (eq. 3) divides output channel o of row n by sqrt(sum_ik (s_ni W_oik)^2). Scaling
    the input and the output of one shared convolution is the same as convolving every row with its
    own weights, and spares the grouped convolution of N weight copies. With `demodulate` the output
    has a second moment of gain^2, before the bias.
    """

    def __init__(
        self,
        in_nc: int,
        out_nc: int,
        kernel: int,
        latent_nc: int,
        *,
        demodulate: bool,
        gain: float = 1.0,
    ):
        super().__init__()
        self.weight = nn.Parameter(
            torch.randn(out_nc, in_nc, kernel, kernel) / math.sqrt(in_nc * kernel**2)
        )
        self.bias = nn.Parameter(torch.zeros(out_nc))
        self.affine = nn.Linear(latent_nc, in_nc)
        nn.init.normal_(self.affine.weight, std=1.0 / math.sqrt(latent_nc))
        nn.init.ones_(self.affine.bias)
        self.demodulate, self.gain = demodulate, gain

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        s = self.affine(w)
        y = F.conv2d(x * s[:, :, None, None], self.weight, padding=self.weight.shape[-1] // 2)
        if self.demodulate:
            norm = F.linear(s.square(), self.weight.square().sum((2, 3)))
            y = y * (self.gain * torch.rsqrt(norm + 1e-8))[:, :, None, None]
        return y + self.bias[:, None, None]


class SynthesisBlock(nn.Module):
    """Upsample (but for the first block), modulated 3x3 convolutions, and this side's RGB added."""

    def __init__(
        self,
        in_nc: int,
        out_nc: int,
        latent_nc: int,
        rgb_nc: int,
        *,
        convs: int,
        upsample: bool,
        noise: bool,
    ):
        super().__init__()
        self.upsample = upsample
        self.convs = nn.ModuleList(
            # the gain makes up for what the activation takes from the second moment
            ModulatedConv2d(
                in_nc if i == 0 else out_nc,
                out_nc,
                3,
                latent_nc,
                demodulate=True,
                gain=math.sqrt(2.0 / (1.0 + SLOPE**2)),
            )
            for i in range(convs)
        )
        self.to_rgb = ModulatedConv2d(out_nc, rgb_nc, 1, latent_nc, demodulate=False)
        self.noise_strength = nn.Parameter(torch.full((convs,), 0.1)) if noise else None

    def forward(self, x: Tensor, rgb: Tensor | None, w: Tensor, noise: Tensor | None):
        """x [N, C, s, s], rgb [N, rgb_nc, s, s] or None, w [N, latent], noise [N, convs, S, S]."""
        if self.upsample:
            x, rgb = _double(x), None if rgb is None else _double(rgb)
        for i, conv in enumerate(self.convs):
            x = conv(x, w)
            if noise is not None and self.noise_strength is not None:
                x = x + self.noise_strength[i] * noise[:, i : i + 1]
            x = F.leaky_relu(x, SLOPE)
        # the picture is made in fp32 even under autocast: bf16 would leave it 8 bits at best
        with torch.autocast(x.device.type, enabled=False):
            full = torch.promote_types(x.dtype, self.to_rgb.weight.dtype)
            here = self.to_rgb(x.to(full), w.to(full))
            return x, here if rgb is None else rgb + here


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def _nearest_side(resolution: int) -> int:
    """The admissible side nearest to a refused one, for the message."""
    power = 2 ** max(0, int(math.log2(resolution)) - 2)
    return min((m * power for m in (4, 5, 6, 7, 8)), key=lambda side: abs(side - resolution))
