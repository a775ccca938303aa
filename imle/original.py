"""Weights of the original code bases -> a CAMNet that computes what they computed.

Keys of the CIMLE refactoring (`levels.0.feat_net.0.bias`) are ours. The CAM-Net code release
(`level_1_feat.0.bias`) has the same modules under other names and four tasks, which differ in what
a level is fed and in where its image is taken:

| task             | input of level i > 0     | image taken             | returned                |
|------------------|--------------------------|-------------------------|-------------------------|
| super resolution | raw tanh image of i - 1  | after `up`              | RGB                     |
| image synthesis  | conditioning image i     | after `up`              | RGB                     |
| decompression    | conditioning image i     | before `up`             | RGB (last `up` unused)  |
| colorization     | lightness i              | before `up`, last after | L, a, b normalised      |

CHIMLE's (`level_1_map_0.0.bias`) is CAM-Net's with hierarchical mapping (`imle.mapping`): its
Super_Resolution and Colourization are as above, its Generic as decompression.

Features enter a level scaled by 0.1, in the published image synthesis by 1; a cfg that names
feat_scales decides (null is the constructor's default, 0.1).
Image synthesis is the one task whose order is not documented; where the file's own sizes show that
the image is taken before `up`, pass `rgb_from="trunk"`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import Tensor

from imle.generator import CAMNet, Level, RgbFrom

TASKS = ("super_resolution", "decompression", "colorization", "image_synthesis", "generic")
_SPELT = {"colourization": "colorization"}  # as CHIMLE has it
_PARTS = {"map": "mapping_net.model", "feat": "feat_net", "style": "style_block", "out": "out_conv"}
_ORIGINAL = re.compile(r"level_(\d+)_(map_0|map|feat|style|up|out)\.(.+)")
_CONDITIONED = re.compile(r"level_\d+_map_0\..+")  # only CHIMLE has them
# First resolution of the published models, where the caller does not say
_FIRST_RES = {"colorization": 32, "image_synthesis": 8, "generic": 32}


def load_reference(
    state_dict: Mapping[str, Tensor],
    cfg: Mapping[str, Any] | None = None,
    *,
    res: Sequence[int] | None = None,
    rgb_from: RgbFrom | None = None,
) -> CAMNet:
    """A CAMNet with an original's weights; its outputs equal the original's.

    Args:
        state_dict: of the CIMLE refactoring, of the CAM-Net code release or of CHIMLE's; a
            `module.` prefix is accepted.
        cfg: what the original was constructed with (its own names; the refactoring's config.json
            may be given whole). Widths and depths are read from the weights and must agree with cfg
            where it names them; only task, res, color_space and feat_scales cannot be read from
            weights.
        res: r_0, .., r_L, if cfg has none. It fixes `code_sizes`; the model runs at other sizes
        too. rgb_from: overrides where a level's image is taken (see the table above).

    Raises ValueError if the keys are not those of a CAM-Net, or if cfg contradicts them.
    """
    cfg = dict(cfg or {})
    state = {re.sub(r"^(module\.)+", "", key): value for key, value in state_dict.items()}
    if any(key.startswith("level_") for key in state):
        model = _original(state, cfg, res, rgb_from)
        conditioned = _is_conditioned(state)
        state = {_translate(key, model, conditioned): value for key, value in state.items()}
    elif any(key.startswith("levels.") for key in state):
        model = _refactoring(state, cfg, res, rgb_from)
    else:
        first = next(iter(state), "no keys at all")
        raise ValueError(
            f"these are not CAM-Net weights: expected levels.* or level_*, got {first}"
        )
    missing, unexpected = model.load_state_dict(state, strict=False)
    if missing or unexpected:
        raise ValueError(
            f"weights do not fit: {len(missing)} missing ({', '.join(missing[:3])}), "
            f"{len(unexpected)} unexpected ({', '.join(unexpected[:3])})"
        )
    return model


def reference_names(state_dict: Mapping[str, Tensor], net: CAMNet) -> dict[str, Tensor]:
    """An original's weights under our names, as far as `net` has a place for them.

    Those of a CAM-Net for a network with hierarchical mapping: see also `to_hierarchical`.
    For a network that takes some of the weights, whatever the task they are of; `load_reference`
    builds the one that computes what the original did.
    """
    conditioned = _is_conditioned(state_dict)
    return {_our_name(key, net, conditioned): value for key, value in state_dict.items()}


def _is_conditioned(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether these are CHIMLE's: the mapping networks have another numbering."""
    return any(_CONDITIONED.fullmatch(key) for key in state_dict)


