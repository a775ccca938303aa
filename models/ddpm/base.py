"""The two kinds of blocks that one may write oneself, and the sequence that runs them.

`EmbedBlock` gets the embedding of the time, or of the continuous noise level sqrt(alpha_bar),
beside the image; `ConditionBlock` gets an extra input z. Whatever is neither gets the image alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Given(NamedTuple):
    """What a denoiser was given beside the image, for its blocks to take from."""

    emb: Tensor  # [B, emb_channels], of the time or the noise level, the class added
    z: Any = None  # of the user
    text: Tensor | None = None  # [B, T, D]
    layout: Any = None  # models.ddpm.regions.Prompts, or None
    keys: Tensor | None = None  # int64 [B], of row-keyed dropout


class EmbedBlock(nn.Module, ABC):
    """A block with forward(x [B, C, H, W], emb [B, emb_channels]) -> [B, C', H', W'].

    `keyed = True` in a class asks for one more, last argument: int64 keys [B] of
    `runtime.counter_rng.row_dropout`, or None for torch's own dropout. Its dropout mask is then
    that of `self.layer`, a number that the network gives to each such block.
    """

    keyed = False
    layer = 0

    @abstractmethod
    def forward(self, x: Tensor, emb: Tensor) -> Tensor: ...


class ConditionBlock(nn.Module, ABC):
    """A block with forward(x [B, C, H, W], z) -> [B, C', H', W'], z an extra input.

    `condition` says which of the denoiser's arguments z is: "z" (whatever the caller passes as z),
    "text" or "layout"; None arrives where the caller gave none. A block that is an EmbedBlock too
    has forward(x, emb, z).
    """

    condition = "z"

    @abstractmethod
    def forward(self, x: Tensor, z: Any) -> Tensor: ...


class BlockSequence(nn.Sequential):
    """Blocks one after the other, each with the arguments of its kind.

    use_checkpoint: activations of a block are computed again in the backward pass instead of kept
    (torch.utils.checkpoint, non-reentrant: any argument may be an integer tensor or None, frozen
    parameters are no obstacle). Gradients are the same bit for bit.
    """

    use_checkpoint = False

    def forward(self, x: Tensor, given: Given) -> Tensor:  # type: ignore[override]
        for block in self:
            x = run(block, x, given, self.use_checkpoint)
        return x


def run(block: nn.Module, x: Tensor, given: Given, use_checkpoint: bool = False) -> Tensor:
    """block(x, ...) with what it is to be given."""
    arguments: list[Any] = [x]
    keyed = isinstance(block, EmbedBlock) and block.keyed
    if isinstance(block, EmbedBlock):
        arguments.append(given.emb)
    if isinstance(block, ConditionBlock):
        arguments.append(getattr(given, block.condition))
    if keyed:
        arguments.append(given.keys)
    if not (use_checkpoint and torch.is_grad_enabled()):
        return block(*arguments)
    # Masks that are functions of keys come again by themselves.
    random = block.training and not (keyed and given.keys is not None)
    return checkpoint(block, *arguments, use_reentrant=False, preserve_rng_state=random)
