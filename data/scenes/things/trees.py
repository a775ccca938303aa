"""Trees, conifers and palms."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from data.scenes.draw import LEAVES, Colour, Draw, mix
from data.scenes.painting.card import Card, array
from data.scenes.painting.look import Look
from data.scenes.painting.tables import unit
from data.scenes.things.thing import Standing

_NEEDLES = ((0.10, 0.25, 0.14), (0.14, 0.30, 0.18), (0.08, 0.22, 0.17))
_SNOW = (0.93, 0.95, 0.99)


@dataclass(kw_only=True)
class Tree(Standing):
    """A crown of seven ellipses on a trunk."""

    kind = "tree"
    segment = "vegetation"

    leaves: Colour
    bark: Colour
    crown: list[tuple[float, float, float, float]]  # ellipses: middle x, y, half axes; metres

    @classmethod
    def plan(
        cls, draw: Draw, *, x: float, z: float, height: float, tones: Sequence[Colour] = LEAVES
    ) -> "Tree":
        width = height * draw(0.55, 0.9)
        shares = [(0.0, 0.66, 0.33, 0.26)]
        for k in range(6):
            angle = (k + draw()) * math.pi / 3
            radius = draw(0.14, 0.22)
            shares.append(
                (
                    math.cos(angle) * draw(0.18, 0.30),
                    0.66 + math.sin(angle) * draw(0.10, 0.16),
                    radius,
                    radius * draw(0.7, 0.9),
                )
            )
        return cls(
            x=x,
            z=z,
            width=width,
            height=height,
            leaves=draw.colour(draw.pick(tones), 0.07),
            bark=draw.colour((0.30, 0.21, 0.14), 0.04),
            crown=[(a * width, b * height, c * width, d * height) for a, b, c, d in shares],
        )

    def paint(self, card: Card, look: Look) -> None:
        height, width = self.height, self.width
        half = 0.035 * height + 0.02 * (height - card.y)
        left = -0.035 * height - 0.02 * (height - card.y)
        card.paint(card.hspan(left, half) * card.vspan(0, 0.6 * height), look.lit(self.bark))
        ellipses = array(self.crown)
        crown = card.ellipses(ellipses)
        card.paint(crown, look.lit(self.leaves, 0.86 if look.real else 1.0))
        towards_sun = array((look.sun_side * 0.05 * width, 0.06 * height, 0, 0))
        bright = ellipses * array((1, 1, 0.66, 0.62)) + towards_sun
        if not look.real:
            card.paint(card.ellipses(bright[:4]) * crown, look.lit(self.leaves, 1.3))
            return
        lit = card.ellipses(bright, 0.10 * height)
        lit *= crown
        lit *= 0.75
        card.paint(lit, look.lit(mix(self.leaves, (0.75, 0.78, 0.35), 0.28), 1.15))
        shade = 0.86 + 0.22 * (card.y / height) + (0.22 * look.sun_side / width) * card.x
        for wave, amount in ((0.9, 0.20), (0.32, 0.16)):
            grain = card.grain(wave, amount, int(width * 9999))
            if grain is not None:
                shade = shade + grain
        card.shade(shade)


@dataclass(kw_only=True)
class Conifer(Standing):
    """A cone of tiers, under snow or not."""

    kind = "conifer"
    segment = "vegetation"
    bark = (0.26, 0.18, 0.12)

    needles: Colour
    snowy: bool
    tiers: int

    @classmethod
    def plan(
        cls, draw: Draw, *, x: float, z: float, height: float, snowy: bool = False
    ) -> "Conifer":
        return cls(
            needles=draw.colour(_NEEDLES[draw.integer(0, 2)]),
            x=x,
            z=z,
            width=height * draw(0.36, 0.52),
            height=height,
            snowy=snowy,
            tiers=draw.integer(4, 7),
        )

    def paint(self, card: Card, look: Look) -> None:
        height, width, tiers = self.height, self.width, self.tiers
        card.paint(card.bar(-0.03 * height, 0.03 * height, 0.0, 0.16 * height), look.lit(self.bark))
        up = (card.y - 0.1 * height) / (0.9 * height)
        steps = (1.0 - up) * tiers
        saw = steps - np.floor(steps)
        # Where a pixel is as tall as a tier the saw is only its mean.
        fade = max(0.0, min(1.0, 1.5 - card.pixel * tiers / (0.9 * height) * 1.6))
        saw = 0.5 + (saw - 0.5) * fade
        half = 0.5 * width * (1.0 - up) * (0.62 + 0.38 * saw) + 0.012 * height
        body = card.hspan(-half, half)
        body *= card.vspan(0.1 * height, height)
        card.paint(body, look.lit(self.needles))
        if self.snowy:
            top = (1.0 - saw) * 1.5 - 0.35
            snow = body * unit(top + (0.25 * look.sun_side / width) * card.x)
            card.paint(snow * 0.9, look.lit(_SNOW))
        if look.real:
            shade = (
                0.92
                + (0.4 * look.sun_side / width) * card.x
                + (0.35 * fade) * (0.5 - saw if not self.snowy else 0.0 * saw)
            )
            card.shade(shade, card.grain(0.4, 0.25, int(width * 9999)))


class Frond(NamedTuple):
    """A palm's leaf: the curve y = d (rise - fall d / length), d metres to its side (-1 or 1)."""

    side: float
    rise: float
    fall: float
    length: float


