"""What a run leaves behind, aspect by aspect, so that a test sees what an option changes.

    base, other = seen(launch(folder / "a")), seen(launch(folder / "b", "--lr", "1"))
    assert changed(base, other) == {"rates", "later", "weights"}

A launch writes below a results folder of its own (--results_path); `seen` reads the one run there.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from storage.snapshot import load_snapshot

Seen = dict[str, Any]

# How figures begin that are of what is looked at between steps.
LOOKS = ("val/", "acc_val", "eval/", "final/", "Average Validation", "Average Test", "in the tree")


def launch(
    main: Callable[[Any], Any], read: Callable[[list[str]], Any], results: Path, *words: str
) -> Path:
    """Run a training script in this process, with its results below a folder; the run's folder."""
    main(read([*words, "--results_path", str(results)]))
    (args,) = results.rglob("args.json")
    return args.parent


def seen(run_dir: Path) -> Seen:
    """Aspects of a run's folder.

    name: readable part of the folder's name. first: figures of the first step, of which no update
    has had a part. later: those of the others. start: figures before the first step. val: those of
    what was looked at afterwards. rates: learning rates. net: weights
    in the newest checkpoint. weights: those of the last snapshot, shapes: their sizes, config: how
    it is built, without its step. files: all names. pictures: their pixels. steps: of the last
    row of figures.
    """
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    rates = {"learning rate", "Learning rate", "lr"}
    plain = [
        {k: v for k, v in row.items() if not k.startswith(("time", "health/"))} for row in rows
    ]
    looked = [{k: v for k, v in row.items() if is_look(k)} for row in plain]
    losses = [{k: v for k, v in row.items() if not is_look(k) and k not in rates} for row in plain]
    trained = [row for row in losses if row["step"] > 0]
    snapshot = newest(run_dir / "snapshots")
    found: Seen = {
        "name": re.sub(r"-[0-9a-f]{8}$", "", run_dir.name),
        "start": [row for row, of in zip(looked, plain, strict=True) if of["step"] == 0 and row],
        "first": trained[:1],
        "later": trained[1:],
        "val": [row for row, of in zip(looked, plain, strict=True) if of["step"] > 0 and row],
        "rates": [row[key] for row in plain for key in row if key in rates],
        "net": checkpointed(run_dir),
        "files": sorted(str(p.relative_to(run_dir)) for p in run_dir.rglob("*") if p.is_file()),
        "pictures": {p.name: pixels(p) for p in sorted(run_dir.rglob("*.png"))},
        "steps": plain[-1]["step"],
    }
    if snapshot is not None:
        found["weights"] = {k: digest(v) for k, v in snapshot.state_dict.items()}
        found["shapes"] = {k: tuple(v.shape) for k, v in snapshot.state_dict.items()}
        found["config"] = snapshot.config
        found["config"].pop("step", None)
        found["config"].pop("nimg", None)
    return found


def pictures(folder: Path, count: int, *, first: int = 0, size: tuple[int, int] = (20, 30)) -> None:
    """Write noise, `count` PNGs of size (height, width), from random seed `first` on."""
    folder.mkdir(parents=True)
    for i in range(count):
        noise = np.random.default_rng(first + i).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{i:02d}.png")


def is_look(key: str) -> bool:
    """Whether a figure is of what is looked at between steps, rather than of a step."""
    return key.startswith(LOOKS)


def changed(one: Mapping[str, Any], other: Mapping[str, Any]) -> set[str]:
    """Aspects that differ."""
    return {key for key in {*one, *other} if one.get(key) != other.get(key)}


def check_changed(one: Mapping[str, Any], other: Mapping[str, Any], aspects: str) -> None:
    """AssertionError unless these aspects differ, and no others; those with ? may, by rounding."""
    found, words = changed(one, other), set(aspects.split())
    may = {word.removesuffix("?") for word in words if word.endswith("?")}
    wanted = {word for word in words if not word.endswith("?")}
    also = found - wanted - may
    assert not also and wanted <= found, f"also: {sorted(also)}, not: {sorted(wanted - found)}"


def newest(snapshots: Path) -> Any:
    """The snapshot whose name is the last; None where there is none."""
    files = sorted(snapshots.glob("*.safetensors"))
    return load_snapshot(files[-1]) if files else None


def checkpointed(run_dir: Path) -> dict[str, str]:
    """Digest of every weight of the newest checkpoint."""
    folders = sorted((run_dir / "checkpoints").glob("step-*"))
    for name in ("net.pt", "model.pt") if folders else ():
        if (folders[-1] / name).exists():
            state = torch.load(folders[-1] / name, weights_only=True)
            return {key: digest(value) for key, value in state.items()}
    return {}


def digest(value: torch.Tensor) -> str:
    """Of a tensor's values."""
    raw = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return hashlib.sha1(raw).hexdigest()


def pixels(file: Path) -> tuple[Any, ...]:
    """Size and digest of a picture."""
    with Image.open(file) as image:
        return (*image.size, hashlib.sha1(image.convert("RGB").tobytes()).hexdigest())
