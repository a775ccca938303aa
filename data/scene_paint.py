"""Procedural scenes, part two: a planned scene painted at any resolution, in either style, dry or flooded.

Everything is evaluated at pixel centres with the coverage of the pixel taken from exact overlaps (spans
and profiles) or from signed distances (round shapes): anti-aliased without supersampling. Things are
painted far to near; the label of a pixel changes where a thing covers at least half of it. Buffers are
planar float32 ([3, S, S]); a thing is composed in its own small window (premultiplied RGBA) and blended
into the picture once, and once more, upside down, into water.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from data.scene_plan import (
    EDGE,
    FAR,
    IN_SKY,
    SEGMENT,
    SEGMENT_OF,
    TOP,
    Colour,
    Draw,
    Ridge,
    Scene,
    Strip,
    Thing,
    mix,
)

_f = np.float32
_KNOTS = np.arange(513) / 512.0
_LIT = {name: SEGMENT[SEGMENT_OF[name]] for name in SEGMENT_OF}


# -- tables ----------------------------------------------------------------------------------------
def _table(size: int, octaves: tuple[tuple[int, float], ...]) -> np.ndarray:
    """Smooth periodic noise in [-1, 1] of mean 0, [size * size]; octaves are (cells, weight)."""
    draw = Draw("noise", size)
    total = np.zeros((size, size))
    for cells, weight in octaves:
        values = draw.block(4 * cells * cells).reshape(4, cells, cells).sum(0) - 2.0
        t = np.arange(size) * cells / size
        k = t.astype(int)
        s = t - k
        s = s * s * (3 - 2 * s)
        rows = values[k] * (1 - s)[:, None] + values[(k + 1) % cells] * s[:, None]
        total += weight * (rows[:, k] * (1 - s) + rows[:, (k + 1) % cells] * s)
    total = np.clip(total / (2.0 * total.std()), -1, 1)
    table = (total - total.mean()).astype(_f).ravel()
    table.setflags(write=False)
    return table


@lru_cache(maxsize=1)
def _noise() -> np.ndarray:
    """256 x 256 texels, cells of 8 texels."""
    return _table(256, ((32, 1.0), (64, 0.35)))


@lru_cache(maxsize=1)
def _fine_noise() -> np.ndarray:
    """512 x 512 texels, cells of 32: steps between texels are too small to be seen."""
    return _table(512, ((16, 1.0), (32, 0.35)))


@lru_cache(maxsize=1)
def _dice() -> np.ndarray:
    """4096 fixed uniform numbers, for windows that are lit or not."""
    table = Draw("dice").block(4096).astype(_f)
    table.setflags(write=False)
    return table


@dataclass(frozen=True)
class Grid:
    """Pixel centres and edges of a size: u [1, S], v [S, 1], edges [S + 1], step."""

    size: int
    u: np.ndarray
    v: np.ndarray
    edges: np.ndarray
    step: float


@lru_cache(maxsize=16)
def grid(size: int) -> Grid:
    c = (np.arange(size, dtype=np.float64) + 0.5) / size
    e = np.arange(size + 1, dtype=np.float64) / size
    u, v, e = c.astype(_f)[None, :], c.astype(_f)[:, None], e.astype(_f)
    for a in (u, v, e):
        a.setflags(write=False)
    return Grid(size, u, v, e, 1.0 / size)


def _lookup(rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """Noise at table coordinates (broadcasting, any range)."""
    r = rows.astype(np.int32) & 255
    c = cols.astype(np.int32) & 255
    return _noise().take((r << 8) + c)


def _smooth(rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """Noise from the fine table: cells of 32 texels, for waves much longer than a pixel."""
    r = rows.astype(np.int32) & 511
    c = cols.astype(np.int32) & 511
    return _fine_noise().take((r << 9) + c)


def _unit(a: np.ndarray) -> np.ndarray:
    """Clip to [0, 1], in place."""
    np.maximum(a, 0.0, out=a)
    return np.minimum(a, 1.0, out=a)


def _col(c: Colour) -> np.ndarray:
    return np.array(c, dtype=_f).reshape(3, 1, 1)


def _pulse(t: np.ndarray, duty: float) -> np.ndarray:
    """The integral from 0 of a square wave of period 1 that is 1 on [0, duty)."""
    k = np.floor(t)
    return k * duty + np.minimum(t - k, duty)


# -- styles ----------------------------------------------------------------------------------------
class Look:
    """How a style colours things."""

    def __init__(self, scene: Scene, style: str) -> None:
        self.real = style == "real"
        self.mood = scene.mood
        self.light = scene.mood.light
        lx = (scene.sun[0] - 0.5) * 2.0
        self.lx = max(-1.0, min(1.0, lx * 1.6)) if scene.mood.shadow > 0.14 else lx * 0.3

    def lit(self, c: Colour, k: float = 1.0) -> Colour:
        """A surface colour under the light of the hour."""
        a, b, g = c[0] * k, c[1] * k, c[2] * k
        if not self.real:
            m = (a + b + g) / 3
            a, b, g = (min(max(m + 1.7 * (x - m) + 0.03, 0.0), 1.0) for x in (a, b, g))
            # A simulator's light: the hour is there, but paler.
            i, j, k2 = mix(self.light, (1.0, 1.0, 1.0), 0.35)
            return (a * i, b * j, g * k2)
        i, j, k2 = self.light
        return (min(a * i, 1.0), min(b * j, 1.0), min(g * k2, 1.0))

    def sky(self, c: Colour) -> Colour:
        if self.real:
            return c
        m = (c[0] + c[1] + c[2]) / 3
        return tuple(min(max(m + 1.35 * (x - m), 0.0), 1.0) for x in c)

    def haze(self, z: float) -> float:
        return 1.0 - math.exp(-z / self.mood.haze) if self.real else 0.0


# -- the window a thing is painted in --------------------------------------------------------------
class Card:
    """A window of pixels in a thing's own metres: x [1, w] from its middle, y [h, 1] from its foot."""

    def __init__(self, r0: int, c0: int, x: np.ndarray, y: np.ndarray, pixel: float) -> None:
        self.r0, self.c0 = r0, c0
        self.x, self.y = x, y
        self.pixel = pixel
        self.inv = 1.0 / pixel
        self.rgba = np.zeros((4, y.shape[0], x.shape[1]), _f)

    def hspan(self, a: float | np.ndarray, b: float | np.ndarray) -> np.ndarray:
        """Share of each pixel's width inside [a, b]; a, b floats or [h, 1]."""
        half = self.pixel * 0.5
        c = np.minimum(self.x + half, b) - np.maximum(self.x - half, a)
        c *= self.inv
        return np.maximum(c, 0.0, out=c)

    def vspan(self, a: float | np.ndarray, b: float | np.ndarray) -> np.ndarray:
        half = self.pixel * 0.5
        c = np.minimum(self.y + half, b) - np.maximum(self.y - half, a)
        c *= self.inv
        return np.maximum(c, 0.0, out=c)

    def bar(self, x0: float, x1: float, y0: float, y1: float) -> np.ndarray:
        """Exact coverage of an upright rectangle, [h, w]."""
        return self.hspan(x0, x1) * self.vspan(y0, y1)

    def bars(self, boxes: np.ndarray) -> np.ndarray:
        """Union of rectangles [K, 4] (x0, x1, y0, y1)."""
        x0, x1, y0, y1 = boxes.T[:, :, None, None]
        return (self.hspan(x0, x1) * self.vspan(y0, y1)).max(0)

    def blobs(self, blobs: np.ndarray, soft: float = 0.0) -> np.ndarray:
        """Union of ellipses [K, 4] (middle x, y, half axes): coverage from the distance, [h, w].

        `soft` metres widen the edge.
        """
        cx, cy, a, b = blobs.T[:, :, None, None]
        qx = (self.x - cx) / a
        qx *= qx
        qy = (self.y - cy) / b
        qy *= qy
        k = (qx + qy).min(0)
        np.sqrt(k, out=k)
        size = min(blobs[0, 2:].tolist())  # the first stands for all
        k -= 1.0
        k *= -size / max(self.pixel, soft)
        k += 0.5
        return _unit(k)

    def paint(self, cover: np.ndarray, colour: Colour) -> None:
        c = np.array((*colour, 1.0), dtype=_f).reshape(4, 1, 1)
        c = c - self.rgba
        c *= cover
        self.rgba += c

    def shade(self, s: np.ndarray) -> None:
        """Multiply what is painted by s."""
        self.rgba[:3] *= s

    def grain(self, wave: float, amount: float, shift: int) -> np.ndarray | None:
        """Noise of a wavelength in metres on the card, faded where pixels are too coarse for it."""
        fade = 1.6 - 3.0 * self.pixel / wave
        if fade <= 0:
            return None
        k = 8.0 / wave
        n = _lookup(self.y * k + float(shift & 255), self.x * k + float(shift >> 8 & 255) + 4096.0)
        n *= amount * min(fade, 1.0)
        return n


