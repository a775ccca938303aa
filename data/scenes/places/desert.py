"""Sand, cacti and mesas, sometimes with a road."""

import math

from data.scenes.draw import Draw, mix
from data.scenes.land import Line, Strip
from data.scenes.places.place import Place
from data.scenes.planner import Planner
from data.scenes.ridges import blocks, hills, peaks
from data.scenes.things import Bush, Cactus, Car, Rock
from data.scenes.world import Scene

_DRY_LEAVES = ((0.46, 0.46, 0.26), (0.56, 0.48, 0.26))
_RED_ROCK = (0.62, 0.40, 0.28)


def build(draw: Draw, scene: Scene, planner: Planner) -> None:
    scene.horizon, scene.camera = draw(0.42, 0.56), draw(2.6, 4.5)
    scene.ground = "sand"
    scene.colours = (draw.colour((0.80, 0.58, 0.34)), draw.colour((0.88, 0.68, 0.44)))
    scene.roughness, scene.base, scene.amplitude = 0.22, 0.35, 0.16
    red = draw.colour((0.64, 0.36, 0.24), 0.07)
    if draw.chance(0.5):
        mesas = planner.ridge(
            blocks,
            height=draw(0.10, 0.19),
            z=900.0,
            colour=mix(red, (0.6, 0.5, 0.6), 0.25),
            segment="mountain",
            roughness=0.6,
        )
        mesas.soften()
    planner.ridge(
        peaks if draw.chance(0.5) else hills,
        height=draw(0.06, 0.16),
        z=600.0,
        colour=red,
        segment="mountain",
        roughness=0.9,
    )
    planner.ridge(
        hills,
        height=draw(0.03, 0.07),
        z=260.0,
        colour=draw.colour((0.84, 0.62, 0.38)),
        segment="sand",
        roughness=0.3,
    )
    if draw.chance(0.5):
        asphalt = draw.colour((0.32, 0.30, 0.30))
        middle = Line(slope=draw(-0.25, 0.25))
        yellow = (0.92, 0.78, 0.30)
        scene.strips.append(Strip(segment="road", colour=asphalt, half=3.2, line=middle))
        scene.strips.append(Strip(segment="road", colour=yellow, half=0.1, line=middle, dash=7.0))
        if draw.chance(0.6):
            z = draw(12.0, 30.0)
            planner.add(Car.plan(draw, x=middle.at(z) + 1.6, z=z))
    for _ in range(draw.integer(3, 7)):
        z = 8.0 * math.exp(draw(0.0, 1.7))
        x = planner.x_at(draw(0.0, 1.0), z)
        planner.add(Cactus.plan(draw, x=x, z=z, height=draw(2.2, 4.6)))
    for _ in range(draw.integer(2, 5)):
        z = 8.0 * math.exp(draw(0.0, 1.4))
        x = planner.x_at(draw(0.0, 1.0), z)
        planner.add(Rock.plan(draw, x=x, z=z, height=draw(0.6, 2.0), tone=_RED_ROCK))
    for _ in range(draw.integer(1, 4)):
        z = draw(7.0, 20.0)
        x = planner.x_at(draw(0.0, 1.0), z)
        planner.add(Bush.plan(draw, x=x, z=z, height=draw(0.5, 0.9), tones=_DRY_LEAVES))


DESERT = Place(
    name="desert",
    moods=("clear", "clear", "day", "golden", "golden", "dusk"),
    build=build,
)
