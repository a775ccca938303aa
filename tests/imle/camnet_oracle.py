"""CAM-Net once more, in float64 and plain functions: an oracle, and a maker of golden-like files.

Written from the description of both originals (state-dict keys, order of operations), without any
code of `imle`. `refactored` and `original` run a state dict; `write_camnet` and `write_original`
make files with the arrays of the golden families from random weights.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


def conv(s: State, key: str, x: Tensor) -> Tensor:
    v, g = s[key + ".weight_v"], s[key + ".weight_g"]
    norm = v.pow(2).sum((1, 2, 3), keepdim=True).sqrt()
    return F.conv2d(x, v * g / norm, s[key + ".bias"], padding=v.shape[2] // 2)


def act(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.2 * x)


def rdb(s: State, key: str, x: Tensor) -> Tensor:
    seen = x
    for k in range(1, 5):
        seen = torch.cat([seen, act(conv(s, f"{key}.conv{k}.0", seen))], 1)
    return x + 0.2 * conv(s, f"{key}.conv5.0", seen)


def rrdb(s: State, key: str, x: Tensor) -> Tensor:
    y = x
    for k in (1, 2, 3):
        y = rdb(s, f"{key}.RDB{k}", y)
    return x + 0.2 * y


def style(s: State, key: str, x: Tensor, w: Tensor) -> Tensor:
    u, k = x, 0
    while f"{key}.transform_{k}.weight" in s:
        u = rrdb(s, f"{key}.{k}", u)
        mean = u.mean((2, 3), keepdim=True)
        var = (u - mean).pow(2).mean((2, 3), keepdim=True)
        gb = w @ s[f"{key}.transform_{k}.weight"].T + s[f"{key}.transform_{k}.bias"]
        nc = u.shape[1]
        g, b = gb[:, :nc, None, None], gb[:, nc:, None, None]
        u = (1 + g) * (u - mean) / (var + 1e-5).sqrt() + b
        k += 1
    return x + conv(s, f"{key}.lr_conv.0", u)


def mapping(s: State, key: str, z: Tensor) -> Tensor:
    for k in range(0, 16, 2):
        z = act(z @ s[f"{key}.{k}.weight"].T + s[f"{key}.{k}.bias"])
    return z


def double(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def split_code(code: Tensor, map_nc: int, image: Tensor) -> tuple[Tensor, Tensor]:
    h, w = image.shape[2:]
    return code[:, :map_nc], code[:, map_nc:].reshape(len(code), -1, h, w)


def expand(code: Tensor, *tensors: Tensor | None) -> list[Tensor | None]:
    """Rows b * n + k of each tensor for a code of n times as many rows."""
    return [
        None if t is None else t[torch.arange(len(code)) // (len(code) // len(t))] for t in tensors
    ]


# sRGB <-> LAB, from the CIE formulas

_M = [
    [0.412453, 0.357580, 0.180423],
    [0.212671, 0.715160, 0.072169],
    [0.019334, 0.119193, 0.950227],
]
_I = [
    [3.24048134, -1.53715152, -0.49853633],
    [-0.96925495, 1.87599, 0.04155593],
    [0.05564664, -0.20404134, 1.05731107],
]
_W = torch.tensor([0.95047, 1.0, 1.08883], dtype=torch.float64)[:, None, None]


def rgb_to_lab(rgb: Tensor, b_unit: float) -> Tensor:
    linear = torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    t = torch.einsum("ij,bjhw->bihw", torch.tensor(_M, dtype=torch.float64), linear) / _W
    f = torch.where(t > 0.008856, t ** (1 / 3), 7.787 * t + 16 / 116)
    light, a, b = 116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])
    return torch.stack([light / 100, a / 127, b / b_unit], 1)


def lab_to_rgb(lab: Tensor) -> Tensor:
    light, a, b = lab[:, 0] * 100, lab[:, 1] * 127, lab[:, 2] * 127
    fy = (light + 16) / 116
    f = torch.stack([a / 500 + fy, fy, (fy - b / 200).clamp(min=0)], 1)
    xyz = torch.where(f > 0.2068966, f**3, (f - 16 / 116) / 7.787) * _W
    linear = torch.einsum("ij,bjhw->bihw", torch.tensor(_I, dtype=torch.float64), xyz).clamp(min=0)
    return torch.where(
        linear > 0.0031308, 1.055 * (linear + 1e-12) ** (1 / 2.4) - 0.055, 12.92 * linear
    )


# the two originals


def refactored(
    s: State, cfg: dict[str, Any], x: Tensor, codes: list[Tensor], last: int | None = None
) -> dict[str, list[Tensor]]:
    """Returns lists over levels: out (RGB), feat, internal; and x_internal."""
    res, lab = cfg["res"], cfg.get("color_space") == "lab"
    scales = cfg.get("feat_scales") or [0.1 * i for i in range(len(res))]
    image = rgb_to_lab(x, 127.0**2) if lab else x
    found: dict[str, list[Tensor]] = {"out": [], "feat": [], "internal": [], "x": [image]}
    feature = None
    for i in range(len(res) - 1 if last is None else last + 1):
        image, feature = expand(codes[i], image, feature)
        key = f"levels.{i}"
        z, noise = split_code(codes[i], cfg["map_nc"], image)
        parts = [image, noise] + ([] if feature is None else [scales[i] * feature])
        h = conv(s, f"{key}.feat_net.0", torch.cat(parts, 1))
        h = style(s, f"{key}.style_block.sub", h, mapping(s, f"{key}.mapping_net.model", z))
        up = res[i + 1] == 2 * res[i]
        feature = act(conv(s, f"{key}.upsample_block.model.0.{int(up)}", double(h) if up else h))
        feature = act(conv(s, f"{key}.upsample_block.model.1.0", feature))
        t = torch.tanh(conv(s, f"{key}.out_conv.0", feature if up else h))
        image = (t + 1) / 2
        found["out"].append(lab_to_rgb(image) if lab else image)
        found["feat"].append(feature)
        found["internal"].append(image)
    return found


def original(
    s: State,
    cfg: dict[str, Any],
    inputs: list[Tensor],
    codes: list[Tensor],
    before_up: bool = False,
) -> list[Tensor]:
    """before_up: image synthesis takes its image before `up` (its order is not documented)."""
    task, outs, feature, image = cfg["task"].lower(), [], None, None
    levels = len(codes)
    scales = cfg.get("feat_scales") or [0.1] * (levels - 1)
    for i in range(levels):
        key = f"level_{i + 1}"
        if i == 0 or task != "super_resolution":
            image = inputs[i]
        z, noise = split_code(codes[i], cfg["map_nc"], image)
        parts = [image, noise] + ([] if feature is None else [scales[i - 1] * feature])
        h = conv(s, f"{key}_feat.0", torch.cat(parts, 1))
        h = style(s, f"{key}_style.sub", h, mapping(s, f"{key}_map", z))
        first = task == "decompression" or before_up or (task == "colorization" and i < levels - 1)
        if f"{key}_up.1.bias" in s:
            feature = act(conv(s, f"{key}_up.3", act(conv(s, f"{key}_up.1", double(h)))))
        else:
            feature = act(conv(s, f"{key}_up.2", act(conv(s, f"{key}_up.0", h))))
        t = torch.tanh(conv(s, f"{key}_out.0", h if first else feature))
        if task == "colorization":
            outs.append(torch.cat([image, t], 1))
        else:
            outs.append((t + 1) / 2)
        image = t
    return outs


# random weights and files


def _random_state(
    keys: list[tuple[str, str, int, int]], generator: torch.Generator
) -> dict[str, np.ndarray]:
    """keys: (prefix, "conv" | "linear", in, out)."""
    state = {}
    for key, kind, n_in, n_out in keys:
        bias = 0.1 * torch.randn(n_out, generator=generator)
        if kind == "conv":
            state[f"{key}.bias"] = bias
            g = 0.8 + 0.4 * torch.rand(n_out, 1, 1, 1, generator=generator)
            state[f"{key}.weight_g"] = g
            state[f"{key}.weight_v"] = torch.randn(n_out, n_in, 3, 3, generator=generator)
        else:
            weight = torch.randn(n_out, n_in, generator=generator)
            state[f"{key}.weight"] = weight * (2 / n_in) ** 0.5
            state[f"{key}.bias"] = bias
    return {key: value.numpy() for key, value in state.items()}


def _style_keys(key: str, nc: int, gc: int, latent: int, blocks: int) -> list:
    keys = []
    for k in range(blocks):
        for r in (1, 2, 3):
            for c in range(5):
                conv_key = f"{key}.{k}.RDB{r}.conv{c + 1}.0"
                keys.append((conv_key, "conv", nc + c * gc, gc if c < 4 else nc))
        keys.append((f"{key}.transform_{k}", "linear", latent, 2 * nc))
    return [*keys, (f"{key}.lr_conv.0", "conv", nc, nc)]


def _mapping_keys(key: str, map_nc: int, latent: int) -> list:
    return [(f"{key}.{k}", "linear", latent if k else map_nc, latent) for k in range(0, 16, 2)]


def _double(arrays: dict[str, np.ndarray]) -> State:
    return {key: torch.from_numpy(value).double() for key, value in arrays.items()}


def _f32(x: Tensor) -> np.ndarray:
    return x.detach().float().numpy()


def write_camnet(
    path: Path, cfg: dict[str, Any], *, batch: int = 2, times: int = 3, seed: int = 0
) -> None:
    """A file of the family camnet_* for constructor settings `cfg`."""
    generator = torch.Generator().manual_seed(seed)
    res, levels = cfg["res"], len(cfg["res"]) - 1
    in_nc, out_nc = cfg.get("in_nc", 3), cfg.get("out_nc", 3)
    nc, gc, latent, map_nc = (cfg[k] for k in ("resid_nc", "dense_nc", "latent_nc", "map_nc"))
    keys = []
    for i in range(levels):
        key, n = f"levels.{i}", nc[i]
        keys += _mapping_keys(f"{key}.mapping_net.model", map_nc, latent)
        before = in_nc + cfg["code_nc"] + (nc[i - 1] if i else 0)
        keys.append((f"{key}.feat_net.0", "conv", before, n))
        keys += _style_keys(f"{key}.style_block.sub", n, gc[i], latent, cfg["n_blocks"])
        up = int(res[i + 1] == 2 * res[i])
        keys.append((f"{key}.upsample_block.model.0.{up}", "conv", n, n))
        keys.append((f"{key}.upsample_block.model.1.0", "conv", n, n))
        keys.append((f"{key}.out_conv.0", "conv", n, out_nc))
    weights = _random_state(keys, generator)
    state = {k: v.requires_grad_() for k, v in _double(weights).items()}
    sizes = [map_nc + cfg["code_nc"] * r * r for r in res[:-1]]
    x = torch.rand(batch, in_nc, res[0], res[0], generator=generator)
    codes = [torch.randn(batch, d, generator=generator) for d in sizes]
    arrays = {"cfg_json": np.array(json.dumps(cfg)), "x": x.numpy()}
    arrays |= {f"code{i}": code.numpy() for i, code in enumerate(codes)}
    x64 = x.double().requires_grad_()
    codes64 = [code.double().requires_grad_() for code in codes]
    found = refactored(state, cfg, x64, codes64)
    total = torch.zeros((), dtype=torch.float64)
    for i, out in enumerate(found["out"]):
        cot = torch.randn(out.shape, generator=generator)
        total = total + (out * cot).sum()
        arrays |= {f"out{i}": _f32(out), f"cot{i}": cot.numpy()}
        arrays[f"feat{i}"] = _f32(found["feat"][i])
        arrays[f"level_out_internal{i}"] = _f32(found["internal"][i])
    total.backward()
    arrays["x_internal"] = _f32(found["x"][0])
    arrays["grad_x"] = _f32(x64.grad)
    arrays |= {f"grad_code{i}": _f32(code.grad) for i, code in enumerate(codes64)}
    norms = [0.0 if v.grad is None else v.grad.norm().item() for v in state.values()]
    arrays["grad_norm_per_param"] = np.array(norms, np.float32)
    arrays["param_order"] = np.array(list(state))
    with torch.no_grad():
        many = torch.randn(batch * times, sizes[-1], generator=generator)
        out = refactored(state, cfg, x64, [*codes64[:-1], many.double()])["out"][-1]
        arrays |= {"code_last_expanded": many.numpy(), "out_last_expanded": _f32(out)}
        many = torch.randn(batch * times, sizes[0], generator=generator)
        out = refactored(state, cfg, x64, [many.double()], last=0)["out"][0]
        arrays |= {"code0_expanded": many.numpy(), "out0_expanded": _f32(out)}
    np.savez(path, **arrays, **{f"sd/{k}": v for k, v in weights.items()})


def write_original(
    path: Path,
    cfg: dict[str, Any],
    first_size: tuple[int, int],
    *,
    before_up: bool = False,
    batch: int = 2,
    seed: int = 0,
) -> None:
    """A file of the family original_*; first_size: height and width of level 1."""
    generator = torch.Generator().manual_seed(seed)
    task, levels = cfg["task"].lower(), int(np.log2(cfg["upscale"]))
    nc, gc = cfg["num_residual_channels"], cfg["num_dense_channels"]
    keys = []
    for i in range(levels):
        key, n = f"level_{i + 1}", nc[i]
        keys += _mapping_keys(f"{key}_map", cfg["map_nc"], cfg["latent_nc"])
        before = cfg["in_nc"] + cfg["code_nc"] + (nc[i - 1] if i else 0)
        keys.append((f"{key}_feat.0", "conv", before, n))
        keys += _style_keys(f"{key}_style.sub", n, gc[i], cfg["latent_nc"], cfg["num_blocks"])
        flat = task == "colorization" and i == levels - 1
        keys += [(f"{key}_up.{k}", "conv", n, n) for k in ((0, 2) if flat else (1, 3))]
        keys.append((f"{key}_out.0", "conv", n, cfg["out_nc"]))
    weights = _random_state(keys, generator)
    sizes = [(first_size[0] * 2**i, first_size[1] * 2**i) for i in range(levels)]
    given = sizes[:1] if task == "super_resolution" else sizes
    inputs = [torch.rand(batch, cfg["in_nc"], *size, generator=generator) for size in given]
    codes = [
        torch.randn(batch, cfg["map_nc"] + cfg["code_nc"] * h * w, generator=generator)
        for h, w in sizes
    ]
    state = _double(weights)
    outs = original(
        state, cfg, [x.double() for x in inputs], [c.double() for c in codes], before_up
    )
    arrays = {"cfg_json": np.array(json.dumps(cfg))}
    arrays |= {f"input{i}": x.numpy() for i, x in enumerate(inputs)}
    arrays |= {f"code{i}": code.numpy() for i, code in enumerate(codes)}
    arrays |= {f"out{i}": _f32(out) for i, out in enumerate(outs)}
    np.savez(path, **arrays, **{f"sd/{k}": v for k, v in weights.items()})


def write_color(path: Path, *, seed: int = 0) -> None:
    """The file color.npz for other colours, black and white among them."""
    generator = torch.Generator().manual_seed(seed)
    rgb = torch.rand(3, 3, 9, 7, generator=generator)
    rgb[0, :, 0, :2] = torch.tensor([0.0, 1.0])
    nlab = torch.rand(3, 3, 9, 7, generator=generator) * 2 - 1
    nlab[:, 0].abs_()
    linear = torch.where(rgb > 0.04045, ((rgb.double() + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    xyz = torch.einsum("ij,bjhw->bihw", torch.tensor(_M, dtype=torch.float64), linear)
    normalised = rgb_to_lab(rgb.double(), 127.0)
    lab = normalised * torch.tensor([100.0, 127.0, 127.0])[:, None, None]
    light = nlab[:, :1].double().clamp(min=0.01)
    albl = torch.cat([light, nlab[:, 1:] / light], 1)
    arrays = {
        "rgb": rgb,
        "xyz": xyz,
        "lab": lab,
        "lab_normalised_correct": normalised,
        "lab_normalised_cimle_ref": rgb_to_lab(rgb.double(), 127.0**2),
        "lab_skimage_float64": lab,
        "rgb_roundtrip_from_correct": lab_to_rgb(normalised),
        "nlab_random": nlab,
        "rgb_from_nlab_random": lab_to_rgb(nlab.double()),
        "rgb_from_nlab_random_orig_ALBL": lab_to_rgb(albl),
    }
    np.savez(path, **{key: _f32(value) for key, value in arrays.items()})
