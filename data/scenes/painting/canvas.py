"""What a picture is painted on: the picture and its maps, and the scene seen at a size."""

import numpy as np

from data.scenes.draw import mix
from data.scenes.painting.look import Look
from data.scenes.painting.view import View
from data.scenes.world import FAR, TOP, Scene


class Canvas:
    """The buffers of one scene at one size, S x S, in one style.

    image       float32 [3, S, S], [0, 1]
    segment     uint8 [S, S], indices into SEGMENTS
    instance    int16 [S, S], indices into scene.things; -1 for none
    depth       float32 [S, S], metres
    height      float32 [S, S], metres, of the dry scene
    front       float32 [S, S], depth of the nearest thing, drowned or not
    sky_hidden  float32 [S, S], how much of the sky the ridges hide
    """

    def __init__(self, scene: Scene, size: int, style: str, flooded: bool) -> None:
        self.scene = scene
        self.size = size
        self.flooded = flooded
        self.level = scene.flood_level if flooded else 0.0
        self.look = Look(scene, style)
        self.view = View(scene, size, self.level)
        self.haze_colour = mix(scene.mood.horizon, scene.mood.middle, 0.25)
        shape = (size, size)
        self.image = np.empty((3, *shape), np.float32)
        self.segment = np.zeros(shape, np.uint8)
        self.instance = np.full(shape, -1, np.int16)
        self.depth = np.full(shape, FAR, np.float32)
        self.height = np.full(shape, TOP, np.float32)
        self.front = np.full(shape, np.inf, np.float32)
        self.sky_hidden = np.zeros(shape, np.float32)


def lay_over(below: np.ndarray, colour: np.ndarray, cover: np.ndarray) -> None:
    """Lay a colour over what is painted, in place, where and as much as `cover` says."""
    change = colour - below
    change *= cover
    below += change
