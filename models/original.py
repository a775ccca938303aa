"""Weights and optimizers of the original SimCLR code -> ours.

The original SimCLR code is the PyTorch code whose command line TrainSimCLR.py keeps, not google's.

There the ResNet's children sat in an nn.Sequential, so that names became indices, and aliases
stored every tensor twice. Only a state_dict is taken here: files are read by
`storage.torchfile.load_foreign`, which refuses whole pickled objects.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import torch

from models.optim import LARC, lars_groups

_BACKBONE = ("model.backbone.model.", "backbone.model.")
_HEAD = ("model.projection.model.", "head.model.")
_BLOCKS = {(2, 2, 2, 2, False): "resnet18", (3, 4, 6, 3, False): "resnet34"}
_BLOCKS[(3, 4, 6, 3, True)] = "resnet50"


def load_original(state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """A state_dict of its HeadedResNet -> one of `SimCLR(**original_config(state))`.

    Both aliases of each tensor, or either alone, are accepted; so are a "module." in front of all
    keys and a checkpoint that holds the state_dict under "model". Small and standard stems are told
    apart by their indices. Errors: ValueError for any key that has no place here, for copies that
    differ, and for anything but tensors.
    """
    return _translate(state)[0]


def original_config(state: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of SimCLR that fit the state: backbone, stem, head, proj_dim, proj_hidden.

    `resolution` is not in a state_dict and is left out. Errors: ValueError as `load_original`.
    """
    return _translate(state)[1]


class _Found(Protocol):
    """A pickled optimizer, read as data: see `storage.foreign.objects.Optimizer`."""

    @property
    def kind(self) -> str: ...

    @property
    def groups(self) -> list[dict[str, Any]]: ...

    @property
    def state(self) -> list[tuple[torch.Tensor, dict[str, Any]]]: ...

    @property
    def wrapped(self) -> bool: ...


def original_optimizer(
    model: torch.nn.Module,
    state: Mapping[str, torch.Tensor],
    found: _Found,
    trust: float = 1e-3,
) -> torch.optim.Optimizer:
    """Its Adam or SGD (in its LARC, where another object held it) for our model.

    state: what `load_original` returned: its tensors are the very objects that the file's optimizer
    names its parameters by. Groups are ours (norms and biases neither decay nor are adapted, where
    the original went by "bn" in the name); rates, betas and the state of every parameter are the
    file's.
    Errors: ValueError for another optimizer, or a parameter whose state does not fit.
    """
    first = found.groups[0] if found.groups else {}
    lr, decay = float(first.get("lr", 1e-3)), max([0.0, *map(_decay, found.groups)])
    groups = lars_groups(model, decay)
    if found.kind in ("Adam", "AdamW"):
        kind = getattr(torch.optim, found.kind)
        betas = tuple(float(b) for b in first.get("betas", (0.9, 0.999)))
        optimizer = kind(groups, lr=lr, betas=betas, eps=float(first.get("eps", 1e-8)))
    elif found.kind == "SGD":
        momentum, nesterov = float(first.get("momentum", 0)), bool(first.get("nesterov", False))
        optimizer = torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov)
    else:
        raise ValueError(
            f"an optimizer {found.kind[:80]!r}, which the original SimCLR code never had"
        )
    names = {id(tensor): name for name, tensor in state.items()}
    parameters = dict(model.named_parameters())
    for old, kept in found.state:
        if id(old) not in names:
            raise ValueError("the optimizer has a parameter that the network has not")
        p = parameters[names[id(old)]]
        values = {}
        for key, value in kept.items():
            if key == "step":
                value = torch.tensor(float(value))
            elif isinstance(value, torch.Tensor):
                if value.shape != p.shape:
                    raise ValueError(f"{key} of {names[id(old)]} has shape {list(value.shape)}")
                value = value.detach().clone()
            values[key] = value
        optimizer.state[p] = values
    return LARC(optimizer, trust=trust) if found.wrapped else optimizer


def _decay(group: Mapping[str, Any]) -> float:
    return float(group.get("weight_decay", 0) or 0)


