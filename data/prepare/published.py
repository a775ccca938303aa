"""The networks that NVIDIA publishes with EDM2: names, addresses, and the presets made of them.

Facts of the release (https://github.com/NVlabs/edm2, commit 4bf8162), read from its preset table,
README and toy example. A name is `edm2-img<resolution>-<size>[-uncond]-<kimg>-<EMA length>`, kimg
being thousands of training images. Figures are the release's own, of 50000 images on ImageNet: FID,
or Frechet distance of DINOv2 features. The release publishes no digests: `data.prepare.download`
records one at the first download.
"""

from __future__ import annotations

import re
from typing import NamedTuple

ROOT = "https://nvlabs-fi-cdn.nvidia.com/edm2"
RECONSTRUCTIONS = "posthoc-reconstructions"  # the folder of the networks below
LICENCE = "CC BY-NC-SA 4.0 (not for commercial use)"

# The 2-D tree of autoguidance, below ROOT.
TOY_NET = "toy-example/clsA-layers04-dim64/iter4096.pkl"
TOY_GUIDE = "toy-example/clsA-layers04-dim32/iter0512.pkl"  # of autoguidance
TOY_UNCONDITIONAL = "toy-example/clsAB-layers04-dim32/iter0512.pkl"  # of classifier-free guidance

_NAME = re.compile(r"edm2-img(?:64|512)-(?:xxs|xs|s|m|l|xl|xxl)(?:-uncond)?-\d{7}-\d\.\d{3}")


class Preset(NamedTuple):
    """A setting of the release: the network, its guide and the guidance's weight, the figure."""

    name: str
    net: str
    gnet: str | None
    guidance: float | None
    figure: str


