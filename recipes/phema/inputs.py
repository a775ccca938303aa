"""The snapshots of one run that an average of another width is made of, and what is said of it."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from diffusion.original import PickleFile, counted, is_autoguided
from runtime.rundir import plain, timestamp
from storage.arguments import is_number
from storage.dirs import results_home
from storage.errors import CheckpointError, UsageError
from storage.snapshot import SnapshotFile

VARYING = {"nimg", "step", "ema_std", "selection"}  # of a snapshot's config, within one run
OURS = "network-snapshot"  # how a run of ours, of NVIDIA's code and of Autoguided names them
RESULTS = "phema"  # and reconstruct_phema.py its results
ENDINGS = (".safetensors", ".pkl")  # in this order, where both are there
_NAME = re.compile(r"(.+)-\d+-\d\.\d+")

# What an average is made of: a snapshot, or a pickle that is read as data.
Stored = SnapshotFile | PickleFile


def find_folder(word: str, prefix: str | None) -> Path:
    """The folder meant by --indir: as it is, or below train_edm2's results; a run's or inside."""
    for home in (Path(), results_home() / "train_edm2"):
        for folder in (home / word, home / word / "snapshots"):
            if folder.is_dir() and _files(folder, prefix):
                return folder
    return Path(word)


def _files(folder: Path, prefix: str | None) -> list[Path]:
    """Files by name, a pickle only where no snapshot of its name is; of no prefix those that a run
    calls network-snapshot, or else all that are called NAME-NUMBER-WIDTH but results."""
    found: dict[str, Path] = {}
    for ending in ENDINGS:
        for path in sorted(folder.glob(f"*{ending}")):
            found.setdefault(path.name.removesuffix(ending), path)
    begins = {stem: match[1] if (match := _NAME.fullmatch(stem)) else None for stem in found}
    wanted = OURS if prefix is None else prefix
    chosen = [stem for stem in found if begins[stem] == wanted]
    chosen = chosen if prefix and chosen else [stem for stem in found if stem.startswith(wanted)]
    if not chosen and prefix is None:
        chosen = [stem for stem, begin in begins.items() if begin not in (None, RESULTS)]
    return [found[stem] for stem in sorted(chosen)]


def find_inputs(indir: Path, prefix: str | None, stds: Sequence[float] | None) -> list[Stored]:
    """The stored averages of one run, in order of time; stds: their widths (None: all).

    Errors: UsageError, CheckpointError.
    """
    if not indir.is_dir():
        raise UsageError(f"--indir {indir}: no such folder")
    widths = {f"{std:.3f}" for std in stds or ()}
    files: list[Stored] = []
    for path in _files(indir, prefix):
        file = PickleFile(path) if path.suffix == ".pkl" else _dated(SnapshotFile(path))
        config: dict[str, Any] = file.config
        times = _times(config)
        if not times or not is_number(std := config.get("ema_std")):
            print(f"{path.name}: passed over, not a snapshot of an average at a known time")
        elif "reconstructed" in file.provenance:
            print(f"{path.name}: passed over, itself reconstructed")
        elif max(times) > 0 and (not widths or f"{std:.3f}" in widths):
            files.append(file)
    if not files:
        width = f" of EMA width {' or '.join(sorted(widths))}" if widths else ""
        named = f"{OURS if prefix is None else prefix}*"
        raise UsageError(f"no snapshots {named}.safetensors or .pkl{width} in {indir}")
    key = clock(files)
    files.sort(key=lambda f: (f.config[key], f.config["ema_std"]))
    for a, b in zip(files, files[1:], strict=False):
        check_same_run(a, b)
    return files


def _times(config: Mapping[str, Any]) -> list[int]:
    """Images and steps, as far as they are told; none where one of them is no time."""
    told = [config[key] for key in ("nimg", "step") if config.get(key) is not None]
    return told if all(type(time) is int and 0 <= time < 1 << 63 for time in told) else []


def _dated(file: SnapshotFile) -> SnapshotFile:
    """A snapshot that was imported before times were read from names has its time now, if the file
    it is of says whose it was."""
    origin = file.provenance
    if "imported" in origin and file.config.get("nimg") is file.config.get("step") is None:
        dataset, name = origin.get("dataset"), str(origin.get("file", ""))
        if name.startswith("edm2-img") or isinstance(dataset, dict) and dataset.get("class_name"):
            autoguided = is_autoguided(frozenset(), dataset)
            nimg, step = counted(name.removesuffix(".pkl"), autoguided=autoguided)
            file.config.update(nimg=nimg, step=step)
    return file


def clock(files: Sequence[Stored]) -> str:
    """What times of these files are counted in: "nimg", or "step" where images are not known.

    Profiles are the same in both where every step has as many images: they depend on ratios alone.
    Errors: CheckpointError for files that have no common one.
    """
    for key in ("nimg", "step"):
        if all(file.config.get(key) is not None for file in files):
            return key
    known = [f.path.name for key in ("nimg", "step") for f in files if f.config.get(key) is None]
    raise CheckpointError(
        f"{known[0]} and {known[-1]} are not of one run: images are known of one, steps of the "
        "other; choose by --inprefix"
    )


def number(file: Stored) -> int:
    """What the names of results call the time: steps, or of NVIDIA's thousands of images."""
    step = file.config.get("step")
    return int(step) if step is not None else int(file.config["nimg"]) // 1000


