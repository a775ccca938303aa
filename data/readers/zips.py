"""A zip of the folder layout, read in place.

Members are read with `pread` at their own offsets: no shared file position, so one open file serves
forked workers, and the directory is three integer arrays instead of a Python object a member.
"""

from __future__ import annotations

import contextlib
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from data.decode import bad_image, decode
from data.formats import HEAD, by_suffix, said, takes
from data.readers.base import Found
from data.readers.layout import (
    ANNOTATIONS,
    annotated_labels,
    classes_and_labels,
    named_splits,
    word_names,
)
from data.sources import PathTable, check_split, split_of
from storage.errors import DataError
from storage.listing import list_digest

# One picture's file; larger members are refused before they are inflated.
MAX_MEMBER = 1 << 30
# A list of class names.
MAX_NOTE = 1 << 26
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")


def archive_of(path: Path) -> Path:
    """The zip a path means: itself, or NAME.zip for NAME."""
    return path if path.suffix.lower() == ".zip" else Path(f"{path}.zip")


def recognise(path: Path) -> Found | None:
    """A zip; `set` also means `set.zip`."""
    archive = archive_of(path)
    if path.is_dir() or not archive.is_file():
        return None
    splits = zip_splits(archive)
    return Found(
        tuple(splits),
        lambda split: ZipSource(archive, split=check_split(split) if splits else None),
    )


class ZipFiles:
    """Members of a zip, in the order given: `raw(i)` is the i-th one's bytes."""

    def __init__(self, file: Path, members: list[zipfile.ZipInfo]) -> None:
        self.file = file
        self._names = PathTable(m.filename for m in members)
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
            header = os.pread(fd, _LOCAL_HEADER.size, offset)
            fields = _LOCAL_HEADER.unpack(header)
            if fields[0] != b"PK\x03\x04":
                raise ValueError("the zip's directory points elsewhere")
            start = offset + _LOCAL_HEADER.size + fields[9] + fields[10]
            data = os.pread(fd, packed, start)
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


class ZipSource(MemberSource):
    """Pictures of one split of a zip, sorted by class, then by path.

    A single folder that wraps everything is looked through. A zip without split folders is one
    split and serves whichever is asked for.
    """

    def __init__(
        self, file: str | os.PathLike, *, split: str | None = None, name: str | None = None
    ) -> None:
        self.file = Path(file)
        unread: list[str] = []
        members = list_members(self.file, left_out=unread)
        prefix = whole = _common_folder(members)
        splits = _splits(members, prefix)
        if splits and split is None:
            raise DataError(f"{self.file} has splits {', '.join(splits)}; say which one")
        if splits:
            if split not in splits:
                raise DataError(
                    f"{self.file} has no split {split}; it has {', '.join(splits)}. "
                    f"Give {self.file}/{next(iter(splits))} or cv"
                )
            prefix = splits[split]
        else:
            split = None
        self.split = split
        self.name = name or (self.file.stem if split is None else f"{self.file.stem}/{split}")
        self.left_out = by_suffix(n for n in unread if n.startswith(prefix))
        members = sorted(
            (m for m in members if m.filename.startswith(prefix)), key=lambda m: m.filename
        )
        if not members:
            raise DataError(f"no images in {self.file}")
        paths = [m.filename[len(prefix) :] for m in members]
        one_top = len({p.split("/", 1)[0] for p in paths}) == 1
        with zipfile.ZipFile(self.file) as archive:
            table = read_note(archive, prefix + ANNOTATIONS) if one_top else None
            if table is not None:
                known = read_note(archive, f"{whole}wnids.txt")
                self.classes, labels = annotated_labels(
                    paths, table, known, f"{self.file}/{prefix}"
                )
            else:
                self.classes, labels = classes_and_labels(paths, str(self.file), self.file.stem)
            self.class_names = word_names(
                self.classes, lambda note: read_note(archive, f"{whole}{note}")
            )
        self._labels = np.asarray(labels, dtype=np.int32)
        self._paths = PathTable(paths)
        self._files = ZipFiles(self.file, members)

    def image(self, i: int) -> np.ndarray:
        """uint8 [H, W, 3]; DataError naming archive and member."""
        return decode(self.raw(i), self.path(i))