# fmt: off
PUBLISHED: tuple[Preset, ...] = (
    # without guidance
    Preset("edm2-img512-xs-fid", "edm2-img512-xs-2147483-0.135", None, None, "FID 3.53"),
    Preset("edm2-img512-xs-dino", "edm2-img512-xs-2147483-0.200", None, None, "FD-DINOv2 103.39"),
    Preset("edm2-img512-s-fid", "edm2-img512-s-2147483-0.130", None, None, "FID 2.56"),
    Preset("edm2-img512-s-dino", "edm2-img512-s-2147483-0.190", None, None, "FD-DINOv2 68.64"),
    Preset("edm2-img512-m-fid", "edm2-img512-m-2147483-0.100", None, None, "FID 2.25"),
    Preset("edm2-img512-m-dino", "edm2-img512-m-2147483-0.155", None, None, "FD-DINOv2 58.44"),
    Preset("edm2-img512-l-fid", "edm2-img512-l-1879048-0.085", None, None, "FID 2.06"),
    Preset("edm2-img512-l-dino", "edm2-img512-l-1879048-0.155", None, None, "FD-DINOv2 52.25"),
    Preset("edm2-img512-xl-fid", "edm2-img512-xl-1342177-0.085", None, None, "FID 1.96"),
    Preset("edm2-img512-xl-dino", "edm2-img512-xl-1342177-0.155", None, None, "FD-DINOv2 45.96"),
    Preset("edm2-img512-xxl-fid", "edm2-img512-xxl-0939524-0.070", None, None, "FID 1.91"),
    Preset("edm2-img512-xxl-dino", "edm2-img512-xxl-0939524-0.150", None, None, "FD-DINOv2 42.84"),
    Preset("edm2-img64-s-fid", "edm2-img64-s-1073741-0.075", None, None, "FID 1.58"),
    Preset("edm2-img64-m-fid", "edm2-img64-m-2147483-0.060", None, None, "FID 1.43"),
    Preset("edm2-img64-l-fid", "edm2-img64-l-1073741-0.040", None, None, "FID 1.33"),
    Preset("edm2-img64-xl-fid", "edm2-img64-xl-0671088-0.040", None, None, "FID 1.33"),
    # classifier-free guidance by the unconditional xs
    Preset("edm2-img512-xs-guid-fid", "edm2-img512-xs-2147483-0.045",
           "edm2-img512-xs-uncond-2147483-0.045", 1.4, "FID 2.91"),
    Preset("edm2-img512-xs-guid-dino", "edm2-img512-xs-2147483-0.150",
           "edm2-img512-xs-uncond-2147483-0.150", 1.7, "FD-DINOv2 79.94"),
    Preset("edm2-img512-s-guid-fid", "edm2-img512-s-2147483-0.025",
           "edm2-img512-xs-uncond-2147483-0.025", 1.4, "FID 2.23"),
    Preset("edm2-img512-s-guid-dino", "edm2-img512-s-2147483-0.085",
           "edm2-img512-xs-uncond-2147483-0.085", 1.9, "FD-DINOv2 52.32"),
    Preset("edm2-img512-m-guid-fid", "edm2-img512-m-2147483-0.030",
           "edm2-img512-xs-uncond-2147483-0.030", 1.2, "FID 2.01"),
    Preset("edm2-img512-m-guid-dino", "edm2-img512-m-2147483-0.015",
           "edm2-img512-xs-uncond-2147483-0.015", 2, "FD-DINOv2 41.98"),
    Preset("edm2-img512-l-guid-fid", "edm2-img512-l-1879048-0.015",
           "edm2-img512-xs-uncond-2147483-0.015", 1.2, "FID 1.88"),
    Preset("edm2-img512-l-guid-dino", "edm2-img512-l-1879048-0.035",
           "edm2-img512-xs-uncond-2147483-0.035", 1.7, "FD-DINOv2 38.20"),
    Preset("edm2-img512-xl-guid-fid", "edm2-img512-xl-1342177-0.020",
           "edm2-img512-xs-uncond-2147483-0.020", 1.2, "FID 1.85"),
    Preset("edm2-img512-xl-guid-dino", "edm2-img512-xl-1342177-0.030",
           "edm2-img512-xs-uncond-2147483-0.030", 1.7, "FD-DINOv2 35.67"),
    Preset("edm2-img512-xxl-guid-fid", "edm2-img512-xxl-0939524-0.015",
           "edm2-img512-xs-uncond-2147483-0.015", 1.2, "FID 1.81"),
    Preset("edm2-img512-xxl-guid-dino", "edm2-img512-xxl-0939524-0.015",
           "edm2-img512-xs-uncond-2147483-0.015", 1.7, "FD-DINOv2 33.09"),
    # autoguidance by a network that is smaller or was trained less
    Preset("edm2-img512-s-autog-fid", "edm2-img512-s-2147483-0.070",
           "edm2-img512-xs-0134217-0.125", 2.1, "FID 1.34"),
    Preset("edm2-img512-s-autog-dino", "edm2-img512-s-2147483-0.120",
           "edm2-img512-xs-0134217-0.165", 2.45, "FD-DINOv2 36.67"),
    Preset("edm2-img512-xxl-autog-fid", "edm2-img512-xxl-0939524-0.075",
           "edm2-img512-m-0268435-0.155", 2.05, "FID 1.25"),
    Preset("edm2-img512-xxl-autog-dino", "edm2-img512-xxl-0939524-0.130",
           "edm2-img512-m-0268435-0.205", 2.3, "FD-DINOv2 24.18"),
    Preset("edm2-img512-s-uncond-autog-fid", "edm2-img512-s-uncond-2147483-0.070",
           "edm2-img512-xs-uncond-0134217-0.110", 2.85, "FID 3.86"),
    Preset("edm2-img512-s-uncond-autog-dino", "edm2-img512-s-uncond-2147483-0.090",
           "edm2-img512-xs-uncond-0134217-0.125", 2.9, "FD-DINOv2 90.39"),
    Preset("edm2-img64-s-autog-fid", "edm2-img64-s-1073741-0.045",
           "edm2-img64-xs-0134217-0.110", 1.7, "FID 1.01"),
    Preset("edm2-img64-s-autog-dino", "edm2-img64-s-1073741-0.105",
           "edm2-img64-xs-0134217-0.175", 2.2, "FD-DINOv2 31.85"),
)
# fmt: on


def is_published(name: str) -> bool:
    """Whether a network is named as the release names them."""
    return _NAME.fullmatch(name) is not None
