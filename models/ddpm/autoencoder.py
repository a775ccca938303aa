"""The autoencoders of latent diffusion: between pictures and the smaller maps it is trained on.

Rombach et al. 2022 (arXiv:2112.10752), section 3.1, with the parameter names of its release. KL:
each number of a picture's latents is a normal distribution; VQ: each pixel is, when it is decoded,
the nearest of a table of vectors. What the release has for training an autoencoder (a
discriminator, a perceptual loss) is not here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.ddpm.attention import GroupNorm, attend, linear, pixels, tokens
from models.ddpm.blocks import Upsample
from storage.arguments import Classes, Count, Depth, Multiple, Width

EPS = 1e-6  # of its normalisations
PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.", "quantize.")


class ResnetBlock(nn.Module):
    """x [B, C, H, W] -> [B, out, H, W]: two normalised convolutions beside a shortcut."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = GroupNorm(channels, EPS), GroupNorm(out, EPS)
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        if channels != out:
            self.nin_shortcut = nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class AttnBlock(nn.Module):
    """Residual attention of one head over the pixels of [B, C, H, W]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = GroupNorm(channels, EPS)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        rows = tokens(self.norm(x))
        q, k, v = (linear(layer, rows)[:, None] for layer in (self.q, self.k, self.v))
        return x + pixels(linear(self.proj_out, attend(q, k, v)[:, 0]), x)


class HalfSize(nn.Module):
    """Half the size by a convolution, with the pixels that are missing at the right and below 0."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Level(nn.Module):
    """Blocks of one size, each with attention behind it where `attention`, then a resampling."""

    def __init__(self, widths: Sequence[int], attention: bool) -> None:
        super().__init__()
        pairs = zip(widths, widths[1:], strict=False)
        self.block = nn.ModuleList(ResnetBlock(a, b) for a, b in pairs)
        self.attn = nn.ModuleList(AttnBlock(b) for b in widths[1:] if attention)

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.block):
            x = block(x)
            if len(self.attn):
                x = self.attn[i](x)
        for name in ("downsample", "upsample"):
            if hasattr(self, name):
                x = getattr(self, name)(x)
        return x


