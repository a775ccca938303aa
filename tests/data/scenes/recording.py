"""Every output of 200 scenes, written down once: `python -m tests.data.scenes.recording` records.

A scene has one line in recording.txt: its index, a digest of each of its eight renderings (every
output, bit for bit), and a sketch (coarse means of the picture and its maps).

NumPy picks its float32 `exp`, `sin` and `cos` by the processor, and their last bits differ. The
file therefore says what arithmetic it was recorded with: digests are compared where that is the
same, sketches everywhere.
"""

import hashlib
import math
import platform
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.scenes import FAR, TOP, Scenes, SceneSample

FILE = Path(__file__).with_name("recording.txt")
COUNT = 200
SIZES = (32, 128)  # some details only appear above 100 pixels
SKETCHED = (32, "real", True)
RENDERINGS = tuple(
    (size, style, flooded)
    for size in SIZES
    for style in ("real", "sim")
    for flooded in (False, True)
)
ARRAYS = ("image", "boxes", "box_labels", "masks", "segmentation", "depth", "height", "water")


@dataclass(frozen=True)
class Recorded:
    """One scene's line: a digest for each of RENDERINGS, and the sketch, uint8 [4, 4, 4]."""

    digests: tuple[str, ...]
    sketch: np.ndarray


def arithmetic() -> str:
    """A digest of what this machine makes of the functions that scenes are computed with."""
    x = np.linspace(-9.0, 9.0, 4099)
    found = [f(x.astype(kind)) for f in (np.exp, np.sin, np.cos) for kind in (np.float32, float)]
    found.append(np.array([f(v) for f in (math.exp, math.sin, math.cos) for v in x.tolist()]))
    return hashlib.sha256(b"".join(a.tobytes() for a in found)).hexdigest()[:16]


def digest(sample: SceneSample) -> str:
    """Of every output of a rendering: types, shapes and all bits."""
    found = hashlib.sha256()
    for name in ARRAYS:
        array = np.ascontiguousarray(getattr(sample, name))
        found.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    rest = (sample.label, float(sample.level), sample.style, bool(sample.flooded))
    found.update(repr(rest).encode())
    return found.hexdigest()[:12]


def sketch(sample: SceneSample) -> np.ndarray:
    """Grey, depth, height and water of a rendering as means over a 4 x 4 grid, uint8 [4, 4, 4]."""
    maps = (
        sample.image.mean(-1) / 255,
        np.log(sample.depth) / math.log(FAR),
        np.log1p(np.maximum(sample.height, 0)) / math.log1p(TOP),
        sample.water,
    )
    cell = sample.image.shape[0] // 4
    means = [np.asarray(m, float).reshape(4, cell, 4, cell).mean((1, 3)) for m in maps]
    return np.clip(np.rint(255 * np.stack(means)), 0, 255).astype(np.uint8)


def measure(scenes: Scenes, index: int) -> Recorded:
    """What the code makes of a scene now."""
    samples = {key: scenes.render(index, *key) for key in RENDERINGS}
    return Recorded(tuple(digest(samples[key]) for key in RENDERINGS), sketch(samples[SKETCHED]))


def read() -> tuple[str, dict[int, Recorded]]:
    """(arithmetic, scenes) of the recording."""
    header, *lines = FILE.read_text().splitlines()
    scenes = {}
    for line in lines:
        index, *digests, drawn = line.split()
        grid = np.frombuffer(bytes.fromhex(drawn), np.uint8).reshape(4, 4, 4)
        scenes[int(index)] = Recorded(tuple(digests), grid)
    return header.split()[1], scenes


def write() -> None:
    """Record all scenes anew: only where pictures change on purpose."""
    scenes = Scenes()
    machine = f"{platform.machine()}, Python {platform.python_version()}, NumPy {np.__version__}"
    lines = [f"arithmetic {arithmetic()} recorded on {machine}"]
    for index in range(COUNT):
        found = measure(scenes, index)
        lines.append(f"{index} {' '.join(found.digests)} {found.sketch.tobytes().hex()}")
    FILE.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    write()
