"""Which files are pictures: one rule for folders, zips, packing and every tool.

    read        a suffix of PICTURES, or no known suffix and the first bytes of such a format
    left out    a picture of a format that is not read (LEFT_OUT): counted by suffix, and named
    no picture  hidden files, macOS litter, notes (.txt, .json, ...), anything else

The lists are written down, not asked of the installed Pillow: what is in a set, and in which order,
must not depend on how Pillow was built. A picture that this Pillow cannot decode is a bad picture.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

PICTURES = (
    *(".apng", ".avif", ".avifs", ".bmp", ".dds", ".dib", ".gif", ".icb", ".j2c", ".j2k"),
    *(".jfif", ".jp2", ".jpc", ".jpe", ".jpeg", ".jpf", ".jpg", ".jpx", ".mpo", ".pbm"),
    *(".pcx", ".pfm", ".pgm", ".png", ".pnm", ".ppm", ".qoi", ".ras", ".sgi", ".tga"),
    *(".tif", ".tiff", ".vda", ".vst", ".webp"),
)
# Icons, drawings, projects of editors, cameras' own formats, and what few programs write: either
# no picture to learn from, or nothing that Pillow decodes.
LEFT_OUT = (
    *(".3fr", ".arw", ".avci", ".blp", ".bw", ".cin", ".cr2", ".cr3", ".cur", ".dcm", ".dcr"),
    *(".dcx", ".dicom", ".dng", ".dpx", ".emf", ".eps", ".erf", ".exr", ".fit", ".fits", ".flc"),
    *(".fli", ".ftc", ".ftu", ".gbr", ".hdp", ".hdr", ".heic", ".heics", ".heif", ".heifs", ".hif"),
    *(".icns", ".ico", ".im", ".jls", ".jxl", ".jxr", ".kdc", ".ktx", ".ktx2", ".mrw", ".msp"),
    *(".nef", ".nii", ".nrw", ".orf", ".palm", ".pam", ".pcd", ".pef", ".psb", ".psd", ".pvr"),
    *(".pxr", ".raf", ".raw", ".rgb", ".rgba", ".rw2", ".rwl", ".srw", ".svg", ".svgz", ".wdp"),
    *(".wmf", ".x3f", ".xbm", ".xcf", ".xpm"),
)
# Not opened to look at their first bytes: a set may have one such file for every picture.
_NOTES = frozenset(
    "bz2 c cfg csv css db doc docx gz h5 hdf5 htm html ini ipynb js json jsonl lmdb lock "
    "log lst mat md mdb mp4 mpeg mpg npy npz parquet part pdf pickle pkl ps pt pth py pyc rar rst "
    "safetensors sh sha256 tar tgz toml tsv txt wav xls xlsx xml xz yaml yml zip zst".split()
)
HEAD = 32  # bytes that `kind_of_bytes` looks at
_BITMAP_HEADERS = (12, 40, 52, 56, 64, 108, 124)
_NETPBM = re.compile(rb"P(?:[1-6][\s#]+[\d#]|[fF]\n\d)")


def is_image_name(name: str) -> bool:
    """True for the file names read as images: a known suffix, not hidden, not macOS litter."""
    base = name.rsplit("/", 1)[-1]
    return base.lower().endswith(PICTURES) and not base.startswith(".")


def is_picture_file(path: str | os.PathLike[str]) -> bool:
    """Whether a file is read as a picture, by its name or else by its first bytes."""
    return takes(os.path.basename(path), lambda: head_of(path))


def takes(name: str, head: Callable[[], bytes], left_out: list[str] | None = None) -> bool:
    """Whether a file is read as a picture.

    name: with or without folders. head: gives the first `HEAD` bytes; called only where the name
    tells nothing. left_out: is given the names of pictures of formats that are not read.
    """
    base = name.rsplit("/", 1)[-1].lower()
    if base.startswith("."):
        return False
    if base.endswith(PICTURES):
        return True
    suffix = os.path.splitext(base)[1]
    if suffix[1:] in _NOTES:
        return False
    told = "left out" if suffix in LEFT_OUT else kind_of_bytes(head())
    if told == "left out" and left_out is not None:
        left_out.append(name)
    return told == "read"


def head_of(path: str | os.PathLike[str]) -> bytes:
    """The first bytes of a plain file; none of anything that cannot be read."""
    try:
        # not of a pipe or a device, which would be waited for
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return b""
    try:
        return os.read(descriptor, HEAD)
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def kind_of_bytes(head: bytes) -> str:
    """What a file is by its first bytes: "read", "left out", or "" for no picture."""
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"qoif", b"DDS ", b"\xff\x4f\xff\x51"):
        return "read"
    if head[:3] == b"\xff\xd8\xff" or head[:6] in (b"GIF87a", b"GIF89a"):
        return "read"
    if head[:8] in (b"\x89PNG\r\n\x1a\n", b"\0\0\0\x0cjP  ") or _NETPBM.match(head):
        return "read"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "read"
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BITMAP_HEADERS:
        return "read"
    if head[4:8] == b"ftyp":
        if head[8:12] in (b"avif", b"avis"):
            return "read"
        if head[8:12] in (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"):
            return "left out"
    if head[:4] == b"8BPS" or head[:2] == b"\xff\x0a" or head[:8] == b"\0\0\0\x0cJXL ":
        return "left out"
    return ""


def by_suffix(names: Iterable[str]) -> Counter[str]:
    """How many files have which suffix, in small letters; "" is none."""
    return Counter(os.path.splitext(name.rsplit("/", 1)[-1].lower())[1] for name in names)


def said(left_out: Mapping[str, int]) -> str:
    """`left out: 6 .heic, 2 without a suffix (formats that are not read)`; "" for nothing."""
    if not left_out:
        return ""
    parts = [f"{n} {suffix or 'without a suffix'}" for suffix, n in sorted(left_out.items())]
    return f"left out: {', '.join(parts)} (formats that are not read)"
