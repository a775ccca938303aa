"""A clearing between trees, with a path or a brook."""

import math

from data.scenes.draw import AUTUMN, LEAVES, Draw, mix
from data.scenes.land import Line, River, Strip
from data.scenes.places.place import Place
from data.scenes.planner import Planner
from data.scenes.ridges import hills, pines, treetops
from data.scenes.things import Bush, Conifer, Person, Rock, Tree
from data.scenes.things.thing import Standing
from data.scenes.world import Scene

_MOSSY_ROCK = (0.36, 0.37, 0.33)


def build(draw: Draw, scene: Scene, planner: Planner) -> None:
    scene.horizon, scene.camera = draw(0.46, 0.60), draw(2.2, 3.6)
    scene.colours = (draw.colour((0.28, 0.36, 0.14)), draw.colour((0.26, 0.34, 0.15)))
    scene.roughness = 0.4
    autumn = draw.chance(0.35)
    leaves = AUTUMN if autumn else LEAVES
    dark = draw.colour((0.52, 0.34, 0.13) if autumn else (0.12, 0.22, 0.11))
    pointed = not autumn and draw.chance(0.6)
    planner.ridge(
        pines if pointed else hills,
        height=draw(0.20, 0.30),
        z=160.0,
        colour=mix(dark, (0.35, 0.45, 0.45), 0.35),
        segment="vegetation",
        roughness=1.0,
    )
    planner.ridge(
        pines if pointed else treetops,
        height=draw(0.10, 0.17),
        z=90.0,
        colour=dark,
        segment="vegetation",
        roughness=1.0,
    )
    if draw.chance(0.65):
        scene.strips.append(
            Strip(
                segment="soil",
                colour=draw.colour((0.42, 0.32, 0.20)),
                half=draw(0.8, 1.5),
                line=Line(
                    x=draw(-1.5, 1.5),
                    slope=draw(-0.1, 0.1),
                    swing=draw(1.0, 4.0),
                    phase=draw(0, 6.0),
                ),
            )
        )
    elif draw.chance(0.6):
        scene.relief = River(
            line=Line(
                x=draw(-2.0, 2.0),
                slope=draw(-0.1, 0.1),
                swing=draw(2.0, 5.0),
                phase=draw(0, 6.0),
            ),
            half=draw(0.8, 1.5),
        )
    coniferous = draw.chance(0.35)
    for _ in range(draw.integer(24, 32)):
        z = 13.0 * math.exp(draw(0.0, 1.5))
        # Sparser around the path.
        u = draw.pick(
            (
                draw(-0.02, 0.36),
                draw(0.64, 1.02),
                draw(-0.02, 0.36),
                draw(0.64, 1.02),
                draw(0.0, 1.0),
            )
        )
        x = planner.x_at(u, z)
        if scene.elevation(x, z) < 0.05 or any(
            isinstance(thing, Standing) and abs(thing.x - x) < 1.2 and abs(thing.z - z) < 2.0
            for thing in scene.things
        ):
            continue
        if draw.chance(0.75 if coniferous else 0.3):
            planner.add(Conifer.plan(draw, x=x, z=z, height=draw(6.5, 11.5)))
        else:
            planner.add(Tree.plan(draw, x=x, z=z, height=draw(6.0, 10.0), tones=leaves))
    for _ in range(draw.integer(2, 5)):
        z = draw(5.5, 18.0)
        x = planner.x_at(draw(0.0, 1.0), z)
        if scene.elevation(x, z) > 0.05:
            if draw.chance(0.6):
                planner.add(Bush.plan(draw, x=x, z=z, height=draw(0.6, 1.2), tones=leaves))
            else:
                planner.add(Rock.plan(draw, x=x, z=z, height=draw(0.5, 1.1), tone=_MOSSY_ROCK))
    if draw.chance(0.5):
        z = draw(7.0, 16.0)
        planner.add(Person.plan(draw, x=planner.x_at(draw(0.35, 0.65), z), z=z))


FOREST = Place(
    name="forest",
    moods=("day", "overcast", "golden", "dawn", "clear"),
    build=build,
    least_free=0.2,
)
