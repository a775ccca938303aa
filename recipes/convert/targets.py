"""What convert.py writes: one entry of TARGETS a format.

A format is a `Target`: a file with its `write`, and an entry here. What `write` needs to import is
imported where it is used, so that `--help` is quick.
"""

from __future__ import annotations

import importlib
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from recipes.convert.program import PROGRAMS
from storage.errors import UsageError
from storage.find import identity
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


def source_of(given: Given) -> dict[str, Any]:
    """Where a network comes from, without what is of the machine."""
    snapshot, source = given.snapshot, {"file": given.file.name, "content": identity(given.file)}
    for key in ("step", "nimg", "ema_std"):
        value = snapshot.config.get(key, snapshot.provenance.get(key))
        if value is not None:
            source[key] = value
    return source


def write_snapshot(given: Given, path: Path, args: Namespace) -> list[str]:
    """A snapshot of ours, which every command here takes. Errors: DiskError."""
    save_snapshot(path, *given.snapshot)
    return []


def _late(module: str, name: str) -> Callable[[Given, Path, Namespace], list[str]]:
    """A `write` of a module here, imported when it is called."""

    def write(given: Given, path: Path, args: Namespace) -> list[str]:
        return _function(module, name)(given, path, args)

    return write


def _late_about(module: str, name: str) -> Callable[[Path], str | None]:
    """An `about` of a module here, imported when it is called."""

    def about(path: Path) -> str | None:
        return _function(module, name)(path)

    return about


def _function(module: str, name: str) -> Callable[..., Any]:
    return getattr(importlib.import_module(f"recipes.convert.{module}"), name)


# --to NAME -> what is written.
TARGETS: dict[str, Target] = {
    "snapshot": Target(
        "a snapshot of this toolkit, which all its commands take",
        ".safetensors", None, write_snapshot,
    ),
    "safetensors": Target(
        "plain weights under our names, as transformers and diffusers read .safetensors",
        ".plain.safetensors", None, _late("to_plain", "write_safetensors"),
        _late_about("to_plain", "about_safetensors"),
    ),
    "torchvision": Target(
        "an encoder's backbone, under torchvision's names of a ResNet",
        ".pth", ("simclr",), _late("to_plain", "write_torchvision"),
    ),
    "diffusers": Target(
        "a folder for diffusers' UNet2DModel, of an ADM UNet",
        "", None, _late("to_diffusers", "write_diffusers"),
        _late_about("to_diffusers", "about_diffusers"),
    ),
    "pt2": Target(
        "a program of torch.export with its pre- and postprocessing, which torch alone runs",
        ".pt2", None, _late("to_pt2", "write_pt2"), _late_about("to_pt2", "about_pt2"),
    ),
    "onnx": Target(
        "the same program for ONNX runtimes (packages onnx and onnxscript)",
        ".onnx", None, _late("to_onnx", "write_onnx"),
    ),
}  # fmt: skip


# Formats whose writers say themselves why they cannot be made of other kinds than these.
_WRITERS_OWN = {"diffusers": ("ddpm",), "pt2": tuple(PROGRAMS), "onnx": tuple(PROGRAMS)}


def can_be_made(kind: str) -> list[str]:
    """The formats that a network of `kind` can be given out in, as far as its kind tells."""
    of = {name: _WRITERS_OWN.get(name, one.kinds) for name, one in TARGETS.items()}
    return [name for name, kinds in of.items() if kinds is None or kind in kinds]


def target(name: str, kind: str) -> Target:
    """The format of --to for a network of `kind`. Errors: UsageError."""
    found = TARGETS[name]
    if found.kinds is not None and kind not in found.kinds:
        raise UsageError(
            f"--to {name} is of kinds {', '.join(found.kinds)}, and this is a {kind!r} network; "
            f"of it can be made: {', '.join(can_be_made(kind))}"
        )
    return found
