"""Where the things of a scene stand: camera, light, ground and ridges, in metres and image heights.

x runs right of the camera's axis, y up from the base plane, z ahead. A pinhole with focal length
one (in image heights) sees it:

    u = axis + x / z        v = horizon + (camera - y) / z        both in [0, 1], v downwards.

Nothing here knows a thing, a resolution, a style or a pixel.
"""

import math
from dataclasses import dataclass, field

import numpy as np

from data.scenes.draw import Colour
from data.scenes.land import Metres, Relief, Strip, Waves
from data.scenes.moods import Mood
from data.scenes.ridges import Ridge


@dataclass
class Setting:
    """A scene without its things; the same for both styles, and for dry and flooded."""

    label: int
    mood: Mood
    # The camera: v of the horizon, metres above the base plane, u of the axis of view.
    horizon: float = 0.5
    camera: float = 3.0
    axis: float = 0.5
    # The sky: (u, v) of the sun or the moon, strength of thin high cloud.
    sun: tuple[float, float] = (0.7, 0.2)
    veil: float = 0.0
    # The ground: its segment, its colours near and far, the strength of its texture, its heights.
    ground: str = "grass"
    colours: tuple[Colour, Colour] = ((0.3, 0.45, 0.2), (0.35, 0.45, 0.25))
    roughness: float = 0.25
    relief: Relief = field(default_factory=Relief)
    waves: Waves = (0.0, 0.0, 0.0, 0.0)
    base: float = 0.25  # mean height of the land, metres
    amplitude: float = 0.12  # of its waves, metres
    # Water: clear and muddy, the level of the flood in metres, whether flooded=None means a flood.
    water: Colour = (0.12, 0.28, 0.36)
    murk: Colour = (0.36, 0.34, 0.26)
    flood_level: float = 0.6
    floods: bool = False
    # Each in painting order.
    strips: list[Strip] = field(default_factory=list)
    ridges: list[Ridge] = field(default_factory=list)
    shift: tuple[int, int] = (0, 0)  # where in the noise tables

    def elevation(self, x: Metres, z: Metres) -> Metres:
        """Height of the ground at (x, z), metres; water lies where it is below the level (0 when
        dry). Works on floats and on float32 arrays that broadcast.
        """
        sin = math.sin if isinstance(x, float) else np.sin
        a, b, c, d = self.waves
        swell = self.amplitude / (1.0 + (z * (1 / 70.0)) * (z * (1 / 70.0)))
        land = self.base + swell * (
            sin(x * (0.23 + 0.1 * a) + z * 0.11 * b + 6.0 * c)
            + sin(x * 0.13 * d - z * (0.17 + 0.1 * b) + 6.0 * a)
        )
        return self.relief.shaped(land, x, z, self.waves)
