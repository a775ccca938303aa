"""An ADM UNet (Dhariwal and Nichol, arXiv:2105.05233) under the names of diffusers' UNet2DModel.

| guided-diffusion | diffusers |
|---|---|
| time_embed.{0,2} | time_embedding.linear_{1,2} |
| label_emb | class_embedding |
| input_blocks.0.0 | conv_in |
| input_blocks.{1 + level (n + 1) + i}.{0,1} | down_blocks.{level}.{resnets,attentions}.{i} |
| input_blocks.{(level + 1) (n + 1)}.0.op, or a residual block | down_blocks.{level}.downsamplers.0 |
| middle_block.{0,1,2} | mid_block.{resnets.0, attentions.0, resnets.1} |
| output_blocks.{k (n + 1) + j}.{0,1} | up_blocks.{k}.{resnets,attentions}.{j}, k from the coarsest |
| the last module of output_blocks.{k (n + 1) + n} | up_blocks.{k}.upsamplers.0 |
| out.{0,2} | conv_norm_out, conv_out |
| in_layers.{0,2}, emb_layers.1, out_layers.{0,3}, skip_connection | norm1, conv1, time_emb_proj, norm2, conv2, conv_shortcut |
| norm, qkv, proj_out of an attention | group_norm, to_q + to_k + to_v, to_out.0 |

n: residual blocks of a level. q, k and v lie in one convolution there, head by head or (new order)
one after the other.
"""  # noqa: E501  (a table)

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

_RES = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_SINGLE = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb": "class_embedding",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}


class Mapped(NamedTuple):
    """config: of UNet2DModel. state: its state_dict, copies. notes: what was taken for granted."""

    config: dict[str, Any]
    state: dict[str, Tensor]
    notes: list[str]


def to_diffusers(state: Mapping[str, Tensor], net: Mapping[str, Any]) -> Mapped:
    """A UNet of guided-diffusion as diffusers has it.

    net: arguments of its UNet, as `diffusion.unet_names.unet_arguments`; attention_resolutions are
    factors of downsampling. Errors: ValueError for what UNet2DModel has not, in words, and for
    weights that do not belong to the arguments.
    """
    notes: list[str] = []
    heads = _heads(net)
    config = _config(net, heads)
    new_order = net.get("use_new_attention_order")
    if new_order is None and heads != 1:
        notes.append(
            "the order of q, k and v is not in the file: taken for the older one, head by head; "
            '--config FILE.json with {"use_new_attention_order": true} says otherwise'
        )
    rest, out = dict(state), {}
    for old, new in _SINGLE.items():
        for end in (".weight", ".bias"):
            if f"{old}{end}" in rest:
                out[f"{new}{end}"] = rest.pop(f"{old}{end}").clone()
    for old, new in _places(net):
        _move(rest, out, old, new, heads, bool(new_order))
    if rest:
        raise ValueError(f"has weights without a place in UNet2DModel: {sorted(rest)[0]}")
    return Mapped(config, out, notes)


def _config(net: Mapping[str, Any], heads: int | Mapping[str, int]) -> dict[str, Any]:
    """The arguments of UNet2DModel. Errors: ValueError."""
    mult, ds = list(net["channel_mult"]), list(net["attention_resolutions"])
    if net.get("use_spatial_transformer"):
        raise ValueError(
            "has spatial transformers (latent diffusion): UNet2DModel has attention alone"
        )
    if mult[0] != 1:
        raise ValueError(
            f"channel_mult {mult}: UNet2DModel has a time embedding as wide as its first level"
        )
    if not net.get("conv_resample", True) and not net.get("resblock_updown"):
        raise ValueError("halves its pictures by pooling, which UNet2DModel has not")
    blocks = bool(net.get("resblock_updown"))
    plain = ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D") if blocks else (
        "DownBlock2D", "UpBlock2D",
    )  # fmt: skip
    attended = [2**level in ds for level in range(len(mult))]
    channels = [int(m * net["model_channels"]) for m in mult]
    if any(c % 32 for c in channels):
        raise ValueError(f"has levels of {channels} channels, which are no multiples of 32")
    return {
        "sample_size": net.get("image_size"),
        "in_channels": net["in_channels"],
        "out_channels": net["out_channels"],
        "block_out_channels": channels,
        "layers_per_block": net["num_res_blocks"],
        "down_block_types": ["AttnDownBlock2D" if a else plain[0] for a in attended],
        "up_block_types": ["AttnUpBlock2D" if a else plain[1] for a in reversed(attended)],
        "downsample_type": "resnet" if blocks else "conv",
        "upsample_type": "resnet" if blocks else "conv",
        "attention_head_dim": None if isinstance(heads, int) else heads["channels"],
        "resnet_time_scale_shift": "scale_shift" if net.get("use_scale_shift_norm") else "default",
        "num_class_embeds": net.get("num_classes"),
        "dropout": float(net.get("dropout") or 0.0),
        "time_embedding_type": "positional",
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "act_fn": "silu",
        "norm_num_groups": 32,
        "attn_norm_num_groups": 32,  # with scale_shift the middle attention has no norm else
        "norm_eps": 1e-5,
    }


