"""Networks of SimCLR as files: <epoch>.pt of a run, snapshots, and the original SimCLR code's own
checkpoints, which are pickled objects and are read as data."""

import argparse
import contextlib
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.views.recipes import Recipe
from generators.files import open_network
from generators.fit import fitted
from models import SimCLR, load_original, original_config, original_optimizer
from recipes import initial
from recipes.simclr import parts
from runtime import rundir
from runtime.run import Run
from storage.errors import CheckpointError, first_line
from storage.files import read_lines, remove, write_link
from storage.find import find_file, newest_epoch
from storage.foreign.objects import module_state, optimizer_state, plain_value, read_objects
from storage.snapshot import Snapshot, SnapshotFile, refuse_not_finite
from storage.torchfile import load_torch, reading, write_torch

FORMAT = "imle-lab-simclr-1"


def save_epoch(
    run: Run, net: SimCLR, optimizer: torch.optim.Optimizer, recipe: Recipe, epoch: int
) -> None:
    """Write snapshots/<epoch>; with --save_pt also <epoch>.pt and latest.pt in the run's folder.

    epoch: of the last epoch run, from 0. The .pt is for `load_`: state dicts and plain values only.
    Of earlier epochs --keep - 1 stay. A full disk is said and training goes on. All ranks call it.
    """
    config = {"net": net.config, "recipe": recipe._asdict(), "epoch": epoch}
    config["picture_size"] = run.args.picture_size
    run.snapshot(f"{epoch}", net, "simclr", config)
    if run.is_main and run.args.save_pt:
        value = {
            "format": FORMAT,
            "model": net.state_dict(),
            "config": config,
            "optimizer": optimizer.state_dict(),
            "last_epoch": epoch,
            "args": rundir.plain(vars(run.args)),
            "results": results_of(run.dir),
        }
        path = run.dir / f"{epoch}.pt"
        try:
            write_torch(path, value)
            write_link(run.dir / "latest.pt", path.name)
        except (OSError, RuntimeError) as error:  # torch's own, where a file cannot be written
            run.say(f"{path} not written: {first_line(error)}")
    if run.is_main and run.args.keep:
        _forget(run, epoch)


def _forget(run: Run, epoch: int) -> None:
    """Remove the files of epochs before `epoch`, but of the last --keep - 1.

    Those of versions that kept all, which their provenance tells, are left alone.
    """
    found = (run.dir / "snapshots").glob("*.safetensors")
    numbers = sorted(int(file.stem) for file in found if file.stem.isdecimal())
    earlier = [n for n in numbers if n < epoch]
    for n in earlier[: max(0, len(earlier) + 1 - run.args.keep)]:
        file = run.dir / "snapshots" / f"{n}.safetensors"
        with contextlib.suppress(CheckpointError):
            if "keep" in SnapshotFile(file).provenance.get("args", {}):
                remove(file)
                if run.args.save_pt:
                    remove(run.dir / f"{n}.pt")


Loaded = tuple[SimCLR, "torch.optim.Optimizer | None", int, argparse.Namespace, dict[str, Any]]


def load_(path: str | Path) -> Loaded:
    """(model, optimizer, last epoch, args, results) of an <epoch>.pt, ours or the original's.

    last epoch: index of the last one run before saving; training goes on with the next. results:
    ours {name: [[step, value], ...]}; the original's, as the file has them. The original SimCLR
    code's files are pickled objects: read as data, nothing in them runs. Their optimizer becomes
    ours of the same kind, with the state of every parameter; it is None where there is none.
    CheckpointError for what cannot be read.
    """
    path = Path(path)
    try:
        found = load_torch(path)
    except CheckpointError as error:
        if not zipfile.is_zipfile(path) or "refused: global" not in str(error):
            raise
        found = read_objects(path)
    if not isinstance(found, dict) or "model" not in found:
        raise CheckpointError(f"{path}: no checkpoint of SimCLR (a dict with 'model' in it)")
    with reading(path):
        return _load_ours(found) if found.get("format") == FORMAT else _load_original(found)


