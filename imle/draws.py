"""Where the candidates of a search come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from imle.contract import Z_GEN
from imle.types import ComposedCodes, Draw, KeyedCodes, PlainCodes, is_keyed_codes
from runtime.counter_rng import Mosaic


class KeyedDraw:
    """The candidates of a counter-based generator (`z.draw`) for given images [B] in a loop."""

    def __init__(self, z: KeyedCodes, loop: int, image_ids: Tensor) -> None:
        self.z, self.loop, self.image_ids = z, loop, image_ids

    def __call__(self, level: int, candidate_ids: Tensor) -> Tensor:
        return self.z.draw(level, self.loop, self.image_ids, candidate_ids, self.image_ids.device)

    def compose(self, level: int, candidate_ids: Tensor, rows: Tensor, pattern: Mosaic) -> Tensor:
        """Codes put together from candidates [B, K, R], as `CodeGenerator.compose` does it."""
        z = cast(ComposedCodes, self.z)
        return z.compose(level, self.loop, self.image_ids, candidate_ids, rows, pattern)


def pool_draw(pools: Sequence[Tensor]) -> Draw:
    """Supplied candidates: one tensor [B, ns_l, d_l] a level."""

    def draw(level: int, candidate_ids: Tensor) -> Tensor:
        pool = pools[level]
        if candidate_ids.dim() == 1:
            return pool[:, candidate_ids].flatten(0, 1)
        rows = torch.arange(len(pool), device=pool.device)[:, None]
        return pool[rows, candidate_ids].flatten(0, 1)

    return draw


class PlainDraw:
    """A plain `z_gen(bs, level)`: every call gives new codes, so it can be asked only once.

    batch: images at a time. ValueError: z_gen gave anything but a code a row.
    """

    def __init__(self, z_gen: PlainCodes, batch: int, device: torch.device) -> None:
        self.z_gen, self.batch, self.device = z_gen, batch, device

    def __call__(self, level: int, candidate_ids: Tensor) -> Tensor:
        rows = self.batch * candidate_ids.shape[-1]
        code = self.z_gen(rows, level)
        if not isinstance(code, Tensor) or code.shape[0] != rows:
            got = list(code.shape) if isinstance(code, Tensor) else type(code).__name__
            raise ValueError(f"z_gen({rows}, {level}) must give {rows} codes, got {got}")
        return code.to(self.device)


def listed_draw(ids: Tensor, codes: Tensor) -> Draw:
    """Codes [B, m, d] that were kept for ids [B, m]."""

    def draw(level: int, candidate_ids: Tensor) -> Tensor:
        hit = candidate_ids[:, :, None] == ids.clamp_min(0)[:, None, :]  # [B, K, m]
        column = hit.to(torch.uint8).argmax(2)
        return codes.gather(1, column[:, :, None].expand(-1, -1, codes.shape[2])).flatten(0, 1)

    return draw


def draw_of(
    z: KeyedCodes | PlainCodes | Sequence[Tensor],
    loop: int,
    image_ids: Tensor,
    device: torch.device,
) -> Draw:
    """The candidates of the images [B], by whatever kind of z there is.

    z: keyed codes, a plain `z_gen(bs, level)`, or candidates [B, ns_l, d_l], a tensor a level.
    """
    if is_keyed_codes(z):
        return KeyedDraw(z, loop, image_ids)
    if isinstance(z, (list, tuple)):
        return pool_draw(z)
    if not callable(z):
        raise ValueError(f"z_gen is a {type(z).__name__}, which cannot be called; it is {Z_GEN}")
    return PlainDraw(z, len(image_ids), device)
