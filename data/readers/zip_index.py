"""The directory of a zip and its members, read in place.

Members are read with `pread` at their own offsets: no shared file position, so one open file serves
forked workers, and the directory is three integer arrays instead of a Python object a member.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from data.decode import bad_image
from data.formats import HEAD, by_suffix, said, takes
from data.readers.tree import (
    Layout,
    NameTree,
    held_archives,
    is_archive,
    is_latent,
    is_visible,
    member_name,
    understand,
    visible_part,
)
from data.sources import PathTable, Place, is_image_name
from storage.errors import DataError
from storage.listing import list_digest

# One picture's file; larger members are refused before they are inflated.
MAX_MEMBER = 1 << 30
# A list of class names.
MAX_NOTE = 1 << 26
# Files of sets that come as arrays (data.readers.arrays).
_ARRAYS = re.compile(
    r"(?:^|/)(?:data_batch_1(\.bin)?|cifar-100-\w+/train(\.bin)?|train_X\.bin"
    r"|train-images[.-]idx3-ubyte(\.gz)?)$"
)
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_PACKED_HEAD = 4096  # bytes that surely unpack to the first of a member


def archive_of(path: Path) -> Path:
    """The zip a path means: itself, or NAME.zip for NAME."""
    return path if path.suffix.lower() == ".zip" else Path(f"{path}.zip")


class ZipIndex:
    """What is in a zip, by normalised names, read once: hand it to the sources of its splits.

    DataError: it cannot be read, or has a name that leads outside.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        if not file.exists():
            raise DataError(f"{file} does not exist")
        self.members: dict[str, zipfile.ZipInfo] = {}
        self._heads: dict[str, bytes] = {}  # of members whose names tell nothing
        folders = []
        with opened_zip(file) as archive:
            for member in archive.infolist():
                name = member_name(member.filename)
                if name is None:
                    raise DataError(
                        f"unsafe archive {file}: unsafe member {member.filename[:100]!r}; "
                        "nothing is read of it"
                    )
                if not name:
                    continue
                if not is_visible(name):
                    folders.append(visible_part(name))  # would be there if it were unpacked
                    continue
                if member.filename[-1] in "/\\":
                    folders.append(name)
                elif name in self.members and (is_latent(name) or is_image_name(name)):
                    raise DataError(f"unsafe archive {file}: two members named {name[:100]}")
                else:
                    self.members[name] = member
        self.tree = NameTree(file, self.members, folders, self.read, self.head)

    @functools.cached_property
    def layout(self) -> Layout:
        """Where its pictures begin, its splits and notes. Errors: as `understand`."""
        return understand(self.tree)

    def read(self, name: str, limit: int = MAX_NOTE) -> bytes | None:
        """A small file; None if it is not there, DataError if it is huge or damaged."""
        if (member := self.members.get(name)) is None:
            return None
        with opened_zip(self.file) as archive:
            return read_note(archive, member, limit)

    def head(self, name: str) -> bytes:
        """The first bytes of a file; none of one that cannot be read."""
        if name not in self._heads:
            self._heads[name] = b""
            damaged = (DataError, RuntimeError, OSError, ValueError, struct.error, zlib.error)
            with contextlib.suppress(*damaged):
                self._heads[name] = _head(self.file, self.members[name])
        return self._heads[name]

    def pictures(
        self,
        at: str = "",
        also: Callable[[str], bool] | None = None,
        left_out: list[str] | None = None,
    ) -> list[str]:
        """Names below a folder, sorted, of pictures (`data.formats`) and what `also` accepts.

        left_out: is given the names of pictures of formats that are not read. DataError for none,
        or one that cannot be read.
        """
        unread: list[str] = [] if left_out is None else left_out
        below = (n for n in self.members if n.startswith(at))
        names = sorted(
            n for n in below if (also and also(n)) or takes(n, partial(self.head, n), unread)
        )
        for name in names:
            self._check(self.members[name])
        if not names:
            held = held_archives([n for n in self.members if is_archive(n)])
            if any(_ARRAYS.search(n) for n in self.members):
                held += (
                    "; it holds arrays as CIFAR, STL-10 or MNIST are distributed, which are read "
                    "of a zip by `python data/SetupDataset.py --data NAME --source "
                    f"{self.file}`"
                )
            what = "images or latents" if also else "images"
            other = f"; {said(by_suffix(unread))}" if unread else ""
            raise DataError(f"no {what} in {self.file}{held}{other}")
        return names

    def _check(self, m: zipfile.ZipInfo) -> None:
        if m.flag_bits & 0x1:
            raise DataError(f"{self.file} is encrypted ({m.filename}); unpack it by hand")
        if m.compress_type not in _METHODS:
            raise DataError(
                f"{self.file} uses compression {m.compress_type} ({m.filename}); unpack it: "
                f"python data/SetupDataset.py --data NAME --source {self.file}"
            )
        if stat.S_IFMT(m.external_attr >> 16) not in (0, stat.S_IFREG):
            raise DataError(
                f"unsafe archive {self.file}: unsafe member {m.filename[:100]!r} (link or device)"
            )

    def files(self, names: Sequence[str]) -> ZipFiles:
        """Some of the files, in this order."""
        return ZipFiles(self.file, names, [self.members[name] for name in names])

    def place(self) -> Place:
        """The zip in words."""
        return Place(f"the zip {self.file}", tuple(self.layout.splits), self.layout.unused)


