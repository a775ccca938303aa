"""Spatial noise chosen cell by cell: the second stage of the search of a level.

The best of n whole codes is one choice of log2(n) bits for a whole picture, however much noise a
code has. So the winner is taken as a base: further candidates have its style and spatial noise of
their own, the loss is taken for every cell of an S x S grid over the picture, and each cell takes
the noise of the candidate that is best there (the winner among them): S^2 choices for about the
price of one. What the cells chose is scored as one code, and the better of it and the winner is
kept, so that no image comes out worse than of the search over whole codes.

A cell is judged beside the neighbours of the same candidate, and comes to stand beside those of
others. So, where there are enough candidates, half of them are spent as above, and the others on
the two colours of a chequered board in turn, every other cell being as chosen so far
(docs/studies/imle.md has what that gains).

A code put together like this is numbers too: [1 + S^2] candidate numbers, that of the winner, whose
style it has, and that of each cell, row by row. `composed` draws it again from them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from imle.cascade import LevelLosses, cast_like, no_tf32, where_tree
from imle.draws import KeyedDraw
from imle.types import (
    ComposedCodes,
    has_spatial_noise,
    is_composed_codes,
    is_mapped,
)
from runtime.counter_rng import Mosaic, mosaic

# With fewer candidates each colour of the board would choose among too few.
_CHEQUERED_FROM = 16

# Candidates of this stage are numbered from here on: above any candidate of the first stage.
FIRST_NUMBER = 1 << 32


class CellGrid(NamedTuple):
    """How a code of a level is put together from 1 + cells^2 candidates."""

    cells: int  # along a side of the grid
    rows: Tensor  # [d] int64: of each entry, 0 where it is style, 1 + its cell where it is noise
    pattern: Mosaic  # of `rows`
    colour: Tensor  # [cells^2] int64: 0 and 1 as on a chequered board


class Sweep(NamedTuple):
    """Candidates that are compared at once, all beside the same base, which is the first."""

    first: int  # how many candidates there were before
    chunks: list[tuple[int, int]]  # [first, last) of the base (0) and the candidates (1, ..)
    colour: int | None  # of the cells that they change; None: all


class Judge(NamedTuple):
    """By what candidates of a level are judged: losses at one precision, the state before the
    level, and the target as those losses prepared it."""

    losses: LevelLosses
    state: Any
    target: Any


class Chosen(NamedTuple):
    """What was chosen at a level for B images."""

    loss: Tensor  # [B] float32
    ids: Tensor  # int64 candidate numbers, -1 where none was finite: [B], or [B, 1 + cells^2]
    code: Tensor  # [B, d]
    state: Any  # behind the level
    fast_state: Any  # the same in low precision, if there is one and it will be needed


def check_cells(model: object, z: object, loss: object, *, searcher: object = None) -> None:
    """ValueError, in a sentence, for pieces with which no noise can be chosen cell by cell.

    model: `spatial_noise` (imle.types.HasSpatialNoise) must say where noise is in every level's
    code. z: must put codes together (ComposedCodes). loss: must have maps (MappedLoss).
    """
    if searcher is not None:
        raise ValueError(f"cells: a {type(searcher).__name__} does not search level by level")
    if not has_spatial_noise(model):
        raise ValueError(
            f"cells: a {type(model).__name__} has no spatial noise to choose cell by cell "
            "(CAMNet has, and says where by spatial_noise(level))"
        )
    bare = [i for i in range(len(model.code_sizes)) if model.spatial_noise(i) is None]
    if bare:
        raise ValueError(f"cells: the codes of level {bare[0]} have no spatial noise to choose")
    if not is_composed_codes(z):
        raise ValueError(
            f"cells: codes of a {type(z).__name__} cannot be put together from several candidates "
            "(those of a CodeGenerator can: they are drawn by number)"
        )
    if not is_mapped(loss):
        raise ValueError(
            f"cells: the loss {_name(loss)} is of whole images and has no maps(fx, target, cells) "
            "(ResolutionLoss has)"
        )


def wanted(cells: int | Sequence[int]) -> bool:
    """Whether noise is chosen cell by cell at any level."""
    return any(cells) if isinstance(cells, Sequence) else cells != 0


def cell_grids(model: Any, cells: Sequence[int], device: torch.device) -> list[CellGrid | None]:
    """The grid of each level, None where `cells` (along a side) is 0; at most the noise's side.

    model: as `check_cells` has it. Where the side is no multiple, cells differ by a row or column.
    """
    return [
        _grid(model.code_sizes[level], model.spatial_noise(level), count, device) if count else None
        for level, count in enumerate(cells)
    ]


def _grid(size: int, noise: Any, cells: int, device: torch.device) -> CellGrid:
    cells = min(cells, noise.height, noise.width)
    down, across = (torch.arange(side) * cells // side for side in (noise.height, noise.width))
    cell = 1 + (down[:, None] * cells + across).flatten()
    rows = torch.zeros(size, dtype=torch.int64)
    rows[noise.first : noise.first + noise.channels * len(cell)] = cell.repeat(noise.channels)
    place = torch.arange(cells**2)
    parts = (rows, *mosaic(rows), (place // cells + place % cells) % 2)
    rows, *pattern, colour = (part.to(device) for part in parts)
    return CellGrid(cells, rows, Mosaic(*pattern), colour)


def composed(
    z: ComposedCodes,
    loop: int,
    image_ids: Tensor,
    numbers: Tensor,
    grids: Sequence[CellGrid | None],
) -> list[Tensor]:
    """The codes of the images [B] from their numbers [B, L, 1 + most cells], per level [B, d_l]."""
    codes = []
    for level, grid in enumerate(grids):
        own = numbers[:, level]
        if grid is None:
            codes.append(z.draw(level, loop, image_ids, own[:, :1], image_ids.device))
        else:
            own = own[:, None, : 1 + grid.cells**2]
            codes.append(z.compose(level, loop, image_ids, own, grid.rows, grid.pattern))
    return codes


def stacked(numbers: Sequence[Tensor]) -> Tensor:
    """Numbers of every level, [B] or [B, 1 + cells^2], as one [B, L, 1 + most cells].

    What a level does not use is filled up with the number of its winner.
    """
    columns = [n[:, None] if n.dim() == 1 else n for n in numbers]
    most = max(c.shape[1] for c in columns)
    filled = [torch.cat([c, c[:, :1].expand(-1, most - c.shape[1])], 1) for c in columns]
    return torch.stack(filled, 1)


def sweeps(cells: int, candidates: int, parallel: int) -> list[Sweep]:
    """How candidates are shared out over a grid of cells x cells, at most `parallel` at a time."""
    shares: list[tuple[int | None, int]] = [(None, candidates)]
    if candidates >= _CHEQUERED_FROM and cells > 1:
        quarter = candidates // 4
        shares = [(None, candidates - 2 * quarter), (0, quarter), (1, quarter)]
    plan, first = [], 0
    for colour, count in shares:
        chunks = -(-(count + 1) // parallel)
        edges = [(count + 1) * i // chunks for i in range(chunks + 1)]
        plan.append(Sweep(first, list(zip(edges, edges[1:], strict=False)), colour))
        first += count
    return plan


def choose_cells(
    level: int,
    grid: CellGrid,
    exact: Judge,
    fast: Judge | None,
    found: Chosen,
    draw: KeyedDraw,
    plan: Sequence[Sweep],
    on_chunk: Callable[[], None] | None = None,
) -> Chosen:
    """Improve the winners of a level, `found`, cell by cell; see the module.

    exact: in fp32, which decides (with rescore 0 of `CodeSearch` in bf16, and there is no other);
    fast: in low precision, in which cells are compared, if there is one. plan: of `sweeps`;
    `on_chunk` is called after each chunk. No image's loss becomes larger.
    """
    judge = exact if fast is None else fast
    winner = found.ids.clamp_min(0)[:, None]
    cells = base = winner.expand(-1, grid.cells**2)
    for first, chunks, colour in plan:
        best, low = base, torch.full(base.shape, torch.inf, device=base.device)
        for chunk in chunks:
            number = torch.arange(*chunk, device=base.device)[:, None]  # [K, 1]; 0 is the base
            changed = number > 0
            if colour is not None:
                changed = changed & (grid.colour == colour)
            parts = torch.where(changed, FIRST_NUMBER + first + number - 1, base[:, None])
            code = _put_together(draw, level, grid, winner, parts)
            maps = judge.losses.maps(judge.state, code, level, judge.target, grid.cells)
            least, place = _first_least(maps.flatten(2))
            better = least < low  # strictly: the first of equals, the base before any other
            low = torch.where(better, least, low)
            best = torch.where(better, parts.gather(1, place[:, None])[:, 0], best)
            if on_chunk is not None:
                on_chunk()
        base = best
    code = _put_together(draw, level, grid, winner, base[:, None])
    with no_tf32(code.device, fast is not None):
        loss, state = exact.losses.losses(exact.state, code, level, exact.target)
    better = (loss < found.loss) & (found.ids >= 0)
    cells = torch.where(better[:, None], base, cells)
    state = where_tree(better, state, found.state)
    return Chosen(
        torch.where(better, loss, found.loss),
        torch.cat([found.ids[:, None], cells], 1),
        torch.where(better[:, None], code, found.code),
        state,
        None if found.fast_state is None else cast_like(state, found.fast_state),
    )


def _put_together(
    draw: KeyedDraw, level: int, grid: CellGrid, winner: Tensor, parts: Tensor
) -> Tensor:
    """Codes [B*K, d] of the winners' [B, 1] styles and the noise of `parts` [B, K, cells^2]."""
    style = winner[:, None].expand(-1, parts.shape[1], -1)
    return draw.compose(level, torch.cat([style, parts], 2), grid.rows, grid.pattern)


def _first_least(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Minimum over K of maps [B, K, C], and the first place where it stands, [B, C] both."""
    least = maps.amin(1)
    place = torch.arange(maps.shape[1], device=maps.device)[None, :, None]
    return least, torch.where(maps == least[:, None], place, maps.shape[1]).amin(1)


def _name(loss: object) -> str:
    return getattr(loss, "__name__", type(loss).__name__)
