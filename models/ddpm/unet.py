"""The U-Net of guided diffusion, with the inputs of latent and of layout diffusion beside it.

Dhariwal and Nichol 2021 (arXiv:2105.05233), Rombach et al. 2022 (arXiv:2112.10752), Cheng et al.
2023 (arXiv:2302.08908); parameters have the names of their releases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.ddpm.attention import GroupNorm, zeroed
from models.ddpm.base import BlockSequence, EmbedBlock, Given
from models.ddpm.blocks import Downsample, Upsample
from models.ddpm.embedding import NOISE_LEVEL_SCALE, TimeEmbedding
from models.ddpm.layout import ClassEmbedder, LayoutAttention, Prompts, check_rule
from models.ddpm.regions import Layout
from models.ddpm.registry import ATTN_BLOCKS, RES_BLOCKS, block_class, make_block
from storage.arguments import Classes, Count, Depth, Multiple, Share, Side, Width

EMBED = ("time", "noise_level")


class UNet(nn.Module):
    """The denoising network: net(x [B, C, H, W], t [B]) -> [B, out_channels, H, W].

    in_channels: of x. out_channels: as many, or twice with a learned variance (mean part first).
    concat_channels: of an image that is given beside x and concatenated to it. model_channels times
    each of channel_mult are the levels' widths; num_res_blocks blocks a level (one more in the
    decoder); attention at the down-sampling factors of attention_resolutions (1 is full size) and
    in the middle. num_heads heads, or heads of num_head_channels channels; num_heads_upsample: of
    the decoder, None as the encoder. num_classes: y is a class. embed: t is a time, or, with
    "noise_level", sqrt(alpha_bar) in (0, 1].

    res_block_type, attn_block_type: a class by its name, of `registry` or of `blocks` (a user's,
    name -> class); attn_block_type "none" leaves attention out. res_block_args, attn_block_args:
    further arguments of those classes.

    layout_attn_type: layout attention (`LayoutAttention`) behind the attention at the factors of
    layout_attn_resolutions, for layout_classes classes with prompts of layout_dim.
    layout_region_rule: which pixels a box is (`box_regions`).

    image_size: side of the images, if it is to be checked. use_checkpoint: recompute activations in
    the backward pass. fused_attention: see `attention.attend`.

    A new network gives 0. All arguments but `blocks` are in `config`, JSON values from which
    UNet(**config, blocks=...) builds the same network. Errors: ValueError.
    """

    def __init__(
        self,
        in_channels: Width,
        out_channels: Width,
        *,
        model_channels: Width = 128,
        channel_mult: Sequence[Multiple] = (1, 2, 2),
        num_res_blocks: Depth = 2,
        attention_resolutions: Sequence[Count] = (2,),
        dropout: Share = 0.0,
        num_classes: Classes | None = None,
        num_heads: Width = 1,
        num_head_channels: Width | None = None,
        num_heads_upsample: Width | None = None,
        use_scale_shift_norm: bool = False,
        resblock_updown: bool = False,
        conv_resample: bool = True,
        concat_channels: Count = 0,
        embed: str = "time",
        res_block_type: str = "ResBlock",
        attn_block_type: str = "AttentionBlock",
        res_block_args: Mapping[str, Any] | None = None,
        attn_block_args: Mapping[str, Any] | None = None,
        layout_attn_type: str | None = None,
        layout_attn_resolutions: Sequence[Count] = (),
        layout_classes: Classes | None = None,
        layout_dim: Width = 128,
        layout_heads: Width = 1,
        layout_region_rule: str = "released",
        image_size: Side | None = None,
        use_checkpoint: bool = False,
        fused_attention: bool = True,
        blocks: Mapping[str, type[nn.Module]] | None = None,
    ) -> None:
        super().__init__()
        asked = dict(locals())
        self.config = {k: _plain(v) for k, v in asked.items() if k not in _NOT_CONFIG}
        self._check(asked)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.concat_channels, self.num_classes = concat_channels, num_classes
        self.image_size, self.levels = image_size, len(channel_mult)
        self.layout_attn_type, self.layout_region_rule = layout_attn_type, layout_region_rule
        self.layout_form: str | None = None  # a form of layout attention; None: the fastest
        self.layout_factors = tuple(layout_attn_resolutions) if layout_attn_type else ()

        res_class = block_class(res_block_type, "res_block_type", RES_BLOCKS, blocks)
        attn_class = block_class(attn_block_type, "attn_block_type", ATTN_BLOCKS, blocks)
        emb_channels = 4 * model_channels
        widths = [int(mult * model_channels) for mult in channel_mult]

        def res(cin: int, cout: int, **resample: bool) -> nn.Module:
            named = {
                "out_channels": cout, "use_scale_shift_norm": use_scale_shift_norm, **resample
            }  # fmt: skip
            return make_block(
                res_class, "res_block_type", res_block_args, cin, emb_channels, dropout, **named
            )

        def attention(channels: int, factor: int, heads: int) -> list[nn.Module]:
            """What follows a residual block at a down-sampling factor."""
            found = []
            if attn_class is not None and factor in attention_resolutions:
                found.append(middle_attention(channels, heads))
            if layout_attn_type and factor in layout_attn_resolutions:
                found.append(
                    LayoutAttention(
                        channels,
                        layout_dim,
                        layout_attn_type,
                        layout_heads,
                        fused=fused_attention,
                    )
                )
            return found

        def middle_attention(channels: int, heads: int) -> nn.Module:
            return make_block(
                attn_class, "attn_block_type", attn_block_args, channels, heads,
                num_head_channels, fused=fused_attention,
            )  # fmt: skip

        scale = NOISE_LEVEL_SCALE if embed == "noise_level" else 1.0
        self.time_embed = TimeEmbedding(model_channels, scale)
        self.label_emb = nn.Embedding(num_classes, emb_channels) if num_classes else None
        self.cls_embedder: ClassEmbedder | None = None
        if layout_attn_type and layout_classes:
            self.cls_embedder = ClassEmbedder(layout_classes, layout_dim)

        width = widths[0]
        first = nn.Conv2d(in_channels + concat_channels, width, 3, padding=1)
        self.input_blocks = nn.ModuleList([BlockSequence(first)])
        skips = [width]
        for level, cout in enumerate(widths):
            for _ in range(num_res_blocks):
                stage = [res(width, cout), *attention(cout, 2**level, num_heads)]
                self.input_blocks.append(BlockSequence(*stage))
                width = cout
                skips.append(width)
            if level < self.levels - 1:
                down = (
                    res(width, width, down=True)
                    if resblock_updown
                    else Downsample(width, conv_resample)
                )
                self.input_blocks.append(BlockSequence(down))
                skips.append(width)
        middle = [res(width, width), res(width, width)]
        if attn_class is not None:
            middle.insert(1, middle_attention(width, num_heads))
        self.middle_block = BlockSequence(*middle)
        self.output_blocks = nn.ModuleList()
        heads = num_heads if num_heads_upsample is None else num_heads_upsample
        for level, cout in reversed(list(enumerate(widths))):
            for i in range(num_res_blocks + 1):
                stage = [res(width + skips.pop(), cout), *attention(cout, 2**level, heads)]
                width = cout
                if level and i == num_res_blocks:
                    stage.append(
                        res(width, width, up=True)
                        if resblock_updown
                        else Upsample(width, conv_resample)
                    )
                self.output_blocks.append(BlockSequence(*stage))
        self.out = nn.Sequential(
            GroupNorm(width), nn.SiLU(), zeroed(nn.Conv2d(width, out_channels, 3, padding=1))
        )
        for layer, block in enumerate(m for m in self.modules() if isinstance(m, EmbedBlock)):
            block.layer = layer
        self.set_checkpoint(use_checkpoint)

    @staticmethod
    def _check(asked: Mapping[str, Any]) -> None:
        for name in ("in_channels", "out_channels", "model_channels", "num_res_blocks"):
            if asked[name] < 1:
                raise ValueError(f"{name} {asked[name]}: at least 1")
        if not asked["channel_mult"] or min(asked["channel_mult"]) <= 0:
            raise ValueError(f"channel_mult {list(asked['channel_mult'])}: positive numbers")
        if asked["concat_channels"] < 0:
            raise ValueError(f"concat_channels {asked['concat_channels']} is negative")
        if not 0 <= asked["dropout"] < 1:
            raise ValueError(f"dropout {asked['dropout']} is not in [0, 1)")
        if asked["embed"] not in EMBED:
            raise ValueError(f"embed {asked['embed']!r} is not {' or '.join(EMBED)}")
        size, halvings = asked["image_size"], len(asked["channel_mult"]) - 1
        if size is not None and (size < 1 or size % 2**halvings):
            raise ValueError(
                f"image_size {size} cannot be halved {halvings} times (channel_mult "
                f"{list(asked['channel_mult'])}): fewer levels, or images of another size"
            )
        factors = {2**i for i in range(halvings + 1)}
        for name in ("attention_resolutions", "layout_attn_resolutions"):
            if wrong := sorted(set(asked[name]) - factors):
                raise ValueError(
                    f"{name} {list(asked[name])}: {wrong[0]} is no down-sampling factor of the "
                    f"network, which has {', '.join(map(str, sorted(factors)))}"
                )
        check_rule(asked["layout_region_rule"])
        if asked["layout_attn_type"] and not asked["layout_classes"]:
            raise ValueError("layout attention needs layout_classes, the number of classes")
        if asked["layout_attn_type"] and not asked["layout_attn_resolutions"]:
            raise ValueError("layout attention needs layout_attn_resolutions, where it is to be")

    def set_checkpoint(self, on: bool) -> None:
        """Keep the activations of blocks, or compute them again in the backward pass."""
        for module in self.modules():
            if isinstance(module, BlockSequence):
                module.use_checkpoint = on

    def embedding(self, t: Tensor, y: Tensor | None, rows: int) -> Tensor:
        """The embedding of time and class: [rows, 4 model_channels]. t [], [1] or [rows]."""
        emb = self.time_embed(t, rows)
        if self.label_emb is not None and y is not None:
            named = (y >= 0)[:, None].to(emb.dtype)
            emb = emb + self.label_emb(y.clamp_min(0)) * named
        return emb

    def prompts(self, layout: Layout | None, x: Tensor) -> Prompts | None:
        """What the layout blocks are given; no layout is one without instances."""
        if self.cls_embedder is None or self.layout_attn_type is None:
            return None
        height, width = x.shape[2:]
        sizes = [(height // f, width // f) for f in self.layout_factors]
        return self.cls_embedder.prompts(
            Layout.empty(len(x), device=x.device) if layout is None else layout,
            sizes,
            self.layout_attn_type,
            rule=self.layout_region_rule,
            form=self.layout_form,
        )

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        y: Tensor | None = None,
        *,
        concat: Tensor | None = None,
        z: Any = None,
        text: Tensor | None = None,
        layout: Layout | None = None,
        dropout_keys: Tensor | None = None,
    ) -> Tensor:
        """x [B, C, H, W], t [B], [1] or [], y int64 [B] -> [B, out_channels, H, W].

        y: classes; -1, or None for all, is no class. concat [B, concat_channels, h, w]: the image
        beside x, brought to its size bilinearly. z: what a user's `ConditionBlock` takes. text [B,
        T, D]: of `SpatialTransformer`. layout: of layout attention, None nothing but background.
        dropout_keys int64 [B]: dropout that belongs to rows (`runtime.counter_rng.row_dropout`).
        Errors: ValueError for what does not fit the network.
        """
        self._check_inputs(x, t, y, concat, layout)
        if concat is not None:
            if concat.shape[2:] != x.shape[2:]:
                concat = F.interpolate(concat, x.shape[2:], mode="bilinear")
            x = torch.cat([x, concat.to(x.dtype)], 1)
        emb = self.embedding(t, y, x.shape[0])
        given = Given(emb, z, text, self.prompts(layout, x), dropout_keys)
        h, skips = x, []
        for block in self.input_blocks:
            h = block(h, given)
            skips.append(h)
        h = self.middle_block(h, given)
        for block in self.output_blocks:
            h = block(torch.cat([h, skips.pop()], 1), given)
        return self.out(h)

    def _check_inputs(
        self,
        x: Tensor,
        t: Tensor,
        y: Tensor | None,
        concat: Tensor | None,
        layout: Layout | None,
    ) -> None:
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f"x of shape {list(x.shape)} instead of [B, {self.in_channels}, H, W]")
        if t.numel() not in (1, x.shape[0]):
            raise ValueError(f"t of shape {list(t.shape)} for {len(x)} images")
        multiple = 2 ** (self.levels - 1)
        if x.shape[2] % multiple or x.shape[3] % multiple:
            raise ValueError(
                f"images of {x.shape[2]} x {x.shape[3]} cannot be halved between {self.levels} "
                "levels: fewer levels, or sides that are multiples of " + str(multiple)
            )
        if y is not None and self.num_classes is None:
            raise ValueError("y is given, but the network has no classes (num_classes)")
        if (concat is not None) != bool(self.concat_channels) or (
            concat is not None and concat.shape[:2] != (x.shape[0], self.concat_channels)
        ):
            said = "none" if concat is None else f"{list(concat.shape)}"
            raise ValueError(f"concat is {said}; the network has {self.concat_channels} channels")
        if layout is not None and (
            self.cls_embedder is None or layout.classes.shape[0] != x.shape[0]
        ):
            raise ValueError(
                "a layout is given, but the network has no layout attention"
                if self.cls_embedder is None
                else f"layouts of {len(layout.classes)} images for {len(x)}"
            )


_NOT_CONFIG = ("self", "blocks", "__class__")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, (list, tuple)) else value
