"""The one door to trained generators: a path goes in, something that draws comes out.

    net = open_generator("RUN")                      # a run's folder, a snapshot, NVIDIA's .pkl
    images = net.draw(16, seed=0)                    # uint8 [16, 3, H, W]

Another kind is a file with a class that keeps the protocol `generators.base.Generator`, and an
entry of KINDS.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from data.views.generated import Sampler
from generators.base import Generator, Kind, Setup
from generators.edm2 import EDM2
from generators.files import open_network
from generators.imle import ConditionalIMLE, UnconditionalIMLE
from generators.toy import Toy
from storage.errors import CheckpointError
from storage.find import find_network
from storage.snapshot import Snapshot

__all__ = ["KINDS", "make_generator", "open_generator", "open_network"]

# Kinds of snapshots -> what draws from them: (snapshot, setup, file) -> Generator.
KINDS: dict[str, Kind] = {
    "camnet": ConditionalIMLE,
    "imle-unconditional": UnconditionalIMLE,
    "edm2": EDM2,
    "edm2-toy": Toy,
}


def open_generator(
    path: str | Path,
    *,
    script: str = "train_edm2",
    device: torch.device | str = "cpu",
    precision: str | None = None,
    compile: bool = False,
    vae: str | None = None,
    say: Callable[[str], object] = print,
) -> Generator:
    """The generator at a path: a snapshot, a run's folder (its newest snapshot), a file of others,
    or a published name (`storage.find.find_network`).

    script: below whose results a relative path is looked for too. device .. vae: as in `Setup`.
    say: told in one line if another file is taken, or one imported.
    Errors: UsageError, CheckpointError.
    """
    file = find_network(path, script)
    setup = Setup(device, precision, compile, vae)
    return make_generator(open_network(file, say), setup, file)


def make_generator(
    snapshot: Snapshot, setup: Setup | None = None, file: Path | None = None
) -> Generator:
    """The generator of a snapshot. Errors: CheckpointError for a kind that is not in KINDS."""
    return _kind(snapshot)(snapshot, setup or Setup(), file)


def view_sampler(snapshot: Snapshot, size: int | None, **options: Any) -> Sampler:
    """A snapshot as a source of images at `size`; options: those of its kind, see
    `generators.imle.CAMNetSampler`. Errors: CheckpointError for a kind without views."""
    able = [kind for kind, make in KINDS.items() if hasattr(make, "view_sampler")]
    if snapshot.kind not in able:
        raise CheckpointError(
            f"a {snapshot.kind!r} snapshot gives no images of an image; those that do: "
            f"{', '.join(able)}"
        )
    return make_generator(snapshot).view_sampler(size, **options)  # type: ignore[attr-defined]


def _kind(snapshot: Snapshot) -> Kind:
    if snapshot.kind not in KINDS:
        raise CheckpointError(f"a {snapshot.kind!r} snapshot: known are {sorted(KINDS)}")
    return KINDS[snapshot.kind]
