import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from data.decode import decode, resize_rgb
from data.readers.folders import FolderSource
from data.readers.label_maps import read_labels
from storage.errors import DataError
from storage.files import read_bytes
from tests.data.pictures import encoded, noise


def save(image: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def test_rgb_is_exact_and_writable_shape():
    assert (decode(encoded(1)) == noise(1)).all()
    assert decode(encoded(1)).dtype == np.uint8


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "LA", "RGBA"])
def test_modes_become_rgb(mode):
    image = Image.fromarray(noise(2)).convert(mode)
    kind = {"CMYK": "JPEG"}.get(mode, "PNG")
    got = decode(save(image, kind))
    assert got.shape == (24, 30, 3)
    want = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(got.astype(int) - want).mean() < (3 if kind == "JPEG" else 0.01)


def test_16_bit_is_scaled_not_clipped():
    values = np.linspace(0, 65535, 24 * 30).reshape(24, 30).astype(np.uint16)
    for kind in ("PNG", "TIFF"):
        got = decode(save(Image.fromarray(values), kind))
        want = np.rint(values / 257.0)
        assert np.abs(got[..., 0] - want).max() <= 1, kind
        assert (got[..., 0] == got[..., 2]).all()


def test_float_tiff():
    values = np.linspace(0, 1, 600, dtype=np.float32).reshape(20, 30)
    got = decode(save(Image.fromarray(values), "TIFF"))
    assert np.abs(got[..., 1] - values * 255).max() <= 0.51
    values[3, 3] = np.nan
    with pytest.raises(DataError, match="non-finite"):
        decode(save(Image.fromarray(values), "TIFF"), "f.tif")


def test_transparency_is_laid_over_white():
    rgba = np.zeros((4, 6, 4), np.uint8)
    rgba[..., 0] = 255
    rgba[:2, :, 3] = 255
    got = decode(save(Image.fromarray(rgba), "PNG"))
    assert (got[:2] == (255, 0, 0)).all() and (got[2:] == 255).all()
    palette = Image.new("P", (6, 4), 0)
    palette.putpalette([10, 20, 30] * 256)
    assert (decode(save(palette, "PNG", transparency=0)) == 255).all()


def test_orientation_is_applied():
    image = Image.fromarray(noise(3))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side
    got = decode(save(image, "PNG", exif=exif))
    assert (got == np.rot90(noise(3), -1)).all()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"<!DOCTYPE html><html>quota</html>", "web page"),
        (encoded(1, "JPEG")[:300], "truncated|damaged"),
        (encoded(1, "JPEG")[:-200], "truncated"),
        (encoded(1, "PNG")[:-300], "truncated|damaged|broken|incomplete"),
        (b"no picture at all" * 20, "not an image"),
    ],
)
def test_damage_is_named(data, reason):
    with pytest.raises(DataError, match=f"bad image train/n01/x.jpg .*({reason})") as caught:
        decode(data, "train/n01/x.jpg")
    assert "\n" not in str(caught.value)


def test_a_200_megapixel_image_is_refused_before_decoding():
    header = bytearray(save(Image.new("1", (8, 8)), "PNG"))
    header[16:24] = (20000).to_bytes(4, "big") + (10000).to_bytes(4, "big")
    header[29:33] = zlib.crc32(bytes(header[12:29])).to_bytes(4, "big")
    with pytest.raises(DataError, match="too large"):
        decode(bytes(header), "huge.png")


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        decode(tmp_path / "x.png")


def test_center_crop_against_slicing():
    image = noise(5, 20, 31)
    want = np.asarray(Image.fromarray(image[:, 5:25]).resize((8, 8), Image.Resampling.BICUBIC))
    assert (resize_rgb(image, 8, "center") == want).all()
    squash = np.asarray(Image.fromarray(image).resize((8, 8), Image.Resampling.BICUBIC))
    assert (resize_rgb(image, 8) == squash).all()


# ---------------------------------------------------------------- values of more than 8 bits

GREY = noise(7)[..., 0]
BLACK_WHITE = np.where(GREY > 128, 255, 0)


@pytest.mark.parametrize(
    ("values", "want"),
    [
        (GREY.astype(np.int32), GREY),
        (GREY.astype(np.uint16), GREY),
        (GREY.astype(np.int32) * 257, GREY),
        (GREY.astype(np.uint16) * 257, GREY),
        ((GREY > 128).astype(np.int32), BLACK_WHITE),
        ((GREY / 255).astype(np.float32), GREY),
        ((GREY / 127.5 - 1).astype(np.float32), GREY),
        (GREY.astype(np.float32), GREY),
        (GREY.astype(np.float32) * 257, GREY),
        ((GREY / 240 - 0.02).astype(np.float32), np.clip(GREY / 240 - 0.02, 0, 1) * 255),
        (np.zeros((8, 8), np.int32), np.zeros((8, 8))),
    ],
)
def test_the_range_of_values_is_what_they_are(values, want):
    got = decode(save(Image.fromarray(values), "TIFF"))
    assert np.abs(got[..., 0] - want.astype(float)).max() <= 1


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (GREY.astype(np.int32) - 128, "whole numbers from -"),
        (GREY.astype(np.int32) * 1_000_000, "neither 8 bits"),
        ((GREY / 64).astype(np.float32), "floats from .* none of 0..1, -1..1"),
        ((GREY / 60 - 2).astype(np.float32), "floats from -"),
        (GREY.astype(np.float32) - 128, "floats from -"),
        (GREY.astype(np.float32) * 1e6, "floats from"),
    ],
)
def test_values_of_no_known_range_are_refused(values, said):
    with pytest.raises(DataError, match=f"bad image v.tif .*{said}"):
        decode(save(Image.fromarray(values), "TIFF"), "v.tif")


