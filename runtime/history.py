"""What a run has written beside its checkpoints, so that its loss or damage is said at a resume.

A checkpoint remembers of the logs that only grow how long they were and what was in them, and of
networks and their like their sizes and contents: {"selected.bin": {"bytes": 96, "sha256": "ab.."}}.
Nothing of it is needed to go on, so nothing of it ends a run; but it is never lost without a word.
"""

from __future__ import annotations

import errno
import hashlib
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from storage.errors import CheckpointError
from storage.files import blocks_from, hash_file
from storage.snapshot import SnapshotFile

LOGS = ("metrics.jsonl", "selected.bin")
_WHOLE = ("snapshots/*.safetensors", "*.pt")
_LINE = 1 << 24  # bytes of a line of figures: a file with a hole in it has none, and no end
_LOOKED_AT = 2 << 30  # bytes of networks that are read again at a resume, the newest first


class History:
    """Tells what is there at every save; each byte is read once a launch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._grown: dict[str, tuple[int, Any]] = {}  # log -> bytes that were read, their digest
        self._known: dict[str, tuple[tuple[int, int, int], str]] = {}

    def record(self) -> dict[str, dict[str, Any]]:
        """What a checkpoint of now remembers; what cannot be read is left out."""
        found = {}
        for name in LOGS:
            try:
                found[name] = self._log(name)
            except OSError:
                self._grown.pop(name, None)
        for path in _networks(self.folder):
            try:
                found[path.relative_to(self.folder).as_posix()] = self._network(path)
            except OSError:
                continue
        return found

    def _log(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        done, digest = self._grown.get(name, (0, hashlib.sha256()))
        if path.stat().st_size < done:  # it was cut
            done, digest = 0, hashlib.sha256()
        held = b""  # the last line of figures may still be written anew
        for block in blocks_from(path, done):
            held += block
            whole = held.rfind(b"\n", 0, -1) + 1 if name.endswith(".jsonl") else len(held)
            digest.update(held[:whole])
            done, held = done + whole, held[whole:]
            if len(held) > _LINE:
                raise OSError(errno.EFBIG, "a line without an end", str(path))
        self._grown[name] = (done, digest)
        return {"bytes": done, "sha256": digest.hexdigest()}

    def _network(self, path: Path) -> dict[str, Any]:
        facts = path.stat()
        mark = (facts.st_size, facts.st_mtime_ns, facts.st_ino)
        known = self._known.get(path.name)
        if known is None or known[0] != mark:
            known = self._known[path.name] = (mark, hash_file(path))
        return {"bytes": facts.st_size, "sha256": known[1]}


def lost(folder: Path, known: object) -> Iterator[str]:
    """What is said of the files that a checkpoint remembers and that are not as they were.

    known: of `History.record`; an earlier version's checkpoint has nothing of the kind.
    """
    if not isinstance(known, Mapping):
        return
    left = _LOOKED_AT
    names = [name for name in known if isinstance(known[name], Mapping)]
    there = {path.relative_to(folder).as_posix() for path in _networks(folder)}
    for name in sorted(names, key=lambda name: (name not in LOGS, name)):
        size, digest, file = known[name].get("bytes"), known[name].get("sha256"), folder / name
        if not isinstance(size, int) or not isinstance(digest, str) or ".." in name:
            continue
        log = name in LOGS
        if not file.is_file():
            later = any(n not in known and Path(n).suffix == file.suffix for n in there)
            if name != "metrics.jsonl" and size and not later:  # `runtime.points` tells of that one
                yield f"{name} is gone since the last save: it is lost, and training goes on"
            continue
        try:
            now = file.stat().st_size
            left -= 0 if log else size
            same = now >= size if log else now == size
            if same and (log or left >= 0):
                same = hash_file(file, first=size) == digest
            same = same or (not log and _is_intact(file))
        except OSError as error:
            yield f"{name} cannot be read ({error.strerror}); training goes on"
            continue
        if not same and not (name == "metrics.jsonl" and now < size):
            how = f"{now} bytes, {size} then" if now < size else "changed"
            yield (
                f"{name} is damaged since the last save ({how}): what it lacks is lost, and "
                "training goes on with it as it is"
            )


def _is_intact(file: Path) -> bool:
    """Whether a network that is another than a checkpoint remembers is whole all the same: one that
    a later launch wrote under this name, before it was killed. Errors: OSError."""
    try:
        if file.suffix == ".safetensors":
            for _ in SnapshotFile(file).tensors():
                pass
            return True
        with zipfile.ZipFile(file) as archive:
            return archive.testzip() is None
    except (CheckpointError, zipfile.BadZipFile, ValueError, RuntimeError, NotImplementedError):
        return False


def _networks(folder: Path) -> list[Path]:
    """Networks in a run's folder, the newest first; links are names for others."""

    def age(path: Path) -> float:
        try:
            return -path.stat().st_mtime
        except OSError:
            return 0.0

    found = [path for pattern in _WHOLE for path in folder.glob(pattern)]
    return sorted((path for path in found if path.is_file() and not path.is_symlink()), key=age)


def tell_lost(folder: Path, known: object, say: Callable[[str], object]) -> None:
    """`say` every line of `lost`."""
    for line in lost(folder, known):
        say(line)
