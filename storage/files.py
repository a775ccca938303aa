"""The one way to write: files and folders that appear whole or not at all, and the lock.

What is being written lies beside its final path as `.tmp-NAME-XXXXXXXX` (eight hex digits), held
by a lock of the system; it is flushed to the disk and renamed. At any instant, whatever kills the
process, there are the old bytes or the new ones under the name itself. What a killed process left
is recognised by its name and its free lock, and swept when the same name is written again.

Nothing else in the toolkit writes, renames, flushes to the disk, locks or hashes files; a test
reads the source and lists the exceptions. Errors are OSError, as the system raises them, unless a
function says otherwise: who calls knows what was being written and says it in one line.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import stat
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from storage.console import tell
from storage.errors import DataBusyError, DataDiskError, UsageError
from storage.locks import Busy as Busy
from storage.locks import CannotLock as CannotLock
from storage.locks import Lock as Lock
from storage.locks import holder_of as holder_of
from storage.waiting import WAIT, doing, wait_limit

_TEMPORARY = re.compile(r"\.tmp-.*-[0-9a-f]{8}", re.DOTALL)
_NAME_BYTES = 200  # of a final name in a temporary's: file systems end at 255
_BLOCK = 1 << 20
# Bytes of what is read into memory as a whole, above what any has that is what it seems to be: of a
# larger file nothing is read. A file with a hole in it has any size and needs no disk.
NOTES = 1 << 28  # of a note, a record, a configuration
ANNOTATIONS = 1 << 32  # of a data set's lists, of which the largest known has 0.7 GB
LOGS = 1 << 32  # of a log: a run of ten million steps with a line for each has 3 GB
_LINE = 1 << 24  # of one line of a log
_POLL_S = 0.1  # between two looks at a lock
_KINDS = {stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device"}
_LOCK_S = 24 * 3600.0  # a large data set may take its first process hours

# ------------------------------------------------------------------------------------- fail points


def failpoint(name: str) -> bool:
    """Fail here if the environment says so; tests only.

    IMLE_LAB_FAILPOINT=NAME[:N][=ACTION]: at the Nth passing of NAME (default 1; `all` = each;
    NAME `any` = every point) do ACTION: `kill` (SIGKILL, default) or an errno name such as ENOSPC.
    """
    spec = os.environ.get("IMLE_LAB_FAILPOINT")
    if not spec:
        return False
    where, _, action = spec.partition("=")
    wanted, _, count = where.partition(":")
    if wanted not in (name, "any"):
        return False
    if count != "all":
        left = int(count or 1) - 1
        os.environ["IMLE_LAB_FAILPOINT"] = f"{wanted}:{left}={action}" if left else ""
        if left:
            return False
    if action in ("", "kill"):
        os.kill(os.getpid(), signal.SIGKILL)
    code = getattr(errno, action)
    raise OSError(code, os.strerror(code), f"failpoint {name}")


# ------------------------------------------------------------------------------------- temporaries


def temporary(final: Path) -> Path:
    """A fresh name beside `final` for what will become it."""
    return final.with_name(f".tmp-{_short(final.name)}-{uuid.uuid4().hex[:8]}")


def is_temporary(name: str) -> bool:
    """Whether a file or folder of this name is one of `temporary`."""
    return _TEMPORARY.fullmatch(name) is not None


def _short(name: str) -> str:
    if len(os.fsencode(name)) <= _NAME_BYTES:
        return name
    return f"{name[:30]}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}"


def temporaries(folder: Path, name: str | None = None) -> list[Path]:
    """Temporaries in `folder`, sorted: all, or those of what is to be called `name`."""
    start = None if name is None else f".tmp-{_short(name)}-"
    try:
        found = [entry for entry in os.listdir(folder) if is_temporary(entry)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(folder / e for e in found if start is None or e[:-8] == start)


def sweep(folder: Path, name: str | None = None) -> list[Path]:
    """Remove temporaries (of `name`, if given) however they came; returns them.

    For whoever alone writes there now, as the holder of a lock does.
    """
    found = temporaries(folder, name)
    for path in found:
        remove(path)
    return found


def remove(path: Path) -> None:
    """Take away a file, a link or a folder with all in it, if there is one; errors are passed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def _sweep_dead(final: Path) -> None:
    """Remove temporaries of `final` whose writers are gone: the system has dropped their locks."""
    for path in temporaries(final.parent, final.name):
        with contextlib.suppress(OSError):
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            finally:
                os.close(handle)


