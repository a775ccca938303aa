"""A picture's file without what is no picture in it: EXIF, XMP, colour profiles, texts, previews.

Metadata that is odd or damaged makes decoders refuse pictures whose pixels are sound. So a file
that could not be decoded is tried once more as `pixels_alone` gives it; pixels are copied as they
are, and a file whose pixels are cut short stays one.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator

# Of a TIFF's directory, what its pixels need (TIFF 6.0, its supplements, JPEG in TIFF).
_TIFF_TAGS = {
    *(254, 255, 256, 257, 258, 259, 262, 263, 266, 273, 274, 277, 278, 279, 280, 281, 284, 292),
    *(293, 301, 317, 318, 319, 320, 321, 322, 323, 324, 325, 332, 334, 338, 339, 340, 341, 342),
    *(347, 512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532),
}
ORIENTATION = 0x0112
_PNG_PIXELS = re.compile(rb"PLTE|IDAT")
_WEBP_PIXELS = re.compile(rb"VP8 |VP8L|ALPH|ANIM|ANMF")
_MOST_OVER = 4  # times the bytes of a file that its chunks may have together
_MOST_BODIES = 64  # previews in a JPEG that are looked through


def pixels_alone(data: bytes) -> bytes | None:
    """The file without its metadata, or None if it is of no format this is known for.

    PNG, JPEG, WebP, GIF, TIFF, AVIF, JPEG 2000. Only of a file that could not be decoded as it is.
    """
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return _png(data)
    if data[:2] == b"\xff\xd8":
        return _jpeg(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return _gif(data)
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return _tiff(data)
    if data[4:8] == b"ftyp":
        return _avif(data)
    if data[:12] == b"\0\0\0\x0cjP  \r\n\x87\n":
        return _jpeg2000(data)
    return None


def orientation_of(data: bytes) -> int:
    """How a picture is to be turned, 1..8 as in EXIF; 1, as it is, where that cannot be read."""
    for found in _exif_blocks(data):
        start = found.find(b"Exif\0\0") + 6 if found[:6] == b"Exif\0\0" else 0
        value = _tag(found[start:])
        if value is not None:
            return value
    return 1


def _exif_blocks(data: bytes) -> Iterator[bytes]:
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        yield from (body for name, body, sound in _png_chunks(data) if sound and name == b"eXIf")
    elif data[:2] == b"\xff\xd8":
        for marker, at, end in _segments(data, 2):
            if marker == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0":
                yield data[at + 4 : end]
    elif data[:4] == b"RIFF":
        yield from (body for name, body in _riff_chunks(data) if name == b"EXIF")


def _tag(tiff: bytes) -> int | None:
    """The orientation in a block of EXIF, if it is there and one of the eight."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None or len(tiff) < 8:
        return None
    (at,) = struct.unpack_from(f"{order}I", tiff, 4)
    if at + 2 > len(tiff):
        return None
    (count,) = struct.unpack_from(f"{order}H", tiff, at)
    for k in range(count):
        entry = at + 2 + 12 * k
        if entry + 12 > len(tiff):
            return None
        tag, kind, _, value = struct.unpack_from(f"{order}HHIH", tiff, entry)
        if tag == ORIENTATION:
            return value if kind == 3 and 1 <= value <= 8 else None
    return None


# ------------------------------------------------------------------------------------------ PNG


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """(name, content, whether it is whole and has its checksum) of every chunk.

    After one whose length is wrong, the next palette or pixels that have theirs are looked for. It
    may lie inside an earlier one: a file is read a few times over at the most.
    """
    at, last, left = 8, 8, _MOST_OVER * len(data)
    while at + 8 <= len(data):
        (length,), name = struct.unpack_from(">I", data, at), data[at + 4 : at + 8]
        end = at + 12 + length
        pixels = name in (b"IHDR", b"PLTE", b"IDAT", b"IEND")
        if not pixels and (end > len(data) or not re.fullmatch(rb"[a-z][A-Za-z]{3}", name)):
            found, left = _next_chunk(data, last + 5, left)
            if found is None:
                return
            at = last = found
            continue
        body, crc = data[at + 8 : end - 4], int.from_bytes(data[end - 4 : end], "big")
        left -= len(body)
        if left < 0:
            return
        yield name, body, end <= len(data) and zlib.crc32(name + body) == crc
        last, at = at, end


