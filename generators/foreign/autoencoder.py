"""Autoencoders of latent diffusion: of a file of their own, or the first stage of a whole
checkpoint (.ckpt)."""

from __future__ import annotations

from collections.abc import Mapping

from generators.foreign.contents import Asked, Contents, Entry, Found, below, weights_in
from models.ddpm.autoencoder import PARTS, autoencoder_arguments

_FIRST_STAGE = "first_stage_model."
_KNOWN_BY = ("encoder.conv_in.weight", "decoder.conv_in.weight", "post_quant_conv.weight")


def find(contents: Contents, asked: Asked) -> Found | None:
    """The autoencoder in a file; None if there is none. Errors: ValueError for one that is not
    whole."""
    state = weights_in(contents.value)
    for prefix in ("", _FIRST_STAGE):
        if all(prefix + name in state for name in _KNOWN_BY):
            return _found(contents, below(state, prefix))
    return None


def _found(contents: Contents, state: Mapping[str, Entry]) -> Found:
    entries = {name: entry for name, entry in state.items() if name.startswith(PARTS)}
    net = autoencoder_arguments({name: tuple(entry.shape) for name, entry in entries.items()})
    provenance = {
        "imported": "an autoencoder of latent diffusion", "file": contents.path.name
    }  # fmt: skip
    left_out = {name.split(".")[0] for name in state} - {part.rstrip(".") for part in PARTS}
    notes = (f"left out: {', '.join(sorted(left_out))}",) if left_out else ()
    return Found("ldm-autoencoder", "autoencoder", entries, {"net": net}, provenance, notes)
