"""Attention over pixels, and the normalisation and the zero layers that all blocks share."""

from __future__ import annotations

import math
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Layer = TypeVar("Layer", bound=nn.Module)


class GroupNorm(nn.GroupNorm):
    """Group normalisation computed in fp32, of x's dtype; 32 groups, as in guided-diffusion.

    A number of channels that is no multiple of 32 (the reference refuses it) has as many groups as
    divide both.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__(math.gcd(32, channels), channels, eps)

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype in (torch.float32, torch.float64):
            return super().forward(x)
        weight, bias = self.weight.float(), self.bias.float()
        return F.group_norm(x.float(), self.num_groups, weight, bias, self.eps).to(x.dtype)


def zeroed(layer: Layer) -> Layer:
    """The layer with parameters 0: a residual branch that ends in it is the identity at first."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, *, fused: bool = True
) -> Tensor:
    """softmax(q k^T / sqrt(d)) v: q [..., L, d], k and v [..., S, d] -> [..., L, d].

    mask: bool, broadcasts to [..., L, S]; False keys do not count (a row without any gives nan in
    the eager form and 0 or nan in the fused one: leave one). fused: torch's
    scaled_dot_product_attention, whose kernels need no [L, S] matrix in memory; the eager form is
    the reference's formula, with the softmax in fp32.
    """
    if fused:
        # Its fast kernels want the channels of a head side by side.
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    scale = q.shape[-1] ** -0.25  # on both sides, so that no product leaves the range of fp16
    logits = ((q * scale) @ (k * scale).transpose(-2, -1)).float()
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf)
    return logits.softmax(-1).to(v.dtype) @ v


def tokens(x: Tensor) -> Tensor:
    """Pixels as rows: [B, C, H, W] -> [B, H W, C], a view of x in channels_last."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def pixels(rows: Tensor, like: Tensor) -> Tensor:
    """[B, H W, C] -> [B, C, H, W] in the memory format of `like` [B, ?, H, W]."""
    x = rows.unflatten(1, like.shape[2:]).permute(0, 3, 1, 2)
    if like.is_contiguous(memory_format=torch.channels_last) and like.shape[1] > 1:
        return x
    return x.contiguous()


def linear(layer: nn.Conv1d | nn.Conv2d | nn.Linear, rows: Tensor) -> Tensor:
    """A 1 x 1 convolution's product with rows [..., C], of any spelling of its weight."""
    return F.linear(rows, layer.weight.flatten(1), layer.bias)


def split_qkv(qkv: Tensor, heads: int, *, new_order: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """[B, L, 3 C] -> three of [B, heads, L, C / heads].

    The channels of the reference's former order are [head][q, k, v][channel], of its new order
    [q, k, v][head][channel].
    """
    if new_order:
        q, k, v = qkv.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    else:
        q, k, v = qkv.unflatten(2, (heads, 3, -1)).permute(3, 0, 2, 1, 4).unbind(0)
    return q, k, v


def merge_heads(x: Tensor) -> Tensor:
    """[B, heads, L, d] -> [B, L, heads d]."""
    return x.transpose(1, 2).flatten(2)


def head_count(channels: int, num_heads: int, num_head_channels: int | None) -> int:
    """Heads of an attention over `channels`: num_heads, or as many as have num_head_channels each.

    Errors: ValueError where they do not divide.
    """
    heads = num_heads if num_head_channels is None else channels // max(num_head_channels, 1)
    width = channels // heads if heads > 0 else 0
    if heads < 1 or width * heads != channels or num_head_channels not in (None, width):
        asked = (
            f"{num_heads} heads" if num_head_channels is None else f"heads of {num_head_channels}"
        )
        raise ValueError(f"{channels} channels do not divide into {asked} (attention)")
    return heads
