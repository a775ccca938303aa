"""The classifier of noisy images whose gradient guides sampling (arXiv:2105.05233, section 4).

The encoder half of the U-Net and attention pooling, with guided-diffusion's parameter names.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.ddpm.attention import GroupNorm, attend, linear, merge_heads, split_qkv, tokens
from models.ddpm.base import BlockSequence, EmbedBlock, Given
from models.ddpm.blocks import AttentionBlock, Downsample, ResBlock
from models.ddpm.embedding import TimeEmbedding
from storage.arguments import Classes, Count, Depth, Multiple, Side, Width


class AttentionPool(nn.Module):
    """Features [B, C, S, S] -> [B, out]: attention of their mean to them and itself (CLIP's)."""

    def __init__(self, size: int, channels: int, num_head_channels: int, out: int) -> None:
        super().__init__()
        self.heads = channels // num_head_channels
        start = torch.randn(channels, size**2 + 1) / math.sqrt(channels)
        self.positional_embedding = nn.Parameter(start)
        self.qkv_proj = nn.Conv1d(channels, 3 * channels, 1)
        self.c_proj = nn.Conv1d(channels, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        rows = tokens(x)
        rows = torch.cat([rows.mean(1, keepdim=True), rows], 1) + self.positional_embedding.t()
        q, k, v = split_qkv(linear(self.qkv_proj, rows), self.heads, new_order=True)
        return linear(self.c_proj, merge_heads(attend(q[:, :, :1], k, v)))[:, 0]


class Classifier(nn.Module):
    """x [B, C, R, R] of noise level t [B] -> logits [B, num_classes].

    image_size R; num_res_blocks is what the release calls depth; attention_resolutions are
    down-sampling factors. The channels of attention have the former order in the blocks and the
    new one in the pooling, as there. Errors: ValueError.
    """

    def __init__(
        self,
        image_size: Side,
        in_channels: Width,
        num_classes: Classes,
        *,
        model_channels: Width = 128,
        channel_mult: Sequence[Multiple] = (1, 2, 3, 4),
        num_res_blocks: Depth = 2,
        attention_resolutions: Sequence[Count] = (2, 4, 8),
        num_head_channels: Width = 64,
        use_scale_shift_norm: bool = True,
        resblock_updown: bool = True,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        levels = len(channel_mult)
        if not levels or image_size < 1 or image_size % 2 ** (levels - 1):
            raise ValueError(f"image_size {image_size} cannot be halved {levels - 1} times")
        self.config = dict(
            image_size=image_size,
            in_channels=in_channels,
            num_classes=num_classes,
            model_channels=model_channels,
            channel_mult=list(channel_mult),
            num_res_blocks=num_res_blocks,
            attention_resolutions=list(attention_resolutions),
            num_head_channels=num_head_channels,
            use_scale_shift_norm=use_scale_shift_norm,
            resblock_updown=resblock_updown,
            use_checkpoint=use_checkpoint,
        )
        emb = 4 * model_channels
        self.time_embed = TimeEmbedding(model_channels)

        def res(cin: int, cout: int, down: bool = False) -> ResBlock:
            return ResBlock(
                cin, emb, out_channels=cout, use_scale_shift_norm=use_scale_shift_norm, down=down
            )

        widths = [int(mult * model_channels) for mult in channel_mult]
        width = widths[0]
        self.input_blocks = nn.ModuleList(
            [BlockSequence(nn.Conv2d(in_channels, width, 3, padding=1))]
        )
        for level, cout in enumerate(widths):
            for _ in range(num_res_blocks):
                stage: list[nn.Module] = [res(width, cout)]
                width = cout
                if 2**level in attention_resolutions:
                    stage.append(AttentionBlock(width, num_head_channels=num_head_channels))
                self.input_blocks.append(BlockSequence(*stage))
            if level < levels - 1:
                down = res(width, width, down=True) if resblock_updown else Downsample(width)
                self.input_blocks.append(BlockSequence(down))
        self.middle_block = BlockSequence(
            res(width, width),
            AttentionBlock(width, num_head_channels=num_head_channels),
            res(width, width),
        )
        size = image_size >> (levels - 1)
        self.out = nn.Sequential(
            GroupNorm(width),
            nn.SiLU(),
            AttentionPool(size, width, num_head_channels, num_classes),
        )
        for layer, block in enumerate(m for m in self.modules() if isinstance(m, EmbedBlock)):
            block.layer = layer
        for module in self.modules():
            if isinstance(module, BlockSequence):
                module.use_checkpoint = use_checkpoint

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        given = Given(self.time_embed(t, len(x)))
        for block in self.input_blocks:
            x = block(x, given)
        return self.out(self.middle_block(x, given))
