"""The sky: its colours, the glow about the sun, thin cloud and stars."""

import numpy as np

from data.scenes.draw import mix
from data.scenes.land import EDGE
from data.scenes.painting.canvas import Canvas, lay_over
from data.scenes.painting.tables import column, dice, lookup, unit


def paint_sky(canvas: Canvas) -> None:
    """Paint the sky down to where the ground begins."""
    scene, grid, mood, look = canvas.scene, canvas.view.grid, canvas.scene.mood, canvas.look
    stop = scene.horizon + scene.camera / min([r.z for r in scene.ridges], default=EDGE)
    rows = min(grid.size, int(stop * grid.size) + 1)
    v = grid.v[:rows]
    down = np.minimum(v * (1.0 / stop), 1.0)[:, 0]
    stops = np.array(
        [look.sky(c) for c in (mood.zenith, mood.middle, mood.horizon)], dtype=np.float32
    )
    sky = np.stack([np.interp(down, (0.0, 0.62, 1.0), stops[:, k]) for k in range(3)])
    image = canvas.image[:, :rows]
    image[:] = sky.astype(np.float32)[:, :, None]
    if not look.real:
        return
    sun_u, sun_v = scene.sun
    across, up = grid.u - sun_u, v - sun_v
    squared = across * across + up * up
    glow = np.exp(squared * -9.0)
    if not mood.dark or mood.light[0] > 0.4:
        glow *= 0.40
        glow += 0.45 * np.exp(squared * -90.0)
    else:
        glow *= 0.22
    lay_over(image, column(mood.sun), glow)
    if scene.veil > 0.25:
        _paint_veil(canvas, image, v, stop)
    if mood.light[0] < 0.4:
        _paint_stars(canvas)


def _paint_veil(canvas: Canvas, image: np.ndarray, v: np.ndarray, stop: float) -> None:
    """Thin cloud on a plane overhead: it closes up towards the horizon."""
    scene, grid, mood = canvas.scene, canvas.view.grid, canvas.scene.mood
    row, col = scene.shift
    far = 1.0 / (stop + 0.12 - v)
    fade = unit(1.8 - far * (far * grid.step) * 6.0) * (scene.veil * 0.55)
    x = (grid.u - scene.axis) * far * 9.0 + (far * 4.0)
    cloud = lookup(far * 22.0 + row, x * 0.8 + (256.0 * 16 + col))
    cloud += 0.5 * lookup(far * 50.0 + col, x * 2.1 + (256.0 * 16 + row))
    cloud -= 0.1
    cloud *= fade
    np.maximum(cloud, 0.0, out=cloud)
    lay_over(image, column(mix(mood.horizon, mood.sun, 0.5)), cloud)


def _paint_stars(canvas: Canvas) -> None:
    """Sixty small discs: where one is smaller than a pixel it only gets dimmer."""
    scene, grid = canvas.scene, canvas.view.grid
    fixed = dice()
    first = (scene.shift[0] * 256 + scene.shift[1]) % 3000
    u = fixed[first : first + 60]
    v = fixed[first + 60 : first + 120] * (scene.horizon * 0.8)
    bright = fixed[first + 120 : first + 180]
    radius = 0.0035
    share = np.minimum(1.0, (radius / grid.step) ** 2 * 1.8) * bright
    at = (v * grid.size).astype(int), (u * grid.size).astype(int)
    for channel, tint in zip(canvas.image, (0.75, 0.8, 0.95), strict=True):
        np.add.at(channel, at, share * tint)