class Middle(nn.Module):
    """A block, attention, a block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1, self.block_2 = (
            ResnetBlock(channels, channels),
            ResnetBlock(channels, channels),
        )
        self.attn_1 = AttnBlock(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Encoder(nn.Module):
    """[B, in_channels, H, W] -> [B, out, H / f, W / f]."""

    def __init__(
        self, in_channels: int, out: int, widths: Sequence[int], blocks: int, attention: set[int]
    ) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList()
        before = widths[0]
        for i, width in enumerate(widths):
            level = Level([before, *[width] * blocks], i in attention)
            if i < len(widths) - 1:
                level.downsample = HalfSize(width)
            self.down.append(level)
            before = width
        self.mid = Middle(before)
        self.norm_out = GroupNorm(before, EPS)
        self.conv_out = nn.Conv2d(before, out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        for level in self.down:
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(self.mid(h))))


class Decoder(nn.Module):
    """[B, z, h, w] -> [B, out_channels, f h, f w]; `up[0]` is the last level, of full size."""

    def __init__(
        self, z: int, out_channels: int, widths: Sequence[int], blocks: int, attention: set[int]
    ) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(z, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1])
        levels = []
        before = widths[-1]
        for i, width in reversed(list(enumerate(widths))):
            level = Level([before, *[width] * (blocks + 1)], i in attention)
            if i:
                level.upsample = Upsample(width)
            levels.append(level)
            before = width
        self.up = nn.ModuleList(reversed(levels))
        self.norm_out = GroupNorm(before, EPS)
        self.conv_out = nn.Conv2d(before, out_channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(h)))


class Table(nn.Module):
    """The vectors of VQ: [B, D, h, w] -> each pixel's nearest of `embedding` [n, D]."""

    def __init__(self, count: int, dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(count, dim)

    def forward(self, x: Tensor) -> Tensor:
        rows, table = tokens(x).float(), self.embedding.weight.float()
        return pixels(F.embedding(torch.cdist(rows, table[None]).argmin(-1), table), x).to(x.dtype)


class Autoencoder(nn.Module):
    """An autoencoder of latent diffusion. Images are [B, in_channels, H, W] in [-1, 1].

    channels times each of channel_mult: widths of the levels, of which each but the last halves the
    size (`factor`). num_res_blocks: a level, one more in the decoder. attention: numbers of the
    levels with attention. z_channels: of the encoder's result; embed_dim: of the latents. n_embed:
    vectors of VQ; None: KL. All arguments are in `config`.
    """

    def __init__(
        self,
        *,
        in_channels: Width = 3,
        out_channels: Width = 3,
        channels: Width = 128,
        channel_mult: Sequence[Multiple] = (1, 2, 4),
        num_res_blocks: Depth = 2,
        attention: Sequence[Count] = (),
        z_channels: Width = 3,
        embed_dim: Width = 3,
        n_embed: Classes | None = None,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "in_channels": in_channels, "out_channels": out_channels, "channels": channels,
            "channel_mult": list(channel_mult), "num_res_blocks": num_res_blocks,
            "attention": list(attention), "z_channels": z_channels, "embed_dim": embed_dim,
            "n_embed": n_embed,
        }  # fmt: skip
        self.kl, self.embed_dim = n_embed is None, embed_dim
        self.factor = 2 ** (len(channel_mult) - 1)
        widths = [int(channels * mult) for mult in channel_mult]
        twice = 2 if self.kl else 1
        where = set(attention)
        self.encoder = Encoder(in_channels, twice * z_channels, widths, num_res_blocks, where)
        self.decoder = Decoder(z_channels, out_channels, widths, num_res_blocks, where)
        self.quant_conv = nn.Conv2d(twice * z_channels, twice * embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(embed_dim, z_channels, 1)
        if n_embed is not None:
            self.quantize = Table(n_embed, embed_dim)

    def encode(self, images: Tensor) -> Tensor:
        """Images -> of KL mean and standard deviation [B, 2 embed_dim, h, w], of VQ latents before
        they are quantised [B, embed_dim, h, w]."""
        found = self.quant_conv(self.encoder(images))
        if not self.kl:
            return found
        mean, log_variance = found.chunk(2, 1)
        return torch.cat([mean, torch.exp(0.5 * log_variance.clamp(-30, 20))], 1)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, embed_dim, h, w], of VQ quantised here -> images."""
        quantised = latents if self.kl else self.quantize(latents)
        return self.decoder(self.post_quant_conv(quantised))


def autoencoder_arguments(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The arguments of the autoencoder whose weights have these names and shapes.

    Errors: ValueError where they are none's.
    """

    def shape(name: str) -> tuple[int, ...]:
        if name not in shapes:
            raise ValueError(f"weights are incomplete: {name} is missing")
        return shapes[name]

    def count(pattern: str) -> int:
        return len({m[1] for name in shapes if (m := re.match(pattern, name))})

    levels = count(r"encoder\.down\.(\d+)\.block\.")
    channels = shape("encoder.conv_in.weight")[0]
    widths = [shape(f"encoder.down.{i}.block.0.conv1.weight")[0] for i in range(levels)]
    table = shapes.get("quantize.embedding.weight")
    return {
        "in_channels": shape("encoder.conv_in.weight")[1],
        "out_channels": shape("decoder.conv_out.weight")[0],
        "channels": channels,
        "channel_mult": [_whole(width / channels) for width in widths],
        "num_res_blocks": count(r"encoder\.down\.0\.block\.(\d+)\."),
        "attention": [i for i in range(levels) if f"encoder.down.{i}.attn.0.q.weight" in shapes],
        "z_channels": shape("decoder.conv_in.weight")[1],
        "embed_dim": shape("post_quant_conv.weight")[1],
        "n_embed": None if table is None else table[0],
    }


def _whole(mult: float) -> float:
    return int(mult) if mult == int(mult) else mult
