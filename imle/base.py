"""What a level adds its output to: the picture that it gets, enlarged, its holes filled in.

With it a level has to learn only what is missing: super-resolution the detail, colorization the
colours, inpainting the holes. What of it follows from the input alone can be learnt beside, see
`imle.regression`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from imle.consistency import feather, feather_width, fill_in, known_pixels
from imle.corruption import Corruption

# Of the tanh output. Two levels reach every value from every other.
_GAIN = 0.5


def filled(cx: Tensor, task: Corruption) -> Tensor:
    """Inputs `[B, 3, h, w]` with their holes filled in smoothly, float32."""
    known = known_pixels(cx, task)
    return cx.float() if known is None else fill_in(cx, known)


def on_base(
    tanh: Tensor, base: Tensor, cx: Tensor, task: Corruption, *, lab: bool, detail: Tensor | None
) -> Tensor:
    """The enlarged base + 0.5 tanh + detail, float32, in the network's colour space.

    tanh and detail `[B, 3, H, W]`; base `[B, 3, H or H / 2, ..]`; cx the inputs of the cascade. At
    the resolution of these, known pixels stay as they are, what is added grows from 0 with the
    distance from a hole's edge, and with `lab` the lightness of inputs without colour stays as it
    is.
    """
    with torch.autocast(tanh.device.type, enabled=False):
        up, added, size = base.float(), _GAIN * tanh.float(), tanh.shape[2:]
        if detail is not None:
            added = added + detail
        if up.shape[2:] != size:
            up = F.interpolate(up, size=size, mode="bicubic", antialias=True)
        if cx.shape[2:] != size:
            return up + added
        known = known_pixels(cx, task)
        if known is not None:
            added = added * feather(known, feather_width(task, cx.shape[-1]))
        elif lab and task.grayscale == 1:
            added = torch.cat([torch.zeros_like(added[:, :1]), added[:, 1:]], 1)
        return up + added
