"""The names of the pictures of a data set: a digest that tells sets apart, a list beside a run.

    data.json    which set, how many pictures, digests
    data.txt.gz  the names of all of them, one a line, so that new and missing ones can be told

Names only, relative to the set, so that a set may be moved: a picture that is replaced by another
of its name is not noticed, and a million names take seconds.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from storage.errors import data_changed
from storage.files import open_plain, read_object, write_json, writing

RECORD = "data.json"
NAMES = "data.txt.gz"


class Listing(NamedTuple):
    """A data set by names. used: those of the pictures that are read, in the order of their
    numbers; whole: of the set that they are a part of.
    """

    name: str
    used: Sequence[str]
    whole: Sequence[str]


def list_digest(names: Iterable[str]) -> str:
    """SHA-256 of a list of names, order included: what a data set is known by."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(os.fsencode(name) + b"\n")
    return digest.hexdigest()


def has_listing(folder: Path, digest: str | None = None) -> bool:
    """Whether a run's folder says what it is trained on: that of the `digest`, if one is given."""
    known = (read_object(folder / RECORD) or {}).get("digest")
    return known == digest if digest is not None else isinstance(known, str)


def write_listing(folder: Path, listing: Listing) -> None:
    """Write down what the run in `folder` is trained on. Errors: OSError."""
    with (
        writing(folder / NAMES, durable=False) as file,
        gzip.GzipFile("", "wb", 4, file, mtime=0) as packed,
    ):
        names = iter(listing.whole)
        while part := b"".join(os.fsencode(name) + b"\n" for name in islice(names, 4096)):
            packed.write(part)
    record = {
        "name": listing.name,
        "pictures": len(listing.whole),
        "used": len(listing.used),
        "digest": list_digest(listing.used),
    }
    write_json(folder / RECORD, record, indent=1)


def refuse_changed(folder: Path, listing: Listing) -> None:
    """DataError if the run in `folder` was trained on other pictures; an older one does not say."""
    record = read_object(folder / RECORD) or {}
    digest, before = record.get("digest"), record.get("pictures")
    if not isinstance(digest, str) or digest == list_digest(listing.used):
        return
    above = _folder_above(folder, listing.whole)
    if above and digest == list_digest(above + name for name in listing.used):
        return  # an earlier version named the folder that wraps the set too
    before = before if isinstance(before, int) else 0
    raise data_changed(before, len(listing.whole), _difference(folder, listing.whole))


def _folder_above(folder: Path, now: Sequence[str]) -> str:
    """What stood before the first name when the run began, if it ends in `/`; else ""."""
    try:
        with open_plain(folder / NAMES) as packed, gzip.open(packed) as file:
            first = os.fsdecode(file.readline().rstrip(b"\n"))
    except (OSError, EOFError, zlib.error):
        return ""
    above = first.removesuffix(now[0]) if len(now) else ""
    return above if above.endswith("/") and above != first else ""


def _difference(folder: Path, now: Sequence[str]) -> str:
    """How many names are new and missing, with the first of each, for a message."""
    try:
        with open_plain(folder / NAMES) as packed, gzip.open(packed) as file:
            before = [os.fsdecode(line.rstrip(b"\n")) for line in file]
    except (OSError, EOFError, zlib.error):
        return ""
    known, there = set(before), set(now)
    new = [name for name in now if name not in known]
    missing = [name for name in before if name not in there]
    parts = [
        f"{len(names)} {word}, first {names[0]}"
        for names, word in ((new, "new"), (missing, "missing"))
        if names
    ]
    return "; ".join(parts) or "the same names in another order"
