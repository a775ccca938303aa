"""The blocks of the U-Net of "Diffusion Models Beat GANs" (Dhariwal and Nichol 2021,
arXiv:2105.05233, appendix), with the parameter names of guided-diffusion."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from models.ddpm.attention import (
    GroupNorm,
    attend,
    head_count,
    linear,
    merge_heads,
    pixels,
    split_qkv,
    tokens,
    zeroed,
)
from models.ddpm.base import EmbedBlock
from runtime.counter_rng import row_dropout


class Upsample(nn.Module):
    """Twice the size by nearest neighbour, then a 3 x 3 convolution where `conv`."""

    def __init__(self, channels: int, conv: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if conv else None

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        return x if self.conv is None else self.conv(x)


class Downsample(nn.Module):
    """Half the size: a 3 x 3 convolution of stride 2 where `conv`, otherwise the mean of 2 x 2."""

    def __init__(self, channels: int, conv: bool = True) -> None:
        super().__init__()
        pool = nn.AvgPool2d(2)
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1) if conv else pool

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Dropout(nn.Dropout):
    """torch's dropout, or with keys int64 [B] the one whose masks belong to rows."""

    def forward(self, x: Tensor, keys: Tensor | None = None, layer: int = 0) -> Tensor:
        if keys is None or not self.training:
            return super().forward(x)
        return row_dropout(x, self.p, keys, layer)


class ResBlock(EmbedBlock):
    """Residual block: x [B, C, H, W], emb [B, emb_channels] -> [B, out_channels, H', W'].

    use_scale_shift_norm: the embedding scales and shifts the second normalisation ("adaptive group
    normalisation", section 3.1); otherwise it is added before it. up, down: twice or half the size,
    on both branches. Arguments by these names are what a `res_block_type` of one's own is made
    with. Errors: ValueError.
    """

    keyed = True

    def __init__(
        self,
        channels: int,
        emb_channels: int,
        dropout: float = 0.0,
        *,
        out_channels: int | None = None,
        use_scale_shift_norm: bool = False,
        up: bool = False,
        down: bool = False,
    ) -> None:
        super().__init__()
        if up and down:
            raise ValueError("a residual block goes up or down, not both")
        out = channels if out_channels is None else out_channels
        self.use_scale_shift_norm = use_scale_shift_norm
        self.resample: nn.Module = nn.Identity()
        if up or down:
            self.resample = Upsample(channels, False) if up else Downsample(channels, False)
        self.in_layers = nn.Sequential(
            GroupNorm(channels), nn.SiLU(), nn.Conv2d(channels, out, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(
            nn.SiLU(), nn.Linear(emb_channels, 2 * out if use_scale_shift_norm else out)
        )
        self.out_layers = nn.Sequential(
            GroupNorm(out),
            nn.SiLU(),
            Dropout(dropout),
            zeroed(nn.Conv2d(out, out, 3, padding=1)),
        )
        self.skip_connection: nn.Module = nn.Identity()
        if out != channels:
            self.skip_connection = nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor, emb: Tensor, keys: Tensor | None = None) -> Tensor:
        norm, act, conv = self.in_layers
        h = conv(self.resample(act(norm(x))))
        shift = self.emb_layers(emb).to(h.dtype)[:, :, None, None]
        norm, act, dropout, conv = self.out_layers
        if self.use_scale_shift_norm:
            scale, shift = shift.chunk(2, 1)
            h = norm(h) * (1 + scale) + shift
        else:
            h = norm(h + shift)
        h = conv(dropout(act(h), keys, self.layer))
        return self.skip_connection(self.resample(x)) + h


class AttentionBlock(nn.Module):
    """Residual self-attention over pixels: x [B, C, H, W] -> the same.

    num_heads heads, or as many as have num_head_channels channels each. new_order: the order of
    channels in `qkv` (`split_qkv`). fused: see `attend`. Arguments by these names are what an
    `attn_block_type` of one's own is made with. Errors: ValueError.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int = 1,
        num_head_channels: int | None = None,
        *,
        new_order: bool = False,
        fused: bool = True,
    ) -> None:
        super().__init__()
        self.heads = head_count(channels, num_heads, num_head_channels)
        self.new_order, self.fused = new_order, fused
        self.norm = GroupNorm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = zeroed(nn.Conv1d(channels, channels, 1))

    def qkv_rows(self, x: Tensor) -> Tensor:
        """Queries, keys and values of every pixel: [B, H W, 3 C]."""
        return linear(self.qkv, tokens(self.norm(x)))

    def result(self, x: Tensor, rows: Tensor) -> Tensor:
        """x plus the projection of attention's rows [B, H W, C]."""
        return x + pixels(linear(self.proj_out, rows), x)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = split_qkv(self.qkv_rows(x), self.heads, new_order=self.new_order)
        return self.result(x, merge_heads(attend(q, k, v, fused=self.fused)))