def _translate(state: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    flat = _plain(state)
    backbone, head = _once(flat, _BACKBONE), _once(flat, _HEAD)
    known = _BACKBONE + _HEAD
    strange = [k for k in flat if not k.startswith(known)]
    if strange:
        raise ValueError(
            f"not a key of the original SimCLR code: {strange[0]!r} (of {len(strange)} such)"
        )
    if "0.weight" not in backbone or not isinstance(backbone["0.weight"], torch.Tensor):
        raise ValueError("no backbone in this state: backbone.model.0.weight is missing")
    stem = _stem(backbone)
    out: dict[str, torch.Tensor] = {}
    for key, value in backbone.items():
        out["backbone." + _name(key, stem)] = value
    blocks = [_blocks(out, f"backbone.layer{i}.") for i in (1, 2, 3, 4)]
    kind = (*blocks, "backbone.layer1.0.conv3.weight" in out)
    if kind not in _BLOCKS:
        raise ValueError(f"no ResNet-18, -34 or -50: its layers have {blocks} blocks")
    config: dict[str, Any] = {"backbone": _BLOCKS[kind], "stem": stem, "head": "none"}
    if head:
        missing = [k for k in _HEAD_KEYS if k not in head]
        extra = [k for k in head if k not in _HEAD_KEYS]
        if missing or extra:
            said = f"lacks {missing[0]}" if missing else f"has {extra[0]}"
            raise ValueError(
                f"not the original SimCLR code's projection head (fc1, bn1, fc2, bn2): it {said}"
            )
        out.update({"projector." + k: v for k, v in head.items()})
        config["head"] = "original"
        config["proj_hidden"], config["proj_dim"] = len(head["fc1.weight"]), len(head["fc2.weight"])
    return out, config


def _blocks(names: Iterable[str], prefix: str) -> int:
    return len({name.split(".")[2] for name in names if name.startswith(prefix)})


_BN_KEYS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_HEAD_KEYS = frozenset(
    ["fc1.weight", "fc2.weight", *(f"{bn}.{k}" for bn in ("bn1", "bn2") for k in _BN_KEYS)]
)


def _plain(state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    if isinstance(state, Mapping) and isinstance(state.get("model"), Mapping):
        state = state["model"]
    if not isinstance(state, Mapping):
        raise ValueError(f"expected a state_dict, got {type(state).__name__}")
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise ValueError(f"expected a state_dict of tensors; {key!r} is {type(value).__name__}")
    if state and all(k.startswith("module.") for k in state):
        return {k.removeprefix("module."): v for k, v in state.items()}
    return dict(state)


def _once(flat: Mapping[str, torch.Tensor], prefixes: tuple[str, str]) -> dict[str, torch.Tensor]:
    """The tensors under either prefix, without it. Errors: ValueError if the two copies differ."""
    found: dict[str, torch.Tensor] = {}
    for prefix in prefixes:
        for key, value in flat.items():
            if not key.startswith(prefix):
                continue
            name = key.removeprefix(prefix)
            if name in found and not _same(found[name], value):
                raise ValueError(f"the two copies of {name} differ ({prefixes[0]} and {prefix})")
            found.setdefault(name, value)
    return found


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a is b or (a.dtype == b.dtype and a.shape == b.shape and bool(_equal_nan(a, b)))


def _equal_nan(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return ((a == b) | ((a != a) & (b != b))).all()


def _stem(backbone: Mapping[str, torch.Tensor]) -> str:
    # Children 3..6 are layer1..4; with the standard stem 3 is the max-pool and they are 4..7.
    indices = {key.split(".")[0] for key in backbone}
    stem = "standard" if "7" in indices else "small"
    shape, size = tuple(backbone["0.weight"].shape), 7 if stem == "standard" else 3
    if shape != (64, 3, size, size):
        raise ValueError(f"a {stem} stem by its indices, but its first kernel is {list(shape)}")
    return stem


def _name(key: str, stem: str) -> str:
    first = 4 if stem == "standard" else 3
    match = re.fullmatch(r"(\d+)\.(.+)", key)
    if match is not None:
        index, rest = int(match[1]), match[2]
        if index in (0, 1):
            return f"{('conv1', 'bn1')[index]}.{rest}"
        if first <= index < first + 4:
            return f"layer{index - first + 1}.{rest}"
    raise ValueError(f"not a key of the original SimCLR code: backbone.model.{key}")
