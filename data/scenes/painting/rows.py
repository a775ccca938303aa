"""The rows of a picture that show the ground, and where on the ground each of their pixels is."""

from dataclasses import dataclass

import numpy as np

from data.scenes.land import EDGE
from data.scenes.painting.canvas import Canvas


@dataclass(kw_only=True)
class Rows:
    """The rows of a picture that show the ground, from `first` on; h of them.

    v, fall     [h, 1] v of their middles; v below the horizon
    z, x        [h, 1], [h, S] where on the base plane, metres
    land        [h, S] height of the dry ground, metres
    footprint   [h, 1] metres along z in one pixel
    farthest    where the ground ends, metres; `start` is v of that
    """

    first: int
    v: np.ndarray
    fall: np.ndarray
    z: np.ndarray
    x: np.ndarray
    land: np.ndarray
    footprint: np.ndarray
    farthest: float
    start: float


def ground_rows(canvas: Canvas) -> Rows | None:
    """None where the picture shows no ground."""
    scene, grid = canvas.scene, canvas.view.grid
    farthest = min([r.z for r in scene.ridges], default=EDGE)
    start = scene.horizon + scene.camera / farthest
    first = min(int(start * grid.size), grid.size)
    if first >= grid.size:
        return None
    v = grid.v[first:]
    fall = np.maximum(v - scene.horizon, scene.camera / farthest)
    z = scene.camera / fall
    x = (grid.u - scene.axis) * z
    footprint = z * z * (grid.step / scene.camera)
    return Rows(
        first=first,
        v=v,
        fall=fall,
        z=z,
        x=x,
        land=scene.elevation(x, z),
        footprint=footprint,
        farthest=farthest,
        start=start,
    )
