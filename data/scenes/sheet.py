"""The contact sheet of scenes: `python -m data.scenes --out sheet.png`."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from data.scenes.source import COUNTS, STYLES, Scenes, SceneSample
from data.scenes.world import FAR, SEGMENTS, TOP
from runtime.progress import track
from storage.files import writing


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
        row, column = (step * at for at in divmod(k, columns))
        out[row : row + size, column : column + size] = picture
    return out


# Scenes of the documentation's sheet: one of every class and two more; the pair below is another.
SHOWN = (8, 26, 52, 90, 101, 7, 120, 53, 66, 39, 69, 2)
PAIR = 33


def main(
    argv: Sequence[str] | None = None,
    prepare: Callable[[argparse.ArgumentParser], object] = lambda parser: None,
) -> None:
    """The command. prepare: what the parser is shown to before it is used."""
    parser = argparse.ArgumentParser(
        prog="data.scenes", description="Write a contact sheet of synthetic scenes."
    )
    parser.add_argument("--out", type=Path, required=True, help="PNG to write (required)")
    parser.add_argument("--size", type=int, default=256, help="pixels of a picture")
    parser.add_argument("--split", choices=tuple(COUNTS), default="train", help="which scenes")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the scenes")
    parser.add_argument("--style", choices=STYLES, default="real", help="how they are drawn")
    parser.add_argument("--first", type=int, default=0, help="first scene, with --count")
    parser.add_argument(
        "--count",
        type=int,
        help="a plain sheet of so many scenes, 8 a row (default: that of the documents)",
    )
    prepare(parser)
    args = parser.parse_args(argv)
    if args.first and not args.count:
        parser.error(f"--first {args.first} is of --count: it has no effect here")
    scenes = Scenes(args.split, 1 << 40, args.seed, args.style)
    if args.count:
        numbers = track(range(args.count), args.count, "scenes", "scene")
        picture = sheet([scenes.image(args.first + k, args.size) for k in numbers], 8)
    else:
        numbers = track(SHOWN, len(SHOWN), "scenes", "scene")
        pictures = [scenes.render(i, args.size, flooded=False).image for i in numbers]
        dry, wet = (scenes.render(PAIR, args.size, flooded=f) for f in (False, True))
        sim = scenes.render(PAIR, args.size, style="sim", flooded=False)
        picture = sheet(
            [*pictures, dry.image, wet.image, sim.image, maps_of(wet)[2], *maps_of(dry)], 4
        )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with writing(args.out) as file:
        Image.fromarray(picture).save(file, format="PNG", optimize=True)
    megabytes = args.out.stat().st_size / 1e6
    print(f"{args.out}: {picture.shape[1]} x {picture.shape[0]}, {megabytes:.2f} MB")
