"""The snapshots of one run that an average of another width is made of, and what is said of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from runtime.rundir import plain, timestamp
from storage.dirs import results_home
from storage.errors import CheckpointError, UsageError
from storage.snapshot import SnapshotFile

VARYING = {"nimg", "step", "ema_std", "selection"}  # of a snapshot's config, within one run


def find_folder(word: str, prefix: str) -> Path:
    """The folder meant by --indir: as it is, or below train_edm2's results; a run's or inside."""
    for home in (Path(), results_home() / "train_edm2"):
        for folder in (home / word, home / word / "snapshots"):
            if any(p.name.startswith(prefix) for p in folder.glob("*.safetensors")):
                return folder
    return Path(word)


def find_inputs(indir: Path, prefix: str, std: float | None) -> list[SnapshotFile]:
    """The stored averages of one run, in order of time. Errors: UsageError, CheckpointError."""
    if not indir.is_dir():
        raise UsageError(f"--indir {indir}: no such folder")
    files = []
    for path in sorted(indir.glob("*.safetensors")):
        if not path.name.startswith(prefix):
            continue
        file = SnapshotFile(path)
        facts: list[Any] = [file.config.get(key) for key in ("nimg", "step", "ema_std")]
        if any(isinstance(f, bool) or not isinstance(f, int | float) for f in facts):
            print(f"{path.name}: passed over, not a snapshot of an average at a known time")
        elif "reconstructed" in file.provenance:
            print(f"{path.name}: passed over, itself reconstructed")
        elif facts[0] > 0 and (std is None or f"{facts[2]:.3f}" == f"{std:.3f}"):
            files.append(file)
    if not files:
        width = "" if std is None else f" of EMA width {std:.3f}"
        raise UsageError(f"no snapshots {prefix}*.safetensors{width} in {indir}")
    files.sort(key=lambda f: (f.config["nimg"], f.config["ema_std"]))
    for a, b in zip(files, files[1:], strict=False):
        check_same_run(a, b)
    return files


def check_same_run(a: SnapshotFile, b: SnapshotFile) -> None:
    """Refuse two neighbours in time that cannot be of one run. Errors: CheckpointError."""

    def refuse(why: str) -> NoReturn:
        raise CheckpointError(f"{a.path.name} and {b.path.name} are not of one run: {why}")

    if a.kind != b.kind:
        refuse(f"a {a.kind!r} and a {b.kind!r}")
    for key in sorted((a.config.keys() | b.config.keys()) - VARYING):
        if a.config.get(key) != b.config.get(key):
            refuse(f"their {key} differ")
    for name in sorted(a.layout.keys() | b.layout.keys()):
        one, other = (f.layout[name][0] if name in f.layout else None for f in (a, b))
        if one != other:
            refuse(f"{name} has shapes {one} and {other}")
    # A folder may be renamed and a run may go on with other flags, but hardly both.
    marks = [(f.provenance.get("run"), f.provenance.get("config_hash")) for f in (a, b)]
    if all(x is not None and y is not None and x != y for x, y in zip(*marks, strict=True)):
        refuse(f"they come from {marks[0][0]} and {marks[1][0]}")
    steps, nimgs, stds = ([f.config[k] for f in (a, b)] for k in ("step", "nimg", "ema_std"))
    if (steps[0] < steps[1]) != (nimgs[0] < nimgs[1]):
        refuse(f"steps {steps[0]} and {steps[1]} at {nimgs[0]} and {nimgs[1]} images")
    if nimgs[0] == nimgs[1] and stds[0] == stds[1]:
        refuse(f"both are the average of width {stds[0]} at {nimgs[0]} images")


def at_time(files: list[SnapshotFile], kimg: int | None, step: int | None) -> SnapshotFile:
    """An input at the wanted time, by default the last. Errors: UsageError."""
    if step is not None:
        found = [f for f in files if f.config["step"] == step]
        option, value, there = "--out_step", step, {f.config["step"] for f in files}
    elif kimg is None:
        return files[-1]
    else:
        found = [f for f in files if f.config["nimg"] // 1000 == kimg]
        option, value, there = "--outkimg", kimg, {f.config["nimg"] // 1000 for f in files}
    times = sorted({f.config["nimg"] for f in found})
    if len(times) == 1:
        return found[-1]
    if times:
        raise UsageError(f"{option} {value}: snapshots at {times} images; choose by --out_step")
    listed = sorted(there)
    shown = ", ".join(map(str, listed if len(listed) <= 8 else [*listed[:4], "...", *listed[-3:]]))
    raise UsageError(f"{option} {value}: no snapshot then; there are: {shown}")


def check_results(
    paths: Mapping[float, Path], files: Sequence[SnapshotFile], *, overwrite: bool
) -> None:
    """That results which are there, {width: file}, are averages of `files`, or may be made anew.

    Errors: UsageError.
    """
    made_of = {(file.sha256, file.config["ema_std"]) for file in files}
    for std, path in paths.items():
        if not path.exists():
            continue
        old = SnapshotFile(path)
        note = old.provenance.get("reconstructed")
        if note is None:
            raise UsageError(f"{path} is no result of this script: another --outdir or --outprefix")
        before = {(one["sha256"], one["ema_std"]) for one in note["inputs"]}
        width = old.config["ema_std"]
        if overwrite or before == made_of and width == std:
            continue
        differs = f"width {width:g} before, {std:g} now"
        if before != made_of:
            new = len(made_of - before)
            differs = f"{len(before)} snapshots before, {len(made_of)} now, {new} of them others"
        raise UsageError(
            f"{path} is made of other snapshots or for another width: {differs}; another --outdir, "
            "or --overwrite"
        )


def describe(
    options: dict[str, Any],
    last: SnapshotFile,
    files: Sequence[SnapshotFile],
    column: np.ndarray,
    far: float,
) -> dict[str, Any]:
    """Provenance of one result: the last input's, and what it was made of.

    options: that were asked for. column: the weights of the files. far: how far it is off its
    profile.
    """
    inputs = [
        {
            "file": file.path.name,
            "sha256": file.sha256,
            "nimg": file.config["nimg"],
            "ema_std": file.config["ema_std"],
            "weight": float(weight),
        }
        for file, weight in zip(files, column, strict=True)
    ]
    return {
        **last.provenance,
        "reconstructed": {
            "args": plain(options),
            "time": timestamp(),
            "profile_mismatch": far,
            "inputs": inputs,
        },
    }
