"""The camera of a scene at a size."""

import math

from data.scenes.painting.tables import grid_of
from data.scenes.setting import Setting


class View:
    """A scene's camera, the grid of pixels, and the level of the water in metres."""

    def __init__(self, setting: Setting, size: int, level: float) -> None:
        self.axis = setting.axis
        self.horizon = setting.horizon
        self.camera = setting.camera
        self.grid = grid_of(size)
        self.level = level

    def window(
        self, left: float, top: float, right: float, bottom: float
    ) -> tuple[slice, slice] | None:
        """(rows, columns) of the pixels that a rectangle touches; None outside the picture."""
        size = self.grid.size
        first_row = max(int(math.floor(top * size)), 0)
        end_row = min(int(math.ceil(bottom * size)), size)
        first_col = max(int(math.floor(left * size)), 0)
        end_col = min(int(math.ceil(right * size)), size)
        if first_row >= end_row or first_col >= end_col:
            return None
        return slice(first_row, end_row), slice(first_col, end_col)
