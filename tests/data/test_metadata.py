"""Pictures whose pixels are sound and whose metadata is not."""

import io
import random
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from data.decode import decode
from data.metadata import orientation_of, pixels_alone
from storage.errors import DataError
from tests.data.pictures import encoded, noise

EXIF = Image.Exif()
EXIF[0x010E], EXIF[0x011A] = "a description of some length", 72.0
BLOCK = EXIF.tobytes()  # Exif\0\0, then a TIFF
TURNED = Image.Exif()
TURNED[0x0112] = 6
RATIONAL = struct.pack("<HHII", 0x011A, 5, 1, 8)  # its value begins where it does itself
CIRCLE = b"II*\0\x08\0\0\0\x01\0" + RATIONAL + struct.pack("<I", 8)


def chunk(name: bytes, body: bytes, *, crc: int = 0, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return struct.pack(">I", size) + name + body + struct.pack(">I", zlib.crc32(name + body) ^ crc)


def png(*chunks: bytes, behind: bool = False, plain: bytes = b"") -> bytes:
    """A PNG with chunks before its pixels, or behind them."""
    plain = plain or encoded(1)
    at = len(plain) - 12 if behind else 33
    return plain[:at] + b"".join(chunks) + plain[at:]


def jpeg(*segments: tuple[int, bytes], plain: bytes = b"") -> bytes:
    plain = plain or encoded(1, "JPEG")
    parts = [bytes([255, m]) + struct.pack(">H", len(b) + 2) + b for m, b in segments]
    return plain[:2] + b"".join(parts) + plain[2:]


def entry(kind: int, count: int, value: int) -> bytes:
    """EXIF that says nothing but an orientation, of some type."""
    return b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIII", 0x0112, kind, count, value, 0)


PNGS = {
    "exif is no tiff": chunk(b"eXIf", b"no tiff at all"),
    "empty exif": chunk(b"eXIf", b""),
    "exif cut short": chunk(b"eXIf", BLOCK[6:30]),
    "circular exif": chunk(b"eXIf", CIRCLE),
    "huge exif": chunk(b"eXIf", BLOCK[6:] + bytes(5 << 20)),
    "orientation 9": chunk(b"eXIf", entry(3, 1, 9)),
    "orientation in words": chunk(b"eXIf", entry(2, 4, 0x706F74)),
    "orientation of a thousand": chunk(b"eXIf", entry(3, 1000, 6)),
    "text with a wrong checksum": chunk(b"tEXt", b"Comment\0hello", crc=1),
    "text of 2 MiB": chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2 << 20))),
    "international text": chunk(b"iTXt", b"k\0\1\0en\0k\0" + zlib.compress(bytes(2 << 20))),
    "text packed badly": chunk(b"zTXt", b"Comment\0\x07junk"),
    "no text": chunk(b"tEXt", b""),
    "profile of junk": chunk(b"iCCP", b"name\0\0junk"),
    "profile packed otherwise": chunk(b"iCCP", b"name\0\7junk"),
    "half a gamma": chunk(b"gAMA", b"\0"),
    "half of the colours": chunk(b"cHRM", bytes(5)),
    "no size of pixels": chunk(b"pHYs", b"\0\0"),
    "a wrong checksum of gamma": chunk(b"gAMA", bytes(4), crc=7),
    "transparency of 5 bytes": chunk(b"tRNS", bytes(5)),
    "transparency with a wrong checksum": chunk(b"tRNS", bytes(6), crc=1),
    "no frames": chunk(b"acTL", bytes(8)),
    "half an animation": chunk(b"acTL", b"\0\0\0\2\0"),
    "a frame outside": chunk(b"acTL", struct.pack(">II", 2, 0))
    + chunk(b"fcTL", struct.pack(">IIIIIHHBB", 5, 999, 9, 9, 9, 0, 0, 9, 9)),
    "a length too large": chunk(b"tEXt", b"Comment\0hello", length=1 << 30),
    "a length too small": chunk(b"tEXt", b"Comment\0hello", length=5),
}


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("odd", PNGS)
def test_png(odd, behind):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = decode(png(PNGS[odd], behind=behind))
    assert (got == noise(1)).all()


