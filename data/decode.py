"""Any image file to uint8 RGB, or one line that names the file and what is wrong with it.

Decisions: EXIF orientation is applied; transparency is laid over white; 16-bit values are scaled to
8 bits (not clipped, as a bare `convert("RGB")` does); floats in [0, 1] are scaled; the first frame
of an animation is taken; CMYK goes through Pillow's plain conversion. Truncated files are refused.
Images above Pillow's own limit of 178,956,970 pixels (a 200-megapixel file) are refused before
decoding.
"""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from storage.errors import DataError, first_line

MAX_PIXELS = 178_956_970
_WHITE = (255, 255, 255)


def decode(data: bytes | str | os.PathLike, name: str | None = None) -> np.ndarray:
    """Bytes or a file, fully decoded: uint8 [H, W, 3] RGB. DataError `bad image NAME (reason)`."""
    return np.asarray(open_rgb(data, name))


def open_rgb(data: bytes | str | os.PathLike, name: str | None = None) -> Image.Image:
    """As `decode`, as a Pillow image of mode RGB with its pixels loaded."""
    if isinstance(data, (str, os.PathLike)):
        name = os.fspath(data) if name is None else name
        try:
            data = Path(data).read_bytes()
        except OSError as error:
            raise bad_image(name, error.strerror or "unreadable") from None
    name = "of unknown name" if name is None else name
    try:
        with warnings.catch_warnings():
            # Pillow warns at half its limit; a picture under the limit is a picture.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
        if image.width * image.height > MAX_PIXELS:
            raise bad_image(name, f"{image.width}x{image.height}, too large")
        image.load()
        return to_rgb(image)
    except MemoryError:
        raise
    except DataError:
        raise
    except Exception as error:  # decoders raise nearly everything on damaged bytes
        raise bad_image(name, _reason(data, error)) from None


def bad_image(name: str, reason: str) -> DataError:
    """The error for one unusable picture."""
    error = DataError(f"bad image {name} ({reason})")
    error.reason = reason  # type: ignore[attr-defined]
    return error


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow image to mode RGB, upright, opaque, 8 bits."""
    if image.mode.startswith(("I", "F")):
        image = _to_8_bits(image)
    if image.getexif().get(0x0112, 1) != 1:  # orientation
        image = ImageOps.exif_transpose(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        over = Image.new("RGB", image.size, _WHITE)
        over.paste(image, mask=image.getchannel("A"))
        return over
    return image if image.mode == "RGB" else image.convert("RGB")


def resize_rgb(image: Image.Image | np.ndarray, size: int, crop: str = "squash") -> np.ndarray:
    """Pillow bicubic to uint8 [size, size, 3]: the whole picture, or its central square."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    box = None
    if crop == "center":
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        box = (left, top, left + side, top + side)
        if image.size != (side, side):
            image = image.crop(box)
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))


def _to_8_bits(image: Image.Image) -> Image.Image:
    """16-bit, 32-bit and float grey to mode L."""
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("non-finite values")
    if image.mode == "F":
        scale = 255.0 if values.max(initial=0) <= 1 else 1.0
    else:
        scale = 255.0 / 65535.0
    exif = image.getexif()
    grey = Image.fromarray(np.rint(values * scale).clip(0, 255).astype(np.uint8))
    grey.getexif().update(exif)
    return grey


def _reason(data: bytes, error: Exception) -> str:
    head = data[:512].lstrip().lower()
    if not data:
        return "empty file"
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page, not an image"
    text = first_line(error)
    if isinstance(error, Image.DecompressionBombError):
        return "too large: " + text.split(",")[0].lower()
    if "truncated" in text.lower() or isinstance(error, EOFError):
        return "truncated"
    if "cannot identify" in text.lower():
        return "not an image, or a damaged header"
    return text[:120]
