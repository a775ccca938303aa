"""Procedural scenes, part two: the pencils - noise tables, styles, the window a thing is painted
in, and what each kind of thing looks like.

Coverage of a pixel comes from exact overlaps (spans and profiles) or from signed distances (round
shapes): anti-aliased without supersampling. A thing is composed in its own small window of
premultiplied RGBA, planar float32 ([4, h, w]).
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from data.scene_plan import Colour, Draw, Scene, Thing, mix

_f = np.float32


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


def lookup(rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """Noise at table coordinates (broadcasting, any range)."""
    r = rows.astype(np.int32) & 255
    c = cols.astype(np.int32) & 255
    return noise().take((r << 8) + c)


def smooth(rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """Noise from the fine table: cells of 32 texels, for waves much longer than a pixel."""
    r = rows.astype(np.int32) & 511
    c = cols.astype(np.int32) & 511
    return fine_noise().take((r << 9) + c)


def unit(a: np.ndarray) -> np.ndarray:
    """Clip to [0, 1], in place."""
    np.maximum(a, 0.0, out=a)
    return np.minimum(a, 1.0, out=a)


def column(c: Colour) -> np.ndarray:
    return np.array(c, dtype=_f).reshape(3, 1, 1)


def pulse(t: np.ndarray, duty: float) -> np.ndarray:
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
    """A window of pixels in a thing's own metres: x [1, w] from its middle, y [h, 1] from its
    foot.
    """

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
        return unit(k)

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
        n = lookup(self.y * k + float(shift & 255), self.x * k + float(shift >> 8 & 255) + 4096.0)
        n *= amount * min(fade, 1.0)
        return n


def _a(rows: object) -> np.ndarray:
    return np.array(rows, dtype=_f)


# -- what things look like -------------------------------------------------------------------------
def _tree(c: Card, t: Thing, s: Look) -> None:
    h = t.h
    c.paint(
        c.hspan(-0.035 * h - 0.02 * (h - c.y), 0.035 * h + 0.02 * (h - c.y)) * c.vspan(0, 0.6 * h),
        s.lit(t.accent),
    )
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
        snow = body * unit(top + (0.25 * s.lx / w) * c.x)
        c.paint(snow * 0.9, s.lit((0.93, 0.95, 0.99)))
    if s.real:
        k = (
            0.92
            + (0.4 * s.lx / w) * c.x
            + (0.35 * fade) * (0.5 - saw if not t.variant else 0.0 * saw)
        )
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
    cover = unit((thick - np.abs(c.y - y0 - arc)) * c.inv + 0.5) * (thick > 0)
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
    cover = unit((top - c.y) * c.inv + 0.5) * c.hspan(-t.w / 2, t.w / 2) * c.vspan(0.0, t.h)
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
        c.paint(
            c.bars(_a([(-0.44 * w, -0.26 * w, 0.0, 0.3 * h), (0.26 * w, 0.44 * w, 0.0, 0.3 * h)])),
            dark,
        )
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
        c.paint(
            c.hspan(left + 0.03 * w, right - 0.03 * w) * c.vspan(0.58 * h, 0.93 * h),
            s.lit(t.accent),
        )
        c.paint(c.bar(-0.5 * w, 0.5 * w, 0.18 * h, 0.58 * h), s.lit(t.colour))
        r = 0.21 * h
        c.paint(c.blobs(_a([(-0.3 * w, r, r, r), (0.3 * w, r, r, r)])), dark)
        c.paint(
            c.blobs(_a([(-0.3 * w, r, r / 2, r / 2), (0.3 * w, r, r / 2, r / 2)])),
            s.lit((0.6, 0.6, 0.62)),
        )
    if s.real:
        c.shade(0.80 + 0.32 * (c.y / h) + (0.2 * s.lx / w) * c.x)


def _person(c: Card, t: Thing, s: Look) -> None:
    h = t.h
    skin, hair, stride = t.parts
    a = stride * h
    c.paint(
        c.bars(
            _a(
                [
                    (-a - 0.045 * h, -a + 0.045 * h, 0.0, 0.49 * h),
                    (a - 0.045 * h, a + 0.045 * h, 0.0, 0.49 * h),
                ]
            )
        ),
        s.lit(t.accent),
    )
    half = h * (0.085 + 0.05 * np.minimum(np.maximum((c.y - 0.46 * h) / (0.36 * h), 0.0), 1.0))
    if t.variant:  # a skirt or a long coat
        half = half + h * np.maximum(0.10 * (0.62 * h - c.y) / (0.3 * h), 0.0)
    c.paint(
        c.hspan(-half, half) * c.vspan((0.3 if t.variant else 0.46) * h, 0.83 * h), s.lit(t.colour)
    )
    c.paint(
        c.bars(
            _a(
                [
                    (-0.178 * h, -0.125 * h, 0.42 * h, 0.81 * h),
                    (0.125 * h, 0.178 * h, 0.42 * h, 0.81 * h),
                ]
            )
        ),
        s.lit(t.colour, 0.86),
    )
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
    pole = _a(
        [(at - 0.07, at + 0.07, 0.0, h), (at - 0.13, at + 0.13, 0.0, 0.7), (a, b, h - 0.12, h)]
    )
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
    c.paint(
        top
        * (
            c.hspan(-0.66 * stripe, -0.33 * stripe)
            + c.hspan(0.0 * stripe, 0.33 * stripe)
            + c.hspan(0.66 * stripe, stripe)
        ),
        s.lit(t.accent),
    )
    if s.real:
        c.shade(0.95 + (0.35 * s.lx / w) * c.x)


def _lighthouse(c: Card, t: Thing, s: Look) -> None:
    h = t.h
    rock = c.blobs(
        _a([(0.0, 0.0, 0.16 * h, 0.09 * h), (-0.07 * h, 0.0, 0.09 * h, 0.06 * h)])
    ) * c.vspan(0.0, h)
    c.paint(rock, s.lit((0.36, 0.35, 0.34)))
    y = c.y / h
    half = h * (0.105 - 0.05 * y)
    tower = c.hspan(-half, half) * c.vspan(0.05 * h, 0.84 * h)
    c.paint(tower, s.lit(t.colour))
    edge = c.pixel / h * 0.5
    n = 5.0 / 0.79
    band = (pulse((y + edge - 0.05) * n * 0.5, 0.5) - pulse((y - edge - 0.05) * n * 0.5, 0.5)) / (
        edge * n
    )
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
    c.paint(
        c.blobs(
            _a(
                [
                    (0.0, 0.2 * h, 0.26 * h, 0.22 * h),
                    (0.0, 0.5 * h, 0.19 * h, 0.17 * h),
                    (0.0, 0.73 * h, 0.13 * h, 0.12 * h),
                ]
            )
        )
        * c.vspan(0.0, h),
        s.lit(t.colour),
    )
    c.paint(
        c.bars(
            _a(
                [
                    (-0.10 * h, 0.10 * h, 0.83 * h, 0.99 * h),
                    (-0.15 * h, 0.15 * h, 0.82 * h, 0.86 * h),
                ]
            )
        ),
        s.lit((0.1, 0.1, 0.12)),
    )
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
    flat = unit(c.y * (1.0 / (0.10 * t.h)) + 0.0)
    cover = c.blobs(blobs, 0.09 * t.h if s.real else 0.0)
    cover *= flat if s.real else c.vspan(0.0, 2 * t.h)
    if s.real:
        c.paint(cover, under)
        top = c.blobs(
            blobs * _a((1, 1, 0.9, 0.85)) + _a((0.02 * t.w * s.lx, 0.16 * t.h, 0, 0)), 0.45 * t.h
        )
        top *= cover
        c.paint(top, lit)
    else:
        c.paint(cover, s.sky(mix(under, lit, 0.8)))


def _sun(c: Card, t: Thing, s: Look) -> None:
    r = t.w / 2
    c.paint(
        c.blobs(_a([(0.0, r, r, r)])),
        t.colour if s.real else s.sky(mix(t.colour, (1.0, 0.85, 0.2), 0.5)),
    )


def _moon(c: Card, t: Thing, s: Look) -> None:
    r = t.w / 2
    disc = c.blobs(_a([(0.0, r, r, r)]))
    c.paint(disc, t.colour)
    spots = _a(
        [
            (-0.3 * r, 1.25 * r, 0.28 * r, 0.24 * r),
            (0.3 * r, 0.8 * r, 0.22 * r, 0.3 * r),
            (0.1 * r, 1.5 * r, 0.16 * r, 0.14 * r),
        ]
    )
    c.paint(c.blobs(spots, 0.1 * r) * disc * 0.7, t.accent)


PAINT = {
    "tree": _tree, "conifer": _conifer, "palm": _palm, "cactus": _cactus, "bush": _bush,
    "rock": _rock,
    "car": _car, "person": _person, "boat": _boat, "lamp": _lamp, "parasol": _parasol,
    "lighthouse": _lighthouse, "haystack": _haystack, "snowman": _snowman, "cloud": _cloud,
    "sun": _sun,
    "moon": _moon,
}  # fmt: skip
