"""The transformer over pixels of latent diffusion, and the task prompts of LayoutDiffuse.

Rombach et al. 2022 (arXiv:2112.10752) with the parameter names of its release; Cheng et al. 2023
(arXiv:2302.08908), section 3.3, for the prompts.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.ddpm.attention import (
    GroupNorm,
    attend,
    head_count,
    linear,
    merge_heads,
    pixels,
    tokens,
    zeroed,
)
from models.ddpm.base import ConditionBlock


class CrossAttention(nn.Module):
    """Attention of rows [B, L, dim] to context [B, S, context_dim]; None: to themselves."""

    def __init__(
        self,
        dim: int,
        context_dim: int | None = None,
        heads: int = 8,
        dim_head: int = 64,
        *,
        fused: bool = True,
    ) -> None:
        super().__init__()
        inner, source = heads * dim_head, dim if context_dim is None else context_dim
        self.heads, self.fused = heads, fused
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_k = nn.Linear(source, inner, bias=False)
        self.to_v = nn.Linear(source, inner, bias=False)
        # A list of one, because the release has a dropout behind it.
        self.to_out = nn.ModuleList([nn.Linear(inner, dim)])

    def _heads(self, rows: Tensor) -> Tensor:
        return rows.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def _attend(self, q: Tensor, context: Tensor) -> Tensor:
        """[B, L, inner]: q [B, heads, L, d] to the context's keys."""
        k, v = self._heads(self.to_k(context)), self._heads(self.to_v(context))
        return merge_heads(attend(q, k, v, fused=self.fused))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        q = self._heads(self.to_q(x))
        return self.to_out[0](self._attend(q, x if context is None else context))


class PromptAttention(CrossAttention):
    """Cross attention whose context is [text, task prompts, image tokens], of those that it has.

    text_dim: width of the text's tokens; None: there is no text and a context has that of x.
    num_prompts learned prompts of prompt_dim, N(0, 1) at first; image_in_kv: the rows themselves
    are in the context. Both go through bias-free linear layers to the text's width.

    gated: what prompts and image tokens add is multiplied by a learned number, 0 at first, so that
    a pretrained network is unchanged: out = A(text) + gate (A(text, prompts, image) - A(text)).
    Gate 1 is the released form, which has no gate and whose prompts change the network at once.
    Without text_dim the rows themselves are the text, as in a network without prompts.
    """

    def __init__(
        self,
        dim: int,
        text_dim: int | None = None,
        heads: int = 8,
        dim_head: int = 64,
        *,
        num_prompts: int = 0,
        prompt_dim: int = 128,
        image_in_kv: bool = False,
        gated: bool = False,
        fused: bool = True,
    ) -> None:
        super().__init__(dim, text_dim, heads, dim_head, fused=fused)
        self.text_dim = text_dim
        width = dim if text_dim is None else text_dim
        self.prompt: nn.Parameter | None = None
        self.prompt_to_context_dim: nn.Linear | None = None
        self.image_to_context_dim: nn.Linear | None = None
        if num_prompts:
            self.prompt = nn.Parameter(torch.randn(1, num_prompts, prompt_dim))
            self.prompt_to_context_dim = nn.Linear(prompt_dim, width, bias=False)
        if image_in_kv:
            self.image_to_context_dim = nn.Linear(dim, width, bias=False)
        self.gate = nn.Parameter(torch.zeros([])) if gated and self._added() else None

    def _added(self) -> bool:
        return self.prompt is not None or self.image_to_context_dim is not None

    def adapters(self) -> list[str]:
        """Names of the parameters that a network without prompts and image tokens lacks."""
        base = {"to_q", "to_k", "to_v", "to_out"}
        return [name for name, _ in self.named_parameters() if name.split(".")[0] not in base]

    def _context(self, x: Tensor, text: Tensor | None) -> list[Tensor]:
        found = [] if text is None else [text]
        if self.prompt is not None and self.prompt_to_context_dim is not None:
            prompts = self.prompt_to_context_dim(self.prompt)
            found.append(prompts.expand(len(x), -1, -1))
        if self.image_to_context_dim is not None:
            found.append(self.image_to_context_dim(x))
        return found

    def forward(self, x: Tensor, text: Tensor | None = None) -> Tensor:
        """x [B, L, dim], text [B, T, text_dim] -> [B, L, dim]. Errors: ValueError."""
        if text is not None and (
            self.text_dim is None or text.shape[0] != len(x) or text.shape[-1] != self.text_dim
        ):
            wanted = "none" if self.text_dim is None else f"[{len(x)}, T, {self.text_dim}]"
            raise ValueError(f"text of shape {list(text.shape)}, the network takes {wanted}")
        if self.gate is not None and self.text_dim is None:
            text = x
        context = self._context(x, text)
        if not context:
            if self.text_dim is not None:
                raise ValueError(f"text [{len(x)}, T, {self.text_dim}] is missing")
            context = [x]
        q = self._heads(self.to_q(x))
        out = self._attend(q, torch.cat(context, 1))
        if self.gate is not None:
            if text is None:
                out = self.gate * out
            else:
                alone = self._attend(q, text)
                out = alone + self.gate * (out - alone)
        return self.to_out[0](out)


