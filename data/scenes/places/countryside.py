"""Fields and meadows, with a lane or a stream."""

import math

from data.scenes.draw import AUTUMN, LEAVES, Draw, mix
from data.scenes.land import Line, River, Strip
from data.scenes.places.place import Place
from data.scenes.planner import Planner
from data.scenes.ridges import hills, treetops
from data.scenes.things import Bush, Haystack, House, Person, Tree
from data.scenes.world import Scene

_CROPS = (
    (0.78, 0.66, 0.28),
    (0.46, 0.33, 0.20),
    (0.60, 0.62, 0.20),
    (0.36, 0.50, 0.16),
    (0.72, 0.55, 0.50),
)


def build(draw: Draw, scene: Scene, planner: Planner) -> None:
    scene.horizon, scene.camera = draw(0.40, 0.54), draw(3.0, 6.0)
    scene.colours = (draw.colour((0.32, 0.46, 0.16), 0.06), draw.colour((0.45, 0.52, 0.22), 0.06))
    far = draw.colour((0.30, 0.40, 0.26))
    planner.ridge(
        hills,
        height=draw(0.07, 0.15),
        z=700.0,
        colour=mix(far, (0.4, 0.5, 0.6), 0.4),
        segment="mountain",
        roughness=0.3,
    )
    planner.ridge(
        hills, height=draw(0.03, 0.07), z=380.0, colour=far, segment="mountain", roughness=0.5
    )
    planner.ridge(
        treetops,
        height=draw(0.02, 0.04),
        z=240.0,
        colour=draw.colour((0.15, 0.28, 0.12)),
        segment="vegetation",
        roughness=0.8,
    )
    for _ in range(draw.integer(2, 4)):
        z, x = draw(14.0, 60.0), draw.pick((-1.0, 1.0)) * draw(14.0, 40.0)
        scene.strips.append(
            Strip(
                segment="soil",
                colour=draw.colour(draw.pick(_CROPS)),
                half=draw(7.0, 22.0),
                line=Line(x=x, slope=draw(-0.2, 0.2)),
                near=z,
                far=z * draw(1.6, 2.6),
                furrow=draw(1.2, 2.4),
            )
        )
    wet = draw.chance(0.4)
    if wet:
        scene.relief = River(
            line=Line(
                x=draw.pick((-1, 1)) * draw(2.0, 7.0),
                slope=draw(-0.25, 0.25),
                swing=draw(3.0, 9.0),
                phase=draw(0, 6.0),
            ),
            half=draw(1.6, 3.2),
        )
    else:
        scene.strips.append(
            Strip(
                segment="road",
                colour=draw.colour((0.62, 0.54, 0.42)),
                half=draw(1.2, 2.0),
                line=Line(
                    x=draw(-3.0, 3.0),
                    slope=draw(-0.2, 0.2),
                    swing=draw(2.0, 8.0),
                    phase=draw(0, 6.0),
                ),
            )
        )

    def is_free(x: float, z: float, height: float = 0.05) -> bool:
        return not wet or scene.elevation(x, z) > height

    leaves = AUTUMN if draw.chance(0.3) else LEAVES
    for _ in range(draw.integer(1, 3)):
        z = draw(20.0, 50.0)
        x = planner.x_at(draw(0.05, 0.95), z)
        if is_free(x, z, 0.1):
            planner.add(House.plan(draw, x=x, z=z, size=draw(0.9, 1.15)))
    for _ in range(draw.integer(4, 8)):
        z = 14.0 * math.exp(draw(0.0, 1.7))
        x = planner.x_at(draw(0.0, 1.0), z)
        if is_free(x, z):
            planner.add(Tree.plan(draw, x=x, z=z, height=draw(4.5, 8.5), tones=leaves))
    for _ in range(draw.integer(0, 4)):
        z = draw(9.0, 30.0)
        x = planner.x_at(draw(0.05, 0.95), z)
        if is_free(x, z):
            kind = Haystack if draw.chance(0.6) else Person
            planner.add(kind.plan(draw, x=x, z=z))
    for _ in range(draw.integer(1, 3)):
        z = draw(9.0, 22.0)
        x = planner.x_at(draw(0.0, 1.0), z)
        if is_free(x, z):
            planner.add(Bush.plan(draw, x=x, z=z, height=draw(0.9, 1.6)))


COUNTRYSIDE = Place(
    name="countryside",
    moods=("day", "clear", "clear", "golden", "golden", "overcast", "dawn"),
    build=build,
)
