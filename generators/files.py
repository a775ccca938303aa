"""A file of weights, of ours or of others, as a snapshot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from diffusion.original import import_pickle
from storage.errors import CheckpointError
from storage.find import opened, refuse_url
from storage.snapshot import Snapshot, load_snapshot

# Files of others by their endings; each is read as data, nothing of it runs.
IMPORTERS: dict[str, Callable[[Path], Snapshot]] = {".pkl": import_pickle}


def open_network(path: str | Path, say: Callable[[str], object] = print) -> Snapshot:
    """The network in a file: a snapshot of ours, or an EDM2 pickle (`diffusion.original`).

    A `.pkl` with a `.safetensors` of the same name beside it means that one (also when the `.pkl`
    itself is not there), and `say` is told so in one line, as of an import.
    Raises UsageError for a URL, CheckpointError for what is missing, damaged, foreign or refused.
    """
    refuse_url(path)
    path = Path(path)
    ending = path.suffix.lower()
    if ending in IMPORTERS:
        if (ours := opened(path)) != path:
            say(f"{path.name}: taking {ours} instead")
            return load_snapshot(ours)
        snapshot = IMPORTERS[ending](path)
        count = len(snapshot.state_dict)
        say(f"imported {path.name}: {count} tensors; the code in the file was ignored")
        return snapshot
    if ending != ".safetensors":
        raise CheckpointError(f"network {path}: neither a .safetensors nor a .pkl file")
    return load_snapshot(path)
