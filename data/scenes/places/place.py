"""What a place is."""

from collections.abc import Callable
from dataclasses import dataclass

from data.scenes.draw import Draw
from data.scenes.planner import Planner
from data.scenes.world import Scene


@dataclass(frozen=True, kw_only=True)
class Place:
    """A kind of place: one class of the data set.

    name        its name in CLASSES
    moods       names in MOODS, one of which is drawn; a name that stands twice is twice as likely
    build       plans one: sets the camera and the ground, adds ridges and things. What it takes
                from the stream, and in which order, is what the place looks like.
    least_free  things that nearer ones leave less than this share free of are dropped
    """

    name: str
    moods: tuple[str, ...]
    build: Callable[[Draw, Scene, Planner], None]
    least_free: float = 0.35
