"""Blocks by name, and the making of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from models.ddpm.blocks import AttentionBlock, ResBlock
from models.ddpm.transformer import SpatialTransformer

NONE = "none"
RES_BLOCKS: dict[str, type[nn.Module]] = {"ResBlock": ResBlock}
ATTN_BLOCKS: dict[str, type[nn.Module]] = {
    "AttentionBlock": AttentionBlock,
    "SpatialTransformer": SpatialTransformer,
}


def block_class(
    name: str,
    option: str,
    known: Mapping[str, type[nn.Module]],
    own: Mapping[str, type[nn.Module]] | None = None,
) -> type[nn.Module] | None:
    """The class called `name`, of `own` first; None for an attention "none". Errors: ValueError."""
    if name == NONE and known is ATTN_BLOCKS:
        return None
    every = {**known, **(own or {})}
    if name not in every:
        names = [*every, NONE] if known is ATTN_BLOCKS else every
        raise ValueError(
            f"unknown {option} {name!r}: known are {', '.join(names)}; one of your own: name its "
            "file too (--blocks FILE.py)"
        )
    return every[name]


def make_block(
    make: type[nn.Module] | None,
    option: str,
    more: Mapping[str, Any] | None,
    *arguments: Any,
    **named: Any,
) -> nn.Module:
    """make(...) with the arguments that every block of its kind gets and those of the options.

    Errors: ValueError for an argument that the class does not have; those of the class.
    """
    if make is None:
        raise ValueError(f"{option} none has no block to make")
    try:
        return make(*arguments, **{**named, **(more or {})})
    except TypeError as error:
        if error.__traceback__ is not None and error.__traceback__.tb_next is not None:
            raise  # of what the class does, not of how it is called
        raise ValueError(f"{option} {make.__name__}: {error}") from None
