"""Pictures whose values are class numbers: never scaled, never converted to colours."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from data.decode import MAX_PIXELS, bad_image, picture_bytes
from storage.errors import DataError, first_line


def read_labels(file: Path, width: int | None = None, height: int | None = None) -> np.ndarray:
    """int32 [H, W] of a PNG of one channel (8 or 16 bits, or a palette, whose indices count).

    width, height: what it must be. Errors: DataError `bad image FILE (...)`.
    """
    try:
        with Image.open(io.BytesIO(picture_bytes(file))) as image:
            if image.width * image.height > MAX_PIXELS:
                raise bad_image(str(file), "too large")
            if image.mode not in ("L", "P", "1", "I", "I;16"):
                raise bad_image(str(file), f"its mode is {image.mode}, classes have one channel")
            labels = np.array(image).astype(np.int32)
    except (MemoryError, DataError):
        raise
    except Exception as error:  # decoders raise nearly everything on damaged bytes
        raise bad_image(str(file), first_line(error)[:120]) from None
    if width is not None and labels.shape != (height, width):
        raise bad_image(
            str(file), f"it is {labels.shape[1]}x{labels.shape[0]}, its picture {width}x{height}"
        )
    return labels
