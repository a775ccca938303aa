"""Do generated views help SimCLR? `python -m benchmarks.isicle_arms --out DIR`.

A CAM-Net is trained on the train split without its labels (or `--net FILE` is taken), then arms
train one encoder each, on equally many steps of equally many views, augmented by crop and flip
alone (`crop+flip`) or in full (`full`):

AUGS-real-real     SimCLR: both views are of the real picture
AUGS-real-synth    one view is drawn by the generator
AUGS-synth-synth   both are
AUGS-mixed         each is, with probability 1/2

Controls, for each AUGS:

AUGS-mixed-upsampled   instead of a drawn view, the generator's input enlarged
AUGS-mixed-fixed       one code for all pictures and draws
AUGS-real-real-long    SimCLR for as long as `mixed` takes: so many more epochs

Every arm is a run of TrainISICLE.py below DIR (its command is in args.json), which resumes when
this command is run again; arms of a seed have the same initial weights and order of pictures. Arms
named by --key run on all seeds, the others on the first. Figures are of real held-out pictures:
weighted kNN and the convex probe. report.md: means over seeds, differences from AUGS-real-real
with a paired 95 % t-interval over seeds, and over pictures of the first seed; costs. What equal
time means is CPU time on a CPU, since other programs of a machine stretch the clock's, and the
clock's time on a GPU.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import TrainGeneratorWandB
import TrainISICLE
from models.intervals import mean_interval, paired_images, paired_t
from runtime.checkpoint import write_atomic
from runtime.distributed import launch
from runtime.netfiles import find_network
from runtime.networks import open_network
from runtime.rundir import refuse_changes, shaping
from runtime.snapshot import load_torch

AUGS = ("full", "crop+flip")
PAIRS = {
    "real-real": "--pair real-real",
    "real-synth": "--pair real-synth",
    "synth-synth": "--pair synth-synth",
    "mixed": "--pair mixed --f 0.5",
    "mixed-upsampled": "--pair mixed --f 0.5 --view_source upsampled",
    "mixed-fixed": "--pair mixed --f 0.5 --code fixed",
    "real-real-long": "--pair real-real",
}
ARMS = {
    f"{augs}-{pair}": f"--augs {augs} {words}" for augs in AUGS for pair, words in PAIRS.items()
}
# What a run on the CPU needs beside the preset; --extra comes after it and wins.
COMMON = "--preset tiny25 --gpus cpu --wandb disabled"
GENERATOR = (
    "--preset cpu-small --precision bf16 --search_precision bf16 --gpus cpu --wandb disabled "
    "--save_every 64"
)
PROBES = {"kNN": "knn(", "linear": "linear("}  # how their names begin; the first one counts


def get_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--net", help="the generator's snapshot (default: train one below DIR)")
    parser.add_argument("--data", default="tiny_imagenet_25", help="with a train and a val split")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", default=["*"], help="arms, or patterns of them")
    parser.add_argument(
        "--key", nargs="*", default=["*-real-real", "*-mixed"], help="arms that run on all seeds"
    )
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--extra", default="", help="options for all arms, in quotes")
    parser.add_argument("--imle", default="", help="options for the generator's training")
    parser.add_argument("--report", action="store_true", help="write the report of what is there")
    parser.set_defaults(gpus=[])  # one process; arms have the --gpus of --extra
    args = parser.parse_args(argv)
    for pattern in [*args.only, *args.key]:
        if not any(fnmatch(name, pattern) for name in ARMS):
            parser.error(f"no arm {pattern!r}; there are {', '.join(ARMS)}")
    return args


class Piece(NamedTuple):
    """One run: an arm on a seed."""

    arm: str
    seed: int


def pieces(args: argparse.Namespace) -> list[Piece]:
    """What is to be run, in order: seed by seed, longer controls behind what they are held to."""
    found = []
    for n, seed in enumerate(args.seeds):
        for arm in sorted(ARMS, key=lambda a: (a.endswith("-long"), list(ARMS).index(a))):
            key = any(fnmatch(arm, pattern) for pattern in args.key)
            if any(fnmatch(arm, pattern) for pattern in args.only) and (key or n == 0):
                found.append(Piece(arm, seed))
    return found


def folder_of(args: argparse.Namespace, piece: Piece) -> Path:
    return args.out / f"seed{piece.seed}" / piece.arm


def rows_of(folder: Path) -> list[dict[str, float]]:
    """A run's metrics."""
    file = folder / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def lines_of(folder: Path, key: str) -> list[float]:
    """All values of a key of a run's metrics."""
    return [line[key] for line in rows_of(folder) if key in line]


