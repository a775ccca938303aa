"""omnigan's and ClimateGAN's checkpoints (.pth): the generator in them.

A checkpoint is a dict of epoch, step, G, g_opt and, while it trains, C, c_opt, D, d_opt. An omnigan
generator's weights get our names (`models.omnigan.names`); what they show of how it is built is in
the config, and what they do not is as in the original's options of February 2020.
ClimateGAN is omnigan's successor, of other encoders and decoders, with a painter: another kind.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from generators.foreign.contents import (
    Asked,
    Contents,
    Entry,
    Found,
    below,
    shape,
    weights_in,
    whole,
)
from models.omnigan.names import our_names

_LEFT_OUT = ("D", "C", "d_opt", "c_opt", "g_opt")
_SPECTRAL = (".weight_bar", ".weight_orig")


def find(contents: Contents, asked: Asked) -> Found | None:
    """The generator in a file; None if there is none. Errors: ValueError for one that does not go
    together."""
    value = contents.value if isinstance(contents.value, dict) else {}
    whole_file = "G" in value
    state = weights_in(value["G"] if whole_file else value)
    if not any(name.startswith("decoders.") for name in state) and not (
        whole_file and any(name.startswith("painter.") for name in state)
    ):
        return None
    climategan = _is_climategan(state)
    kind = "climategan" if climategan else "omnigan"
    net = climategan_arguments(state) if climategan else omnigan_arguments(state)
    left = [name for name in _LEFT_OUT if name in value]
    notes: tuple[str, ...] = (f"left out: {', '.join(left)}",) if left else ()
    asked_encoder = asked.config.get("encoder")
    if not climategan and net["encoder"]["norm"] == "none" and not asked_encoder:
        notes += (
            "whether its encoder has instance normalisation is not in the weights, none is taken: "
            '--config {"encoder": {"norm": "instance"}} says that it has',
        )
    provenance = {
        "imported": f"a checkpoint of {'ClimateGAN' if climategan else 'omnigan'}",
        "file": contents.path.name,
        "epoch": whole(value.get("epoch")),
    }
    if not climategan:
        state = our_names(state)
    config = {
        "net": _said(net, asked.config), "step": whole(value.get("step")),
        **({"resolution": list(asked.res[:1]) * 2} if asked.res else {}),
    }  # fmt: skip
    return Found(kind, kind, state, config, provenance, notes)


def _said(net: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """What the weights show, with what is asked in its place; of parts, argument by argument."""
    out = dict(net)
    for name, value in asked.items():
        parts = isinstance(value, Mapping) and isinstance(out.get(name), Mapping)
        out[name] = {**out[name], **value} if parts else value
    return out


def _is_climategan(state: Mapping[str, Entry]) -> bool:
    known = ("encoder.model.", "encoder.conv2d_", "encoder.resblock.", "decoders.")
    return any(not name.startswith(known) for name in state) or "m" in _tasks(state)


def _tasks(names: Iterable[str]) -> list[str]:
    return sorted({name.split(".")[1] for name in names if name.startswith("decoders.")})


def omnigan_arguments(state: Mapping[str, Entry]) -> dict[str, Any]:
    """The arguments of `models.omnigan.OmniGenerator` that weights under the original's names show.

    Activations and padding are not in them: they are the original's defaults, by which decoders of
    tasks end in tanh and condition the translation as they are. Errors: ValueError for weights that
    are incomplete.
    """
    tasks = _tasks(state)
    found: dict[str, Any] = {
        "tasks": "".join(tasks), "encoder": _encoder(below(state, "encoder.")),
        "condition_on": "raw",
    }  # fmt: skip
    for task in tasks:
        decoder = below(state, f"decoders.{task}.")
        heads = sorted({name.split(".")[0] for name in decoder})
        inner = below(decoder, f"{heads[0]}.")
        if task == "t":
            found["t"] = _translation(decoder, heads)
        elif "model" in heads:
            found[task] = _decoder(decoder)
        else:  # adaptation: one for real, one for simulated
            found[task] = _decoder(inner)
    return found


def climategan_arguments(state: Mapping[str, Entry]) -> dict[str, Any]:
    """{tasks, painter} of ClimateGAN's generator: which parts it has."""
    parts = sorted({name.split(".")[0] for name in state})
    return {"tasks": _tasks(state) + ["p"] * ("painter" in parts), "parts": parts}


def _encoder(encoder: Mapping[str, Entry]) -> dict[str, Any]:
    convolutions = _convolutions(encoder)
    if not convolutions:
        raise ValueError("weights are incomplete: the encoder has no convolution")
    dim, input_dim = convolutions[0][1][:2]
    last = convolutions[-1][1][0]
    residual = {
        name.split(".model.")[1].split(".")[0] for name in encoder
        if re.match(r"(model\.\d+|resblock)\.model\.\d+\.model\.", name)
    }  # fmt: skip
    n_downsample, width = 0, dim
    while width < last:
        width, n_downsample = 2 * width, n_downsample + 1
    first = convolutions[0][0]
    batch = "batch" if any(name.endswith("norm.running_mean") for name in encoder) else None
    return {
        "input_dim": input_dim, "dim": dim, "n_downsample": n_downsample, "n_res": len(residual),
        "norm": "spectral" if first.endswith(_SPECTRAL) else batch or "none",
        "architecture": "munit" if "model.0" in first or "conv2d_init" in first else "deeplabv2",
    }  # fmt: skip


def _decoder(decoder: Mapping[str, Entry]) -> dict[str, Any]:
    """A decoder of residual blocks, enlargements and a last convolution."""
    convolutions = _convolutions(decoder)
    if not convolutions:
        raise ValueError("weights are incomplete: a decoder has no convolution")
    residual = {
        name.split(".")[3] for name in decoder if re.match(r"model\.0\.model\.\d+\.model\.", name)
    }
    plain = [size for name, size in convolutions if re.match(r"model\.\d+\.(conv)\.", name)]
    return {
        "n_res": len(residual), "n_upsample": max(0, len(plain) - 1),
        "output_dim": convolutions[-1][1][0], "activation": "tanh",
    }  # fmt: skip


def _translation(decoder: Mapping[str, Entry], heads: list[str]) -> dict[str, Any]:
    """The translation decoder: one of SPADE blocks, or two (f, n), or two without SPADE."""
    shared = heads[0].startswith("_model")
    inner = below(decoder, f"{heads[0]}.")
    if "conv_img.weight" not in inner:
        plain = _decoder(inner)
        return {"form": "plain", "n_res": plain["n_res"], "n_upsample": plain["n_upsample"]}
    spades = {m[1] for name in inner if (m := re.match(r"up_spades\.(\d+)\.", name))}
    return {
        "form": "spade",
        "shared": shared,
        "bits": "flood" if shared else "none",
        "kernel_size": shape(inner, "head_0.norm_0.mlp_shared.0.weight")[2],
        "spectral_norm": any(name.endswith(".weight_orig") for name in inner),
        "param_free_norm": "batch"
        if any("param_free_norm" in name for name in inner)
        else "instance",
        "n_upsample": len(spades) + 2,
    }


def _convolutions(part: Mapping[str, Entry]) -> list[tuple[str, tuple[int, ...]]]:
    """(name, shape) of the kernels of a part, in the order of the file."""
    kernels = ("weight", "weight_bar", "weight_orig")
    return [
        (name, tuple(entry.shape)) for name, entry in part.items()
        if len(entry.shape) == 4 and name.rsplit(".", 1)[-1] in kernels
    ]  # fmt: skip