def _head(file: Path, m: zipfile.ZipInfo) -> bytes:
    """The first bytes of a member. Errors: many, for one that is damaged or encrypted."""
    if m.flag_bits & 0x1 or m.compress_type not in _METHODS:
        with opened_zip(file) as archive, archive.open(m) as member:
            return member.read(HEAD)
    # Not by zipfile, which would read the directory of the whole zip for each member.
    with open(file, "rb") as handle:
        fd = handle.fileno()
        packed = os.pread(fd, min(m.compress_size, _PACKED_HEAD), _begin_of(fd, m.header_offset))
    if m.compress_type == zipfile.ZIP_DEFLATED:
        packed = zlib.decompressobj(-15).decompress(packed, HEAD)
    return packed[:HEAD]


def _begin_of(fd: int, offset: int) -> int:
    """Where the bytes of the member begin whose header is at `offset`. ValueError: no header."""
    fields = _LOCAL_HEADER.unpack(os.pread(fd, _LOCAL_HEADER.size, offset))
    if fields[0] != b"PK\x03\x04":
        raise ValueError("the zip's directory points elsewhere")
    return offset + _LOCAL_HEADER.size + fields[9] + fields[10]


class ZipFiles:
    """Members of a zip by their names, in the order given: `raw(i)` is the i-th one's bytes."""

    def __init__(self, file: Path, names: Sequence[str], members: list[zipfile.ZipInfo]) -> None:
        self.file = file
        self._names = PathTable(names)
        self._place = np.asarray(
            [
                (m.header_offset, m.compress_size, m.file_size, m.CRC, m.compress_type)
                for m in members
            ],
            dtype=np.int64,
        ).reshape(-1, 5)
        self._handle: tuple[int, object] | None = None

    def __len__(self) -> int:
        return len(self._place)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_handle": None}

    def path(self, i: int) -> str:
        """`archive.zip/train/class/picture`."""
        return f"{self.file}/{self._names[i]}"

    def sizes(self) -> np.ndarray:
        """int64 [N], bytes of each."""
        return self._place[:, 2]

    def raw(self, i: int) -> bytes:
        """The member's bytes, checked against its CRC; DataError naming archive and member."""
        offset, packed, size, crc, method = (int(v) for v in self._place[i])
        if max(size, packed) > MAX_MEMBER:
            raise bad_image(self.path(i), f"{max(size, packed)} bytes, too large")
        try:
            fd = self._descriptor()
            data = os.pread(fd, packed, _begin_of(fd, offset))
            if method == zipfile.ZIP_DEFLATED:
                data = zlib.decompressobj(-15).decompress(data, size + 1)
            if len(data) != size or zlib.crc32(data) != crc:
                raise ValueError("damaged in the zip: CRC mismatch")
        except (OSError, ValueError, struct.error, zlib.error) as error:
            raise bad_image(self.path(i), str(error)) from None
        return data

    def _descriptor(self) -> int:
        pid = os.getpid()
        if self._handle is None or self._handle[0] != pid:
            self._handle = (pid, open(self.file, "rb"))  # noqa: SIM115 - lives as long as we do
        return self._handle[1].fileno()  # type: ignore[attr-defined]


class RawFiles(Protocol):
    """Files by number: members of a zip, or what reads as they do."""

    def path(self, i: int) -> str: ...

    def raw(self, i: int) -> bytes: ...


class MemberSource:
    """What sources over RawFiles answer alike; they set these when they are made."""

    _files: RawFiles
    _paths: PathTable
    _labels: np.ndarray

    def __len__(self) -> int:
        return len(self._labels)

    def label(self, i: int) -> int:
        """Class index; 0 in a set without labels."""
        return int(self._labels[i])

    def path(self, i: int) -> str:
        """`archive.zip/train/class/picture`."""
        return self._files.path(i)

    def relative(self, i: int) -> str:
        """The name inside the set (or inside its split)."""
        return self._paths[i]

    def raw(self, i: int) -> bytes:
        """The file's bytes; of a zip, checked against their CRC."""
        return self._files.raw(i)

    def digest(self) -> str:
        """SHA-256 of the file list."""
        return list_digest(self._paths)


@contextlib.contextmanager
def opened_zip(file: Path) -> Iterator[zipfile.ZipFile]:
    """A zip to read; DataError if it, or what is read of it, cannot be."""
    try:
        with zipfile.ZipFile(file) as archive:
            yield archive
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        raise DataError(f"{file} is not a readable zip ({error}); fetch it again") from None


def read_note(archive: zipfile.ZipFile, member: zipfile.ZipInfo, limit: int = MAX_NOTE) -> bytes:
    """A small file of a zip; DataError if it is huge or damaged."""
    name = f"{archive.filename}/{member.filename}"
    try:
        with archive.open(member) as handle:
            data = handle.read(limit + 1)
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError, zlib.error) as error:
        raise DataError(f"{name} cannot be read ({error}); fetch the zip again") from None
    if len(data) > limit:
        raise DataError(f"{name} is larger than {limit >> 20} MiB")
    return data
