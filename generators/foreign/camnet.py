"""CAM-Nets: checkpoints of the CIMLE refactoring, files of the CAM-Net code release and of CHIMLE.

The CIMLE refactoring saves whole pickled modules, whose attributes say how the network is built.
The others save state_dicts, which do not say the task: see `guess_task`. What becomes of their
names is in `imle.original`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from generators.foreign.contents import Asked, Contents, Entry, Found, made, weights_in, whole
from imle.original import load_reference, reference_names
from storage.foreign.objects import plain_value
from storage.foreign.pickles import Inert

_RELEASE = re.compile(r"level_1_(map|map_0)\..+")
_CORRUPTION = ("grayscale", "mask_res", "mask_frac", "fill")
SYNTHESIS = {"in_nc": 20, "code_nc": 10}  # of the published image synthesis


def find(contents: Contents, asked: Asked) -> Found | None:
    """The CAM-Net in a file; None if there is none. Errors: ValueError for one that does not go
    together."""
    state = weights_in(contents.value)
    if "levels.0.mapping_net.model.0.weight" in state:
        return _refactoring(contents, state, asked)
    if any(_RELEASE.fullmatch(name) for name in state):
        return _release(contents, state, asked)
    return None


def _refactoring(contents: Contents, state: dict[str, Entry], asked: Asked) -> Found:
    value = contents.value if isinstance(contents.value, dict) else {}
    args = plain_value(value.get("args"))
    args = args if isinstance(args, dict) else vars(args) if hasattr(args, "__dict__") else {}
    cfg = {**args, **_built(value.get("model")), **asked.config}
    notes = []
    if not cfg.get("res") and asked.res is None:
        notes.append("its resolutions are not in the file: taken for 16 and up, --res says others")
    net, entries = _named(state, cfg, asked)
    if cfg.get("sample_method") == "mixture":
        notes.append(
            "its mixture of codes was not saved (means of length 1 in all dimensions, lost in the "
            "noise): codes are normal"
        )
    corruption = {name: cfg[name] for name in _CORRUPTION if cfg.get(name) is not None}
    provenance: dict[str, Any] = {
        "imported": "a checkpoint of the CIMLE refactoring",
        "file": contents.path.name,
        "args": {name: _plain(value) for name, value in args.items()},
        "outer_loop": whole(value.get("last_loop")),
    }
    return Found("cimle", "camnet", entries, _config(net, corruption), provenance, tuple(notes))


def _release(contents: Contents, state: dict[str, Entry], asked: Asked) -> Found:
    cfg = dict(asked.config)
    conditioned = any(name.startswith("level_1_map_0.") for name in state)
    notes = []
    if asked.task is not None:
        cfg["task"] = asked.task
    if not cfg.get("task"):
        cfg["task"], why = guess_task(state)
        notes.append(f"taken for {cfg['task'].replace('_', ' ')}, {why}; --task says another")
    if str(cfg["task"]).lower().replace(" ", "_") == "image_synthesis":
        cfg = {**SYNTHESIS, **cfg}
    net, entries = _named(state, cfg, asked)
    if asked.res is None and not cfg.get("res"):
        sides = " ".join(map(str, net.res))
        notes.append(f"its resolutions are not in the file: taken for {sides}, --res says others")
    value = contents.value if isinstance(contents.value, dict) else {}
    provenance = {
        "imported": "CHIMLE's" if conditioned else "of the CAM-Net code release",
        "file": contents.path.name,
        "task": cfg["task"],
        "step": whole(value.get("iteration")),
    }
    form = "chimle" if conditioned else "cam-net"
    return Found(form, "camnet", entries, _config(net, {}), provenance, tuple(notes))


def guess_task(state: Mapping[str, Entry]) -> tuple[str, str]:
    """(the task that weights of the code release, or CHIMLE's, were trained for, by what it shows).

    Two channels of output are colours. Thirty of input are the classes and the noise of image
    synthesis. Decompression and CHIMLE's Generic never run the last level's enlargement: its biases
    are 0 as they were at the start, while those of super-resolution were trained.
    """
    if state["level_1_out.0.bias"].numel() == 2:
        return "colorization", "by its two channels of output"
    seen = state["level_1_feat.0.weight_v"].shape[1] if "level_1_feat.0.weight_v" in state else 0
    if seen == sum(SYNTHESIS.values()):
        return "image_synthesis", f"by its {seen} channels of input"
    last = max(int(found[1]) for name in state if (found := re.match(r"level_(\d+)_", name)))
    biases = [
        entry for name, entry in state.items()
        if name.startswith(f"level_{last}_up.") and name.endswith(".bias")
    ]  # fmt: skip
    if biases and all(not made(bias).any() for bias in biases):
        conditioned = any(name.startswith("level_1_map_0.") for name in state)
        task = "generic" if conditioned else "decompression"
        return task, "since its last enlargement was never trained"
    return "super_resolution", "since its last enlargement was trained"


def _named(state: dict[str, Entry], cfg: dict[str, Any], asked: Asked) -> tuple[Any, dict]:
    """The network, without memory for its weights, and the weights under its names."""
    with torch.device("meta"):
        shapes: Any = {name: torch.empty(tuple(entry.shape)) for name, entry in state.items()}
        net = load_reference(shapes, cfg, res=asked.res)
    return net, reference_names(state, net)  # type: ignore[arg-type]  # names alone are changed


def _built(model: Any) -> dict[str, Any]:
    """What a pickled network of the refactoring says of itself."""
    for module in _inside(model):
        state = module.state
        first, last = state.get("in_sizes"), state.get("out_sizes")
        if not _sides(first) or not _sides(last) or len(first) != len(last):
            continue
        facts = {"res": [*first, last[-1]]}
        if isinstance(state.get("color_space"), str):
            facts["color_space"] = state["color_space"]
        scales = _scales(state["_modules"].get("levels"), len(first))
        return facts if scales is None else facts | {"feat_scales": scales}
    return {}


def _inside(model: Any, depth: int = 3) -> Iterator[Inert]:
    """A module and those it wraps, from the outermost inwards."""
    while depth and isinstance(model, Inert) and isinstance(model.state, dict):
        if not isinstance(model.state.get("_modules"), dict):
            return
        yield model
        model, depth = model.state["_modules"].get("module"), depth - 1


def _sides(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(v) is int for v in value)


def _scales(levels: Any, count: int) -> list[float] | None:
    """feat_scale of each level, if all say one."""
    table = levels.state.get("_modules") if isinstance(levels, Inert) and levels.state else None
    table = table if isinstance(table, dict) else {}
    states = [getattr(table.get(str(i)), "state", None) for i in range(count)]
    scales = [s.get("feat_scale") if isinstance(s, dict) else None for s in states]
    known = [float(s) for s in scales if isinstance(s, int | float)]
    return known if len(known) == count else None


def _config(net: Any, corruption: dict[str, Any]) -> dict[str, Any]:
    return {"net": net.config, "codes": {}, "corruption": corruption, "crop": "squash"}


def _plain(value: Any) -> Any:
    """An option as JSON can hold it."""
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