@dataclass(kw_only=True)
class Palm(Standing):
    """A leaning trunk with eight fronds, four to a side."""

    kind = "palm"
    segment = "vegetation"

    leaves: Colour
    bark: Colour
    lean: float  # metres from foot to top
    fronds: list[Frond]

    @classmethod
    def plan(cls, draw: Draw, *, x: float, z: float, height: float) -> "Palm":
        lean = draw(-0.22, 0.22) * height
        fronds = [
            Frond(
                side=1.0 if k % 2 else -1.0,
                rise=(0.1, 0.75, 1.5, 2.6)[k // 2] * draw(0.75, 1.25),
                fall=(0.75, 1.15, 1.65, 2.4)[k // 2] * draw(0.9, 1.1),
                length=(0.26, 0.38, 0.38, 0.24)[k // 2] * draw(0.85, 1.15) * height,
            )
            for k in range(8)
        ]
        return cls(
            x=x,
            z=z,
            width=height * 1.1,
            height=height,
            leaves=draw.colour((0.20, 0.42, 0.14)),
            bark=draw.colour((0.46, 0.35, 0.22)),
            lean=lean,
            fronds=fronds,
        )

    def paint(self, card: Card, look: Look) -> None:
        height, lean = self.height, self.lean
        up = np.minimum(np.maximum(card.y, 0.0), 0.74 * height) / (0.74 * height)
        middle = lean * (up * up)
        half = 0.035 * height * (1.3 - 0.6 * up)
        card.paint(
            card.hspan(middle - half, middle + half) * card.vspan(0, 0.75 * height),
            look.lit(self.bark),
        )
        top = 0.74 * height
        fronds = array(self.fronds)[:, :, None, None]
        side, rise, fall, length = fronds[:, 0], fronds[:, 1], fronds[:, 2], fronds[:, 3]
        out = (card.x - lean) * side
        share = out / length
        curve = out * (rise - fall * share)
        thick = (
            (0.036 * height)
            * np.sqrt(np.maximum(share * (1.0 - share) * 4.0, 0.0))
            * (1.3 - 0.5 * share)
        )
        thick = thick * np.sqrt(1.0 + (rise - 2.0 * fall * share) ** 2)  # along y on a slope
        cover = unit((thick - np.abs(card.y - top - curve)) * card.per_metre + 0.5) * (thick > 0)
        for cut, strength in ((slice(0, 4), 0.72), (slice(4, 8), 1.05)):
            card.paint(cover[cut].max(0), look.lit(self.leaves, strength))
        heart = card.ellipse(lean, top, 0.045 * height, 0.05 * height)
        card.paint(heart, look.lit((0.34, 0.22, 0.10)))
        if look.real:
            lean_to_sun = (0.25 * look.sun_side / self.width) * card.x
            card.shade(1.0 + lean_to_sun + 0.10 * (card.y / height))
