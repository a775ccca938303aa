"""A lake between mountains."""

import math

from data.scenes.draw import Draw, mix
from data.scenes.land import Lake
from data.scenes.places.place import Place
from data.scenes.planner import Planner
from data.scenes.ridges import peaks, treetops
from data.scenes.things import Boat, Conifer, House, Person, Rock
from data.scenes.world import Scene

_ROCKS = ((0.40, 0.41, 0.47), (0.47, 0.42, 0.40), (0.34, 0.39, 0.44))


def build(draw: Draw, scene: Scene, planner: Planner) -> None:
    scene.horizon, scene.camera = draw(0.44, 0.56), draw(3.0, 5.5)
    scene.colours = (draw.colour((0.34, 0.42, 0.18)), draw.colour((0.38, 0.44, 0.24)))
    scene.water = draw.colour((0.07, 0.27, 0.33), 0.05)
    rock = draw.colour(_ROCKS[draw.integer(0, 2)])
    snow = draw.chance(0.75)
    planner.ridge(
        peaks,
        height=draw(0.26, 0.40),
        z=1100.0,
        colour=rock,
        segment="mountain",
        peak=(0.94, 0.96, 1.0) if snow else None,
        peak_line=draw(0.45, 0.65),
        roughness=1.0,
    )
    planner.ridge(
        peaks,
        height=draw(0.10, 0.20),
        z=650.0,
        colour=mix(rock, (0.20, 0.30, 0.20), 0.6),
        segment="mountain",
        roughness=0.8,
    )
    planner.ridge(
        treetops,
        height=draw(0.03, 0.06),
        z=280.0,
        colour=draw.colour((0.10, 0.22, 0.14)),
        segment="vegetation",
        roughness=0.8,
    )
    scene.relief = Lake(
        x=draw(-12.0, 12.0), z=draw(60.0, 90.0), across=draw(45.0, 80.0), along=draw(38.0, 62.0)
    )
    scene.base, scene.amplitude = 0.35, 0.14
    for _ in range(draw.integer(6, 11)):
        z = 9.0 * math.exp(draw(0.0, 2.2))
        x = planner.x_at(draw.pick((draw(0.0, 0.3), draw(0.7, 1.0), draw(0.0, 1.0))), z)
        if scene.elevation(x, z) > 0.1:
            planner.add(Conifer.plan(draw, x=x, z=z, height=draw(4.0, 9.0)))
    for _ in range(draw.integer(1, 4)):
        z = draw(8.0, 24.0)
        x = planner.x_at(draw(0.0, 1.0), z)
        planner.add(Rock.plan(draw, x=x, z=z, height=draw(0.7, 1.8)))
    if draw.chance(0.5):
        z = draw(30.0, 60.0)
        x = planner.x_at(draw(0.2, 0.8), z)
        if scene.elevation(x, z) < -0.6:
            planner.add(Boat.plan(draw, x=x, z=z, length=draw(4.0, 6.0), sails=draw.chance(0.7)))
    if draw.chance(0.35):
        z = draw(18.0, 40.0)
        x = planner.x_at(draw.pick((draw(0.05, 0.3), draw(0.7, 0.95))), z)
        if scene.elevation(x, z) > 0.2:
            planner.add(House.plan(draw, x=x, z=z, size=0.8))
    if draw.chance(0.5):
        z = draw(7.0, 12.0)
        planner.add(Person.plan(draw, x=planner.x_at(draw(0.1, 0.9), z), z=z))


MOUNTAIN_LAKE = Place(
    name="mountain_lake",
    moods=("day", "clear", "clear", "golden", "dawn", "dusk"),
    build=build,
)
