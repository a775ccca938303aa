"""Layout attention: self-attention of LayoutDiffuse, told what is where by class prompts.

Cheng et al. 2023 (arXiv:2302.08908), section 3.2, with the parameter names of its release. The
block's last layer is 0 at first, so that a pretrained network is unchanged when it gets one.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.ddpm.attention import attend, merge_heads, split_qkv
from models.ddpm.base import ConditionBlock
from models.ddpm.blocks import AttentionBlock
from models.ddpm.layout_forms import Regions, make_regions, region_attention
from models.ddpm.regions import (
    NO_CLASS,
    RULES,
    Layout,
    check_classes,
    grid_classes,
    region_masks,
)

LAYOUT_ATTENTION = (
    "layout_partial_v2",
    "layout_partial_v1",
    "layout_no_partial",
    "segmentation",
)


class Prompts(NamedTuple):
    """A layout as the layout blocks take it: embedded, and with the regions of each size."""

    instances: Tensor  # [B, N, D], 0 where a row only fills up
    background: Tensor  # [D]
    table: Tensor  # [K + 1, D]; the last is the background's
    regions: dict[tuple[int, int], Regions]
    classes: dict[tuple[int, int], Tensor]  # int64 [B, L], of a segmentation; background is K


class ClassEmbedder(nn.Module):
    """The embeddings of layout classes, one table for all blocks: `class_embedder` [K + 1, D].

    Its last row is the background's alone: no class may have its number. Errors: ValueError for
    such a class on a CPU; on a GPU, where looking would wait, the device's own index error.
    """

    def __init__(self, num_classes: int, dim: int = 128) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.class_embedder = nn.Embedding(num_classes + 1, dim)

    def prompts(
        self,
        layout: Layout,
        sizes: list[tuple[int, int]],
        kind: str = "layout_partial_v2",
        *,
        rule: str = "released",
        form: str | None = None,
    ) -> Prompts:
        """A layout's prompts, and its regions on feature maps of `sizes`."""
        K, table = self.num_classes, self.class_embedder.weight
        present = layout.classes >= 0
        index = self._checked(layout.classes).where(present, K)
        instances = F.embedding(index, table) * present[..., None].to(table.dtype)
        regions, classes = {}, {}
        for size in dict.fromkeys(sizes):
            if kind == "segmentation":
                if layout.segmentation is None:
                    wanted = (len(layout.classes), *size)
                    found = torch.full(wanted, NO_CLASS, device=table.device).flatten(1)
                else:
                    found = grid_classes(layout.segmentation, *size).long()
                classes[size] = self._checked(found.where(found != NO_CLASS, -1)).where(
                    found != NO_CLASS, K
                )
            else:
                masks = region_masks(layout, *size, rule)
                v1 = kind == "layout_partial_v1"
                # Whole-image attention needs no plan.
                how = "closed" if kind == "layout_no_partial" else form
                regions[size] = make_regions(masks, with_background=v1, form=how)
        return Prompts(instances, table[K], table, regions, classes)

    def _checked(self, classes: Tensor) -> Tensor:
        K = self.num_classes
        if classes.device.type != "cpu" or torch.compiler.is_compiling():
            # The background's own number is no class: an index that the device refuses.
            return classes.where(classes != K, K + 1)
        check_classes(classes[classes >= 0], K)
        return classes


class PromptProjection(nn.Module):
    """What of a layout block the release calls its attention: `to_prompt_token`, D -> 3 C."""

    def __init__(self, dim: int, channels: int) -> None:
        super().__init__()
        self.to_prompt_token = nn.Conv1d(dim, 3 * channels, 1, bias=False)

    def forward(self, prompts: Tensor) -> Tensor:
        """[..., D] -> [..., 3 C]."""
        return F.linear(prompts, self.to_prompt_token.weight[:, :, 0])


class LayoutAttention(AttentionBlock, ConditionBlock):
    """x [B, C, H, W], prompts (`ClassEmbedder.prompts`) -> [B, C, H, W], residual, 0 at first.

    kind:
    layout_partial_v2  a pixel of boxes attends within each of them, with the mean of the prompts
                       that cover each pixel added to queries, keys and values, and the results are
                       averaged; a pixel of none attends to all pixels, all with the background's
                       prompt.
    layout_partial_v1  the background's attention is one more member of every average.
    layout_no_partial  every pixel attends to all, with the prompts that cover each.
    segmentation       the same with the prompt of each pixel's class.
    """

    condition = "layout"

    def __init__(
        self,
        channels: int,
        dim: int = 128,
        kind: str = "layout_partial_v2",
        num_heads: int = 1,
        *,
        fused: bool = True,
    ) -> None:
        super().__init__(channels, num_heads, fused=fused)
        if kind not in LAYOUT_ATTENTION:
            raise ValueError(
                f"layout_attn_type {kind!r} is not one of {', '.join(LAYOUT_ATTENTION)}"
            )
        self.kind = kind
        self.attention = PromptProjection(dim, channels)

    def forward(self, x: Tensor, z: Prompts) -> Tensor:  # type: ignore[override]
        rows, size = self.qkv_rows(x), (x.shape[2], x.shape[3])
        if self.kind == "segmentation":
            prompted = rows + F.embedding(z.classes[size], self.attention(z.table))
            return self.result(x, self._everywhere(prompted))
        regions, nothing = z.regions[size], self.attention(z.background)
        # [B, L, N] x [B, N, 3 C]: the projection of a mean is the mean of the projections.
        each = self.attention(z.instances)
        merged = rows + regions.mean.transpose(1, 2).to(each.dtype) @ each
        if self.kind == "layout_no_partial":
            outside = (regions.rest > 0)[..., None].to(each.dtype)
            return self.result(x, self._everywhere(merged + outside * nothing))
        return self.result(
            x, region_attention(merged, rows + nothing, self.heads, regions, self.fused)
        )

    def _everywhere(self, rows: Tensor) -> Tensor:
        return merge_heads(attend(*split_qkv(rows, self.heads), fused=self.fused))


def check_rule(rule: str) -> None:
    """Errors: ValueError for a rule of regions that is none."""
    if rule not in RULES:
        raise ValueError(f"layout_region_rule {rule!r} is not {' or '.join(RULES)}")
