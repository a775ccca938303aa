"""The scenes of a split as a source of pictures, with all their maps."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from data.scenes.painting.picture import Picture
from data.scenes.places import CLASSES
from data.scenes.plan import label_of, plan
from data.scenes.things import OBJECTS
from data.scenes.world import Scene
from storage.errors import DataError

STYLES = ("real", "sim", "mixed")
COUNTS = {"train": 4096, "val": 512}
LARGEST = 4096

# A plan is small and a function of its key alone; the sizes of one picture are asked for in a row.
_plan = lru_cache(maxsize=64)(plan)


@dataclass(frozen=True)
class SceneSample:
    """One rendered scene; S is the size, N the number of things.

    image          uint8 [S, S, 3]
    label          index into CLASSES
    boxes          float32 [N, 4], x0 y0 x1 y1 in [0, 1]: the whole thing, clipped to the picture
                   and cut at the water; the same at every size
    box_labels     int64 [N], indices into OBJECTS
    masks          bool [N, S, S]: the pixels where the thing is what one sees (disjoint; can be
                   empty where a thing is smaller than a pixel)
    segmentation   uint8 [S, S], indices into SEGMENTS
    depth          float32 [S, S], metres along the axis of view; FAR for the sky
    height         float32 [S, S], metres above the base plane of what stands there, of the dry
                   scene; TOP for the sky and everything higher. Floating boats float on the risen
                   water.
    water          bool [S, S]: height < level
    level          height of the water, metres: 0 when dry (lakes, rivers and the sea lie at 0)
    """

    image: np.ndarray
    label: int
    boxes: np.ndarray
    box_labels: np.ndarray
    masks: np.ndarray
    segmentation: np.ndarray
    depth: np.ndarray
    height: np.ndarray
    water: np.ndarray
    level: float
    style: str
    flooded: bool


class Scenes:
    """The scenes of a split, a Source: `len`, `image`, `native`, `label`, `path`, `classes`,
    `name`.

    split    "train" or "val"; the two share no scene.
    count    number of scenes; None for 4096 / 512. Any number goes: scene i does not depend on it.
    style    "real", "sim", or "mixed" (one of the two, by index).
    flooded  True, False, or None: one scene in five, by index.

    A scene is a function of (seed, split, i): not of the process, of order, or of the size
    rendered. Wrong arguments raise DataError (a ValueError), a bad index IndexError.
    """

    name = "scenes"

    def __init__(
        self,
        split: str = "train",
        count: int | None = None,
        seed: int = 0,
        style: str = "real",
        flooded: bool | None = None,
    ) -> None:
        if split not in COUNTS:
            raise DataError(f"scenes: split {split!r} is unknown; take one of {', '.join(COUNTS)}")
        if count is not None and not (_is_integer(count) and count > 0):
            raise DataError(
                f"scenes: count {count!r} must be a positive integer, or None for {COUNTS[split]}"
            )
        if not _is_integer(seed):
            raise DataError(f"scenes: seed {seed!r} must be an integer")
        self._check_style(style)
        self._check_flooded(flooded)
        self.split = split
        self.count = COUNTS[split] if count is None else int(count)
        self.seed = int(seed)
        self.style = style
        self.flooded = flooded
        self.classes = list(CLASSES)

    def __len__(self) -> int:
        return self.count

    def __repr__(self) -> str:
        return (
            f"Scenes(split={self.split!r}, count={self.count}, seed={self.seed}, "
            f"style={self.style!r}, flooded={self.flooded})"
        )

    def image(self, i: int, size: int = 64) -> np.ndarray:
        """The picture of scene i, uint8 [size, size, 3]."""
        return self._picture(i, size, None, None)[0].pixels()

    def native(self, i: int, size: int) -> np.ndarray:
        """The same as `image`: a scene is drawn at the size asked for, not resized."""
        return self.image(i, size)

    def label(self, i: int) -> int:
        return label_of(self.seed, self.split, self._index(i))

    def path(self, i: int) -> str:
        """A stable name; there is no such file."""
        return f"scenes/{self.split}/{self._index(i):06d}"

    def scene(self, i: int) -> Scene:
        """The plan of scene i: camera, ground, things in metres. Not to be changed."""
        return _plan(self.seed, self.split, self._index(i))

    def render(
        self, i: int, size: int = 64, style: str | None = None, flooded: bool | None = None
    ) -> SceneSample:
        """Everything about scene i at a size. `style` and `flooded` override the set's own."""
        picture, scene, style, wet = self._picture(i, size, style, flooded)
        level = picture.level
        things = [(k, t) for k, t in enumerate(scene.things) if not t.drowned(level)]
        boxes = np.array([t.box_at(scene, level) for _, t in things], dtype=np.float32)
        ids = np.array([k for k, _ in things], dtype=np.int16)
        return SceneSample(
            image=picture.pixels(),
            label=scene.label,
            boxes=boxes.reshape(-1, 4),
            box_labels=np.array([_NUMBER[t.kind] for _, t in things], dtype=np.int64),
            masks=picture.instance == ids[:, None, None],
            segmentation=picture.segment,
            depth=picture.depth,
            height=picture.height,
            water=picture.water,
            level=level,
            style=style,
            flooded=wet,
        )

    def _picture(
        self, i: int, size: int, style: str | None, flooded: bool | None
    ) -> tuple[Picture, Scene, str, bool]:
        if not (_is_integer(size) and 1 <= size <= LARGEST):
            raise DataError(f"scenes: size {size!r} must be an integer from 1 to {LARGEST}")
        if style is not None:
            self._check_style(style)
        self._check_flooded(flooded)
        scene = self.scene(i)
        style = style or self.style
        if style == "mixed":
            style = "sim" if scene.shift[0] % 2 else "real"
        if flooded is None:
            flooded = self.flooded
        if flooded is None:
            flooded = scene.floods
        return Picture(scene, int(size), style, flooded), scene, style, flooded

    def _index(self, i: int) -> int:
        if not _is_integer(i):
            raise DataError(f"scenes: index {i!r} must be an integer")
        if not 0 <= i < self.count:
            raise IndexError(f"scenes: index {i} is out of range; there are {self.count} scenes")
        return int(i)

    @staticmethod
    def _check_style(style: str) -> None:
        if style not in STYLES:
            raise DataError(f"scenes: style {style!r} is unknown; take one of {', '.join(STYLES)}")

    @staticmethod
    def _check_flooded(flooded: bool | None) -> None:
        if not (flooded is None or isinstance(flooded, bool | np.bool_)):
            raise DataError(f"scenes: flooded {flooded!r} must be True, False or None")


_NUMBER = {kind: number for number, kind in enumerate(OBJECTS)}


def _is_integer(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
