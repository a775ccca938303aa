"""What closes the view far away: ridges, woods and skylines, and the outlines they are cut from."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from data.scenes.draw import Colour, Draw

COLUMNS = 512
CENTRES = (np.arange(COLUMNS) + 0.5) / COLUMNS  # u of every column's middle
_LINE = 8192  # columns of the long lines that fractal outlines are cut from


class Outline(NamedTuple):
    """Heights above the horizon, in image heights, [512]; of peaks also each column's summit."""

    heights: np.ndarray
    summits: np.ndarray | None = None


def summed(tops: np.ndarray) -> np.ndarray:
    """The integral of an upper edge over u, [513]: its differences are means over any width."""
    return np.concatenate(([0.0], np.cumsum(tops))) / COLUMNS


@dataclass(kw_only=True)
class Ridge:
    """A far card over the whole width, `z` metres away."""

    z: float
    summed: np.ndarray  # integral of the upper edge (v) over u, at columns' edges, [513]
    highest: float  # v of the highest point of the outline it was cut from
    colour: Colour
    segment: str
    peak: Colour | None  # colour above peak_v
    peak_v: float
    roughness: float
    windows: float  # share of windows that are lit; 0 for no windows
    summits: np.ndarray | None  # u of the summit that each column belongs to, [512]

    @property
    def tops(self) -> np.ndarray:
        """The upper edge: v at every column, [512]."""
        return np.diff(self.summed) * COLUMNS

    @tops.setter
    def tops(self, tops: np.ndarray) -> None:
        self.summed = summed(tops)

    def soften(self) -> None:
        """Give a skyline of blocks sloping sides: mesas."""
        kernel = np.ones(14) / 14
        self.tops = np.convolve(np.pad(self.tops, (7, 6), "edge"), kernel, "valid")


@lru_cache(maxsize=4)
def _fractal(name: str, knots: int, gain: float, octaves: int, smooth: bool) -> np.ndarray:
    """A long fractal line with values about 0..1, from which outlines are cut, [8192]."""
    draw = Draw("skyline", name)
    x = np.arange(_LINE) / _LINE
    total, weight, norm = np.zeros(_LINE), 1.0, 0.0
    for _ in range(octaves):
        values = draw.block(knots)
        knot = (x * knots).astype(int)
        between = x * knots - knot
        if smooth:
            between = between * between * (3 - 2 * between)
        total += weight * (values[knot] * (1 - between) + values[(knot + 1) % knots] * between)
        norm += weight
        weight *= gain
        knots *= 2
    total = 0.5 + (total / norm - 0.5) * 1.5
    total.setflags(write=False)
    return total


def _rough_line() -> np.ndarray:
    return _fractal("rough", knots=96, gain=0.58, octaves=6, smooth=False)


def _hill_line() -> np.ndarray:
    return _fractal("hills", knots=40, gain=0.36, octaves=4, smooth=True)


def _tree_line() -> np.ndarray:
    return _fractal("trees", knots=150, gain=0.75, octaves=5, smooth=True)


def _cut(draw: Draw) -> slice:
    """Where on a long line an outline is cut from."""
    start = draw.integer(0, _LINE - COLUMNS)
    return slice(start, start + COLUMNS)


# Each of these makes an outline `height` image heights high.
OutlineMaker = Callable[[Draw, float], Outline]


def hills(draw: Draw, height: float) -> Outline:
    """Rolling hills."""
    return Outline(height * (0.25 + 0.95 * _hill_line()[_cut(draw)]))


def treetops(draw: Draw, height: float) -> Outline:
    """The upper edge of a wood."""
    return Outline(height * (0.25 + 0.95 * _tree_line()[_cut(draw)]))


def blocks(draw: Draw, height: float) -> Outline:
    """A town's skyline."""
    edges, values, u = [], [], 0.0
    while u < 1.0:
        edges.append(u)
        values.append(height * draw(0.25, 1.0) ** 1.3 * (0.15 if draw.chance(0.12) else 1.0))
        u += draw(0.02, 0.075)
    return Outline(np.array(values)[np.searchsorted(np.array(edges), CENTRES, side="right") - 1])


def peaks(draw: Draw, height: float) -> Outline:
    """Three to five mountains."""
    cut = _cut(draw)
    count = draw.integer(3, 5)
    places = [(k + draw(-0.1, 1.1)) / count for k in range(count)]
    tall = np.array([height * draw(0.6, 1.05) for _ in places])
    slope = np.array([draw(0.45, 0.85) for _ in places])
    middle = np.array(places)
    each = tall[:, None] - np.abs(CENTRES - middle[:, None]) * slope[:, None]
    best = each.argmax(0)
    heights = np.maximum(each[best, np.arange(COLUMNS)], 0.18 * height)
    heights *= 0.80 + 0.34 * _rough_line()[cut]
    return Outline(heights, middle[best].astype(np.float32))


def pines(draw: Draw, height: float) -> Outline:
    """Pointed tops, each a steep wedge, in front of a rolling edge."""
    cut = _cut(draw)
    count = draw.integer(26, 40)
    middle = (np.arange(count) + 0.5 + 0.9 * (draw.block(count) - 0.5)) / count
    tall = height * (0.55 + 0.5 * draw.block(count))
    each = tall[:, None] - np.abs(CENTRES - middle[:, None]) * (height * 22.0)
    floor = height * (0.42 + 0.25 * _tree_line()[cut])
    return Outline(np.maximum(each.max(0), floor))
