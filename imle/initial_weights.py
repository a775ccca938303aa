"""The weights that a CAM-Net starts from.

init="default": convolutions N(0, gain^2 / fan_in) with gain sqrt(2) before an activation and 1
elsewhere (kaiming), or N(0, 0.02^2) (normal), set through g and v of weight norm so that they take
effect. Those inside residual dense blocks (as in ESRGAN) and the output convolutions (so that tanh
starts unsaturated: images with a standard deviation of about 0.1) are multiplied by init_scale; the
rest of the trunk is not, or nothing would come through. Where a level reads its inputs, the
picture's weights are multiplied by 4, the noise's by `code_gain`.
init="reference": what remains of the original's initialisation, which weight norm undid: torch's
default convolution weights, U(+-1/sqrt(fan_in)), whatever init_type and init_scale.

mapping_init="default": gains that keep E[w^2] = 1 through the mapping network; shifts b with a
standard deviation of `code_gain` and gains g of 0.25. "reference": Linear weights N(0, 2 / fan_in)
* 0.1 (normal: N(0, 0.02^2)), which leave std(w) at 1e-8 and styles without influence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from imle.rrdb import SLOPE, WNConv2d

# At the start the picture must be heard beside the code: in [0, 1] it varies by about 0.25 where
# noise varies by 1, and a level sees in_nc channels of it beside code_nc of noise and the style's
# shifts. On x4 super-resolution of photographs, with a code_gain of 0.3: half the steps to the same
# distance (docs/studies/imle.md).
_PICTURE_GAIN = 4.0

# Convolutions without an activation behind them, and those that init_scale makes small.
_LINEAR = (
    ".conv5.", ".lr_conv.", ".feat_net.", ".out_conv.",
    ".second.", ".stem.", ".long.", ".head.", ".widen.", ".narrow.",
)  # fmt: skip
_SMALL = (".RDB", ".out_conv.", ".second.", ".head.")


@torch.no_grad()
def draw_weights(net: nn.Module, config: Mapping[str, Any]) -> None:
    """Draw all parameters of a CAM-Net anew from torch's global generator; biases 0.

    config: its settings, of which init, init_type, init_scale, mapping_init, code_gain, in_nc,
    code_nc and base are read.
    """
    for name, module in net.named_modules():
        if isinstance(module, WNConv2d):
            _draw_convolution(f".{name}", module, config)
        elif isinstance(module, nn.Linear):
            _draw_linear(f".{name}", module, config)


def _draw_linear(name: str, linear: nn.Linear, c: Mapping[str, Any]) -> None:
    if c["mapping_init"] == "default":
        gain = math.sqrt(2 / (1 + SLOPE**2)) if ".mapping_net." in name else 1.0
        std = gain / math.sqrt(linear.in_features)
    elif c["init_type"] == "normal":
        std = 0.02
    else:
        std = c["init_scale"] * math.sqrt(2 / linear.in_features)
    linear.weight.normal_(0, std)
    if c["mapping_init"] == "default" and ".transform_" in name:
        # A gain 1 + g near 0 would leave the next instance norm only rounding noise
        linear.weight[: linear.out_features // 2] *= 0.25
        linear.weight[linear.out_features // 2 :] *= c["code_gain"]
    linear.bias.zero_()


def _draw_convolution(name: str, conv: WNConv2d, c: Mapping[str, Any]) -> None:
    weight = torch.empty_like(conv.weight_v)
    if c["init"] == "reference":
        bound = 1 / math.sqrt(conv.fan_in)  # kaiming_uniform with a = sqrt(5)
        weight.uniform_(-bound, bound)
    else:
        gain = 1.0 if any(part in name for part in _LINEAR) else math.sqrt(2)
        std = 0.02 if c["init_type"] == "normal" else gain / math.sqrt(conv.fan_in)
        small = any(part in name for part in _SMALL)
        weight.normal_(0, std * (c["init_scale"] if small else 1.0))
        if ".head." in name or (".out_conv." in name and c["base"] == "learned"):
            # A base starts as the enlarged input, samples as the base.
            weight *= c["init_scale"]
        if ".feat_net." in name:
            weight[:, : c["in_nc"]] *= _PICTURE_GAIN
            weight[:, c["in_nc"] : c["in_nc"] + c["code_nc"]] *= c["code_gain"]
    conv.set_weight_(weight)
    conv.bias.zero_()
