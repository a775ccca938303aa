"""Networks by name, and the arguments of the releases in ours.

`CONFIGS` are those of guided-diffusion, improved-diffusion and LayoutDiffuse; what each counts is
checked by a test.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LEVELS = {
    64: (1, 2, 3, 4),
    128: (1, 1, 2, 3, 4),
    256: (1, 1, 2, 2, 4, 4),
    512: (0.5, 1, 1, 2, 2, 4, 4),
}


def _guided(size: int, channels: int, *, attention: tuple[int, ...] = (32, 16, 8), **more: Any):
    """The ADM of a size of ImageNet; `attention` in sizes of the feature maps."""
    return {
        "in_channels": 3,
        "out_channels": 6,
        "image_size": size,
        "model_channels": channels,
        "channel_mult": LEVELS[size],
        "num_res_blocks": 2,
        "attention_resolutions": tuple(size // a for a in attention),
        "num_classes": 1000,
        "num_head_channels": 64,
        "use_scale_shift_norm": True,
        "resblock_updown": True,
        **more,
    }


def _latent(
    size: int, *, text: int | None, layout: tuple[int, ...], classes: int, **more: Any
) -> dict[str, Any]:
    """A U-Net of latent diffusion with layout attention; `more` of the transformers."""
    return {
        "in_channels": 4,
        "out_channels": 4,
        "image_size": size,
        "model_channels": 320,
        "channel_mult": (1, 2, 4, 4),
        "num_res_blocks": 2,
        "attention_resolutions": (1, 2, 4),
        "num_heads": 8,
        "attn_block_type": "SpatialTransformer",
        "attn_block_args": {"text_dim": text, **more},
        "layout_attn_type": "layout_partial_v2",
        "layout_attn_resolutions": layout,
        "layout_classes": classes,
    }


_IMPROVED = {"in_channels": 3, "num_res_blocks": 3, "model_channels": 128}
_TASK_PROMPTS = {"num_prompts": 64, "prompt_dim": 128, "image_in_kv": True}

CONFIGS: dict[str, dict[str, Any]] = {
    "adm-64": _guided(64, 192, num_res_blocks=3, attn_block_args={"new_order": True}),
    "adm-128": _guided(128, 256, num_heads=4, num_head_channels=None),
    "adm-256": _guided(256, 256),
    "adm-256-uncond": _guided(256, 256, num_classes=None),
    "adm-512": _guided(512, 256),
    "improved-64": {
        **_IMPROVED,
        "out_channels": 6,
        "image_size": 64,
        "channel_mult": LEVELS[64],
        "attention_resolutions": (4, 8),
        "num_heads": 4,
        "use_scale_shift_norm": True,
    },
    "improved-cifar10": {
        **_IMPROVED,
        "out_channels": 6,
        "image_size": 32,
        "channel_mult": (1, 2, 2, 2),
        "attention_resolutions": (2, 4),
        "num_heads": 4,
        "use_scale_shift_norm": True,
    },
    "ddpm-cifar10": {
        "in_channels": 3,
        "out_channels": 3,
        "image_size": 32,
        "model_channels": 128,
        "channel_mult": (1, 2, 2, 2),
        "num_res_blocks": 2,
        "attention_resolutions": (2,),
    },
    "layoutdiffuse-celeb": {
        "in_channels": 3,
        "out_channels": 3,
        "image_size": 64,
        "model_channels": 224,
        "channel_mult": (1, 2, 3, 4),
        "num_res_blocks": 2,
        "attention_resolutions": (2, 4, 8),
        "num_head_channels": 32,
        "layout_attn_type": "segmentation",
        "layout_attn_resolutions": (2, 4),
        "layout_classes": 19,
    },
    # The release has 181 classes, of which the last shares the background's embedding: 182 here.
    "layoutdiffuse-coco": _latent(32, text=1280, layout=(1, 2), classes=182, **_TASK_PROMPTS),
    "layoutdiffuse-sd15": _latent(64, text=768, layout=(2, 4), classes=182),
    "layoutdiffuse-sd21": {
        **_latent(64, text=1024, layout=(2, 4), classes=182, use_linear=True),
        "num_head_channels": 64,
    },
}

# Arguments of guided-diffusion's and LayoutDiffuse's networks that have the same name here, ...
_SAME = (
    "in_channels", "out_channels", "model_channels", "num_res_blocks", "dropout", "num_classes",
    "num_heads", "use_scale_shift_norm", "resblock_updown", "conv_resample", "image_size",
    "use_checkpoint", "attn_block_type", "res_block_type", "concat_channels",
)  # fmt: skip
# ... another name, ...
_RENAMED = {
    "in_channel": "in_channels",
    "out_channel": "out_channels",
    "instance_prompt_attn_type": "layout_attn_type",
}
# ... or that are of the transformer.
TRANSFORMER = {
    "transformer_depth": "depth",
    "context_dim": "text_dim",
    "text_context_dim": "text_dim",
    "num_prompt": "num_prompts",
    "prompt_dim": "prompt_dim",
    "image_in_kv": "image_in_kv",
    "use_linear_in_transformer": "use_linear",
}
# Arguments of theirs that change nothing here: (name, values without effect).
WITHOUT_EFFECT = {"dims": (2,), "use_fp16": (False, True), "legacy": (False, True)}


def unet_config(released: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a U-Net of guided-diffusion, latent diffusion or LayoutDiffuse as `UNet`'s.

    Both spellings in_channels and in_channel are taken, -1 is None, lists are tuples. use_fp16 is
    --precision here. Errors: ValueError for a name that is not known, or a value that is not
    supported.
    """
    config: dict[str, Any] = {}
    attention: dict[str, Any] = {}
    spatial = bool(released.get("use_spatial_transformer"))
    spatial = spatial or released.get("attn_block_type") == "SpatialTransformer"
    for name, value in released.items():
        if isinstance(value, list):
            value = tuple(value)
        if name in _SAME:
            config[name] = value
        elif name in _RENAMED:
            config[_RENAMED[name]] = value
        elif name in ("num_head_channels", "num_heads_upsample"):
            config[name] = None if value == -1 else value
        elif name in ("channel_mult", "attention_resolutions"):
            config[name] = tuple(value)
        elif name == "instance_attn_res":
            config["layout_attn_resolutions"] = tuple(value)
        elif name == "instance_prompt_args":
            config |= _prompt_args(value)
        elif name == "use_new_attention_order":
            if value:
                attention["new_order"] = True
        elif name == "use_spatial_transformer":
            if value:
                config["attn_block_type"] = "SpatialTransformer"
        elif name in TRANSFORMER:
            if spatial:  # without transformers the released networks have no prompts either
                attention[TRANSFORMER[name]] = value
        elif value not in WITHOUT_EFFECT.get(name, ()):
            known = [*_SAME, *_RENAMED, *TRANSFORMER, "channel_mult", "attention_resolutions"]
            raise ValueError(
                f"the denoising network's {name} {value!r} is not known here; known are "
                f"{', '.join(sorted(known))}"
            )
    if attention:
        config["attn_block_args"] = attention
    return config


def _prompt_args(value: Mapping[str, Any]) -> dict[str, Any]:
    names = {"num_classes": "layout_classes", "embedding_dim": "layout_dim"}
    if unknown := sorted(set(value) - set(names)):
        raise ValueError(f"instance_prompt_args has an unknown {unknown[0]}")
    return {names[name]: number for name, number in value.items()}