def _our_name(key: str, net: CAMNet, conditioned: bool) -> str:
    match = _ORIGINAL.fullmatch(key)
    if match is None or not 1 <= int(match[1]) <= len(net.stages):
        return key
    try:
        return _translate(key, net, conditioned)
    except (KeyError, ValueError):  # a module that ours has not
        return key


def _refactoring(
    state: dict[str, Tensor],
    cfg: dict[str, Any],
    res: Sequence[int] | None,
    rgb_from: RgbFrom | None,
) -> CAMNet:
    levels = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("levels."))
    shape = _read_shapes(state, levels, "levels.{i}.{part}", 0, _PARTS, cfg, feeds_back=True)
    doubles = [f"levels.{i}.upsample_block.model.0.1.weight_v" in state for i in range(levels)]
    res = list(res or cfg.get("res") or _resolutions(16, doubles))
    shown = [high == 2 * low for low, high in zip(res[:-1], res[1:], strict=True)]
    if shown != doubles:
        raise ValueError(f"res {res} does not fit the weights, whose levels double: {doubles}")
    return CAMNet(
        res,
        **shape,
        color_space=cfg.get("color_space") or "rgb",
        lab_range=cfg.get("lab_range") or "reference",
        feat_scales=_refactoring_scales(cfg.get("feat_scales"), levels),
        act_type=cfg.get("act_type") or "leakyrelu",
        rgb_from=rgb_from or "auto",
        mapping="hierarchical" if levels > 1 and _is_wider(state) else "independent",
    )


def _is_wider(state: Mapping[str, Tensor]) -> bool:
    """Whether the mapping network of level 1 looks at that of level 0."""
    outputs, inputs = state["levels.1.mapping_net.model.2.weight"].shape
    return inputs > outputs


def _original(
    state: dict[str, Tensor],
    cfg: dict[str, Any],
    res: Sequence[int] | None,
    rgb_from: RgbFrom | None,
) -> CAMNet:
    unknown = [key for key in state if not _ORIGINAL.fullmatch(key)]
    if unknown:
        raise ValueError(
            f"{len(unknown)} weights of the original have no place here (a noise encoder?), "
            f"e.g. {unknown[0]}"
        )
    levels = max(int(_parts_of(key)[0]) for key in state)
    if cfg.get("num_levels") not in (None, levels):
        raise ValueError(f"cfg says num_levels {cfg['num_levels']}, the weights have {levels}")
    task, conditioned = _task(cfg, state), _is_conditioned(state)
    names: dict[str, str | None] = dict.fromkeys(_PARTS)
    if conditioned:
        names["map"] = "map_0"
    shape = _read_shapes(state, levels, "level_{i}_{part}", 1, names, cfg, feeds_back=False)
    upscale = cfg.get("upscale")
    if upscale is not None and upscale != 2**levels:
        raise ValueError(f"cfg says upscale {upscale}, the weights have {levels} levels")
    doubles = [f"level_{i + 1}_up.1.weight_v" in state for i in range(levels)]
    if task in ("decompression", "generic"):
        doubles[-1] = False  # its weights are there, but nothing uses the last enlargement
    published = 1.0 if task == "image_synthesis" else 0.1
    usual: dict[str, RgbFrom] = {
        "decompression": "trunk",
        "generic": "trunk",
        "colorization": "trunk_but_last",
    }
    res = list(res or cfg.get("res") or _resolutions(_FIRST_RES.get(task, 16), doubles))
    if len(res) != levels + 1:
        raise ValueError(f"res {res}: the weights have {levels} levels, so {levels + 1} numbers")
    return CAMNet(
        res,
        **shape,
        act_type=cfg.get("act_type") or "leakyrelu",
        feat_scales=_original_scales(cfg.get("feat_scales", published), levels),
        feedback="raw" if task == "super_resolution" else "none",
        rgb_from=rgb_from or usual.get(task, "up"),
        head="ab" if task == "colorization" else "rgb",
        mapping="hierarchical" if conditioned else "independent",
    )


def _task(cfg: dict[str, Any], state: dict[str, Tensor]) -> str:
    if cfg.get("task"):
        task = re.sub(r"[\s\-]+", "_", str(cfg["task"]).strip()).lower()
        task = _SPELT.get(task, task)
        if task not in TASKS:
            raise ValueError(f"task {cfg['task']!r} is none of {', '.join(TASKS)}")
        return task
    if state["level_1_out.0.bias"].numel() == 2:
        return "colorization"
    raise ValueError(f"cfg must name the task (one of {', '.join(TASKS)}): weights do not show it")


