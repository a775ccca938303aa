"""Pictures of four domains with maps, for omnigan.

A domain is real or simulated (r, s) and flooded or not (f, n). Each has a list of samples, a JSON
or YAML file, or is drawn (`scenes`). A sample is a picture `x` and, where there are any, its maps:

    d  depth      float32 [1, H, W], inverse and normalised: (1/depth - 1/255) * 3
    h  height     float32 [1, H, W], in [0, 1]
    s  segments   int64 [H, W], the number of a class; NO_CLASS for none
    w  water      float32 [1, H, W], 1 where there is water, else 0

    lists       a file of samples, checked
    maps        one file of a picture or map as an array
    transforms  flip, resize, crop, alike for a picture and its maps
    samples     the samples of a domain: of a list, or scenes; as tensors
    loaders     batches of every domain, endless for training, once through for validation
"""

from data.omni.loaders import Batches, Loaders, Reading, make_loaders, multi_batches
from data.omni.samples import (
    HEIGHT_M,
    DomainSamples,
    depth_of,
    is_scenes,
    open_samples,
    pictures_of,
)
from data.omni.words import CLASSES, DOMAINS, MAPS, MODES, NO_CLASS, Attributes

__all__ = [
    "CLASSES",
    "DOMAINS",
    "HEIGHT_M",
    "MAPS",
    "MODES",
    "NO_CLASS",
    "Attributes",
    "Batches",
    "DomainSamples",
    "Loaders",
    "Reading",
    "depth_of",
    "is_scenes",
    "make_loaders",
    "multi_batches",
    "open_samples",
    "pictures_of",
]
