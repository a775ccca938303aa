"""Training state on disk: atomic, checked, versioned.

A checkpoint is the directory `step-%09d` with one `.pt` a named object, `meta.json` and, written
last, `manifest.json` with the size and SHA-256 of each.  It is staged as `.tmp-*`, flushed to the
disk, and renamed: at any instant the directory holds the old state or the new one.  Every byte is
verified before it is used; a damaged checkpoint is renamed `*.bad` and the one before it is taken.
Files hold tensors and plain values only and are read with `weights_only=True`: reading never
executes anything.

Weights for use (rather than for resuming) are in `storage.snapshot`; what may be in a state is in
`storage.torchfile`.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import torch

from storage import files
from storage.errors import CheckpointError, DiskError
from storage.torchfile import check_portable, load_torch

FORMAT = 1
KEEP = 2  # while a run goes on: where the newest is damaged, there is one before it
MILESTONE_BYTES = 2e9  # of the milestones that are kept, together
_MANIFEST = 1 << 24  # bytes of a manifest.json; those that are written have a thousand
_NAME = re.compile(r"step-(\d{9,})")


class Loaded(NamedTuple):
    """A verified checkpoint: its step, the state of each named object, and the JSON beside them."""

    step: int
    state: dict[str, Any]
    meta: dict[str, Any]


# ------------------------------------------------------------------------- files with a checksum


class _HashingFile:
    """Binary file that keeps the size and SHA-256 of what it was asked to write.

    torch.save turns an error of the file into one of its own ("unexpected pos"), so the first real
    one is kept in `error`.
    """

    def __init__(self, fh: IO[bytes]) -> None:
        self._fh = fh
        self._sha = hashlib.sha256()
        self.size = 0
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        data = bytes(data)
        half = len(data) // 2
        try:
            self._fh.write(data[:half])
            if os.environ.get("IMLE_LAB_FAILPOINT"):
                self._fh.flush()
                files.failpoint("half-file")
            self._fh.write(data[half:])
        except OSError as error:
            self.error = self.error or error
            raise
        self._sha.update(data)
        self.size += len(data)
        return len(data)

    def flush(self) -> None:
        self._fh.flush()

    def entry(self) -> dict[str, Any]:
        return {"size": self.size, "sha256": self._sha.hexdigest()}


def _write_file(path: Path, fill: Callable[[_HashingFile], None]) -> dict[str, Any]:
    files.failpoint("pre-write")
    with open(path, "wb") as fh:
        out = _HashingFile(fh)
        try:
            fill(out)
        except Exception:
            if out.error is not None:
                raise out.error from None
            raise
        fh.flush()
        files.failpoint("pre-fsync")
        files.flush(fh)
        files.failpoint("post-fsync")
    return out.entry()


def _digest(manifest: dict[str, Any]) -> str:
    body = {k: v for k, v in manifest.items() if k != "digest"}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


# ---------------------------------------------------------------------------------------- writing


def save_state(
    directory: Path,
    step: int,
    state: dict[str, Any],
    meta: dict[str, Any],
    milestone: bool = False,
    say: Callable[[str], None] = print,
    *,
    keep: int = KEEP,
    told: Callable[[list[int]], None] = lambda steps: None,
) -> Path:
    """Commit a checkpoint and prune older ones; returns its directory.

    state: object name -> state_dict.  meta: JSON values.  milestone, keep, told: see `prune`.
    If a good checkpoint of this step is there already, it is kept.
    Raises DiskError when the disk did not take it (nothing older was touched), CheckpointError when
    the state holds something that could not be loaded again.
    """
    state = {name: check_portable(value, name) for name, value in state.items()}
    final = directory / f"step-{step:09d}"
    needed = sum(_tensor_bytes(value) for value in state.values())
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if what := _foreign(final):
            say(f"{final} is {what}, not a checkpoint; renamed {_aside(final, 'foreign')}")
        if final.exists() and _still_good(final, milestone, say):
            return final
        _check_space(directory, needed)
        with files.staging(final, durable=True) as staged:
            _stage(staged, step, state, meta, milestone)
        _read_back(final)
    except OSError as error:
        free = _gigabytes(_free_bytes(directory))
        older = [s for s in steps_of(directory) if s < step]
        keeping = f"keeping step {older[-1]}" if older else "nothing is saved yet"
        raise DiskError(
            f"cannot save step {step}: {error}; {_gigabytes(needed)} needed, {free} free in "
            f"{directory}; {keeping}"
        ) from error
    prune(directory, keep, say, told=told)
    return final


def _still_good(path: Path, milestone: bool, say: Callable[[str], None]) -> bool:
    try:
        manifest = verify(path)
    except _Foreign:
        raise
    except CheckpointError as error:
        say(f"{error}; renamed {_aside(path, 'bad')}")
        return False
    if milestone and not manifest["milestone"]:
        manifest["milestone"] = True
        manifest["digest"] = _digest(manifest)
        files.write_text(path / "manifest.json", json.dumps(manifest, indent=1))
    return True


def _tensor_bytes(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        return sum(_tensor_bytes(v) for v in value.values())
    if isinstance(value, (list, tuple)):
        return sum(_tensor_bytes(v) for v in value)
    return 0


def _stage(
    staged: Path, step: int, state: dict[str, Any], meta: dict[str, Any], milestone: bool
) -> None:
    staged.mkdir()
    entries = {}
    for name, value in state.items():
        # Through a python handle: given a path, torch.save hides "no space left" as a wrong offset.
        entries[f"{name}.pt"] = _write_file(staged / f"{name}.pt", _torch_writer(value))
    text = json.dumps(meta, indent=1).encode()
    entries["meta.json"] = _write_file(staged / "meta.json", _bytes_writer(text))
    manifest = {"format": FORMAT, "step": step, "milestone": milestone, "files": entries}
    manifest["digest"] = _digest(manifest)
    text = json.dumps(manifest, indent=1).encode()
    _write_file(staged / "manifest.json", _bytes_writer(text))
    files.sync_folder(staged)
    files.failpoint("post-manifest")


def _read_back(path: Path) -> None:
    """Check that the disk has what was meant; EIO if not."""
    try:
        verify(path)
    except CheckpointError as error:
        files.set_aside(path, "bad")
        raise OSError(errno.EIO, f"read back wrong: {error}") from error


def _torch_writer(value: Any) -> Callable[[_HashingFile], None]:
    return lambda out: torch.save(value, cast(IO[bytes], out))  # all of it that torch uses


def _bytes_writer(data: bytes) -> Callable[[_HashingFile], None]:
    return lambda out: (out.write(data), None)[1]


def _check_space(directory: Path, needed: int) -> None:
    if _free_bytes(directory) < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _free_bytes(directory: Path) -> int:
    return shutil.disk_usage(directory if directory.exists() else directory.parent).free


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def prune(
    directory: Path,
    keep: int = KEEP,
    say: Callable[[str], None] = print,
    *,
    told: Callable[[list[int]], None] = lambda steps: None,
) -> None:
    """Delete all but the newest `keep` checkpoints (0: delete none) and the milestones.

    Of those stay, from the newest on, as many as fit into MILESTONE_BYTES; `told` is given the
    steps of those that went, if any.
    A doomed one is renamed first, so that a kill here leaves rubbish to sweep, not half of one.
    """
    milestones = 0  # bytes
    gone: list[int] = []
    try:
        steps = steps_of(directory) if keep else []
        for step in reversed(steps):
            path = directory / f"step-{step:09d}"
            try:
                manifest = _read_manifest(path)
            except CheckpointError:
                continue  # damaged: left for the loader to name
            if manifest["milestone"]:
                milestones += sum(entry["size"] for entry in manifest["files"].values())
            if step not in steps[-keep:] and not (
                manifest["milestone"] and milestones <= MILESTONE_BYTES
            ):
                grave = files.temporary(directory / f"pruned-{step}")
                files.move(path, grave)
                files.failpoint("mid-prune")
                if manifest["milestone"]:
                    gone.append(step)
                shutil.rmtree(grave)
    except OSError as error:
        say(f"cannot delete an old checkpoint: {error}")
    if gone:
        told(sorted(gone))


def sweep(directory: Path, say: Callable[[str], None] = print) -> None:
    """Remove what a killed process left unfinished.  Only for the holder of the run's lock."""
    for path in files.sweep(directory):
        say(f"removed unfinished {path.name}")


