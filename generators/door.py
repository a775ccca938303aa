"""The one door to trained generators: a path goes in, something that draws comes out.

    net = open_generator("RUN")                      # a run's folder, a snapshot, NVIDIA's .pkl
    images = net.draw(16, seed=0)                    # uint8 [16, 3, H, W]

Another kind is a file with a class that keeps the protocol `generators.base.Generator`, and an
entry of KINDS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from data.prepare.networks import is_url
from generators.base import Generator, Kind, Setup, WrongKind, in_words
from generators.ddpm import DDPM
from generators.edm2 import EDM2
from generators.files import open_network
from generators.fit import fitting
from generators.imle import ConditionalIMLE, UnconditionalIMLE
from generators.omnigan import Omnigan
from generators.published import locate
from generators.toy import Toy
from storage.errors import CheckpointError
from storage.find import say_found
from storage.snapshot import Snapshot

__all__ = [
    "KINDS",
    "UnknownKind",
    "kinds_with_views",
    "make_generator",
    "open_generator",
    "open_network",
]


class UnknownKind(CheckpointError):
    """A snapshot of a kind that does not draw images, or not yet."""

    def __init__(self, kind: str, file: Path | None = None) -> None:
        where = "this" if file is None else file
        why = f"those that do are of the kinds {', '.join(sorted(KINDS))}"
        if kind == "simclr":
            why = "TrainSimCLR.py --probe_only tells how good it is"
        super().__init__(f"{where} holds {in_words(kind)}, which does not draw images; {why}")
        self.kind = kind


# Kinds of snapshots -> what draws from them: (snapshot, setup, file) -> Generator.
KINDS: dict[str, Kind] = {
    "camnet": ConditionalIMLE,
    "imle-unconditional": UnconditionalIMLE,
    "edm2": EDM2,
    "edm2-toy": Toy,
    "ddpm": DDPM,
    "omnigan": Omnigan,
}


def open_generator(
    path: str | Path,
    *,
    kinds: Sequence[str] | None = None,
    script: str | None = None,
    results: str | Path | None = None,
    device: torch.device | str = "cpu",
    precision: str | None = None,
    compile: bool = False,
    vae: str | None = None,
    noise_device: str = "cpu",
    code: str | None = None,
    say: Callable[[str], object] = print,
    option: str = "network",
) -> Generator:
    """The generator at a path: a snapshot, a run's folder (its newest snapshot), a file of others,
    a published name, or an http(s) address (`generators.published.locate`).

    kinds: what it may be (default: any of KINDS). script, results: below the results of which
    script first, in which folder, a relative path is looked for too (default: of all;
    results_home()).
    device .. code: as in `Setup`. say: told in one line which file of a folder, or which
    other file is taken, and that one is imported. option: what the path was given as, for errors.
    Errors: UsageError, as its WrongKind for a kind that is not wanted; CheckpointError; DataError
    for what cannot be fetched.
    """
    file = locate(path, script, results, option)
    if not is_url(path):
        say_found(path, file, say)
    snapshot = open_network(file, say)
    if kinds is not None and snapshot.kind not in kinds:
        raise WrongKind(path, file, snapshot.kind, kinds)
    setup = Setup(device, precision, compile, vae, noise_device, code)
    return make_generator(snapshot, setup, file)


def make_generator(
    snapshot: Snapshot, setup: Setup | None = None, file: Path | None = None
) -> Generator:
    """The generator of a snapshot. Errors: CheckpointError for a kind that is not in KINDS, and, as
    its Unfit, for a configuration that is none or of other weights."""
    kind = _kind(snapshot, file)
    with fitting(str(file or f"the {snapshot.kind!r} snapshot")):
        return kind(snapshot, setup or Setup(), file)


def kinds_with_views() -> list[str]:
    """The kinds that draw images of an image: `generators.base.ImageConditioned`."""
    return [kind for kind, make in KINDS.items() if hasattr(make, "view_sampler")]


def _kind(snapshot: Snapshot, file: Path | None) -> Kind:
    if snapshot.kind not in KINDS:
        raise UnknownKind(snapshot.kind, file)
    return KINDS[snapshot.kind]
