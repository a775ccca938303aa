"""A kind of thing is a class and an entry; a place is a file and an entry: both added to a copy."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from data.scenes import CLASSES, OBJECTS, SEGMENTS
from data.scenes.places import PLACES
from data.scenes.things import THINGS

ROOT = Path(__file__).resolve().parents[3]

SIGN = '''
"""Road signs."""

from dataclasses import dataclass

from data.scenes.draw import PAINTS, Colour, Draw
from data.scenes.painting.card import Card
from data.scenes.painting.look import Look
from data.scenes.things.thing import Standing


@dataclass(kw_only=True)
class Sign(Standing):
    """A board on a pole."""

    kind = "sign"
    segment = "pole"

    colour: Colour

    @classmethod
    def plan(cls, draw: Draw, *, x: float, z: float) -> "Sign":
        colour = draw.colour(draw.pick(PAINTS))
        return cls(x=x, z=z, width=0.9, height=draw(2.2, 2.6), colour=colour)

    def paint(self, card: Card, look: Look) -> None:
        card.paint(card.bar(-0.05, 0.05, 0.0, self.height), look.lit((0.5, 0.5, 0.5)))
        card.paint(card.bar(-0.45, 0.45, 1.5, self.height), look.lit(self.colour))
'''

CROSSROADS = '''
"""Signs on a meadow."""

from data.scenes.draw import Draw
from data.scenes.places.place import Place
from data.scenes.planner import Planner
from data.scenes.things import Sign
from data.scenes.world import Scene


def build(draw: Draw, scene: Scene, planner: Planner) -> None:
    scene.horizon, scene.camera = draw(0.4, 0.5), draw(3.0, 4.0)
    for u in (0.2, 0.5, 0.8):
        z = draw(6.0, 9.0)
        planner.add(Sign.plan(draw, x=planner.x_at(u, z), z=z))


CROSSROADS = Place(name="crossroads", moods=("day", "night"), build=build)
'''

LOOK = """
import numpy as np
from data.scenes import CLASSES, OBJECTS, SEGMENT, Scenes

scenes = Scenes()
print(CLASSES[-1], OBJECTS[-1])
at = next(i for i in range(200) if scenes.label(i) == len(CLASSES) - 1)
for style in ("real", "sim"):
    sample = scenes.render(at, 64, style, flooded=False)
    signs = sample.box_labels == len(OBJECTS) - 1
    here = sample.masks[signs].any(0)
    print(signs.sum(), here.sum() > 30, set(sample.segmentation[here]) == {SEGMENT["pole"]})
"""


def add_entry(file: Path, imported: str, into: str, entry: str) -> None:
    """An import after the docstring, and an entry at the end of a list."""
    docstring, rest = file.read_text().split("\n\n", 1)
    start = rest.index(f"{into}: tuple")
    end = rest.index("\n)\n", start)
    file.write_text(f"{docstring}\n\n{imported}\n{rest[:end]}\n    {entry},{rest[end:]}")


def test_a_new_thing_in_a_new_place(tmp_path):
    shutil.copytree(ROOT / "data", tmp_path / "data", ignore=shutil.ignore_patterns("__pycache__"))
    scenes = tmp_path / "data" / "scenes"
    (scenes / "things" / "signs.py").write_text(SIGN.lstrip())
    (scenes / "places" / "crossroads.py").write_text(CROSSROADS.lstrip())
    add_entry(
        scenes / "things" / "__init__.py",
        "from data.scenes.things.signs import Sign",
        "THINGS",
        "Sign",
    )
    add_entry(
        scenes / "places" / "__init__.py",
        "from data.scenes.places.crossroads import CROSSROADS",
        "PLACES",
        "CROSSROADS",
    )
    found = subprocess.run(
        [sys.executable, "-c", LOOK],
        cwd=tmp_path,  # whose `data` wins
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.splitlines() == ["crossroads sign", "3 True True", "3 True True"]


def test_things_know_their_kind_and_segment():
    assert OBJECTS == tuple(thing.kind for thing in THINGS)
    assert all(thing.segment in SEGMENTS for thing in THINGS)
    assert CLASSES == tuple(place.name for place in PLACES)
    assert len(set(CLASSES)) == len(CLASSES) and len(set(OBJECTS)) == len(OBJECTS)
