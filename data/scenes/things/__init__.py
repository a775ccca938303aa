"""The kinds of things that stand in scenes, one class each. A new one is a class and an entry."""

from data.scenes.things.buildings import Building, House
from data.scenes.things.fields import Haystack, Rock, Snowman
from data.scenes.things.plants import Bush, Cactus
from data.scenes.things.shore import Boat, Lighthouse, Parasol
from data.scenes.things.sky import Cloud, Moon, Sun
from data.scenes.things.street import Car, Lamp, Person
from data.scenes.things.thing import Thing
from data.scenes.things.trees import Conifer, Palm, Tree

# A kind's position in this list is its number in `box_labels`: append, do not insert.
THINGS: tuple[type[Thing], ...] = (
    House,
    Building,
    Tree,
    Conifer,
    Palm,
    Cactus,
    Bush,
    Rock,
    Car,
    Person,
    Boat,
    Lamp,
    Cloud,
    Sun,
    Moon,
    Parasol,
    Lighthouse,
    Haystack,
    Snowman,
)

OBJECTS = tuple(thing.kind for thing in THINGS)
SEGMENT_OF = {thing.kind: thing.segment for thing in THINGS}
IN_SKY = tuple(thing.kind for thing in THINGS if thing.in_sky)
