"""A city by night: a street, or a front of buildings across the water."""

from data.scenes.draw import Draw
from data.scenes.land import Quay
from data.scenes.places.place import Place
from data.scenes.places.street import build_street
from data.scenes.planner import Planner
from data.scenes.ridges import blocks
from data.scenes.things import Boat, Building, Lamp, Person
from data.scenes.world import Scene


def build(draw: Draw, scene: Scene, planner: Planner) -> None:
    if draw.chance(0.5):
        build_street(draw, scene, planner, night=True)
    else:
        _build_waterfront(draw, scene, planner)


def _build_waterfront(draw: Draw, scene: Scene, planner: Planner) -> None:
    scene.horizon, scene.camera = draw(0.50, 0.62), draw(4.0, 7.0)
    scene.ground = "pavement"
    scene.colours = (draw.colour((0.40, 0.40, 0.44)), draw.colour((0.36, 0.37, 0.42)))
    scene.roughness, scene.base, scene.amplitude = 0.1, 0.4, 0.05
    scene.water = draw.colour((0.03, 0.07, 0.14), 0.02)
    far = draw(60.0, 85.0)
    scene.relief = Quay(shore=draw(9.0, 13.0), slope=draw(-0.2, 0.2), far=far)
    planner.ridge(
        blocks,
        height=draw(0.20, 0.34),
        z=600.0,
        colour=(0.16, 0.18, 0.28),
        segment="building",
        windows=0.6,
    )
    u = draw(-0.04, 0.03)
    while u < 0.97:
        z = far + draw(3.0, 20.0)
        width = draw(9.0, 16.0)
        planner.add(
            Building.plan(
                draw,
                x=planner.x_at(u, z) + width / 2,
                z=z,
                width=width,
                height=draw(9.0, 30.0) * (1.3 if draw.chance(0.2) else 1.0),
                z_end=z + 12.0,
                dark=scene.mood.dark,
            )
        )
        u += width / z + draw(-0.01, 0.05)
    for _ in range(draw.integer(0, 3)):
        z = draw(22.0, 45.0)
        x = planner.x_at(draw(0.1, 0.9), z)
        if scene.elevation(x, z) < -0.5:
            planner.add(Boat.plan(draw, x=x, z=z, length=draw(5.0, 8.0), sails=draw.chance(0.5)))
    z = scene.camera / (1 - scene.horizon) * draw(0.85, 0.95)
    for u in (draw(0.06, 0.2), draw(0.75, 0.94)):
        x = planner.x_at(u, z)
        if scene.elevation(x, z) > 0.3:
            planner.add(Lamp.plan(draw, x=x, z=z, height=draw(5.0, 6.0)))
    for _ in range(draw.integer(0, 3)):
        x = planner.x_at(draw(0.1, 0.9), z)
        if scene.elevation(x, z) > 0.3:
            planner.add(Person.plan(draw, x=x, z=z))


NIGHT_CITY = Place(name="night_city", moods=("night",), build=build)