def _a(rows: object) -> np.ndarray:
    return np.array(rows, dtype=_f)


# -- what things look like -------------------------------------------------------------------------
def _tree(c: Card, t: Thing, s: Look) -> None:
    h = t.h
    c.paint(c.hspan(-0.035 * h - 0.02 * (h - c.y), 0.035 * h + 0.02 * (h - c.y)) * c.vspan(0, 0.6 * h),
            s.lit(t.accent))  # fmt: skip
    blobs = _a(t.parts)
    crown = c.blobs(blobs)
    c.paint(crown, s.lit(t.colour, 0.86 if s.real else 1.0))
    up = blobs * _a((1, 1, 0.66, 0.62)) + _a((s.lx * 0.05 * t.w, 0.06 * h, 0, 0))
    if s.real:
        lit = c.blobs(up, 0.10 * h)
        lit *= crown
        lit *= 0.75
        c.paint(lit, s.lit(mix(t.colour, (0.75, 0.78, 0.35), 0.28), 1.15))
        k = 0.86 + 0.22 * (c.y / h) + (0.22 * s.lx / t.w) * c.x
        for wave, amount in ((0.9, 0.20), (0.32, 0.16)):
            n = c.grain(wave, amount, int(t.w * 9999))
            if n is not None:
                k = k + n
        c.shade(k)
    else:
        c.paint(c.blobs(up[:4]) * crown, s.lit(t.colour, 1.3))


def _conifer(c: Card, t: Thing, s: Look) -> None:
    h, w, n = t.h, t.w, t.parts[0]
    c.paint(c.bar(-0.03 * h, 0.03 * h, 0.0, 0.16 * h), s.lit(t.accent))
    q = (c.y - 0.1 * h) / (0.9 * h)
    steps = (1.0 - q) * n
    saw = steps - np.floor(steps)
    # Where a pixel is as tall as a tier the saw is only its mean.
    fade = max(0.0, min(1.0, 1.5 - c.pixel * n / (0.9 * h) * 1.6))
    saw = 0.5 + (saw - 0.5) * fade
    half = 0.5 * w * (1.0 - q) * (0.62 + 0.38 * saw) + 0.012 * h
    body = c.hspan(-half, half)
    body *= c.vspan(0.1 * h, h)
    c.paint(body, s.lit(t.colour))
    if t.variant:
        top = (1.0 - saw) * 1.5 - 0.35
        snow = body * _unit(top + (0.25 * s.lx / w) * c.x)
        c.paint(snow * 0.9, s.lit((0.93, 0.95, 0.99)))
    if s.real:
        k = 0.92 + (0.4 * s.lx / w) * c.x + (0.35 * fade) * (0.5 - saw if not t.variant else 0.0 * saw)
        g = c.grain(0.4, 0.25, int(w * 9999))
        c.shade(k if g is None else k + g)


def _palm(c: Card, t: Thing, s: Look) -> None:
    h = t.h
    lean, fronds = t.parts
    y = np.minimum(np.maximum(c.y, 0.0), 0.74 * h) / (0.74 * h)
    mid = lean * (y * y)
    half = 0.035 * h * (1.3 - 0.6 * y)
    c.paint(c.hspan(mid - half, mid + half) * c.vspan(0, 0.75 * h), s.lit(t.accent))
    x0, y0 = lean, 0.74 * h
    p = _a(fronds)[:, :, None, None]
    side, rise, fall, length = p[:, 0], p[:, 1], p[:, 2], p[:, 3]
    d = (c.x - x0) * side
    k = d / length
    arc = d * (rise - fall * k)
    thick = (0.036 * h) * np.sqrt(np.maximum(k * (1.0 - k) * 4.0, 0.0)) * (1.3 - 0.5 * k)
    thick = thick * np.sqrt(1.0 + (rise - 2.0 * fall * k) ** 2)  # measured along y on a slope
    cover = _unit((thick - np.abs(c.y - y0 - arc)) * c.inv + 0.5) * (thick > 0)
    for cut, shade in ((slice(0, 4), 0.72), (slice(4, 8), 1.05)):
        c.paint(cover[cut].max(0), s.lit(t.colour, shade))
    c.paint(c.blobs(_a([(x0, y0, 0.045 * h, 0.05 * h)])), s.lit((0.34, 0.22, 0.10)))
    if s.real:
        c.shade(1.0 + (0.25 * s.lx / t.w) * c.x + 0.10 * (c.y / h))


def _cactus(c: Card, t: Thing, s: Look) -> None:
    h, r = t.h, 0.085 * t.h
    boxes = [(-r, r, 0.0, h - r)]
    rounds = [(0.0, h - r, r, r)]
    for side, low, high in t.parts:
        x = side * 0.25 * h
        a, b = min(side * r, x), max(side * r, x)
        q = 0.72 * r
        boxes += [(a, b, low * h - q, low * h + q), (x - q, x + q, low * h, high * h - q)]
        rounds += [(x, high * h - q, q, q), (x, low * h, q, q)]
    cover = np.maximum(c.bars(_a(boxes)), c.blobs(_a(rounds)))
    c.paint(cover, s.lit(t.colour))
    if s.real:
        k = 1.0 + (0.9 * s.lx / t.w) * c.x
        if c.pixel < 0.06:
            k = k + 0.12 * np.cos(c.x * 45.0)
        c.shade(k)


def _bush(c: Card, t: Thing, s: Look) -> None:
    cover = c.blobs(_a(t.parts)) * c.vspan(0.0, t.h * 2)
    c.paint(cover, s.lit(t.colour))
    if s.real:
        k = 0.72 + 0.45 * (c.y / t.h) + (0.25 * s.lx / t.w) * c.x
        g = c.grain(0.3, 0.28, int(t.w * 9999))
        c.shade(k if g is None else k + g)


def _rock(c: Card, t: Thing, s: Look) -> None:
    pts = _a(t.parts)
    xs, ys = (pts[:, 0] - 0.5) * t.w, pts[:, 1] * t.h
    top = np.interp(c.x[0], xs, ys).astype(_f)[None, :]
    cover = _unit((top - c.y) * c.inv + 0.5) * c.hspan(-t.w / 2, t.w / 2) * c.vspan(0.0, t.h)
    c.paint(cover, s.lit(t.colour))
    if s.real:
        half = 0.06 * t.w
        slope = np.interp(c.x[0] - half, xs, ys) - np.interp(c.x[0] + half, xs, ys)
        k = 0.75 + 0.3 * (c.y / t.h) + (-0.9 * s.lx / t.h * 0.5) * slope.astype(_f)[None, :]
        g = c.grain(0.5, 0.14, int(t.w * 9999))
        c.shade(k if g is None else k + g)
    else:
        c.paint(cover * c.hspan(0.0, t.w), s.lit(t.colour, 0.75))


