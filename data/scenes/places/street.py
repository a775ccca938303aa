"""A street between walls of buildings, by day or by night."""

from data.scenes.draw import Draw
from data.scenes.land import Line, Strip
from data.scenes.places.place import Place
from data.scenes.planner import Planner
from data.scenes.ridges import blocks
from data.scenes.things import Building, Car, Lamp, Person, Tree
from data.scenes.world import Scene


def build(draw: Draw, scene: Scene, planner: Planner) -> None:
    build_street(draw, scene, planner, night=False)


def build_street(draw: Draw, scene: Scene, planner: Planner, *, night: bool) -> None:
    """Plan a street; at night it is taller, and without trees."""
    scene.horizon, scene.camera = draw(0.44, 0.56), draw(2.4, 4.2)
    scene.ground = "pavement"
    scene.colours = (draw.colour((0.56, 0.54, 0.52)), draw.colour((0.50, 0.49, 0.48)))
    scene.roughness, scene.base, scene.amplitude = 0.10, 0.22, 0.07
    half, walk = draw(3.0, 4.4), draw(2.2, 3.4)
    bend = draw(-0.03, 0.03)
    _add_road(draw, scene, half, bend)
    planner.ridge(
        blocks,
        height=draw(0.10, 0.20),
        z=420.0,
        colour=draw.colour((0.46, 0.48, 0.54)),
        segment="building",
        windows=0.5 if night else 0.15,
    )
    _add_walls(draw, planner, half + walk, night)
    for side in (-1.0, 1.0):
        z = draw(9.0, 15.0)
        greens = not night and draw.chance(0.5)
        while z < 60:
            if greens and draw.chance(0.6):
                planner.add(Tree.plan(draw, x=side * (half + 1.0), z=z, height=draw(4.5, 6.5)))
            else:
                planner.add(Lamp.plan(draw, x=side * (half + 0.6), z=z, height=draw(5.5, 6.5)))
            z *= draw(1.6, 2.0)
    for side in (-1.0, 1.0):
        z = draw(7.0, 14.0)
        for _ in range(draw.integer(1, 3)):
            planner.add(Car.plan(draw, x=side * half * draw(0.42, 0.62) + bend * z, z=z))
            z *= draw(1.5, 2.1)
    for _ in range(draw.integer(2, 5)):
        x = draw.pick((-1.0, 1.0)) * (half + draw(0.7, walk - 0.4))
        planner.add(Person.plan(draw, x=x, z=draw(6.5, 24.0)))


def _add_road(draw: Draw, scene: Scene, half: float, bend: float) -> None:
    """Asphalt `half` metres to each side, lines on it, and sometimes a crossing."""
    asphalt = draw.colour((0.27, 0.27, 0.29), 0.03)
    white, pale = (0.74, 0.73, 0.70), (0.90, 0.88, 0.80)
    middle = Line(slope=bend)
    scene.strips.append(Strip(segment="road", colour=asphalt, half=half, line=middle))
    for side in (-1, 1):
        edge = Line(x=side * (half - 0.3), slope=bend)
        scene.strips.append(Strip(segment="road", colour=white, half=0.09, line=edge))
    scene.strips.append(Strip(segment="road", colour=pale, half=0.09, line=middle, dash=5.0))
    if draw.chance(0.4):
        near = draw(8.0, 16.0)
        for k in range(6):
            scene.strips.append(
                Strip(
                    segment="road",
                    colour=(0.88, 0.87, 0.84),
                    half=half / 12,
                    line=Line(x=-half + (k + 0.5) * half / 3, slope=bend),
                    near=near,
                    far=near + 3.0,
                )
            )


def _add_walls(draw: Draw, planner: Planner, wall: float, night: bool) -> None:
    """Buildings in a row on both sides, `wall` metres from the middle."""
    for side in (-1.0, 1.0):
        z = draw(9.0, 13.0)
        for _ in range(draw.integer(4, 5)):
            end = z * draw(1.28, 1.5)
            width = draw(8.0, 14.0)
            height = draw(14.0, 44.0) if night else draw(6.5, 16.0)
            if not draw.chance(0.08):
                planner.add(
                    Building.plan(
                        draw,
                        x=side * (wall + draw(0.0, 0.7) + width / 2),
                        z=z,
                        width=width,
                        height=height,
                        z_end=end - (0.4 if draw.chance(0.3) else 0.0),
                        dark=planner.scene.mood.dark,
                        wall=True,
                    )
                )
            z = end
            if z > 75:
                break


STREET = Place(
    name="street",
    moods=("day", "clear", "golden", "overcast", "overcast", "dusk", "dawn"),
    build=build,
)
