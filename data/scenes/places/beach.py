"""Sand, the sea, palms and parasols, sometimes an island."""

import numpy as np

from data.scenes.draw import Draw
from data.scenes.land import Sea
from data.scenes.places.place import Place
from data.scenes.planner import Planner
from data.scenes.ridges import CENTRES, hills
from data.scenes.things import Boat, Palm, Parasol, Person, Rock
from data.scenes.world import Scene

_SEAS = ((0.06, 0.42, 0.52), (0.08, 0.34, 0.48), (0.10, 0.48, 0.50))


def build(draw: Draw, scene: Scene, planner: Planner) -> None:
    scene.horizon, scene.camera = draw(0.36, 0.48), draw(3.0, 5.0)
    scene.ground = "sand"
    scene.colours = (draw.colour((0.90, 0.80, 0.60)), draw.colour((0.86, 0.76, 0.56)))
    scene.roughness, scene.base, scene.amplitude = 0.16, 0.45, 0.10
    scene.water = draw.colour(_SEAS[draw.integer(0, 2)])
    scene.relief = Sea(shore=draw(14.0, 26.0), slope=draw(-0.9, 0.9), swing=draw(0.4, 1.2))
    scene.flood_level = draw(0.4, 0.75)
    if draw.chance(0.6):
        island = planner.ridge(
            hills,
            height=draw(0.03, 0.10),
            z=900.0,
            colour=draw.colour((0.30, 0.42, 0.36)),
            segment="mountain",
            roughness=0.6,
        )
        # Towards one side it runs out into the sea.
        side = CENTRES if draw.chance(0.5) else 1 - CENTRES
        island.tops = np.minimum(island.tops + side * draw(0.06, 0.16), scene.horizon + 0.02)
    for _ in range(draw.integer(1, 5)):
        z = draw(8.0, 24.0)
        x = planner.x_at(draw.pick((draw(0.0, 0.3), draw(0.7, 1.0))), z)
        if scene.elevation(x, z) > 0.25:
            planner.add(Palm.plan(draw, x=x, z=z, height=draw(4.5, 7.5)))
    for _ in range(draw.integer(1, 4)):
        z = draw(7.5, 16.0)
        x = planner.x_at(draw(0.05, 0.95), z)
        if scene.elevation(x, z) > 0.2:
            planner.add(Parasol.plan(draw, x=x, z=z))
    for _ in range(draw.integer(2, 6)):
        z = draw(7.0, 20.0)
        x = planner.x_at(draw(0.05, 0.95), z)
        if scene.elevation(x, z) > -0.05:
            planner.add(Person.plan(draw, x=x, z=z))
    for _ in range(draw.integer(1, 4)):
        z = draw(40.0, 120.0)
        x = planner.x_at(draw(0.05, 0.95), z)
        if scene.elevation(x, z) < -0.8:
            planner.add(Boat.plan(draw, x=x, z=z, length=draw(5.0, 9.0), sails=draw.chance(0.75)))
    if draw.chance(0.3):
        z = draw(9.0, 18.0)
        x = planner.x_at(draw(0.0, 1.0), z)
        planner.add(Rock.plan(draw, x=x, z=z, height=draw(0.6, 1.4)))


BEACH = Place(
    name="beach",
    moods=("clear", "clear", "day", "golden", "dusk", "dawn"),
    build=build,
)