def _car(c: Card, t: Thing, s: Look) -> None:
    w, h = t.w, t.h
    dark = (0.06, 0.06, 0.07)
    if t.variant:  # seen along the road
        c.paint(c.bars(_a([(-0.44 * w, -0.26 * w, 0.0, 0.3 * h), (0.26 * w, 0.44 * w, 0.0, 0.3 * h)])), dark)
        y = c.y / h
        half = w * np.minimum(0.5, 0.5 - (y - 0.55) * 0.42)
        body = c.hspan(-half, half) * c.vspan(0.16 * h, h)
        c.paint(body, s.lit(t.colour))
        pane = c.hspan(-half + 0.07 * w, half - 0.07 * w) * c.vspan(0.58 * h, 0.92 * h)
        c.paint(pane, s.lit(t.accent))
        c.paint(c.bar(-0.48 * w, 0.48 * w, 0.18 * h, 0.28 * h), s.lit((0.16, 0.16, 0.17)))
        glow = (1.0, 0.96, 0.80) if t.variant == 2 else (0.85, 0.08, 0.06)
        if not s.mood.dark:
            glow = s.lit(glow)
        y0, y1 = 0.40 * h, 0.52 * h
        c.paint(c.bars(_a([(-0.46 * w, -0.28 * w, y0, y1), (0.28 * w, 0.46 * w, y0, y1)])), glow)
    else:
        cabin = t.parts[0]
        y = c.y / h
        slope = (y - 0.55) * 0.55
        left, right = w * (-0.34 + slope * 0.5), w * (cabin * 0.62 - slope * 0.5)
        c.paint(c.hspan(left, right) * c.vspan(0.5 * h, h), s.lit(t.colour))
        c.paint(c.hspan(left + 0.03 * w, right - 0.03 * w) * c.vspan(0.58 * h, 0.93 * h), s.lit(t.accent))
        c.paint(c.bar(-0.5 * w, 0.5 * w, 0.18 * h, 0.58 * h), s.lit(t.colour))
        r = 0.21 * h
        c.paint(c.blobs(_a([(-0.3 * w, r, r, r), (0.3 * w, r, r, r)])), dark)
        c.paint(c.blobs(_a([(-0.3 * w, r, r / 2, r / 2), (0.3 * w, r, r / 2, r / 2)])), s.lit((0.6, 0.6, 0.62)))
    if s.real:
        c.shade(0.80 + 0.32 * (c.y / h) + (0.2 * s.lx / w) * c.x)


def _person(c: Card, t: Thing, s: Look) -> None:
    h = t.h
    skin, hair, stride = t.parts
    a = stride * h
    c.paint(c.bars(_a([(-a - 0.045 * h, -a + 0.045 * h, 0.0, 0.49 * h),
                       (a - 0.045 * h, a + 0.045 * h, 0.0, 0.49 * h)])), s.lit(t.accent))  # fmt: skip
    half = h * (0.085 + 0.05 * np.minimum(np.maximum((c.y - 0.46 * h) / (0.36 * h), 0.0), 1.0))
    if t.variant:  # a skirt or a long coat
        half = half + h * np.maximum(0.10 * (0.62 * h - c.y) / (0.3 * h), 0.0)
    c.paint(c.hspan(-half, half) * c.vspan((0.3 if t.variant else 0.46) * h, 0.83 * h), s.lit(t.colour))
    c.paint(c.bars(_a([(-0.178 * h, -0.125 * h, 0.42 * h, 0.81 * h), (0.125 * h, 0.178 * h, 0.42 * h, 0.81 * h)])),
            s.lit(t.colour, 0.86))  # fmt: skip
    r = 0.075 * h
    c.paint(c.blobs(_a([(0.0, 0.925 * h, r * 1.05, r)])), s.lit(hair))
    c.paint(c.blobs(_a([(0.0, 0.905 * h, r * 0.82, r * 0.92)])), s.lit(skin))
    if s.real:
        c.shade(0.92 + 0.1 * (c.y / h) + (0.7 * s.lx / h) * c.x)


def _boat(c: Card, t: Thing, s: Look) -> None:
    w, h, bow = t.w, t.h, t.parts[0]
    deck = 0.16 * w
    y = np.minimum(np.maximum(c.y / deck, 0.0), 1.0)
    rake = w * (0.30 + 0.20 * y)
    stern = w * (0.36 + 0.06 * y)
    left, right = (-stern, rake) if bow > 0 else (-rake, stern)
    if t.variant:
        c.paint(c.bar(-0.012 * w, 0.012 * w, deck * 0.8, h), s.lit((0.36, 0.28, 0.20)))
        q = (c.y - deck * 1.35) / (0.94 * h - deck * 1.35)
        edge = (1.0 - q) * (0.40 * w) + 0.0 * q
        up = c.vspan(deck * 1.35, 0.94 * h)
        a, b = (0.03 * w, edge * 0.8) if bow > 0 else (-edge * 0.8, -0.03 * w)
        a2, b2 = (-edge, -0.03 * w) if bow > 0 else (0.03 * w, edge)
        c.paint(np.maximum(c.hspan(a2, b2), 0.0) * up, s.lit(t.accent))
        c.paint(np.maximum(c.hspan(a, b), 0.0) * up, s.lit(t.accent, 0.86))
    else:
        x0, x1 = (-0.28 * w, 0.10 * w) if bow > 0 else (-0.10 * w, 0.28 * w)
        c.paint(c.bar(x0, x1, deck * 0.9, 0.72 * h), s.lit((0.93, 0.92, 0.88)))
        pane = (1.0, 0.85, 0.5) if s.mood.dark else s.lit((0.2, 0.28, 0.34))
        c.paint(c.bar(x0 + 0.04 * w, x1 - 0.04 * w, 0.52 * h, 0.64 * h), pane)
        c.paint(c.bar(x0 + 0.12 * w, x0 + 0.15 * w, 0.7 * h, h), s.lit((0.3, 0.3, 0.3)))
    hull = c.hspan(left, right) * c.vspan(0.0, deck)
    c.paint(hull, s.lit(t.colour))
    c.paint(hull * c.vspan(deck * 0.78, deck), s.lit((0.95, 0.93, 0.88)))
    if s.real:
        c.shade(0.94 + (0.25 * s.lx / w) * c.x + 0.06 * (c.y / h))


def _lamp(c: Card, t: Thing, s: Look) -> None:
    h, side = t.h, t.parts[0]
    at = side * -0.56  # the pole; the head is on the other side of the middle
    a, b = min(at, at + side * 1.1), max(at, at + side * 1.1)
    pole = _a([(at - 0.07, at + 0.07, 0.0, h), (at - 0.13, at + 0.13, 0.0, 0.7), (a, b, h - 0.12, h)])
    c.paint(c.bars(pole), s.lit(t.colour))
    head = c.bar(side * 0.39 - 0.3, side * 0.39 + 0.3, h - 0.28, h - 0.06)
    c.paint(head, t.accent if s.mood.dark else s.lit((0.85, 0.85, 0.80)))


def _parasol(c: Card, t: Thing, s: Look) -> None:
    w, h = t.w, t.h
    c.paint(c.bar(-0.04, 0.04, 0.0, h), s.lit((0.85, 0.82, 0.76)))
    base = 0.68 * h
    top = c.blobs(_a([(0.0, base, w / 2, h * 0.3)])) * c.vspan(base, h)
    c.paint(top, s.lit(t.colour))
    r = np.sqrt(np.maximum(1.0 - ((c.y - base) / (0.3 * h)) ** 2, 0.0))
    stripe = w * 0.5 * r
    c.paint(top * (c.hspan(-0.66 * stripe, -0.33 * stripe) + c.hspan(0.0 * stripe, 0.33 * stripe)
                   + c.hspan(0.66 * stripe, stripe)), s.lit(t.accent))  # fmt: skip
    if s.real:
        c.shade(0.95 + (0.35 * s.lx / w) * c.x)


