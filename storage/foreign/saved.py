"""Where the numbers of a file of torch.save lie: in its zip format, and in that of before 2020.

Both hold a pickle in which a tensor's storage is a persistent id. Here such an id becomes a
`Storage`, a span of the file that is read when a tensor of it is made. The older format is pickles
in a row: a magic number, a version, facts of the machine, the value, the storages' names; then each
storage's count and numbers.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch

from storage.files import open_plain
from storage.foreign.modules import LEGACY_MAGIC, STORAGES, Storage, Whole
from storage.foreign.pickles import Global, Inert, PickleError, Span, file_end, read_pickle

_SMALL_OPS = 100_000  # of the pickles around the value: a name for each storage
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a file in a zip: signature, lengths of what follows
LEGACY_START = b"\x80\x02\x8a\x0a" + LEGACY_MAGIC.to_bytes(10, "little") + b"."


def read_saved(
    path: Path,
    *,
    allowed: Callable[[str], bool],
    call: Callable[[str, tuple], Any],
) -> Any:
    """The value in a file of torch.save; see `read_pickle` for `allowed` and `call`, which gets
    every tensor's storage as a `Storage`. Raises PickleError, OSError, zipfile.BadZipFile.
    """
    with open_plain(path) as file:
        whole = Whole(path, file)
        if file.read(len(LEGACY_START)) == LEGACY_START:
            file.seek(0)
            return _in_a_row(file, whole, allowed, call)
        with zipfile.ZipFile(file) as archive:
            return _zipped(archive, file, whole, allowed, call)


def _zipped(
    archive: zipfile.ZipFile,
    file: IO[bytes],
    whole: Whole,
    allowed: Callable[[str], bool],
    call: Callable[[str, tuple], Any],
) -> Any:
    names = {info.filename: info for info in archive.infolist()}
    found = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(found) != 1:
        raise PickleError("has no data.pkl: not a file of torch.save")
    if any(i.compress_type != zipfile.ZIP_STORED for i in names.values()):
        raise PickleError("is compressed, which torch.save does not do")
    stem, end = found[0].removesuffix("data.pkl"), file_end(file)
    order = names.get(f"{stem}byteorder")
    if order is not None and order.file_size < 16 and archive.read(order) != b"little":
        raise PickleError("was written on a big-endian machine")
    made: dict[str, Storage] = {}

    def storage(key: Any) -> Any:
        dtype, name, count = _persistent(key)
        name = f"{stem}data/{name}"
        if name not in made:
            info = names.get(name)
            if info is None or info.file_size != count * dtype.itemsize:
                raise PickleError(f"has not the {count} numbers of its storage {ascii(key[2])}")
            file.seek(info.header_offset)
            header = file.read(_LOCAL_HEADER.size)
            if len(header) < _LOCAL_HEADER.size:
                raise PickleError("ends before its numbers")
            sign, *lengths = _LOCAL_HEADER.unpack(header)
            begin = info.header_offset + _LOCAL_HEADER.size + sum(lengths)
            if sign != b"PK\3\4" or begin + info.file_size > end:
                raise PickleError("ends before its numbers")
            made[name] = Storage(dtype, file=whole, span=Span(begin, info.file_size), crc=info.CRC)
        return made[name]

    with archive.open(found[0]) as inner:
        return read_pickle(inner, allowed=allowed, call=call, persistent=storage)


def _in_a_row(
    file: IO[bytes],
    whole: Whole,
    allowed: Callable[[str], bool],
    call: Callable[[str, tuple], Any],
) -> Any:
    made: dict[str, tuple[int, Storage, Span]] = {}
    left = file_end(file)

    def storage(key: Any) -> Any:
        nonlocal left
        if isinstance(key, tuple) and key[:1] == ("module",) and len(key) == 4:
            return key[1]  # a class, beside its source, which is not looked at
        dtype, name, count = _persistent(key)
        if name not in made:
            left -= count * dtype.itemsize
            if left < 0:
                raise PickleError("claims more numbers than it holds")
            span = Span(0, count * dtype.itemsize)
            made[name] = (count, Storage(dtype, file=whole, span=span), span)
        if made[name][0] != count or made[name][1].dtype != dtype:
            raise PickleError(f"has two storages called {ascii(name[:80])}")
        return made[name][1]

    def part(**options: Any) -> Any:
        return read_pickle(
            file, allowed=lambda name: False, call=Inert, max_ops=_SMALL_OPS, **options
        )

    part()  # the magic number
    part()  # the version of the protocol
    system = part()
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise PickleError("was written on a big-endian machine")
    begin = file.tell()
    # Where numbers lie is known only behind the value: first for its storages, then in earnest.
    read_pickle(file, allowed=allowed, call=Inert, persistent=storage)
    order, end = part(), file_end(file)
    for name in order if isinstance(order, list) else ():
        said = int.from_bytes(file.read(8), "little", signed=True)
        count, _, span = made.get(name, (None, None, None)) if isinstance(name, str) else [None] * 3
        if span is None or said != count or file.tell() + len(span) > end:
            raise PickleError("has not the numbers of its storages")
        span.offset = file.tell()
        file.seek(len(span), 1)
    if not isinstance(order, list) or any(span.offset == 0 for _, _, span in made.values()):
        raise PickleError("has not the numbers of its storages")
    file.seek(begin)
    return read_pickle(file, allowed=allowed, call=call, persistent=storage)


def _persistent(key: Any) -> tuple[torch.dtype, str, int]:
    """Type, name and count of a storage's persistent id, in either format."""
    fits = isinstance(key, tuple) and len(key) in (5, 6) and key[0] == "storage"
    kind = key[1] if fits else None
    if not isinstance(kind, Global) or kind.name not in STORAGES or any(key[5:]):
        raise PickleError("has a tensor storage of an unknown form")
    if not isinstance(key[2], str) or type(key[4]) is not int or not 0 <= key[4] < 1 << 48:
        raise PickleError("has a tensor storage of an unknown form")
    return STORAGES[kind.name], key[2], key[4]
