"""Names of domains, maps and modes; dictionaries whose keys are attributes too."""

from __future__ import annotations

from typing import Any

DOMAINS = ("rf", "rn", "sf", "sn")  # real or simulated, flooded or not
MAPS = ("d", "h", "s", "w")
MODES = ("train", "val")
NO_CLASS = 255  # in a segmentation: a pixel of no class
CLASSES = 19  # of segmentations, where nothing else is said


class Attributes(dict):
    """A dict whose keys can be read as attributes too: `batch.data.x` is `batch["data"]["x"]`."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no key {name!r}; there are {', '.join(self)}") from None
