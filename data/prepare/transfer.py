"""One file over http(s): what has come is kept and gone on with, and nothing is waited for without
end.

What was fetched of FILE lies beside it as `.FILE.part`, with a note of the address and of the
version there (`.FILE.part.json`). The next attempt asks for the rest alone, on the condition that
the file is still that version; a server that cannot do that gives it whole. Where it names no
version, what has come is kept only of a file whose digest is pinned.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import re
import shutil
import threading
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit

from data.prepare.workers import say
from runtime.progress import EVERY_S, Progress, in_bytes
from storage import files

T = TypeVar("T")
TIMEOUT = 30.0  # seconds to connect, and between two pieces
PATIENCE = 60.0  # seconds over which a transfer must not be slower than
SLOWEST = 1024  # bytes a second
EVERY = EVERY_S  # seconds between lines of progress, where there is no terminal
_CHUNK = 1 << 20


class _NoWayDown(urllib.request.HTTPRedirectHandler):
    """Follows redirections, but none from https to http."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if req.type == "https" and not newurl.lower().startswith("https:"):
            raise OSError(f"leads from https to {newurl.partition(':')[0]}, which is not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def part_of(file: Path) -> Path:
    """Where a file lies while it is fetched."""
    return file.with_name(f".{file.name}.part")


def discard(part: Path) -> None:
    """Remove what was fetched of a file."""
    files.remove(part)
    files.remove(_note(part))


def receive(
    address: str, part: Path, name: str, *, bar: bool = True, pinned: bool = False, about: str = ""
) -> None:
    """Have what is at `address` in the file `part`, whose earlier bytes are gone on with.

    bar: show progress. pinned: a digest will tell whether the file is right, however it came, so
    that redirections to http are followed. about: what is said of the file before it is fetched,
    with its size; "": nothing. After an error `part` is there if it can be gone on with.
    Errors: OSError, HTTPException, ValueError for what is no address.
    """
    try:
        _receive(address, part, name, bar, pinned, about)
    except BaseException as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or not _begun(part, address, pinned):
            discard(part)
        raise
    files.remove(_note(part))


def _receive(address: str, part: Path, name: str, bar: bool, pinned: bool, about: str) -> None:
    opener = urllib.request.build_opener(*([] if pinned else [_NoWayDown]))
    with contextlib.ExitStack() as stack:
        known = _begun(part, address, pinned)
        answer = stack.enter_context(_opened(opener, address, known))
        start = known["bytes"] if known and _goes_on(answer, known) else 0
        if known and not start:
            discard(part)
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length and length.isdigit() else None
        if about:
            size = "size unknown" if total is None else in_bytes(total)
            rest = f" ({in_bytes(start)} of it are here)" if start else ""
            say(f"fetching {name}, {size}{rest}: {about}")
        free = shutil.disk_usage(part.parent).free
        if total is not None and total - start > free:
            raise OSError(
                errno.ENOSPC, f"No space left: {in_bytes(total)} to fetch, {in_bytes(free)}"
            )
        files.write_json(_note(part), _version(answer, address, total))
        out = stack.enter_context(open(part, "ab" if start else "wb"))
        shown = stack.enter_context(progress(total, name, bar, start))
        got = start + _copy(answer, out, shown.update)
        files.flush(out)
    if total is not None and got != total:
        raise OSError(f"ended after {got} of {total} bytes")


def _opened(opener: Any, address: str, known: dict[str, Any] | None) -> Any:
    headers = {"User-Agent": "imle-lab", "Accept-Encoding": "identity"}
    if known:
        headers["Range"] = f"bytes={known['bytes']}-"
        if known.get("version"):
            headers["If-Range"] = known["version"]
    url = urlsplit(address)
    bare = urlunsplit(url._replace(netloc=url.netloc.rpartition("@")[2]))
    request = urllib.request.Request(bare, headers=headers)
    if url.username is not None:
        key = f"{unquote(url.username)}:{unquote(url.password or '')}".encode()
        # not to whom a redirection leads
        request.add_unredirected_header("Authorization", f"Basic {b64encode(key).decode()}")
    try:
        return in_time(lambda: opener.open(request, timeout=TIMEOUT))
    except urllib.error.HTTPError as error:
        if error.code != 416 or known is None:
            raise
        error.close()
        return _opened(opener, address, None)  # more is here than there is: another file


def in_time(work: Callable[[], T], size: Callable[[], int] = lambda: 0) -> T:
    """`work()` in a thread, given up when `size()` has not grown for PATIENCE seconds: OSError.

    For what sets no limit itself: looking up a name, a header that comes letter by letter, a client
    without a timeout. Time in which this process was stopped does not count.
    """
    done: list[T] = []
    failed: list[BaseException] = []

    def do() -> None:
        try:
            done.append(work())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=do, name="transfer", daemon=True)
    thread.start()
    before, waited, tick = size(), 0.0, min(0.2, PATIENCE / 4)
    while thread.is_alive():
        thread.join(tick)
        waited += tick
        if (now := size()) > before:
            before, waited = now, 0.0
        elif waited >= PATIENCE and thread.is_alive():
            raise OSError(f"no answer: nothing came in {PATIENCE:g} s")
    if failed:
        raise failed[0]
    return done[0]


def _goes_on(answer: Any, known: dict[str, Any]) -> bool:
    """Whether an answer is the rest of what is here, of the same file."""
    said = answer.headers.get("Content-Range", "")
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", said.strip())
    if getattr(answer, "status", None) != 206 or match is None:
        return False
    return int(match[1]) == known["bytes"] and match[2] in (str(known["total"]), "*")


def _copy(answer: Any, out: Any, advance: Callable[[int], object]) -> int:
    """Write what comes; returns how many bytes. Errors: OSError for a transfer that creeps."""
    got = since = 0
    begin = time.monotonic()
    # what has arrived is taken at once: a full block might be waited for without end
    read = getattr(answer, "read1", answer.read)
    while block := read(_CHUNK):
        out.write(block)
        got += len(block)
        since += len(block)
        advance(len(block))
        passed = time.monotonic() - begin
        if passed > PATIENCE:
            if since < SLOWEST * passed:
                raise OSError(f"too slow: {since} bytes in {passed:.0f} s")
            begin, since = time.monotonic(), 0
    return got


def _note(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _version(answer: Any, address: str, total: int | None) -> dict[str, Any]:
    tag = answer.headers.get("ETag") or ""
    # a weak tag is no promise of equal bytes
    version = tag if tag and not tag.startswith("W/") else answer.headers.get("Last-Modified")
    return {"address": _digest(address), "version": version, "total": total}


def _digest(address: str) -> str:
    return hashlib.sha256(address.encode()).hexdigest()  # an address may hold keys


def _begun(part: Path, address: str, pinned: bool) -> dict[str, Any] | None:
    """What is known of a part that can be gone on with from this address.

    Where the server tells no version, only if the file is `pinned`: two files that were mixed would
    not be noticed otherwise.
    """
    note = files.read_object(_note(part))
    if note is None or not part.is_file() or note.get("address") != _digest(address):
        return None
    if not (pinned or note.get("version")):
        return None
    size, total = part.stat().st_size, note.get("total")
    if not isinstance(total, int) or not 0 < size < total:
        return None
    return {"bytes": size, "version": note.get("version"), "total": total}


def progress(total: int | None, name: str, show: bool, start: int = 0) -> Progress:
    """Bytes that come, to `update`: a bar, or a line every half minute in a log."""
    return Progress(total, desc=name, unit="B", initial=start, main=show, every_s=EVERY)
