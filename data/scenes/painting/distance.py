"""What closes the view far away: ridges, with their texture, snow and windows."""

import math

import numpy as np

from data.scenes.draw import mix
from data.scenes.painting.canvas import Canvas, lay_over
from data.scenes.painting.tables import column, dice, lookup, pulse, unit, unit_copy
from data.scenes.ridges import COLUMNS, Ridge
from data.scenes.world import SEGMENT, TOP

_EDGES = np.arange(COLUMNS + 1) / COLUMNS  # u of the columns' edges


def paint_ridge(canvas: Canvas, ridge: Ridge) -> None:
    """Paint one ridge over what lies behind it."""
    scene, look, grid = canvas.scene, canvas.look, canvas.view.grid
    size = grid.size
    foot = scene.horizon + scene.camera / ridge.z
    first, end = max(int(ridge.highest * size) - 1, 0), min(int(math.ceil(foot * size)), size)
    if first >= end:
        return
    rows = slice(first, end)
    v = grid.v[rows]
    edge = np.interp(grid.edges, _EDGES, ridge.summed)
    top = (np.diff(edge) * size).astype(np.float32)[None, :]
    cover = unit((v - top) * size + 0.5)
    cover *= unit((foot - v) * size + 0.5)
    haze = look.haze(ridge.z) * 0.8
    colour = column(mix(look.lit(ridge.colour), canvas.haze_colour, haze))
    texture = None
    if look.real:
        texture = _texture(canvas, ridge, v, top)
        colour = colour * texture
        # Haze lies deeper in the valleys.
        deep = unit_copy(1.0 - (foot - v) * 9.0)
        colour += (column(canvas.haze_colour) - colour) * deep * (0.75 * haze)
    colour = _with_snow(canvas, ridge, colour, texture, v, haze)
    if ridge.windows:
        colour = _with_windows(canvas, ridge, colour, v, top, haze)
    lay_over(canvas.image[:, rows], colour, cover)
    np.maximum(canvas.sky_hidden[rows], cover, out=canvas.sky_hidden[rows])
    solid = cover >= 0.5
    np.copyto(canvas.segment[rows], SEGMENT[ridge.segment], where=solid)
    np.copyto(canvas.depth[rows], ridge.z, where=solid)
    height = np.minimum((scene.horizon - v) * ridge.z + scene.camera, TOP)
    # No flood reaches a ridge.
    np.copyto(canvas.height[rows], np.maximum(height, scene.flood_level + 0.01), where=solid)


def _texture(canvas: Canvas, ridge: Ridge, v: np.ndarray, top: np.ndarray) -> np.ndarray:
    """Brightness of every pixel, about 1, [h, w]."""
    scene, grid = canvas.scene, canvas.view.grid
    size, rough = grid.size, ridge.roughness
    shift_row, shift_col = scene.shift
    down = v - top
    fade = min(1.0, max(0.0, 1.5 - grid.step * 60.0))
    x, y = grid.u * 150.0 + shift_row, v * 260.0 + shift_col
    texture = lookup(y, x + (down * 90.0 if ridge.segment == "mountain" else 0.0))
    texture *= 0.13 * rough * fade
    if size > 100 and rough > 0:
        strength = 0.10 * rough * min(1.0, size / 100.0 - 1.0)
        texture += strength * lookup(y * 3.0, x * 3.1)
    if ridge.summits is not None:
        # Two faces to a summit, parted by a ragged crest that runs down from it.
        warp = lookup(v * 420.0 + shift_row, grid.u * 230.0 + shift_col)
        at = grid.u + warp * 0.012
        at *= COLUMNS
        np.minimum(np.maximum(at, 0.0, out=at), COLUMNS - 1.0, out=at)
        face = grid.u - ridge.summits.take(at.astype(np.int32))
        face /= down + 0.03
        face += 0.35 * warp
        face += 0.35 * lookup(v * 150.0 + shift_col, grid.u * 60.0)
        face *= min(5.0, 0.08 * size)
        np.minimum(np.maximum(face, -1.0, out=face), 1.0, out=face)
        face *= 0.24 if canvas.look.sun_side > 0 else -0.24
        texture += face
    texture += 1.0
    return texture


def _with_snow(
    canvas: Canvas,
    ridge: Ridge,
    colour: np.ndarray,
    texture: np.ndarray | None,
    v: np.ndarray,
    haze: float,
) -> np.ndarray:
    """The colour, with the peak's above its line if there is a peak."""
    if ridge.peak is None:
        return colour
    look, grid = canvas.look, canvas.view.grid
    line: float | np.ndarray = ridge.peak_v
    crisp = float(grid.size)
    if look.real:
        line = line + 0.03 * lookup(grid.u * 0 + canvas.scene.shift[1], grid.u * 190.0)
        crisp = min(crisp, 60.0)
    snow = unit((line - v) * crisp + 0.5)
    peak = column(mix(look.lit(ridge.peak), canvas.haze_colour, haze * 0.8))
    if texture is not None:
        peak = peak * texture
    return colour + (peak - colour) * snow


def _with_windows(
    canvas: Canvas, ridge: Ridge, colour: np.ndarray, v: np.ndarray, top: np.ndarray, haze: float
) -> np.ndarray:
    """The colour, with windows in a regular grid."""
    look, grid, horizon = canvas.look, canvas.view.grid, canvas.scene.horizon
    dark, step = look.mood.dark, grid.step
    across, up = 90.0, 120.0  # windows in an image height
    x, y = grid.u * across, (v - horizon) * up
    lit = dice().take((y.astype(np.int32) * 37 + x.astype(np.int32) * 101) & 4095)
    half = step / 2
    wide = pulse((grid.u + half) * across, 0.5) - pulse((grid.u - half) * across, 0.5)
    wide = wide / (across * step)
    high = pulse((v - horizon + half) * up, 0.55) - pulse((v - horizon - half) * up, 0.55)
    high = high / (up * step)
    crisp = max(0.0, min(1.0, 1.8 - across * step * 0.8))
    lit = (lit < ridge.windows) * crisp + ridge.windows * (1 - crisp)
    panes = (wide * high) * lit * (0.85 if dark else 0.35) * (v > top + 0.008)
    glass = (1.0, 0.82, 0.48)
    if not dark:
        glass = mix(look.lit((0.3, 0.34, 0.4)), canvas.haze_colour, haze)
    return colour + (column(glass) - colour) * panes