# ---------------------------------------------------------------------------------------- reading


def steps_of(directory: Path) -> list[int]:
    """Steps of the checkpoints in `directory`, ascending, verified or not."""
    return [step for step, path in _named(directory) if not _foreign(path)]


def _named(directory: Path) -> list[tuple[int, Path]]:
    """Step and path of all that bears a checkpoint's name, whatever it is, ascending."""
    if not directory.is_dir():
        return []
    found = ((_NAME.fullmatch(path.name), path) for path in directory.iterdir())
    return sorted((int(match[1]), path) for match, path in found if match)


def _foreign(path: Path) -> str:
    """What lies under a checkpoint's name and can be none, since it is no folder, in words; "" for
    a folder, for nothing, and for what cannot be looked at, of which `verify` says why."""
    try:
        folder = stat.S_ISDIR(os.stat(path).st_mode)
    except OSError as error:
        nowhere = error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR) and path.is_symlink()
        return "a link that leads nowhere" if nowhere else ""
    return "" if folder else "a file"


def _aside(path: Path, suffix: str) -> str:
    """Rename it, so that it is not used; its new name."""
    return files.set_aside(path, suffix).name


def _read_manifest(path: Path) -> dict[str, Any]:
    short = path.name
    try:
        manifest = json.loads(files.read_bytes(path / "manifest.json", _MANIFEST))
        version = manifest["format"]
        if isinstance(version, int) and version > FORMAT and manifest["digest"]:
            raise _Foreign(
                f"{path}: written by a newer version (format {version}, this one reads {FORMAT})"
            )
        if manifest["digest"] != _digest(manifest):
            raise CheckpointError(f"{short}/manifest.json: its own checksum does not match")
        if f"step-{manifest['step']:09d}" != short:
            raise CheckpointError(f"{short}: its manifest says step {manifest['step']}")
    except FileNotFoundError:
        raise CheckpointError(f"{short}/manifest.json: missing") from None
    except OSError as error:
        if error.errno != errno.EFBIG:
            raise
        raise CheckpointError(f"{short}/manifest.json: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{short}/manifest.json: damaged ({error})") from None
    return manifest