def _lighthouse(c: Card, t: Thing, s: Look) -> None:
    h = t.h
    rock = c.blobs(_a([(0.0, 0.0, 0.16 * h, 0.09 * h), (-0.07 * h, 0.0, 0.09 * h, 0.06 * h)])) * c.vspan(0.0, h)
    c.paint(rock, s.lit((0.36, 0.35, 0.34)))
    y = c.y / h
    half = h * (0.105 - 0.05 * y)
    tower = c.hspan(-half, half) * c.vspan(0.05 * h, 0.84 * h)
    c.paint(tower, s.lit(t.colour))
    edge = c.pixel / h * 0.5
    n = 5.0 / 0.79
    band = (_pulse((y + edge - 0.05) * n * 0.5, 0.5) - _pulse((y - edge - 0.05) * n * 0.5, 0.5)) / (edge * n)
    c.paint(tower * band, s.lit(t.accent))
    c.paint(c.bar(-0.075 * h, 0.075 * h, 0.83 * h, 0.85 * h), s.lit((0.2, 0.2, 0.2)))
    c.paint(c.bar(-0.04 * h, 0.04 * h, 0.85 * h, 0.93 * h), (1.0, 0.92, 0.6))
    cap = 0.055 * h * np.maximum(1.0 - (y - 0.93) / 0.07, 0.0)
    c.paint(c.hspan(-cap, cap) * c.vspan(0.93 * h, h), s.lit(t.accent))
    if s.real:
        c.shade(0.95 + (2.2 * s.lx / h) * c.x)


def _haystack(c: Card, t: Thing, s: Look) -> None:
    r = t.w / 2
    cover = c.blobs(_a([(0.0, r * 0.94, r, r)])) * c.vspan(0.0, t.h)
    c.paint(cover, s.lit(t.colour))
    rim = c.blobs(_a([(0.0, r * 0.94, r * 0.74, r * 0.74)]))
    c.paint(rim * 0.55, s.lit(t.accent))
    c.paint(c.blobs(_a([(0.0, r * 0.94, r * 0.45, r * 0.45)])) * 0.8, s.lit(t.colour, 0.95))
    if s.real:
        k = 0.78 + 0.28 * (c.y / t.h) + (0.35 * s.lx / t.w) * c.x
        g = c.grain(0.22, 0.16, int(r * 9999))
        c.shade(k if g is None else k + g)


def _snowman(c: Card, t: Thing, s: Look) -> None:
    h = t.h
    c.paint(c.blobs(_a([(0.0, 0.2 * h, 0.26 * h, 0.22 * h), (0.0, 0.5 * h, 0.19 * h, 0.17 * h),
                        (0.0, 0.73 * h, 0.13 * h, 0.12 * h)])) * c.vspan(0.0, h), s.lit(t.colour))  # fmt: skip
    c.paint(c.bars(_a([(-0.10 * h, 0.10 * h, 0.83 * h, 0.99 * h), (-0.15 * h, 0.15 * h, 0.82 * h, 0.86 * h)])),
            s.lit((0.1, 0.1, 0.12)))  # fmt: skip
    c.paint(c.bar(-0.15 * h, 0.15 * h, 0.60 * h, 0.65 * h), s.lit(t.accent))
    c.paint(c.bar(-0.01 * h, 0.09 * h, 0.71 * h, 0.74 * h), s.lit((0.95, 0.5, 0.1)))
    if s.real:
        c.shade(0.86 + 0.12 * (c.y / h) + (0.7 * s.lx / h) * c.x)


def _cloud(c: Card, t: Thing, s: Look) -> None:
    m = s.mood
    blobs = _a(t.parts)
    lit = mix(mix(m.sun, (1.0, 1.0, 1.0), 0.6), m.horizon, 0.15)
    under = mix(m.middle, m.horizon, 0.5)
    if m.dark:
        lit, under = mix(m.horizon, m.middle, 0.3), mix(m.middle, m.zenith, 0.3)
    flat = _unit(c.y * (1.0 / (0.10 * t.h)) + 0.0)
    cover = c.blobs(blobs, 0.09 * t.h if s.real else 0.0)
    cover *= flat if s.real else c.vspan(0.0, 2 * t.h)
    if s.real:
        c.paint(cover, under)
        top = c.blobs(blobs * _a((1, 1, 0.9, 0.85)) + _a((0.02 * t.w * s.lx, 0.16 * t.h, 0, 0)), 0.45 * t.h)
        top *= cover
        c.paint(top, lit)
    else:
        c.paint(cover, s.sky(mix(under, lit, 0.8)))


def _sun(c: Card, t: Thing, s: Look) -> None:
    r = t.w / 2
    c.paint(c.blobs(_a([(0.0, r, r, r)])), t.colour if s.real else s.sky(mix(t.colour, (1.0, 0.85, 0.2), 0.5)))


def _moon(c: Card, t: Thing, s: Look) -> None:
    r = t.w / 2
    disc = c.blobs(_a([(0.0, r, r, r)]))
    c.paint(disc, t.colour)
    spots = _a([(-0.3 * r, 1.25 * r, 0.28 * r, 0.24 * r), (0.3 * r, 0.8 * r, 0.22 * r, 0.3 * r), (0.1 * r, 1.5 * r, 0.16 * r, 0.14 * r)])
    c.paint(c.blobs(spots, 0.1 * r) * disc * 0.7, t.accent)


_PAINT = {
    "tree": _tree, "conifer": _conifer, "palm": _palm, "cactus": _cactus, "bush": _bush, "rock": _rock,
    "car": _car, "person": _person, "boat": _boat, "lamp": _lamp, "parasol": _parasol,
    "lighthouse": _lighthouse, "haystack": _haystack, "snowman": _snowman, "cloud": _cloud, "sun": _sun,
    "moon": _moon,
}  # fmt: skip


