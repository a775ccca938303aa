"""Fetching files from mirrors that fail in many ways, and unpacking archives nobody vouches for.

A file appears under its name only when it is whole: it is written beside it, checked (length, the
digest that is pinned or was recorded, not a web page), then renamed; a second process waits at a
lock and finds the file. When every mirror fails the message says where to put the file by hand.
"""

from __future__ import annotations

import contextlib
import glob
import http.client
import stat
import tarfile
import time
import urllib.error
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from data.prepare.digests import pin_fault, recorded_fault, without_secrets
from data.prepare.transfer import discard, in_time, part_of, progress, receive
from data.prepare.workers import say
from data.readers.tree import is_archive as has_archive_name
from data.readers.tree import member_name
from storage import files
from storage.errors import DISK_FAILURES, DataBusyError, DataDiskError, DataError, one_line
from storage.files import locked, make_folder

WAIT = 900.0  # seconds for another process that fetches the same file, and gets nothing
MAX_FILES = 5_000_000
MAX_BYTES = 1 << 40
# Pictures hardly compress; an archive that grows more than this is made to fill a disk.
MAX_RATIO = 200
_CHUNK = 1 << 20


def fetch(
    mirrors: Sequence[str],
    file: Path,
    *,
    sha256: str | None = None,
    pins: Mapping[str, str] | None = None,
    check: Callable[[Path], str | None] | None = None,
    bar: bool = True,
    about: str = "",
    begun: Callable[[], object] | None = None,
) -> Path:
    """Have `file`, from the first mirror that gives it whole.

    mirrors: `http(s)://`, `file://` or `drive:ID` (Google Drive, through gdown). sha256: of the
    file whoever gives it, full digest or its first hex digits. pins: mirror -> `sha256:HEX` or
    `md5:HEX`, where mirrors give different files of one content. What has neither is recorded in
    FILE.sha256 when it first comes and compared ever after, and the log says so
    (`data.prepare.digests`). check: reads the finished file, before it has its name, and returns
    what is wrong with it. about: said with the size before it is fetched, a licence say. begun:
    called when the lock is held. What has come of a file stays beside it as `.NAME.part`, and is
    gone on with (`data.prepare.transfer`). DataError says what each mirror answered and where to
    place the file.
    """
    make_folder(file.parent)
    pins = dict.fromkeys(mirrors, sha256) if sha256 else dict(pins or {})
    with turn(file):
        if begun is not None:
            begun()
        if file.exists():
            known = [sha256] if sha256 else [pins[m] for m in mirrors if m in pins]
            pinned = bool(sha256) or 0 < len(mirrors) == len(known)
            fault = _fault(file, file, known, None, check, pinned=pinned)
            if fault is None:
                return file
            raise DataError(
                f"{file} is there but {fault}; remove it or replace it by the right one"
            )
        faults = []
        for mirror in mirrors:
            fault = _try(mirror, file, pins.get(mirror), check, bar, about)
            if fault is None:
                return file
            faults.append(f"{without_secrets(mirror)}: {fault}")
        raise DataError(
            f"{file.name}: {'; '.join(faults) or 'no place to fetch it from is known'}. "
            f"Place the file at {file}"
        )


@contextlib.contextmanager
def turn(file: Path, *, quiet: bool = False) -> Iterator[None]:
    """Be the only one who fetches `file`, when who does so now has ended.

    quiet: nothing is said of the wait. Errors: DataBusyError, when nothing has come of it for
    WAIT seconds; DataDiskError.
    """
    came, since, told = -1, time.monotonic(), quiet
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked(lock_of(file), wait=False, what=file.name))
                break
            except DataBusyError as busy:
                if not told:
                    told = True
                    say(f"waiting: {busy}")
                part = part_of(file)
                size = part.stat().st_size if part.exists() else 0
                if size != came:
                    came, since = size, time.monotonic()
                elif time.monotonic() - since > WAIT:
                    raise DataBusyError(
                        f"{busy}, but nothing came for {WAIT:.0f} s: end that process"
                    ) from None
            time.sleep(0.1)
        yield