def refuse_other(args: argparse.Namespace, piece: Piece, net: Path | str) -> None:
    """UsageError if a finished piece had other options than this command gives it."""
    folder = folder_of(args, piece)
    before = json.loads((folder / "args.json").read_text())["args"]
    now = TrainISICLE.get_args(command(args, piece, net, args.epochs))
    # of a -long arm the epochs are by what others took
    out = [*TrainISICLE.EXECUTION_ONLY, *(["epochs"] if piece.arm.endswith("-long") else [])]
    refuse_changes(shaping(argparse.Namespace(**before), out), shaping(now, out), str(folder), out)


def generator(args: argparse.Namespace) -> Path:
    """The generator's snapshot; trained first, or further, if none was given."""
    if args.net:
        open_network(net_of(args))  # now, not after hours of arms without it
        return net_of(args)
    folder = args.out / "generator"
    words = f"{GENERATOR} --data_tr {args.data} --run-dir {shlex.quote(str(folder))} {args.imle}"
    TrainGeneratorWandB.main(TrainGeneratorWandB.get_args(shlex.split(words)))
    return net_of(args)


def command(args: argparse.Namespace, piece: Piece, net: Path | str, epochs: int) -> list[str]:
    """The options of TrainISICLE.py that make a piece."""
    words = f"{COMMON} --data {args.data} --seed {piece.seed} {ARMS[piece.arm]} --epochs {epochs}"
    words = [*shlex.split(words), "--run-dir", str(folder_of(args, piece))]
    if "--pair real-real" not in ARMS[piece.arm]:
        words += ["--net", str(net)]
    return [*words, *shlex.split(args.extra)]


def longer(args: argparse.Namespace, piece: Piece, done: dict[Piece, dict[str, Any]]) -> int | None:
    """Epochs of a piece; for a -long one None until the two it is held to are done."""
    if not piece.arm.endswith("-real-real-long"):
        return args.epochs
    augs = piece.arm.removesuffix("-real-real-long")
    # by the first seed that has both: all seeds then train equally long
    for seed in args.seeds:
        both = [done.get(Piece(f"{augs}-{pair}", seed)) for pair in ("real-real", "mixed")]
        if all(both):
            real, mixed = (found[found["time is"]] for found in both)
            return max(args.epochs, round(args.epochs * mixed / real))
    return None


def result(args: argparse.Namespace, piece: Piece) -> dict[str, Any] | None:
    """What a piece came to, None while it is not finished."""
    folder = folder_of(args, piece)
    status, probes = folder / "status.json", folder / "probes.json"
    if not probes.is_file() or json.loads(status.read_text()).get("state") != "finished":
        return None
    figures = json.loads(probes.read_text())["figures"]
    asked = json.loads((folder / "args.json").read_text())["args"]
    steps = max(int(line) for line in lines_of(folder, "step"))
    cpu = lines_of(folder, "time/cpu_s")
    views = lines_of(folder, "time/ms_per_view")
    shares = lines_of(folder, "synthetic")
    found: dict[str, Any] = {
        "arm": piece.arm,
        "seed": piece.seed,
        "epochs": asked["epochs"],
        "steps": steps,
        "cpu_s": steps * mean(cpu),
        "wall_s": steps * mean(lines_of(folder, "time/step_s")),
        "time is": "cpu_s" if asked["gpus"] == [] else "wall_s",
        "ms_per_view": mean(views) if views else None,
        "synthetic": mean(shares),
    }
    for name, beginning in PROBES.items():
        full = next(k for k in figures if k.startswith(beginning) and k.endswith(" acc1"))
        found[name] = figures[full]
        found[f"{name} is"] = full.removesuffix(" acc1")
    return found


def right(args: argparse.Namespace, found: dict[str, Any], probe: str) -> Tensor:
    """Which held-out pictures a piece has right, bool [N]."""
    folder = folder_of(args, Piece(found["arm"], found["seed"]))
    return load_torch(folder / "right.pt")[found[f"{probe} is"]]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def per_cent(value: float) -> str:
    return f"{100 * value:+.1f}"


