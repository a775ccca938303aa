"""Averages of any EMA width from the snapshots of one run (post-hoc EMA, arXiv:2312.02696).

    python reconstruct_phema.py --preset smoke
    python reconstruct_phema.py --indir RUN --outstd 0.150
    python reconstruct_phema.py --indir RUN --outstd 0.040,0.050,...,0.150 --out_step 4096

Reads the RUN/snapshots/network-snapshot-<step>-<std>.safetensors up to the wanted time and writes
phema-<step>-<std>.safetensors beside them. How near an average comes to the wanted profile is
printed (0 % is exact); the more snapshots there are, the nearer.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusion import phema
from runtime import ema
from runtime.cli import parse
from runtime.launch import launch
from runtime.options import add_table
from runtime.rundir import plain, timestamp
from runtime.types import list_of, nonnegative_int, number, positive_int, text
from storage.dirs import results_home
from storage.errors import CheckpointError, UsageError
from storage.snapshot import SnapshotFile, save_snapshot

PRESETS = {
    "smoke": {
        "_help": "a made-up run of a tiny network, CPU; tells how far off the averages are",
        "outstd": [0.05, 0.07, "...", 0.11],
    },
}  # fmt: skip

CHUNK = 1 << 22  # numbers in work at a time, over all inputs
VARYING = {"nimg", "step", "ema_std", "selection"}  # of a snapshot's config, within one run

std_number = number(0, 12**-0.5, lo_open=True, hi_open=True)


def std_word(word: str) -> float | str:
    """Type of an element of --outstd: a width or `...`."""
    return word if word == "..." else std_number(word)


def get_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Options of this script; a wrong one exits with code 2."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    # fmt: off
    add_table(parser, "inputs", [
        ("--indir", text, None, "a run's folder, or that of its snapshots"),
        ("--inprefix", text, "network-snapshot", "only files whose names begin so"),
        ("--instd", std_number, None, "only snapshots of this EMA width"),
    ])
    add_table(parser, "outputs", [
        ("--outdir", text, None, "where results go (default: beside the inputs)"),
        ("--outprefix", text, "phema", "beginning of the results' names"),
        ("--outstd", list_of(std_word), None, "EMA widths: a, or a,b,c, or a,b,...,c"),
        ("--outkimg", nonnegative_int, None, "time in thousands of trained images (default: last)"),
        ("--skip", bool, False, "leave results that exist already"),
        ("--batch", positive_int, 8, "results made at a time, each held in memory"),
    ])
    parser.add_argument(
        "--out_step", "--out-epoch", type=nonnegative_int, metavar="VALUE",
        help="time in optimizer steps, as in the snapshots' names (default: the last)",
    )
    # fmt: on
    args = parse(parser, PRESETS, argv)
    args.gpus = []  # for `launch`: one process whatever the machine has
    if args.indir is None and args.preset != "smoke":
        parser.error("--indir is missing: the snapshots folder of a run")
    if not args.outstd:
        parser.error("--outstd is missing: EMA widths such as 0.050,0.060,...,0.150")
    if args.outkimg is not None and args.out_step is not None:
        parser.error(f"--outkimg {args.outkimg} and --out_step {args.out_step}: one time, not two")
    if Path(args.outprefix).name != args.outprefix:
        parser.error(f"--outprefix {args.outprefix}: the beginning of a name; folders: --outdir")
    try:
        args.outstd = expand(args.outstd)
    except UsageError as error:
        parser.error(str(error))
    return args


def expand(words: Sequence[float | str]) -> list[float]:
    """0.1, 0.2, "...", 0.5 -> 0.1, 0.2, 0.3, 0.4, 0.5. Errors: UsageError."""
    out: list[float] = []
    rest = list(words)
    shown = ",".join(map(str, words))
    while rest:
        word = rest.pop(0)
        if word != "...":
            out.append(float(word))
            continue
        if len(out) < 2 or not rest or rest[0] == "...":
            raise UsageError(f"--outstd {shown}: `...` stands between a,b and c")
        end, step = float(rest.pop(0)), out[-1] - out[-2]
        count = round((end - out[-1]) / step) if step else 0
        if count < 1 or abs(out[-1] + count * step - end) > 1e-6:
            raise UsageError(f"--outstd {shown}: steps of {step:g} do not lead to {end:g}")
        start = out[-1]
        out += [round(start + k * step, 9) for k in range(1, count)] + [end]
    names = [f"{std:.3f}" for std in out]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice or "0.000" in names:
        raise UsageError(f"--outstd {shown}: not told apart in file names, {twice or '0.000'}")
    return out


# ----------------------------------------------------------------------------------------- inputs


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
        facts = [file.config.get(key) for key in ("nimg", "step", "ema_std")]
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

    def refuse(why: str) -> None:
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
    if kimg is None and step is None:
        return files[-1]
    if step is not None:
        found = [f for f in files if f.config["step"] == step]
        option, value, there = "--out_step", step, {f.config["step"] for f in files}
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


# --------------------------------------------------------------------------------- reconstruction


def reconstruct(files: Sequence[SnapshotFile], weights: np.ndarray) -> list[dict[str, Tensor]]:
    """Weighted sums of the files' weights; weights float64 [files, results], files in time order.

    Sums are float64, results fp32 (float64 of float64). What is the same in all files (buffers)
    or no floating-point number is taken from the last. Every file is read once, tensor by tensor,
    and its checksum compared. Errors: CheckpointError for a damaged file or non-finite weights.
    """
    w = torch.from_numpy(np.ascontiguousarray(weights.T))  # [results, files]
    results: list[dict[str, Tensor]] = [{} for _ in w]
    for entries in zip(*(file.tensors() for file in files), strict=True):
        name, last = entries[-1]
        values = [v for _, v in entries]
        kind = torch.float64 if last.dtype == torch.float64 else torch.float32
        if not last.is_floating_point():
            for result in results:
                result[name] = last.clone()
            continue
        if all(torch.equal(v, last) for v in values[:-1]) and torch.isfinite(last).all():
            for result in results:
                result[name] = last.to(kind, copy=True)
            continue
        sums = torch.empty(len(w), last.numel(), dtype=kind)
        flat = [v.reshape(-1) for v in values]
        width = max(1, CHUNK // len(flat))
        for start in range(0, last.numel(), width):
            part = slice(start, start + width)
            sums[:, part] = w @ torch.stack([v[part].double() for v in flat])
        if not torch.isfinite(sums).all():
            bad = [f.path.name for f, v in zip(files, flat, strict=True) if not v.isfinite().all()]
            raise CheckpointError(f"{(bad or ['the sum'])[0]}: {name} is not finite")
        for result, row in zip(results, sums, strict=True):
            result[name] = row.reshape(last.shape).clone()
    return results


def main(args: argparse.Namespace) -> None:
    if args.indir is None:
        with tempfile.TemporaryDirectory(prefix="imle-lab-phema-") as folder:
            direct = make_inputs(Path(folder), args.outstd)
            outdir = Path(args.outdir or results_home() / "reconstruct_phema")
            paths = run(args, Path(folder), outdir)
        for std, path in paths.items():
            found = dict(SnapshotFile(path).tensors())
            far = max((found[k] - direct[std][k]).abs().max() for k in found)
            size = max(v.abs().max() for v in direct[std].values())
            print(f"{path.name}: off the average tracked directly by {far / size:.1e} (relative)")
    else:
        indir = find_folder(args.indir, args.inprefix)
        run(args, indir, Path(args.outdir or indir))


def run(args: argparse.Namespace, indir: Path, outdir: Path) -> dict[float, Path]:
    """Everything but the smoke preset's own inputs; returns {std: file}."""
    files = find_inputs(indir, args.inprefix, args.instd)
    last = at_time(files, args.outkimg, args.out_step)
    files = [f for f in files if f.config["nimg"] <= last.config["nimg"]]
    step, nimg = last.config["step"], last.config["nimg"]
    paths = {s: outdir / f"{args.outprefix}-{step:07d}-{s:.3f}.safetensors" for s in args.outstd}
    taken = {f.path.resolve() for f in files} & {p.resolve() for p in paths.values()}
    if taken:
        raise UsageError(f"--outprefix {args.outprefix}: {taken.pop().name} is an input")
    try:
        outdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--outdir {outdir}: {error.strerror}") from error
    todo = [s for s, path in paths.items() if not (args.skip and path.exists())]
    print(f"{len(files)} snapshots up to step {step} ({nimg} images); {len(todo)} averages to make")
    in_stds = [f.config["ema_std"] for f in files]
    try:
        profiles = (
            np.array([f.config["nimg"] for f in files], dtype=np.float64),
            np.array([ema.power_exponent(std) for std in in_stds]),
            np.full(len(todo), float(nimg)),
            np.array([ema.power_exponent(std) for std in todo]),
        )
        weights = phema.coefficients(*profiles) if todo else np.empty((len(files), 0))
    except (ValueError, np.linalg.LinAlgError) as error:
        raise CheckpointError(f"{indir}: {error}") from error
    missed = phema.mismatch(weights, *profiles) if todo else []
    for first in range(0, len(todo), args.batch):
        batch = slice(first, first + args.batch)
        results = reconstruct(files, weights[:, batch])
        for std, result, column, far in zip(
            todo[batch], results, weights[:, batch].T, missed[batch], strict=True
        ):
            origin = describe(args, last, files, column, float(far))
            save_snapshot(paths[std], result, last.kind, {**last.config, "ema_std": std}, origin)
            print(f"{paths[std]}: {100 * far:.2f} % off its profile")
    return paths