def lock_of(file: Path) -> Path:
    """What is locked while a file is fetched."""
    return file.with_name(f".{file.name}.lock")


def _try(
    mirror: str,
    file: Path,
    pin: str | None,
    check: Callable[[Path], str | None] | None,
    bar: bool,
    about: str,
) -> str | None:
    """Have `file` from one mirror; else what is wrong with it. Errors: DataDiskError."""
    known, pinned = [pin] if pin else [], pin is not None
    part = part_of(file)
    try:
        if mirror.startswith("drive:"):
            _get_drive(mirror[len("drive:") :], part, bar)
        else:
            receive(mirror, part, file.name, bar=bar, pinned=pinned, about=about)
    except (OSError, http.client.HTTPException, ValueError) as error:
        if mirror.startswith("drive:"):
            discard(part)
        if isinstance(error, OSError) and error.errno in DISK_FAILURES:
            raise DataDiskError(f"cannot write {file}: {error.strerror}") from None
        return _one_line(error)
    try:
        fault = _fault(part, file, known, mirror, check, pinned=pinned)
        if fault is None:
            files.move(part, file)
    except OSError as error:
        raise DataDiskError(f"cannot write {file}: {error.strerror}") from None
    finally:
        discard(part)  # what is wrong need not be kept
    return fault


def _fault(
    part: Path,
    file: Path,
    known: Sequence[str | None],
    origin: str | None,
    check: Callable[[Path], str | None] | None,
    *,
    pinned: bool,
) -> str | None:
    """What is wrong with a finished file, which lies at `part` and is to be `file`, or None.

    known: digests, of which one is enough. pinned: whether it must have one of them; a file without
    is compared with what is recorded of it.
    """
    page = web_page(part)
    faults = [pin_fault(part, pin, page) for pin in known if pin]
    right = None in faults
    if not right:
        if pinned:
            return faults[0]
        if page:
            return f"got {page}"
        if part.stat().st_size == 0:
            return "got an empty file"
    if check is not None and (fault := check(part)) is not None:
        return fault
    return None if right else recorded_fault(part, file, origin)


def web_page(file: Path) -> str | None:
    """What kind of web page the file is instead of data, or None."""
    with open(file, "rb") as handle:
        head = handle.read(1 << 16)
    text = head.decode("utf-8", "replace").lstrip("\ufeff \r\n\t").lower()
    if not text.startswith(("<!doctype html", "<html", "<head", "<?xml")):
        return None
    if "quota" in text or "too many users" in text:
        return "an HTML page (Google Drive quota: try tomorrow, or copy the file to your own Drive)"
    if "sign in" in text or "accounts.google" in text:
        return "an HTML page (a sign-in form: the file is not public)"
    if "virus" in text:
        return "an HTML page (Google Drive's virus-scan warning)"
    return "an HTML page"


def archive_fault(file: Path) -> str | None:
    """What the file is if it is no zip or tar that can be listed, or None; a `check` of `fetch`."""
    if zipfile.is_zipfile(file) or tarfile.is_tarfile(file):
        return None
    if page := web_page(file):
        return f"is {page}"
    if not file.stat().st_size:
        return "is empty"
    return "is neither a zip nor a tar archive (cut short?)"


def _get_drive(file_id: str, part: Path, bar: bool) -> None:
    try:
        import gdown
    except ImportError:
        raise OSError("gdown is not installed (pip install gdown)") from None
    try:
        # it sets no timeout; its own file beside `part` begins with that name
        result = in_time(
            lambda: gdown.download(id=file_id, output=str(part), quiet=not bar),
            lambda: sum(map(_size, part.parent.glob(f"{glob.escape(part.name)}*"))),
        )
    except Exception as error:  # gdown raises its own, requests' and plain ones
        text = _one_line(error)
        if "quota" in text.lower() or "too many users" in str(error).lower():
            text = "quota exceeded"
        elif "Max retries exceeded" in text or "NameResolution" in text:
            text = "no connection"
        raise OSError(f"Google Drive: {text}") from None
    if result is None or not part.exists():
        raise OSError("Google Drive gave no file")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _one_line(error: BaseException) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        error = error.reason if isinstance(error.reason, BaseException) else error
    text = one_line(error)
    return text if len(text) <= 200 else text[:197] + "..."


