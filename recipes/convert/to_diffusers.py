"""--to diffusers: a folder that diffusers' UNet2DModel.from_pretrained reads, of an ADM UNet."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from diffusion.unet_diffusers import to_diffusers
from generators.base import in_words
from recipes.convert.targets import Given, source_of
from storage.errors import CheckpointError, DiskError, UsageError
from storage.files import read_bytes, remove, staging, write_bytes, write_json, write_text

KIND = "ddpm"
_WHY = {
    "edm2": "its UNet is magnitude-preserving (weights normalised where they are used, no biases, "
    "no group norms, sums by mp_sum), and diffusers has no such UNet",
    "edm": "its UNet (SongUNet, DhariwalUNet) has blocks that diffusers' UNet2DModel has not",
    "edm2-toy": "it is no UNet",
    "simclr": "it is no UNet; --to torchvision is for encoders",
    "camnet": "it is no UNet, but a cascade of residual dense blocks",
    "imle-unconditional": "it is no UNet, but a StyleGAN2 synthesis network",
}


def write_diffusers(given: Given, path: Path, args: Namespace) -> list[str]:
    """config.json, diffusion_pytorch_model.safetensors and README.md in a new folder.

    Errors: UsageError for a network that diffusers has no class for; CheckpointError for weights
    that do not go together; DiskError.
    """
    from safetensors.torch import save

    snapshot = given.snapshot
    if snapshot.kind != KIND:
        why = _WHY.get(snapshot.kind, "no mapping of its names is known")
        raise UsageError(f"--to diffusers cannot be made of {in_words(snapshot.kind)}: {why}")
    try:
        made = to_diffusers(snapshot.state_dict, snapshot.config["net"])
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{given.file}: its arguments are incomplete ({error})") from None
    except ValueError as error:
        raise UsageError(f"--to diffusers: the UNet {error}") from None
    source = source_of(given)
    config: dict[str, Any] = {"_class_name": "UNet2DModel", **made.config, "imle_lab": source}
    tensors = {name: value.contiguous() for name, value in made.state.items()}
    try:
        with staging(path) as folder:
            folder.mkdir()
            write_json(folder / "config.json", config, indent=2)
            weights = save(tensors, {"format": "pt"})
            write_bytes(folder / "diffusion_pytorch_model.safetensors", weights)
            write_text(
                folder / "README.md", _readme(path.name, snapshot.config, source, made.notes)
            )
            if path.is_dir():  # convert.py was told --overwrite
                remove(path)
    except OSError as error:
        raise DiskError(f"cannot write {path}: {error}") from error
    return [
        *made.notes,
        f'without this toolkit: diffusers.UNet2DModel.from_pretrained("{path.name}")',
    ]


def about_diffusers(path: Path) -> str | None:
    """What a folder of ours for diffusers is, in a line; None for anything else."""
    try:
        config = json.loads(read_bytes(path / "config.json")) if path.is_dir() else None
    except (OSError, ValueError):
        return None
    if not isinstance(config, dict) or not isinstance(config.get("imle_lab"), dict):
        return None
    return f"a {config.get('_class_name')} for diffusers, of {config['imle_lab'].get('file')}"


def _readme(name: str, config: dict[str, Any], source: dict[str, Any], notes: list[str]) -> str:
    net = config["net"]
    size = net.get("image_size") or "S"
    label = ", class_labels=labels" if net.get("num_classes") else ""
    facts = {key: config[key] for key in ("schedule", "betas", "scale_factor") if key in config}
    lines = [
        f"# {name}",
        "",
        f"A UNet of diffusion models (ADM), of {source['file']} ({source['content']}).",
        "",
        "    from diffusers import UNet2DModel",
        f'    unet = UNet2DModel.from_pretrained("{name}").eval()',
        f"    out = unet(x, t{label}).sample",
        "",
        f"x float32 [N, {net['in_channels']}, {size}, {size}] (pictures in [-1, 1], or latents, "
        f"with noise), t in 0 .. T - 1, out [N, {net['out_channels']}, {size}, {size}].",
    ]
    if net["out_channels"] == 2 * net["in_channels"]:
        lines.append("The second half of its channels is the learned variance.")
    lines += [f"Noise schedule: {json.dumps(facts)}."] if facts else []
    lines += [f"Note: {note}." for note in notes]
    return "\n".join(lines) + "\n"
