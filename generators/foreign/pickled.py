"""NVIDIA's EDM, EDM2 and toy, and Autoguided's copies: pickles of whole modules.

`diffusion.original` reads them. The number in the name of an EDM2 file is thousands of images in
NVIDIA's and steps in Autoguided's, which the modules that the pickle names tell apart.
"""

from __future__ import annotations

from diffusion.original import parse_pickle
from generators.foreign.contents import Asked, Contents, Found


def find(contents: Contents, asked: Asked) -> Found | None:
    """The network in a pickle; None for a file of another form. Errors: CheckpointError."""
    if contents.value is not None:
        return None
    parsed = parse_pickle(contents.path)
    notes = []
    config = parsed.config
    if parsed.kind == "edm2" and config["nimg"] is config["step"] is None:
        notes.append(
            "its name says no images and no steps (NAME-NUMBER-EMA.pkl does), so that "
            "reconstruct_phema.py cannot take it"
        )
    form = "edm" if parsed.kind == "edm" else "edm2"
    return Found(form, parsed.kind, parsed.entries, config, parsed.provenance, tuple(notes))