# -- the picture -----------------------------------------------------------------------------------
class Picture:
    """One scene being painted at one size. `layers` (tests) collects every thing's own coverage."""

    def __init__(self, scene: Scene, size: int, style: str, flooded: bool, trace: bool = False) -> None:
        self.s = scene
        self.g = grid(size)
        self.look = Look(scene, style)
        self.level = scene.rise if flooded else 0.0
        self.flooded = flooded
        n = size
        self.image = np.empty((3, n, n), _f)
        self.segment = np.zeros((n, n), np.uint8)
        self.instance = np.full((n, n), -1, np.int16)
        self.depth = np.full((n, n), FAR, _f)
        self.height = np.full((n, n), TOP, _f)
        self.layers: list[tuple[int, np.ndarray, np.ndarray]] | None = [] if trace else None
        self.front = np.full((n, n), np.inf, _f)  # depth of the nearest thing, drowned or not
        self.far = np.zeros((n, n), _f)  # how much of the sky the ridges hide
        m = scene.mood
        self.haze_colour = mix(m.horizon, m.middle, 0.25)
        self._sky()
        for ridge in scene.ridges:
            self._ridge(ridge)
        self._ground()
        for k, thing in enumerate(scene.things):
            self._thing(k, thing)
        # Water is, by definition, where the height is below the level.
        self.water = self.height < self.level
        if self.water.any():
            np.copyto(self.segment, SEGMENT["water"], where=self.water)
            np.copyto(self.instance, -1, where=self.water)
        if self.look.real and m.dark:
            self._lights()

    # Sky.
    def _sky(self) -> None:
        s, g, m, look = self.s, self.g, self.s.mood, self.look
        stop = s.horizon + s.camera / min([r.z for r in s.ridges], default=EDGE)
        rows = min(g.size, int(stop * g.size) + 1)
        v = g.v[:rows]
        t = np.minimum(v * (1.0 / stop), 1.0)[:, 0]
        stops = np.array([look.sky(c) for c in (m.zenith, m.middle, m.horizon)], dtype=_f)
        sky = np.stack([np.interp(t, (0.0, 0.62, 1.0), stops[:, k]) for k in range(3)]).astype(_f)
        image = self.image[:, :rows]
        image[:] = sky[:, :, None]
        if not look.real:
            return
        u0, v0 = s.sun
        du, dv = g.u - u0, v - v0
        r2 = du * du + dv * dv
        glow = np.exp(r2 * -9.0)
        if not m.dark or m.light[0] > 0.4:
            glow *= 0.40
            glow += 0.45 * np.exp(r2 * -90.0)
        else:
            glow *= 0.22
        c = _col(m.sun) - image
        c *= glow
        image += c
        if s.veil > 0.25:
            # Thin cloud on a plane overhead: it closes up towards the horizon.
            far = 1.0 / (stop + 0.12 - v)
            fade = _unit(1.8 - far * (far * g.step) * 6.0) * (s.veil * 0.55)
            x = (g.u - s.axis) * far * 9.0 + (far * 4.0)
            n = _lookup(far * 22.0 + s.shift[0], x * 0.8 + (256.0 * 16 + s.shift[1]))
            n += 0.5 * _lookup(far * 50.0 + s.shift[1], x * 2.1 + (256.0 * 16 + s.shift[0]))
            n -= 0.1
            n *= fade
            np.maximum(n, 0.0, out=n)
            c = _col(mix(m.horizon, m.sun, 0.5)) - image
            c *= n
            image += c
        if m.light[0] < 0.4:
            self._stars()

    def _stars(self) -> None:
        s, g = self.s, self.g
        dice = _dice()
        k = (s.shift[0] * 256 + s.shift[1]) % 3000
        u, v, b = dice[k : k + 60], dice[k + 60 : k + 120] * (s.horizon * 0.8), dice[k + 120 : k + 180]
        # A star is a small disc: below a pixel it only gets dimmer.
        r = 0.0035
        share = np.minimum(1.0, (r / g.step) ** 2 * 1.8) * b
        at_r, at_c = (v * g.size).astype(int), (u * g.size).astype(int)
        for i in range(3):
            np.add.at(self.image[i], (at_r, at_c), share * (0.75, 0.8, 0.95)[i])

    # Far cards.
    def _ridge(self, ridge: Ridge) -> None:
        s, g, look = self.s, self.g, self.look
        n, step = g.size, g.step
        foot = s.horizon + s.camera / ridge.z
        r0, r1 = max(int(ridge.highest * n) - 1, 0), min(int(math.ceil(foot * n)), n)
        if r0 >= r1:
            return
        edge = np.interp(g.edges, _KNOTS, ridge.top)
        top = (np.diff(edge) * n).astype(_f)[None, :]
        v = g.v[r0:r1]
        cover = _unit((v - top) * n + 0.5)
        cover *= _unit((foot - v) * n + 0.5)
        image = self.image[:, r0:r1]
        colour = look.lit(ridge.colour)
        haze = look.haze(ridge.z) * 0.8
        c = _col(mix(colour, self.haze_colour, haze))
        if look.real:
            down = v - top
            fade = min(1.0, max(0.0, 1.5 - step * 60.0))
            x, y = g.u * 150.0 + s.shift[0], v * 260.0 + s.shift[1]
            k = _lookup(y, x + (down * 90.0 if ridge.segment == "mountain" else 0.0))
            k *= 0.13 * ridge.rough * fade
            if n > 100 and ridge.rough > 0:
                k += (0.10 * ridge.rough * min(1.0, n / 100.0 - 1.0)) * _lookup(y * 3.0, x * 3.1)
            if ridge.centre is not None:
                # Two faces to a summit, parted by a ragged crest that runs down from it.
                warp = _lookup(v * 420.0 + s.shift[0], g.u * 230.0 + s.shift[1])
                at = g.u + warp * 0.012
                at *= 512.0
                np.minimum(np.maximum(at, 0.0, out=at), 511.0, out=at)
                face = g.u - ridge.centre.take(at.astype(np.int32))
                face /= down + 0.03
                face += 0.35 * warp
                face += 0.35 * _lookup(v * 150.0 + s.shift[1], g.u * 60.0)
                face *= min(5.0, 0.08 * n)
                np.minimum(np.maximum(face, -1.0, out=face), 1.0, out=face)
                face *= 0.24 if look.lx > 0 else -0.24
                k += face
            k += 1.0
            c = c * k
            # Haze lies deeper in the valleys.
            c += (_col(self.haze_colour) - c) * np.minimum(np.maximum(1.0 - (foot - v) * 9.0, 0.0), 1.0) * (
                0.75 * haze)  # fmt: skip
        if ridge.peak is not None:
            line = ridge.peak_v + (0.0 if not look.real else 0.03 * _lookup(g.u * 0 + s.shift[1], g.u * 190.0))
            snow = _unit((line - v) * min(n, 60.0 if look.real else n) + 0.5)
            p = _col(mix(look.lit(ridge.peak), self.haze_colour, haze * 0.8))
            if look.real:
                p = p * k
            c = c + (p - c) * snow
        if ridge.windows:
            dark = s.mood.dark
            kx, ky = 90.0, 120.0
            x, y = g.u * kx, (v - s.horizon) * ky
            on = _dice().take(((y.astype(np.int32) * 37 + x.astype(np.int32) * 101) & 4095))
            fx = (_pulse((g.u + step / 2) * kx, 0.5) - _pulse((g.u - step / 2) * kx, 0.5)) / (kx * step)
            fy = (_pulse((v - s.horizon + step / 2) * ky, 0.55) - _pulse((v - s.horizon - step / 2) * ky, 0.55)) / (
                ky * step)  # fmt: skip
            crisp = max(0.0, min(1.0, 1.8 - kx * step * 0.8))
            on = (on < ridge.windows) * crisp + ridge.windows * (1 - crisp)
            win = (fx * fy) * on * (0.85 if dark else 0.35) * (v > top + 0.008)
            w = _col((1.0, 0.82, 0.48) if dark else mix(look.lit((0.3, 0.34, 0.4)), self.haze_colour, haze))
            c = c + (w - c) * win
        c = c - image
        c *= cover
        image += c
        np.maximum(self.far[r0:r1], cover, out=self.far[r0:r1])
        m = cover >= 0.5
        np.copyto(self.segment[r0:r1], SEGMENT[ridge.segment], where=m)
        np.copyto(self.depth[r0:r1], ridge.z, where=m)
        h = np.minimum((s.horizon - v) * ridge.z + s.camera, TOP)
        np.copyto(self.height[r0:r1], np.maximum(h, s.rise + 0.01), where=m)

    # Ground and water.
    def _ground(self) -> None:
        s, g, look = self.s, self.g, self.look
        n, step = g.size, g.step
        zr = min([r.z for r in s.ridges], default=EDGE)
        start = s.horizon + s.camera / zr
        r0 = self.r0 = min(int(start * n), n)
        self.wet: np.ndarray | None = None
        if r0 >= n:
            return
        v = g.v[r0:]
        fall = np.maximum(v - s.horizon, s.camera / zr)
        z = s.camera / fall
        x = (g.u - s.axis) * z
        land = s.elevation(x, z)
        level = self.level
        seen = _unit((v - start) * n + 0.5)

        # Where water covers the land: the level against the land's slope across a pixel.
        wet = None
        if level > 0 or s.relief[0] != "flat":
            gx = np.abs(land[:, 1:] - land[:, :-1])
            gy = np.abs(land[1:] - land[:-1])
            slope = np.full_like(land, 1e-4)
            slope[:, 1:] += gx
            slope[:, 0] += gx[:, 0] if n > 1 else 0
            slope[1:] += gy
            wet = (level - land) / slope
            wet += 0.5
            _unit(wet)
            if not wet.any():
                wet = None

        # Dry ground.
        colour = self._dry(v, z, x)
        segment = self._dry_segment
        if wet is not None:
            if s.relief[0] != "flat" and level == 0.0 and s.ground in ("sand", "grass", "snow"):
                # Wet edge of the shore.
                damp = _unit(1.0 - (land - level) * (6.0 if s.ground == "sand" else 9.0))
                colour *= 1.0 - damp * (0.32 if look.real else 0.15)
            water = self._water(v, z, x, land)
            water -= colour
            water *= wet
            colour += water
            self.wet = wet
            np.copyto(segment, SEGMENT["water"], where=land < level)
        self._shadows(colour, v)
        haze = 1.0 - np.exp(z * (-1.0 / s.mood.haze)) if look.real else np.zeros_like(z)
        haze *= 0.85
        colour += (_col(self.haze_colour) - colour) * haze
        image = self.image
        image[:, r0 + 1 :] = colour[:, 1:]
        image[:, r0] += (colour[:, 0] - image[:, r0]) * float(seen[0, 0])
        solid = seen[:, 0] >= 0.5
        k = r0 + int(np.argmax(solid)) if solid.any() else n
        self.segment[k:] = segment[k - r0 :]
        self.height[k:] = land[k - r0 :]
        surface = np.maximum(land[k - r0 :], level)
        surface = (s.camera - surface) / fall[k - r0 :]
        self.depth[k:] = np.minimum(np.maximum(surface, 0.5), zr)

    def _dry(self, v: np.ndarray, z: np.ndarray, x: np.ndarray) -> np.ndarray:
        s, g, look = self.s, self.g, self.look
        step = g.step
        near, far = (_col(look.lit(c)) for c in s.colours)
        t = np.minimum(z * (1.0 / 60.0), 1.0)
        colour = np.empty((3, *x.shape), _f)
        colour[:] = near + (far - near) * t
        segment = np.full(x.shape, SEGMENT[s.ground], np.uint8)
        foot = z * z * (step / s.camera)  # metres along z in one pixel
        self._foot = foot
        bump = None
        if look.real and s.rough > 0:
            for wave, amount, a, b in ((9.0, 0.45, 0, 1), (2.2, 0.5, 1, 0), (0.6, 0.45, 0, 0), (0.16, 0.4, 1, 1)):
                fade = _unit(1.5 - foot[:, 0] * (2.0 / wave))
                k = int(np.argmax(fade > 0)) if fade[-1] > 0 else len(fade)
                if k >= len(fade):
                    continue
                read, q = (_smooth, 32.0 / wave) if wave > 1.0 else (_lookup, 8.0 / wave)
                nz = read(z[k:] * q + s.shift[a], x[k:] * q + (8192.0 + s.shift[b]))
                nz *= fade[k:, None] * (amount * s.rough)
                if bump is None:
                    bump = np.ones_like(x)
                bump[k:] += nz
        for strip in s.strips:
            self._strip(strip, colour, segment, z, x)
        if bump is not None:
            colour *= bump
        self._dry_segment = segment
        return colour

    def _strip(self, strip: Strip, colour: np.ndarray, segment: np.ndarray, z: np.ndarray, x: np.ndarray) -> None:
        s, g, look = self.s, self.g, self.look
        n, step = g.size, g.step
        a, b = 0, len(z)
        if strip.far < EDGE:
            top = (s.horizon + s.camera / strip.far) * n - self.r0
            a = max(int(top), 0)
        if strip.near > 0:
            low = (s.horizon + s.camera / strip.near) * n - self.r0
            b = min(int(math.ceil(low)), b)
        if a >= b:
            return
        zz = z[a:b]
        mid = strip.middle(zz) / zz + s.axis
        half = strip.half / zz
        left, right = mid - half, mid + half
        h = step * 0.5
        cover = np.minimum(g.u + h, right) - np.maximum(g.u - h, left)
        np.maximum(cover, 0.0, out=cover)
        cover *= n
        v = g.v[self.r0 + a : self.r0 + b]
        if strip.far < EDGE or strip.near > 0:
            v0 = s.horizon + s.camera / strip.far
            v1 = s.horizon + s.camera / max(strip.near, 0.1)
            rows = np.minimum(v + h, v1) - np.maximum(v - h, v0)
            cover *= np.maximum(rows, 0.0) * n
        if strip.dash:
            fall = np.maximum(v - h - s.horizon, s.camera / EDGE)
            z0, z1 = s.camera / (fall + step), s.camera / fall
            q = 1.0 / strip.dash
            share = (_pulse(z1 * q, 0.45) - _pulse(z0 * q, 0.45)) / np.maximum((z1 - z0) * q, 1e-6)
            cover *= share
        c = _col(look.lit(strip.colour))
        if strip.furrow and look.real:
            q = 2 * math.pi / strip.furrow
            fade = _unit(1.5 - zz * (step * 3.0 / strip.furrow))
            k = np.cos((x[a:b] - strip.centre[1] * zz) * q)
            k *= 0.16 * fade
            k += 1.0
            c = c * k
        part = colour[:, a:b]
        c = c - part
        c *= cover
        part += c
        np.copyto(segment[a:b], SEGMENT[strip.segment], where=cover >= 0.5)

    def _water(self, v: np.ndarray, z: np.ndarray, x: np.ndarray, land: np.ndarray) -> np.ndarray:
        """Colour of water everywhere on the ground's rows: the background mirrored, and the water's own."""
        s, g, look, n = self.s, self.g, self.look, self.g.size
        natural = s.relief[0] != "flat"
        own = mix(s.water, s.murk, 0.55) if natural and self.flooded else (s.murk if self.flooded else s.water)
        own = look.lit(own)
        fall = v - s.horizon
        self.fresnel = 0.30 + 0.58 * np.exp(fall * -3.2)
        if not look.real:
            tint = mix(own, look.sky(s.mood.middle), 0.35)
            flat = np.empty((3, *x.shape), _f)
            flat[:] = _col(tint)
            return flat
        foot = self._foot
        wave = None
        for length, amount, turn in ((3.0, 1.0, 0.25), (0.8, 0.6, -0.3)):
            fade = _unit(1.5 - foot * (1.4 / length))
            q = 32.0 / length
            w = _smooth(z * q + s.shift[1], (x * 0.35 + turn * z) * q + (8192.0 + s.shift[0]))
            w *= fade * amount
            wave = w if wave is None else wave + w
        # Mirror row of every pixel, moved by the waves, read between two rows.
        row = (s.horizon - fall) * n - 0.5
        row = row + wave * (0.010 * n)
        np.minimum(np.maximum(row, 0.0, out=row), max(self.r0 - 1.001, 0.0), out=row)
        k = row.astype(np.int32)
        t = row - k
        flat = self.image.reshape(3, -1)
        at = k * n + np.arange(n, dtype=np.int32)
        a = flat.take(at, axis=1)
        b = flat.take(at + n * (1 if self.r0 > 1 else 0), axis=1)
        b -= a
        b *= t
        a += b
        own_c = _col(own)
        a -= own_c
        a *= self.fresnel
        a += own_c
        wave *= 0.10
        wave += 1.0
        a *= wave
        if s.mood.light[0] > 0.4 and s.mood.shadow > 0.16:
            # A road of light below the sun.
            du = (g.u - s.sun[0]) * (1.0 / 0.10)
            road = np.exp(-(du * du)) * np.maximum(wave - 1.0, 0.0) * 3.0
            road += 0.10 * np.exp(-(du * du))
            a += _col(s.mood.sun) * road
        if s.relief[0] == "sea" and not self.flooded:
            # Foam where the sea runs out, and one line of it further out.
            foam = _unit(1.0 - np.abs(land + 0.05) * 14.0) + 0.6 * _unit(1.0 - np.abs(land + 0.32) * 12.0)
            foam *= _unit(wave * 5.0 - 4.3)
            a += (_col(look.lit((0.97, 0.98, 0.98))) - a) * foam
        return a

    def _shadows(self, colour: np.ndarray, v: np.ndarray) -> None:
        s, g, look = self.s, self.g, self.look
        strength = s.mood.shadow
        if not look.real:
            return
        n = g.size
        dark = None
        for t in s.things:
            if t.kind in IN_SKY or t.floats or t.kind == "lighthouse":
                continue
            if self.level > t.foot + 0.05:
                continue
            cu = s.axis + t.x / t.z
            cv = s.horizon + (s.camera - t.foot) / t.z
            reach = min(0.9 * t.h, 5.0) * -look.lx
            a = (0.55 * t.w + 0.5 * abs(reach)) / t.z
            b = max(0.10 * t.w, 0.22) * (cv - s.horizon) / t.z * 2.2 + 0.004
            cu += 0.5 * reach / t.z
            c0, c1 = max(int((cu - a) * n), 0), min(int((cu + a) * n) + 1, n)
            q0, q1 = max(int((cv - b) * n) - self.r0, 0), min(int((cv + b) * n) + 1 - self.r0, n - self.r0)
            if c0 >= c1 or q0 >= q1:
                continue
            dx = (g.u[:, c0:c1] - cu) * (1 / a)
            dy = (v[q0:q1] - cv) * (1 / b)
            k = 1.0 - (dx * dx + dy * dy)
            k = np.minimum(np.maximum(k, 0.0, out=k) * 1.6, 1.0)
            k *= -(strength * 0.9 + 0.1)
            k += 1.0
            if dark is None:
                dark = np.ones(colour.shape[1:], _f)
            dark[q0:q1, c0:c1] *= k
        if dark is not None:
            colour *= dark

    # Things.
    def _thing(self, k: int, t: Thing) -> None:
        s, g = self.s, self.g
        n = g.size
        if t.kind in IN_SKY:
            u0, u1, v0, v1 = t.x - t.w / 2, t.x + t.w / 2, t.foot - t.h, t.foot
            r0, r1, c0, c1 = self._window(u0, v0, u1, v1)
            if r0 >= r1 or c0 >= c1:
                return
            card = Card(r0, c0, g.u[:, c0:c1] - t.x, t.foot - g.v[r0:r1], g.step)
            _PAINT[t.kind](card, t, self.look)
            self._commit(k, t, card, t.z, None)
            return
        if t.z_end:
            self._block(k, t)
            return
        base = self.level if t.floats else t.foot
        foot = s.horizon + (s.camera - base) / t.z
        u = s.axis + t.x / t.z
        r0, r1, c0, c1 = self._window(u - t.w / 2 / t.z, foot - t.h / t.z, u + t.w / 2 / t.z, foot)
        if r0 >= r1 or c0 >= c1:
            return
        card = Card(r0, c0, (g.u[:, c0:c1] - u) * t.z, (foot - g.v[r0:r1]) * t.z, t.z * g.step)
        _PAINT[t.kind](card, t, self.look)
        self._commit(k, t, card, t.z, card.y + base)

    def _window(self, u0: float, v0: float, u1: float, v1: float) -> tuple[int, int, int, int]:
        n = self.g.size
        return (max(int(math.floor(v0 * n)), 0), min(int(math.ceil(v1 * n)), n),
                max(int(math.floor(u0 * n)), 0), min(int(math.ceil(u1 * n)), n))  # fmt: skip

    def _block(self, k: int, t: Thing) -> None:
        """A house or a building: a front at z, one side running back to z_end, windows on both."""
        s, g, look = self.s, self.g, self.look
        n, step = g.size, g.step
        gable = t.kind == "house"
        roof = t.parts[0] if gable else 0.0
        wall_h = t.h - roof
        x0, x1 = t.x - t.w / 2, t.x + t.w / 2
        inner = x0 if x0 > 0 else (x1 if x1 < 0 else 0.0)
        z0, z1 = t.z, t.z_end
        ends = [s.axis + q / z for q in (x0, x1) for z in (z0, z1)]
        hang = 0.35 / z0 if gable else 0.0
        u0, u1 = s.axis + x0 / z0, s.axis + x1 / z0
        if inner:
            u0, u1 = min(u0, s.axis + inner / z1), max(u1, s.axis + inner / z1)
        v0 = s.horizon + min((s.camera - t.foot - t.h) / z0, (s.camera - t.foot - t.h) / z1)
        v1 = s.horizon + (s.camera - t.foot) / z0
        del ends
        r0, r1, c0, c1 = self._window(u0 - hang, v0, u1 + hang, v1)
        if r0 >= r1 or c0 >= c1:
            return
        card = Card(r0, c0, g.u[:, c0:c1], g.v[r0:r1], step)
        # Depth of each column, and metres along the wall: outwards on the front, back on the side.
        ue = g.edges[c0 : c1 + 1]
        off = np.abs(ue - s.axis) if inner else ue - s.axis
        if inner:
            ze = abs(inner) / np.maximum(off, 1e-4)
            np.minimum(np.maximum(ze, z0, out=ze), z1, out=ze)
            along = (off * ze - abs(inner)) - (ze - z0)
        else:
            ze = np.full_like(ue, z0)
            along = off * z0 - x0
        z = (0.5 * (ze[1:] + ze[:-1]))[None, :]
        side = _unit((z - z0) * 8.0) if inner else np.zeros_like(z)
        down = g.edges[r0 : r1 + 1, None] - s.horizon
        ye = s.camera - t.foot - down * z  # height above the foot at row edges [h + 1, w]
        tall = z * step  # metres in a pixel, [1, w]
        typical = float(tall[0, tall.shape[1] // 2])
        top = wall_h + 0.0 * z
        if gable and inner:
            middle = 0.5 * (z0 + z1)
            top = wall_h + roof * np.maximum(1.0 - np.abs(z - middle) * (2.0 / (z1 - z0)), 0.0)
        cover = np.minimum(ye[:-1], top) - np.maximum(ye[1:], 0.0)
        cover /= tall
        np.maximum(cover, 0.0, out=cover)
        cover *= card.hspan(u0, u1)
        # Brightness: which face looks at the sun, and a little less light below.
        faces = 0.80 if (look.lx * t.x < 0) else 0.66
        if look.real:
            tone = 1.0 + (faces - 1.0) * side
            tone = tone * (0.88 + 0.14 * np.minimum(ye[:-1] * (1.0 / max(wall_h, 4.0)), 1.0))
        else:
            tone = 1.0 - 0.25 * side
        colour = look.lit(t.colour)
        card.paint(cover, colour)
        card.shade(tone)

        if gable:
            sill, height, seed = 0.9, 1.3, t.parts[3]
            px, py, dx, dy = 2.3, 2.7, 0.42, 0.46
            if wall_h < 3.6:
                py = wall_h + 0.2
            lift = sill
        else:
            px, py, dx, dy, seed, lift = *t.parts[:4], t.parts[4], t.parts[5] + (0.8 if t.variant else 0.0)
            height = 0.0
        p = along * (1.0 / px) - 0.29
        dp = p[1:] - p[:-1]
        fx = (_pulse(p[1:], dx) - _pulse(p[:-1], dx)) / np.where(np.abs(dp) < 1e-4, 1e-4, dp)
        q = (ye - lift) * (1.0 / py)
        fy = _pulse(q, dy)
        fy = (fy[:-1] - fy[1:]) * (py / tall)
        win = fy * fx
        win *= cover
        if gable:
            win *= np.minimum(np.maximum((wall_h - ye[:-1]) / tall + 0.5, 0.0), 1.0)
        else:
            win *= np.minimum(np.maximum((wall_h - 0.5 - ye[:-1]) / tall + 0.5, 0.0), 1.0)
        dark = s.mood.dark
        cx = np.floor(0.5 * (p[1:] + p[:-1])).astype(np.int32)
        cy = np.floor(0.5 * (q[1:] + q[:-1])).astype(np.int32)
        dice = _dice().take((cx * 131 + cy * 517 + seed * 7) & 4095)
        if dark:
            share = 0.45 if not gable else 0.6
            crisp = min(1.0, max(0.0, 1.9 - typical / py * 1.4))
            on = (dice < share) * crisp + share * (1 - crisp)
            warm = (1.0, 0.80, 0.42) if seed % 3 else (0.95, 0.92, 0.75)
            card.paint(win, look.lit((0.16, 0.18, 0.24)))
            card.paint(win * (on * (0.55 + 0.45 * dice * 2)).astype(_f), warm)
        else:
            glass = (0.20, 0.24, 0.30) if gable else t.accent
            card.paint(win, look.lit(glass))
            if look.real:
                card.paint(win * ((dice * 0.5) * (0.3 + 0.7 * (1 - side))), mix(s.mood.middle, s.mood.horizon, 0.5))
        if gable:
            self._roof(card, t, x0, x1, z0, z1, wall_h, roof, inner)
        else:
            band = np.minimum(np.maximum((ye[:-1] - (wall_h - 0.45)) / tall + 0.5, 0.0), 1.0) * cover
            card.paint(band, look.lit(mix(t.colour, (0.9, 0.9, 0.9), 0.3), 0.9 if t.variant else 0.7))
            if t.variant == 1:
                shop = np.minimum(np.maximum((2.7 - ye[1:]) / tall + 0.5, 0.0), 1.0) * cover
                glow = (0.98, 0.80, 0.50) if dark else look.lit(mix(t.accent, (0.2, 0.14, 0.1), 0.4))
                card.paint(shop * 0.85, glow)
        if look.real:
            card.shade(1.0 + 0.03 * _lookup(ye[:-1] * 9.0 + seed, along[1:] * 9.0 + 4096.0) * min(1.0, 0.9 / typical))
        self._commit(k, t, card, z, 0.5 * (ye[1:] + ye[:-1]) + t.foot)

    def _roof(self, c: Card, t: Thing, x0: float, x1: float, z0: float, z1: float, wall: float, roof: float, inner: float) -> None:
        s, look = self.s, self.look
        middle = 0.5 * (z0 + z1)
        va = s.horizon + (s.camera - t.foot - wall + 0.12) / z0
        vb = s.horizon + (s.camera - t.foot - wall - roof) / middle
        if vb >= va:
            return
        q = (c.y - va) * (1.0 / (vb - va))
        left = s.axis + (x0 - 0.3) / z0
        left2 = s.axis + (x0 - 0.3) / middle
        right = s.axis + (x1 + 0.3) / z0
        right2 = s.axis + (x1 + 0.3) / middle
        cover = c.hspan(left + (left2 - left) * q, right + (right2 - right) * q)
        cover *= c.vspan(vb, va)
        colour = look.lit(t.accent)
        c.paint(cover, colour)
        if look.real:
            rows = (va - vb) / max(c.pixel, 1e-6)
            lines = 0.10 * np.sin(q * 40.0) if rows > 34 else 0.0
            k = (0.16 * q - 0.10 + lines) * cover
            c.rgba[:3] *= 1.0 + k
        at = x0 + t.parts[1] * (x1 - x0)
        u = s.axis + at / middle
        w = 0.4 / middle
        top = s.horizon + (s.camera - t.foot - t.h + 0.02) / middle
        stack = c.hspan(u - w, u + w) * c.vspan(top, top + 1.1 / middle)
        c.paint(stack, look.lit(mix(t.colour, (0.5, 0.3, 0.25), 0.5), 0.85))
        # The door, on the front.
        at = (x0 + (0.30 + 0.4 * t.parts[2]) * (x1 - x0)) / z0 + s.axis
        base = s.horizon + (s.camera - t.foot) / z0
        door = c.hspan(at - 0.55 / z0, at + 0.55 / z0) * c.vspan(base - 2.1 / z0, base)
        c.paint(door, look.lit(mix(t.accent, (0.3, 0.18, 0.1), 0.5)))

    def _commit(self, k: int, t: Thing, card: Card, z: float | np.ndarray, y: np.ndarray | None) -> None:
        """Blend a finished window into the picture, its mirror image into water, and write its labels."""
        look, n = self.look, self.g.size
        rgba = card.rgba
        h, w = rgba.shape[1:]
        r0, c0 = card.r0, card.c0
        rows, cols = slice(r0, r0 + h), slice(c0, c0 + w)
        alpha = rgba[3]
        if y is None:
            rgba *= 1.0 - self.far[rows, cols]
        else:
            y = np.maximum(y, self.level if t.floats else t.foot)
        mine = alpha >= 0.5
        solid = mine
        if y is not None and not t.floats and self.level > t.foot:
            rgba *= _unit((y - self.level) / (z * self.g.step) + 0.5) * (not self.gone(t))
            mine = mine & (y >= self.level) & (not self.gone(t))
        if self.layers is not None:
            full = np.zeros((n, n), bool)
            full[rows, cols] = mine
            depth = np.full((n, n), np.inf, _f)
            depth[rows, cols] = z
            self.layers.append((k, full, depth))
        if t.z_end:
            # A block reaches back: what stands beside it, nearer than its wall, stays in front.
            hidden = self.front[rows, cols] < z
            if hidden.any():
                rgba *= ~hidden
                mine = mine & ~hidden
                solid = solid & ~hidden
        if look.real and y is not None:
            haze = look.haze(t.z) * 0.85
            if haze > 0.01:
                rgba[:3] *= 1.0 - haze
                rgba[:3] += _col(tuple(q * haze for q in self.haze_colour)) * alpha
            if self.wet is not None and r0 + h > self.r0:
                self._mirror(t, card, cols)
        image = self.image[:, rows, cols]
        image *= 1.0 - alpha
        image += rgba[:3]
        np.copyto(self.instance[rows, cols], k, where=mine)
        np.copyto(self.segment[rows, cols], _LIT[t.kind], where=mine)
        np.copyto(self.depth[rows, cols], z, where=mine)
        tall = TOP if y is None else np.minimum(y, TOP)
        np.copyto(self.height[rows, cols], tall, where=solid)
        np.copyto(self.front[rows, cols], z, where=solid)

    def gone(self, t: Thing) -> bool:
        """Is a thing wholly under water?"""
        return not t.floats and t.kind not in IN_SKY and t.foot + t.h <= self.level + 0.08

    def _mirror(self, t: Thing, card: Card, cols: slice) -> None:
        """The window upside down about its waterline, into whatever water lies in front of it."""
        s, n = self.s, self.g.size
        line = (s.horizon + (s.camera - self.level) / t.z) * n
        h = card.rgba.shape[1]
        # Target row r (centre r + 0.5) shows source row 2 * line - r - 1; both clipped to what exists.
        far = 2.0 * line - 1.0
        top = max(int(math.floor(far - (card.r0 + h - 1))), self.r0, int(math.floor(line - 0.5)))
        end = min(int(math.ceil(far - card.r0)) + 1, n)
        if top >= end:
            return
        wet = self.wet[top - self.r0 : end - self.r0, cols]
        if not wet.any():
            return
        src = far - np.arange(top, end) - card.r0
        k = np.floor(src).astype(np.int64)
        f = (src - k).astype(_f)[:, None]
        padded = np.zeros((4, h + 2, card.rgba.shape[2]), _f)
        padded[:, 1:-1] = card.rgba
        a = padded.take(np.minimum(np.maximum(k + 1, 0), h + 1), axis=1)
        b = padded.take(np.minimum(np.maximum(k + 2, 0), h + 1), axis=1)
        b -= a
        b *= f
        a += b
        m = wet * (self.fresnel[top - self.r0 : end - self.r0] * 0.85)
        a *= m
        image = self.image[:, top:end, cols]
        image *= 1.0 - a[3]
        image += a[:3]

    def _lights(self) -> None:
        """Glow around lamps and headlights after dark."""
        s, g = self.s, self.g
        n = g.size
        for t in s.things:
            if t.kind == "lamp":
                x, y, reach, power, c = t.x + t.parts[0] * 0.39, t.foot + t.h - 0.2, 1.5, 0.4, t.accent
            elif t.kind == "car" and t.variant:
                c = (1.0, 0.95, 0.8) if t.variant == 2 else (0.9, 0.15, 0.1)
                x, y, reach, power = t.x, t.foot + 0.46 * t.h, 1.6, 0.35 if t.variant == 2 else 0.2
                if y < self.level:
                    continue
            else:
                continue
            u, v, r = s.axis + x / t.z, s.horizon + (s.camera - y) / t.z, reach / t.z
            r0, r1, c0, c1 = self._window(u - r, v - r, u + r, v + r)
            if r0 >= r1 or c0 >= c1:
                continue
            dx, dy = (g.u[:, c0:c1] - u) * (1 / r), (g.v[r0:r1] - v) * (1 / r)
            k = 1.0 - (dx * dx + dy * dy)
            np.maximum(k, 0.0, out=k)
            k *= k
            k *= power
            image = self.image[:, r0:r1, c0:c1]
            image += _col(c) * k

    def pixels(self) -> np.ndarray:
        """The picture as uint8 [S, S, 3]."""
        a = self.image
        a *= 255.0
        a += 0.5
        np.maximum(a, 0.0, out=a)
        np.minimum(a, 255.0, out=a)
        return np.ascontiguousarray(a.astype(np.uint8).transpose(1, 2, 0))
