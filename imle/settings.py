"""Which constructor arguments of a CAM-Net go together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

CHOICES = {
    "act_type": ("leakyrelu",),
    "color_space": ("rgb", "lab"),
    "lab_range": ("correct", "reference"),
    "feedback": ("reranged", "raw", "none"),
    "rgb_from": ("auto", "up", "trunk", "trunk_but_last"),
    "head": ("rgb", "ab"),
    "init": ("default", "reference"),
    "init_type": ("kaiming", "normal"),
    "mapping_init": ("default", "reference"),
    "mapping": ("independent", "hierarchical"),
    "base": ("none", "input", "learned"),
    "consistency": ("none", "project"),
    "padding": ("zeros", "reflect", "replicate"),
    "norm": ("instance", "none"),
}


def check_settings(config: Mapping[str, Any]) -> None:
    """ValueError with the offending value for arguments of `imle.generator.CAMNet`, all of them,
    that do not fit together."""
    res, levels = config["res"], len(config["res"]) - 1
    _check_res(res)
    for name, choices in CHOICES.items():
        check_choice(name, config[name], choices)
    _check_numbers(config, levels)
    in_nc, out_nc, head, feedback = (config[n] for n in ("in_nc", "out_nc", "head", "feedback"))
    if levels > 1 and feedback != "none" and in_nc != out_nc:
        raise ValueError(
            f"in_nc {in_nc} and out_nc {out_nc} must be equal: "
            "level i takes the image of level i-1 as its input"
        )
    if head == "ab" and (in_nc, out_nc, feedback) != (1, 2, "none"):
        raise ValueError("head ab needs in_nc 1, out_nc 2 and feedback none (one L image a level)")
    for name, value in (
        ("color_space", "lab"), ("base", "input"), ("base", "learned"), ("consistency", "project"),
    ):  # fmt: skip
        rgb_to_rgb = (in_nc, out_nc, head, feedback) == (3, 3, "rgb", "reranged")
        if config[name] == value and not rgb_to_rgb:
            raise ValueError(f"{name} {value} needs in_nc 3, out_nc 3, head rgb, feedback reranged")
    if config["base"] != "none" and (config["color_space"], config["lab_range"]) == (
        "lab",
        "reference",
    ):
        raise ValueError(
            f"base {config['base']} needs lab_range correct: reference has a and b of two scales"
        )
    if config["base"] == "learned":
        check_context(res[0], config["base_context"], config["padding"])
    if config["padding"] == "reflect" and res[0] < 2:
        raise ValueError(f"padding reflect needs images of 2 pixels or more, got res {res}")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """ValueError unless it is one of them."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def _check_numbers(config: Mapping[str, Any], levels: int) -> None:
    for name in ("in_nc", "out_nc", "map_nc", "latent_nc", "n_blocks", "base_nc", "base_blocks"):
        if config[name] < 1:
            raise ValueError(f"{name} must be at least 1, got {config[name]}")
    if config["code_nc"] < 0:
        raise ValueError(f"code_nc must be at least 0, got {config['code_nc']}")
    for name in ("init_scale", "code_gain"):
        value = config[name]
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be positive and finite, got {value}")
    for name in ("resid_nc", "dense_nc"):
        widths = config[name]
        if len(widths) < levels or min(widths, default=1) < 1:
            raise ValueError(
                f"{name} needs {levels} positive widths for res {config['res']}, got {widths}"
            )
    if len(config["feat_scales"]) < levels:
        raise ValueError(f"feat_scales needs {levels} values, got {config['feat_scales']}")


def check_context(side: int, context: int, padding: str) -> None:
    """ValueError unless inputs of `side` pixels can be halved `context` times."""
    smallest = 2 if padding == "reflect" else 1
    if context < 0:
        raise ValueError(f"base_context must be at least 0, got {context}")
    if context and (context > 16 or side % 2**context or side >> context < smallest):
        raise ValueError(
            f"base_context {context} halves inputs of {side} pixels {context} times, which has to "
            f"come out even, with {smallest} or more left"
        )


def _check_res(res: Sequence[int]) -> None:
    if len(res) < 2:
        raise ValueError(f"res needs at least two resolutions, got {list(res)}")
    if res[0] < 1:
        raise ValueError(f"res must be positive, got {list(res)}")
    for low, high in zip(res[:-1], res[1:], strict=True):
        if high not in (low, 2 * low):
            raise ValueError(
                f"res {list(res)}: {high} after {low} must be {low} (equal) or {2 * low} (double)"
            )
