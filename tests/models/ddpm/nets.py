"""Tiny networks for the tests, with parameters that are nowhere 0 (a new network gives 0)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from models.ddpm import Layout, UNet

TINY = dict(
    model_channels=16,
    channel_mult=(1, 2),
    num_res_blocks=1,
    attention_resolutions=(2,),
    num_heads=2,
)
LAYOUT = dict(
    layout_attn_type="layout_partial_v2",
    layout_attn_resolutions=(1, 2),
    layout_classes=7,
    layout_dim=8,
)
TRANSFORMER = dict(
    attn_block_type="SpatialTransformer",
    attn_block_args={"text_dim": 12, "num_prompts": 3, "prompt_dim": 6, "image_in_kv": True},
)


def randomised(net: nn.Module, seed: int = 0) -> nn.Module:
    """The network with every parameter drawn anew, in place; returns it."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            scale = 0.5 / max(parameter[0].numel(), 1) ** 0.5 if parameter.ndim > 1 else 0.3
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return net


def tiny(in_channels: int = 3, out_channels: int = 3, **more: Any) -> UNet:
    net = UNet(in_channels, out_channels, **{**TINY, **more})
    randomised(net)
    return net


def layouts() -> Layout:
    """Of three images: overlapping boxes, one of them out of the image; none; one, twice."""
    rows = [
        [[0.1, 0.0, 0.5, 0.6, 2], [0.4, 0.3, 0.5, 0.9, 6], [-0.3, 0.7, 0.5, 0.2, 0]],
        [],
        [[0.5, 0.5, 0.01, 0.01, 1], [0.5, 0.5, 0.01, 0.01, 4]],
    ]
    return Layout.pad([torch.tensor(r).reshape(-1, 5) for r in rows], num_classes=7)


def inputs(batch: int = 3, channels: int = 3, side: int = 8, seed: int = 1) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "x": torch.randn(batch, channels, side, side, generator=generator),
        "t": torch.tensor([3.0, 500.0, 998.0])[:batch],
    }
