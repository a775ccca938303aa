"""UNets of guided-diffusion (.pt) and of latent diffusion (.ckpt, the UNet alone).

`diffusion.unet_names` says what their weights show. Of latent diffusion the averages of the weights
are taken, where it has them: there a weight's name has lost its dots. The autoencoder and the text
encoder are left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from diffusion.unet_names import RELEASED, prefix_of, unet_arguments
from generators.foreign.contents import (
    Asked,
    Contents,
    Entry,
    Found,
    below,
    made,
    weights_in,
    whole,
)

_LDM = "model.diffusion_model."
_AVERAGES = "model_ema."
_SAVED = re.compile(r"(model|ema_(0\.\d+)_)(\d{5,})")  # what guided-diffusion calls its checkpoints


def find(contents: Contents, asked: Asked) -> Found | None:
    """The UNet in a file; None if there is none. Errors: ValueError for one that is not whole."""
    state = weights_in(contents.value)
    prefix = prefix_of(state)
    if prefix is None:
        return None
    entries = below(state, prefix)
    latent = prefix == _LDM or f"{_AVERAGES}decay" in state
    notes = []
    facts: dict[str, Any] = {}
    if latent:
        entries, decay = _averages(state, prefix, entries, asked)
        facts = {"ema_rate": decay, **_schedule(state)}
        others = sorted({n.split(".")[0] for n in state} - {prefix.split(".")[0], "model_ema"})
        modules = [n for n in others if n.endswith("_model") or n.endswith("_stage_model")]
        if modules:
            notes.append(f"left out: {', '.join(modules)}")
    net = unet_arguments({name: tuple(entry.shape) for name, entry in entries.items()})
    released = {} if latent else RELEASED.get(contents.path.stem, {})
    facts |= {"schedule": released["schedule"]} if "schedule" in released else {}
    net = _agreed(net, {k: v for k, v in released.items() if k in net})
    net = _agreed(net, {k: v for k, v in asked.config.items() if k in net})
    if asked.res:
        net["image_size"] = asked.res[-1]
    if net["num_heads"] is None and net["num_head_channels"] is None:
        notes.append(
            "the number of heads of its attentions is not in the file; --config FILE.json can say "
            '{"num_heads": N} or {"num_head_channels": N}'
        )
    value = contents.value if isinstance(contents.value, dict) else {}
    step = whole(value.get("global_step"))
    if not latent and (named := _SAVED.fullmatch(contents.path.stem)):
        step = int(named[3])
        facts["ema_rate"] = float(named[2]) if named[2] else None
    form = "ldm" if latent else "guided-diffusion"
    provenance = {
        "imported": "a UNet of latent diffusion" if latent else "a UNet of guided-diffusion",
        "file": contents.path.name,
        "epoch": whole(value.get("epoch")),
    }
    config = {"net": net, "step": step, **facts}
    return Found(form, "ddpm", entries, config, provenance, tuple(notes))


def _agreed(net: dict[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with what is said beside them. Errors: ValueError where the weights show
    another."""
    for name, value in said.items():
        if net[name] is not None and value is not None and net[name] != value:
            raise ValueError(f"{name} {value} is said, the weights have {net[name]}")
    return net | {name: value for name, value in said.items() if value is not None}


def _averages(
    state: Mapping[str, Entry], prefix: str, entries: dict[str, Entry], asked: Asked
) -> tuple[dict[str, Entry], float | None]:
    """The averages of the UNet's weights under its names, and their decay, where there are any."""
    if not asked.ema or f"{_AVERAGES}decay" not in state:
        return entries, None
    short = prefix.removeprefix("model.")  # the average is of what `model` holds
    out = {}
    kept_as = {name: _AVERAGES + f"{short}{name}".replace(".", "") for name in entries}
    if not any(kept in state for kept in kept_as.values()):
        raise ValueError("has averages, but none of the UNet's weights; --weights last takes those")
    for name, entry in entries.items():
        kept = kept_as[name]
        average = state.get(kept, entry)  # buffers have none
        if tuple(average.shape) != tuple(entry.shape):
            raise ValueError(f"the average {kept} has another shape than {prefix}{name}")
        out[name] = average
    return out, round(float(made(state[f"{_AVERAGES}decay"])), 6)  # it is a float32


def _schedule(state: Mapping[str, Entry]) -> dict[str, Any]:
    """What latent diffusion keeps of its noise: steps, first and last beta, the latents' scale."""
    found: dict[str, Any] = {}
    if "betas" in state and len(state["betas"].shape) == 1 and state["betas"].numel():
        betas: Tensor = made(state["betas"])
        found["betas"] = {
            "steps": len(betas), "first": float(betas[0]), "last": float(betas[-1]),
        }  # fmt: skip
    if "scale_factor" in state and state["scale_factor"].numel() == 1:
        found["scale_factor"] = float(made(state["scale_factor"]))
    return found