JPEGS = {
    "exif is no tiff": (0xE1, b"Exif\0\0nothing of the kind"),
    "exif cut short": (0xE1, BLOCK[:30]),
    "circular exif": (0xE1, b"Exif\0\0" + CIRCLE),
    "orientation 0": (0xE1, b"Exif\0\0" + entry(3, 1, 0)),
    "xmp of junk": (0xE1, b"http://ns.adobe.com/xap/1.0/\0\xff\xfe<"),
    "a profile in parts that lack": (0xE2, b"ICC_PROFILE\0\x03\x09junk"),
    "an empty profile": (0xE2, b"ICC_PROFILE\0"),
    "more pictures, of junk": (0xE2, b"MPF\0II*\0\x08\0\0\0\x09\0"),
    "more pictures, that are not there": (
        0xE2,
        b"MPF\0II*\0\x08\0\0\0\x02\0"
        + struct.pack("<HHIIHHII", 0xB001, 4, 1, 7, 0xB002, 7, 32, 1 << 20)
        + bytes(4),
    ),
    "photoshop": (0xED, b"Photoshop 3.0\0008BIM\x03\xed\0\0\0\0\0\x10\0"),
    "half of adobe": (0xEE, b"Adobe"),
    "half of jfif": (0xE0, b"JFIF\0\1"),
    "a comment": (0xFE, bytes(range(256))),
}


