"""What belongs to the water's edge: boats, parasols and lighthouses."""

from dataclasses import dataclass

import numpy as np

from data.scenes.draw import PAINTS, Colour, Draw
from data.scenes.painting.card import Card, Edge, array
from data.scenes.painting.look import Look
from data.scenes.painting.tables import pulse
from data.scenes.things.thing import Floating, Standing

_SAILS = ((0.97, 0.95, 0.90), (0.97, 0.95, 0.90), (0.86, 0.32, 0.20), (0.95, 0.80, 0.50))
_BANDS = ((0.78, 0.14, 0.12), (0.14, 0.22, 0.46), (0.14, 0.14, 0.16))


@dataclass(kw_only=True)
class Boat(Floating):
    """A sailing boat or a motor boat, seen from the side."""

    kind = "boat"
    segment = "boat"

    hull: Colour
    sail: Colour
    sails: bool
    bow: float  # -1 or 1: where it points

    @classmethod
    def plan(cls, draw: Draw, *, x: float, z: float, length: float, sails: bool) -> "Boat":
        height = length * (draw(1.15, 1.45) if sails else draw(0.42, 0.55))
        sail = draw.pick(_SAILS)
        return cls(
            x=x,
            z=z,
            width=length,
            height=height,
            hull=draw.colour(draw.pick(PAINTS)),
            sail=draw.colour(sail, 0.03),
            sails=sails,
            bow=1.0 if draw.chance(0.5) else -1.0,
        )

    def paint(self, card: Card, look: Look) -> None:
        width, deck = self.width, 0.16 * self.width
        up = np.minimum(np.maximum(card.y / deck, 0.0), 1.0)
        rake = width * (0.30 + 0.20 * up)
        stern = width * (0.36 + 0.06 * up)
        left, right = (-stern, rake) if self.bow > 0 else (-rake, stern)
        if self.sails:
            self._paint_sails(card, look, deck)
        else:
            self._paint_cabin(card, look, deck)
        hull = card.hspan(left, right) * card.vspan(0.0, deck)
        card.paint(hull, look.lit(self.hull))
        card.paint(hull * card.vspan(deck * 0.78, deck), look.lit((0.95, 0.93, 0.88)))
        if look.real:
            lean_to_sun = (0.25 * look.sun_side / width) * card.x
            card.shade(0.94 + lean_to_sun + 0.06 * (card.y / self.height))

    def _paint_sails(self, card: Card, look: Look, deck: float) -> None:
        width, height = self.width, self.height
        mast = card.bar(-0.012 * width, 0.012 * width, deck * 0.8, height)
        card.paint(mast, look.lit((0.36, 0.28, 0.20)))
        up = (card.y - deck * 1.35) / (0.94 * height - deck * 1.35)
        edge = (1.0 - up) * (0.40 * width)
        rows = card.vspan(deck * 1.35, 0.94 * height)
        gap = 0.03 * width
        fore: tuple[Edge, Edge] = (gap, edge * 0.8)
        main: tuple[Edge, Edge] = (-edge, -gap)
        if self.bow < 0:
            fore, main = (-edge * 0.8, -gap), (gap, edge)
        card.paint(card.hspan(*main) * rows, look.lit(self.sail))
        card.paint(card.hspan(*fore) * rows, look.lit(self.sail, 0.86))

    def _paint_cabin(self, card: Card, look: Look, deck: float) -> None:
        width, height = self.width, self.height
        left, right = (-0.28 * width, 0.10 * width)
        if self.bow < 0:
            left, right = (-0.10 * width, 0.28 * width)
        cabin = card.bar(left, right, deck * 0.9, 0.72 * height)
        card.paint(cabin, look.lit((0.93, 0.92, 0.88)))
        pane = card.bar(left + 0.04 * width, right - 0.04 * width, 0.52 * height, 0.64 * height)
        lit = (1.0, 0.85, 0.5) if look.mood.dark else look.lit((0.2, 0.28, 0.34))
        card.paint(pane, lit)
        mast = card.bar(left + 0.12 * width, left + 0.15 * width, 0.7 * height, height)
        card.paint(mast, look.lit((0.3, 0.3, 0.3)))


@dataclass(kw_only=True)
class Parasol(Standing):
    """A striped dome on a pole."""

    kind = "parasol"
    segment = "item"
    stripes = (0.96, 0.94, 0.88)

    colour: Colour

    @classmethod
    def plan(cls, draw: Draw, *, x: float, z: float) -> "Parasol":
        width, height = draw(2.2, 2.9), draw(2.1, 2.6)
        return cls(x=x, z=z, width=width, height=height, colour=draw.colour(draw.pick(PAINTS)))

    def paint(self, card: Card, look: Look) -> None:
        width, height = self.width, self.height
        card.paint(card.bar(-0.04, 0.04, 0.0, height), look.lit((0.85, 0.82, 0.76)))
        base = 0.68 * height
        dome = card.ellipse(0.0, base, width / 2, height * 0.3) * card.vspan(base, height)
        card.paint(dome, look.lit(self.colour))
        half = width * 0.5 * np.sqrt(np.maximum(1.0 - ((card.y - base) / (0.3 * height)) ** 2, 0.0))
        stripes = (
            card.hspan(-0.66 * half, -0.33 * half)
            + card.hspan(0.0 * half, 0.33 * half)
            + card.hspan(0.66 * half, half)
        )
        card.paint(dome * stripes, look.lit(self.stripes))
        if look.real:
            card.shade(0.95 + (0.35 * look.sun_side / width) * card.x)


@dataclass(kw_only=True)
class Lighthouse(Standing):
    """A banded tower on a rock in the water."""

    kind = "lighthouse"
    segment = "building"
    casts_shadow = False
    on_ground = False
    colour = (0.95, 0.94, 0.90)

    bands: Colour

    @classmethod
    def plan(cls, draw: Draw, *, x: float, z: float, height: float) -> "Lighthouse":
        return cls(x=x, z=z, width=height * 0.34, height=height, bands=draw.pick(_BANDS))

    def paint(self, card: Card, look: Look) -> None:
        height = self.height
        rocks = array(
            [
                (0.0, 0.0, 0.16 * height, 0.09 * height),
                (-0.07 * height, 0.0, 0.09 * height, 0.06 * height),
            ]
        )
        rock = card.ellipses(rocks) * card.vspan(0.0, height)
        card.paint(rock, look.lit((0.36, 0.35, 0.34)))
        up = card.y / height
        half = height * (0.105 - 0.05 * up)
        tower = card.hspan(-half, half) * card.vspan(0.05 * height, 0.84 * height)
        card.paint(tower, look.lit(self.colour))
        edge = card.pixel / height * 0.5
        bands = 5.0 / 0.79
        high = pulse((up + edge - 0.05) * bands * 0.5, 0.5)
        low = pulse((up - edge - 0.05) * bands * 0.5, 0.5)
        card.paint(tower * ((high - low) / (edge * bands)), look.lit(self.bands))
        gallery = card.bar(-0.075 * height, 0.075 * height, 0.83 * height, 0.85 * height)
        card.paint(gallery, look.lit((0.2, 0.2, 0.2)))
        lantern = card.bar(-0.04 * height, 0.04 * height, 0.85 * height, 0.93 * height)
        card.paint(lantern, (1.0, 0.92, 0.6))
        cap = 0.055 * height * np.maximum(1.0 - (up - 0.93) / 0.07, 0.0)
        roof = card.hspan(-cap, cap) * card.vspan(0.93 * height, height)
        card.paint(roof, look.lit(self.bands))
        if look.real:
            card.shade(0.95 + (2.2 * look.sun_side / height) * card.x)