def test_a_format_that_says_its_range_is_believed():
    dark = b"P5 30 24 65535\n" + GREY.astype(">u2").tobytes()
    assert decode(dark).max() <= 1
    assert np.abs(decode(b"P5 30 24 255\n" + GREY.tobytes())[..., 0] - GREY.astype(int)).max() == 0


def png_of_16_bits(values: np.ndarray) -> bytes:
    """A PNG of [H, W, 2] (grey, alpha) or [H, W, 3]."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(name: bytes, body: bytes) -> bytes:
        crc = zlib.crc32(name + body).to_bytes(4, "big")
        return len(body).to_bytes(4, "big") + name + body + crc

    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2}[channels], 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*p) for p in parts)


def tiff_of_16_bits(planes: np.ndarray, photometric: int, order: str) -> bytes:
    """An unpacked TIFF of [N, H, W], a plane after the other."""
    count, height, width = planes.shape
    data, size = planes.astype(f"{order}u2").tobytes(), 2 * height * width
    shorts, longs = f"{order}{max(count, 2)}H", f"{order}{count}I"
    bits, places, sizes = 8 + 2 + 12 * 10 + 4, 200, 240
    at = 300
    entries = [
        (256, 3, 1, width), (257, 3, 1, height), (258, 3, count, bits if count > 1 else 16),
        (259, 3, 1, 1), (262, 3, 1, photometric), (273, 4, count, places if count > 1 else at),
        (277, 3, 1, count), (278, 3, 1, height), (279, 4, count, sizes if count > 1 else size),
        (284, 3, 1, min(count, 2)),
    ]  # fmt: skip
    out = bytearray(at)
    out[:10] = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, 10)
    for k, (tag, kind, n, value) in enumerate(entries):
        form = f"{order}HHIHH" if (kind, n) == (3, 1) else f"{order}HHII"
        struct.pack_into(form, out, 10 + 12 * k, tag, kind, n, value, *[0] * form.endswith("HH"))
    struct.pack_into(shorts, out, bits, *[16] * max(count, 2))
    struct.pack_into(longs, out, places, *[at + size * k for k in range(count)])
    struct.pack_into(longs, out, sizes, *[size] * count)
    return bytes(out) + data


@pytest.mark.parametrize("factor", [1, 257])
def test_colours_of_16_bits(factor):
    values = noise(7).astype(int) * factor
    assert (decode(png_of_16_bits(values)) == noise(7)).all()
    for order in "<>":
        planes = values.transpose(2, 0, 1)
        assert (decode(tiff_of_16_bits(planes, 2, order)) == noise(7)).all()


@pytest.mark.parametrize("opaque", [255, 65535])
@pytest.mark.parametrize("factor", [1, 257])
def test_grey_of_16_bits_with_transparency(factor, opaque):
    values = GREY.astype(int) * factor
    got = decode(png_of_16_bits(np.stack([values, np.full_like(values, opaque)], -1)))
    if (factor, opaque) == (257, 255):
        assert got.min() > 250  # all but transparent
    else:
        assert (got == GREY[..., None]).all()


@pytest.mark.parametrize("factor", [1, 257])
def test_white_may_be_zero(factor):
    got = decode(tiff_of_16_bits(GREY[None].astype(int) * factor, 0, "<"))
    assert (got == 255 - GREY[..., None]).all()


@pytest.mark.parametrize("kind", ["AVIF", "JPEG2000", "TGA", "PCX", "QOI", "DDS", "SGI", "MPO"])
def test_formats_that_pillow_reads(kind):
    got = decode(save(Image.fromarray(noise(7)), kind))
    assert np.abs(got.astype(int) - noise(7)).mean() < 8


def test_a_tiff_that_pillow_does_not_read_says_so():
    data = bytearray(save(Image.fromarray(noise(1)), "TIFF"))
    at = data.find((262).to_bytes(2, "little") + b"\3\0\1\0\0\0")
    data[at + 8] = 99  # a colour space nobody knows
    with pytest.raises(DataError, match="a TIFF of a kind that Pillow does not read"):
        decode(bytes(data), "x.tif")


@pytest.mark.parametrize("what", ["a pipe", "a device", "too large"])
def test_what_is_no_picture_s_file_is_neither_waited_for_nor_read(tmp_path, what):
    """A pipe to which nobody writes, a device without end, a file of holes of 100 GB."""
    file = tmp_path / "a" / "x.png"
    file.parent.mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "a" / "y.png")
    if what == "a pipe":
        os.mkfifo(file)
    elif what == "a device":
        file.symlink_to("/dev/zero")
    else:
        with open(file, "wb") as out:
            out.truncate(100 << 30)
    source = FolderSource(tmp_path)
    for read in (source.image, source.raw):
        with pytest.raises(DataError, match=rf"bad image .*x.png \(.*{what}"):
            read(0)
    assert source.image(1).shape == (8, 8, 3)
    with pytest.raises(DataError, match=f"bad image .*{what}"):
        read_labels(file)


def test_a_file_that_does_not_tell_its_size_is_read_no_further_than_the_limit():
    with pytest.raises(OSError, match="too large"):
        read_bytes("/proc/self/maps", 10)
    assert len(read_bytes("/proc/self/maps", 1 << 20)) > 10
