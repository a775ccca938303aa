"""One file of a picture or of a map -> an array. Values are never resized or guessed here."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from data.decode import MAX_BYTES, MAX_PIXELS, bad_image, decode
from data.formats import is_image_name
from data.omni.words import NO_CLASS
from data.readers.label_maps import read_labels
from storage.errors import DataError, first_line

ARRAY = ".npy"
LOSSY = (".jpg", ".jpeg", ".webp", ".jfif")


def read_picture(path: str) -> np.ndarray:
    """A picture, uint8 [H, W, 3]: an image file, or a .npy of uint8 or of values in [0, 1].

    Errors: DataError, one line that names the file.
    """
    if not path.lower().endswith(ARRAY):
        return decode(path)
    array = read_array(path)
    if array.ndim == 2:
        array = np.repeat(array[:, :, None], 3, 2)
    if array.ndim != 3 or array.shape[2] != 3:
        raise bad_image(path, f"an array of {_shape(array)}, a picture is HxWx3")
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind != "f" or not (array.min() >= 0 and array.max() <= 1):
        raise bad_image(path, f"{array.dtype} {_range(array)}: uint8, or values in [0, 1]")
    return (array * 255).round().astype(np.uint8)


def read_map(
    key: str, path: str, classes: int = NO_CLASS, no_class: int | None = None
) -> np.ndarray:
    """A map [H, W] of one of MAPS. classes: numbers of `s` below which a pixel's has to be.
    no_class: of `s`, a number in files that is no class, besides NO_CLASS.

    d: float32, as it stands in the file (0: unknown). h: float32 in [0, 1]; numbers of 8 and 16
    bits are divided by the largest of them, others have to be in it. w: float32, 1 where the file
    is not 0. s: int32, the number of a class or NO_CLASS; of a file that loses nothing.
    Errors: DataError, one line that names the file.
    """
    if key == "s":
        return _segments(path, classes, no_class)
    values = _single(path)
    largest = np.iinfo(values.dtype).max if values.dtype in (np.uint8, np.uint16) else 1
    out = values.astype(np.float32)
    if not np.isfinite(out).all():
        raise bad_image(path, "values that are not finite")
    if key == "w":
        return (out != 0).astype(np.float32)
    if key == "h":
        out /= largest
        if out.min() < 0 or out.max() > 1:
            raise bad_image(path, f"heights {_range(values)}: in [0, 1], or integers of 8, 16 bits")
    elif out.min() < 0:
        raise bad_image(path, f"depths {_range(values)}: none is negative")
    return out


def read_array(path: str) -> np.ndarray:
    """The array of a .npy file, which must not be empty or have objects. Errors: DataError."""
    try:
        # What its header claims is compared with the file's size before memory is taken.
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(mapped, np.ndarray) and mapped.nbytes > MAX_BYTES:
            raise bad_image(path, f"an array of {_shape(mapped)}, too large")
        array = np.array(mapped) if isinstance(mapped, np.ndarray) else None
    except DataError:
        raise
    except OSError as error:
        raise bad_image(path, error.strerror or first_line(error, 80)) from None
    except (ValueError, EOFError) as error:
        raise bad_image(path, first_line(error, 80)) from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf" or not array.size:
        raise bad_image(path, "no array of numbers")
    return array


def _segments(path: str, classes: int, no_class: int | None) -> np.ndarray:
    name = path.lower()
    if name.endswith(LOSSY):
        raise bad_image(path, "a JPEG or WebP changes the numbers of classes: use PNG or .npy")
    labels = _plane(read_array(path), path) if name.endswith(ARRAY) else read_labels(Path(path))
    if labels.dtype.kind == "f" and not (labels == np.floor(labels)).all():
        raise bad_image(path, "numbers of classes are whole")
    labels = labels.astype(np.int32)
    if no_class is not None:
        labels[labels == no_class] = NO_CLASS
    wrong = (labels >= classes) & (labels != NO_CLASS) | (labels < -1)
    if wrong.any():
        raise bad_image(
            path, f"class {int(labels[wrong][0])} of {classes}, which are numbered from 0"
        )
    return np.where(labels < 0, NO_CLASS, labels)


def _single(path: str) -> np.ndarray:
    """One channel [H, W] with the values that stand in the file; colours have to be greys."""
    if path.lower().endswith(ARRAY):
        return _plane(read_array(path), path)
    if not is_image_name(path):
        raise bad_image(path, "neither a .npy nor an image")
    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("ignore")
            if image.width * image.height > MAX_PIXELS:
                raise bad_image(path, f"{image.width}x{image.height}, too large")
            if image.mode in ("P", "RGBA", "LA", "CMYK"):
                image = image.convert("RGB")
            values = np.array(image)
    except (MemoryError, DataError):
        raise
    except Exception as error:  # decoders raise nearly everything on damaged bytes
        raise bad_image(path, first_line(error)[:120]) from None
    if values.dtype == np.int32 and values.min() >= 0 and values.max() < 1 << 16:
        values = values.astype(np.uint16)  # how Pillow opens a PNG of 16 bits
    return _plane(values, path)


def _plane(array: np.ndarray, path: str) -> np.ndarray:
    if array.ndim == 3 and array.shape[2] in (1, 3):
        spread = np.ptp(array.astype(np.int64), axis=2).max() if array.dtype.kind != "f" else 0
        if spread > (12 if path.lower().endswith(LOSSY) else 0):
            raise bad_image(path, "a map has one channel, this is a colour picture")
        array = array[:, :, 0]
    if array.ndim != 2:
        raise bad_image(path, f"an array of {_shape(array)}, a map is HxW")
    return array.astype(np.uint8) if array.dtype == bool else array


def _shape(array: np.ndarray) -> str:
    return "x".join(map(str, array.shape)) or "one number"


def _range(array: np.ndarray) -> str:
    return f"from {array.min():g} to {array.max():g}"
