"""Water: its own colour, the far side mirrored in it, and things upside down."""

import math

import numpy as np

from data.scenes.draw import mix
from data.scenes.painting.canvas import Canvas
from data.scenes.painting.card import Card
from data.scenes.painting.rows import Rows
from data.scenes.painting.tables import column, smooth, unit
from data.scenes.world import Scene

# Waves: length in metres, strength, turn.
_WAVES = ((3.0, 1.0, 0.25), (0.8, 0.6, -0.3))


def fresnel(scene: Scene, v: np.ndarray) -> np.ndarray:
    """The share of light that water throws back, more of it towards the horizon."""
    return 0.30 + 0.58 * np.exp((v - scene.horizon) * -3.2)


def water_colour(canvas: Canvas, rows: Rows, shine: np.ndarray) -> np.ndarray:
    """Colour of water everywhere on the ground's rows: what is painted above the horizon mirrored,
    and the water's own, [3, h, S].
    """
    scene, look, grid = canvas.scene, canvas.look, canvas.view.grid
    size, mood = grid.size, scene.mood
    own = scene.water
    if canvas.flooded:
        own = mix(scene.water, scene.murk, 0.55) if scene.relief.has_water else scene.murk
    own = look.lit(own)
    if not look.real:
        flat = np.empty((3, *rows.x.shape), np.float32)
        flat[:] = column(mix(own, look.sky(mood.middle), 0.35))
        return flat
    long, short = (_wave(scene, rows, *shape) for shape in _WAVES)
    wave = long + short
    # Mirror row of every pixel, moved by the waves, read between two rows.
    row = (scene.horizon - (rows.v - scene.horizon)) * size - 0.5
    row = row + wave * (0.010 * size)
    np.minimum(np.maximum(row, 0.0, out=row), max(rows.first - 1.001, 0.0), out=row)
    whole = row.astype(np.int32)
    between = row - whole
    flat = canvas.image.reshape(3, -1)
    at = whole * size + np.arange(size, dtype=np.int32)
    colour = flat.take(at, axis=1)
    below = flat.take(at + size * (1 if rows.first > 1 else 0), axis=1)
    below -= colour
    below *= between
    colour += below
    own_column = column(own)
    colour -= own_column
    colour *= shine
    colour += own_column
    wave *= 0.10
    wave += 1.0
    colour *= wave
    if mood.light[0] > 0.4 and mood.shadow > 0.16:
        # A road of light below the sun.
        across = (grid.u - scene.sun[0]) * (1.0 / 0.10)
        road = np.exp(-(across * across)) * np.maximum(wave - 1.0, 0.0) * 3.0
        road += 0.10 * np.exp(-(across * across))
        colour += column(mood.sun) * road
    if scene.relief.has_surf and not canvas.flooded:
        # Foam where the sea runs out, and one line of it further out.
        foam = unit(1.0 - np.abs(rows.land + 0.05) * 14.0)
        foam = foam + 0.6 * unit(1.0 - np.abs(rows.land + 0.32) * 12.0)
        foam *= unit(wave * 5.0 - 4.3)
        colour += (column(look.lit((0.97, 0.98, 0.98))) - colour) * foam
    return colour


def _wave(scene: Scene, rows: Rows, length: float, amount: float, turn: float) -> np.ndarray:
    """Heights of the waves of one length, faded where pixels are too coarse for them, [h, S]."""
    fade = unit(1.5 - rows.footprint * (1.4 / length))
    scale = 32.0 / length
    wave = smooth(
        rows.z * scale + scene.shift[1],
        (rows.x * 0.35 + turn * rows.z) * scale + (8192.0 + scene.shift[0]),
    )
    wave *= fade * amount
    return wave


class Mirror:
    """The water of a picture, in which things are seen upside down.

    first   the row of the picture that `wet` [h, S], how much of a pixel is water, begins at
    shine   [h, 1], see `fresnel`
    """

    def __init__(self, first: int, wet: np.ndarray, shine: np.ndarray) -> None:
        self.first = first
        self.wet = wet
        self.shine = shine

    def reflect(self, canvas: Canvas, card: Card, z: float) -> None:
        """Blend a card that stands z metres away, turned about its waterline, into the water."""
        scene, size = canvas.scene, canvas.size
        line = (scene.horizon + (scene.camera - canvas.level) / z) * size
        first, height = card.rows.start, card.rgba.shape[1]
        if first + height <= self.first:
            return
        # Target row r (centre r + 0.5) shows source row 2 * line - r - 1; both clipped to what
        # exists.
        far = 2.0 * line - 1.0
        top = max(
            int(math.floor(far - (first + height - 1))), self.first, int(math.floor(line - 0.5))
        )
        end = min(int(math.ceil(far - first)) + 1, size)
        if top >= end:
            return
        rows = slice(top - self.first, end - self.first)
        wet = self.wet[rows, card.cols]
        if not wet.any():
            return
        source = far - np.arange(top, end) - first
        whole = np.floor(source).astype(np.int64)
        between = (source - whole).astype(np.float32)[:, None]
        padded = np.zeros((4, height + 2, card.rgba.shape[2]), np.float32)
        padded[:, 1:-1] = card.rgba
        mirrored = padded.take(np.minimum(np.maximum(whole + 1, 0), height + 1), axis=1)
        below = padded.take(np.minimum(np.maximum(whole + 2, 0), height + 1), axis=1)
        below -= mirrored
        below *= between
        mirrored += below
        mirrored *= wet * (self.shine[rows] * 0.85)
        image = canvas.image[:, top:end, card.cols]
        image *= 1.0 - mirrored[3]
        image += mirrored[:3]
