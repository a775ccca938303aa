"""Networks that are named, not given as a path: by an address, or as NVIDIA publishes them.

They are taken from the models directory, and fetched into it where they are not there.
"""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path

from data.prepare.download import lock_of, turn
from data.prepare.networks import check_record, fetch_network, is_url, place
from data.prepare.published import is_published
from generators.foreign.contents import open_contents
from generators.foreign.formats import identify
from runtime import distributed
from storage.dirs import models_home
from storage.errors import CheckpointError, DataError, UsageError
from storage.find import SUFFIXES, find_network
from storage.snapshot import SnapshotFile, is_snapshot


def locate(
    word: str | Path,
    script: str | None = None,
    results: str | Path | None = None,
    option: str = "network",
) -> Path:
    """The file that a command line means by a path, a published name or an address.

    A path is looked for by `storage.find.find_network`; `named` is for the others. option: what it
    was given as, for errors. Errors: as of these two.
    """
    return named(word) or find_network(word, script, results, option)


def named(word: str | Path) -> Path | None:
    """The file of a published name or an http(s) address, fetched if it is not there; None: a path.

    A published name (edm2-img512-s-2147483-0.130) is that file, as NVIDIA's .pkl or as a snapshot
    imported from it, and no other. All ranks call this together: the main one fetches, and the
    others wait. Errors: UsageError for what cannot be fetched from, and for a snapshot that has the
    name of another network; DataError for what cannot be fetched, or has changed.
    """
    text = str(word).strip()
    if not is_url(text) and not is_published(text.removesuffix(".pkl")):
        return None
    found = _there(text)
    if distributed.all_reduce_max(found is None):  # on one machine of several, perhaps
        return _fetched(text, found)
    assert found is not None
    if found.suffix != SUFFIXES[0]:
        check_record(found)
    return found


def _there(word: str) -> Path | None:
    """The file in the models directory, or of a published name in the working directory too."""
    home = models_home()
    if is_url(word):
        return _imported(place(word, home))
    below = [sorted(home.glob(depth)) for depth in ("*/", "*/*/")]
    folders = (Path(), home, *itertools.chain(*below))
    name = word.removesuffix(".pkl")
    return next((f for at in folders if (f := _imported(at / f"{name}.pkl"))), None)


def _imported(file: Path) -> Path | None:
    """What is there of a published file: it, or the snapshot beside it that was made from it.

    Errors: UsageError for a snapshot of its name that is another network.
    """
    ours = file.with_suffix(SUFFIXES[0])
    if file.suffix == SUFFIXES[1] and ours.is_file():
        origin = SnapshotFile(ours).provenance
        if "imported" not in origin or origin.get("file") != file.name:
            raise UsageError(
                f"{ours} has the name of a published network, but does not say that it was "
                f"imported from {file.name}: rename it, or give its path if it is what you want"
            )
        return ours
    return file if file.is_file() else None


def _fetched(word: str, found: Path | None) -> Path:
    """Fetch what is not there, on the main rank while the others wait."""
    home = models_home()
    if distributed.world_size() == 1:
        return fetch_network(word, home, check=_fault)
    met = False

    def meet() -> None:
        nonlocal met
        if not met:
            met = True
            distributed.barrier()

    def work() -> None:
        try:
            if found is None:
                fetch_network(word, home, check=_fault, begun=meet)
        finally:
            meet()

    if not distributed.is_main():
        # At the lock that the main rank holds by then: a collective would time out meanwhile.
        meet()
        if lock_of(file := place(word, home)).is_file():
            with contextlib.suppress(DataError), turn(file, quiet=True):
                pass
    distributed.from_main(work)
    # another machine may have a models directory of its own
    return found or _there(word) or fetch_network(word, home, check=_fault)


def _fault(file: Path) -> str | None:
    """What is wrong with a file that was fetched, as a network; a `check` of `fetch`."""
    ending = Path(file.name.removesuffix(".part")).suffix
    try:
        if ending == SUFFIXES[0]:
            is_snapshot(file)
        elif ending == SUFFIXES[1]:
            identify(file)
        else:  # --init_from takes weights of any program
            open_contents(file)
    except CheckpointError as error:
        return str(error).replace(str(file), "it")
    return None
