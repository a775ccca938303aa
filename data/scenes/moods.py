"""Times of day: what the sky and the light are like."""

from dataclasses import dataclass

from data.scenes.draw import Colour


@dataclass(frozen=True, kw_only=True)
class Mood:
    """A time of day.

    zenith, middle, horizon  the sky, from above to the horizon
    light                    multiplies the colours of things
    sun                      colour of the sun or the moon
    shadow                   strength of shadows, [0, 1]
    haze                     metres after which 63 % of a thing is haze
    dark                     lamps and windows are lit
    low_sun, overcast, night what stands in the sky: a low sun; no sun; perhaps a moon
    """

    zenith: Colour
    middle: Colour
    horizon: Colour
    light: Colour
    sun: Colour
    shadow: float
    haze: float
    dark: bool = False
    low_sun: bool = False
    overcast: bool = False
    night: bool = False


MOODS = {
    "day": Mood(
        zenith=(0.17, 0.39, 0.74),
        middle=(0.42, 0.64, 0.90),
        horizon=(0.80, 0.89, 0.95),
        light=(1.03, 1.0, 0.95),
        sun=(1.0, 0.97, 0.86),
        shadow=0.45,
        haze=420.0,
    ),
    "clear": Mood(
        zenith=(0.08, 0.29, 0.66),
        middle=(0.26, 0.54, 0.87),
        horizon=(0.70, 0.85, 0.96),
        light=(1.07, 1.03, 0.97),
        sun=(1.0, 0.98, 0.90),
        shadow=0.52,
        haze=750.0,
    ),
    "golden": Mood(
        zenith=(0.30, 0.42, 0.66),
        middle=(0.80, 0.70, 0.62),
        horizon=(1.0, 0.80, 0.49),
        light=(1.08, 0.87, 0.66),
        sun=(1.0, 0.90, 0.62),
        shadow=0.42,
        haze=240.0,
        low_sun=True,
    ),
    "dawn": Mood(
        zenith=(0.35, 0.41, 0.66),
        middle=(0.78, 0.62, 0.70),
        horizon=(1.0, 0.80, 0.69),
        light=(0.98, 0.84, 0.82),
        sun=(1.0, 0.86, 0.74),
        shadow=0.30,
        haze=150.0,
        low_sun=True,
    ),
    "overcast": Mood(
        zenith=(0.52, 0.57, 0.64),
        middle=(0.68, 0.72, 0.77),
        horizon=(0.83, 0.86, 0.88),
        light=(0.86, 0.89, 0.93),
        sun=(0.95, 0.95, 0.95),
        shadow=0.15,
        haze=190.0,
        overcast=True,
    ),
    "dusk": Mood(
        zenith=(0.13, 0.15, 0.37),
        middle=(0.46, 0.29, 0.50),
        horizon=(0.97, 0.52, 0.34),
        light=(0.58, 0.49, 0.56),
        sun=(1.0, 0.66, 0.40),
        shadow=0.18,
        haze=260.0,
        dark=True,
        low_sun=True,
    ),
    "night": Mood(
        zenith=(0.015, 0.025, 0.08),
        middle=(0.05, 0.07, 0.18),
        horizon=(0.16, 0.17, 0.31),
        light=(0.25, 0.28, 0.42),
        sun=(0.93, 0.94, 0.86),
        shadow=0.12,
        haze=330.0,
        dark=True,
        night=True,
    ),
}
