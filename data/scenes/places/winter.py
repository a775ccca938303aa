"""Snow, with a cleared road or a stream."""

import math

from data.scenes.draw import Draw
from data.scenes.land import Line, River, Strip
from data.scenes.places.place import Place
from data.scenes.planner import Planner
from data.scenes.ridges import peaks, treetops
from data.scenes.things import Car, Conifer, House, Person, Snowman
from data.scenes.world import Scene


def build(draw: Draw, scene: Scene, planner: Planner) -> None:
    scene.horizon, scene.camera = draw(0.42, 0.55), draw(2.8, 5.0)
    scene.ground = "snow"
    scene.colours = (draw.colour((0.92, 0.94, 0.98), 0.02), draw.colour((0.88, 0.92, 0.97), 0.02))
    scene.roughness, scene.base, scene.amplitude = 0.10, 0.4, 0.18
    planner.ridge(
        peaks,
        height=draw(0.14, 0.30),
        z=1000.0,
        colour=draw.colour((0.50, 0.55, 0.64)),
        segment="mountain",
        peak=(0.96, 0.97, 1.0),
        peak_line=draw(0.2, 0.4),
        roughness=1.0,
    )
    planner.ridge(
        treetops,
        height=draw(0.03, 0.08),
        z=230.0,
        colour=draw.colour((0.36, 0.44, 0.46)),
        segment="vegetation",
        roughness=0.8,
    )
    wet = draw.chance(0.35)
    if wet:
        scene.relief = River(
            line=Line(
                x=draw.pick((-1, 1)) * draw(1.0, 5.0),
                slope=draw(-0.2, 0.2),
                swing=draw(3.0, 8.0),
                phase=draw(0, 6.0),
            ),
            half=draw(1.2, 2.4),
        )
    else:
        scene.strips.append(
            Strip(
                segment="road",
                colour=draw.colour((0.66, 0.66, 0.68)),
                half=draw(1.4, 2.2),
                line=Line(
                    x=draw(-2.0, 2.0),
                    slope=draw(-0.1, 0.1),
                    swing=draw(1.0, 6.0),
                    phase=draw(0, 6.0),
                ),
            )
        )
    for _ in range(draw.integer(1, 3)):
        z = draw(16.0, 40.0)
        x = planner.x_at(draw(0.08, 0.92), z)
        if scene.elevation(x, z) > 0.15:
            planner.add(House.plan(draw, x=x, z=z, size=draw(0.85, 1.05)))
            last = scene.things[-1] if scene.things else None
            if isinstance(last, House):
                last.roof = draw.colour((0.93, 0.95, 0.99), 0.02)  # under snow
    for _ in range(draw.integer(5, 10)):
        z = 9.0 * math.exp(draw(0.0, 1.9))
        x = planner.x_at(draw(0.0, 1.0), z)
        if scene.elevation(x, z) > 0.1:
            planner.add(Conifer.plan(draw, x=x, z=z, height=draw(3.5, 8.0), snowy=True))
    for _ in range(draw.integer(0, 3)):
        z = draw(7.0, 16.0)
        x = planner.x_at(draw(0.08, 0.92), z)
        if scene.elevation(x, z) > 0.1:
            kind = Snowman if draw.chance(0.6) else Person
            planner.add(kind.plan(draw, x=x, z=z))
    if not wet and draw.chance(0.4):
        z = draw(12.0, 24.0)
        planner.add(Car.plan(draw, x=scene.strips[0].line.at(z), z=z))


WINTER = Place(
    name="winter",
    moods=("day", "clear", "overcast", "dawn", "golden", "dusk"),
    build=build,
)
