"""What stands in the sky: clouds, the sun and the moon."""

from dataclasses import dataclass

from data.scenes.draw import Colour, Draw, mix
from data.scenes.moods import Mood
from data.scenes.painting.card import Card, array
from data.scenes.painting.look import Look
from data.scenes.painting.tables import unit
from data.scenes.things.thing import InSky

_WHITE = (1.0, 1.0, 1.0)


@dataclass(kw_only=True)
class Cloud(InSky):
    """Five to seven ellipses with a flat foot."""

    kind = "cloud"
    segment = "cloud"

    puffs: list[tuple[float, float, float, float]]  # ellipses: middle x, y, half axes

    @classmethod
    def plan(cls, draw: Draw, *, highest: float, lowest: float) -> "Cloud":
        """`highest` and `lowest` are v between which its foot lies."""
        width = draw(0.16, 0.42)
        height = width * draw(0.26, 0.42)
        count = draw.integer(5, 7)
        puffs = []
        for k in range(count):
            at = (k + 0.5) / count * 2 - 1 + draw(-0.1, 0.1)
            size = (1 - at * at * 0.75) * draw(0.34, 0.52)
            puffs.append(
                (
                    at * 0.5 * width * 0.78,
                    size * height * 0.55,
                    width * draw(0.11, 0.17),
                    size * height * 1.12 * 0.8,
                )
            )
        return cls(
            u=draw(0.02, 0.98),
            v=draw(highest, lowest),
            z=1500.0,
            width=width,
            height=height,
            puffs=puffs,
        )

    def paint(self, card: Card, look: Look) -> None:
        mood, height = look.mood, self.height
        lit = mix(mix(mood.sun, _WHITE, 0.6), mood.horizon, 0.15)
        under = mix(mood.middle, mood.horizon, 0.5)
        if mood.dark:
            lit, under = mix(mood.horizon, mood.middle, 0.3), mix(mood.middle, mood.zenith, 0.3)
        puffs = array(self.puffs)
        if not look.real:
            cover = card.ellipses(puffs) * card.vspan(0.0, 2 * height)
            card.paint(cover, look.sky(mix(under, lit, 0.8)))
            return
        cover = card.ellipses(puffs, 0.09 * height)
        cover *= unit(card.y * (1.0 / (0.10 * height)))
        card.paint(cover, under)
        towards_sun = array((0.02 * self.width * look.sun_side, 0.16 * height, 0, 0))
        top = card.ellipses(puffs * array((1, 1, 0.9, 0.85)) + towards_sun, 0.45 * height)
        top *= cover
        card.paint(top, lit)


@dataclass(kw_only=True)
class Sun(InSky):
    """A disc about (u, v)."""

    kind = "sun"
    segment = "sun_moon"

    colour: Colour

    @classmethod
    def plan(cls, draw: Draw, *, u: float, v: float, mood: Mood) -> "Sun":
        radius = draw(0.022, 0.034) * (1.4 if mood.low_sun else 1.0)
        size = 2 * radius
        return cls(u=u, v=v + radius, z=1900.0, width=size, height=size, colour=mood.sun)

    def paint(self, card: Card, look: Look) -> None:
        radius = self.width / 2
        colour = self.colour if look.real else look.sky(mix(self.colour, (1.0, 0.85, 0.2), 0.5))
        card.paint(card.ellipse(0.0, radius, radius, radius), colour)


@dataclass(kw_only=True)
class Moon(InSky):
    """A spotted disc about (u, v)."""

    kind = "moon"
    segment = "sun_moon"
    spots = (0.72, 0.74, 0.72)

    colour: Colour

    @classmethod
    def plan(cls, draw: Draw, *, u: float, v: float, mood: Mood) -> "Moon":
        radius = draw(0.022, 0.04)
        draw()  # stands for nothing: the pictures of all that is drawn later depend on it
        size = 2 * radius
        return cls(u=u, v=v + radius, z=1900.0, width=size, height=size, colour=mood.sun)

    def paint(self, card: Card, look: Look) -> None:
        radius = self.width / 2
        disc = card.ellipse(0.0, radius, radius, radius)
        card.paint(disc, self.colour)
        spots = array(
            [
                (-0.3 * radius, 1.25 * radius, 0.28 * radius, 0.24 * radius),
                (0.3 * radius, 0.8 * radius, 0.22 * radius, 0.3 * radius),
                (0.1 * radius, 1.5 * radius, 0.16 * radius, 0.14 * radius),
            ]
        )
        card.paint(card.ellipses(spots, 0.1 * radius) * disc * 0.7, self.spots)
