"""Blocks: houses with a gable, and buildings with floors of windows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from data.scenes.draw import Colour, Draw, mix
from data.scenes.painting.card import Card
from data.scenes.painting.look import Look
from data.scenes.painting.tables import dice, lookup, pulse, unit, unit_copy
from data.scenes.painting.view import View
from data.scenes.setting import Setting
from data.scenes.things.thing import Box, Standing

_WALLS = (
    (0.88, 0.83, 0.72),
    (0.80, 0.58, 0.42),
    (0.68, 0.30, 0.24),
    (0.92, 0.90, 0.86),
    (0.62, 0.68, 0.72),
    (0.90, 0.76, 0.46),
    (0.55, 0.66, 0.58),
    (0.75, 0.48, 0.40),
)
_ROOFS = ((0.58, 0.24, 0.17), (0.36, 0.23, 0.20), (0.30, 0.32, 0.37), (0.66, 0.36, 0.22))


class Facade(Card):
    """The window a block is painted in, in image coordinates: its front and, behind the corner, the
    side that runs back. Heights and lengths on the walls are in metres.

    corner      x of the edge the side runs back from; 0 where no side is seen
    left, right u of the walls' ends
    depth       [1, w]
    along       [w + 1], of column edges: outwards on the front, back on the side
    up          [h + 1, w], of row edges, above the foot
    side        [1, w], 1 on the side
    tall        [1, w], the height of a pixel; `typical` is that in the middle
    """

    depth: np.ndarray

    def __init__(
        self,
        rows: slice,
        cols: slice,
        *,
        view: View,
        block: Block,
        corner: float,
        ends: tuple[float, float],
    ) -> None:
        grid, near, far = view.grid, block.z, block.z_end
        edges = grid.edges[cols.start : cols.stop + 1]
        if corner:
            off = np.abs(edges - view.axis)
            z = abs(corner) / np.maximum(off, 1e-4)
            np.minimum(np.maximum(z, near, out=z), far, out=z)
            self.along = (off * z - abs(corner)) - (z - near)
        else:
            off = edges - view.axis
            z = np.full_like(edges, near)
            self.along = off * near - (block.x - block.width / 2)
        depth = (0.5 * (z[1:] + z[:-1]))[None, :]
        self.side = unit((depth - near) * 8.0) if corner else np.zeros_like(depth)
        down = grid.edges[rows.start : rows.stop + 1, None] - view.horizon
        self.up = view.camera - block.foot - down * depth
        self.tall = depth * grid.step
        self.typical = float(self.tall[0, self.tall.shape[1] // 2])
        above = np.maximum(0.5 * (self.up[1:] + self.up[:-1]) + block.foot, block.foot)
        super().__init__(rows, cols, grid.u[:, cols], grid.v[rows], grid.step, depth, above)
        self.view = view
        self.corner = corner
        self.left, self.right = ends

    def below(self, height: float) -> np.ndarray:
        """The share of each pixel that is lower than a height on the wall, [h, w]."""
        return unit_copy((height - self.up[:-1]) / self.tall + 0.5)


@dataclass(kw_only=True)
class Windows:
    """Windows in columns and rows: periods in metres, the share of a period that is glass, where
    the lowest begin; `key` says which are lit; `top` is where the wall has no more of them.
    """

    period: tuple[float, float]
    share: tuple[float, float]
    lift: float
    top: float
    key: int


@dataclass(kw_only=True)
class Block(Standing):
    """A front at z, and one side that runs back to z_end; windows on both."""

    segment = "building"
    is_block = True
    overhang: ClassVar[float] = 0.0  # of the roof, metres
    share_lit: ClassVar[float]  # of windows, after dark

    z_end: float
    colour: Colour  # of the walls

    def extent(self, setting: Setting) -> Box:
        left, top, right, bottom = Standing.extent(self, setting)
        half, far = self.width / 2, self.z_end
        return (
            min(left, setting.axis + (self.x - half) / far),
            min(top, setting.horizon + (setting.camera - self.foot - self.height) / far),
            max(right, setting.axis + (self.x + half) / far),
            bottom,
        )

    def card(self, view: View) -> Facade | None:
        near, far = self.z, self.z_end
        x0, x1 = self.x - self.width / 2, self.x + self.width / 2
        corner = x0 if x0 > 0 else (x1 if x1 < 0 else 0.0)
        left, right = view.axis + x0 / near, view.axis + x1 / near
        if corner:
            left = min(left, view.axis + corner / far)
            right = max(right, view.axis + corner / far)
        above = view.camera - self.foot - self.height
        top = view.horizon + min(above / near, above / far)
        bottom = view.horizon + (view.camera - self.foot) / near
        hang = self.overhang / near
        window = view.window(left - hang, top, right + hang, bottom)
        if window is None:
            return None
        rows, cols = window
        return Facade(rows, cols, view=view, block=self, corner=corner, ends=(left, right))

    # Not `paint`: walls take more than a plain window knows.
    def painted(self, view: View, look: Look) -> Facade | None:
        facade = self.card(view)
        if facade is not None:
            self._paint_facade(facade, look)
        return facade

    def _paint_facade(self, card: Facade, look: Look) -> None:
        windows = self.windows()
        cover = self._paint_walls(card, look)
        self._paint_windows(card, look, cover, windows)
        self.paint_rest(card, look, cover)
        if look.real:
            grain = lookup(card.up[:-1] * 9.0 + windows.key, card.along[1:] * 9.0 + 4096.0)
            card.shade(1.0 + 0.03 * grain * min(1.0, 0.9 / card.typical))

    def wall_height(self) -> float:
        return self.height

    def wall_top(self, card: Facade) -> np.ndarray:
        """The height of the walls in every column, [1, w]."""
        return self.wall_height() + 0.0 * card.depth

    def windows(self) -> Windows:
        raise NotImplementedError

    def glass(self) -> Colour:
        """What windows look like by day."""
        raise NotImplementedError

    def paint_rest(self, card: Facade, look: Look, cover: np.ndarray) -> None:
        """All that is not wall or window."""

    def _paint_walls(self, card: Facade, look: Look) -> np.ndarray:
        cover = np.minimum(card.up[:-1], self.wall_top(card)) - np.maximum(card.up[1:], 0.0)
        cover /= card.tall
        np.maximum(cover, 0.0, out=cover)
        cover *= card.hspan(card.left, card.right)
        card.paint(cover, look.lit(self.colour))
        if look.real:
            # Which face looks at the sun, and a little less light below.
            side = 0.80 if look.sun_side * self.x < 0 else 0.66
            tone = 1.0 + (side - 1.0) * card.side
            high = max(self.wall_height(), 4.0)
            tone = tone * (0.88 + 0.14 * np.minimum(card.up[:-1] * (1.0 / high), 1.0))
        else:
            tone = 1.0 - 0.25 * card.side
        card.shade(tone)
        return cover

    def _paint_windows(self, card: Facade, look: Look, cover: np.ndarray, windows: Windows) -> None:
        (wide, high), (share_wide, share_high) = windows.period, windows.share
        at = card.along * (1.0 / wide) - 0.29
        step = at[1:] - at[:-1]
        across = (pulse(at[1:], share_wide) - pulse(at[:-1], share_wide)) / np.where(
            np.abs(step) < 1e-4, 1e-4, step
        )
        floor = (card.up - windows.lift) * (1.0 / high)
        upwards = pulse(floor, share_high)
        upwards = (upwards[:-1] - upwards[1:]) * (high / card.tall)
        panes = upwards * across
        panes *= cover
        panes *= card.below(windows.top)
        column = np.floor(0.5 * (at[1:] + at[:-1])).astype(np.int32)
        row = np.floor(0.5 * (floor[1:] + floor[:-1])).astype(np.int32)
        luck = dice().take((column * 131 + row * 517 + windows.key * 7) & 4095)
        if look.mood.dark:
            crisp = min(1.0, max(0.0, 1.9 - card.typical / high * 1.4))
            lit = (luck < self.share_lit) * crisp + self.share_lit * (1 - crisp)
            warm = (1.0, 0.80, 0.42) if windows.key % 3 else (0.95, 0.92, 0.75)
            card.paint(panes, look.lit((0.16, 0.18, 0.24)))
            card.paint(panes * (lit * (0.55 + 0.45 * luck * 2)).astype(np.float32), warm)
            return
        card.paint(panes, look.lit(self.glass()))
        if look.real:
            card.paint(
                panes * ((luck * 0.5) * (0.3 + 0.7 * (1 - card.side))),
                mix(look.mood.middle, look.mood.horizon, 0.5),
            )


@dataclass(kw_only=True)
class House(Block):
    """A house with a gable roof, a chimney and a door."""

    kind = "house"
    overhang = 0.35
    share_lit = 0.6

    roof: Colour
    roof_height: float
    chimney: float  # where it stands, [0, 1] over the width
    door: float  # where it is, [0, 1]
    key: int  # which windows are lit

    @classmethod
    def plan(cls, draw: Draw, *, x: float, z: float, size: float = 1.0) -> House:
        width, walls = draw(7.0, 11.0) * size, draw(2.9, 5.2) * size
        length = draw(6.0, 9.0) * size
        roof = draw(1.8, 3.2) * size
        return cls(
            x=x,
            z=z,
            z_end=z + length,
            width=width,
            height=walls + roof,
            roof_height=roof,
            colour=draw.colour(draw.pick(_WALLS)),
            roof=draw.colour(draw.pick(_ROOFS)),
            chimney=draw(0.2, 0.75),
            door=draw(),
            key=draw.integer(0, 999),
        )

    def wall_height(self) -> float:
        return self.height - self.roof_height

    def wall_top(self, card: Facade) -> np.ndarray:
        if not card.corner:
            return super().wall_top(card)
        # The gable.
        middle = 0.5 * (self.z + self.z_end)
        share = 1.0 - np.abs(card.depth - middle) * (2.0 / (self.z_end - self.z))
        return self.wall_height() + self.roof_height * np.maximum(share, 0.0)

    def windows(self) -> Windows:
        walls = self.wall_height()
        return Windows(
            period=(2.3, walls + 0.2 if walls < 3.6 else 2.7),
            share=(0.42, 0.46),
            lift=0.9,
            top=walls,
            key=self.key,
        )

    def glass(self) -> Colour:
        return (0.20, 0.24, 0.30)

    def paint_rest(self, card: Facade, look: Look, cover: np.ndarray) -> None:
        """Roof, chimney and door."""
        view, near = card.view, self.z
        x0, x1 = self.x - self.width / 2, self.x + self.width / 2
        walls = self.wall_height()
        middle = 0.5 * (near + self.z_end)
        eaves = view.horizon + (view.camera - self.foot - walls + 0.12) / near
        ridge = view.horizon + (view.camera - self.foot - walls - self.roof_height) / middle
        if ridge >= eaves:
            return
        up = (card.y - eaves) * (1.0 / (ridge - eaves))
        left = view.axis + (x0 - 0.3) / near
        left_above = view.axis + (x0 - 0.3) / middle
        right = view.axis + (x1 + 0.3) / near
        right_above = view.axis + (x1 + 0.3) / middle
        roof = card.hspan(left + (left_above - left) * up, right + (right_above - right) * up)
        roof *= card.vspan(ridge, eaves)
        card.paint(roof, look.lit(self.roof))
        if look.real:
            rows = (eaves - ridge) / max(card.pixel, 1e-6)
            tiles = 0.10 * np.sin(up * 40.0) if rows > 34 else 0.0
            card.shade(1.0 + (0.16 * up - 0.10 + tiles) * roof)
        at = view.axis + (x0 + self.chimney * (x1 - x0)) / middle
        half = 0.4 / middle
        top = view.horizon + (view.camera - self.foot - self.height + 0.02) / middle
        stack = card.hspan(at - half, at + half) * card.vspan(top, top + 1.1 / middle)
        card.paint(stack, look.lit(mix(self.colour, (0.5, 0.3, 0.25), 0.5), 0.85))
        at = (x0 + (0.30 + 0.4 * self.door) * (x1 - x0)) / near + view.axis
        sill = view.horizon + (view.camera - self.foot) / near
        door = card.hspan(at - 0.55 / near, at + 0.55 / near)
        door = door * card.vspan(sill - 2.1 / near, sill)
        card.paint(door, look.lit(mix(self.roof, (0.3, 0.18, 0.1), 0.5)))


@dataclass(kw_only=True)
class Building(Block):
    """A building with a flat roof; some have a shop, some a high ground floor."""

    kind = "building"
    share_lit = 0.45

    panes: Colour
    style: int  # 0 plain, 1 with a shop, 2 with a high ground floor and a pale edge
    period: tuple[float, float]  # of windows, metres
    share: tuple[float, float]  # of a period that is glass
    key: int  # which windows are lit
    lift: float  # where they begin, metres

    @classmethod
    def plan(
        cls,
        draw: Draw,
        *,
        x: float,
        z: float,
        width: float,
        height: float,
        z_end: float,
        dark: bool,
        wall: bool = False,
    ) -> Building:
        tone = draw.pick(_WALLS[:6] if dark else _WALLS)
        colour = draw.colour(mix(tone, (0.5, 0.5, 0.55), draw(0.1, 0.6)))
        panes = draw.colour((0.22, 0.28, 0.36), 0.04)
        return cls(
            x=x,
            z=z,
            z_end=z_end,
            width=width,
            height=height,
            wall=wall,
            colour=colour,
            panes=panes,
            period=(draw(2.2, 3.4), draw(2.9, 3.6)),
            share=(draw(0.45, 0.75), draw(0.45, 0.7)),
            key=draw.integer(0, 999),
            lift=draw(0.2, 0.6),
            style=draw.integer(0, 2),
        )

    def windows(self) -> Windows:
        return Windows(
            period=self.period,
            share=self.share,
            lift=self.lift + (0.8 if self.style else 0.0),
            top=self.height - 0.5,
            key=self.key,
        )

    def glass(self) -> Colour:
        return self.panes

    def paint_rest(self, card: Facade, look: Look, cover: np.ndarray) -> None:
        """The upper edge, and the shop."""
        edge = unit_copy((card.up[:-1] - (self.height - 0.45)) / card.tall + 0.5) * cover
        pale = mix(self.colour, (0.9, 0.9, 0.9), 0.3)
        card.paint(edge, look.lit(pale, 0.9 if self.style else 0.7))
        if self.style == 1:
            shop = unit_copy((2.7 - card.up[1:]) / card.tall + 0.5) * cover
            glow = (0.98, 0.80, 0.50)
            if not look.mood.dark:
                glow = look.lit(mix(self.panes, (0.2, 0.14, 0.1), 0.4))
            card.paint(shop * 0.85, glow)
