"""The window that a thing is painted in.

Coverage of a pixel comes from exact overlaps (spans and profiles) or from signed distances (round
shapes): anti-aliased without supersampling.
"""

import numpy as np

from data.scenes.draw import Colour
from data.scenes.painting.tables import lookup, unit

Edge = float | np.ndarray  # a number, or float32 [h, 1]


def array(rows: object) -> np.ndarray:
    """float32."""
    return np.array(rows, dtype=np.float32)


class Card:
    """A window of h x w pixels in a thing's own metres.

    rows, cols  where in the picture
    x, y        [1, w] from its middle, [h, 1] from its foot
    pixel       the width of a pixel, metres
    depth       metres to the camera, a number or [1, w]
    above       metres above the base plane, [h, 1] or [h, w], the foot's at least; None in the sky
    rgba        what is painted, premultiplied, planar float32 [4, h, w]
    """

    def __init__(
        self,
        rows: slice,
        cols: slice,
        x: np.ndarray,
        y: np.ndarray,
        pixel: float,
        depth: float | np.ndarray,
        above: np.ndarray | None,
    ) -> None:
        self.rows, self.cols = rows, cols
        self.x, self.y = x, y
        self.pixel = pixel
        self.depth, self.above = depth, above
        self.per_metre = 1.0 / pixel
        half = pixel * 0.5
        self._left, self._right = x - half, x + half  # the pixels' edges
        self._low, self._high = y - half, y + half
        self._blank = True
        self.rgba = np.zeros((4, y.shape[0], x.shape[1]), np.float32)

    def hspan(self, left: Edge, right: Edge) -> np.ndarray:
        """Share of each pixel's width inside [left, right]."""
        cover = np.minimum(self._right, right) - np.maximum(self._left, left)
        cover *= self.per_metre
        return np.maximum(cover, 0.0, out=cover)

    def vspan(self, low: Edge, high: Edge) -> np.ndarray:
        """Share of each pixel's height inside [low, high]."""
        cover = np.minimum(self._high, high) - np.maximum(self._low, low)
        cover *= self.per_metre
        return np.maximum(cover, 0.0, out=cover)

    def bar(self, left: float, right: float, low: float, high: float) -> np.ndarray:
        """Exact coverage of an upright rectangle, [h, w]."""
        return self.hspan(left, right) * self.vspan(low, high)

    def bars(self, *bars: tuple[float, float, float, float]) -> np.ndarray:
        """Union of rectangles (left, right, low, high), [h, w]."""
        left, right, low, high = array(bars).T[:, :, None, None]
        return (self.hspan(left, right) * self.vspan(low, high)).max(0)

    def ellipse(self, x: float, y: float, half_width: float, half_height: float) -> np.ndarray:
        """Coverage of one ellipse about (x, y), [h, w]."""
        across = (self.x - x) / half_width
        across *= across
        up = (self.y - y) / half_height
        up *= up
        return self._within(across + up, min(half_width, half_height), self.pixel)

    def ellipses(self, ellipses: np.ndarray, soft: float = 0.0) -> np.ndarray:
        """Union of ellipses [K, 4] (middle x, y, half axes): coverage from the distance, [h, w].

        `soft` metres widen the edge.
        """
        x, y, half_width, half_height = ellipses.T[:, :, None, None]
        across = (self.x - x) / half_width
        across *= across
        up = (self.y - y) / half_height
        up *= up
        size = min(ellipses[0, 2:].tolist())  # the first stands for all
        return self._within((across + up).min(0), size, max(self.pixel, soft))

    def _within(self, squared: np.ndarray, size: float, edge: float) -> np.ndarray:
        """Coverage from the squared distance in half axes, in place: `size` metres are one half
        axis, `edge` is the width over which coverage falls.
        """
        np.sqrt(squared, out=squared)
        squared -= 1.0
        squared *= -float(np.float32(size)) / edge
        squared += 0.5
        return unit(squared)

    def paint(self, cover: np.ndarray, colour: Colour) -> None:
        """Lay a colour over what is painted, where and as much as `cover` [h, w] says."""
        opaque = np.array((*colour, 1.0), dtype=np.float32).reshape(4, 1, 1)
        if self._blank:  # the same as below, in one step
            np.multiply(opaque, cover, out=self.rgba)
            self._blank = False
            return
        change = opaque - self.rgba
        change *= cover
        self.rgba += change

    def shade(self, factor: np.ndarray, grain: np.ndarray | None = None) -> None:
        """Multiply what is painted by `factor`, plus the grain if there is one."""
        self.rgba[:3] *= factor if grain is None else factor + grain

    def grain(self, wave: float, amount: float, shift: int) -> np.ndarray | None:
        """Noise of a wavelength in metres, faded where pixels are too coarse for it; None where it
        is gone.
        """
        fade = 1.6 - 3.0 * self.pixel / wave
        if fade <= 0:
            return None
        scale = 8.0 / wave
        grain = lookup(
            self.y * scale + float(shift & 255), self.x * scale + float(shift >> 8 & 255) + 4096.0
        )
        grain *= amount * min(fade, 1.0)
        return grain
