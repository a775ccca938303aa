"""Layouts drawn: boxes with the names of their classes, over a picture or on white; maps of
classes, and those of omnigan, as pictures.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from storage.pictures import SIDE, as_image, default_font, magnification, shortened

_GOLDEN = 0.618034  # hues of neighbouring classes are far apart


def class_colour(number: int) -> tuple[int, int, int]:
    """RGB of a class, the same everywhere."""
    red, green, blue = colorsys.hsv_to_rgb(number * _GOLDEN % 1, 0.9, 0.85)
    return round(255 * red), round(255 * green), round(255 * blue)


def with_boxes(images: Tensor, boxes: Tensor, classes: Tensor, names: Sequence[str] = ()) -> Tensor:
    """Images [n, C, H, W] in [0, 1] with their boxes drawn: [n, 3, k H, k W], each pixel a square.

    boxes [n, N, 4] x_min, y_min, width, height as shares of the sides; classes [n, N], -1 for no
    box; names: of the classes, written into the boxes where there is room.
    """
    scale = magnification(*images.shape[2:])
    pixels = images.detach().float().cpu().nan_to_num(0.0).clamp(0, 1).mul(255).round().byte()
    large = pixels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1)
    large = large.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    drawn = [
        _drawn(image, rows, which, names)
        for image, rows, which in zip(large, boxes.tolist(), classes.tolist(), strict=True)
    ]
    return torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).float() / 255


def layout_maps(
    boxes: Tensor, classes: Tensor, names: Sequence[str] = (), *, size: int = SIDE
) -> Tensor:
    """The layouts alone, on white: [n, 3, size, size]; arguments as of `with_boxes`."""
    white = torch.ones(len(classes), 3, size, size)
    return with_boxes(white, boxes, classes, names)


def segmentation_maps(segmentation: Tensor, *, none: int = 255) -> Tensor:
    """Classes of pixels [n, h, w] in their colours: [n, 3, h, w] in [0, 1]; `none` is white."""
    table = torch.ones(256, 3)
    for number in range(256):
        if number != none:
            table[number] = torch.tensor(class_colour(number)) / 255
    return table[segmentation.cpu().long().clamp(0, 255)].permute(0, 3, 1, 2)


def _drawn(
    image: Tensor, boxes: Sequence[Sequence[float]], classes: Sequence[int], names: Sequence[str]
) -> np.ndarray:
    from PIL import ImageDraw

    picture = as_image(image)
    height, width = image.shape[:2]
    draw = ImageDraw.Draw(picture)
    font, written = default_font(max(9, height // 14))
    line = max(1, height // 96)
    for (x, y, w, h), number in zip(boxes, classes, strict=True):
        if number < 0:
            continue
        left, top = round(x * (width - 1)), round(y * (height - 1))
        right, bottom = round((x + w) * (width - 1)), round((y + h) * (height - 1))
        colour = class_colour(number)
        draw.rectangle((left, top, max(left, right), max(top, bottom)), outline=colour, width=line)
        if number < len(names):
            text = shortened(written(names[number]), font, max(0, right - left - 2 * line))
            draw.text((left + line + 1, top + line), text, fill=colour, font=font)
    return np.asarray(picture)


def street_map(task: str, output: Tensor) -> Tensor:
    """A map of omnigan as a picture [B, 3, H, W] in [0, 1]: classes [B, H, W] in their colours (s),
    inverse depth [B, 1, H, W] bright where it is near (d), height and water as they are (h, w)."""
    if task == "s":
        return segmentation_maps(output)
    values = output.float()
    if task == "d":
        values = values / values.flatten(1).amax(1).clamp_min(1e-6)[:, None, None, None]
    return values.clamp(0, 1).expand(-1, 3, -1, -1)