def _load_ours(found: dict[str, Any]) -> Loaded:
    args = argparse.Namespace(**found["args"])
    net = network_of(found["config"]["net"], found["model"])
    optimizer = parts.optimizer(args, net)
    optimizer.load_state_dict(found["optimizer"])
    return net, optimizer, int(found["last_epoch"]), args, dict(found["results"])


def _load_original(found: dict[str, Any]) -> Loaded:
    old = found["model"]
    tensors = dict(old) if isinstance(old, dict) else module_state(old)
    config, state = original_config(tensors), load_original(tensors)
    args = plain_value(found.get("args"))
    args = args if isinstance(args, argparse.Namespace) else argparse.Namespace()
    net = network_of({**config, "resolution": int(getattr(args, "crop_size", 32))}, state)
    inner, optimizer = optimizer_state(found.get("optimizer")), None
    if inner is not None:
        optimizer = original_optimizer(net, state, inner, float(getattr(args, "trust", 1e-3)))
    results = plain_value(found.get("tb_results", {}))
    epoch = int(found.get("last_epoch", -1))
    return net, optimizer, epoch, args, results if isinstance(results, dict) else {}


def find_encoder(word: str | Path, results: str | Path | None = None) -> Path:
    """The file of an encoder that a command line means: as `find_file`, but a run's folder means
    the network of its last epoch, whatever generator TrainISICLE.py has kept beside it.

    Errors: UsageError.
    """
    found = find_file(word, "TrainSimCLR", results)
    named = found.stem in (Path(word).name, Path(word).stem)
    if named or found.stem.isdigit() or found.parent.name != "snapshots":
        return found
    return newest_epoch(found.parent.parent) or found


def open_encoder(path: str | Path) -> tuple[SimCLR, Recipe | None, int | None]:
    """The network of a snapshot, an <epoch>.pt, a file of others (`generators.foreign`) or a run's
    folder (its last epoch), the recipe of its training and the side of its pictures, if the file
    says so (the original SimCLR code's do not).
    """
    path = Path(path)
    if path.is_dir():
        path = newest_epoch(path) or path / "latest.pt"
    return encoder_of(open_network(path, lambda line: None), path)


def encoder_of(
    snapshot: Snapshot, path: Path | None = None
) -> tuple[SimCLR, Recipe | None, int | None]:
    """`open_encoder` of a snapshot; path: where it was read from, for errors."""
    config = snapshot.config
    where = path or "this"
    if snapshot.kind != "simclr":
        raise CheckpointError(f"{where} is a snapshot of {snapshot.kind}, not of SimCLR")
    if missing := {"net", "recipe", "picture_size"} - config.keys():
        raise CheckpointError(f"{where}: an encoder without its {', '.join(sorted(missing))}")
    with reading(Path(where)):
        net = network_of(config["net"], snapshot.state_dict)
        if config["recipe"] is None:
            return net, None, None
        recipe: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in config["recipe"].items()
        }
        return net, Recipe(**recipe), int(config["picture_size"])


def read_encoder(file: Path, say: initial.Say = print) -> initial.Weights:
    """The weights of an encoder, for --init_from: a snapshot, an <epoch>.pt, an encoder of others,
    or a ResNet under torchvision's names. Errors: CheckpointError.
    """
    found = initial.read_weights(file, say)
    if found.kind is None and "conv1.weight" in found.state:
        return initial.Weights(None, {f"backbone.{n}": v for n, v in found.state.items()})
    return found


def network_of(config: dict[str, Any], state: dict[str, Tensor]) -> SimCLR:
    """The network of a file. CheckpointError for weights that are not finite; whatever else is
    wrong raises what it raises, before memory is taken for it.
    """
    refuse_not_finite(state, "this file")
    return fitted(SimCLR, config, state)


def results_of(run_dir: Path) -> dict[str, list[list[float]]]:
    """{name: [[step, value], ...]} of losses, rates and accuracies in metrics.jsonl."""
    out: dict[str, list[list[float]]] = {}
    rows: list[dict[str, Any]] = []
    with contextlib.suppress(OSError):
        rows = read_lines(run_dir / "metrics.jsonl")
    for row in rows:
        for key in row:
            if key in ("loss_tr", "lr", "acc_val") or key.startswith(("eval/", "final/")):
                out.setdefault(key, []).append([row["step"], row[key]])
    return out
