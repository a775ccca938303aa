"""What the weights of an ADM UNet say of how it is built: guided-diffusion's names, and those of
latent diffusion, which are the same with spatial transformers in place of some attentions.

The names (`input_blocks.1.0.in_layers.0.weight`) stay as they are. Arguments are those of
guided-diffusion's UNet. Weights do not show the number of heads, the order of q, k and v, nor the
size of the pictures: these are None here, unless the file is one of the release (`RELEASED`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

Shapes = Mapping[str, Sequence[int]]

_BLOCK = re.compile(r"(input|output)_blocks\.(\d+)\.(\d+)\.(.+)")
_UNSEEN = ("image_size", "num_heads", "num_head_channels", "use_new_attention_order", "dropout")
# Files of guided-diffusion's release: what its README asks for beside what their weights show.
_ADM = {"num_head_channels": 64, "use_new_attention_order": False, "schedule": "linear"}
_LSUN = {**_ADM, "image_size": 256, "dropout": 0.1}
RELEASED: dict[str, dict[str, Any]] = {
    "64x64_diffusion": {
        "image_size": 64, "num_head_channels": 64, "use_new_attention_order": True, "dropout": 0.1,
        "schedule": "cosine",
    },
    "128x128_diffusion": {
        "image_size": 128, "num_heads": 4, "use_new_attention_order": False, "schedule": "linear",
    },
    "256x256_diffusion": {**_ADM, "image_size": 256},
    "256x256_diffusion_uncond": {**_ADM, "image_size": 256},
    "512x512_diffusion": {**_ADM, "image_size": 512},
    "64_256_upsampler": {
        "image_size": 256, "num_heads": 4, "use_new_attention_order": False, "schedule": "linear",
    },
    "128_512_upsampler": {**_ADM, "image_size": 512},
    "lsun_bedroom": _LSUN,
    "lsun_cat": _LSUN,
    "lsun_horse": _LSUN,
    "lsun_horse_nodropout": {**_LSUN, "dropout": 0.0},
}  # fmt: skip


def is_unet(names: Mapping[str, Any], prefix: str = "") -> bool:
    """Whether a state_dict has such a UNet below the prefix."""
    wanted = ("time_embed.0.weight", "input_blocks.0.0.weight", "middle_block.0.in_layers.0.weight")
    return all(f"{prefix}{name}" in names for name in wanted)


def prefix_of(names: Mapping[str, Any]) -> str | None:
    """What stands in front of the UNet's names in a state_dict; None if there is no UNet."""
    last = "input_blocks.0.0.weight"
    found = [name.removesuffix(last) for name in names if name.endswith(last)]
    return next((prefix for prefix in sorted(found, key=len) if is_unet(names, prefix)), None)


def unet_arguments(shapes: Shapes) -> dict[str, Any]:
    """Arguments of guided-diffusion's UNet that fit the shapes of its weights.

    attention_resolutions are factors of downsampling, as its constructor has them. With spatial
    transformers also use_spatial_transformer, transformer_depth, context_dim, use_linear.
    Errors: ValueError for weights that are no such UNet, or not all of it.
    """
    blocks = _blocks(shapes)
    if not blocks["output"]:
        raise ValueError(
            "a classifier of guided-diffusion, or half a UNet: it has no output_blocks"
        )
    mc = _size(shapes, "time_embed.0.weight")[1]
    per_level, levels, resamples = _levels(blocks)
    mult, attention, transformers = [], [], []
    for level in range(levels):
        block = blocks["input"].get(1 + level * (per_level + 1), {})
        parts = block.get(0, set())
        if "out_layers.3.weight" not in parts:
            raise ValueError(f"its level {level} begins with no residual block")
        at = f"input_blocks.{1 + level * (per_level + 1)}"
        mult.append(_ratio(_size(shapes, f"{at}.0.out_layers.3.weight")[0], mc))
        seen = block.get(1, set())
        if seen:
            attention.append(2**level)
        if any(name.startswith("transformer_blocks.") for name in seen):
            transformers.append(f"{at}.1")
    first = "input_blocks.1.0"
    width = _size(shapes, f"{first}.out_layers.3.weight")[0]
    found: dict[str, Any] = {
        "in_channels": _size(shapes, "input_blocks.0.0.weight")[1],
        "model_channels": mc,
        "out_channels": _size(shapes, "out.2.weight")[0],
        "num_res_blocks": per_level,
        "attention_resolutions": attention,
        "channel_mult": mult,
        "conv_resample": resamples != "pooling",
        "resblock_updown": resamples == "blocks",
        "use_scale_shift_norm": _size(shapes, f"{first}.emb_layers.1.weight")[0] == 2 * width,
        "num_classes": shapes["label_emb.weight"][0] if "label_emb.weight" in shapes else None,
        **dict.fromkeys(_UNSEEN),
    }
    if "middle_block.1.transformer_blocks.0.norm1.weight" in shapes:
        transformers.append("middle_block.1")
    return found | _transformers(shapes, transformers)


