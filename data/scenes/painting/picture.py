"""A scene painted: sky, ridges, ground, and its things far to near.

The label of a pixel changes where a thing covers at least half of it. A finished window is blended
into the picture once, and once more, upside down, into water.
"""

import numpy as np

from data.scenes.painting.canvas import Canvas
from data.scenes.painting.card import Card
from data.scenes.painting.distance import paint_ridge
from data.scenes.painting.ground import paint_ground
from data.scenes.painting.sky import paint_sky
from data.scenes.painting.tables import column, unit
from data.scenes.things.thing import Thing
from data.scenes.world import SEGMENT, TOP, Scene


class Picture(Canvas):
    """One scene painted at one size. `layers` (tests, with trace) collects every thing's own
    (index, coverage [S, S], depth [S, S]).

    water   bool [S, S], where the height is below the level
    """

    def __init__(
        self, scene: Scene, size: int, style: str, flooded: bool, trace: bool = False
    ) -> None:
        super().__init__(scene, size, style, flooded)
        self.layers: list[tuple[int, np.ndarray, np.ndarray]] | None = [] if trace else None
        paint_sky(self)
        for ridge in scene.ridges:
            paint_ridge(self, ridge)
        self.mirror = paint_ground(self)
        for index, thing in enumerate(scene.things):
            card = thing.painted(self.view, self.look)
            if card is not None:
                self._commit(index, thing, card)
        self.water = self.height < self.level
        if self.water.any():
            np.copyto(self.segment, SEGMENT["water"], where=self.water)
            np.copyto(self.instance, -1, where=self.water)
        if self.look.real and scene.mood.dark:
            self._shine()

    def _commit(self, index: int, thing: Thing, card: Card) -> None:
        """Blend a finished window into the picture, its mirror image into water, and write its
        labels.
        """
        look, rgba, rows, cols, depth = self.look, card.rgba, card.rows, card.cols, card.depth
        alpha = rgba[3]
        above = card.above
        if above is None:
            rgba *= 1.0 - self.sky_hidden[rows, cols]
        mine = alpha >= 0.5
        solid = mine
        if above is not None and thing.in_water(self.level):
            afloat = not thing.drowned(self.level)
            rgba *= unit((above - self.level) / (depth * self.view.grid.step) + 0.5) * afloat
            mine = mine & (above >= self.level) & afloat
        if self.layers is not None:
            self.layers.append((index, *self._traced(card, mine)))
        if thing.is_block:
            # A block reaches back: what stands beside it, nearer than its wall, stays in front.
            hidden = self.front[rows, cols] < depth
            if hidden.any():
                rgba *= ~hidden
                mine = mine & ~hidden
                solid = solid & ~hidden
        if look.real and above is not None:
            haze = look.haze(thing.z) * 0.85
            if haze > 0.01:
                rgba[:3] *= 1.0 - haze
                red, green, blue = self.haze_colour
                rgba[:3] += column((haze * red, haze * green, haze * blue)) * alpha
            if self.mirror is not None:
                self.mirror.reflect(self, card, thing.z)
        image = self.image[:, rows, cols]
        image *= 1.0 - alpha
        image += rgba[:3]
        np.copyto(self.instance[rows, cols], index, where=mine)
        np.copyto(self.segment[rows, cols], SEGMENT[thing.segment], where=mine)
        np.copyto(self.depth[rows, cols], depth, where=mine)
        height = TOP if above is None else np.minimum(above, TOP)
        np.copyto(self.height[rows, cols], height, where=solid)
        np.copyto(self.front[rows, cols], depth, where=solid)

    def _traced(self, card: Card, mine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(coverage, depth) of one thing in the whole picture, [S, S]."""
        silhouette = np.zeros((self.size, self.size), bool)
        silhouette[card.rows, card.cols] = mine
        depth = np.full((self.size, self.size), np.inf, np.float32)
        depth[card.rows, card.cols] = card.depth
        return silhouette, depth

    def _shine(self) -> None:
        """The glow about lamps and headlights after dark."""
        view, grid = self.view, self.view.grid
        for thing in self.scene.things:
            light = thing.light(self.level)
            if light is None:
                continue
            u = view.axis + light.x / thing.z
            v = view.horizon + (view.camera - light.y) / thing.z
            radius = light.reach / thing.z
            window = view.window(u - radius, v - radius, u + radius, v + radius)
            if window is None:
                continue
            rows, cols = window
            across, up = (grid.u[:, cols] - u) * (1 / radius), (grid.v[rows] - v) * (1 / radius)
            glow = 1.0 - (across * across + up * up)
            np.maximum(glow, 0.0, out=glow)
            glow *= glow
            glow *= light.power
            self.image[:, rows, cols] += column(light.colour) * glow

    def pixels(self) -> np.ndarray:
        """The picture as uint8 [S, S, 3]. To be asked for once: it overwrites `image`."""
        image = self.image
        image *= 255.0
        image += 0.5
        np.maximum(image, 0.0, out=image)
        np.minimum(image, 255.0, out=image)
        return np.ascontiguousarray(image.astype(np.uint8).transpose(1, 2, 0))