def sweep_dead(folder: Path, *, below: bool = False) -> list[Path]:
    """Remove temporary files in `folder` that killed writers left, whatever they were to become;
    returns them. What a living process writes stays, for it holds a lock on it, and so do folders:
    they are the next maker's to sweep. below: also in the folders below, links apart."""
    found = []
    for path in temporaries(folder):
        if path.is_file() and not path.is_symlink():
            with contextlib.suppress(OSError):
                handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()
                    found.append(path)
                finally:
                    os.close(handle)
    if below:
        inner: list[str] = []
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            inner = [e.path for e in entries if e.is_dir(follow_symlinks=False)]
        for path in sorted(map(Path, inner)):
            if not is_temporary(path.name):
                found += sweep_dead(path, below=True)
    return found


def _open_temporary(final: Path) -> tuple[Path, IO[bytes]]:
    """A new temporary, locked as long as it is open."""
    while True:
        path = temporary(final)
        file = open(path, "xb")
        with contextlib.suppress(OSError):  # a file system without locks: nobody sweeps there
            fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.stat(path).st_ino == os.fstat(file.fileno()).st_ino:
                return path, file
        file.close()  # swept between its making and its lock


# ------------------------------------------------------------------------------------- whole files


@contextlib.contextmanager
def writing(final: Path, *, durable: bool = True) -> Iterator[IO[bytes]]:
    """A binary file to write and seek in, which becomes `final` when the block ends well.

    Otherwise `final` stays as it is and nothing else is left. durable: on the disk when the block
    has ended, come a power cut, and leftovers of killed writers of `final` are swept; False for
    files by the thousand that can be made again, where the flush (milliseconds) and the listing of
    their folder would be most of the work.
    """
    final = Path(final)
    if durable:
        _sweep_dead(final)
    path, file = _open_temporary(final)
    try:
        failpoint("file-begun")
        with file:
            yield file
            failpoint("file-written")
            file.flush()
            if durable:
                os.fsync(file.fileno())
            failpoint("file-flushed")
            os.replace(path, final)
        failpoint("file-renamed")
    except BaseException:
        with contextlib.suppress(OSError):
            file.close()
        with contextlib.suppress(OSError):
            path.unlink()
        raise
    if durable:
        sync_folder(final.parent)


def write_bytes(final: Path, data: bytes | memoryview, *, durable: bool = True) -> None:
    """Replace a file by `data`; see `writing`."""
    with writing(final, durable=durable) as file:
        half = len(data) // 2
        file.write(data[:half])
        failpoint("file-half")
        file.write(data[half:])


def write_text(final: Path, text: str, *, durable: bool = True) -> None:
    """Replace a file by `text`, UTF-8; see `writing`. A name's byte that is no UTF-8 is escaped."""
    write_bytes(final, text.encode("utf-8", "backslashreplace"), durable=durable)


def write_json(final: Path, value: Any, *, indent: int | None = None, durable: bool = True) -> None:
    """Replace a file by a JSON value and a newline; see `writing`."""
    write_text(final, json.dumps(value, indent=indent) + "\n", durable=durable)


def write_link(final: Path, target: str | Path) -> None:
    """Let the symbolic link `final` lead to `target`, whatever it was before."""
    _sweep_links(final)
    path = temporary(final)
    try:
        path.symlink_to(target)
        os.replace(path, final)
    finally:
        with contextlib.suppress(OSError):
            path.unlink()


def _sweep_links(final: Path) -> None:
    for path in temporaries(final.parent, final.name):
        if path.is_symlink():  # made and renamed in one breath: what is there was left by a kill
            remove(path)


def write_new(final: Path, text: str) -> bool:
    """Write a file that is not there yet; False if it is, even by a race, and then it stays."""
    path, file = _open_temporary(final)
    try:
        with file:
            file.write(text.encode("utf-8", "backslashreplace"))
            file.flush()
            os.link(path, final)  # unlike a rename, refuses to replace
    except FileExistsError:
        return False
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
    return True


@contextlib.contextmanager
def appending(path: Path) -> Iterator[IO[str]]:
    """A log to write whole lines to, after what is in it. Readers pass over half lines.

    A line that a kill cut short is ended first, so that the next does not join it.
    """
    torn = _ends_in_half_a_line(path)
    with open(path, "a", encoding="utf-8", errors="backslashreplace") as file:
        if torn:
            file.write("\n")
        yield file


def append_line(path: Path, line: str) -> None:
    """Add a line to a log; see `appending`."""
    with appending(path) as file:
        file.write(line + "\n")


