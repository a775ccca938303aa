"""Any image file to uint8 RGB, or one line that names the file and what is wrong with it.

Decisions: EXIF orientation is applied; transparency is laid over white; the first frame of an
animation is taken; CMYK goes through Pillow's plain conversion; values of more than 8 bits are
brought to 8 (`data.ranges`). Metadata never makes a picture bad: what is odd in it is passed over
(`data.metadata`). Truncated files are refused. Images above Pillow's own limit of 178,956,970
pixels (a 200-megapixel file) are refused before decoding.
"""

from __future__ import annotations

import contextlib
import io
import os
import warnings

import numpy as np
from PIL import Image, TiffImagePlugin, features

from data.formats import kind_of_bytes
from data.metadata import ORIENTATION, orientation_of, pixels_alone
from data.ranges import low_bytes, mend_tiles, to_8_bits
from storage.errors import DataError, first_line
from storage.files import read_bytes

MAX_PIXELS = 178_956_970
MAX_BYTES = 8 * MAX_PIXELS  # of a file: what four channels of 16 bits take unpacked
_WHITE = (255, 255, 255)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_OPTIONAL = {"avif": "AVIF", "jpg_2000": "JPEG 2000", "webp": "WebP", "libtiff": "packed TIFF"}


def decode(data: bytes | str | os.PathLike, name: str | None = None) -> np.ndarray:
    """Bytes or a file, fully decoded: uint8 [H, W, 3] RGB. DataError `bad image NAME (reason)`."""
    return np.asarray(open_rgb(data, name))


def open_rgb(data: bytes | str | os.PathLike, name: str | None = None) -> Image.Image:
    """As `decode`, as a Pillow image of mode RGB with its pixels loaded."""
    if isinstance(data, (str, os.PathLike)):
        name = os.fspath(data) if name is None else name
        data = picture_bytes(data, name)
    name = "of unknown name" if name is None else name
    with warnings.catch_warnings():
        # Pillow warns of odd metadata, and of pictures at half its limit. Both are pictures.
        warnings.simplefilter("ignore")
        try:
            return _opened(data, name)
        except (MemoryError, DataError):
            raise
        except Exception as error:  # decoders raise nearly everything on damaged bytes
            fault = why_not_read(data, error)
        try:
            bare = pixels_alone(data)
            if bare is not None:
                return _turned(_opened(bare, name), orientation_of(data))
        except (MemoryError, DataError):
            raise
        except Exception as error:
            if bare is not None and why_not_read(bare, error) == "truncated":
                fault = "truncated"  # which says more than what is odd in metadata
        raise bad_image(name, fault) from None


def picture_bytes(file: str | os.PathLike, name: str | None = None) -> bytes:
    """The bytes of a picture's file, which is a plain one of at most MAX_BYTES. Errors: DataError
    `bad image NAME (reason)`, before anything is waited for or any memory taken."""
    try:
        return read_bytes(file, MAX_BYTES)
    except OSError as error:
        name = os.fspath(file) if name is None else name
        raise bad_image(name, error.strerror or "unreadable") from None


def bad_image(name: str, reason: str) -> DataError:
    """The error for one unusable picture."""
    error = DataError(f"bad image {name} ({reason})")
    error.reason = reason  # type: ignore[attr-defined]
    return error


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow image to mode RGB, upright, opaque, 8 bits. ValueError: values of no known range.

    Warnings and errors that Pillow has about metadata are not passed on.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _to_rgb(image)


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


def _opened(data: bytes, name: str) -> Image.Image:
    """Decoded by Pillow, of mode RGB. Errors: DataError for its size, any other for its bytes."""
    image = Image.open(io.BytesIO(data))
    if image.width * image.height > MAX_PIXELS:
        raise bad_image(name, f"{image.width}x{image.height}, too large")
    mend_tiles(image, data)
    packed = list(image.tile)
    image.load()
    return _to_rgb(low_bytes(image, data, packed) or image)


def _to_rgb(image: Image.Image) -> Image.Image:
    turn = 1
    with contextlib.suppress(Exception):  # EXIF that is no EXIF: the picture stays as it is
        turn = image.getexif().get(ORIENTATION, 1)
    if image.mode.startswith(("I", "F")):
        image = to_8_bits(image)
    image = _turned(image, turn)
    if _is_transparent(image):
        try:
            image = image.convert("RGBA")
        except (ValueError, TypeError, OSError, KeyError, IndexError, OverflowError):
            if image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
                raise
            image = image.copy()
            image.info.pop("transparency", None)  # of a form that is none
            return image.convert("RGB")
        over = Image.new("RGB", image.size, _WHITE)
        over.paste(image, mask=image.getchannel("A"))
        return over
    return image if image.mode == "RGB" else image.convert("RGB")


def _is_transparent(image: Image.Image) -> bool:
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return True
    return image.mode == "P" and image.palette is not None and image.palette.mode.endswith("A")


def _turned(image: Image.Image, turn: object) -> Image.Image:
    """The picture upright, by EXIF's number; as it is for any other number or thing."""
    method = _TURNS.get(turn) if isinstance(turn, int) else None
    return image if method is None else image.transpose(method)


def why_not_read(data: bytes, error: Exception) -> str:
    """What is wrong with the bytes of a picture, by what a decoder raised: a few words."""
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
        return _unidentified(data)
    return text[:120]


def _unidentified(data: bytes) -> str:
    """Why Pillow does not know a file."""
    needs = {b"ftyp": "avif", b"jP  ": "jpg_2000", b"WEBP": "webp"}
    feature = needs.get(data[4:8]) or needs.get(data[8:12])
    if feature and not features.check(feature):
        return f"Pillow here was built without {_OPTIONAL[feature]}"
    if kind_of_bytes(data) == "left out":
        return "of a format that is not read"
    if data[:4] in (b"II*\0", b"MM\0*"):
        try:
            TiffImagePlugin.TiffImageFile(io.BytesIO(data))
        except SyntaxError as error:
            if "pixel mode" in str(error) or "data organization" in str(error):
                return f"a TIFF of a kind that Pillow does not read: {first_line(error)}"
        except Exception:  # damaged otherwise
            pass
    return "not an image, or a damaged header"
