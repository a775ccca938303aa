"""Whether a file that was fetched is the right one: digests that are pinned, or recorded.

A publisher's digest is pinned in the code. Where none is known, the one of the first download is
recorded beside the file and compared ever after, so that a file which changes is noticed:

    NAME
    NAME.sha256     as `sha256sum -c` reads it, with a comment that says where the file came from
"""

from __future__ import annotations

import contextlib
import re
import urllib.parse
from pathlib import Path

from data.prepare.workers import say
from runtime.progress import Progress
from storage.files import hash_file, read_text, write_text

_PIN = re.compile(r"(?:(sha256|sha1|md5):)?([0-9a-fA-F]{8,128})")


def digest_of(file: Path, kind: str = "sha256") -> str:
    """As `storage.files.hash_file`, with a bar where it takes its time."""
    size = file.stat().st_size
    with Progress(size, desc=f"checking {file.name.strip('.')}", unit="B") as bar:
        return hash_file(file, kind, bar.update)


def split_pin(pin: str) -> tuple[str, str]:
    """`md5:HEX`, `sha1:HEX` or `sha256:HEX` (also HEX alone) -> (kind, hex in lower case).

    Errors: ValueError.
    """
    match = _PIN.fullmatch(pin)
    if match is None:
        raise ValueError(f"{pin!r} is none of sha256:HEX, sha1:HEX, md5:HEX")
    return match[1] or "sha256", match[2].lower()


def pin_fault(file: Path, pin: str, got: str | None = None) -> str | None:
    """What is wrong with a file whose digest is known, or None.

    pin: `sha256:HEX`, `sha1:HEX` or `md5:HEX`, whole or its first digits. got: what the file is
    instead, if that is known, for the sentence. Errors: OSError.
    """
    kind, wanted = split_pin(pin)
    found = digest_of(file, kind)
    if found.startswith(wanted):
        return None
    return f"expected {kind} {wanted[:12]}.., got {got or found[:12] + '..'}"


def record_of(file: Path) -> Path:
    """Where the digest of a file is recorded: FILE.sha256."""
    return file.with_name(f"{file.name}.sha256")


def recorded_fault(fetched: Path, file: Path, origin: str | None) -> str | None:
    """Compare an unpinned file with what is recorded of it, or record it and say so.

    fetched: where it is now; file: where it is to be, beside which FILE.sha256 lies. origin: the
    address it came from; None if it was found in its place, and may be of any. An address that
    nothing is recorded of gets its own line, since mirrors may pack the same content differently.
    Returns what is wrong with it, or None. Errors: OSError.
    """
    record, found = record_of(file), digest_of(fetched)
    known = read_record(file)
    if not known and record.exists():
        return f"{record} has no digest, or is damaged; remove it if the file is to be trusted"
    where = None if origin is None else without_secrets(origin)
    mine = known if where is None else {k: v for k, v in known.items() if k in (where, None)}
    if found in mine.values():
        return None
    if mine:
        wanted = next(iter(mine.values()))
        return (
            f"expected sha256 {wanted[:12]}.., which {record.name} has of the first download, got "
            f"{found[:12]}..; remove {record} if the new file is to be trusted"
        )
    known[where] = found
    lines = [
        f"# {place or 'found here'}\n{digest}  {file.name}\n" for place, digest in known.items()
    ]
    write_text(record, "".join(lines))
    unsafe = ""
    if where and where.startswith("http:"):
        unsafe = "; it came over http, which others on the way can change"
    say(
        f"{file.name} is not pinned, since no digest of it was published: its sha256 "
        f"{found[:12]}.. is recorded in {record.name}, and compared from now on{unsafe}"
    )
    return None


def read_record(file: Path) -> dict[str | None, str]:
    """The sha256 that are recorded of a file, by address; None is the one found in its place."""
    found: dict[str | None, str] = {}
    place: str | None = None
    with contextlib.suppress(FileNotFoundError):
        for line in read_text(record_of(file)).splitlines():
            if line.startswith("#"):
                place = line[1:].strip()
                place = None if place in ("", "found here") else place
            elif match := re.match(r"([0-9a-fA-F]{64})\b", line):
                found[place] = match[1].lower()
                place = None
    return found


def without_secrets(address: str) -> str:
    """An address without user, password, query and fragment, which may hold keys."""
    try:
        parts = urllib.parse.urlsplit(address)
    except ValueError:
        return "an address that is none"
    if parts.scheme not in ("http", "https"):
        return address
    return urllib.parse.urlunsplit(
        (parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", "")
    )
