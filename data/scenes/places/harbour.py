"""A quay, boats, and houses on the far side."""

import math

from data.scenes.draw import Draw
from data.scenes.land import Quay
from data.scenes.places.place import Place
from data.scenes.planner import Planner
from data.scenes.ridges import hills
from data.scenes.things import Boat, House, Lamp, Lighthouse, Person
from data.scenes.world import Scene


def build(draw: Draw, scene: Scene, planner: Planner) -> None:
    scene.horizon, scene.camera = draw(0.36, 0.48), draw(4.5, 7.0)
    scene.ground = "pavement"
    scene.colours = (draw.colour((0.60, 0.56, 0.50)), draw.colour((0.52, 0.50, 0.48)))
    scene.roughness, scene.base, scene.amplitude = 0.12, 0.5, 0.06
    scene.water = draw.colour((0.08, 0.26, 0.34), 0.05)
    shore, far = draw(8.6, 11.5), draw(85.0, 130.0)
    scene.relief = Quay(shore=shore, slope=draw(-0.35, 0.35), far=far)
    scene.flood_level = draw(0.6, 1.0)
    planner.ridge(
        hills,
        height=draw(0.08, 0.17),
        z=600.0,
        colour=draw.colour((0.30, 0.40, 0.34)),
        segment="mountain",
        roughness=0.4,
    )
    u = draw(-0.05, 0.05)
    while u < 1.0:
        z = far + draw(8.0, 22.0)
        planner.add(House.plan(draw, x=planner.x_at(u, z), z=z, size=draw(1.1, 1.7)))
        u += draw(0.08, 0.16)
    if draw.chance(0.45):
        z = draw(60.0, 80.0)
        x = planner.x_at(draw(0.1, 0.9), z)
        planner.add(Lighthouse.plan(draw, x=x, z=z, height=draw(15.0, 22.0)))
    for _ in range(draw.integer(4, 7)):
        z = 15.0 * math.exp(draw(0.0, 1.45))
        x = planner.x_at(draw(0.04, 0.96), z)
        if scene.elevation(x, z) < -0.5:
            planner.add(Boat.plan(draw, x=x, z=z, length=draw(4.0, 7.5), sails=draw.chance(0.6)))
    for _ in range(draw.integer(1, 4)):
        z = draw(scene.camera / (1 - scene.horizon) * 0.95, 9.5)
        x = planner.x_at(draw(0.06, 0.94), z)
        if scene.elevation(x, z) > 0.3:
            if draw.chance(0.75):
                planner.add(Person.plan(draw, x=x, z=z))
            else:
                planner.add(Lamp.plan(draw, x=x, z=z, height=5.0))


HARBOUR = Place(
    name="harbour",
    moods=("day", "clear", "golden", "dawn", "overcast", "dusk"),
    build=build,
)