def append_bytes(path: Path, data: bytes) -> None:
    """Add a record to a binary log, in one write: a kill may cut the last one short."""
    with open(path, "ab", buffering=0) as file:
        file.write(data)


def _ends_in_half_a_line(path: Path) -> bool:
    if not path.is_file():  # not there yet, or a pipe
        return False
    try:
        with open(path, "rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"
    except OSError:  # empty
        return False


def reserve(path: Path, size: int) -> None:
    """A file of `size` zero bytes, to be mapped into memory and filled over hours.

    The one file that is under its own name before it is whole, for a build that was interrupted
    goes on in it; another file must say how far it is, and that all of it is there.
    """
    with open(path, "wb") as file:
        file.truncate(size)


# ------------------------------------------------------------------------------------ whole folders


@contextlib.contextmanager
def scratch(final: Path) -> Iterator[Path]:
    """A fresh path beside `final` to make a folder (or a file) at; what is there at the end goes.

    Leftovers of killed makers of `final` are removed first: for the only one who makes it now.
    """
    final = Path(final)
    sweep(final.parent, final.name)
    path = temporary(final)
    try:
        yield path
    finally:
        remove(path)


@contextlib.contextmanager
def staging(final: Path, *, durable: bool = False) -> Iterator[Path]:
    """As `scratch`, and what was made becomes `final` (no file, nor a folder with anything in it).

    durable: the rename is on the disk at the end, not only in the system's memory; files in the
    folder are their writers' to flush.
    """
    with scratch(final) as path:
        yield path
        move(path, final, durable=durable)


def move(old: Path, new: Path, *, durable: bool = False) -> None:
    """Rename within one file system; a file or an empty folder `new` is replaced."""
    os.replace(old, new)
    if durable:
        failpoint("post-rename")
        sync_folder(Path(new).parent)


def set_aside(path: Path, suffix: str) -> Path:
    """Rename `path`, so that it is not used: `.{suffix}` behind it, with a number if need be."""
    target, n = path.with_name(f"{path.name}.{suffix}"), 1
    while os.path.lexists(target):
        n += 1
        target = path.with_name(f"{path.name}.{suffix}{n}")
    move(path, target, durable=True)
    return target


# ------------------------------------------------------------------------------------- the disk


def flush(file: IO[bytes]) -> None:
    """Have what was written to an open file on the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Have new names and renames inside `folder` on the disk, where file systems know how to."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network mounts do not
            raise
    finally:
        os.close(handle)


def expanded(path: str | os.PathLike[str]) -> Path:
    """A path with `~` or `~user` in front as a shell reads it. UsageError: a user nobody knows."""
    found = os.path.expanduser(path)
    if os.fspath(found).startswith("~"):
        raise UsageError(f"{path}: nobody here is called so; for a file of that name: ./{path}")
    return Path(found)


def with_variables(path: str) -> str:
    """A path of a file of settings, which no shell has read, with `$NAME` replaced. UsageError: a
    variable that is not set."""
    found = os.path.expandvars(path)
    if unset := re.search(r"\$(\w+|\{\w+\})", found):
        raise UsageError(f"{path!r}: {unset[0]} is not set")
    return found


def make_folder(folder: Path) -> Path:
    """`folder`, created with its parents; DataDiskError of one line if it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise DataDiskError(f"cannot create {folder}: a file of that name is there") from None
    except OSError as error:
        raise DataDiskError(f"cannot create {folder}: {error.strerror}") from None
    return folder


# ------------------------------------------------------------------------------------- reading


def open_plain(path: str | os.PathLike[str]) -> IO[bytes]:
    """A plain file to read. Errors: OSError, at once, for anything else under that name: a pipe to
    which nobody writes would be waited for without end, and a device gives bytes without end.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise OSError(errno.EINVAL, f"{kind}, not a file", os.fspath(path))
    return os.fdopen(handle, "rb")


def read_bytes(path: str | os.PathLike[str], limit: int = NOTES) -> bytes:
    """All of a plain file; see `open_plain`. limit: bytes; of a larger file none is read, which is
    OSError with EFBIG."""
    with open_plain(path) as file:
        size = os.fstat(file.fileno()).st_size
        data = b"" if size > limit else file.read(limit + 1)  # some files of the system say 0
    if size > limit or len(data) > limit:
        raise OSError(errno.EFBIG, f"{max(size, len(data))} bytes, too large", os.fspath(path))
    return data


def read_text(path: Path, limit: int = NOTES) -> str:
    """All of a plain file as text, what is no UTF-8 replaced; as `read_bytes`."""
    return read_bytes(path, limit).decode("utf-8", errors="replace")


def blocks_from(path: Path, start: int) -> Iterator[bytes]:
    """The bytes of a plain file from `start` on, piece by piece; see `open_plain`."""
    with open_plain(path) as file:
        file.seek(start)
        while block := file.read(_BLOCK):
            yield block


def hash_file(
    path: Path,
    kind: str = "sha256",
    each: Callable[[int], object] = lambda count: None,
    *,
    first: int | None = None,
) -> str:
    """SHA-256 of a file, or the digest that `hashlib` calls `kind`, hex. each: is given the numbers
    of bytes that are read. first: of so many bytes at its beginning alone."""
    digest = hashlib.new(kind, usedforsecurity=False)
    with open_plain(path) as file:
        while block := file.read(_BLOCK if first is None else min(first, _BLOCK)):
            digest.update(block)
            each(len(block))
            first = None if first is None else first - len(block)
    return digest.hexdigest()


class Damaged(ValueError):
    """A file that cannot be read or is no JSON; what is wrong with it, without its name."""


def read_json(path: Path, limit: int = NOTES) -> Any:
    """The JSON value in a file, None if there is no file. limit: as of `read_bytes`. Errors:
    Damaged."""
    try:
        return json.loads(read_bytes(path, limit).decode("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise Damaged(error.strerror or str(error)) from error
    except (ValueError, RecursionError) as error:
        raise Damaged(str(error)) from error


def read_object(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None if there is no file, or something else in it."""
    try:
        value = read_json(path)
    except Damaged:
        return None
    return value if isinstance(value, dict) else None


def lines_of(path: Path) -> Iterator[str]:
    """The lines of a log, one at a time and without their ends; what is no UTF-8 is replaced.

    Errors: OSError, with EFBIG for what is no log: larger than LOGS, or a line without an end.
    """
    with open_plain(path) as file:
        if (size := os.fstat(file.fileno()).st_size) > LOGS:
            raise OSError(errno.EFBIG, f"{size} bytes, too large", os.fspath(path))
        while line := file.readline(_LINE):
            if len(line) == _LINE:
                raise OSError(errno.EFBIG, f"a line of {_LINE} bytes and more", os.fspath(path))
            yield from line.decode("utf-8", errors="replace").splitlines()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a log, one a line; a line cut short by a kill is left out.

    Empty if there is no file. Errors: as `lines_of`.
    """
    try:
        return _objects(lines_of(path))
    except FileNotFoundError:
        return []


def _objects(lines: Iterable[str]) -> list[dict[str, Any]]:
    found = []
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):
            if isinstance(value := json.loads(line), dict):
                found.append(value)
    return found


def read_last_lines(path: Path, limit: int = 1 << 16) -> list[dict[str, Any]]:
    """As `read_lines`, of no more than the last `limit` bytes: for a look at many long logs."""
    try:
        with open_plain(path) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - limit))
            data = file.read(limit)
    except FileNotFoundError:
        return []
    if size > limit:
        data = data.partition(b"\n")[2]  # the first line may have lost its beginning
    return _objects(data.decode("utf-8", errors="replace").splitlines())


# ------------------------------------------------------------------------------------- the lock


@contextlib.contextmanager
def locked(file: Path, *, wait: bool, what: str) -> Iterator[None]:
    """Hold the `Lock` on `file` while preparing `what`. Errors: DataBusyError, DataDiskError.

    wait: for whoever has it, which is said, and up to a day; up to `storage.waiting.wait_limit()`
    while that process is stopped.
    """
    make_folder(file.parent)
    waited, said = 0.0, ""
    while True:
        try:
            lock = Lock(file, f"process {os.getpid()} on {os.uname().nodename}")
            break
        except Busy as busy:
            holder = busy.holder[:1000] or "another process"
        except OSError as error:
            raise DataDiskError(f"cannot write {file}: {error.strerror}") from None
        odd = doing(holder)
        state = f"{holder}{f', which is {odd}' if odd else ''}"
        if not wait or waited > (wait_limit() if odd else _LOCK_S):
            instead = f"gave up after {waited:.0f} s ({WAIT})" if wait else "wait for it"
            raise DataBusyError(f"{what} is being prepared by {state}; {instead}") from None
        if state != said and (waited >= 1 or odd):
            tell(f"waiting for {what}, which is being prepared by {state}", sys.stderr)
            said = state
        time.sleep(_POLL_S)
        waited += _POLL_S
    try:
        yield
    finally:
        lock.release()
