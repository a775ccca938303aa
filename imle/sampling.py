"""Several samples for each input, as validation and `generate_images.py` show them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from imle.codes import CodeGenerator
from imle.contract import image_of_level
from imle.types import has_shown


@torch.no_grad()
def draw_samples(
    model: torch.nn.Module,
    z: CodeGenerator,
    cx: Tensor,
    image_ids: Tensor,
    num_samples: int,
    *,
    loop: int,
    first: int = 0,
    parallel: int = 32,
    temperature: float | Sequence[float] = 1.0,
) -> Tensor:
    """Last-level images [B, num_samples, C, H, W] in [0, 1], sample k of image b by its own key.

    Sample k has the codes (loop, image id, level, candidate first + k), so it does not depend on
    what else is drawn beside it. A mixture shows its components in turn, k mod their number. cx
    [B, C, h, w] corrupted inputs, on the model's device. parallel: rows evaluated at a time.
    temperature: codes are multiplied by it (as in Glow, Kingma and Dhariwal 2018): below 1, images
    nearer to the middle of the distribution. Several: sample k has number k, those beyond them the
    last, as (0, 1) the middle and samples around it.
    """
    heats = list(temperature) if isinstance(temperature, Sequence) else [float(temperature)]
    rows = []
    for k in range(num_samples):
        ids = torch.full((1,), first + k, dtype=torch.int64, device=cx.device)
        shown = None
        if z.num_components:
            shown = torch.full_like(image_ids, (first + k) % z.num_components)
        rows.append(
            [
                heats[min(first + k, len(heats) - 1)]
                * z.draw(level, loop, image_ids, ids, cx.device, components=shown)
                for level in range(z.levels)
            ]
        )
    codes = [torch.stack(level, 1).flatten(0, 1) for level in zip(*rows, strict=True)]
    inputs = cx.repeat_interleave(num_samples, 0)
    images = []
    for i in range(0, len(inputs), parallel):
        x = inputs[i : i + parallel]
        made = image_of_level(model, x, [c[i : i + parallel] for c in codes], -1)
        images.append(model.shown(made, x) if has_shown(model) else made)
    return torch.cat(images).unflatten(0, (len(cx), num_samples))