def _parts_of(key: str) -> tuple[str, str, str]:
    """Level (from 1), part and the rest of an original's key, which is known to be one."""
    match = _ORIGINAL.fullmatch(key)
    assert match is not None
    return match[1], match[2], match[3]


def _translate(key: str, model: CAMNet, conditioned: bool) -> str:
    """Our name of an original's key; conditioned: of one of CHIMLE's."""
    number, part, rest = _parts_of(key)
    i = int(number) - 1
    if conditioned and part == "map":  # the first layer is map_0 and not counted
        index, rest = rest.split(".", 1)
        rest = f"{int(index) + 2}.{rest}"
    part = "map" if part == "map_0" else part
    if part != "up":
        return f"levels.{i}.{_PARTS[part]}.{rest}"
    index, rest = rest.split(".", 1)
    # up.1 and up.3 with an enlargement in front, up.0 and up.2 without
    block = {"1": 0, "3": 1, "0": 0, "2": 1}[index]
    first = f"0.{1 if cast(Level, model.stages[i]).doubles else 0}"
    return f"levels.{i}.upsample_block.model.{'1.0' if block else first}.{rest}"


def _read_shapes(
    state: dict[str, Tensor],
    levels: int,
    template: str,
    first: int,
    parts: Mapping[str, str | None],
    cfg: dict[str, Any],
    *,
    feeds_back: bool,
) -> dict[str, Any]:
    """Constructor arguments that follow from the shapes of the weights, checked against cfg."""

    def get(i: int, part: str, rest: str) -> Tensor:
        key = f"{template.format(i=i + first, part=parts[part] or part)}.{rest}"
        if key not in state:
            raise ValueError(f"weights of level {i} are incomplete: {key} is missing")
        return state[key]

    resid = [get(i, "feat", "0.bias").numel() for i in range(levels)]
    out_nc = get(0, "out", "0.bias").numel()
    # in_nc and code_nc are seen only as a sum; an input that is fed back has out_nc channels
    both = get(0, "feat", "0.weight_v").shape[1]
    in_nc = cfg.get("in_nc")
    if in_nc is None:
        in_nc = both - cfg["code_nc"] if cfg.get("code_nc") is not None else {2: 1}.get(out_nc, 3)
    blocks = {
        int(found[1])
        for key in state
        if (found := re.search(r"style(?:_block)?\.sub\.transform_(\d+)\.weight", key))
    }
    if len(blocks) != max(blocks, default=-1) + 1:
        raise ValueError(f"its {len(blocks)} blocks of a level are numbered up to {max(blocks)}")
    shape = dict(
        in_nc=in_nc,
        out_nc=out_nc,
        code_nc=both - in_nc,
        map_nc=get(0, "map", "0.weight").shape[1],
        latent_nc=get(0, "map", "0.weight").shape[0],
        resid_nc=resid,
        dense_nc=[get(i, "style", "sub.0.RDB1.conv1.0.bias").numel() for i in range(levels)],
        n_blocks=max(blocks) + 1,
    )
    names = dict(
        resid_nc="num_residual_channels", dense_nc="num_dense_channels", n_blocks="num_blocks"
    )
    for name, value in shape.items():
        said = cfg.get(name, cfg.get(names.get(name, name)))
        if said is None:
            continue
        said = list(said)[:levels] if isinstance(value, list) else said
        if said != value:
            raise ValueError(f"cfg says {name} {said}, the weights have {value}")
    return shape


def _resolutions(first: int, doubles: Sequence[bool]) -> list[int]:
    res = [first]
    for double in doubles:
        res.append(res[-1] * (2 if double else 1))
    return res


def _refactoring_scales(scales: Any, levels: int) -> list[float] | None:
    """Entry i is the scale of the feature entering level i; null = 0.1 * i."""
    if scales is None:
        return None
    if isinstance(scales, (int, float)):
        return [float(scales)] * levels
    return [float(s) for s in scales]


def _original_scales(scales: Any, levels: int) -> list[float]:
    """Entry i - 1 is the scale of the feature entering level i; null = 0.1 everywhere."""
    if scales is None:
        scales = 0.1
    if isinstance(scales, (int, float)):
        return [float(scales)] * levels
    if len(scales) < levels - 1:
        raise ValueError(f"feat_scales needs {levels - 1} values, got {list(scales)}")
    return [0.0, *(float(s) for s in scales[: levels - 1])]
