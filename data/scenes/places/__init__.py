"""The places scenes are set in, one file each: the classes. A new one is a file and an entry."""

from data.scenes.places.beach import BEACH
from data.scenes.places.countryside import COUNTRYSIDE
from data.scenes.places.desert import DESERT
from data.scenes.places.forest import FOREST
from data.scenes.places.harbour import HARBOUR
from data.scenes.places.mountain_lake import MOUNTAIN_LAKE
from data.scenes.places.night_city import NIGHT_CITY
from data.scenes.places.place import Place
from data.scenes.places.street import STREET
from data.scenes.places.suburb import SUBURB
from data.scenes.places.winter import WINTER

# A place's position in this list is the class of its scenes. Scenes draw their class from the whole
# list: one more place makes other scenes of the same indices.
PLACES: tuple[Place, ...] = (
    STREET,
    COUNTRYSIDE,
    HARBOUR,
    MOUNTAIN_LAKE,
    DESERT,
    FOREST,
    SUBURB,
    NIGHT_CITY,
    BEACH,
    WINTER,
)

CLASSES = tuple(place.name for place in PLACES)
