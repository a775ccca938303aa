"""The formats of others that are read: whose file it is, by what is in it, never by its name.

Another format is a module here with a `find`, and an entry of FORMATS. A kind that no network here
takes yet is brought in all the same; it is drawn from as soon as `generators.door.KINDS` has it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from generators.foreign import autoencoder, camnet, omnigan, pickled, plain, simclr, unet
from generators.foreign.contents import Asked, Contents, Found, open_contents
from storage.errors import CheckpointError
from storage.foreign.modules import reading
from storage.snapshot import Snapshot

_ASKED = Asked()


class Format(NamedTuple):
    """A format of others. what: it is, in words. kinds: of the snapshots that become of it. asks:
    options of convert.py that say what such a file does not."""

    what: str
    kinds: tuple[str, ...]
    asks: tuple[str, ...] = ()


FORMATS: dict[str, Format] = {
    "cimle": Format("a checkpoint of the CIMLE refactoring", ("camnet",), ("res", "config")),
    "cam-net": Format(
        "a network of the CAM-Net code release", ("camnet",), ("task", "res", "config")
    ),
    "chimle": Format("a network of CHIMLE", ("camnet",), ("task", "res", "config")),
    "edm2": Format("a pickle of NVIDIA's EDM2, or of Autoguided", ("edm2", "edm2-toy")),
    "edm": Format("a pickle of NVIDIA's EDM", ("edm",)),
    "safetensors": Format("plain weights of this toolkit (convert.py --to safetensors)", ()),
    "torchvision": Format("a ResNet of torchvision", ("simclr",), ("res", "normalise")),
    "epoch": Format("an <epoch>.pt of TrainSimCLR.py or TrainISICLE.py", ("simclr",)),
    "simclr": Format("a checkpoint of the original SimCLR code", ("simclr",), ("res", "normalise")),
    "lightly": Format("a checkpoint of lightly's SimCLR", ("simclr",), ("res", "normalise")),
    "solo-learn": Format("a checkpoint of solo-learn's SimCLR", ("simclr",), ("res", "normalise")),
    "guided-diffusion": Format("a UNet of guided-diffusion", ("ddpm",), ("res", "config")),
    "ldm": Format(
        "the UNet of a latent-diffusion checkpoint", ("ddpm",), ("res", "config", "weights")
    ),
    "ldm-autoencoder": Format("an autoencoder of latent diffusion", ("autoencoder",)),
    "omnigan": Format("a checkpoint of omnigan", ("omnigan",), ("res", "config")),
    "climategan": Format("a checkpoint of ClimateGAN", ("climategan",), ("config",)),
}
_FINDERS: tuple[Callable[[Contents, Asked], Found | None], ...] = (
    pickled.find, plain.find, camnet.find, simclr.find, unet.find, autoencoder.find,
    omnigan.find,
)  # fmt: skip
_WHAT = "network of others"


def identify(path: str | Path, asked: Asked = _ASKED) -> Found:
    """The network in a file of others, its weights not made yet.

    asked: what the file does not say. Errors: CheckpointError for what is missing, damaged or
    refused ("refused: global X in FILE"; nothing of it runs), or of no format that is known.
    """
    path = Path(path)
    with reading(path, _WHAT):
        contents = open_contents(path)
        for find in _FINDERS:
            if (found := find(contents, asked)) is not None:
                return found
    known = ", ".join(FORMATS)
    raise CheckpointError(f"{path}: holds no network of a format that is known here ({known})")


def import_network(path: str | Path, asked: Asked = _ASKED) -> tuple[Snapshot, Found]:
    """`identify`, and the snapshot that becomes of it. Errors: as of `identify`."""
    path = Path(path)
    found = identify(path, asked)
    with reading(path, _WHAT):
        return found.snapshot(path), found