def is_archive(file: Path) -> bool:
    """By name: what `extract` unpacks."""
    return has_archive_name(file.name)


def extract(
    archive: Path,
    folder: Path,
    *,
    max_files: int = MAX_FILES,
    max_bytes: int = MAX_BYTES,
    max_ratio: float = MAX_RATIO,
    bar: bool = True,
) -> Path:
    """Unpack a zip or tar into `folder`, which must not exist: all of it or nothing.

    Only plain files and folders with names inside the folder: `..`, absolute names, links and
    devices are refused, and so are archives over the caps. Bytes are counted as they come out,
    whatever the headers claim; `max_ratio` (unpacked / packed) holds from 16 MiB on.
    """
    if folder.exists():
        raise DataError(f"{folder} exists already; not unpacking {archive.name} over it")
    make_folder(folder.parent)
    try:
        with files.staging(folder) as unpacked:
            unpacked.mkdir()
            _unpack_into(unpacked, archive, max_files, max_bytes, max_ratio, bar)
    except DataError:
        raise
    except FileExistsError as error:
        raise _unsafe(archive, f"two members named {Path(error.filename).name}") from None
    except Exception as error:  # zipfile, tarfile and four codecs each raise their own
        if isinstance(error, OSError) and error.errno in DISK_FAILURES:
            raise DataDiskError(f"cannot unpack {archive}: {error.strerror}") from None
        raise DataError(f"{archive} is damaged ({_one_line(error)}); fetch it again") from None
    return folder


def _unpack_into(
    folder: Path, archive: Path, max_files: int, max_bytes: int, max_ratio: float, bar: bool
) -> None:
    opened = _zip_members if zipfile.is_zipfile(archive) else _tar_members
    packed = archive.stat().st_size
    count = total = 0
    cap = min(max_bytes, max(16 << 20, int(packed * max_ratio)))
    with progress(None, f"unpack {archive.name}", bar) as shown:
        for name, reader in opened(archive):
            target = folder / _safe_name(name, archive)
            if reader is None:
                target.mkdir(parents=True, exist_ok=True)
                continue
            count += 1
            if count > max_files:
                raise _unsafe(archive, f"more than {max_files} files")
            target.parent.mkdir(parents=True, exist_ok=True)
            with reader() as source, open(target, "xb") as out:
                while block := source.read(_CHUNK):
                    total += len(block)
                    if total > cap:
                        raise _unsafe(
                            archive, f"more than {cap} bytes come out of {packed} ({name})"
                        )
                    out.write(block)
                    shown.update(len(block))


def _unsafe(archive: Path, what: str) -> DataError:
    return DataError(f"unsafe archive {archive}: {what}; nothing extracted")


def _safe_name(name: str, archive: Path) -> str:
    inside = member_name(name)
    if inside is None:
        raise _unsafe(archive, f"unsafe member {name[:100]!r}")
    return inside


def _zip_members(archive: Path) -> Iterator[tuple[str, Callable | None]]:
    with zipfile.ZipFile(archive) as opened:
        # all names before the first byte: a refusal should not cost an hour of unpacking
        for info in opened.infolist():
            _safe_name(info.filename, archive)
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _unsafe(archive, f"unsafe member {info.filename[:100]!r} (link or device)")
            if info.flag_bits & 0x1:
                raise DataError(f"{archive} is encrypted; unpack it by hand")
        for info in opened.infolist():
            folder = info.filename.endswith(("/", "\\"))
            yield info.filename, None if folder else (lambda i=info: opened.open(i))


def _tar_members(archive: Path) -> Iterator[tuple[str, Callable | None]]:
    try:
        opened = tarfile.open(archive, "r:*")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"{archive} is not a readable archive ({_one_line(error)})") from None
    with opened:
        for info in opened:
            if info.isdir():
                yield info.name, None
            elif info.isreg():
                yield info.name, lambda i=info: opened.extractfile(i)
            else:
                raise _unsafe(archive, f"unsafe member {info.name[:100]!r} (link or device)")