def describe(
    args: argparse.Namespace,
    last: SnapshotFile,
    files: Sequence[SnapshotFile],
    column: np.ndarray,
    far: float,
) -> dict[str, Any]:
    """Provenance of one result: the last input's, and what it was made of."""
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
            "args": plain(vars(args)),
            "time": timestamp(),
            "profile_mismatch": far,
            "inputs": inputs,
        },
    }


def make_inputs(folder: Path, stds: Sequence[float]) -> dict[float, dict[str, Tensor]]:
    """The smoke preset's run: a linear net in noisy descent, snapshots of widths 0.05 and 0.10.

    Returns the averages of widths `stds` at its end, tracked directly, as state dicts.
    """
    steps, every, batch = 400, 20, 64
    net = torch.nn.Linear(16, 16)
    generator = torch.Generator().manual_seed(0)
    averages = {std: ema.EMA(net, ema.power(std)) for std in sorted({0.05, 0.10, *stds})}
    with torch.no_grad():
        for step in range(1, steps + 1):
            for p in net.parameters():
                noise = torch.randn(p.shape, generator=generator)
                p.add_(0.02 * (1 - p) + 0.02 * noise)
            for average in averages.values():
                average.update(net, step * batch, batch)
            if step % every:
                continue
            for std in (0.05, 0.10):
                config = {"net": {}, "step": step, "nimg": step * batch, "ema_std": std}
                path = folder / f"network-snapshot-{step:07d}-{std:.3f}.safetensors"
                state = averages[std].module.state_dict()
                save_snapshot(path, state, "phema-smoke", config, {"run": "smoke"})
    return {std: averages[std].module.state_dict() for std in stds}


if __name__ == "__main__":
    launch(main, get_args())