def _heads(net: Mapping[str, Any]) -> int | dict[str, int]:
    """1, or {"channels": of a head}, which UNet2DModel has one of. Errors: ValueError."""
    per_head, count = net.get("num_head_channels"), net.get("num_heads")
    if per_head not in (None, -1):
        return {"channels": int(per_head)}
    if count is None:
        raise ValueError(
            "does not say how many heads its attentions have: --config FILE.json with "
            '{"num_heads": N} or {"num_head_channels": N}'
        )
    if count == 1:
        return 1
    mult, ds = list(net["channel_mult"]), list(net["attention_resolutions"])
    wide = {m for level, m in enumerate(mult) if 2**level in ds} | {mult[-1]}
    sizes = sorted({int(m * net["model_channels"]) // count for m in wide})
    if len(sizes) > 1:
        raise ValueError(
            f"has {count} heads of {' and '.join(map(str, sizes))} channels: UNet2DModel has heads "
            "of one size"
        )
    return {"channels": sizes[0]}


def _places(net: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(theirs, ours) of all blocks that come in levels, a residual block or an attention each."""
    n, levels = net["num_res_blocks"], len(net["channel_mult"])
    ds = net["attention_resolutions"]
    found = [
        ("middle_block.0", "mid_block.resnets.0"),
        ("middle_block.1", "mid_block.attentions.0"),
        ("middle_block.2", "mid_block.resnets.1"),
    ]
    for level in range(levels):
        attended = 2**level in ds
        for side, block, first, count in (
            ("input", f"down_blocks.{level}", 1 + level * (n + 1), n),
            ("output", f"up_blocks.{levels - 1 - level}", (levels - 1 - level) * (n + 1), n + 1),
        ):
            for i in range(count):
                at = f"{side}_blocks.{first + i}"
                found.append((f"{at}.0", f"{block}.resnets.{i}"))
                if attended:
                    found.append((f"{at}.1", f"{block}.attentions.{i}"))
        if level < levels - 1:
            found.append(
                (f"input_blocks.{(level + 1) * (n + 1)}.0", f"down_blocks.{level}.downsamplers.0")
            )
        if level > 0:
            at = f"output_blocks.{(levels - level) * (n + 1) - 1}.{1 + attended}"
            found.append((at, f"up_blocks.{levels - 1 - level}.upsamplers.0"))
    return found


def _move(
    rest: dict[str, Tensor], out: dict[str, Tensor], old: str, new: str,
    heads: int | Mapping[str, int], new_order: bool,
) -> None:  # fmt: skip
    """Take the weights of one block out of `rest`. Errors: ValueError if there are none."""
    inside = [name for name in rest if name.startswith(f"{old}.")]
    if not inside:
        raise ValueError(f"weights are incomplete: {old} is missing")
    for name in inside:
        part, _, end = name.removeprefix(f"{old}.").rpartition(".")
        value = rest.pop(name)
        if part in _RES:
            out[f"{new}.{_RES[part]}.{end}"] = value.clone()
        elif part in ("op", "conv"):
            out[f"{new}.conv.{end}"] = value.clone()
        elif part == "norm":
            out[f"{new}.group_norm.{end}"] = value.clone()
        elif part == "proj_out":
            out[f"{new}.to_out.0.{end}"] = value.reshape(value.shape[:2]).clone()
        elif part == "qkv":
            for letter, piece in zip("qkv", _split(value, heads, new_order), strict=True):
                out[f"{new}.to_{letter}.{end}"] = piece
        else:
            raise ValueError(f"has weights without a place in UNet2DModel: {name}")


def _split(
    qkv: Tensor, heads: int | Mapping[str, int], new_order: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v [C, C] or [C] of a convolution's weight [3 C, C, 1] or bias [3 C]."""
    channels = len(qkv) // 3
    per_head = channels if isinstance(heads, int) else heads["channels"]
    if per_head < 1 or channels % per_head:
        raise ValueError(f"{channels} channels do not divide into heads of {per_head}")
    flat = qkv.reshape(len(qkv), -1)
    if new_order:
        parts = flat.view(3, channels, -1)
    else:
        parts = flat.view(channels // per_head, 3, per_head, -1).transpose(0, 1)
    shape = (channels, channels) if qkv.ndim > 1 else (channels,)
    q, k, v = (torch.clone(part.reshape(shape)) for part in parts)
    return q, k, v
