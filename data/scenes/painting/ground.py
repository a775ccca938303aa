"""The ground: land with its texture and strips, water on it, shadows, haze."""

import math

import numpy as np

from data.scenes.land import EDGE, Strip
from data.scenes.painting.canvas import Canvas, lay_over
from data.scenes.painting.rows import Rows, ground_rows
from data.scenes.painting.tables import column, lookup, pulse, smooth, unit
from data.scenes.painting.water import Mirror, fresnel, water_colour
from data.scenes.things.thing import Standing
from data.scenes.world import SEGMENT

# Textures of the land: wavelength in metres, strength, which of the scene's two shifts moves it
# along z and along x.
_TEXTURES = ((9.0, 0.45, 0, 1), (2.2, 0.5, 1, 0), (0.6, 0.45, 0, 0), (0.16, 0.4, 1, 1))
_DAMP_SHORES = ("sand", "grass", "snow")


def paint_ground(canvas: Canvas) -> Mirror | None:
    """Paint the ground; what mirrors things in water, if there is any."""
    scene, look, level = canvas.scene, canvas.look, canvas.level
    rows = ground_rows(canvas)
    if rows is None:
        return None
    wet = _wet(canvas, rows)
    colour, segment = _dry_ground(canvas, rows)
    mirror = None
    if wet is not None:
        if scene.relief.has_water and level == 0.0 and scene.ground in _DAMP_SHORES:
            damp = unit(1.0 - (rows.land - level) * (6.0 if scene.ground == "sand" else 9.0))
            colour *= 1.0 - damp * (0.32 if look.real else 0.15)
        shine = fresnel(scene, rows.v)
        water = water_colour(canvas, rows, shine)
        water -= colour
        water *= wet
        colour += water
        mirror = Mirror(rows.first, wet, shine)
        np.copyto(segment, SEGMENT["water"], where=rows.land < level)
    if look.real:
        _shadows(canvas, rows, colour)
    haze = 1.0 - np.exp(rows.z * (-1.0 / scene.mood.haze)) if look.real else np.zeros_like(rows.z)
    haze *= 0.85
    colour += (column(canvas.haze_colour) - colour) * haze
    _commit(canvas, rows, colour, segment)
    return mirror


def _commit(canvas: Canvas, rows: Rows, colour: np.ndarray, segment: np.ndarray) -> None:
    """Write the finished ground into the picture and its maps."""
    scene, size, first = canvas.scene, canvas.size, rows.first
    seen = unit((rows.v - rows.start) * size + 0.5)
    image = canvas.image
    image[:, first + 1 :] = colour[:, 1:]
    image[:, first] += (colour[:, 0] - image[:, first]) * float(seen[0, 0])
    solid = seen[:, 0] >= 0.5
    top = first + int(np.argmax(solid)) if solid.any() else size
    land = rows.land[top - first :]
    canvas.segment[top:] = segment[top - first :]
    canvas.height[top:] = land
    depth = (scene.camera - np.maximum(land, canvas.level)) / rows.fall[top - first :]
    canvas.depth[top:] = np.minimum(np.maximum(depth, 0.5), rows.farthest)


def _wet(canvas: Canvas, rows: Rows) -> np.ndarray | None:
    """How much of each pixel is under water, [h, S]; None where nothing is.

    The level is held against the land's slope across a pixel.
    """
    level, land = canvas.level, rows.land
    if level <= 0 and not canvas.scene.relief.has_water:
        return None
    across = np.abs(land[:, 1:] - land[:, :-1])
    along = np.abs(land[1:] - land[:-1])
    slope = np.full_like(land, 1e-4)
    slope[:, 1:] += across
    slope[:, 0] += across[:, 0] if canvas.size > 1 else 0
    slope[1:] += along
    wet = (level - land) / slope
    wet += 0.5
    unit(wet)
    return wet if wet.any() else None


