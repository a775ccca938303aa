"""Scenes: the embedded data set, rendered and never downloaded.

A scene is a small 2.5-D world drawn from (seed, split, index): ten places, seven times of day,
nineteen kinds of things. It renders at any resolution, in a 'real' style (texture, haze, shading,
shadows, reflections) and a 'sim' style (flat, saturated, clean edges), dry or flooded, with
boxes, instance masks, segmentation, depth, height and water that agree with the picture.

    python -m data.scenes --out docs/scenes.png          the contact sheet of the documentation
    python -m data.scenes --out sheet.png --split val --first 40 --count 48 --size 128

    source     Scenes, what one imports; sheet: the contact sheet
    plan       from (seed, split, index) to a scene, with planner, and draw: keyed random numbers
    places     one file a place; things: one class a kind of thing: its segment, plan and paint
    world      what a scene is: things in a setting (camera, light, ground), which is made of land
               (strips, water), ridges (what is far) and moods (the hour)
    painting   from a scene to pixels

A new kind of thing is a class with `kind`, `segment`, `plan` and `paint` (see `things.thing`), and
an entry in `things.THINGS`; a new place is a file with a `Place`, and an entry in `places.PLACES`.
"""

from data.scenes.places import CLASSES
from data.scenes.source import STYLES, Scenes, SceneSample
from data.scenes.things import IN_SKY, OBJECTS, SEGMENT_OF
from data.scenes.world import FAR, SEGMENT, SEGMENTS, TOP

__all__ = [
    "CLASSES",
    "FAR",
    "IN_SKY",
    "OBJECTS",
    "SEGMENT",
    "SEGMENTS",
    "SEGMENT_OF",
    "STYLES",
    "TOP",
    "SceneSample",
    "Scenes",
]
