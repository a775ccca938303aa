"""Pictures of many images in one PNG."""

from pathlib import Path

import torch

from storage.errors import UsageError
from storage.files import writing

_GAP = 2  # pixels between images, white


def save_grid(path: Path, images: torch.Tensor, ncol: int) -> Path:
    """Write images [N, 3 or 1, H, W] in [0, 1] to a PNG, row by row, `ncol` a row, atomically."""
    from PIL import Image

    if images.ndim != 4 or images.shape[1] not in (1, 3) or images.shape[0] < 1 or ncol < 1:
        raise UsageError(
            f"sample grid {path.name}: images of shape {tuple(images.shape)} in {ncol} columns; "
            "need [N, 3 or 1, H, W] and at least one of each"
        )
    pixels = images.detach().float().cpu().nan_to_num(0.0).clamp(0, 1).mul(255).round().byte()
    n, _, height, width = pixels.shape
    pixels = pixels.expand(n, 3, height, width).permute(0, 2, 3, 1)
    nrow = -(-n // ncol)
    sheet = torch.full(
        (nrow * (height + _GAP) - _GAP, ncol * (width + _GAP) - _GAP, 3), 255, dtype=torch.uint8
    )
    for i in range(n):
        top, left = i // ncol * (height + _GAP), i % ncol * (width + _GAP)
        sheet[top : top + height, left : left + width] = pixels[i]
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path, durable=False) as file:  # drawn again more easily than flushed
        Image.fromarray(sheet.numpy()).save(file, "PNG")
    return path
