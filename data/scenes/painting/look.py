"""How a style colours things."""

import math

from data.scenes.draw import Colour, mix
from data.scenes.setting import Setting


class Look:
    """A style under the light of a setting.

    real       texture, haze, shading, shadows, reflections; else flat and saturated
    sun_side   where the light comes from: -1 far left .. 1 far right
    """

    def __init__(self, setting: Setting, style: str) -> None:
        self.real = style == "real"
        self.mood = setting.mood
        self.tint = setting.mood.light
        side = (setting.sun[0] - 0.5) * 2.0
        clear = setting.mood.shadow > 0.14
        self.sun_side = max(-1.0, min(1.0, side * 1.6)) if clear else side * 0.3

    def lit(self, colour: Colour, strength: float = 1.0) -> Colour:
        """A surface's colour under the light of the hour."""
        red, green, blue = colour[0] * strength, colour[1] * strength, colour[2] * strength
        if not self.real:
            grey = (red + green + blue) / 3
            red, green, blue = (
                min(max(grey + 1.7 * (x - grey) + 0.03, 0.0), 1.0) for x in (red, green, blue)
            )
            # A simulator's light: the hour is there, but paler.
            tint = mix(self.tint, (1.0, 1.0, 1.0), 0.35)
            return (red * tint[0], green * tint[1], blue * tint[2])
        tint = self.tint
        return (min(red * tint[0], 1.0), min(green * tint[1], 1.0), min(blue * tint[2], 1.0))

    def sky(self, colour: Colour) -> Colour:
        """A colour of the sky, which shines by itself."""
        if self.real:
            return colour
        grey = (colour[0] + colour[1] + colour[2]) / 3
        red, green, blue = (min(max(grey + 1.35 * (x - grey), 0.0), 1.0) for x in colour)
        return (red, green, blue)

    def haze(self, z: float) -> float:
        """The share of haze in what is z metres away."""
        return 1.0 - math.exp(-z / self.mood.haze) if self.real else 0.0
