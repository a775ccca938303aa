"""Cacti and bushes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from data.scenes.draw import LEAVES, Colour, Draw
from data.scenes.painting.card import Card, array
from data.scenes.painting.look import Look
from data.scenes.things.thing import Standing


class Arm(NamedTuple):
    """An arm of a cactus: on which side (-1 or 1), from and up to which share of the height."""

    side: float
    low: float
    high: float


@dataclass(kw_only=True)
class Cactus(Standing):
    """A saguaro with two arms."""

    kind = "cactus"
    segment = "vegetation"

    colour: Colour
    arms: tuple[Arm, Arm]

    @classmethod
    def plan(cls, draw: Draw, *, x: float, z: float, height: float) -> "Cactus":
        return cls(
            arms=(
                Arm(side=-1.0, low=draw(0.35, 0.5), high=draw(0.66, 0.85)),
                Arm(side=1.0, low=draw(0.3, 0.55), high=draw(0.7, 0.95)),
            ),
            x=x,
            z=z,
            width=height * 0.62,
            height=height,
            colour=draw.colour((0.25, 0.45, 0.22)),
        )

    def paint(self, card: Card, look: Look) -> None:
        height, radius = self.height, 0.085 * self.height
        bars = [(-radius, radius, 0.0, height - radius)]
        rounds = [(0.0, height - radius, radius, radius)]
        for side, low, high in self.arms:
            x = side * 0.25 * height
            left, right = min(side * radius, x), max(side * radius, x)
            thin = 0.72 * radius
            bars += [
                (left, right, low * height - thin, low * height + thin),
                (x - thin, x + thin, low * height, high * height - thin),
            ]
            rounds += [(x, high * height - thin, thin, thin), (x, low * height, thin, thin)]
        cover = np.maximum(card.bars(*bars), card.ellipses(array(rounds)))
        card.paint(cover, look.lit(self.colour))
        if look.real:
            shade = 1.0 + (0.9 * look.sun_side / self.width) * card.x
            if card.pixel < 0.06:
                shade = shade + 0.12 * np.cos(card.x * 45.0)
            card.shade(shade)


@dataclass(kw_only=True)
class Bush(Standing):
    """Three ellipses of leaves."""

    kind = "bush"
    segment = "vegetation"

    leaves: Colour
    crown: list[tuple[float, float, float, float]]  # ellipses: middle x, y, half axes; metres

    @classmethod
    def plan(
        cls, draw: Draw, *, x: float, z: float, height: float, tones: Sequence[Colour] = LEAVES
    ) -> "Bush":
        width = height * draw(1.3, 2.0)
        crown = [
            (
                width * (-0.28 + 0.28 * k),
                height * draw(0.36, 0.5),
                width * draw(0.2, 0.26),
                height * draw(0.4, 0.5),
            )
            for k in range(3)
        ]
        leaves = draw.colour(draw.pick(tones))
        return cls(x=x, z=z, width=width, height=height, leaves=leaves, crown=crown)

    def paint(self, card: Card, look: Look) -> None:
        cover = card.ellipses(array(self.crown)) * card.vspan(0.0, self.height * 2)
        card.paint(cover, look.lit(self.leaves))
        if look.real:
            shade = (
                0.72 + 0.45 * (card.y / self.height) + (0.25 * look.sun_side / self.width) * card.x
            )
            card.shade(shade, card.grain(0.3, 0.28, int(self.width * 9999)))