def zip_splits(file: str | os.PathLike) -> list[str]:
    """Splits a zip holds; empty if it is one split."""
    members = list_members(Path(file))
    return list(_splits(members, _common_folder(members)))


@contextlib.contextmanager
def opened_zip(file: Path) -> Iterator[zipfile.ZipFile]:
    """A zip to read; DataError if it, or what is read of it, cannot be."""
    try:
        with zipfile.ZipFile(file) as archive:
            yield archive
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        raise DataError(f"{file} is not a readable zip ({error}); fetch it again") from None


def list_members(
    file: Path, also: tuple[str, ...] = (), left_out: list[str] | None = None
) -> list[zipfile.ZipInfo]:
    """Pictures in a zip (`data.formats`), and files with a suffix of `also`.

    left_out: is given the names of pictures of formats that are not read. DataError if there is
    nothing, or something that cannot be read.
    """
    unread: list[str] = [] if left_out is None else left_out
    if not file.exists():
        raise DataError(f"{file} does not exist")
    with opened_zip(file) as archive:
        members = [
            m
            for m in archive.infolist()
            if not m.is_dir()
            and "__MACOSX" not in m.filename
            and not any(part.startswith(".") for part in m.filename.split("/"))
            and (m.filename.endswith(also) or takes(m.filename, partial(_head, archive, m), unread))
        ]
    for m in members:
        if m.flag_bits & 0x1:
            raise DataError(f"{file} is encrypted ({m.filename}); unpack it by hand")
        if m.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DataError(
                f"{file} uses compression {m.compress_type} ({m.filename}); unpack it: "
                f"python data/SetupDataset.py --data NAME --source {file}"
            )
    if not members:
        what = "images or latents" if also else "images"
        raise DataError(f"no {what} in {file}{'; ' if unread else ''}{said(by_suffix(unread))}")
    return members


def _head(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """The first bytes of a member; none of one that cannot be read."""
    try:
        with archive.open(member) as handle:
            return handle.read(HEAD)
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError, zlib.error):
        return b""


def read_note(archive: zipfile.ZipFile, member: str, limit: int = MAX_NOTE) -> bytes | None:
    """A small file of a zip; None if it is not there, DataError if it is huge or damaged."""
    name = f"{archive.filename}/{member}"
    try:
        with archive.open(member) as handle:
            data = handle.read(limit + 1)
    except KeyError:
        return None
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError, zlib.error) as error:
        raise DataError(f"{name} cannot be read ({error}); fetch the zip again") from None
    if len(data) > limit:
        raise DataError(f"{name} is larger than {limit >> 20} MiB")
    return data


def _common_folder(members: list[zipfile.ZipInfo]) -> str:
    """The folder around everything (`tiny-imagenet-200/`), unless it is itself a split."""
    tops = {m.filename.split("/", 1)[0] if "/" in m.filename else "" for m in members}
    if len(tops) == 1 and (top := tops.pop()) and split_of(top) is None:
        inside = {m.filename.count("/") for m in members}
        # one class folder alone is a class, not a wrapping
        return f"{top}/" if max(inside) >= 2 else ""
    return ""


def _splits(members: list[zipfile.ZipInfo], prefix: str) -> dict[str, str]:
    """Prefix of each split, in the order train, val, test."""
    tops = {
        m.filename[len(prefix) :].split("/", 1)[0]
        for m in members
        if "/" in m.filename[len(prefix) :]
    }
    names = named_splits(tops.__contains__)
    found = {split: f"{prefix}{name}/" for split, name in names.items()}
    if len(found) == 1 and any(split_of(t) is None for t in tops):
        return {}  # classes of which one happens to be called train
    return found
