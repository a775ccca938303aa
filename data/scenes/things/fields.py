"""What lies and stands in the fields: rocks, haystacks and snowmen."""

from dataclasses import dataclass

import numpy as np

from data.scenes.draw import PAINTS, Colour, Draw
from data.scenes.painting.card import Card, array
from data.scenes.painting.look import Look
from data.scenes.painting.tables import unit
from data.scenes.things.thing import Standing

_GREY = (0.46, 0.44, 0.42)


@dataclass(kw_only=True)
class Rock(Standing):
    """A polygon with a flat foot."""

    kind = "rock"
    segment = "rock"

    colour: Colour
    corners: list[tuple[float, float]]  # of the upper edge, left to right, [0, 1]

    @classmethod
    def plan(cls, draw: Draw, *, x: float, z: float, height: float, tone: Colour = _GREY) -> "Rock":
        width = height * draw(1.3, 2.2)
        between = sorted((draw(0.08, 0.92), draw(0.55, 1.0)) for _ in range(4))
        return cls(
            x=x,
            z=z,
            width=width,
            height=height,
            colour=draw.colour(tone),
            corners=[(0.0, 0.0), *between, (1.0, 0.0)],
        )

    def paint(self, card: Card, look: Look) -> None:
        height, width = self.height, self.width
        corners = array(self.corners)
        xs, ys = (corners[:, 0] - 0.5) * width, corners[:, 1] * height
        top = np.interp(card.x[0], xs, ys).astype(np.float32)[None, :]
        cover = (
            unit((top - card.y) * card.per_metre + 0.5)
            * card.hspan(-width / 2, width / 2)
            * card.vspan(0.0, height)
        )
        card.paint(cover, look.lit(self.colour))
        if not look.real:
            card.paint(cover * card.hspan(0.0, width), look.lit(self.colour, 0.75))
            return
        half = 0.06 * width
        slope = np.interp(card.x[0] - half, xs, ys) - np.interp(card.x[0] + half, xs, ys)
        shade = (
            0.75
            + 0.3 * (card.y / height)
            + (-0.9 * look.sun_side / height * 0.5) * slope.astype(np.float32)[None, :]
        )
        card.shade(shade, card.grain(0.5, 0.14, int(width * 9999)))


@dataclass(kw_only=True)
class Haystack(Standing):
    """A round bale, seen on its end."""

    kind = "haystack"
    segment = "item"
    rim = (0.6, 0.45, 0.2)

    colour: Colour

    @classmethod
    def plan(cls, draw: Draw, *, x: float, z: float) -> "Haystack":
        radius = draw(0.75, 1.05)
        return cls(
            x=x,
            z=z,
            width=2 * radius,
            height=2 * radius * 0.97,
            colour=draw.colour((0.80, 0.64, 0.30)),
        )

    def paint(self, card: Card, look: Look) -> None:
        radius = self.width / 2
        middle = radius * 0.94
        cover = card.ellipse(0.0, middle, radius, radius) * card.vspan(0.0, self.height)
        card.paint(cover, look.lit(self.colour))
        rim = card.ellipse(0.0, middle, radius * 0.74, radius * 0.74)
        card.paint(rim * 0.55, look.lit(self.rim))
        inner = card.ellipse(0.0, middle, radius * 0.45, radius * 0.45)
        card.paint(inner * 0.8, look.lit(self.colour, 0.95))
        if look.real:
            shade = (
                0.78 + 0.28 * (card.y / self.height) + (0.35 * look.sun_side / self.width) * card.x
            )
            card.shade(shade, card.grain(0.22, 0.16, int(radius * 9999)))


@dataclass(kw_only=True)
class Snowman(Standing):
    """Three balls, a hat, a scarf and a carrot."""

    kind = "snowman"
    segment = "item"
    colour = (0.95, 0.96, 0.99)

    scarf: Colour

    @classmethod
    def plan(cls, draw: Draw, *, x: float, z: float) -> "Snowman":
        height = draw(1.5, 2.1)
        scarf = draw.colour(draw.pick(PAINTS))
        return cls(x=x, z=z, width=height * 0.56, height=height, scarf=scarf)

    def paint(self, card: Card, look: Look) -> None:
        height = self.height
        balls = array(
            [
                (0.0, 0.2 * height, 0.26 * height, 0.22 * height),
                (0.0, 0.5 * height, 0.19 * height, 0.17 * height),
                (0.0, 0.73 * height, 0.13 * height, 0.12 * height),
            ]
        )
        card.paint(card.ellipses(balls) * card.vspan(0.0, height), look.lit(self.colour))
        hat = card.bars(
            (-0.10 * height, 0.10 * height, 0.83 * height, 0.99 * height),
            (-0.15 * height, 0.15 * height, 0.82 * height, 0.86 * height),
        )
        card.paint(hat, look.lit((0.1, 0.1, 0.12)))
        scarf = card.bar(-0.15 * height, 0.15 * height, 0.60 * height, 0.65 * height)
        card.paint(scarf, look.lit(self.scarf))
        carrot = card.bar(-0.01 * height, 0.09 * height, 0.71 * height, 0.74 * height)
        card.paint(carrot, look.lit((0.95, 0.5, 0.1)))
        if look.real:
            card.shade(0.86 + 0.12 * (card.y / height) + (0.7 * look.sun_side / height) * card.x)
