"""--to safetensors and --to torchvision: weights alone, under names that others read."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from torch import Tensor

from generators.foreign.plain import FORMAT, METADATA, metadata_of
from models import export_torchvision
from models.simclr import SOLO_STEM
from recipes.convert.targets import Given, source_of
from recipes.simclr.encoder import Encoder
from storage.errors import DiskError
from storage.files import write_bytes
from storage.torchfile import write_torch

_STEMS = {
    "small": "net.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False); "
    "net.maxpool = torch.nn.Identity(); ",
    SOLO_STEM: "net.conv1 = torch.nn.Conv2d(3, 64, 3, padding=2, bias=False); "
    "net.maxpool = torch.nn.Identity(); ",
}


def write_safetensors(given: Given, path: Path, args: Namespace) -> list[str]:
    """All tensors under our names, as transformers and diffusers take such a file (its metadata say
    format "pt", which a snapshot's do not). Kind and arguments are in the metadata, so that every
    command here takes it again. Errors: DiskError."""
    snapshot = given.snapshot
    usage = (
        f'from safetensors.torch import load_file; state = load_file("{path.name}"); kind and '
        f'arguments: json.loads(safe_open(...).metadata()["{METADATA}"])'
    )
    told = {
        "format": FORMAT,
        "kind": snapshot.kind,
        "config": snapshot.config,
        "source": source_of(given),
        "usage": usage,
    }
    _write(path, snapshot.state_dict, told)
    return [f"without this toolkit: {usage}"]


def about_safetensors(path: Path) -> str | None:
    """What a plain .safetensors of ours says of itself, in a line; None for any other file."""
    told = metadata_of(path)
    if told is None:
        return None
    return f"plain weights of a {told.get('kind')!r} network; {told.get('usage')}"


def write_torchvision(given: Given, path: Path, args: Namespace) -> list[str]:
    """The backbone of an encoder as a state_dict of torchvision's ResNet, without fc: a file of
    torch.save, or, where --out ends in .safetensors, such a one.

    Errors: CheckpointError; DiskError.
    """
    encoder = Encoder.of(given.snapshot)
    net, plain = encoder.net, encoder.plain
    state = export_torchvision(net)
    backbone, stem = net.config["backbone"], net.config["stem"]
    safe = path.suffix.lower() == ".safetensors"
    reads = "safetensors.torch.load_file(FILE)" if safe else "torch.load(FILE, weights_only=True)"
    usage = (
        f"net = torchvision.models.{backbone}(); net.fc = torch.nn.Identity(); "
        f"{_STEMS.get(stem, '')}net.load_state_dict({reads}); net.eval()"
    )
    told = {
        "format": "torchvision",
        "backbone": backbone,
        "stem": stem,
        "size": plain.size,
        "mean": plain.mean,
        "std": plain.std,
        "source": source_of(given),
        "usage": usage,
    }
    if safe:
        _write(path, state, told)
    else:
        try:
            write_torch(path, state)
        except (OSError, RuntimeError) as error:  # torch's own, where a file cannot be written
            raise DiskError(f"cannot write {path}: {error}") from error
    normal = f", then minus {plain.mean}, over {plain.std}" if plain.mean and plain.std else ""
    return [
        f"without this toolkit: {usage}",
        f"its pictures: RGB of {plain.size} pixels, divided by 255{normal}",
    ]


def _write(path: Path, state: dict[str, Tensor], told: dict[str, Any]) -> None:
    from safetensors.torch import save

    # a copy each: safetensors refuses tensors that share memory
    tensors = {k: v.detach().to("cpu", copy=True).contiguous() for k, v in state.items()}
    metadata = {"format": "pt", METADATA: json.dumps(told, sort_keys=True)}
    try:
        write_bytes(path, save(tensors, metadata))
    except OSError as error:
        raise DiskError(f"cannot write {path}: {error}") from error
