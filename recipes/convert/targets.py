"""What convert.py writes: one entry of TARGETS a format.

A format is a `Target`: a file with its `write`, and an entry here. What `write` needs to import is
imported where it is used, so that `--help` is quick.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from storage.errors import UsageError
from storage.snapshot import Snapshot, save_snapshot


class Given(NamedTuple):
    """The network that is to be written.

    file: where it was read from, a snapshot of ours or a file of others. snapshot: its weights
    under our names, its kind, its constructor's arguments, its provenance.
    """

    file: Path
    snapshot: Snapshot


class Target(NamedTuple):
    """A format of others, or our own, as something that is written.

    help: what it is, a line of --help, "torchvision's names of a ResNet". ending: of the file, with
    its dot; "" for a folder. kinds: of which kinds of snapshots it can be made; None: of any.
    write: (what is given, where to, the options) -> lines to print. It writes whole or not at all
    (`storage.files`) and raises RunErrors. about: a file's path -> what it is, in a line, if it is
    one of this format, else None; None where no file can be told so.
    """

    help: str
    ending: str
    kinds: tuple[str, ...] | None
    write: Callable[[Given, Path, Namespace], list[str]]
    about: Callable[[Path], str | None] | None = None


def write_snapshot(given: Given, path: Path, args: Namespace) -> list[str]:
    """A snapshot of ours, which every command here takes. Errors: DiskError."""
    save_snapshot(path, *given.snapshot)
    return []


# --to NAME -> what is written.
TARGETS: dict[str, Target] = {
    "snapshot": Target(
        "a snapshot of this toolkit, which all its commands take",
        ".safetensors", None, write_snapshot,
    ),
}  # fmt: skip


def target(name: str, kind: str) -> Target:
    """The format of --to for a network of `kind`. Errors: UsageError."""
    found = TARGETS[name]
    if found.kinds is not None and kind not in found.kinds:
        able = [word for word, one in TARGETS.items() if one.kinds is None or kind in one.kinds]
        raise UsageError(
            f"--to {name} is of kinds {', '.join(found.kinds)}, and this is a {kind!r} network; "
            f"of it can be made: {', '.join(able)}"
        )
    return found
