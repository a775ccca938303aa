"""Noise, dice and pixel grids: fixed arrays, made once, and small helpers on arrays."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from data.scenes.draw import Colour, Draw


def _table(size: int, octaves: tuple[tuple[int, float], ...]) -> np.ndarray:
    """Smooth periodic noise in [-1, 1] of mean 0, [size * size]; octaves are (cells, weight)."""
    draw = Draw("noise", size)
    total = np.zeros((size, size))
    for cells, weight in octaves:
        values = draw.block(4 * cells * cells).reshape(4, cells, cells).sum(0) - 2.0
        at = np.arange(size) * cells / size
        cell = at.astype(int)
        between = at - cell
        between = between * between * (3 - 2 * between)
        after = (cell + 1) % cells
        rows = values[cell] * (1 - between)[:, None] + values[after] * between[:, None]
        total += weight * (rows[:, cell] * (1 - between) + rows[:, after] * between)
    total = np.clip(total / (2.0 * total.std()), -1, 1)
    table = (total - total.mean()).astype(np.float32).ravel()
    table.setflags(write=False)
    return table


@lru_cache(maxsize=1)
def noise() -> np.ndarray:
    """256 x 256 texels, cells of 8 texels."""
    return _table(256, ((32, 1.0), (64, 0.35)))


@lru_cache(maxsize=1)
def fine_noise() -> np.ndarray:
    """512 x 512 texels, cells of 32: steps between texels are too small to be seen."""
    return _table(512, ((16, 1.0), (32, 0.35)))


@lru_cache(maxsize=1)
def dice() -> np.ndarray:
    """4096 fixed uniform numbers, for windows that are lit or not."""
    table = Draw("dice").block(4096).astype(np.float32)
    table.setflags(write=False)
    return table


def lookup(rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """Noise at table coordinates (broadcasting, any range)."""
    row = rows.astype(np.int32) & 255
    col = cols.astype(np.int32) & 255
    return noise().take((row << 8) + col)


def smooth(rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """Noise from the fine table: cells of 32 texels, for waves much longer than a pixel."""
    row = rows.astype(np.int32) & 511
    col = cols.astype(np.int32) & 511
    return fine_noise().take((row << 9) + col)


@dataclass(frozen=True)
class Grid:
    """Pixel centres and edges of a size: u [1, S], v [S, 1], edges [S + 1], step."""

    size: int
    u: np.ndarray
    v: np.ndarray
    edges: np.ndarray
    step: float


@lru_cache(maxsize=16)
def grid_of(size: int) -> Grid:
    """The grid of pictures of size x size pixels."""
    centres = ((np.arange(size, dtype=np.float64) + 0.5) / size).astype(np.float32)
    edges = (np.arange(size + 1, dtype=np.float64) / size).astype(np.float32)
    u, v = centres[None, :], centres[:, None]
    for array in (u, v, edges):
        array.setflags(write=False)
    return Grid(size, u, v, edges, 1.0 / size)


def unit(values: np.ndarray) -> np.ndarray:
    """Clip to [0, 1], in place."""
    np.maximum(values, 0.0, out=values)
    return np.minimum(values, 1.0, out=values)


def unit_copy(values: np.ndarray) -> np.ndarray:
    """Clip to [0, 1], as a new array."""
    return np.minimum(np.maximum(values, 0.0), 1.0)


def column(colour: Colour) -> np.ndarray:
    """A colour as planes, float32 [3, 1, 1]."""
    return np.array(colour, dtype=np.float32).reshape(3, 1, 1)


def pulse(at: np.ndarray, duty: float) -> np.ndarray:
    """The integral from 0 of a square wave of period 1 that is 1 on [0, duty)."""
    period = np.floor(at)
    return period * duty + np.minimum(at - period, duty)
