"""Crops of boxes, for a Frechet distance of things instead of pictures (SceneFID)."""

from __future__ import annotations

import torch
from torch import Tensor


def box_crops(image: Tensor, boxes: Tensor, *, min_side: int = 1) -> tuple[list[Tensor], Tensor]:
    """The pixels of each box, at their own size, and which boxes they are of.

    image: [C, H, W]. boxes: [n, 4] x0 y0 x1 y1 in [0, 1], cut off at the picture's edge; all pixels
    that a box touches belong to it. min_side: smaller ones, in pixels, are left out, as are boxes
    without area. Returns ([C, h, w] of each, int64 numbers of those boxes). SceneFID (Sylvain et
    al. 2021, arXiv:2003.07449) is the Frechet distance of such crops of drawn pictures to those of
    real ones with the same boxes: whatever resizes pictures for the extractor resizes crops.
    Errors: ValueError.
    """
    if image.dim() != 3 or not image.numel():
        raise ValueError(f"image {list(image.shape)} is not [C, H, W]")
    if boxes.dim() != 2 or boxes.shape[1] != 4 or not boxes.isfinite().all():
        raise ValueError(f"boxes {list(boxes.shape)} are not finite numbers [n, 4]")
    if min_side < 1:
        raise ValueError(f"min_side {min_side}: at least 1 pixel")
    height, width = image.shape[1:]
    size = torch.tensor([width, height, width, height], dtype=torch.float64)
    edges = boxes.detach().cpu().double().clamp(0, 1) * size
    # 1e-4 of a pixel: 0.3 in float32 times 10 is not a touch of the fourth pixel
    low, high = (edges[:, :2] + 1e-4).floor().long(), (edges[:, 2:] - 1e-4).ceil().long()
    there = (edges[:, 2:] > edges[:, :2]).all(1) & (high - low >= min_side).all(1)
    kept = there.nonzero()[:, 0]
    corners = torch.cat((low, high), 1)[kept].tolist()
    return [image[:, y0:y1, x0:x1] for x0, y0, x1, y1 in corners], kept
