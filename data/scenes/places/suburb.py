"""A road between houses with front gardens."""

from data.scenes.draw import AUTUMN, LEAVES, Draw
from data.scenes.land import Line, Strip
from data.scenes.places.place import Place
from data.scenes.planner import Planner
from data.scenes.ridges import hills, treetops
from data.scenes.things import Bush, Car, House, Lamp, Person, Tree
from data.scenes.world import Scene


def build(draw: Draw, scene: Scene, planner: Planner) -> None:
    scene.horizon, scene.camera = draw(0.40, 0.52), draw(3.2, 5.5)
    scene.colours = (draw.colour((0.33, 0.48, 0.20)), draw.colour((0.38, 0.50, 0.24)))
    scene.roughness = 0.22
    half, bend = draw(2.6, 3.4), draw(-0.14, 0.14)
    middle = Line(slope=bend)
    pavement = draw.colour((0.64, 0.62, 0.58))
    scene.strips.append(Strip(segment="pavement", colour=pavement, half=half + 1.5, line=middle))
    asphalt, pale = draw.colour((0.32, 0.32, 0.34), 0.03), (0.86, 0.84, 0.78)
    scene.strips.append(Strip(segment="road", colour=asphalt, half=half, line=middle))
    scene.strips.append(Strip(segment="road", colour=pale, half=0.08, line=middle, dash=6.0))
    if draw.chance(0.6):
        planner.ridge(
            hills,
            height=draw(0.06, 0.14),
            z=600.0,
            colour=draw.colour((0.32, 0.42, 0.34)),
            segment="mountain",
            roughness=0.4,
        )
    planner.ridge(
        treetops,
        height=draw(0.04, 0.08),
        z=170.0,
        colour=draw.colour((0.18, 0.30, 0.14)),
        segment="vegetation",
        roughness=0.9,
    )
    for side in (-1.0, 1.0):
        z = draw(13.0, 19.0)
        while z < 100:
            x = bend * z + side * (half + draw(8.5, 10.5))
            planner.add(House.plan(draw, x=x, z=z, size=draw(0.8, 1.0)))
            drive = Strip(
                segment="pavement",
                colour=(0.60, 0.57, 0.54),
                half=4.0,
                line=Line(x=bend * z + side * (half + 3)),
                near=z - 4.5,
                far=z - 2.5,
            )
            scene.strips.insert(0, drive)  # below the road
            z *= draw(1.4, 1.75)
    leaves = AUTUMN if draw.chance(0.3) else LEAVES
    for side in (-1.0, 1.0):
        z = draw(10.0, 18.0)
        for _ in range(draw.integer(1, 3)):
            x = bend * z + side * (half + draw(2.2, 3.6))
            if draw.chance(0.6):
                planner.add(Tree.plan(draw, x=x, z=z, height=draw(3.5, 6.0), tones=leaves))
            else:
                planner.add(Bush.plan(draw, x=x, z=z, height=draw(0.9, 1.4)))
            z *= draw(1.5, 2.2)
        if draw.chance(0.7):
            z = draw(9.0, 24.0)
            planner.add(Car.plan(draw, x=bend * z + side * half * 0.55, z=z))
    if draw.chance(0.6):
        z = draw(8.0, 14.0)
        planner.add(Lamp.plan(draw, x=bend * z + (half + 1.0), z=z, height=5.0))
    for _ in range(draw.integer(0, 3)):
        z = draw(8.0, 20.0)
        x = bend * z + draw.pick((-1.0, 1.0)) * (half + 0.8)
        planner.add(Person.plan(draw, x=x, z=z))


SUBURB = Place(
    name="suburb",
    moods=("day", "clear", "golden", "overcast", "dusk"),
    build=build,
)