class GEGLU(nn.Module):
    """Half of a linear layer's output times GELU of the other half (Shazeer 2020)."""

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, 2 * out)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.proj(x).chunk(2, -1)
        return x * F.gelu(gate)


class FeedForward(nn.Module):
    """GEGLU to 4 dim, and back; the release has a dropout between, at place 1."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.net = nn.Sequential(GEGLU(dim, 4 * dim), nn.Identity(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class TransformerBlock(nn.Module):
    """Self-attention, cross attention, feed-forward, each behind a layer norm and residual."""

    def __init__(self, attn1: CrossAttention, attn2: PromptAttention, dim: int) -> None:
        super().__init__()
        self.attn1, self.attn2, self.ff = attn1, attn2, FeedForward(dim)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim) for _ in range(3))

    def forward(self, x: Tensor, text: Tensor | None) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), text)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(ConditionBlock):
    """x [B, C, H, W], text [B, T, text_dim] or None -> [B, C, H, W], residual, 0 at first.

    depth transformer blocks between two 1 x 1 convolutions (linear layers where use_linear, as in
    Stable Diffusion 2). The rest as in `AttentionBlock` and `PromptAttention`. Errors: ValueError.
    """

    condition = "text"

    def __init__(
        self,
        channels: int,
        num_heads: int = 1,
        num_head_channels: int | None = None,
        *,
        text_dim: int | None = None,
        depth: int = 1,
        num_prompts: int = 0,
        prompt_dim: int = 128,
        image_in_kv: bool = False,
        gated: bool = False,
        use_linear: bool = False,
        fused: bool = True,
    ) -> None:
        super().__init__()
        heads = head_count(channels, num_heads, num_head_channels)
        width = channels // heads
        self.norm = GroupNorm(channels, 1e-6)
        make = nn.Linear if use_linear else _pointwise
        self.proj_in = make(channels, channels)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(
                CrossAttention(channels, None, heads, width, fused=fused),
                PromptAttention(
                    channels,
                    text_dim,
                    heads,
                    width,
                    num_prompts=num_prompts,
                    prompt_dim=prompt_dim,
                    image_in_kv=image_in_kv,
                    gated=gated,
                    fused=fused,
                ),
                channels,
            )
            for _ in range(depth)
        )
        self.proj_out = zeroed(make(channels, channels))

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        rows = linear(self.proj_in, tokens(self.norm(x)))
        for block in self.transformer_blocks:
            rows = block(rows, z)
        return x + pixels(linear(self.proj_out, rows), x)


def _pointwise(channels: int, out: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out, 1)