def _next_chunk(data: bytes, start: int, left: int) -> tuple[int | None, int]:
    """(where the next one begins or None, bytes that may still be read of the `left` ones)."""
    for match in _PNG_PIXELS.finditer(data, start):
        at = match.start() - 4
        (length,) = struct.unpack_from(">I", data, at)
        end = at + 12 + length
        if end > len(data):
            continue
        left -= length
        if left < 0:
            break
        crc = int.from_bytes(data[end - 4 : end], "big")
        if zlib.crc32(data[at + 4 : end - 4]) == crc:
            return at, left
    return None, left


def _png(data: bytes) -> bytes:
    out, colours = [data[:8]], 0
    for name, body, sound in _png_chunks(data):
        if name == b"IHDR":
            colours = body[9] if len(body) > 9 else 0
        keep = name in (b"IHDR", b"PLTE", b"IDAT")
        if name == b"tRNS" and sound:
            keep = len(body) == {0: 2, 2: 6}.get(colours) or (
                colours == 3 and 1 <= len(body) <= 256
            )
        if keep:
            # a checksum that is wrong stays wrong: these chunks are the picture
            crc = zlib.crc32(name + body) ^ (0 if sound else 1)
            out.append(struct.pack(">I", len(body)) + name + body + struct.pack(">I", crc))
    out.append(b"\0\0\0\0IEND\xaeB`\x82")
    return b"".join(out)


# ----------------------------------------------------------------------------------------- JPEG


def _segments(data: bytes, at: int) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of the segments from `at` to the scan, whose end is the file's.

    Ends early where no segment begins.
    """
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill
            at += 1
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:
            at += 2
            continue
        if marker == 0xDA:
            yield marker, at, len(data)
            return
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker < 0xC0 or marker == 0xD9 or end > len(data) or end < at + 4:
            return
        yield marker, at, end
        at = end


def _body(data: bytes, at: int) -> tuple[int, bytes]:
    """(pixels, file) of what begins at `at`: 0 if it does not come to a scan."""
    out, pixels = [b"\xff\xd8"], 0
    for marker, start, end in _segments(data, at):
        part = data[start:end]
        if marker == 0xDA:
            return pixels, b"".join([*out, part])
        if 0xE0 <= marker <= 0xEF or marker == 0xFE:
            # these two say how colours are coded
            jfif = marker == 0xE0 and part[4:9] == b"JFIF\0" and len(part) >= 18
            adobe = marker == 0xEE and part[4:9] == b"Adobe" and len(part) >= 16
            if not (jfif or adobe):
                continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and len(part) >= 9:
            pixels = int.from_bytes(part[5:7], "big") * int.from_bytes(part[7:9], "big")
        out.append(part)
    return 0, b""


def _jpeg(data: bytes) -> bytes | None:
    pixels, made = _body(data, 2)
    if pixels:
        return made
    # A segment with a wrong length hides what follows: the largest picture that begins with its
    # tables after it, since a preview in EXIF begins so too.
    starts = [m.start() for m in re.finditer(rb"\xff[\xdb\xc0\xc2]", data)][:_MOST_BODIES]
    pixels, made = max((_body(data, at) for at in starts), default=(0, b""), key=lambda b: b[0])
    return made if pixels else None


# ----------------------------------------------------------------------------------------- WebP


def _riff_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(name, content) of every chunk; after one of no name that is known, as `_png_chunks`."""
    at, last, left = 12, 12, _MOST_OVER * len(data)
    while at + 8 <= len(data):
        name, (length,) = data[at : at + 4], struct.unpack_from("<I", data, at + 4)
        pixels = name in (b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF")
        known = pixels or name in (b"EXIF", b"XMP ", b"ICCP")
        if not known or (at + 8 + length > len(data) and not pixels):
            match = _WEBP_PIXELS.search(data, last + 4)
            if match is None:
                return
            at = last = match.start()
            continue
        body = data[at + 8 : at + 8 + length]
        left -= len(body)
        if left < 0:
            return
        yield name, body
        last = at
        at += 8 + length + length % 2


def _webp(data: bytes) -> bytes:
    chunks = list(_riff_chunks(data))
    moving = any(name == b"ANMF" for name, _ in chunks)
    names = {name for name, _ in chunks}
    wanted: tuple[bytes, ...] = (
        (b"VP8X", b"ANIM", b"ANMF") if moving else (b"ALPH", b"VP8 ", b"VP8L")
    )
    if not moving and b"ALPH" in names:
        wanted = (b"VP8X", *wanted)
    out = []
    for name, body in chunks:
        if name == b"VP8X" and body:
            body = bytes([body[0] & 0b00010010]) + body[1:]  # transparency and animation alone
        if name in wanted:
            out.append(name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2))
    made = b"".join(out)
    return b"RIFF" + struct.pack("<I", len(made) + 4) + b"WEBP" + made


