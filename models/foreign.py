"""Encoders that lightly and solo-learn have trained by SimCLR, and bare ResNets -> ours.

| theirs | ours |
|---|---|
| lightly `backbone.conv1...`, torchvision's names | `backbone.conv1...` |
| lightly `backbone.N...`, torchvision's ResNet in a Sequential (7x7 stem: layers are 4..7) | `backbone.layer1...` |
| lightly `backbone.N...`, its own ResNet (3x3 stem: layers are 2..5), `shortcut` | `backbone.layer1...`, `downsample` |
| lightly `projection_head.layers.{0,1,3,4}`: linear, norm, linear, norm | `projector.{fc1,bn1,fc2,bn2}` |
| lightly `projection_head.layers.{0,2}`, with biases: linear, linear (its first versions) | `projector.{fc1,fc2}`, head solo |
| solo-learn `backbone.conv1...`, `encoder.conv1...` in its first versions | `backbone.conv1...`, stem solo if it is 3x3 |
| solo-learn `projector.{0,2}`: linear, linear | `projector.{fc1,fc2}` |
| torchvision `conv1...`, as timm's | `backbone.conv1...`, no head |

Classifiers trained beside the encoder (`classifier`, `online_classifier`), and `fc`, are left out.
"""  # noqa: E501  (a table)

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from models.simclr import SOLO_STEM

_BLOCKS = {
    (2, 2, 2, 2, False): "resnet18",
    (3, 4, 6, 3, False): "resnet34",
    (3, 4, 6, 3, True): "resnet50",
}
_LIGHTLY = "projection_head."
_SOLO = "projector."
_LEFT_OUT = ("classifier.", "online_classifier.", "knn.", "linear.", "fc.")
_CHILD = re.compile(r"(\d+)\.(.+)")


def is_lightly(names: Iterable[str]) -> bool:
    """Whether a state_dict's names are those of SimCLR in lightly."""
    names = list(names)
    return _starts(names, "backbone.") and _starts(names, _LIGHTLY)


def is_solo(names: Iterable[str]) -> bool:
    """Whether a state_dict's names are those of SimCLR in solo-learn."""
    names = list(names)
    body = "backbone.conv1.weight" in names or "encoder.conv1.weight" in names
    return body and {f"{_SOLO}0.weight", f"{_SOLO}2.weight"} <= set(names)


def is_torchvision(names: Iterable[str]) -> bool:
    """Whether a state_dict's names are a bare ResNet's of torchvision, or timm."""
    return {"conv1.weight", "bn1.weight", "layer1.0.conv1.weight"} <= set(names)


def torchvision_names(
    state: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """(state_dict, arguments of SimCLR but resolution, names left out) of a ResNet without a head.

    Errors: ValueError for what is none of ours.
    """
    return _ours(state, dict(state), {}, "none", "small", ("conv1.", "bn1.", "layer", "fc."))


def lightly_names(state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """(state_dict, arguments of SimCLR but resolution, names left out) of lightly's SimCLR.

    Values need only a shape. Errors: ValueError for names or shapes that have no place here.
    """
    body = _below(state, "backbone.")
    if any(_CHILD.fullmatch(name) for name in body):
        body = _children(body)
    head = _below(state, f"{_LIGHTLY}layers.") or _below(state, _LIGHTLY)
    if "3.weight" in head:  # a norm behind each layer
        wanted = {"0": "fc1", "1": "bn1", "3": "fc2", "4": "bn2"}
        kind = "lightly"
    else:
        wanted, kind = {"0": "fc1", "2": "fc2"}, "solo"
    taken = ("backbone.", _LIGHTLY, *_LEFT_OUT)
    return _ours(state, body, _renamed(head, wanted, "lightly"), kind, "small", taken)


def solo_names(state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """(state_dict, arguments of SimCLR but resolution, names left out) of solo-learn's SimCLR.

    Values need only a shape. Errors: ValueError for names or shapes that have no place here.
    """
    prefix = "backbone." if "backbone.conv1.weight" in state else "encoder."
    body = _below(state, prefix)
    head = _renamed(_below(state, _SOLO), {"0": "fc1", "2": "fc2"}, "solo-learn")
    return _ours(state, body, head, "solo", SOLO_STEM, (prefix, _SOLO, *_LEFT_OUT))


def _ours(
    state: Mapping[str, Any],
    body: dict[str, Any],
    head: dict[str, Any],
    kind: str,
    small: str,
    taken: tuple[str, ...],
) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """small: what a 3x3 stem is here. taken: prefixes of names that are known."""
    left = [name for name in state if not name.startswith(taken)]
    left += [name for name in state if name.startswith(_LEFT_OUT)]
    body = {name: value for name, value in body.items() if not name.startswith(("fc.", "linear."))}
    if "conv1.weight" not in body:
        raise ValueError("no ResNet in it: backbone.conv1.weight is missing")
    stems = {(64, 3, 7, 7): "standard", (64, 3, 3, 3): small}
    kernel = tuple(body["conv1.weight"].shape)
    if kernel not in stems:
        raise ValueError(
            f"a ResNet whose first kernel is {list(kernel)}, not [64, 3, 7, 7 or 3, 3]"
        )
    blocks = [
        len({name.split(".")[1] for name in body if name.startswith(f"layer{i}.")})
        for i in (1, 2, 3, 4)
    ]
    depth = (*blocks, "layer1.0.conv3.weight" in body)
    if depth not in _BLOCKS:
        raise ValueError(f"no ResNet-18, -34 or -50: its layers have {blocks} blocks")
    out = {f"backbone.{name}": value for name, value in body.items()}
    out |= {f"projector.{name}": value for name, value in head.items()}
    config = {
        "backbone": _BLOCKS[depth],
        "stem": stems[kernel],
        "head": kind,
    }
    if head:
        config["proj_hidden"] = head["fc1.weight"].shape[0]
        config["proj_dim"] = head["fc2.weight"].shape[0]
    return out, config, left


def _children(body: Mapping[str, Any]) -> dict[str, Any]:
    """Names of a ResNet whose children lie in a Sequential -> torchvision's."""
    first = {7: 4, 3: 2}.get(tuple(body["0.weight"].shape)[-1]) if "0.weight" in body else None
    if first is None:
        raise ValueError("no ResNet in it: backbone.0.weight is no kernel of 7x7 or 3x3")
    out = {}
    for name, value in body.items():
        child = _CHILD.fullmatch(name)
        index, rest = (int(child[1]), child[2]) if child else (-1, name)
        if index in (0, 1):
            out[f"{('conv1', 'bn1')[index]}.{rest}"] = value
        elif first <= index < first + 4:
            out[f"layer{index - first + 1}.{rest.replace('shortcut.', 'downsample.')}"] = value
        else:
            raise ValueError(f"backbone.{name} is no part of a ResNet in a Sequential")
    return out


def _renamed(head: Mapping[str, Any], wanted: Mapping[str, str], whose: str) -> dict[str, Any]:
    out = {}
    for name, value in head.items():
        index, _, rest = name.partition(".")
        if index not in wanted:
            raise ValueError(f"not the projection head of {whose}'s SimCLR: it has {name}")
        out[f"{wanted[index]}.{rest}"] = value
    missing = [f"{new}.weight" for new in wanted.values() if f"{new}.weight" not in out]
    if missing:
        raise ValueError(f"not the projection head of {whose}'s SimCLR: {missing[0]} is missing")
    return out


def _below(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): v for name, v in state.items() if name.startswith(prefix)}


def _starts(names: Iterable[str], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in names)