def _blocks(shapes: Shapes) -> dict[str, dict[int, dict[int, set[str]]]]:
    """{input or output: {block: {module: names of its weights}}}."""
    found: dict[str, dict[int, dict[int, set[str]]]] = {"input": {}, "output": {}}
    for name in shapes:
        if match := _BLOCK.fullmatch(name):
            side, block, module, rest = match.groups()
            if int(block) > len(shapes):
                raise ValueError(f"has a block {block} among {len(shapes)} weights")
            found[side].setdefault(int(block), {}).setdefault(int(module), set()).add(rest)
    return found


def _levels(blocks: dict[str, dict[int, dict[int, set[str]]]]) -> tuple[int, int, str]:
    """(residual blocks of a level, levels, how it resamples: convolution, blocks or pooling).

    The output has one residual block more a level; behind the last of a level, but of the finest,
    it enlarges: by a convolution, by a residual block, or by nothing that has weights.
    """
    count = max(blocks["output"]) + 1
    resamples, per_level = "convolution", None
    for index in sorted(blocks["output"]):
        later = [parts for module, parts in blocks["output"][index].items() if module]
        if any("conv.weight" in parts for parts in later):
            per_level = index
        elif any("in_layers.2.weight" in parts for parts in later):
            resamples, per_level = "blocks", index
        if per_level is not None:
            break
    if per_level is None:
        gaps = sorted(set(range(1, max(blocks["input"]) + 1)) - set(blocks["input"]))
        resamples = "pooling" if gaps else "convolution"
        per_level = gaps[0] - 1 if gaps else count - 1
    if per_level < 1 or count % (per_level + 1):
        raise ValueError(f"its {count} output blocks are no levels of {per_level} residual blocks")
    return per_level, count // (per_level + 1), resamples


def _transformers(shapes: Shapes, where: list[str]) -> dict[str, Any]:
    if not where:
        return {}
    depth = {
        int(match[1])
        for name in shapes
        if (match := re.match(rf"{re.escape(where[0])}\.transformer_blocks\.(\d+)\.", name))
    }
    context = None
    for at in where:
        keys = _size(shapes, f"{at}.transformer_blocks.0.attn2.to_k.weight")[1]
        if keys != _size(shapes, f"{at}.transformer_blocks.0.attn2.to_q.weight")[1]:
            context = keys
    return {
        "use_spatial_transformer": True,
        "transformer_depth": len(depth),
        "context_dim": context,
        "use_linear_in_transformer": len(_size(shapes, f"{where[0]}.proj_in.weight")) == 2,
    }


def _size(shapes: Shapes, name: str) -> Sequence[int]:
    if name not in shapes:
        raise ValueError(f"weights are incomplete: {name} is missing")
    return shapes[name]


def _ratio(channels: int, of: int) -> int | float:
    return channels // of if channels % of == 0 else channels / of
