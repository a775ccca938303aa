"""Weights for use: one safetensors file with what is needed to build the network again.

A snapshot holds tensors, the kind of network, its constructor arguments and where it came from,
all under one SHA-256 that is checked on load.
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from storage.errors import CheckpointError, DiskError
from storage.files import remove, set_aside, write_bytes

_FORMAT = "imle-lab-snapshot"
_VERSION = 1


class Snapshot(NamedTuple):
    """What `load_snapshot` returns; `config` are the constructor's arguments."""

    state_dict: dict[str, torch.Tensor]
    kind: str
    config: dict[str, Any]
    provenance: dict[str, Any]


def save_snapshot(
    path: Path,
    state_dict: dict[str, torch.Tensor],
    kind: str,
    config: dict[str, Any],
    provenance: dict[str, Any],
) -> Path:
    """Write a snapshot atomically; `config` and `provenance` must be JSON values.

    Raises CheckpointError for an entry that is not a tensor, DiskError when it cannot be written.
    """
    from safetensors.torch import save

    path = Path(path)
    tensors = {}
    for name, value in state_dict.items():
        if not isinstance(value, torch.Tensor):
            raise CheckpointError(
                f"snapshot {path.name}: entry {name!r} is a {type(value).__name__}, not a tensor"
            )
        # A copy each: safetensors refuses tensors that share memory (tied weights).
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
    try:
        header = {
            "format": _FORMAT,
            "version": str(_VERSION),
            "kind": kind,
            "config": json.dumps(config, sort_keys=True),
            "provenance": json.dumps(provenance, sort_keys=True),
        }
    except TypeError as error:
        raise CheckpointError(f"snapshot {path.name}: config or provenance: {error}") from None
    sha = _content_hash(header)
    for name in sorted(tensors):
        _add_tensor(sha, name, tensors[name])
    header["sha256"] = sha.hexdigest()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, save(tensors, metadata=header))
    except OSError as error:
        raise DiskError(f"cannot write snapshot {path}: {error}") from error
    return path


class SnapshotFile:
    """A snapshot read piece by piece: facts and layout when opened, tensors one after the other.

    For work on many snapshots at once. Attributes: path, kind, config, provenance, sha256, layout
    {name: (shape, type)}. Errors: CheckpointError for a file damaged, foreign or missing.
    """

    def __init__(self, path: Path) -> None:
        from safetensors import safe_open

        self.path = Path(path)
        if not self.path.is_file():
            raise CheckpointError(f"snapshot {path}: no such file")
        with _readable(self.path):
            self._file = safe_open(self.path, framework="pt", device="cpu")
            header = self._header = self._file.metadata() or {}
            if header.get("format") != _FORMAT:
                raise CheckpointError(f"{path} is not a snapshot of this toolkit")
            if int(header["version"]) > _VERSION:
                raise CheckpointError(
                    f"{path}: written by a newer version (format {header['version']}, "
                    f"this one reads {_VERSION})"
                )
            self.kind: str = header["kind"]
            self.sha256: str = header["sha256"]
            self.config: dict[str, Any] = json.loads(header["config"])
            self.provenance: dict[str, Any] = json.loads(header["provenance"])
            if not isinstance(self.config, dict) or not isinstance(self.provenance, dict):
                raise ValueError("its configuration or provenance is no object")
            slices = {name: self._file.get_slice(name) for name in self._file.keys()}  # noqa: SIM118
            self.layout = {n: (tuple(s.get_shape()), s.get_dtype()) for n, s in slices.items()}

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """(name, tensor) in order of names, on the CPU.

        The checksum is taken on the way: only whoever reads to the end knows that all was intact.
        """
        sha = _content_hash(self._header)
        for name in sorted(self.layout):
            with _readable(self.path):
                tensor = self._file.get_tensor(name)
            _add_tensor(sha, name, tensor)
            yield name, tensor
        if sha.hexdigest() != self.sha256:
            raise CheckpointError(f"snapshot {self.path}: sha256 mismatch, the file is damaged")


def is_snapshot(path: Path) -> bool:
    """Whether a safetensors file is one of this toolkit. Errors: CheckpointError if damaged."""
    from safetensors import safe_open

    with _readable(path), safe_open(path, framework="pt") as file:
        return (file.metadata() or {}).get("format") == _FORMAT


def load_snapshot(path: Path) -> Snapshot:
    """Read and verify a snapshot, onto the CPU; CheckpointError if damaged, foreign or missing."""
    file = SnapshotFile(path)
    return Snapshot(dict(file.tensors()), file.kind, file.config, file.provenance)


def refuse_not_finite(state: Mapping[str, torch.Tensor], where: str | Path) -> None:
    """CheckpointError for weights among which one is NaN or infinite: of a training that failed, or
    of a damaged file. Whatever is computed with them is not finite either."""
    for name, value in state.items():
        if value.is_floating_point() and value.numel() and not value.float().sum().isfinite():
            if not value.isfinite().all():  # a sum may overflow
                raise CheckpointError(
                    f"{where}: its weights are not finite ({name}): a network of a training that "
                    "failed; take one of an earlier step"
                )


def supersede(run: Path, after: int, say: Callable[[str], None] = print) -> None:
    """Rename the snapshots in a run's folder that are later than step `after` to `*.superseded`.

    -1: all of a trained network, and those whose step is not known. What SimCLR's --save_pt has
    written beside one goes with it.
    """
    gone = []
    for file in sorted((run / "snapshots").glob("*.safetensors")):
        step = _step_of(file)
        if step > max(after, 0) if step is not None else after < 0:
            set_aside(file, "superseded")
            gone.append(file.stem)
            if (twin := run / f"{file.stem}.pt").is_file() and file.stem.isdecimal():
                set_aside(twin, "superseded")
    latest = run / "latest.pt"
    if latest.is_symlink() and not os.path.exists(latest):
        remove(latest)
    if gone:
        say(f"snapshots of later steps renamed *.superseded: {', '.join(gone)}")


def _step_of(path: Path) -> int | None:
    """The step of a snapshot, by what it says or else by its name; None where neither tells."""
    known: list[Any] = []
    with contextlib.suppress(CheckpointError):
        file = SnapshotFile(path)
        known = [file.provenance.get("step"), file.config.get("step")]
    named = re.search(r"\d{7,}", path.stem)  # a shorter number may be one of an epoch
    known.append(int(named[0]) if named else None)
    return next((step for step in known if isinstance(step, int)), None)


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Whatever a broken file makes its readers raise, as CheckpointError."""
    from safetensors import SafetensorError

    try:
        yield
    except (SafetensorError, KeyError, TypeError, ValueError, OSError, RuntimeError) as error:
        raise CheckpointError(f"snapshot {path}: damaged or foreign ({error})") from error


def _content_hash(header: dict[str, str]) -> "hashlib._Hash":
    """SHA-256 of a snapshot's facts; `_add_tensor` adds the tensors, in order of their names."""
    sha = hashlib.sha256()
    for key in ("format", "version", "kind", "config", "provenance"):
        sha.update(f"{key}\0{header[key]}\0".encode())
    return sha


def _add_tensor(sha: "hashlib._Hash", name: str, tensor: torch.Tensor) -> None:
    sha.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
    if tensor.numel():
        sha.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
