"""What a training run's data sets and files are, wherever they lie: see `runtime.inputs`."""

from __future__ import annotations

import hashlib
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.listing import fingerprint
from data.sources import Source
from runtime.inputs import Inputs
from storage.dirs import find_output
from storage.errors import CheckpointError, UsageError
from storage.files import read_bytes
from storage.find import find_network, identity


def inputs_of(
    args: Namespace, sets: Mapping[str, Source], networks: Mapping[str, str | None]
) -> Inputs:
    """Option (as in `args`) -> what is known of the set or file that it names.

    sets: option -> its source; first the one that is trained on. networks: option -> the script
    whose results its word is looked for in, None for any. What is not there any more is left out:
    a run goes on by the word for it.
    """
    marks = {option: fingerprint(source) for option, source in sets.items()}
    found: Inputs = {option: mark for option, mark in marks.items() if mark is not None}
    for option, script in networks.items():
        word = getattr(args, option)
        if word is None:
            continue
        try:
            found[option] = {"sha256": identity(find_network(word, script, args.results_path))}
        except (UsageError, CheckpointError, OSError):
            continue  # whoever reads it says what is wrong
    return found


def of_views(cache: str | None) -> dict[str, Any]:
    """What a folder of stored views is known by: its notes, which say how each was made."""
    if cache is None:
        return {}
    notes = sorted(Path(find_output(cache, "generate_views")).glob("views-*.json"))
    digest = hashlib.sha256()
    for note in notes:
        digest.update(note.name.encode() + b"\n" + read_bytes(note))
    return {"cache": {"sha256": digest.hexdigest()}} if notes else {}