# ------------------------------------------------------------------------------------------ GIF


def _gif(data: bytes) -> bytes | None:
    """The first frame, with the block before it that says what is transparent."""
    if len(data) < 13:
        return None
    at = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    head, control, start = data[:at], b"", at
    while at + 2 <= len(data) and data[at] == 0x21:
        end = at + 2
        while end < len(data) and data[end]:
            end += 1 + data[end]
        if data[at + 1] == 0xF9 and end - at == 7:
            control = data[at : end + 1]
        at = end + 1
    if data[at : at + 1] != b",":
        # a block with a wrong length: a frame that is as large as the whole
        at = data.find(b",\0\0\0\0" + data[6:10], start)
    return head + control + data[at:] if at > 0 else None


# ----------------------------------------------------------------------------------------- TIFF


def _tiff(data: bytes) -> bytes | None:
    """The first directory anew behind the file, with what pixels need; offsets stay as they are."""
    order, big = "<" if data[:2] == b"II" else ">", data[2:4] in (b"+\0", b"\0+")
    where, counts, entry, width = (8, "Q", "HHQ", 20) if big else (4, "H", "HHI", 12)
    pointer = "Q" if big else "I"
    try:
        (at,) = struct.unpack_from(order + pointer, data, where)
        (count,) = struct.unpack_from(order + counts, data, at)
    except struct.error:
        return None
    first, kept = at + struct.calcsize(order + counts), []
    for k in range(min(count, 4096)):
        start = first + width * k
        if start + width > len(data):
            break
        tag, kind, n = struct.unpack_from(order + entry, data, start)
        if tag not in _TIFF_TAGS or (tag == ORIENTATION and (kind, n) != (3, 1)):
            continue
        if tag == ORIENTATION and not 1 <= struct.unpack_from(f"{order}H", data, start + 8)[0] <= 8:
            continue
        kept.append(data[start : start + width])
    pad = b"\0" * (-len(data) % 8)
    directory = struct.pack(order + counts, len(kept)) + b"".join(kept)
    end = struct.pack(order + pointer, 0)
    place = struct.pack(order + pointer, len(data) + len(pad))
    head = data[:where] + place + data[where + len(place) :]
    return head + pad + directory + end


# --------------------------------------------------------------------------- AVIF and JPEG 2000


def _avif(data: bytes) -> bytes | None:
    """EXIF and XMP under a name that no decoder looks at."""
    out = bytearray(data)
    for match in re.finditer(rb"infe[\x02\x03]", data):
        at = match.start() + (12 if data[match.start() + 4] == 2 else 14)
        if data[at : at + 4] in (b"Exif", b"mime"):
            out[at : at + 4] = b"free"
    return bytes(out) if out != data else None


def _jpeg2000(data: bytes) -> bytes | None:
    """The bare code stream, where colours need nothing of what stands around it."""
    start = data.find(b"\xff\x4f\xff\x51")
    head = data[: max(start, 0)]
    other_colours = re.search(rb"colr\x01..\0\0\0(?!\x10|\x11)", head, re.DOTALL)
    return None if start < 0 or b"pclr" in head or other_colours else data[start:]
