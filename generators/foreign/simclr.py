"""Encoders of SimCLR: of the original SimCLR code, lightly, solo-learn, and <epoch>.pt of ours."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from data.views.recipes import NORMALISATIONS, Recipe
from generators.foreign.contents import Asked, Contents, Entry, Found, made, weights_in, whole
from models import load_original, original_config
from models.foreign import (
    is_lightly,
    is_solo,
    is_torchvision,
    lightly_names,
    solo_names,
    torchvision_names,
)
from storage.foreign.objects import plain_value
from storage.foreign.pickles import Inert

ORIGINALS = ("model.backbone.model.", "backbone.model.")  # names of the original SimCLR code
OURS = "imle-lab-simclr"  # how the format of an <epoch>.pt of ours begins


def find(contents: Contents, asked: Asked) -> Found | None:
    """The encoder in a file; None if there is none. Errors: ValueError for one that does not go
    together."""
    value = contents.value
    if isinstance(value, dict) and str(value.get("format", "")).startswith(OURS):
        return _ours(contents, value)
    state = weights_in(value)
    if any(name.startswith(ORIGINALS) for name in state):
        return _original(contents, state, asked)
    if is_lightly(state):
        return _others(contents, "lightly", "lightly's SimCLR", lightly_names(state), asked)
    if is_solo(state):
        return _others(contents, "solo-learn", "solo-learn's SimCLR", solo_names(state), asked)
    if is_torchvision(state):
        return _others(contents, "torchvision", "torchvision", torchvision_names(state), asked)
    return None


_SIDE = "the side of its pictures is not in the file: taken for {}, --res says another"


def _ours(contents: Contents, value: Mapping[str, Any]) -> Found:
    config, state = plain_value(value.get("config")), weights_in(value)
    if not isinstance(config, dict) or not state:
        raise ValueError("an <epoch>.pt without its network")
    provenance = {
        "imported": "an <epoch>.pt of TrainSimCLR.py or TrainISICLE.py",
        "file": contents.path.name,
    }
    return Found("epoch", "simclr", state, config, provenance)


def _original(contents: Contents, state: dict[str, Entry], asked: Asked) -> Found:
    tensors = _made_once(state)
    config = original_config(tensors)
    value = contents.value if isinstance(contents.value, dict) else {}
    args = plain_value(value.get("args"))
    args = vars(args) if isinstance(args, argparse.Namespace) else {}
    size = _side(asked) or whole(args.get("crop_size")) or 32
    notes = []
    if _side(asked) is None and whole(args.get("crop_size")) is None:
        notes.append(_SIDE.format(size))
    epoch = whole(value.get("last_epoch"))
    provenance = {
        "imported": "a checkpoint of the original SimCLR code",
        "file": contents.path.name,
        "epoch": epoch,
    }
    facts = _facts({**config, "resolution": size}, asked.normalise, size, epoch)
    return Found("simclr", "simclr", load_original(tensors), facts, provenance, tuple(notes))


def _others(
    contents: Contents,
    form: str,
    whose: str,
    named: tuple[dict[str, Entry], dict[str, Any], list[str]],
    asked: Asked,
) -> Found:
    state, config, left = named
    value = contents.value if isinstance(contents.value, dict) else {}
    dataset = _dataset(value.get("hyper_parameters")) if form == "solo-learn" else None
    small = config["stem"] != "standard"
    size, notes = _side(asked), []
    if size is None:
        size = 32 if small else 224
        notes.append(_SIDE.format(size))
    normalise = asked.normalise
    if normalise is None:
        cifar = dataset is not None and dataset.startswith("cifar")
        # lightly's transform of SimCLR; solo-learn's are of the data set
        normalise = "cifar" if cifar or (form == "solo-learn" and small) else "imagenet"
        notes.append(
            f"how its pictures are normalised is not in the file: taken for {normalise}, "
            "--normalise says otherwise"
        )
    if left:
        notes.append(f"left out: {', '.join(left[:4])}{', ...' if len(left) > 4 else ''}")
    epoch = whole(value.get("epoch"))
    provenance = {
        "imported": f"a checkpoint of {whose}",
        "file": contents.path.name,
        "epoch": epoch,
        "step": whole(value.get("global_step")),
        "dataset": dataset,
    }
    facts = _facts({**config, "resolution": size}, normalise, size, epoch)
    return Found(form, "simclr", state, facts, provenance, tuple(notes))


def _facts(
    net: dict[str, Any], normalise: str | None, size: int, epoch: int | None
) -> dict[str, Any]:
    """A snapshot's config; without a normalisation the recipe is not known."""
    recipe = None
    if normalise is not None:
        mean, std = NORMALISATIONS[normalise]
        recipe = Recipe(size, mean=mean, std=std)._asdict()
    side = None if recipe is None else size
    return {"net": net, "recipe": recipe, "picture_size": side, "epoch": epoch}


def _side(asked: Asked) -> int | None:
    return asked.res[-1] if asked.res else None


def _made_once(state: Mapping[str, Entry]) -> dict[str, Tensor]:
    """Tensors of a state_dict; aliases, of which the originals have one for each, stay one."""
    known: dict[Any, Tensor] = {}
    out = {}
    for name, entry in state.items():
        key = entry if not isinstance(entry, Tensor) else id(entry)
        if key not in known:
            known[key] = made(entry)
        out[name] = known[key]
    return out


def _dataset(settings: Any) -> str | None:
    """The data set that solo-learn's hyper-parameters name, in the forms that it had."""
    for _ in range(20):  # boxes of OmegaConf
        if isinstance(settings, Inert):
            settings = settings.state
        if not isinstance(settings, dict):
            return settings if isinstance(settings, str) else None
        inner = next(
            (settings[key] for key in ("data", "dataset", "_content", "_val") if key in settings),
            None,
        )
        if inner is None:
            return None
        settings = inner
    return None
