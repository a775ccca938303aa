"""Mapping networks: those of CAM-Net, level by level, and CHIMLE's, which know the earlier levels.

CHIMLE (Peng, Moazeni and Li, "CHIMLE: Conditional Hierarchical IMLE for Multimodal Conditional
Image Synthesis", NeurIPS 2022, arXiv 2211.14286) differs from CAM-Net here alone: with the outputs
w_1, .., w_{i-1} of the levels before,

    h_i = lrelu(A_i z_i),    w_i = M_i(concat(h_i, w_1, .., w_{i-1}))

where M_i is seven times (Linear, LeakyReLU 0.2). CAM-Net is the case in which M_i does not look at
the others, so a CAM-Net becomes one of these without computing anything else: `to_hierarchical`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from imle.rrdb import MappingNet

# Of M_i's first layer, the one that looks at earlier levels, in a mapping network's state dict.
_FIRST = "mapping_net.model.2.weight"


class ConditionedMappingNet(MappingNet):
    """z `[B, map_nc]` and the outputs of `before` >= 1 earlier levels, side by side,
    `[B, before * latent_nc]` -> w `[B, latent_nc]`.

    State-dict keys are those of `MappingNet`; model.2 has as many more columns.
    """

    def __init__(self, map_nc: int, latent_nc: int, before: int) -> None:
        super().__init__(map_nc, latent_nc)
        self.model[2] = nn.Linear((1 + before) * latent_nc, latent_nc)

    def forward(self, z: Tensor, earlier: Tensor | None = None) -> Tensor:
        if earlier is None:
            raise ValueError("this mapping network needs the outputs of the earlier levels")
        h = torch.cat([self.model[1](self.model[0](z)), earlier], 1)
        for layer in list(self.model)[2:]:
            h = layer(h)
        return h


def mapping_net(map_nc: int, latent_nc: int, before: int = 0) -> MappingNet:
    """The mapping network of a level that is conditioned on `before` earlier ones."""
    if before == 0:
        return MappingNet(map_nc, latent_nc)
    return ConditionedMappingNet(map_nc, latent_nc, before)


def mapped(net: nn.Module, codes: Sequence[Tensor]) -> list[Tensor]:
    """w of every level, `[B, latent_nc]` each, of codes `[B, d_i]` of a CAMNet."""
    found: list[Tensor] = []
    earlier = None
    for stage, code in zip(net.stages, codes, strict=True):  # type: ignore[arg-type]
        found.append(stage.style_of(code, earlier))
        earlier = torch.cat(found, 1) if net.config["mapping"] == "hierarchical" else None  # type: ignore[index]
    return found


@torch.no_grad()
def to_hierarchical(
    state: Mapping[str, Tensor], net: nn.Module
) -> tuple[dict[str, Tensor], list[str]]:
    """Weights of a CAM-Net as those of CHIMLE's `net`, which then compute the same.

    Columns for the earlier levels are 0 in every first layer that does not have them. Returns the
    weights, under the names they have, and the names of those that were widened.
    """
    own, widened, made = net.state_dict(), [], dict(state)
    for name, value in state.items():
        there = own.get(name)
        if not name.endswith(_FIRST) or there is None or value.ndim != 2:
            continue
        more = there.shape[1] - value.shape[1]
        if value.shape[0] == there.shape[0] == value.shape[1] and more > 0:
            made[name] = torch.cat([value, value.new_zeros(len(value), more)], 1)
            widened.append(name)
    return made, widened


def parameter_groups(
    model: nn.Module, lr: float, mapping_lr_mult: float = 1.0, muon: float = 0.0
) -> list[dict[str, Any]]:
    """Optimizer groups: everything at `lr`, mapping networks at `lr * mapping_lr_mult`.

    The CAM-Net code release used 0.01; the CIMLE refactoring lost it. The style transforms are not
    mapping networks. With `muon` above 0 the hidden convolutions of a learnt base are a third
    group, which has it (`models.muon`).
    """
    if not (math.isfinite(mapping_lr_mult) and mapping_lr_mult > 0):
        raise ValueError(f"mapping_lr_mult must be positive and finite, got {mapping_lr_mult}")
    mapping: list[nn.Parameter] = []
    hidden: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if ".mapping_net." in f".{name}":
            mapping.append(parameter)
        elif muon and is_hidden_of_base(name):
            hidden.append(parameter)
        else:
            rest.append(parameter)
    groups: list[dict[str, Any]] = [{"params": rest, "lr": lr}]
    if mapping:
        groups.append({"params": mapping, "lr": lr * mapping_lr_mult})
    if hidden:
        groups.append({"params": hidden, "lr": lr, "muon": muon})
    return groups


def is_hidden_of_base(name: str) -> bool:
    """Whether it is the direction of a weight of a learnt base, between features."""
    ends = ("regression.stem.", "regression.head.")
    return name.startswith("regression.") and name.endswith("_v") and not name.startswith(ends)
