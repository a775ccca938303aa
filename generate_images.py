"""Images from a snapshot: k samples for each input (conditional) or k samples (unconditional).

    python generate_images.py --preset smoke
    python generate_images.py --snapshot RUN/snapshots/network-latest.safetensors --data scenes/val
    python generate_images.py --snapshot FILE --data DIR --num_images 100 --samples 10 --outdir OUT

Writes OUT/grid.png (a row an input: input, then its samples) and OUT/<input>_<k>.png. Sample k of
input i depends on --seed, i and k alone, not on what else is drawn or on the batch size.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from data.pyramids import Pyramid
from data.registry import open_source
from imle import CAMNet, CodeGenerator, Corruption, UnconditionalGenerator, draw_samples
from runtime.checkpoint import write_atomic
from runtime.cli import add_table, list_of, nonnegative_int, parse, positive_int, text
from runtime.dirs import data_home, results_home
from runtime.distributed import choose_device, launch
from runtime.errors import CheckpointError, UsageError
from runtime.grids import save_grid
from runtime.precision import Precision
from runtime.snapshot import Snapshot, load_snapshot

SAMPLING_LOOP = -3  # the codes' "loop", apart from training (>= 0) and validation

PRESETS = {
    "smoke": {
        "_help": "embedded scenes, CPU, an untrained network unless --snapshot is given",
        "data": "scenes/val", "num_images": 2, "samples": 3, "gpus": [],
    },
}  # fmt: skip


def get_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Options of this script; a wrong one exits with code 2."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    # fmt: off
    add_table(parser, "what", [
        ("--snapshot", text, None, "the network: a .safetensors file of a run's snapshots folder"),
        ("--data", text, None, "inputs: NAME, NAME/SPLIT, a folder, a zip or an LMDB"),
        ("--data_path", text, None, "where data sets are stored (default: the data directory)"),
        ("--num_images", positive_int, 10, "inputs, evenly spaced; or rows of the grid"),
        ("--samples", positive_int, 6, "samples for each input"),
        ("--seed", nonnegative_int, 0, "seed of the codes and corruptions"),
        ("--first", nonnegative_int, 0, "number of the first sample, to draw more another time"),
    ])
    add_table(parser, "how", [
        ("--outdir", text, None, "where images go (default: under the results directory)"),
        ("--grid_only", bool, False, "no single images"),
        ("--batch", positive_int, 16, "samples drawn at a time"),
        ("--precision", ("auto", "fp32", "bf16", "fp16"), "fp32", "number format of the network"),
        ("--gpus", list_of(nonnegative_int, empty_word="cpu"), None, "GPU to use, or cpu"),
    ])
    # fmt: on
    args = parse(parser, PRESETS, argv)
    if args.snapshot is None and args.preset != "smoke":
        parser.error("--snapshot is missing: a .safetensors file of a run's snapshots folder")
    if args.gpus and len(args.gpus) > 1:
        parser.error(f"--gpus {args.gpus}: sampling takes one GPU")
    return args


def build(snapshot: Snapshot) -> torch.nn.Module:
    """The snapshot's network in evaluation mode, on the CPU. Errors: CheckpointError."""
    kinds = {"camnet": CAMNet, "imle-unconditional": UnconditionalGenerator}
    if snapshot.kind not in kinds:
        raise CheckpointError(f"a {snapshot.kind!r} snapshot: this script knows {sorted(kinds)}")
    net = kinds[snapshot.kind](**snapshot.config["net"])
    net.load_state_dict(snapshot.state_dict)
    return net.eval().requires_grad_(False)


def untrained() -> Snapshot:
    """A tiny network with random weights, so that the smoke preset needs no earlier run."""
    net = CAMNet(res=[16, 32], resid_nc=[8], dense_nc=[4], n_blocks=1, map_nc=8, latent_nc=16)
    config = {"net": net.config, "codes": {}, "corruption": {}, "crop": "squash"}
    return Snapshot(net.state_dict(), "camnet", config, {})


def load_inputs(args: argparse.Namespace, snapshot: Snapshot) -> tuple[list[str], Tensor, Tensor]:
    """Names, ids [N] and inputs [N, 3, r0, r0] in [0, 1], evenly spaced over the data."""
    if args.data is None:
        raise UsageError("--data is missing: this network needs input images")
    source = open_source(args.data, Path(args.data_path or data_home()), split="val")
    pyramid = Pyramid(source, snapshot.config["net"]["res"][:1], crop=snapshot.config["crop"])
    count = min(args.num_images, len(source))
    ids = [i * len(source) // count for i in range(count)]
    names = [f"{i:06d}_{Path(source.path(i)).stem}" for i in ids]
    x = torch.stack([pyramid[i][0] for i in ids]).float() / 255
    return names, torch.tensor(ids), x


def main(args: argparse.Namespace) -> None:
    device = choose_device(args.gpus)
    torch.manual_seed(args.seed)
    if args.snapshot is None:
        print("no --snapshot: an untrained network with random weights, its images mean nothing")
    snapshot = load_snapshot(Path(args.snapshot)) if args.snapshot else untrained()
    net = build(snapshot).to(device)
    z = CodeGenerator(net.code_sizes, **{**snapshot.config["codes"], "seed": args.seed})
    precision = Precision(args.precision, device)

    if snapshot.kind == "imle-unconditional":
        names = [f"row{i:04d}" for i in range(args.num_images)]
        ids, cx = torch.arange(args.num_images), torch.zeros(args.num_images, 0)
    else:
        names, ids, x = load_inputs(args, snapshot)
        corruption = Corruption(**snapshot.config["corruption"], seed=args.seed)
        cx = corruption.keyed(x, SAMPLING_LOOP, ids)

    outdir = Path(args.outdir) if args.outdir else results_home() / "generate_images"
    try:
        outdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--outdir {outdir}: {error.strerror}") from error
    rows = []
    for name, i, c in zip(names, ids.split(1), cx.split(1), strict=True):
        with precision.autocast():
            images = draw_samples(
                net, z, c.to(device), i.to(device), args.samples,
                loop=SAMPLING_LOOP, first=args.first, parallel=args.batch,
            )[0].float().cpu().clamp(0, 1)  # fmt: skip
        if not args.grid_only:
            for k, image in enumerate(images):
                save_grid(outdir / f"{name}_{args.first + k}.png", image[None], ncol=1)
        rows.append(torch.cat([enlarge(c, images.shape[-1]), images]) if c.numel() else images)
    grid = save_grid(outdir / "grid.png", torch.cat(rows), ncol=len(rows[0]))
    facts = {"args": vars(args), "kind": snapshot.kind, "snapshot": snapshot.provenance}
    write_atomic(outdir / "provenance.json", json.dumps(facts, indent=1))
    print(f"{len(rows)} x {args.samples} samples; grid: {grid}")


def enlarge(x: Tensor, size: int) -> Tensor:
    """Inputs [N, 3, h, h] shown at `size` with their pixels visible."""
    return torch.nn.functional.interpolate(x, size=size, mode="nearest")


if __name__ == "__main__":
    launch(main, get_args())
