"""Values of more than 8 bits, brought to 0..255 by what they are.

What a file says counts: 16 bits of JPEG 2000 and of PGM are 0..65535. Where it says no more than
how values are stored, the values themselves decide, picture by picture:

    whole numbers   0 and 1: black and white.  0..255: as they are.  0..65535: scaled
    floats          0..1, -1..1, 0..255 or 0..65535, up to a tenth beyond, which resampling adds;
                    that tenth is clipped

Anything else is refused: it has no range of which it could be said how bright it is.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageFile
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, PLANAR_CONFIGURATION

_SIXTEEN_BITS = ("JPEG2000", "PPM")
_OVER = 0.1  # of a float's range, which bicubic and Lanczos reach beyond it
_GREY_AND_ALPHA = "LA;16B"
_OTHER_END = {";16B": ";16L", ";16L": ";16B"}
_LEAST = 16.0  # what the brightest of a float picture in 0..255 has at least, unless all are whole


def to_8_bits(image: Image.Image) -> Image.Image:
    """A picture of mode I, I;16 or F as one of mode L. ValueError: values of no known range."""
    values = np.asarray(image).astype(np.float64)
    tags = getattr(image, "tag_v2", None)  # of a TIFF, lost by a copy
    if not np.isfinite(values).all():
        raise ValueError("non-finite values")
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if image.format in _SIXTEEN_BITS and image.mode != "F":
        scale, shift = 255.0 / 65535.0, 0.0
    elif image.mode == "F":
        scale, shift = _of_floats(values, low, high)
    else:
        scale, shift = _of_whole(low, high), 0.0
    made = np.rint(values * scale + shift).clip(0, 255).astype(np.uint8)
    if tags is not None and tags.get(PHOTOMETRIC_INTERPRETATION) == 0:
        made = 255 - made  # white is 0, which Pillow minds in pictures of 8 bits alone
    return Image.fromarray(made)


def mend_tiles(image: ImageFile.ImageFile, data: bytes) -> None:
    """Say of a TIFF whose planes of 16 bits lie one after the other that they have 16 bits.

    Pillow reads them as of 8. image: as opened, its pixels not loaded; data: its file.
    """
    tags = getattr(image, "tag_v2", None)
    if (
        tags is None
        or tags.get(PLANAR_CONFIGURATION) != 2
        or max(tags.get(BITSPERSAMPLE, [0])) < 16
    ):
        return
    end = ";16L" if data[:2] == b"II" else ";16B"
    image.tile = [_widened(tile, end) for tile in image.tile]


def _widened(tile: Any, end: str) -> Any:
    """A tile of one colour, of which it is said that its values have 16 bits."""
    if tile.codec_name != "raw" or tile.args[0] not in ("R", "G", "B", "A"):
        return tile
    return tile._replace(args=(tile.args[0] + end, *tile.args[1:]))


def _of_whole(low: float, high: float) -> float:
    if low < 0 or high > 65535:
        raise ValueError(
            f"whole numbers from {low:.0f} to {high:.0f}: neither 8 bits (0..255) nor 16 (0..65535)"
        )
    return 255.0 if high <= 1 else 1.0 if high <= 255 else 255.0 / 65535.0


def _of_floats(values: np.ndarray, low: float, high: float) -> tuple[float, float]:
    if low >= -_OVER and high <= 1 + _OVER:
        return 255.0, 0.0
    if low >= -1 - _OVER and high <= 1 + _OVER:
        return 127.5, 127.5
    whole = high <= _LEAST and bool((values == np.rint(values)).all())
    for top in (255.0, 65535.0):
        if low >= -_OVER * high and high <= (1 + _OVER) * top and (high >= _LEAST or whole):
            return 255.0 / top, 0.0
    raise ValueError(
        f"floats from {low:.4g} to {high:.4g}: none of 0..1, -1..1, 0..255 and 0..65535"
    )


def low_bytes(image: Image.Image, data: bytes, packed: Sequence[Any]) -> Image.Image | None:
    """The low bytes of a picture in colour, or of grey with transparency, of which Pillow gave high
    bytes that are all 0.

    So reads a picture of 16 bits a channel whose values are 0..255. image: as Pillow decoded it;
    data: its file; packed: its tiles before that. None for any other picture.
    """
    names = [tile.args[0] if isinstance(tile.args, tuple) else tile.args for tile in packed]
    if not names or any(not isinstance(n, str) or n[-4:] not in _OTHER_END for n in names):
        return None
    if image.mode not in ("RGB", "RGBA") or any(high for _, high in _colours(image)):
        return None
    made: Image.Image
    again = Image.open(io.BytesIO(data))
    if not isinstance(again, ImageFile.ImageFile):
        return None
    grey = names == [_GREY_AND_ALPHA]  # which has no twin: its four bytes as if they were colours
    again.tile = [tile._replace(args="RGBA") if grey else _swapped(tile) for tile in packed]
    try:
        again.load()
    except (ValueError, OSError):  # this way of packing has no twin
        return None
    if grey:
        _, low, high_alpha, low_alpha = again.split()
        alpha = high_alpha if high_alpha.getextrema()[1] else low_alpha
        made = Image.merge("RGBA", [low, low, low, alpha])
    else:
        made = again
    return made if any(high for _, high in _colours(made)) else None


def _colours(image: Image.Image) -> list[tuple[float, float]]:
    """(least, most) of red, green and blue."""
    return list(image.getextrema()[:3])  # type: ignore[arg-type]


def _swapped(tile: Any) -> Any:
    """A tile whose two bytes of a value are taken in the other order."""
    args = tile.args if isinstance(tile.args, tuple) else (tile.args,)
    name = args[0][:-4] + _OTHER_END[args[0][-4:]]
    return tile._replace(args=(name, *args[1:]) if isinstance(tile.args, tuple) else name)
