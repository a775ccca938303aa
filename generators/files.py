"""A file of weights, of ours or of others, as a snapshot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from generators.foreign.contents import Asked
from generators.foreign.formats import FORMATS, import_network
from storage.errors import CheckpointError
from storage.find import opened, refuse_url
from storage.snapshot import Snapshot, is_snapshot, load_snapshot, refuse_not_finite


def is_ours(path: Path) -> bool:
    """Whether a file is a snapshot of this toolkit, or is called as one and missing. Errors:
    CheckpointError for a .safetensors that is damaged."""
    named = path.suffix.lower() == ".safetensors"
    return named and (not path.is_file() or is_snapshot(path))


def open_network(
    path: str | Path, say: Callable[[str], object] = print, asked: Asked | None = None
) -> Snapshot:
    """The network in a file: a snapshot of ours, or a file of others in any of the formats of
    `generators.foreign.formats`, which is read as data.

    A `.pkl` with a `.safetensors` of the same name beside it means that one (also when the `.pkl`
    itself is not there), and `say` is told so in one line, as of an import, and of what the file
    did not say. asked: what a file of others does not say.
    Raises UsageError for a URL, CheckpointError for what is missing, damaged, foreign or refused,
    and for weights that are not finite.
    """
    snapshot = _read(path, say, asked)
    refuse_not_finite(snapshot.state_dict, path)
    return snapshot


def _read(path: str | Path, say: Callable[[str], object], asked: Asked | None) -> Snapshot:
    refuse_url(path)
    path = Path(path)
    if (ours := opened(path)) != path and asked is None:
        say(f"{path.name}: taking {ours} instead")
        return load_snapshot(ours)
    if is_ours(path):
        return load_snapshot(path)
    if path.suffix == ".pkl" and not path.is_file():
        other = path.with_suffix(".safetensors").name
        raise CheckpointError(f"network {path}: no such file (and no {other} beside it)")
    snapshot, found = import_network(path, asked or Asked())
    count, what = len(snapshot.state_dict), FORMATS[found.format].what
    if path.suffix == ".pkl":
        say(f"imported {path.name}: {count} tensors; the code in the file was ignored")
    else:
        say(f"imported {path.name}, {what}: {count} tensors, read as data")
    for note in found.notes:
        say(f"  {note}")
    return snapshot
