"""Scenes: the embedded data set, rendered and never downloaded.

A scene is a small 2.5-D world drawn from (seed, split, index): ten classes, seven times of day,
nineteen kinds of things. It renders at any resolution, in a 'real' style (texture, haze, shading,
shadows, reflections) and a 'sim' style (flat, saturated, clean edges), dry or flooded, with
boxes, instance masks, segmentation, depth, height and water that agree with the picture.

    python -m data.synthetic --out docs/scenes.png          the contact sheet of the documentation
    python -m data.synthetic --out sheet.png --split val --first 40 --count 48 --size 128
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from data.scene_paint import Picture
from data.scene_plan import (
    CLASSES,
    FAR,
    IN_SKY,
    OBJECTS,
    SEGMENT,
    SEGMENTS,
    TOP,
    Scene,
    label_of,
    plan,
)
from storage.errors import DataError

__all__ = [
    "CLASSES",
    "FAR",
    "OBJECTS",
    "SEGMENT",
    "SEGMENTS",
    "STYLES",
    "TOP",
    "SceneSample",
    "Scenes",
]

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
        things = [(k, t) for k, t in enumerate(scene.things) if not picture.gone(t)]
        boxes = np.array([_box(scene, t, picture.level) for _, t in things], dtype=np.float32)
        ids = np.array([k for k, _ in things], dtype=np.int16)
        return SceneSample(
            image=picture.pixels(),
            label=scene.label,
            boxes=boxes.reshape(-1, 4),
            box_labels=np.array([_KIND[t.kind] for _, t in things], dtype=np.int64),
            masks=picture.instance == ids[:, None, None],
            segmentation=picture.segment,
            depth=picture.depth,
            height=picture.height,
            water=picture.water,
            level=picture.level,
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


_KIND = {name: k for k, name in enumerate(OBJECTS)}


def _is_integer(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _box(scene: Scene, thing: object, level: float) -> tuple[float, float, float, float]:
    """The box of a thing when the water stands at `level`."""
    x0, y0, x1, y1 = thing.box
    if thing.kind in IN_SKY:
        return thing.box
    if thing.floats:
        lift = level / thing.z
        foot = scene.horizon + scene.camera / thing.z
        top = foot - thing.h / thing.z
        return (x0, max(top - lift, 0.0), x1, min(foot - lift, 1.0))
    if level > thing.foot:
        y1 = min(y1, scene.horizon + (scene.camera - level) / thing.z)
    return (x0, y0, x1, y1)


# -- the contact sheet -----------------------------------------------------------------------------
def _tinted(values: np.ndarray) -> np.ndarray:
    """Numbers in [0, 1] as colours from dark blue over green to yellow, uint8 [S, S, 3]."""
    stops = np.array([[40, 20, 80], [50, 90, 140], [40, 160, 130], [150, 210, 80], [250, 235, 60]])
    at = np.linspace(0, 1, len(stops))
    return np.stack([np.interp(values, at, stops[:, k]) for k in range(3)], -1).astype(np.uint8)


def _palette(count: int) -> np.ndarray:
    """Distinct colours, uint8 [count, 3]."""
    hue = (np.arange(count) * 0.618) % 1.0
    rgb = 0.5 + 0.5 * np.cos(2 * np.pi * (hue[:, None] + np.array([0.0, 0.33, 0.67])))
    return (60 + 190 * rgb).astype(np.uint8)


def maps_of(sample: SceneSample) -> list[np.ndarray]:
    """Depth, height, segmentation and instances (with boxes) as pictures, each uint8 [S, S, 3]."""
    depth = np.log(sample.depth / 3.0) / np.log(FAR / 3.0)
    height = np.log1p(np.maximum(sample.height, 0)) / np.log1p(TOP)
    size = sample.image.shape[0]
    instances = (sample.image * 0.35).astype(np.uint8)
    colours = _palette(len(sample.masks))
    for mask, colour in zip(sample.masks, colours, strict=True):
        instances[mask] = colour
    for box, colour in zip(sample.boxes, colours, strict=True):
        x0, y0, x1, y1 = (np.clip(box * size, 0, size - 1)).astype(int)
        instances[[y0, y1], x0 : x1 + 1] = colour
        instances[y0 : y1 + 1, [x0, x1]] = colour
    return [
        _tinted(1 - depth),
        _tinted(height),
        _palette(len(SEGMENTS))[sample.segmentation],
        instances,
    ]


def sheet(pictures: Sequence[np.ndarray], columns: int, gap: int = 4) -> np.ndarray:
    """Pictures of one size in a grid with white gaps, uint8."""
    size = pictures[0].shape[0]
    rows = -(-len(pictures) // columns)
    step = size + gap
    out = np.full((rows * step - gap, columns * step - gap, 3), 255, np.uint8)
    for k, picture in enumerate(pictures):
        r, c = divmod(k, columns)
        out[r * step : r * step + size, c * step : c * step + size] = picture
    return out


# Scenes of the documentation's sheet: one of every class and two more; the pair below is another.
SHOWN = (8, 26, 52, 90, 101, 7, 120, 53, 66, 39, 69, 2)
PAIR = 33


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write a contact sheet of synthetic scenes.")
    parser.add_argument("--out", type=Path, required=True, help="PNG to write")
    parser.add_argument("--size", type=int, default=256, help="pixels of a picture (default 256)")
    parser.add_argument("--split", choices=tuple(COUNTS), default="train")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--style", choices=STYLES, default="real")
    parser.add_argument("--first", type=int, default=0, help="first scene, with --count")
    parser.add_argument("--count", type=int, help="a plain sheet of so many scenes, 8 a row")
    args = parser.parse_args(argv)
    scenes = Scenes(args.split, 1 << 40, args.seed, args.style)
    if args.count:
        pictures = [scenes.image(args.first + k, args.size) for k in range(args.count)]
        picture = sheet(pictures, 8)
    else:
        pictures = [scenes.render(i, args.size, flooded=False).image for i in SHOWN]
        dry, wet = (scenes.render(PAIR, args.size, flooded=f) for f in (False, True))
        sim = scenes.render(PAIR, args.size, style="sim", flooded=False)
        picture = sheet(
            [*pictures, dry.image, wet.image, sim.image, maps_of(wet)[2], *maps_of(dry)], 4
        )
    from PIL import Image

    args.out.parent.mkdir(parents=True, exist_ok=True)
    partial = args.out.with_name(args.out.name + ".part")
    Image.fromarray(picture).save(partial, format="PNG", optimize=True)
    os.replace(partial, args.out)
    megabytes = args.out.stat().st_size / 1e6
    print(f"{args.out}: {picture.shape[1]} x {picture.shape[0]}, {megabytes:.2f} MB")


if __name__ == "__main__":
    main()
