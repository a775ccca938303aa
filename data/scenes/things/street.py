"""Who and what is on the road: people, cars and lamps."""

from dataclasses import dataclass

import numpy as np

from data.scenes.draw import PAINTS, Colour, Draw
from data.scenes.painting.card import Card
from data.scenes.painting.look import Look
from data.scenes.things.thing import Light, Standing

_CLOTHES = (
    (0.80, 0.16, 0.16),
    (0.16, 0.30, 0.66),
    (0.92, 0.88, 0.80),
    (0.20, 0.46, 0.30),
    (0.90, 0.62, 0.14),
    (0.45, 0.20, 0.48),
    (0.16, 0.16, 0.20),
)
_SKINS = ((0.94, 0.76, 0.62), (0.78, 0.57, 0.42), (0.52, 0.35, 0.25), (0.36, 0.24, 0.18))
_HAIR = ((0.1, 0.08, 0.07), (0.4, 0.26, 0.14), (0.7, 0.58, 0.34))


@dataclass(kw_only=True)
class Person(Standing):
    """Someone who walks, in trousers or in a skirt or long coat."""

    kind = "person"
    segment = "person"

    shirt: Colour
    trousers: Colour
    skin: Colour
    hair: Colour
    skirt: bool
    stride: float  # half of it, as a share of the height

    @classmethod
    def plan(cls, draw: Draw, *, x: float, z: float) -> "Person":
        shirt, trousers = draw.colour(draw.pick(_CLOTHES)), draw.colour(draw.pick(_CLOTHES[1:]))
        skin, hair = draw.pick(_SKINS), draw.colour(draw.pick(_HAIR))
        height = draw(1.55, 1.9)
        return cls(
            x=x,
            z=z,
            width=height * 0.36,
            height=height,
            shirt=shirt,
            trousers=trousers,
            skin=skin,
            hair=hair,
            skirt=bool(draw.integer(0, 1)),
            stride=draw(0.04, 0.10),
        )

    def paint(self, card: Card, look: Look) -> None:
        height = self.height
        step, leg = self.stride * height, 0.045 * height
        legs = card.bars(
            (-step - leg, -step + leg, 0.0, 0.49 * height),
            (step - leg, step + leg, 0.0, 0.49 * height),
        )
        card.paint(legs, look.lit(self.trousers))
        up = (card.y - 0.46 * height) / (0.36 * height)
        half = height * (0.085 + 0.05 * np.minimum(np.maximum(up, 0.0), 1.0))
        if self.skirt:
            flare = 0.10 * (0.62 * height - card.y) / (0.3 * height)
            half = half + height * np.maximum(flare, 0.0)
        hem = (0.3 if self.skirt else 0.46) * height
        body = card.hspan(-half, half) * card.vspan(hem, 0.83 * height)
        card.paint(body, look.lit(self.shirt))
        arms = card.bars(
            (-0.178 * height, -0.125 * height, 0.42 * height, 0.81 * height),
            (0.125 * height, 0.178 * height, 0.42 * height, 0.81 * height),
        )
        card.paint(arms, look.lit(self.shirt, 0.86))
        radius = 0.075 * height
        card.paint(card.ellipse(0.0, 0.925 * height, radius * 1.05, radius), look.lit(self.hair))
        face = card.ellipse(0.0, 0.905 * height, radius * 0.82, radius * 0.92)
        card.paint(face, look.lit(self.skin))
        if look.real:
            card.shade(0.92 + 0.1 * (card.y / height) + (0.7 * look.sun_side / height) * card.x)


@dataclass(kw_only=True)
class Car(Standing):
    """A car seen along the road."""

    kind = "car"
    segment = "vehicle"
    glass = (0.15, 0.19, 0.23)

    colour: Colour
    oncoming: bool  # else one sees its tail lights

    @classmethod
    def plan(cls, draw: Draw, *, x: float, z: float) -> "Car":
        car = cls(
            colour=draw.colour(draw.pick(PAINTS), 0.03),
            x=x,
            z=z,
            width=draw(1.75, 1.95),
            height=draw(1.4, 1.7),
            oncoming=x < 0,
        )
        draw()  # once the length of a cabin: the pictures of all that is drawn later depend on it
        return car

    def paint(self, card: Card, look: Look) -> None:
        width, height = self.width, self.height
        wheels = card.bars(
            (-0.44 * width, -0.26 * width, 0.0, 0.3 * height),
            (0.26 * width, 0.44 * width, 0.0, 0.3 * height),
        )
        card.paint(wheels, (0.06, 0.06, 0.07))
        half = width * np.minimum(0.5, 0.5 - (card.y / height - 0.55) * 0.42)
        body = card.hspan(-half, half) * card.vspan(0.16 * height, height)
        card.paint(body, look.lit(self.colour))
        pane = card.hspan(-half + 0.07 * width, half - 0.07 * width)
        card.paint(pane * card.vspan(0.58 * height, 0.92 * height), look.lit(self.glass))
        bumper = card.bar(-0.48 * width, 0.48 * width, 0.18 * height, 0.28 * height)
        card.paint(bumper, look.lit((0.16, 0.16, 0.17)))
        glow = (1.0, 0.96, 0.80) if self.oncoming else (0.85, 0.08, 0.06)
        low, high = 0.40 * height, 0.52 * height
        lights = card.bars(
            (-0.46 * width, -0.28 * width, low, high), (0.28 * width, 0.46 * width, low, high)
        )
        card.paint(lights, glow if look.mood.dark else look.lit(glow))
        if look.real:
            card.shade(0.80 + 0.32 * (card.y / height) + (0.2 * look.sun_side / width) * card.x)

    def light(self, level: float) -> Light | None:
        y = self.foot + 0.46 * self.height
        if y < level:
            return None
        if self.oncoming:
            return Light(x=self.x, y=y, reach=1.6, power=0.35, colour=(1.0, 0.95, 0.8))
        return Light(x=self.x, y=y, reach=1.6, power=0.2, colour=(0.9, 0.15, 0.1))


@dataclass(kw_only=True)
class Lamp(Standing):
    """A street lamp whose arm reaches over the road."""

    kind = "lamp"
    segment = "pole"
    metal = (0.26, 0.28, 0.30)
    glow = (1.0, 0.93, 0.72)

    side: float  # -1 or 1: where the arm points

    @classmethod
    def plan(cls, draw: Draw, *, x: float, z: float, height: float) -> "Lamp":
        side = -1.0 if x > 0 else 1.0
        return cls(x=x + side * 0.56, z=z, width=1.4, height=height, side=side)

    def paint(self, card: Card, look: Look) -> None:
        height, side = self.height, self.side
        pole = side * -0.56  # the head is on the other side of the middle
        left, right = min(pole, pole + side * 1.1), max(pole, pole + side * 1.1)
        bars = card.bars(
            (pole - 0.07, pole + 0.07, 0.0, height),
            (pole - 0.13, pole + 0.13, 0.0, 0.7),
            (left, right, height - 0.12, height),
        )
        card.paint(bars, look.lit(self.metal))
        head = card.bar(side * 0.39 - 0.3, side * 0.39 + 0.3, height - 0.28, height - 0.06)
        card.paint(head, self.glow if look.mood.dark else look.lit((0.85, 0.85, 0.80)))

    def light(self, level: float) -> Light | None:
        x, y = self.x + self.side * 0.39, self.foot + self.height - 0.2
        return Light(x=x, y=y, reach=1.5, power=0.4, colour=self.glow)
