"""What a scene is: a setting and the things in it, what pixels are labelled with, and how far and
how high it all goes.
"""

from dataclasses import dataclass, field

from data.scenes.setting import Setting
from data.scenes.things.thing import Thing

SEGMENTS = (
    "sky",
    "cloud",
    "sun_moon",
    "mountain",
    "grass",
    "soil",
    "sand",
    "snow",
    "road",
    "pavement",
    "water",
    "building",
    "vegetation",
    "rock",
    "vehicle",
    "person",
    "boat",
    "pole",
    "item",
)
SEGMENT = {name: number for number, name in enumerate(SEGMENTS)}

FAR = 2000.0  # depth of the sky, metres
TOP = 100.0  # heights are cut here; the sky has this one


@dataclass
class Scene(Setting):
    """All that painting needs: a setting and the things in it."""

    things: list[Thing] = field(default_factory=list)  # in painting order
