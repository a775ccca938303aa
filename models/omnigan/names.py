"""Parameters of the original omnigan <-> ours.

| theirs | ours |
|---|---|
| `NAME.module.weight_bar` (omnigan's spectral normalisation) | `NAME.parametrizations.weight.original` |
| `NAME.module.weight_u`, `_v`, `NAME.module.bias` | `NAME.parametrizations.weight.0._u`, `_v`, `NAME.bias` |
| `NAME.weight_orig`, `weight_u`, `weight_v` (torch's) | as above |
| `decoders.t._model.` (one decoder for both floods) | `decoders.t.shared.` |
| `f_bit`, `n_bit` of it, which are constants | left out |
| `encoder.conv2d_init`, `conv2d_<i>`, `resblock` (spring of 2020) | `encoder.model.0`, `1 + i`, last |

All other names are the same.
"""  # noqa: E501  (a table)

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

Value = TypeVar("Value")

_SPECTRAL = re.compile(r"(.*?)(?:\.module)?\.weight_(bar|orig|u|v)")
_LATER = re.compile(r"encoder\.(conv2d_init|conv2d_(\d+)|resblock)\.(.+)")


def our_names(state: Mapping[str, Value]) -> dict[str, Value]:
    """A state_dict of the original generator, discriminators or classifier under our names."""
    later = [int(m[2]) for name in state if (m := _LATER.fullmatch(name)) and m[2] is not None]
    first = min(later, default=0)
    found: dict[str, Value] = {}
    for name, value in state.items():
        if name.rsplit(".", 1)[-1] in ("f_bit", "n_bit"):
            continue
        if m := _LATER.fullmatch(name):
            if m[1] == "conv2d_init":
                place = 0
            elif m[1] == "resblock":
                place = 1 + len(set(later))
            else:
                place = 1 + int(m[2]) - first
            name = f"encoder.model.{place}.{m[3]}"
        name = name.replace("decoders.t._model.", "decoders.t.shared.")
        found[_spectral(name)] = value
    return found


def _spectral(name: str) -> str:
    if m := _SPECTRAL.fullmatch(name):
        part = "original" if m[2] in ("bar", "orig") else f"0._{m[2]}"
        start = f"{m[1]}." if m[1] else ""
        return f"{start}parametrizations.weight.{part}"
    return re.sub(r"\.module\.bias$", ".bias", name)