class _Foreign(CheckpointError):
    """Unusable here, but not damaged: never set aside."""


def verify(path: Path) -> dict[str, Any]:
    """Check every byte of the checkpoint directory `path`; returns its manifest.

    Raises CheckpointError that names the file and what is wrong with it.
    """
    try:
        manifest = _read_manifest(path)
        for name, wanted in manifest["files"].items():
            file = path / name
            if not file.is_file():
                raise CheckpointError(f"{path.name}/{name}: missing")
            size = file.stat().st_size
            if size != wanted["size"]:
                raise CheckpointError(f"{path.name}/{name}: {size} bytes, not {wanted['size']}")
            if files.hash_file(file) != wanted["sha256"]:
                raise CheckpointError(f"{path.name}/{name}: sha256 mismatch")
    except OSError as error:
        if error.errno == errno.EIO:
            raise CheckpointError(f"{path.name}: {error}") from error
        raise _Foreign(f"cannot read {path}: {error}") from error
    return manifest


def read_meta(path: Path) -> dict[str, Any]:
    """The JSON beside the states of the checkpoint directory `path`, verified; CheckpointError."""
    try:
        manifest = _read_manifest(path)
        file, wanted = path / "meta.json", manifest["files"]["meta.json"]
        if file.stat().st_size != wanted["size"] or files.hash_file(file) != wanted["sha256"]:
            raise CheckpointError(f"{path.name}/meta.json: sha256 mismatch")
        return files.read_json(path / "meta.json")
    except (OSError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path.name}: meta.json cannot be read: {error}") from None


def load_path(path: Path, *, verified: bool = False) -> Loaded:
    """Load the checkpoint directory `path` onto the CPU; CheckpointError if it is damaged.

    verified: the caller has just called `verify`.
    """
    manifest = _read_manifest(path) if verified else verify(path)
    meta = files.read_json(path / "meta.json")
    state = {
        name.removesuffix(".pt"): load_torch(path / name)
        for name in manifest["files"]
        if name.endswith(".pt")
    }
    return Loaded(manifest["step"], state, meta)


def newest_good(directory: Path, say: Callable[[str], None] = print) -> Path | None:
    """Directory of the newest checkpoint that verifies; None when there never was one.

    Damaged ones are renamed `*.bad` and named.  If there are only damaged ones, now or from an
    earlier call, that is a CheckpointError: training never silently starts again. So is a folder of
    checkpoints that is none, such as a link to a disk that is not mounted. A file or such a link
    under a checkpoint's name is named and passed over, if there is a good one besides.
    """
    if os.path.lexists(directory) and not directory.is_dir():
        what = "a link that leads nowhere" if directory.is_symlink() else "no folder"
        raise CheckpointError(
            f"{directory} is {what}: bring the checkpoints back (is their disk mounted?), or begin "
            "again in another --outdir"
        )
    found = ((path.name, _foreign(path)) for _, path in _named(directory))
    foreign = [f"{name} is {what}" for name, what in found if what]
    for path in _newest_first(directory):
        try:
            verify(path)
        except _Foreign:
            raise
        except CheckpointError as error:
            say(f"checkpoint {error}; renamed {_aside(path, 'bad')}")
        else:
            if foreign:
                say(f"{directory}: {', '.join(foreign)}, no checkpoint: passed over")
            return path
    bad = sorted(path.name for path in directory.glob("step-*.bad*") if "supers" not in path.name)
    if bad:
        raise CheckpointError(
            f"no checkpoint in {directory} is intact ({', '.join(bad)}): start again with "
            "--resume 0 or another --outdir"
        )
    if foreign:
        raise CheckpointError(
            f"there is no checkpoint in {directory}, but {', '.join(foreign)}: bring back what "
            "belongs there (is its disk mounted?), or move it away to begin again"
        )
    return None


def load_latest(directory: Path, say: Callable[[str], None] = print) -> Loaded | None:
    """Load what `newest_good` finds; None when there never was a checkpoint."""
    path = newest_good(directory, say)
    return None if path is None else load_path(path, verified=True)


def supersede(directory: Path, after: int, say: Callable[[str], None] = print) -> None:
    """Rename checkpoints later than step `after` to `*.superseded`; -1: all, damaged ones too."""
    for path in _newest_first(directory):
        if int(path.name.removeprefix("step-")) > after:
            say(f"checkpoint {path.name} renamed {_aside(path, 'superseded')}")
    if after < 0 and directory.is_dir():
        for path in sorted(directory.glob("step-*.bad*")):
            if "superseded" not in path.name:
                files.set_aside(path, "superseded")


def _newest_first(directory: Path) -> Iterator[Path]:
    for step in reversed(steps_of(directory)):
        yield directory / f"step-{step:09d}"
