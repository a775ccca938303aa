"""What is in a file of others, before anybody knows whose it is; and what is found to be in it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from storage.errors import CheckpointError
from storage.files import hash_file, open_plain
from storage.foreign.modules import StoredTensor
from storage.foreign.objects import module_state, read_objects
from storage.foreign.pickles import Inert
from storage.foreign.saved import LEGACY_START
from storage.snapshot import Snapshot
from storage.torchfile import load_foreign

Entry = Tensor | StoredTensor  # both have shape and dtype; a StoredTensor's numbers are in the file
# Under what other programs keep a network's state_dict in a file.
WRAPPERS = "state_dict model_state_dict model net network ema params_ema params module".split()


class Asked(NamedTuple):
    """What one may say of a file that does not say all.

    task: of a CAM-Net of the code release. res: resolutions, r_0 .. r_L of a CAM-Net, or the side
    of an encoder's pictures. config: constructor arguments of the original network. ema: the
    average of the weights, where a file has both. normalise: of an encoder's pictures, a name of
    `data.views.recipes.NORMALISATIONS`.
    """

    task: str | None = None
    res: tuple[int, ...] | None = None
    config: Mapping[str, Any] = {}
    ema: bool = True
    normalise: str | None = None


class Contents(NamedTuple):
    """A file, read as data.

    value: of a file of torch.save, its tensors unread, or a dict of tensors; None where it is a
    pickle of whole modules, as NVIDIA's, that its own reader reads.
    """

    path: Path
    value: Any


class Found(NamedTuple):
    """A network of others, found in a file.

    format: its name in `generators.foreign.formats.FORMATS`. kind, config, provenance: as a
    snapshot's. entries: its weights under our names, not made yet. notes: what a reader should know
    that the file did not say, or that was left out; a sentence each, without a full stop.
    """

    format: str
    kind: str
    entries: Mapping[str, Entry]
    config: dict[str, Any]
    provenance: dict[str, Any]
    notes: tuple[str, ...] = ()

    def snapshot(self, path: Path) -> Snapshot:
        """Its weights made, in float32 (whole numbers as they are). path: of the file, whose
        checksum is kept. Errors: PickleError, OSError; see `storage.foreign.modules.reading`."""
        state = {name: made(entry) for name, entry in self.entries.items()}
        return Snapshot(
            state, self.kind, self.config, self.provenance | {"sha256": hash_file(path)}
        )

    def numel(self) -> int:
        """How many weights there are."""
        return sum(entry.numel() for entry in self.entries.values())


def made(entry: Entry) -> Tensor:
    """A tensor of its own memory: float32 of any floating-point numbers, others as they are."""
    if isinstance(entry, StoredTensor):
        return entry.load(torch.float32 if entry.dtype.is_floating_point else None)
    return entry.detach().to(torch.float32 if entry.is_floating_point() else entry.dtype, copy=True)


def open_contents(path: Path) -> Contents:
    """What a file holds. Errors: CheckpointError for what is missing, damaged, refused, or nothing
    that weights are kept in."""
    if not path.is_file():
        raise CheckpointError(f"network {path}: no such file")
    try:
        with open_plain(path) as file:
            start = file.read(len(LEGACY_START))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None
    if start.startswith(b"PK") or start == LEGACY_START:
        return Contents(path, read_objects(path, unread=True))
    ending = Path(path.name.removesuffix(".part")).suffix.lower()  # of a download
    if ending == ".safetensors":
        return Contents(path, load_foreign(path))
    if start.startswith(b"\x80") or ending == ".pkl":
        return Contents(path, None)
    raise CheckpointError(
        f"{path}: holds no weights in a form that is known here (a file of torch.save, a pickle of "
        "NVIDIA's EDM or EDM2, or .safetensors)"
    )


def weights_in(value: Any) -> dict[str, Entry]:
    """The tensors of a network in what a file holds, without the boxes and the `module.` that they
    may be in; {} if there are none."""
    if isinstance(value, Inert):
        with contextlib.suppress(CheckpointError):
            return unwrapped(module_state(value))
        return {}
    if not isinstance(value, Mapping):
        return {}
    for box in WRAPPERS:
        if isinstance(value.get(box), Mapping | Inert):
            return weights_in(value[box])
    return unwrapped({str(k): v for k, v in value.items() if isinstance(v, Tensor | StoredTensor)})


def unwrapped(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state_dict without the `module.` of DataParallel in front of all names."""
    while state and all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return dict(state)


def below(state: Mapping[str, Entry], prefix: str) -> dict[str, Entry]:
    """The part of a state_dict under a prefix, without it."""
    return {name.removeprefix(prefix): v for name, v in state.items() if name.startswith(prefix)}


def has_all(state: Mapping[str, Any], names: Iterable[str]) -> bool:
    """Whether a state_dict has these names."""
    return all(name in state for name in names)


def whole(value: Any) -> int | None:
    """A whole number of a file, else None."""
    if isinstance(value, StoredTensor) and value.numel() == 1:
        value = value.load().item()
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else None


def shape(state: Mapping[str, Entry], name: str) -> tuple[int, ...]:
    """The shape of a weight. Errors: ValueError if it is not there."""
    if name not in state:
        raise ValueError(f"weights are incomplete: {name} is missing")
    return tuple(state[name].shape)
