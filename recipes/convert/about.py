"""What a file is, in lines: whose format, which network, how it is built, where it comes from."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from generators.base import WORDS
from generators.door import KINDS
from generators.files import is_ours
from generators.foreign.contents import Asked
from generators.foreign.formats import FORMATS, identify
from recipes.convert.targets import TARGETS
from storage.errors import UsageError
from storage.snapshot import SnapshotFile

_LONG = 100  # characters of a value

# What takes a snapshot of a kind that does not draw.
_OTHERS = {
    "simclr": "TrainSimCLR.py --probe_only, --init_from, imle_lab.load_encoder",
    "omnigan": "imle_lab.load_generator(FILE).draw(1, inputs=PICTURES)",
}


class About(NamedTuple):
    """What is known of a file. what: it is, in words. kind: of the network; None: it is a format
    that is only written here. tensors, weights: how many. asks: options that say more."""

    what: str
    kind: str | None = None
    tensors: int = 0
    weights: int = 0
    config: Mapping[str, Any] = {}
    provenance: Mapping[str, Any] = {}
    notes: tuple[str, ...] = ()
    asks: tuple[str, ...] = ()


def check_said(path: Path, args: Namespace) -> None:
    """That what was said of a file is something that it is asked. Errors: UsageError,
    CheckpointError."""
    usual = {"task": None, "res": None, "config": None, "weights": "ema", "normalise": None}
    said = [name for name, value in usual.items() if getattr(args, name) != value]
    if not said or not path.is_file():
        return
    what = "a snapshot of this toolkit"
    asks: tuple[str, ...] = ()
    if not is_ours(path):
        form = FORMATS[identify(path, args.asked).format]
        what, asks = form.what, form.asks
    if odd := [f"--{name}" for name in said if name not in asks]:
        raise UsageError(f"{', '.join(odd)}: {path.name} is {what}, of which it says nothing")


def about(path: Path, asked: Asked) -> About:
    """What a file or folder is, without making its weights. Errors: CheckpointError."""
    for target in TARGETS.values():
        if target.about is not None and (said := target.about(path)) is not None:
            return About(said)
    if is_ours(path):
        file = SnapshotFile(path)
        sizes = [shape for shape, _ in file.layout.values()]
        counts = len(sizes), sum(_product(shape) for shape in sizes)
        what = "a snapshot of this toolkit"
        return About(what, file.kind, *counts, file.config, file.provenance)
    found = identify(path, asked)
    form = FORMATS[found.format]
    return About(
        form.what, found.kind, len(found.entries), found.numel(), found.config, found.provenance,
        found.notes, form.asks,
    )  # fmt: skip


def takers(kind: str) -> str:
    """Which commands take a network of a kind, in words."""
    if kind not in _OTHERS and kind in KINDS:
        return "generate_images.py --net, and what else takes a generator"
    return _OTHERS.get(kind, "no network here takes it yet: its weights and arguments are kept")


def lines(path: Path, told: About, shown: Callable[[object], str] = str) -> list[str]:
    """What is told of a file, a fact a line. shown: makes a value printable."""
    out = [f"{path}: {told.what}"]
    if told.kind is None:
        return out
    word = WORDS.get(told.kind)
    rows = [
        ("kind", f"{told.kind} ({word})" if word else told.kind),
        ("taken by", takers(told.kind)),
        ("weights", f"{told.weights:,} in {told.tensors} tensors"),
    ]
    config = dict(told.config)
    net = config.pop("net", None)
    if isinstance(net, dict):
        rows.append(("network", _words(net)))
    rows += [("config", _words(config)), ("origin", _words(told.provenance))]
    out += [f"  {name:9}{_short(shown(value))}" for name, value in rows if value]
    out += [f"  note     {shown(note)}" for note in told.notes]
    if told.asks:
        out.append(f"  more can be said by {', '.join(f'--{name}' for name in told.asks)}")
    return out


def _words(values: Mapping[str, Any]) -> str:
    known = {k: v for k, v in values.items() if v not in (None, {}, [])}
    return ", ".join(f"{name} {_short(str(value), _LONG)}" for name, value in known.items())


def _short(text: str, most: int = 1000) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _product(shape: tuple[int, ...]) -> int:
    count = 1
    for n in shape:
        count *= n
    return count
