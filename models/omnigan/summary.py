"""A table of the layers that a picture goes through in omnigan's generator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from models.omnigan.generator import OmniGenerator
from models.omnigan.norms import is_spectral

_MB = 1 << 20


def summary(G: OmniGenerator, size: tuple[int, int] = (256, 256)) -> tuple[str, int]:
    """(a table of the layers that one picture of (H, W) goes through on its way to being flooded,
    with the shape and the weights of each; the number of their weights and biases).

    Adaptation is no part of that way, nor is a second translation decoder. Layers are counted by
    their `weight` and `bias`, as torchsummary does, so scale and shift of the layer normalisation
    are not. Nothing is computed: sizes are followed on torch's meta device.
    """
    rows: list[tuple[str, str, list[int], int]] = []
    hooks, seen = [], set()
    with torch.device("meta"):
        meta = OmniGenerator(**G.config)

    def note(name: str, layer: nn.Module, out: Any) -> None:
        rows.append(
            (name, type(layer).__name__, list(out.shape), 0 if name in seen else own(layer))
        )
        seen.add(name)

    def own(layer: nn.Module) -> int:
        weights = [getattr(layer, key, None) for key in ("weight", "bias")]
        return sum(w.numel() for w in weights if isinstance(w, Tensor))

    for name, module in meta.named_modules():
        leaf = not any(True for _ in module.children()) or is_spectral(module)
        if name and leaf and "parametrizations" not in name and not _is_fused(name):
            hooks.append(
                module.register_forward_hook(
                    lambda layer, _, out, name=name: note(name, layer, out)
                )
            )
    try:
        with torch.no_grad():
            x = torch.empty(1, 3, *size, device="meta")
            if "t" in G.tasks:
                meta(x, "rf")
            else:
                meta.decode_tasks(meta.encode(x))
    finally:
        for hook in hooks:
            hook.remove()
    rows = _with_fused(rows, meta, seen)
    total = sum(row[3] for row in rows)
    return _text(rows, total, size), total


def _is_fused(name: str) -> bool:
    """Convolutions of SPADE, which are computed together and thus not called one by one."""
    return any(part in name for part in ("mlp_shared", "mlp_gamma", "mlp_beta"))


def _with_fused(
    rows: list[tuple[str, str, list[int], int]], net: nn.Module, seen: set[str]
) -> list[tuple[str, str, list[int], int]]:
    """The convolutions of those SPADE layers that were gone through, behind their normalisation."""
    modules: Mapping[str, nn.Module] = dict(net.named_modules())
    found = []
    for row in rows:
        found.append(row)
        for name in _siblings(row[0], modules):
            conv = modules[name]
            if isinstance(conv, nn.Conv2d) and name not in seen:
                seen.add(name)
                count = sum(p.numel() for p in conv.parameters())
                shape = [row[2][0], conv.out_channels, *row[2][2:]]
                found.append((name, "Conv2d", shape, count))
    return found


def _siblings(name: str, modules: Mapping[str, nn.Module]) -> list[str]:
    """The convolutions of all SPADE layers of the block that a normalisation is of."""
    if not name.endswith(".param_free_norm"):
        return []
    spade = name.removesuffix(".param_free_norm")
    near = [spade, f"{spade.rpartition('.')[0]}.norm_s"]
    wanted = near if spade.endswith("norm_0") else near[:1]
    return [n for n in modules if any(n.startswith(f"{w}.mlp_") for w in wanted)]


def _text(rows: list[tuple[str, str, list[int], int]], total: int, size: tuple[int, int]) -> str:
    wide = max([len(row[0]) for row in rows] + [5])
    lines = [f"{'layer':<{wide}}  {'kind':<16}  {'output':<22}  {'weights':>12}"]
    for name, kind, shape, count in rows:
        lines.append(f"{name:<{wide}}  {kind:<16}  {shape!s:<22}  {count:>12,}")
    inside = sum(torch.Size(row[2]).numel() for row in rows) * 2 * 4 / _MB  # forward and backward
    pictures, weights = 3 * size[0] * size[1] * 4 / _MB, total * 4 / _MB
    lines += [
        "",
        f"Total params: {total:,}",
        f"Input size (MB): {pictures:.2f}",
        f"Outputs of these layers, with their gradients (MB): {inside:.2f}",
        f"Params size (MB): {weights:.2f}",
    ]
    return "\n".join(lines)
