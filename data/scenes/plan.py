"""From (seed, split, index) to a scene: which place, which hour, and all that stands in it."""

import hashlib

from data.scenes.draw import Draw
from data.scenes.moods import MOODS
from data.scenes.places import PLACES
from data.scenes.planner import Planner
from data.scenes.things import Cloud, Moon, Sun
from data.scenes.world import Scene


def label_of(seed: int, split: str, index: int) -> int:
    """The class of a scene without planning it. Classes are drawn, not dealt in turn."""
    digest = hashlib.blake2b(f"{seed}/{split}/{index}/label".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % len(PLACES)


def plan(seed: int, split: str, index: int) -> Scene:
    """The scene of (seed, split, index): the same on every machine, in any order."""
    label = label_of(seed, split, index)
    place = PLACES[label]
    draw = Draw(seed, split, index)
    mood = MOODS[draw.pick(place.moods)]
    scene = Scene(label, mood)
    scene.floods = draw.chance(0.2)
    scene.flood_level = draw(0.45, 0.95)
    scene.axis = 0.5 + draw(-0.1, 0.1)
    scene.waves = (draw(), draw(), draw(), draw())
    scene.veil = draw(0.0, 1.0) * (0.3 if mood.dark else 1.0)
    scene.shift = (draw.integer(0, 255), draw.integer(0, 255))
    scene.murk = draw.colour((0.40, 0.36, 0.27), 0.05)
    scene.sun = (draw(0.08, 0.92), draw(0.16, 0.30) if mood.low_sun else draw(0.06, 0.18))
    scene.base, scene.amplitude = 0.25, 0.11
    planner = Planner(draw, scene)
    place.build(draw, scene, planner)
    _fill_sky(draw, scene, planner)
    planner.clear(place.least_free)
    return scene


def _fill_sky(draw: Draw, scene: Scene, planner: Planner) -> None:
    """Put the sun or the moon above the ridges, and clouds."""
    mood, ceiling = scene.mood, planner.ceiling()
    u, v = scene.sun
    if mood.night:
        if draw.chance(0.7):
            moon = Moon.plan(draw, u=u, v=min(v, ceiling - 0.06), mood=mood)
            planner.add(moon)
            if scene.things and scene.things[-1] is moon:  # high enough to be seen
                scene.sun = (u, moon.v - moon.width / 2)
    elif not mood.overcast and draw.chance(0.6):
        scene.sun = (u, min(v, max(ceiling + 0.02, 0.05)))
        planner.add(Sun.plan(draw, u=u, v=scene.sun[1], mood=mood))
    lowest = max(min(scene.horizon - 0.16, ceiling + 0.05), 0.13)
    for _ in range(draw.integer(0, 1) if mood.night else draw.integer(1, 4)):
        planner.add(Cloud.plan(draw, highest=0.07, lowest=lowest))
