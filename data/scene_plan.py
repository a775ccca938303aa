"""Procedural scenes, part one: from (seed, split, index) to a list of things in a 2.5-D world.

The world is in metres: x right of the camera axis, y up from the base plane, z ahead. A pinhole
with focal length one (in image heights) sees it:

    u = axis + x / z        v = horizon + (camera - y) / z        both in [0, 1], v downwards.

Nothing here knows a resolution, a style or a pixel: see `data.scene_things`, `data.scene_paint`.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

CLASSES = (
    "street",
    "countryside",
    "harbour",
    "mountain_lake",
    "desert",
    "forest",
    "suburb",
    "night_city",
    "beach",
    "winter",
)

# The object vocabulary, and the segmentation class every object is painted with.
OBJECTS = (
    "house",
    "building",
    "tree",
    "conifer",
    "palm",
    "cactus",
    "bush",
    "rock",
    "car",
    "person",
    "boat",
    "lamp",
    "cloud",
    "sun",
    "moon",
    "parasol",
    "lighthouse",
    "haystack",
    "snowman",
)
SEGMENTS = (
    "sky",
    "cloud",
    "sun_moon",
    "mountain",
    "grass",
    "soil",
    "sand",
    "snow",
    "road",
    "pavement",
    "water",
    "building",
    "vegetation",
    "rock",
    "vehicle",
    "person",
    "boat",
    "pole",
    "item",
)
SEGMENT = {name: k for k, name in enumerate(SEGMENTS)}
SEGMENT_OF = {
    "house": "building",
    "building": "building",
    "tree": "vegetation",
    "conifer": "vegetation",
    "palm": "vegetation",
    "cactus": "vegetation",
    "bush": "vegetation",
    "rock": "rock",
    "car": "vehicle",
    "person": "person",
    "boat": "boat",
    "lamp": "pole",
    "cloud": "cloud",
    "sun": "sun_moon",
    "moon": "sun_moon",
    "parasol": "item",
    "lighthouse": "building",
    "haystack": "item",
    "snowman": "item",
}
IN_SKY = ("cloud", "sun", "moon")

FAR = 2000.0  # depth of the sky, metres
EDGE = 1200.0  # where the ground ends, metres
TOP = 100.0  # heights are cut here; the sky has this one

Colour = tuple[float, float, float]


class Draw:
    """A stream of uniform numbers that depends on its key alone."""

    def __init__(self, *key: object) -> None:
        digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=16).digest()
        # The raw bits: numpy keeps those for ever, and not what a Generator makes of them.
        self.bits = np.random.PCG64(int.from_bytes(digest, "little"))
        self.pool: list[float] = []
        self.at = 0

    def block(self, count: int) -> np.ndarray:
        """`count` uniform numbers in [0, 1), float64."""
        return (self.bits.random_raw(count) >> np.uint64(11)) * 2.0**-53

    def __call__(self, low: float = 0.0, high: float = 1.0) -> float:
        if self.at == len(self.pool):
            self.pool, self.at = self.block(512).tolist(), 0
        self.at += 1
        return low + (high - low) * self.pool[self.at - 1]

    def chance(self, p: float) -> bool:
        return self() < p

    def integer(self, low: int, high: int) -> int:
        """An integer in [low, high]."""
        return low + int(self() * (high - low + 1))

    def pick(self, items: Sequence) -> object:
        return items[int(self() * len(items))]

    def colour(self, base: Colour, spread: float = 0.05) -> Colour:
        """`base` with a common change of brightness and a smaller one per channel."""
        if self.at + 4 > len(self.pool):
            self.pool, self.at = self.block(512).tolist(), 0
        a, b, c, d = self.pool[self.at : self.at + 4]
        self.at += 4
        k = 1.0 + (a * 3.2 - 1.6) * spread
        return (
            min(max(base[0] * k + (b - 0.5) * spread, 0.0), 1.0),
            min(max(base[1] * k + (c - 0.5) * spread, 0.0), 1.0),
            min(max(base[2] * k + (d - 0.5) * spread, 0.0), 1.0),
        )


def mix(a: Colour, b: Colour, t: float) -> Colour:
    return (a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t)


@dataclass(frozen=True)
class Mood:
    """A time of day: sky at the zenith, half way and at the horizon, light on things, sun,
    strengths.
    """

    zenith: Colour
    middle: Colour
    horizon: Colour
    light: Colour
    sun: Colour
    shadow: float
    haze: float  # metres after which 63 % of a thing is haze
    dark: bool = False


MOODS = {
    "day": Mood((0.17, 0.39, 0.74), (0.42, 0.64, 0.90), (0.80, 0.89, 0.95), (1.03, 1.0, 0.95),
                (1.0, 0.97, 0.86), 0.45, 420.0),
    "clear": Mood((0.08, 0.29, 0.66), (0.26, 0.54, 0.87), (0.70, 0.85, 0.96), (1.07, 1.03, 0.97),
                  (1.0, 0.98, 0.90), 0.52, 750.0),
    "golden": Mood((0.30, 0.42, 0.66), (0.80, 0.70, 0.62), (1.0, 0.80, 0.49), (1.08, 0.87, 0.66),
                   (1.0, 0.90, 0.62), 0.42, 240.0),
    "dawn": Mood((0.35, 0.41, 0.66), (0.78, 0.62, 0.70), (1.0, 0.80, 0.69), (0.98, 0.84, 0.82),
                 (1.0, 0.86, 0.74), 0.30, 150.0),
    "overcast": Mood((0.52, 0.57, 0.64), (0.68, 0.72, 0.77), (0.83, 0.86, 0.88), (0.86, 0.89, 0.93),
                     (0.95, 0.95, 0.95), 0.15, 190.0),
    "dusk": Mood((0.13, 0.15, 0.37), (0.46, 0.29, 0.50), (0.97, 0.52, 0.34), (0.58, 0.49, 0.56),
                 (1.0, 0.66, 0.40), 0.18, 260.0, True),
    "night": Mood((0.015, 0.025, 0.08), (0.05, 0.07, 0.18), (0.16, 0.17, 0.31), (0.25, 0.28, 0.42),
                  (0.93, 0.94, 0.86), 0.12, 330.0, True),
}  # fmt: skip


@dataclass
class Thing:
    """An object: a flat card at depth z, standing on ground of height `foot`; or a box, z..z_end
    deep.

    `x` is the middle, `w` the full width, `h` the height above the foot, all in metres; for
    things in the sky x, h and `foot` are image coordinates (u of the middle, height, v of the
    lower edge).
    """

    kind: str
    x: float
    z: float
    w: float
    h: float
    foot: float = 0.0
    colour: Colour = (0.5, 0.5, 0.5)
    accent: Colour = (0.5, 0.5, 0.5)
    z_end: float = 0.0  # > z for boxes
    variant: int = 0
    parts: tuple = ()
    floats: bool = False
    wall: bool = False  # part of a street canyon: always behind what stands in the street
    box: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)


@dataclass
class Ridge:
    """A far card over the whole width: its upper edge `top` is v at 512 + 1 columns' edges,
    summed up.
    """

    z: float
    top: np.ndarray  # cumulative integral of the upper edge over u, [513]
    highest: float
    colour: Colour
    segment: str
    peak: Colour | None = None  # colour above `peak_v`
    peak_v: float = 0.0
    rough: float = 0.0
    windows: float = 0.0
    centre: np.ndarray | None = None  # u of the summit each column belongs to, [512]


@dataclass
class Strip:
    """A band on the ground along z: |x - centre(z)| < half, for near < z < far."""

    segment: str
    colour: Colour
    half: float
    centre: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)  # x0, slope, amplitude, phase
    near: float = 0.0
    far: float = EDGE
    dash: float = 0.0  # period of dashes along z
    furrow: float = 0.0  # period of furrows along x

    def middle(self, z: float | np.ndarray) -> float | np.ndarray:
        x0, slope, swing, phase = self.centre
        if not swing:
            return x0 + slope * z
        sin = math.sin if isinstance(z, float) else np.sin
        return x0 + slope * z + swing * (sin(z * 0.035 + phase) - math.sin(phase))


@dataclass
class Scene:
    """Everything part two needs; the same for both styles and for dry and flooded."""

    label: int
    mood: Mood
    horizon: float = 0.5
    camera: float = 3.0
    axis: float = 0.5
    sun: tuple[float, float] = (0.7, 0.2)
    ground: str = "grass"
    colours: tuple[Colour, Colour] = ((0.3, 0.45, 0.2), (0.35, 0.45, 0.25))
    rough: float = 0.25
    relief: tuple[str, tuple[float, ...]] = ("flat", ())
    waves: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    base: float = 0.25
    amplitude: float = 0.12
    strips: list[Strip] = field(default_factory=list)
    ridges: list[Ridge] = field(default_factory=list)
    things: list[Thing] = field(default_factory=list)
    water: Colour = (0.12, 0.28, 0.36)
    murk: Colour = (0.36, 0.34, 0.26)
    rise: float = 0.6  # level when flooded, metres
    veil: float = 0.0  # strength of thin high cloud
    shift: tuple[int, int] = (0, 0)  # where in the noise tables
    floods: bool = False  # what flooded=None means here

    # -- the ground ------------------------------------------------------------------------------
    def elevation(self, x: float | np.ndarray, z: float | np.ndarray) -> float | np.ndarray:
        """Height of the ground at (x, z), metres; water lies where it is below the level (0 when
        dry).

        Works on floats and on float32 arrays that broadcast.
        """
        scalar = isinstance(x, float)
        sin = math.sin if scalar else np.sin
        low: Callable = min if scalar else np.minimum
        high: Callable = max if scalar else np.maximum
        a, b, c, d = self.waves
        swell = self.amplitude / (1.0 + (z * (1 / 70.0)) * (z * (1 / 70.0)))
        land = self.base + swell * (
            sin(x * (0.23 + 0.1 * a) + z * 0.11 * b + 6.0 * c)
            + sin(x * 0.13 * d - z * (0.17 + 0.1 * b) + 6.0 * a)
        )
        kind, p = self.relief
        if kind == "river":
            x0, slope, swing, phase, half = p
            middle = x0 + slope * z + swing * (sin(z * 0.035 + phase) - math.sin(phase))
            off = x - middle
            return low(high((abs(off) - half) * 0.3, -1.2), land)
        if kind == "lake":
            cx, cz, rx, rz = p
            ex, ez = (x - cx) * (1 / rx), (z - cz) * (1 / rz)
            r2 = ex * ex + ez * ez + 0.16 * sin(x * (3.5 / rx) + 6 * c) * sin(z * (4 / rz) + 6 * d)
            return low(high((r2 - 1.0) * 3.0, -1.5), land)
        if kind == "sea":
            shore, slope, swing = p
            edge = shore + slope * x + swing * (sin(x * 0.11 + 6 * a) + 0.6 * sin(x * 0.29 + 6 * b))
            return low(high((edge - z) * 0.08, -1.5), land)
        if kind == "quay":
            shore, slope, far = p
            near = (shore + slope * x - z) * 1.5
            return low(high(high(near, (z - far) * 0.2), -1.5), land)
        return land


# -- ridges ----------------------------------------------------------------------------------------
_U = (np.arange(512) + 0.5) / 512.0


@lru_cache(maxsize=4)
def _skyline(kind: str) -> np.ndarray:
    """A long fractal line with values about 0..1, from which skylines are cut, [8192]."""
    knots, gain, octaves, sharp = {
        "rough": (96, 0.58, 6, True),
        "hills": (40, 0.36, 4, False),
        "trees": (150, 0.75, 5, False),
    }[kind]
    draw = Draw("skyline", kind)
    x = np.arange(8192) / 8192.0
    total, weight, norm = np.zeros(8192), 1.0, 0.0
    for _ in range(octaves):
        values = draw.block(knots)
        k = (x * knots).astype(int)
        t = x * knots - k
        if not sharp:
            t = t * t * (3 - 2 * t)
        total += weight * (values[k] * (1 - t) + values[(k + 1) % knots] * t)
        norm += weight
        weight *= gain
        knots *= 2
    total = 0.5 + (total / norm - 0.5) * 1.5
    total.setflags(write=False)
    return total


def _profile(draw: Draw, kind: str, height: float) -> tuple[np.ndarray, np.ndarray | None]:
    """Heights of a skyline above the horizon, in image heights, [512]; of peaks also each
    column's summit.
    """
    if kind == "blocks":
        edges, values, u = [], [], 0.0
        while u < 1.0:
            edges.append(u)
            values.append(height * draw(0.25, 1.0) ** 1.3 * (0.15 if draw.chance(0.12) else 1.0))
            u += draw(0.02, 0.075)
        return np.array(values)[np.searchsorted(np.array(edges), _U, side="right") - 1], None
    at = draw.integer(0, 8192 - 512)
    if kind == "peaks":
        count = draw.integer(3, 5)
        u = [(k + draw(-0.1, 1.1)) / count for k in range(count)]
        tall = np.array([height * draw(0.6, 1.05) for _ in u])
        slope = np.array([draw(0.45, 0.85) for _ in u])
        centre = np.array(u)
        each = tall[:, None] - np.abs(_U - centre[:, None]) * slope[:, None]
        best = each.argmax(0)
        h = np.maximum(each[best, np.arange(512)], 0.18 * height)
        h *= 0.80 + 0.34 * _skyline("rough")[at : at + 512]
        return h, centre[best].astype(np.float32)
    if kind == "pines":
        # Pointed tops, each a steep wedge, in front of a rolling edge.
        count = draw.integer(26, 40)
        u = (np.arange(count) + 0.5 + 0.9 * (draw.block(count) - 0.5)) / count
        tall = height * (0.55 + 0.5 * draw.block(count))
        each = tall[:, None] - np.abs(_U - u[:, None]) * (height * 22.0)
        floor = height * (0.42 + 0.25 * _skyline("trees")[at : at + 512])
        return np.maximum(each.max(0), floor), None
    line = _skyline(kind)[at : at + 512]
    return height * (0.25 + 0.95 * line), None


def _ridge(
    draw: Draw,
    scene: Scene,
    kind: str,
    height: float,
    z: float,
    colour: Colour,
    segment: str,
    peak: Colour | None = None,
    snow: float = 0.55,
    rough: float = 0.0,
    windows: float = 0.0,
) -> None:
    h, centre = _profile(draw, kind, height)
    top = scene.horizon - h
    summed = np.concatenate(([0.0], np.cumsum(top))) / 512.0
    scene.ridges.append(
        Ridge(
            z,
            summed,
            float(top.min()),
            colour,
            segment,
            peak,
            scene.horizon - height * snow,
            rough,
            windows,
            centre,
        )
    )


# -- things ----------------------------------------------------------------------------------------
LEAVES = ((0.20, 0.38, 0.12), (0.27, 0.45, 0.15), (0.16, 0.33, 0.15), (0.38, 0.45, 0.15))
AUTUMN = ((0.72, 0.42, 0.12), (0.62, 0.26, 0.10), (0.70, 0.56, 0.16), (0.30, 0.42, 0.14))
WALLS = (
    (0.88, 0.83, 0.72),
    (0.80, 0.58, 0.42),
    (0.68, 0.30, 0.24),
    (0.92, 0.90, 0.86),
    (0.62, 0.68, 0.72),
    (0.90, 0.76, 0.46),
    (0.55, 0.66, 0.58),
    (0.75, 0.48, 0.40),
)
ROOFS = ((0.58, 0.24, 0.17), (0.36, 0.23, 0.20), (0.30, 0.32, 0.37), (0.66, 0.36, 0.22))
PAINTS = (
    (0.75, 0.10, 0.10),
    (0.90, 0.90, 0.90),
    (0.12, 0.14, 0.18),
    (0.12, 0.28, 0.62),
    (0.92, 0.70, 0.12),
    (0.60, 0.64, 0.68),
    (0.14, 0.42, 0.28),
    (0.90, 0.42, 0.10),
)
CLOTHES = (
    (0.80, 0.16, 0.16),
    (0.16, 0.30, 0.66),
    (0.92, 0.88, 0.80),
    (0.20, 0.46, 0.30),
    (0.90, 0.62, 0.14),
    (0.45, 0.20, 0.48),
    (0.16, 0.16, 0.20),
)
SKINS = ((0.94, 0.76, 0.62), (0.78, 0.57, 0.42), (0.52, 0.35, 0.25), (0.36, 0.24, 0.18))


class Planner:
    """Adds things to a scene, and keeps those that can be seen."""

    def __init__(self, draw: Draw, scene: Scene) -> None:
        self.draw = draw
        self.scene = scene

    def x_at(self, u: float, z: float) -> float:
        return (u - self.scene.axis) * z

    def add(self, thing: Thing, on_water: bool = False) -> None:
        s = self.scene
        if not (thing.floats or on_water):
            thing.foot = s.elevation(float(thing.x), float(thing.z))
        u0 = s.axis + (thing.x - thing.w / 2) / thing.z
        u1 = s.axis + (thing.x + thing.w / 2) / thing.z
        v0 = s.horizon + (s.camera - thing.foot - thing.h) / thing.z
        v1 = s.horizon + (s.camera - thing.foot) / thing.z
        if thing.z_end:
            a, b = thing.x - thing.w / 2, thing.x + thing.w / 2
            u0 = min(u0, s.axis + a / thing.z_end)
            u1 = max(u1, s.axis + b / thing.z_end)
            v0 = min(v0, s.horizon + (s.camera - thing.foot - thing.h) / thing.z_end)
        self._keep(thing, u0, v0, u1, v1)

    def add_sky(self, thing: Thing) -> None:
        v1 = thing.foot
        self._keep(thing, thing.x - thing.w / 2, v1 - thing.h, thing.x + thing.w / 2, v1)

    def _keep(self, thing: Thing, u0: float, v0: float, u1: float, v1: float) -> None:
        c0, d0, c1, d1 = max(u0, 0.0), max(v0, 0.0), min(u1, 1.0), min(v1, 1.0)
        if c1 - c0 < 0.012 or d1 - d0 < 0.012:
            return
        seen = (c1 - c0) * (d1 - d0) / ((u1 - u0) * (v1 - v0))
        if seen < (0.04 if thing.wall else 0.4):
            return
        thing.box = (c0, d0, c1, d1)
        self.scene.things.append(thing)

    # Each of these places one object; sizes in metres.
    def house(self, x: float, z: float, size: float = 1.0) -> None:
        d = self.draw
        w, h = d(7.0, 11.0) * size, d(2.9, 5.2) * size
        depth = d(6.0, 9.0) * size
        roof = d(1.8, 3.2) * size
        colour, accent = d.colour(d.pick(WALLS)), d.colour(d.pick(ROOFS))
        parts = (roof, d(0.2, 0.75), d(), d.integer(0, 999))
        self.add(Thing("house", x, z, w, h + roof, 0.0, colour, accent, z + depth, 0, parts))

    def building(self, x: float, z: float, w: float, h: float, end: float, wall: bool) -> None:
        d = self.draw
        tone = d.pick(WALLS if not self.scene.mood.dark else WALLS[:6])
        colour = d.colour(mix(tone, (0.5, 0.5, 0.55), d(0.1, 0.6)))
        glass = d.colour((0.22, 0.28, 0.36), 0.04)
        parts = (
            d(2.2, 3.4),
            d(2.9, 3.6),
            d(0.45, 0.75),
            d(0.45, 0.7),
            d.integer(0, 999),
            d(0.2, 0.6),
        )
        self.add(
            Thing(
                "building", x, z, w, h, 0.0, colour, glass, end, d.integer(0, 2), parts, False, wall
            )
        )

    def tree(self, x: float, z: float, height: float, tones: Sequence[Colour] = LEAVES) -> None:
        d = self.draw
        w = height * d(0.55, 0.9)
        blobs = [(0.0, 0.66, 0.33, 0.26)]
        for k in range(6):
            angle = (k + d()) * math.pi / 3
            r = d(0.14, 0.22)
            blobs.append(
                (
                    math.cos(angle) * d(0.18, 0.30),
                    0.66 + math.sin(angle) * d(0.10, 0.16),
                    r,
                    r * d(0.7, 0.9),
                )
            )
        blobs = [(bx * w, by * height, a * w, b * height) for bx, by, a, b in blobs]
        self.add(
            Thing(
                "tree",
                x,
                z,
                w,
                height,
                0.0,
                d.colour(d.pick(tones), 0.07),
                d.colour((0.30, 0.21, 0.14), 0.04),
                0.0,
                0,
                tuple(blobs),
            )
        )

    def conifer(self, x: float, z: float, height: float, snow: bool = False) -> None:
        d = self.draw
        colour = d.colour(
            ((0.10, 0.25, 0.14), (0.14, 0.30, 0.18), (0.08, 0.22, 0.17))[d.integer(0, 2)]
        )
        self.add(
            Thing(
                "conifer",
                x,
                z,
                height * d(0.36, 0.52),
                height,
                0.0,
                colour,
                (0.26, 0.18, 0.12),
                0.0,
                int(snow),
                (d.integer(4, 7),),
            )
        )

    def palm(self, x: float, z: float, height: float) -> None:
        d = self.draw
        lean = d(-0.22, 0.22) * height
        fronds = []
        for k in range(8):
            side = 1.0 if k % 2 else -1.0
            fronds.append(
                (
                    side,
                    (0.1, 0.75, 1.5, 2.6)[k // 2] * d(0.75, 1.25),
                    (0.75, 1.15, 1.65, 2.4)[k // 2] * d(0.9, 1.1),
                    (0.26, 0.38, 0.38, 0.24)[k // 2] * d(0.85, 1.15) * height,
                )
            )
        self.add(
            Thing(
                "palm",
                x,
                z,
                height * 1.1,
                height,
                0.0,
                d.colour((0.20, 0.42, 0.14)),
                d.colour((0.46, 0.35, 0.22)),
                0.0,
                0,
                (lean, tuple(fronds)),
            )
        )

    def cactus(self, x: float, z: float, height: float) -> None:
        d = self.draw
        arms = ((-1.0, d(0.35, 0.5), d(0.66, 0.85)), (1.0, d(0.3, 0.55), d(0.7, 0.95)))
        self.add(
            Thing(
                "cactus",
                x,
                z,
                height * 0.62,
                height,
                0.0,
                d.colour((0.25, 0.45, 0.22)),
                (0, 0, 0),
                0.0,
                0,
                arms,
            )
        )

    def bush(self, x: float, z: float, height: float, tones: Sequence[Colour] = LEAVES) -> None:
        d = self.draw
        w = height * d(1.3, 2.0)
        blobs = tuple(
            (w * (-0.28 + 0.28 * k), height * d(0.36, 0.5), w * d(0.2, 0.26), height * d(0.4, 0.5))
            for k in range(3)
        )
        self.add(
            Thing("bush", x, z, w, height, 0.0, d.colour(d.pick(tones)), (0, 0, 0), 0.0, 0, blobs)
        )

    def rock(self, x: float, z: float, height: float, tone: Colour = (0.46, 0.44, 0.42)) -> None:
        d = self.draw
        w = height * d(1.3, 2.2)
        corners = tuple(sorted((d(0.08, 0.92), d(0.55, 1.0)) for _ in range(4)))
        corners = ((0.0, 0.0), *corners, (1.0, 0.0))
        self.add(Thing("rock", x, z, w, height, 0.0, d.colour(tone), (0, 0, 0), 0.0, 0, corners))

    def car(self, x: float, z: float, rear: bool) -> None:
        d = self.draw
        colour = d.colour(d.pick(PAINTS), 0.03)
        w, h = (d(1.75, 1.95), d(1.4, 1.7)) if rear else (d(3.9, 4.6), d(1.4, 1.6))
        variant = (2 if x < 0 else 1) if rear else 0
        self.add(
            Thing("car", x, z, w, h, 0.0, colour, (0.15, 0.19, 0.23), 0.0, variant, (d(0.45, 0.6),))
        )

    def person(self, x: float, z: float) -> None:
        d = self.draw
        shirt, trousers = d.colour(d.pick(CLOTHES)), d.colour(d.pick(CLOTHES[1:]))
        skin, hair = (
            d.pick(SKINS),
            d.colour(d.pick(((0.1, 0.08, 0.07), (0.4, 0.26, 0.14), (0.7, 0.58, 0.34)))),
        )
        height = d(1.55, 1.9)
        self.add(
            Thing(
                "person",
                x,
                z,
                height * 0.36,
                height,
                0.0,
                shirt,
                trousers,
                0.0,
                d.integer(0, 1),
                (skin, hair, d(0.04, 0.10)),
            )
        )

    def boat(self, x: float, z: float, length: float, sails: bool) -> None:
        d = self.draw
        h = length * (d(1.15, 1.45) if sails else d(0.42, 0.55))
        sail = d.pick(
            ((0.97, 0.95, 0.90), (0.97, 0.95, 0.90), (0.86, 0.32, 0.20), (0.95, 0.80, 0.50))
        )
        self.add(
            Thing(
                "boat",
                x,
                z,
                length,
                h,
                0.0,
                d.colour(d.pick(PAINTS)),
                d.colour(sail, 0.03),
                0.0,
                int(sails),
                (1.0 if d.chance(0.5) else -1.0,),
                True,
            )
        )

    def lamp(self, x: float, z: float, height: float) -> None:
        side = -1.0 if x > 0 else 1.0
        self.add(
            Thing(
                "lamp",
                x + side * 0.56,
                z,
                1.4,
                height,
                0.0,
                (0.26, 0.28, 0.30),
                (1.0, 0.93, 0.72),
                0.0,
                0,
                (side,),
            )
        )

    def parasol(self, x: float, z: float) -> None:
        d = self.draw
        self.add(
            Thing(
                "parasol",
                x,
                z,
                d(2.2, 2.9),
                d(2.1, 2.6),
                0.0,
                d.colour(d.pick(PAINTS)),
                (0.96, 0.94, 0.88),
                0.0,
                0,
                (),
            )
        )

    def lighthouse(self, x: float, z: float, height: float) -> None:
        band = self.draw.pick(((0.78, 0.14, 0.12), (0.14, 0.22, 0.46), (0.14, 0.14, 0.16)))
        self.add(
            Thing("lighthouse", x, z, height * 0.34, height, 0.0, (0.95, 0.94, 0.90), band), True
        )

    def haystack(self, x: float, z: float) -> None:
        d = self.draw
        r = d(0.75, 1.05)
        self.add(
            Thing(
                "haystack",
                x,
                z,
                2 * r,
                2 * r * 0.97,
                0.0,
                d.colour((0.80, 0.64, 0.30)),
                (0.6, 0.45, 0.2),
            )
        )

    def snowman(self, x: float, z: float) -> None:
        d = self.draw
        h = d(1.5, 2.1)
        self.add(
            Thing("snowman", x, z, h * 0.56, h, 0.0, (0.95, 0.96, 0.99), d.colour(d.pick(PAINTS)))
        )

    def cloud(self, top: float, low: float) -> None:
        d = self.draw
        w = d(0.16, 0.42)
        h = w * d(0.26, 0.42)
        count = d.integer(5, 7)
        blobs = []
        for k in range(count):
            t = (k + 0.5) / count * 2 - 1 + d(-0.1, 0.1)
            r = (1 - t * t * 0.75) * d(0.34, 0.52)
            blobs.append((t * 0.5 * w * 0.78, r * h * 0.55, w * d(0.11, 0.17), r * h * 1.12 * 0.8))
        self.add_sky(
            Thing(
                "cloud",
                d(0.02, 0.98),
                1500.0,
                w,
                h,
                d(top, low),
                (0, 0, 0),
                (0, 0, 0),
                0.0,
                0,
                tuple(blobs),
            )
        )

    def free(self, keep: float = 0.35) -> None:
        """Drop the things that nearer ones hide, and put the rest in painting order (far to
        near).
        """
        things = sorted(self.scene.things, key=lambda t: (t.kind not in IN_SKY, not t.wall, -t.z))
        kept: list[Thing] = []
        for thing in reversed(things):
            if not thing.wall:
                a0, b0, a1, b1 = thing.box
                hidden = 0.0
                for other in kept:
                    c0, d0, c1, d1 = other.box
                    if c0 < a1 and a0 < c1 and d0 < b1 and b0 < d1:
                        hidden += (min(a1, c1) - max(a0, c0)) * (min(b1, d1) - max(b0, d0))
                if hidden > (1 - keep) * (a1 - a0) * (b1 - b0):
                    continue
            kept.append(thing)
        self.scene.things = kept[::-1]


# -- the ten classes -------------------------------------------------------------------------------
def _street(d: Draw, s: Scene, p: Planner, night: bool = False) -> None:
    s.horizon, s.camera = d(0.44, 0.56), d(2.4, 4.2)
    s.ground, s.colours = "pavement", (d.colour((0.56, 0.54, 0.52)), d.colour((0.50, 0.49, 0.48)))
    s.rough, s.base, s.amplitude = 0.10, 0.22, 0.07
    half, walk = d(3.0, 4.4), d(2.2, 3.4)
    bend = d(-0.03, 0.03)
    asphalt = d.colour((0.27, 0.27, 0.29), 0.03)
    s.strips.append(Strip("road", asphalt, half, (0.0, bend, 0.0, 0.0)))
    for side in (-1, 1):
        s.strips.append(Strip("road", (0.74, 0.73, 0.70), 0.09, (side * (half - 0.3), bend, 0, 0)))
    s.strips.append(Strip("road", (0.90, 0.88, 0.80), 0.09, (0.0, bend, 0.0, 0.0), dash=5.0))
    if d.chance(0.4):
        near = d(8.0, 16.0)
        for k in range(6):
            x = -half + (k + 0.5) * half / 3
            s.strips.append(
                Strip("road", (0.88, 0.87, 0.84), half / 12, (x, bend, 0, 0), near, near + 3.0)
            )
    _ridge(
        d,
        s,
        "blocks",
        d(0.10, 0.20),
        420.0,
        d.colour((0.46, 0.48, 0.54)),
        "building",
        windows=0.5 if night else 0.15,
    )
    wall = half + walk
    for side in (-1.0, 1.0):
        z = d(9.0, 13.0)
        for _ in range(d.integer(4, 5)):
            end = z * d(1.28, 1.5)
            w = d(8.0, 14.0)
            h = d(14.0, 44.0) if night else d(6.5, 16.0)
            if not d.chance(0.08):
                p.building(
                    side * (wall + d(0.0, 0.7) + w / 2),
                    z,
                    w,
                    h,
                    end - (0.4 if d.chance(0.3) else 0.0),
                    True,
                )
            z = end
            if z > 75:
                break
    for side in (-1.0, 1.0):
        z = d(9.0, 15.0)
        greens = not night and d.chance(0.5)
        while z < 60:
            if greens and d.chance(0.6):
                p.tree(side * (half + 1.0), z, d(4.5, 6.5))
            else:
                p.lamp(side * (half + 0.6), z, d(5.5, 6.5))
            z *= d(1.6, 2.0)
    for side in (-1.0, 1.0):
        z = d(7.0, 14.0)
        for _ in range(d.integer(1, 3)):
            p.car(side * half * d(0.42, 0.62) + bend * z, z, True)
            z *= d(1.5, 2.1)
    for _ in range(d.integer(2, 5)):
        p.person(d.pick((-1.0, 1.0)) * (half + d(0.7, walk - 0.4)), d(6.5, 24.0))


def _countryside(d: Draw, s: Scene, p: Planner) -> None:
    s.horizon, s.camera = d(0.40, 0.54), d(3.0, 6.0)
    s.colours = (d.colour((0.32, 0.46, 0.16), 0.06), d.colour((0.45, 0.52, 0.22), 0.06))
    far = d.colour((0.30, 0.40, 0.26))
    _ridge(
        d, s, "hills", d(0.07, 0.15), 700.0, mix(far, (0.4, 0.5, 0.6), 0.4), "mountain", rough=0.3
    )
    _ridge(d, s, "hills", d(0.03, 0.07), 380.0, far, "mountain", rough=0.5)
    _ridge(
        d, s, "trees", d(0.02, 0.04), 240.0, d.colour((0.15, 0.28, 0.12)), "vegetation", rough=0.8
    )
    tones = (
        (0.78, 0.66, 0.28),
        (0.46, 0.33, 0.20),
        (0.60, 0.62, 0.20),
        (0.36, 0.50, 0.16),
        (0.72, 0.55, 0.50),
    )
    for _ in range(d.integer(2, 4)):
        z, x = d(14.0, 60.0), d.pick((-1.0, 1.0)) * d(14.0, 40.0)
        s.strips.append(
            Strip(
                "soil",
                d.colour(d.pick(tones)),
                d(7.0, 22.0),
                (x, d(-0.2, 0.2), 0.0, 0.0),
                z,
                z * d(1.6, 2.6),
                furrow=d(1.2, 2.4),
            )
        )
    wet = d.chance(0.4)
    if wet:
        s.relief = (
            "river",
            (d.pick((-1, 1)) * d(2.0, 7.0), d(-0.25, 0.25), d(3.0, 9.0), d(0, 6.0), d(1.6, 3.2)),
        )
    else:
        s.strips.append(
            Strip(
                "road",
                d.colour((0.62, 0.54, 0.42)),
                d(1.2, 2.0),
                (d(-3.0, 3.0), d(-0.2, 0.2), d(2.0, 8.0), d(0, 6.0)),
            )
        )
    autumn = d.chance(0.3)
    for _ in range(d.integer(1, 3)):
        z = d(20.0, 50.0)
        x = p.x_at(d(0.05, 0.95), z)
        if not wet or s.elevation(x, z) > 0.1:
            p.house(x, z, d(0.9, 1.15))
    for _ in range(d.integer(4, 8)):
        z = 14.0 * math.exp(d(0.0, 1.7))
        x = p.x_at(d(0.0, 1.0), z)
        if not wet or s.elevation(x, z) > 0.05:
            p.tree(x, z, d(4.5, 8.5), AUTUMN if autumn else LEAVES)
    for _ in range(d.integer(0, 4)):
        z = d(9.0, 30.0)
        x = p.x_at(d(0.05, 0.95), z)
        if not wet or s.elevation(x, z) > 0.05:
            (p.haystack if d.chance(0.6) else p.person)(x, z)
    for _ in range(d.integer(1, 3)):
        z = d(9.0, 22.0)
        x = p.x_at(d(0.0, 1.0), z)
        if not wet or s.elevation(x, z) > 0.05:
            p.bush(x, z, d(0.9, 1.6))


def _harbour(d: Draw, s: Scene, p: Planner) -> None:
    s.horizon, s.camera = d(0.36, 0.48), d(4.5, 7.0)
    s.ground, s.colours = "pavement", (d.colour((0.60, 0.56, 0.50)), d.colour((0.52, 0.50, 0.48)))
    s.rough, s.base, s.amplitude = 0.12, 0.5, 0.06
    s.water = d.colour((0.08, 0.26, 0.34), 0.05)
    shore, far = d(8.6, 11.5), d(85.0, 130.0)
    s.relief = ("quay", (shore, d(-0.35, 0.35), far))
    s.rise = d(0.6, 1.0)
    _ridge(d, s, "hills", d(0.08, 0.17), 600.0, d.colour((0.30, 0.40, 0.34)), "mountain", rough=0.4)
    u = d(-0.05, 0.05)
    while u < 1.0:
        z = far + d(8.0, 22.0)
        p.house(p.x_at(u, z), z, d(1.1, 1.7))
        u += d(0.08, 0.16)
    if d.chance(0.45):
        z = d(60.0, 80.0)
        p.lighthouse(p.x_at(d(0.1, 0.9), z), z, d(15.0, 22.0))
    for _ in range(d.integer(4, 7)):
        z = 15.0 * math.exp(d(0.0, 1.45))
        x = p.x_at(d(0.04, 0.96), z)
        if s.elevation(x, z) < -0.5:
            p.boat(x, z, d(4.0, 7.5), d.chance(0.6))
    for _ in range(d.integer(1, 4)):
        z = d(s.camera / (1 - s.horizon) * 0.95, 9.5)
        x = p.x_at(d(0.06, 0.94), z)
        if s.elevation(x, z) > 0.3:
            if d.chance(0.75):
                p.person(x, z)
            else:
                p.lamp(x, z, 5.0)


def _mountain_lake(d: Draw, s: Scene, p: Planner) -> None:
    s.horizon, s.camera = d(0.44, 0.56), d(3.0, 5.5)
    s.colours = (d.colour((0.34, 0.42, 0.18)), d.colour((0.38, 0.44, 0.24)))
    s.water = d.colour((0.07, 0.27, 0.33), 0.05)
    rock = d.colour(((0.40, 0.41, 0.47), (0.47, 0.42, 0.40), (0.34, 0.39, 0.44))[d.integer(0, 2)])
    snow = d.chance(0.75)
    _ridge(
        d,
        s,
        "peaks",
        d(0.26, 0.40),
        1100.0,
        rock,
        "mountain",
        (0.94, 0.96, 1.0) if snow else None,
        d(0.45, 0.65),
        rough=1.0,
    )
    _ridge(
        d,
        s,
        "peaks",
        d(0.10, 0.20),
        650.0,
        mix(rock, (0.20, 0.30, 0.20), 0.6),
        "mountain",
        rough=0.8,
    )
    _ridge(
        d, s, "trees", d(0.03, 0.06), 280.0, d.colour((0.10, 0.22, 0.14)), "vegetation", rough=0.8
    )
    s.relief = ("lake", (d(-12.0, 12.0), d(60.0, 90.0), d(45.0, 80.0), d(38.0, 62.0)))
    s.base, s.amplitude = 0.35, 0.14
    for _ in range(d.integer(6, 11)):
        z = 9.0 * math.exp(d(0.0, 2.2))
        x = p.x_at(d.pick((d(0.0, 0.3), d(0.7, 1.0), d(0.0, 1.0))), z)
        if s.elevation(x, z) > 0.1:
            p.conifer(x, z, d(4.0, 9.0))
    for _ in range(d.integer(1, 4)):
        z = d(8.0, 24.0)
        x = p.x_at(d(0.0, 1.0), z)
        p.rock(x, z, d(0.7, 1.8))
    if d.chance(0.5):
        z = d(30.0, 60.0)
        x = p.x_at(d(0.2, 0.8), z)
        if s.elevation(x, z) < -0.6:
            p.boat(x, z, d(4.0, 6.0), d.chance(0.7))
    if d.chance(0.35):
        z = d(18.0, 40.0)
        x = p.x_at(d.pick((d(0.05, 0.3), d(0.7, 0.95))), z)
        if s.elevation(x, z) > 0.2:
            p.house(x, z, 0.8)
    if d.chance(0.5):
        z = d(7.0, 12.0)
        p.person(p.x_at(d(0.1, 0.9), z), z)


def _desert(d: Draw, s: Scene, p: Planner) -> None:
    s.horizon, s.camera = d(0.42, 0.56), d(2.6, 4.5)
    s.ground = "sand"
    s.colours = (d.colour((0.80, 0.58, 0.34)), d.colour((0.88, 0.68, 0.44)))
    s.rough, s.base, s.amplitude = 0.22, 0.35, 0.16
    red = d.colour((0.64, 0.36, 0.24), 0.07)
    if d.chance(0.5):
        _ridge(
            d,
            s,
            "blocks",
            d(0.10, 0.19),
            900.0,
            mix(red, (0.6, 0.5, 0.6), 0.25),
            "mountain",
            rough=0.6,
        )
        s.ridges[-1] = _softened(s.ridges[-1])
    _ridge(
        d,
        s,
        "peaks" if d.chance(0.5) else "hills",
        d(0.06, 0.16),
        600.0,
        red,
        "mountain",
        rough=0.9,
    )
    _ridge(d, s, "hills", d(0.03, 0.07), 260.0, d.colour((0.84, 0.62, 0.38)), "sand", rough=0.3)
    if d.chance(0.5):
        s.strips.append(
            Strip("road", d.colour((0.32, 0.30, 0.30)), 3.2, (0.0, d(-0.25, 0.25), 0.0, 0.0))
        )
        line = s.strips[-1].centre
        s.strips.append(Strip("road", (0.92, 0.78, 0.30), 0.1, line, dash=7.0))
        if d.chance(0.6):
            z = d(12.0, 30.0)
            p.car(s.strips[0].middle(z) + 1.6, z, True)
    for _ in range(d.integer(3, 7)):
        z = 8.0 * math.exp(d(0.0, 1.7))
        p.cactus(p.x_at(d(0.0, 1.0), z), z, d(2.2, 4.6))
    for _ in range(d.integer(2, 5)):
        z = 8.0 * math.exp(d(0.0, 1.4))
        p.rock(p.x_at(d(0.0, 1.0), z), z, d(0.6, 2.0), (0.62, 0.40, 0.28))
    for _ in range(d.integer(1, 4)):
        z = d(7.0, 20.0)
        p.bush(p.x_at(d(0.0, 1.0), z), z, d(0.5, 0.9), ((0.46, 0.46, 0.26), (0.56, 0.48, 0.26)))


def _softened(ridge: Ridge) -> Ridge:
    """A skyline of blocks with sloping sides: mesas."""
    top = np.diff(ridge.top) * 512.0
    kernel = np.ones(14) / 14
    top = np.convolve(np.pad(top, (7, 6), "edge"), kernel, "valid")
    ridge.top = np.concatenate(([0.0], np.cumsum(top))) / 512.0
    return ridge


def _forest(d: Draw, s: Scene, p: Planner) -> None:
    s.horizon, s.camera = d(0.46, 0.60), d(2.2, 3.6)
    s.colours = (d.colour((0.28, 0.36, 0.14)), d.colour((0.26, 0.34, 0.15)))
    s.rough = 0.4
    autumn = d.chance(0.35)
    tones = AUTUMN if autumn else LEAVES
    dark = d.colour((0.52, 0.34, 0.13) if autumn else (0.12, 0.22, 0.11))
    kinds = ("trees", "pines") if not autumn and d.chance(0.6) else ("hills", "trees")
    _ridge(
        d,
        s,
        kinds[1] if kinds[0] == "trees" else "hills",
        d(0.20, 0.30),
        160.0,
        mix(dark, (0.35, 0.45, 0.45), 0.35),
        "vegetation",
        rough=1.0,
    )
    _ridge(d, s, kinds[1], d(0.10, 0.17), 90.0, dark, "vegetation", rough=1.0)
    if d.chance(0.65):
        s.strips.append(
            Strip(
                "soil",
                d.colour((0.42, 0.32, 0.20)),
                d(0.8, 1.5),
                (d(-1.5, 1.5), d(-0.1, 0.1), d(1.0, 4.0), d(0, 6.0)),
            )
        )
    elif d.chance(0.6):
        s.relief = ("river", (d(-2.0, 2.0), d(-0.1, 0.1), d(2.0, 5.0), d(0, 6.0), d(0.8, 1.5)))
    pine = d.chance(0.35)
    for _ in range(d.integer(24, 32)):
        z = 13.0 * math.exp(d(0.0, 1.5))
        # Sparser around the path.
        u = d.pick((d(-0.02, 0.36), d(0.64, 1.02), d(-0.02, 0.36), d(0.64, 1.02), d(0.0, 1.0)))
        x = p.x_at(u, z)
        if s.elevation(x, z) < 0.05 or any(
            abs(t.x - x) < 1.2 and abs(t.z - z) < 2.0 for t in s.things
        ):
            continue
        if d.chance(0.75 if pine else 0.3):
            p.conifer(x, z, d(6.5, 11.5))
        else:
            p.tree(x, z, d(6.0, 10.0), tones)
    for _ in range(d.integer(2, 5)):
        z = d(5.5, 18.0)
        x = p.x_at(d(0.0, 1.0), z)
        if s.elevation(x, z) > 0.05:
            if d.chance(0.6):
                p.bush(x, z, d(0.6, 1.2), tones)
            else:
                p.rock(x, z, d(0.5, 1.1), (0.36, 0.37, 0.33))
    if d.chance(0.5):
        z = d(7.0, 16.0)
        p.person(p.x_at(d(0.35, 0.65), z), z)


def _suburb(d: Draw, s: Scene, p: Planner) -> None:
    s.horizon, s.camera = d(0.40, 0.52), d(3.2, 5.5)
    s.colours = (d.colour((0.33, 0.48, 0.20)), d.colour((0.38, 0.50, 0.24)))
    s.rough = 0.22
    half, bend = d(2.6, 3.4), d(-0.14, 0.14)
    s.strips.append(
        Strip("pavement", d.colour((0.64, 0.62, 0.58)), half + 1.5, (0.0, bend, 0.0, 0.0))
    )
    s.strips.append(Strip("road", d.colour((0.32, 0.32, 0.34), 0.03), half, (0.0, bend, 0.0, 0.0)))
    s.strips.append(Strip("road", (0.86, 0.84, 0.78), 0.08, (0.0, bend, 0.0, 0.0), dash=6.0))
    if d.chance(0.6):
        _ridge(
            d, s, "hills", d(0.06, 0.14), 600.0, d.colour((0.32, 0.42, 0.34)), "mountain", rough=0.4
        )
    _ridge(
        d, s, "trees", d(0.04, 0.08), 170.0, d.colour((0.18, 0.30, 0.14)), "vegetation", rough=0.9
    )
    for side in (-1.0, 1.0):
        z = d(13.0, 19.0)
        while z < 100:
            x = bend * z + side * (half + d(8.5, 10.5))
            p.house(x, z, d(0.8, 1.0))
            s.strips.insert(
                0,
                Strip(
                    "pavement",
                    (0.60, 0.57, 0.54),
                    4.0,
                    (bend * z + side * (half + 3), 0, 0, 0),
                    z - 4.5,
                    z - 2.5,
                ),
            )
            z *= d(1.4, 1.75)
    autumn = d.chance(0.3)
    for side in (-1.0, 1.0):
        z = d(10.0, 18.0)
        for _ in range(d.integer(1, 3)):
            x = bend * z + side * (half + d(2.2, 3.6))
            if d.chance(0.6):
                p.tree(x, z, d(3.5, 6.0), AUTUMN if autumn else LEAVES)
            else:
                p.bush(x, z, d(0.9, 1.4))
            z *= d(1.5, 2.2)
        if d.chance(0.7):
            z = d(9.0, 24.0)
            p.car(bend * z + side * half * 0.55, z, True)
    if d.chance(0.6):
        z = d(8.0, 14.0)
        p.lamp(bend * z + (half + 1.0), z, 5.0)
    for _ in range(d.integer(0, 3)):
        z = d(8.0, 20.0)
        p.person(bend * z + d.pick((-1.0, 1.0)) * (half + 0.8), z)


def _night_city(d: Draw, s: Scene, p: Planner) -> None:
    if d.chance(0.5):
        _street(d, s, p, night=True)
        return
    s.horizon, s.camera = d(0.50, 0.62), d(4.0, 7.0)
    s.ground, s.colours = "pavement", (d.colour((0.40, 0.40, 0.44)), d.colour((0.36, 0.37, 0.42)))
    s.rough, s.base, s.amplitude = 0.1, 0.4, 0.05
    s.water = d.colour((0.03, 0.07, 0.14), 0.02)
    far = d(60.0, 85.0)
    s.relief = ("quay", (d(9.0, 13.0), d(-0.2, 0.2), far))
    _ridge(d, s, "blocks", d(0.20, 0.34), 600.0, (0.16, 0.18, 0.28), "building", windows=0.6)
    u = d(-0.04, 0.03)
    while u < 0.97:
        z = far + d(3.0, 20.0)
        w = d(9.0, 16.0)
        p.building(
            p.x_at(u, z) + w / 2,
            z,
            w,
            d(9.0, 30.0) * (1.3 if d.chance(0.2) else 1.0),
            z + 12.0,
            False,
        )
        u += w / z + d(-0.01, 0.05)
    for _ in range(d.integer(0, 3)):
        z = d(22.0, 45.0)
        x = p.x_at(d(0.1, 0.9), z)
        if s.elevation(x, z) < -0.5:
            p.boat(x, z, d(5.0, 8.0), d.chance(0.5))
    z = s.camera / (1 - s.horizon) * d(0.85, 0.95)
    for u in (d(0.06, 0.2), d(0.75, 0.94)):
        x = p.x_at(u, z)
        if s.elevation(x, z) > 0.3:
            p.lamp(x, z, d(5.0, 6.0))
    for _ in range(d.integer(0, 3)):
        x = p.x_at(d(0.1, 0.9), z)
        if s.elevation(x, z) > 0.3:
            p.person(x, z)


def _beach(d: Draw, s: Scene, p: Planner) -> None:
    s.horizon, s.camera = d(0.36, 0.48), d(3.0, 5.0)
    s.ground, s.colours = "sand", (d.colour((0.90, 0.80, 0.60)), d.colour((0.86, 0.76, 0.56)))
    s.rough, s.base, s.amplitude = 0.16, 0.45, 0.10
    s.water = d.colour(
        ((0.06, 0.42, 0.52), (0.08, 0.34, 0.48), (0.10, 0.48, 0.50))[d.integer(0, 2)]
    )
    s.relief = ("sea", (d(14.0, 26.0), d(-0.9, 0.9), d(0.4, 1.2)))
    s.rise = d(0.4, 0.75)
    if d.chance(0.6):
        _ridge(
            d, s, "hills", d(0.03, 0.10), 900.0, d.colour((0.30, 0.42, 0.36)), "mountain", rough=0.6
        )
        ridge = s.ridges[-1]
        tops = np.diff(ridge.top) * 512 + (_U if d.chance(0.5) else 1 - _U) * d(0.06, 0.16)
        ridge.top = np.concatenate(([0.0], np.cumsum(np.minimum(tops, s.horizon + 0.02)))) / 512.0
    for _ in range(d.integer(1, 5)):
        z = d(8.0, 24.0)
        x = p.x_at(d.pick((d(0.0, 0.3), d(0.7, 1.0))), z)
        if s.elevation(x, z) > 0.25:
            p.palm(x, z, d(4.5, 7.5))
    for _ in range(d.integer(1, 4)):
        z = d(7.5, 16.0)
        x = p.x_at(d(0.05, 0.95), z)
        if s.elevation(x, z) > 0.2:
            p.parasol(x, z)
    for _ in range(d.integer(2, 6)):
        z = d(7.0, 20.0)
        x = p.x_at(d(0.05, 0.95), z)
        if s.elevation(x, z) > -0.05:
            p.person(x, z)
    for _ in range(d.integer(1, 4)):
        z = d(40.0, 120.0)
        x = p.x_at(d(0.05, 0.95), z)
        if s.elevation(x, z) < -0.8:
            p.boat(x, z, d(5.0, 9.0), d.chance(0.75))
    if d.chance(0.3):
        z = d(9.0, 18.0)
        p.rock(p.x_at(d(0.0, 1.0), z), z, d(0.6, 1.4))


def _winter(d: Draw, s: Scene, p: Planner) -> None:
    s.horizon, s.camera = d(0.42, 0.55), d(2.8, 5.0)
    s.ground, s.colours = (
        "snow",
        (d.colour((0.92, 0.94, 0.98), 0.02), d.colour((0.88, 0.92, 0.97), 0.02)),
    )
    s.rough, s.base, s.amplitude = 0.10, 0.4, 0.18
    _ridge(
        d,
        s,
        "peaks",
        d(0.14, 0.30),
        1000.0,
        d.colour((0.50, 0.55, 0.64)),
        "mountain",
        (0.96, 0.97, 1.0),
        d(0.2, 0.4),
        rough=1.0,
    )
    _ridge(
        d, s, "trees", d(0.03, 0.08), 230.0, d.colour((0.36, 0.44, 0.46)), "vegetation", rough=0.8
    )
    wet = d.chance(0.35)
    if wet:
        s.relief = (
            "river",
            (d.pick((-1, 1)) * d(1.0, 5.0), d(-0.2, 0.2), d(3.0, 8.0), d(0, 6.0), d(1.2, 2.4)),
        )
    else:
        s.strips.append(
            Strip(
                "road",
                d.colour((0.66, 0.66, 0.68)),
                d(1.4, 2.2),
                (d(-2.0, 2.0), d(-0.1, 0.1), d(1.0, 6.0), d(0, 6.0)),
            )
        )
    for _ in range(d.integer(1, 3)):
        z = d(16.0, 40.0)
        x = p.x_at(d(0.08, 0.92), z)
        if s.elevation(x, z) > 0.15:
            p.house(x, z, d(0.85, 1.05))
            if s.things and s.things[-1].kind == "house":
                s.things[-1].accent = d.colour((0.93, 0.95, 0.99), 0.02)
    for _ in range(d.integer(5, 10)):
        z = 9.0 * math.exp(d(0.0, 1.9))
        x = p.x_at(d(0.0, 1.0), z)
        if s.elevation(x, z) > 0.1:
            p.conifer(x, z, d(3.5, 8.0), True)
    for _ in range(d.integer(0, 3)):
        z = d(7.0, 16.0)
        x = p.x_at(d(0.08, 0.92), z)
        if s.elevation(x, z) > 0.1:
            (p.snowman if d.chance(0.6) else p.person)(x, z)
    if not wet and d.chance(0.4):
        z = d(12.0, 24.0)
        p.car(s.strips[0].middle(z), z, True)


_BUILD = (
    _street,
    _countryside,
    _harbour,
    _mountain_lake,
    _desert,
    _forest,
    _suburb,
    _night_city,
    _beach,
    _winter,
)
_HOURS = {
    "street": ("day", "clear", "golden", "overcast", "overcast", "dusk", "dawn"),
    "countryside": ("day", "clear", "clear", "golden", "golden", "overcast", "dawn"),
    "harbour": ("day", "clear", "golden", "dawn", "overcast", "dusk"),
    "mountain_lake": ("day", "clear", "clear", "golden", "dawn", "dusk"),
    "desert": ("clear", "clear", "day", "golden", "golden", "dusk"),
    "forest": ("day", "overcast", "golden", "dawn", "clear"),
    "suburb": ("day", "clear", "golden", "overcast", "dusk"),
    "night_city": ("night",),
    "beach": ("clear", "clear", "day", "golden", "dusk", "dawn"),
    "winter": ("day", "clear", "overcast", "dawn", "golden", "dusk"),
}  # fmt: skip


def label_of(seed: int, split: str, index: int) -> int:
    """The class of a scene without planning it. Classes are drawn, not dealt in turn."""
    digest = hashlib.blake2b(f"{seed}/{split}/{index}/label".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % len(CLASSES)


def plan(seed: int, split: str, index: int) -> Scene:
    """The scene of (seed, split, index): the same on every machine, in any order."""
    label = label_of(seed, split, index)
    d = Draw(seed, split, index)
    name = CLASSES[label]
    hour = d.pick(_HOURS[name])
    mood = MOODS[hour]
    s = Scene(label, mood)
    s.floods = d.chance(0.2)
    s.rise = d(0.45, 0.95)
    s.axis = 0.5 + d(-0.1, 0.1)
    s.waves = (d(), d(), d(), d())
    s.veil = d(0.0, 1.0) * (0.3 if mood.dark else 1.0)
    s.shift = (d.integer(0, 255), d.integer(0, 255))
    s.murk = d.colour((0.40, 0.36, 0.27), 0.05)
    low = hour in ("golden", "dawn", "dusk")
    s.sun = (d(0.08, 0.92), d(0.16, 0.30) if low else d(0.06, 0.18))
    s.base, s.amplitude = 0.25, 0.11
    p = Planner(d, s)
    _BUILD[label](d, s, p)
    ceiling = min([r.highest for r in s.ridges], default=s.horizon)
    if hour == "night":
        if d.chance(0.7):
            r = d(0.022, 0.04)
            p.add_sky(
                Thing(
                    "moon",
                    s.sun[0],
                    1900.0,
                    2 * r,
                    2 * r,
                    min(s.sun[1], ceiling - 0.06) + r,
                    mood.sun,
                    (0.72, 0.74, 0.72),
                    0.0,
                    0,
                    (d(-0.5, 0.5),),
                )
            )
            s.sun = (
                s.sun[0],
                s.things[-1].foot - r if s.things and s.things[-1].kind == "moon" else s.sun[1],
            )
    elif hour != "overcast" and d.chance(0.6):
        r = d(0.022, 0.034) * (1.4 if low else 1.0)
        s.sun = (s.sun[0], min(s.sun[1], max(ceiling + 0.02, 0.05)))
        p.add_sky(Thing("sun", s.sun[0], 1900.0, 2 * r, 2 * r, s.sun[1] + r, mood.sun, mood.sun))
    for _ in range(d.integer(1, 4) if hour != "night" else d.integer(0, 1)):
        p.cloud(0.07, max(min(s.horizon - 0.16, ceiling + 0.05), 0.13))
    p.free(0.2 if name == "forest" else 0.35)
    return s