def against(args: argparse.Namespace, by: dict[Piece, dict[str, Any]], arm: str, probe: str) -> str:
    """Difference from AUGS-real-real: over seeds, and over the pictures of the first seed."""
    base = next(f"{augs}-real-real" for augs in AUGS if arm.startswith(f"{augs}-"))
    pairs = [
        (by[Piece(arm, seed)], by[Piece(base, seed)])
        for seed in args.seeds
        if Piece(arm, seed) in by and Piece(base, seed) in by
    ]
    if arm == base or not pairs:
        return ""
    cells = []
    if len(pairs) > 1:
        t = paired_t(*([pair[i][probe] for pair in pairs] for i in (0, 1)))
        low, high = per_cent(t.low), per_cent(t.high)
        cells.append(f"{per_cent(t.difference)} ({low} to {high}, {t.n} seeds)")
    m = paired_images(*(right(args, found, probe) for found in pairs[0]))
    low, high = per_cent(m.low), per_cent(m.high)
    cells.append(f"{per_cent(m.difference)} ({low} to {high}, {m.n} pictures, p = {m.p:.2g})")
    return "; ".join(cells)


def report(args: argparse.Namespace, by: dict[Piece, dict[str, Any]]) -> str:
    """Markdown: how the generator does, then a row an arm."""
    lines = ["# Do generated views help?", ""]
    lines += generator_lines(net_of(args).parent.parent)
    if not by:
        return "\n".join([*lines, "No arm is finished.", ""])
    names = {probe: next(iter(by.values()))[f"{probe} is"] for probe in PROBES}
    lines += [
        f"Accuracy on held-out real pictures, %. kNN: {names['kNN']}; linear: {names['linear']}. "
        "Differences are from real-real of the same augmentations, in points, with 95 % intervals.",
        "",
        "| arm | seeds | epochs | kNN | linear | kNN, difference | linear, difference | "
        "synthetic | ms/view | CPU s a step | CPU h | clock h |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for arm in ARMS:
        own = [found for piece, found in by.items() if piece.arm == arm]
        if not own:
            continue
        cells = [str(len(own)), "/".join(sorted({str(found["epochs"]) for found in own}))]
        for probe in PROBES:
            values = [found[probe] for found in own]
            cell = f"{100 * sum(values) / len(values):.1f}"
            if len(values) > 1:
                interval = mean_interval(values)
                cell += f" ± {100 * (interval.high - interval.mean):.1f}"
            cells.append(cell)
        cells += [against(args, by, arm, probe) for probe in PROBES]
        views = [found["ms_per_view"] for found in own if found["ms_per_view"] is not None]
        cells += [
            f"{mean([found['synthetic'] for found in own]):.2f}",
            f"{mean(views):.2f}" if views else "",
            f"{mean([found['cpu_s'] / found['steps'] for found in own]):.2f}",
            f"{mean([found['cpu_s'] for found in own]) / 3600:.2f}",
            f"{mean([found['wall_s'] for found in own]) / 3600:.2f}",
        ]
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def net_of(args: argparse.Namespace) -> Path:
    """The generator's file, trained by this command or not."""
    if args.net:
        return find_network(args.net, "TrainGeneratorWandB")
    return args.out / "generator" / "snapshots" / "network-latest.safetensors"


def generator_lines(folder: Path) -> list[str]:
    """Fidelity, diversity and cost of the generator of a run, at its end; none of another file."""
    figures = {k: v for line in rows_of(folder) for k, v in line.items() if k.startswith("val/")}
    if not figures:
        return []
    steps, took = max(lines_of(folder, "step")), lines_of(folder, "time/step_s")
    shown = [f"{k.removeprefix('val/')} {v:.4f}" for k, v in figures.items()]
    cost = f", {steps * mean(took) / 3600:.2f} hours by the clock," if took else ","
    said = f"Generator after {steps:.0f} steps{cost} on pictures held out: {', '.join(shown)}."
    return [said, ""]


def main(args: argparse.Namespace) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    net = net_of(args)
    every = [Piece(arm, seed) for seed in args.seeds for arm in ARMS]
    done = {piece: found for piece in every if (found := result(args, piece))}
    for piece in [] if args.report else done:
        refuse_other(args, piece, net)
    todo = [] if args.report else [piece for piece in pieces(args) if piece not in done]
    if any("--pair real-real" not in ARMS[piece.arm] for piece in todo):
        net = generator(args)
    for piece in todo:
        epochs = longer(args, piece, done)
        if epochs is None:
            print(f"{piece.arm}, seed {piece.seed}: waits for real-real and mixed of a seed")
            continue
        TrainISICLE.main(TrainISICLE.get_args(command(args, piece, net, epochs)))
        done[piece] = result(args, piece)
        write(args, done)
    write(args, done)
    print(report(args, done))


def write(args: argparse.Namespace, done: dict[Piece, dict[str, Any]]) -> None:
    """report.md and results.json of what is done."""
    write_atomic(args.out / "report.md", report(args, done))
    write_atomic(args.out / "results.json", json.dumps(list(done.values()), indent=1))


if __name__ == "__main__":
    launch(main, get_args())
