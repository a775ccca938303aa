"""What all kinds of things share: where they are, how much of the picture they take, how they are
looked at.
"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from data.scenes.draw import Colour
from data.scenes.painting.card import Card
from data.scenes.painting.look import Look
from data.scenes.painting.view import View
from data.scenes.setting import Setting

# A rectangle in image coordinates: left, top, right, bottom.
Box = tuple[float, float, float, float]


class Light(NamedTuple):
    """A glow after dark: its middle (x, y) and its reach in metres, and its power, [0, 1]."""

    x: float
    y: float
    reach: float
    power: float
    colour: Colour


@dataclass(kw_only=True)
class Thing:
    """One thing of a scene. A kind of thing is a subclass of Standing, Floating or InSky with

    kind, segment   its name in OBJECTS, and the name in SEGMENTS that it is painted with
    plan(...)       a class method that draws one: sizes, colours, shape
    paint(...)      draws it into its window

    and an entry in `data.scenes.things.THINGS`. `z` is its distance in metres, `width` and `height`
    are of the whole thing.
    """

    kind: ClassVar[str]
    segment: ClassVar[str]
    in_sky: ClassVar[bool] = False
    floats: ClassVar[bool] = False
    is_block: ClassVar[bool] = False  # has sides that run back

    z: float
    width: float
    height: float
    wall: bool = False  # side of a street: always behind what stands in the street
    box: Box = (0.0, 0.0, 0.0, 0.0)  # of the dry scene, clipped to the picture

    def set_down(self, setting: Setting) -> None:
        """Find the height at which it stands."""

    def extent(self, setting: Setting) -> Box:
        """The rectangle that it takes, which may reach out of the picture."""
        raise NotImplementedError

    def box_at(self, setting: Setting, level: float) -> Box:
        """Its box when the water stands at `level` metres."""
        return self.box

    def drowned(self, level: float) -> bool:
        """Is it wholly under water?"""
        return False

    def in_water(self, level: float) -> bool:
        """Does the water hide some of it?"""
        return False

    def light(self, level: float) -> Light | None:
        """The glow that it gives after dark, if it gives one."""
        return None

    def card(self, view: View) -> Card | None:
        """The empty window that it is painted in; None outside the picture."""
        raise NotImplementedError

    def paint(self, card: Card, look: Look) -> None:
        """Draw it into its window."""
        raise NotImplementedError

    def painted(self, view: View, look: Look) -> Card | None:
        """The finished window; None outside the picture."""
        card = self.card(view)
        if card is not None:
            self.paint(card, look)
        return card


@dataclass(kw_only=True)
class Standing(Thing):
    """An upright card: its middle is `x` metres right of the axis, its foot at height `foot`."""

    casts_shadow: ClassVar[bool] = True
    on_ground: ClassVar[bool] = True  # not on the base plane

    x: float
    foot: float = 0.0

    def set_down(self, setting: Setting) -> None:
        if self.on_ground:
            self.foot = setting.elevation(float(self.x), float(self.z))

    def extent(self, setting: Setting) -> Box:
        half, z = self.width / 2, self.z
        above_foot = setting.camera - self.foot
        return (
            setting.axis + (self.x - half) / z,
            setting.horizon + (above_foot - self.height) / z,
            setting.axis + (self.x + half) / z,
            setting.horizon + above_foot / z,
        )

    def box_at(self, setting: Setting, level: float) -> Box:
        if level <= self.foot:
            return self.box
        waterline = setting.horizon + (setting.camera - level) / self.z
        left, top, right, bottom = self.box
        return (left, top, right, min(bottom, waterline))

    def drowned(self, level: float) -> bool:
        return self.foot + self.height <= level + 0.08

    def in_water(self, level: float) -> bool:
        return level > self.foot

    def stands_at(self, level: float) -> float:
        """The height of its lower end when the water stands at `level`."""
        return self.foot

    def card(self, view: View) -> Card | None:
        z, base = self.z, self.stands_at(view.level)
        v = view.horizon + (view.camera - base) / z
        u = view.axis + self.x / z
        window = view.window(u - self.width / 2 / z, v - self.height / z, u + self.width / 2 / z, v)
        if window is None:
            return None
        rows, cols = window
        grid = view.grid
        y = (v - grid.v[rows]) * z
        above = np.maximum(y + base, base)
        return Card(rows, cols, (grid.u[:, cols] - u) * z, y, z * grid.step, z, above)


@dataclass(kw_only=True)
class Floating(Standing):
    """An upright card on the water, which rises with it."""

    floats: ClassVar[bool] = True
    casts_shadow: ClassVar[bool] = False
    on_ground: ClassVar[bool] = False

    def box_at(self, setting: Setting, level: float) -> Box:
        lift = level / self.z
        foot = setting.horizon + setting.camera / self.z
        top = foot - self.height / self.z
        left, _, right, _ = self.box
        return (left, max(top - lift, 0.0), right, min(foot - lift, 1.0))

    def drowned(self, level: float) -> bool:
        return False

    def in_water(self, level: float) -> bool:
        return False

    def stands_at(self, level: float) -> float:
        return level


@dataclass(kw_only=True)
class InSky(Thing):
    """A card in the sky, in image coordinates: `u` is its middle, `v` its lower edge."""

    in_sky: ClassVar[bool] = True

    u: float
    v: float

    def extent(self, setting: Setting) -> Box:
        half = self.width / 2
        return (self.u - half, self.v - self.height, self.u + half, self.v)

    def card(self, view: View) -> Card | None:
        half = self.width / 2
        window = view.window(self.u - half, self.v - self.height, self.u + half, self.v)
        if window is None:
            return None
        rows, cols = window
        grid = view.grid
        return Card(
            rows, cols, grid.u[:, cols] - self.u, self.v - grid.v[rows], grid.step, self.z, None
        )