def check_same_run(a: Stored, b: Stored) -> None:
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
    steps: list[Any] = [f.config.get("step") for f in (a, b)]
    nimgs: list[Any] = [f.config.get("nimg") for f in (a, b)]
    stds = [f.config["ema_std"] for f in (a, b)]
    if None not in steps + nimgs and (steps[0] < steps[1]) != (nimgs[0] < nimgs[1]):
        refuse(f"steps {steps[0]} and {steps[1]} at {nimgs[0]} and {nimgs[1]} images")
    times, unit = (nimgs, "images") if None not in nimgs else (steps, "steps")
    if times[0] == times[1] and stds[0] == stds[1]:
        refuse(f"both are the average of width {stds[0]} at {times[0]} {unit}")


def at_time(files: list[Stored], kimg: int | None, step: int | None) -> Stored:
    """An input at the wanted time, by default the last. Errors: UsageError."""
    if kimg is None and step is None:
        return files[-1]
    option, value, key, unit = "--out_step", step, "step", 1
    if step is None:
        option, value, key, unit = "--outkimg", kimg, "nimg", 1000
    known = [f for f in files if f.config.get(key) is not None]
    if not known:
        other, what = ("--outkimg", "steps") if step is not None else ("--out_step", "images")
        raise UsageError(f"{option} {value}: these files do not tell their {what}; use {other}")
    found = [f for f in known if f.config[key] // unit == value]
    times = sorted({f.config["nimg"] for f in found}) if key == "nimg" else [0] * bool(found)
    if len(times) == 1:
        return found[-1]
    if times:
        raise UsageError(f"{option} {value}: snapshots at {times} images; choose by --out_step")
    listed = sorted({f.config[key] // unit for f in known})
    shown = ", ".join(map(str, listed if len(listed) <= 8 else [*listed[:4], "...", *listed[-3:]]))
    raise UsageError(f"{option} {value}: no snapshot then; there are: {shown}")


def check_results(paths: Mapping[float, Path], files: Sequence[Stored], *, overwrite: bool) -> None:
    """That results which are there, {width: file}, are averages of `files`, or may be made anew.

    Errors: UsageError.
    """
    made_of = {(file.sha256, file.config["ema_std"]) for file in files}
    for std, path in paths.items():
        if not path.exists():
            continue
        old = SnapshotFile(path)
        note: Any = old.provenance.get("reconstructed")
        try:
            before = {(one["sha256"], one["ema_std"]) for one in note["inputs"]}
            width = old.config["ema_std"]
        except (TypeError, KeyError):  # of another program, or of none that is known
            raise UsageError(
                f"{path} is no result of this script: another --outdir or --outprefix"
            ) from None
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
    last: Stored,
    files: Sequence[Stored],
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
            "nimg": file.config.get("nimg"),
            "step": file.config.get("step"),
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
