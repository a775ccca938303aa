"""The ground as it is planned: strips that lie on it, and the reliefs that hold water."""

import math
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np

from data.scenes.draw import Colour

EDGE = 1200.0  # where the ground ends, metres
Waves = tuple[float, float, float, float]  # four numbers in [0, 1): how a scene's ground rolls
# Coordinates in metres: all of one call are numbers, or all are float32 arrays that broadcast
# against one another; what comes out is of the same sort.
Metres = TypeVar("Metres", float, np.ndarray)


@dataclass(frozen=True)
class Line:
    """A line on the ground along z, straight or swinging: its x at every z, metres."""

    x: float = 0.0  # at the camera
    slope: float = 0.0
    swing: float = 0.0
    phase: float = 0.0

    def at(self, z: Metres) -> Metres:
        if not self.swing:
            return self.x + self.slope * z
        sin = math.sin if isinstance(z, float) else np.sin
        return (
            self.x
            + self.slope * z
            + self.swing * (sin(z * 0.035 + self.phase) - math.sin(self.phase))
        )


@dataclass(kw_only=True)
class Strip:
    """A band on the ground: within `half` metres of its line, for near < z < far."""

    segment: str
    colour: Colour
    half: float
    line: Line = Line()
    near: float = 0.0
    far: float = EDGE
    dash: float = 0.0  # period of dashes along z, metres; 0 for a whole band
    furrow: float = 0.0  # period of furrows along x, metres; 0 for a smooth one


class Relief:
    """What a place does to its rolling land; the base class is the relief that does nothing."""

    has_water: ClassVar[bool] = False  # when dry, too
    has_surf: ClassVar[bool] = False

    def shaped(self, land: Metres, x: Metres, z: Metres, waves: Waves) -> Metres:
        """The height of the ground at (x, z), metres, where it would be `land` without relief."""
        return land


def _basin(bed: Metres, deepest: float, land: Metres) -> Metres:
    """`bed` where it lies below the land, and nowhere deeper than `deepest`."""
    if isinstance(bed, float):
        return min(max(bed, deepest), land)
    return np.minimum(np.maximum(bed, deepest), land)


@dataclass(frozen=True, kw_only=True)
class River(Relief):
    """A river along a line, `half` metres to each side."""

    has_water: ClassVar[bool] = True
    line: Line
    half: float

    def shaped(self, land: Metres, x: Metres, z: Metres, waves: Waves) -> Metres:
        off = x - self.line.at(z)
        return _basin((abs(off) - self.half) * 0.3, -1.2, land)


@dataclass(frozen=True, kw_only=True)
class Lake(Relief):
    """A lake about (x, z) with half axes `across` and `along` the view, its shore uneven."""

    has_water: ClassVar[bool] = True
    x: float
    z: float
    across: float
    along: float

    def shaped(self, land: Metres, x: Metres, z: Metres, waves: Waves) -> Metres:
        sin = math.sin if isinstance(x, float) else np.sin
        _, _, third, fourth = waves
        dx, dz = (x - self.x) * (1 / self.across), (z - self.z) * (1 / self.along)
        inside = (
            dx * dx
            + dz * dz
            + 0.16
            * sin(x * (3.5 / self.across) + 6 * third)
            * sin(z * (4 / self.along) + 6 * fourth)
        )
        return _basin((inside - 1.0) * 3.0, -1.5, land)


@dataclass(frozen=True, kw_only=True)
class Sea(Relief):
    """The sea beyond `shore` metres; the shore runs off at a slope and swings."""

    has_water: ClassVar[bool] = True
    has_surf: ClassVar[bool] = True
    shore: float
    slope: float
    swing: float

    def shaped(self, land: Metres, x: Metres, z: Metres, waves: Waves) -> Metres:
        sin = math.sin if isinstance(x, float) else np.sin
        first, second, _, _ = waves
        edge = (
            self.shore
            + self.slope * x
            + self.swing * (sin(x * 0.11 + 6 * first) + 0.6 * sin(x * 0.29 + 6 * second))
        )
        return _basin((edge - z) * 0.08, -1.5, land)


@dataclass(frozen=True, kw_only=True)
class Quay(Relief):
    """A basin from a quay `shore` metres away to a bank `far` metres away."""

    has_water: ClassVar[bool] = True
    shore: float
    slope: float
    far: float

    def shaped(self, land: Metres, x: Metres, z: Metres, waves: Waves) -> Metres:
        high = max if isinstance(x, float) else np.maximum
        near = (self.shore + self.slope * x - z) * 1.5
        return _basin(high(near, (z - self.far) * 0.2), -1.5, land)