@pytest.mark.parametrize("odd", JPEGS)
def test_jpeg(odd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = decode(jpeg(JPEGS[odd]) + b"behind the end")
    assert (got == decode(encoded(1, "JPEG"))).all()


@pytest.mark.parametrize("length", [0, 2, 40, 200, 65535])
def test_jpeg_segment_of_a_wrong_length(length):
    data = jpeg((0xE1, BLOCK + encoded(2, "JPEG", quality=20)))  # with a preview
    data = data[:4] + struct.pack(">H", length) + data[6:]
    big = jpeg((0xE1, BLOCK + encoded(2, "JPEG")[:-2]), plain=encoded(1, "JPEG"))
    assert decode(big).shape == (24, 30, 3)
    assert decode(data).shape == (24, 30, 3)


@pytest.mark.parametrize("name", [b"EXIF", b"XMP ", b"ICCP"])
@pytest.mark.parametrize("fault", ["junk", "too long", "too short", "cut"])
def test_webp(name, fault):
    picture = Image.fromarray(noise(1))
    made = io.BytesIO()
    picture.save(made, "WEBP", lossless=True, exif=BLOCK, xmp=b"<x/>" * 9, icc_profile=bytes(200))
    data = bytearray(made.getvalue())
    at = data.find(name)
    (size,) = struct.unpack_from("<I", data, at + 4)
    if fault == "junk":
        data[at + 8 : at + 8 + size] = b"j" * size
    elif fault == "cut" and name != b"ICCP":
        del data[at + 12 :]
    else:
        data[at + 4 : at + 8] = struct.pack("<I", 1 << 20 if fault == "too long" else 3)
    assert (decode(bytes(data)) == noise(1)).all()


@pytest.mark.parametrize("packed", [None, "tiff_lzw"])
@pytest.mark.parametrize("field", ["tag", "type", "count", "offset"])
def test_tiff(packed, field):
    tags = {270: "a description", 305: "a program", 700: b"<x/>" * 9}
    options = {"compression": packed, "tiffinfo": tags, "exif": EXIF, "icc_profile": bytes(64)}
    data = encoded(1, "TIFF", **options)
    (at,) = struct.unpack_from("<I", data, 4)
    for k in range(struct.unpack_from("<H", data, at)[0]):
        start = at + 2 + 12 * k
        if struct.unpack_from("<H", data, start)[0] not in (270, 282, 305, 700, 34675):
            continue
        odd = bytearray(data)
        where, form, value = {
            "tag": (0, "<H", 65000),
            "type": (2, "<H", 99),
            "count": (4, "<I", 0xFFFFFFFF),
            "offset": (8, "<I", len(data) - 1),
        }[field]
        struct.pack_into(form, odd, start + where, value)
        assert (decode(bytes(odd)) == noise(1)).all()


def test_avif_and_gif():
    data = encoded(1, "AVIF", exif=BLOCK)
    assert (decode(data.replace(b"II*\0", b"junk")) == decode(data)).all()
    plain = encoded(1, "GIF")
    at = 13 + (6 << (plain[10] & 7))
    for block in (
        b"!\xfe\xff",
        b"!\xff\x0bNETSCAPE2.0\0",
        b"!\xff\x0bXMP DataXMP<x/>\0",
        b"!\xfe\0",
    ):
        assert (decode(plain[:at] + block + plain[at:]) == decode(plain)).all()


def test_what_can_be_read_of_an_orientation_is_applied():
    turned = np.rot90(noise(1), -1)
    exif = chunk(b"eXIf", TURNED.tobytes()[6:])
    assert (decode(png(exif, PNGS["text of 2 MiB"])) == turned).all()
    assert (decode(png(exif, PNGS["transparency of 5 bytes"], behind=True)) == turned).all()
    assert (decode(png(chunk(b"eXIf", entry(3, 1, 6) + b"\0" * 20))) == turned).all()
    whole = jpeg((0xE1, TURNED.tobytes()), JPEGS["more pictures, of junk"])
    assert decode(whole).shape == (30, 24, 3) and orientation_of(whole) == 6


def test_valid_transparency_stays():
    clear = chunk(b"tRNS", struct.pack(">3H", *noise(1)[0, 0]))
    got = decode(png(clear, PNGS["text of 2 MiB"]))
    assert (got[0, 0] == 255).all() and (got == decode(png(clear))).all()


@pytest.mark.parametrize("odd", ["exif is no tiff", "text of 2 MiB", "a wrong checksum of gamma"])
def test_damaged_pixels_stay_bad(odd):
    whole = png(PNGS[odd])
    for data in (whole[:-60], whole[:-200] + whole[-12:], whole[:40]):
        with pytest.raises(DataError, match="bad image x.png"):
            decode(data, "x.png")
    for kind in ("JPEG", "GIF", "TIFF", "WEBP"):
        data = encoded(1, kind)
        with pytest.raises(DataError, match="bad image x"):
            decode(data[: len(data) * 2 // 3], "x")


def test_any_bytes_come_to_an_end():
    draw = random.Random(1)
    kinds = ["PNG", "JPEG", "GIF", "TIFF", "WEBP", "AVIF", "JPEG2000"]
    for plain in (encoded(1, kind) for kind in kinds):
        for _ in range(60):
            data = bytearray(plain)
            for _ in range(draw.randrange(1, 9)):
                data[draw.randrange(len(data))] = draw.randrange(256)
            made = pixels_alone(bytes(data[: draw.randrange(1, len(data) + 1)]))
            assert made is None or len(made) < 3 * len(plain) + 64
            orientation_of(bytes(data))


def nested_png(count: int) -> bytes:
    """Pixels in pixels in pixels, with no names of chunks between them."""
    inner = b""
    for _ in range(count):
        inner = chunk(b"IDAT", b"") + struct.pack(">I", len(inner)) + b"IDAT" + inner + b"crc."
    odd = b"\xff\xff\xff\xff    "  # after which the next pixels are looked for
    return encoded(1)[:33] + odd + inner + odd


def nested_webp(count: int) -> bytes:
    inner = b""
    for _ in range(count):
        inner = b"VP8 " + struct.pack("<I", len(inner)) + inner
    return b"RIFF" + struct.pack("<I", len(inner) + 16) + b"WEBP" + inner + b"none" + bytes(4)


@pytest.mark.parametrize("nested", [nested_png, nested_webp])
def test_chunks_inside_chunks_are_not_copied_without_end(nested):
    data = nested(3000)
    bare = pixels_alone(data)
    assert bare is not None and len(bare) < 6 * len(data)
    with pytest.raises(DataError):
        decode(data)