def _dry_ground(canvas: Canvas, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """(colour [3, h, S], segment [h, S]) of the land and of what lies on it."""
    scene, look = canvas.scene, canvas.look
    near, far = (column(look.lit(c)) for c in scene.colours)
    colour = np.empty((3, *rows.x.shape), np.float32)
    colour[:] = near + (far - near) * np.minimum(rows.z * (1.0 / 60.0), 1.0)
    segment = np.full(rows.x.shape, SEGMENT[scene.ground], np.uint8)
    texture = _texture(canvas, rows) if look.real and scene.roughness > 0 else None
    for strip in scene.strips:
        _paint_strip(canvas, rows, strip, colour, segment)
    if texture is not None:
        colour *= texture
    return colour, segment


def _texture(canvas: Canvas, rows: Rows) -> np.ndarray | None:
    """Brightness of the land, about 1, [h, S]; None where pixels are too coarse for any."""
    scene, texture = canvas.scene, None
    for wave, amount, along, across in _TEXTURES:
        fade = unit(1.5 - rows.footprint[:, 0] * (2.0 / wave))
        first = int(np.argmax(fade > 0)) if fade[-1] > 0 else len(fade)
        if first >= len(fade):
            continue
        read, scale = (smooth, 32.0 / wave) if wave > 1.0 else (lookup, 8.0 / wave)
        grain = read(
            rows.z[first:] * scale + scene.shift[along],
            rows.x[first:] * scale + (8192.0 + scene.shift[across]),
        )
        grain *= fade[first:, None] * (amount * scene.roughness)
        if texture is None:
            texture = np.ones_like(rows.x)
        texture[first:] += grain
    return texture


def _paint_strip(
    canvas: Canvas, rows: Rows, strip: Strip, colour: np.ndarray, segment: np.ndarray
) -> None:
    """Lay a strip on the colour and the segments of the land."""
    scene, look, grid = canvas.scene, canvas.look, canvas.view.grid
    size, step = grid.size, grid.step
    first, end = 0, len(rows.z)
    if strip.far < EDGE:
        first = max(int((scene.horizon + scene.camera / strip.far) * size - rows.first), 0)
    if strip.near > 0:
        low = (scene.horizon + scene.camera / strip.near) * size - rows.first
        end = min(int(math.ceil(low)), end)
    if first >= end:
        return
    z = rows.z[first:end]
    v = grid.v[rows.first + first : rows.first + end]
    middle = strip.line.at(z) / z + scene.axis
    half = strip.half / z
    pixel = step * 0.5
    cover = np.minimum(grid.u + pixel, middle + half) - np.maximum(grid.u - pixel, middle - half)
    np.maximum(cover, 0.0, out=cover)
    cover *= size
    if strip.far < EDGE or strip.near > 0:
        top = scene.horizon + scene.camera / strip.far
        bottom = scene.horizon + scene.camera / max(strip.near, 0.1)
        inside = np.minimum(v + pixel, bottom) - np.maximum(v - pixel, top)
        cover *= np.maximum(inside, 0.0) * size
    if strip.dash:
        fall = np.maximum(v - pixel - scene.horizon, scene.camera / EDGE)
        near, far = scene.camera / (fall + step), scene.camera / fall
        rate = 1.0 / strip.dash
        share = pulse(far * rate, 0.45) - pulse(near * rate, 0.45)
        cover *= share / np.maximum((far - near) * rate, 1e-6)
    own = column(look.lit(strip.colour))
    if strip.furrow and look.real:
        fade = unit(1.5 - z * (step * 3.0 / strip.furrow))
        furrows = np.cos((rows.x[first:end] - strip.line.slope * z) * (2 * math.pi / strip.furrow))
        furrows *= 0.16 * fade
        furrows += 1.0
        own = own * furrows
    lay_over(colour[:, first:end], own, cover)
    np.copyto(segment[first:end], SEGMENT[strip.segment], where=cover >= 0.5)


def _shadows(canvas: Canvas, rows: Rows, colour: np.ndarray) -> None:
    """Darken an ellipse of ground at the foot of every thing, drawn out away from the sun."""
    scene, look, grid = canvas.scene, canvas.look, canvas.view.grid
    size, first, strength = grid.size, rows.first, scene.mood.shadow
    shade = None
    for thing in scene.things:
        if not isinstance(thing, Standing) or not thing.casts_shadow:
            continue
        if canvas.level > thing.foot + 0.05:
            continue
        u = scene.axis + thing.x / thing.z
        v = scene.horizon + (scene.camera - thing.foot) / thing.z
        reach = min(0.9 * thing.height, 5.0) * -look.sun_side
        wide = (0.55 * thing.width + 0.5 * abs(reach)) / thing.z
        deep = max(0.10 * thing.width, 0.22) * (v - scene.horizon) / thing.z * 2.2 + 0.004
        u += 0.5 * reach / thing.z
        left, right = max(int((u - wide) * size), 0), min(int((u + wide) * size) + 1, size)
        top = max(int((v - deep) * size) - first, 0)
        bottom = min(int((v + deep) * size) + 1 - first, size - first)
        if left >= right or top >= bottom:
            continue
        across = (grid.u[:, left:right] - u) * (1 / wide)
        down = (rows.v[top:bottom] - v) * (1 / deep)
        dark = 1.0 - (across * across + down * down)
        dark = np.minimum(np.maximum(dark, 0.0, out=dark) * 1.6, 1.0)
        dark *= -(strength * 0.9 + 0.1)
        dark += 1.0
        if shade is None:
            shade = np.ones(colour.shape[1:], np.float32)
        shade[top:bottom, left:right] *= dark
    if shade is not None:
        colour *= shade
