"""--init_from: a network begins with the weights of a file, and all else about its run is new.

Weights go by name: what has a name and a shape of the network is taken, all other parts are named
in the log and stay new. The file is read once, at step 0; a run that resumes has its own weights
and needs it no more.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from generators.base import in_words
from generators.files import is_ours, open_network
from generators.foreign.contents import made, weights_in
from generators.foreign.formats import import_network
from generators.published import named
from runtime import distributed
from runtime.ema import EMA
from runtime.run import Run
from storage.errors import CheckpointError, UsageError
from storage.files import read_object, write_json
from storage.find import find_network, identity, say_found
from storage.snapshot import refuse_not_finite
from storage.torchfile import load_foreign

RECORD = "init_from.json"
SHOWN = 8  # names in a line of the log
Say = Callable[[str], object]


class Weights(NamedTuple):
    """What a file holds. kind: of a network of this toolkit; None: the file does not say. built:
    constructor arguments of its network, as far as they are known. as_built: those of them that the
    network which takes the weights takes too."""

    kind: str | None
    state: dict[str, Tensor]
    built: Mapping[str, Any] = {}
    as_built: Mapping[str, Any] = {}


class Fit(NamedTuple):
    """Which parts of a state_dict a network can take, by their names in it.

    taken: tensors of a name and shape of the network's. missing: only in the network. unused: only
    in the file. misshapen: name -> shape in the network, in the file.
    """

    taken: dict[str, Tensor]
    missing: list[str]
    unused: list[str]
    misshapen: dict[str, tuple[list[int], list[int]]]


def read_weights(file: Path, say: Say = print) -> Weights:
    """A snapshot, a file of another program in a format that is known (`generators.foreign`), or a
    state_dict that any program has written as a .pt, .pth or .safetensors; nothing in it runs.

    Of CAM-Nets of others the kind is left open: which task they were trained for does not matter
    here, and their weights go by their names. Errors: CheckpointError.
    """
    if is_ours(file) or file.suffix.lower() == ".pkl":
        snapshot = open_network(file, say)
        return Weights(snapshot.kind, snapshot.state_dict, snapshot.config.get("net") or {})
    with contextlib.suppress(CheckpointError):  # of no known format: weights all the same
        snapshot, _ = import_network(file)
        if snapshot.kind == "camnet":
            return Weights(None, snapshot.state_dict)
        return Weights(snapshot.kind, snapshot.state_dict, snapshot.config.get("net") or {})
    state = {name: made(value) for name, value in weights_in(load_foreign(file)).items()}
    if not state:
        raise CheckpointError(f"{file}: no weights in it (a state_dict, or a dict with one)")
    return Weights(None, state)


def compare(state: Mapping[str, Tensor], net: nn.Module) -> Fit:
    """What of a state_dict a network can take."""
    own = net.state_dict()
    both = [name for name in own if name in state]
    return Fit(
        {name: state[name] for name in both if state[name].shape == own[name].shape},
        [name for name in own if name not in state],
        [name for name in state if name not in own],
        {
            name: (list(own[name].shape), list(state[name].shape))
            for name in both
            if state[name].shape != own[name].shape
        },
    )


def start(
    run: Run,
    net: nn.Module,
    word: str | None,
    kind: str,
    *,
    averages: Iterable[EMA[Any]] = (),
    read: Callable[[Path, Say], Weights] = read_weights,
) -> None:
    """After run.restore: the network, and the averages of it, take the weights at --init_from,
    `word`, if the run is a fresh one.

    kind: as snapshots name the network. read: the file, and `run.say` -> what it holds. What was
    taken is said, kept as init_from.json in the run's folder and in the provenance of snapshots.
    Errors: UsageError for a network of another kind, or one of which no weight fits;
    CheckpointError.
    """
    if word is None:
        return
    if run.resumed:
        if known := read_object(run.dir / RECORD):
            run.facts["init_from"] = known
        else:
            run.say(f"{RECORD} is missing or damaged: snapshots will not tell what {word} gave")
        return

    asked = named(word)  # by all ranks together: it may be to be fetched

    def look_up() -> tuple[Path, str]:
        found = asked or find_network(word, None, run.args.results_path, option="--init_from")
        return found, identity(found)

    # Where a run is named that goes on meanwhile, each rank might find another newest snapshot.
    file, content = distributed.from_main(look_up)
    if asked is None:
        say_found(word, file, run.say)
    found = read(file, run.say)
    if found.kind not in (None, kind):
        what = in_words(found.kind)
        raise UsageError(f"--init_from {word} is {what}, which cannot start {in_words(kind)}")
    refuse_not_finite(found.state, file)
    fit = compare(found.state, net)
    share = _share(fit, net)
    if not share:
        here, there = (next(iter(names), "nothing") for names in (net.state_dict(), found.state))
        raise UsageError(
            f"--init_from {word}: no weight of it fits {in_words(kind)} as it is built here (names "
            f"are like {there} there, like {here} here; of other shapes: {len(fit.misshapen)})"
        )
    _take(fit, net, word)
    # A file of one name, as network-latest, may have been written anew between two ranks' reading.
    distributed.copy_from_main(net.state_dict().values())
    for average in averages:
        average.module.load_state_dict(net.state_dict())
    run.facts["init_from"] = record = {
        "asked": word,
        "file": str(file.absolute()),
        "content": content,
        "share": round(share, 6),
        "taken": len(fit.taken),
        "missing": fit.missing,
        "misshapen": list(fit.misshapen),
        "unused": fit.unused,
    }
    if found.as_built:
        record["as_built"] = dict(found.as_built)
    for line in report(fit, share, file.name):
        run.say(line)
    distributed.from_main(lambda: write_json(run.dir / RECORD, record, indent=1))


def _share(fit: Fit, net: nn.Module) -> float:
    """How much of the network's parameters, by number, is taken."""
    sizes = {name: p.numel() for name, p in net.named_parameters()}
    return sum(sizes.get(name, 0) for name in fit.taken) / max(1, sum(sizes.values()))


@torch.no_grad()
def _take(fit: Fit, net: nn.Module, word: str) -> None:
    own = net.state_dict()
    for name, value in fit.taken.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise CheckpointError(f"--init_from {word}: {name} is not finite there")
        own[name].copy_(value)


def report(fit: Fit, share: float, name: str) -> list[str]:
    """Lines that say what was taken from the file `name`, and what was not."""
    total = len(fit.taken) + len(fit.missing) + len(fit.misshapen)
    lines = [f"weights of {name}: {len(fit.taken)} of {total} tensors, {share:.1%} of the weights"]
    shapes = [f"{n} {here}, there {there}" for n, (here, there) in fit.misshapen.items()]
    for what, names in (
        ("of another shape there, so new", shapes),
        ("not there, so new", fit.missing),
        ("there only, not used", fit.unused),
    ):
        if names:
            more = ", ..." if len(names) > SHOWN else ""
            lines.append(f"  {what} ({len(names)}): {', '.join(names[:SHOWN])}{more}")
    return lines
