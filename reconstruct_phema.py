"""Averages of any EMA width from the snapshots of one run (post-hoc EMA, arXiv:2312.02696).

    python reconstruct_phema.py --preset smoke
    python reconstruct_phema.py --indir RUN --outstd 0.150
    python reconstruct_phema.py --indir RUN --outstd 0.040,0.050,...,0.150 --out_step 4096
    python reconstruct_phema.py --indir raw-snapshots/edm2-img512-xs --outdir OUT --outstd 0.150

Reads the RUN/snapshots/network-snapshot-<step>-<std>.safetensors up to the wanted time and writes
phema-<step>-<std>.safetensors beside them. So it does with the raw snapshots of NVIDIA's EDM2
(NAME-<kimg>-<std>.pkl, converted or not), whose numbers are thousands of images. A result that is
there is left if it is made of the same snapshots; one of others is refused without --overwrite, and
any other file always. How near an average comes to the wanted profile is printed (0 % is exact);
the more snapshots there are, the nearer. What each option means: recipes/phema/options.py; which
files are taken: recipes/phema/inputs.py; the mathematics: diffusion/phema.py.
"""

import tempfile
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import storage.environment  # noqa: F401  (says what to do where torch is missing)

import numpy as np
import torch
from torch import Tensor

from diffusion import phema
from recipes.phema.inputs import (
    Stored,
    at_time,
    check_results,
    clock,
    describe,
    find_folder,
    find_inputs,
    number,
)
from recipes.phema.options import get_args
from recipes.phema.smoke import make_inputs
from runtime import ema
from runtime.launch import launch
from runtime.progress import track
from storage.dirs import output_folder, results_home
from storage.errors import CheckpointError, UsageError, not_made
from storage.snapshot import SnapshotFile, save_snapshot

CHUNK = 1 << 22  # numbers in work at a time, over all inputs
BUFFERS = ("fourier.freqs", "fourier.phases")  # of EDM2's networks: drawn once, never trained


def main(args: Namespace) -> None:
    asked = output_folder(args.outdir, "reconstruct_phema") if args.outdir else None
    if args.indir is not None:
        indir = find_folder(args.indir, args.inprefix)
        make_averages(args, indir, asked or indir)
        return
    # The smoke preset: averages of a made-up run, and how far they are off those tracked directly.
    with tempfile.TemporaryDirectory(prefix="imle-lab-phema-") as folder:
        direct = make_inputs(Path(folder), args.outstd)
        outdir = asked or results_home() / "reconstruct_phema" / "smoke"
        paths = make_averages(args, Path(folder), outdir)
    for std, path in paths.items():
        found = dict(SnapshotFile(path).tensors())
        far = max((found[k] - direct[std][k]).abs().max() for k in found)
        size = max(v.abs().max() for v in direct[std].values())
        print(f"{path.name}: off the average tracked directly by {far / size:.1e} (relative)")


def make_averages(args: Namespace, indir: Path, outdir: Path) -> dict[float, Path]:
    """Averages of all widths of --outstd from the snapshots in `indir`; returns {std: file}."""
    files = find_inputs(indir, args.inprefix, args.instd)
    last = at_time(files, args.outkimg, args.out_step)
    key = clock(files)
    files = [f for f in files if f.config[key] <= last.config[key]]
    when, now = number(last), last.config[key]
    paths = {s: outdir / f"{args.outprefix}-{when:07d}-{s:.3f}.safetensors" for s in args.outstd}
    taken = {f.path.resolve() for f in files} & {p.resolve() for p in paths.values()}
    if taken:
        raise UsageError(f"--outprefix {args.outprefix}: {taken.pop().name} is an input")
    try:
        outdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise not_made(f"--outdir {outdir}: {error.strerror}", error) from error
    todo = [s for s, path in paths.items() if args.overwrite or not path.exists()]
    if not args.skip:
        check_results(paths, files, overwrite=args.overwrite)
    if not todo:
        print(f"done already: {len(paths)} averages in {outdir}")
        return paths
    told = f"{now} images" if key == "nimg" else "images not known"
    at = f"step {when} ({told})" if last.config.get("step") is not None else told
    print(f"{len(files)} snapshots up to {at}; {len(todo)} averages to make")
    in_stds = [f.config["ema_std"] for f in files]
    try:
        profiles = (
            np.array([f.config[key] for f in files], dtype=np.float64),
            np.array([ema.power_exponent(std) for std in in_stds]),
            np.full(len(todo), float(now)),
            np.array([ema.power_exponent(std) for std in todo]),
        )
        weights = phema.coefficients(*profiles)
    except (ValueError, np.linalg.LinAlgError) as error:
        raise CheckpointError(f"{indir}: {error}") from error
    missed = phema.mismatch(weights, *profiles)
    for first in range(0, len(todo), args.batch):
        batch = slice(first, first + args.batch)
        results = reconstruct(files, weights[:, batch], f"averages to {last.path.stem}")
        for std, result, column, far in zip(
            todo[batch], results, weights[:, batch].T, missed[batch], strict=True
        ):
            origin = describe(vars(args), last, files, column, float(far))
            save_snapshot(paths[std], result, last.kind, {**last.config, "ema_std": std}, origin)
            print(f"{paths[std]}: {100 * far:.2f} % off its profile")
    print(f"ready: {len(todo)} averages in {outdir}")
    return paths


def reconstruct(
    files: Sequence[Stored], weights: np.ndarray, what: str = "averages"
) -> list[dict[str, Tensor]]:
    """Weighted sums of the files' weights; weights float64 [files, results], files in time order.

    Sums are float64, results fp32 (float64 of float64). What is the same in all files (buffers)
    or no floating-point number is taken from the last. Every file is read once, tensor by tensor,
    and its checksum compared. what: stands before the bar. Errors: CheckpointError for a damaged
    file or non-finite weights.
    """
    w = torch.from_numpy(np.ascontiguousarray(weights.T))  # [results, files]
    results: list[dict[str, Tensor]] = [{} for _ in w]
    pieces = zip(*(file.tensors() for file in files), strict=True)
    for entries in track(pieces, len(files[0].layout), what, "tensor"):
        name, last = entries[-1]
        values = [v for _, v in entries]
        kind = torch.float64 if last.dtype == torch.float64 else torch.float32
        if not last.is_floating_point():
            for result in results:
                result[name] = last.clone()
            continue
        fixed = name.endswith(BUFFERS) or all(torch.equal(v, last) for v in values[:-1])
        if fixed and torch.isfinite(last).all():
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


if __name__ == "__main__":
    launch(main, get_args(__doc__))
