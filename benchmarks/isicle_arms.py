"""Do generated views help SimCLR? `python -m benchmarks.isicle_arms --out DIR`.

A CAM-Net is trained on the train split without its labels (or `--net FILE` is taken), draws --k
views of every picture, and then arms train one encoder each, on equally many steps of equally many
views, augmented by crop and flip alone (`crop+flip`) or in full (`full`):

AUGS-real-real     SimCLR: both views are of the real picture
AUGS-real-synth    one view is drawn by the generator
AUGS-synth-synth   both are
AUGS-mixed         each is, with probability 1/2

Controls, for each AUGS:

AUGS-mixed-upsampled   instead of a drawn view, the generator's input enlarged
AUGS-mixed-fixed       one code for all pictures and draws
AUGS-real-real-long    SimCLR for as long as `mixed` takes, its views' drawing counted (not the
                       generator's training): so many more epochs

and, only if --only names them:

AUGS-mixed-f25, -f75   other shares of synthetic views
AUGS-multi             one real and two drawn views
none-...               no augmentation at all: what differs is what the generator draws
AUGS-real-real-exact   SimCLR on views in torchvision's arithmetic: what folding the colour
                       operations into one does to a training

Other k, corruptions, temperatures and generators are other DIRs (--k, --draw, --net).

Every arm is a run of TrainISICLE.py below DIR (its command is in args.json), which resumes when
this command is run again; arms of a seed have the same initial weights and order of pictures. Arms
named by --key run on all seeds, the others on the first. `--k 0` draws anew in every step. Figures
are of real held-out pictures: weighted kNN and the convex probe. report.md: means over seeds,
differences from AUGS-real-real with a paired 95 % t-interval over seeds, and over pictures of the
first seed; costs. What equal time means is CPU time on a CPU, since other programs of a machine
stretch the clock's, and the clock's time on a GPU.

results.json is all that a finished arm leaves to the report: with it and the generator's snapshot
(--net) in place of DIR the study goes on elsewhere, and the runs' folders can be removed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import runpy
import shlex
import sys
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from evaluation.intervals import mean_share_interval, paired_images, paired_t
from generators.files import open_network
from recipes.imle import options as imle_options
from recipes.isicle import options as isicle_options
from recipes.isicle.options import all_synthetic
from recipes.views import options as view_options
from runtime.cli import prepare
from runtime.launch import launch
from runtime.options import EXECUTION, tagged
from runtime.rundir import refuse_changes, shaping
from storage.errors import UsageError
from storage.files import write_text
from storage.find import find_network, identity
from storage.torchfile import load_torch

AUGS = ("full", "crop+flip", "none")
# What stands for a drawn view: name -> (options of the generator, whether draws differ).
SOURCES = {
    "generated": ("", True),
    "upsampled": ("--view_source upsampled", False),
    "fixed": ("--code fixed", False),
}
# Name -> (options of TrainISICLE.py, where synthetic views come from).
PAIRS = {
    "real-real": ("--pair real-real", None),
    "real-synth": ("--pair real-synth", "generated"),
    "synth-synth": ("--pair synth-synth", "generated"),
    "mixed": ("--pair mixed --f 0.5", "generated"),
    "mixed-upsampled": ("--pair mixed --f 0.5", "upsampled"),
    "mixed-fixed": ("--pair mixed --f 0.5", "fixed"),
    "real-real-long": ("--pair real-real", None),
    "mixed-f25": ("--pair mixed --f 0.25", "generated"),
    "mixed-f75": ("--pair mixed --f 0.75", "generated"),
    "multi": ("--pair multi --num_synth 2", "generated"),
    "real-real-exact": ("--pair real-real --exact_augs", None),
}
ARMS = {
    f"{augs}-{pair}": (f"--augs {augs} {words}", source)
    for augs in AUGS
    for pair, (words, source) in PAIRS.items()
    if augs != "none" or source == "generated"  # else two views could be equal
}
OPTIONAL = ("none-*", "*-f25", "*-f75", "*-multi", "*-exact")  # arms that --only has to name
# What runs on the CPU need beside the presets; --extra, --draw and --imle come after them and win.
COMMON = "--preset tiny25 --gpus cpu --wandb disabled"
DRAW = "--view_precision bf16"
GENERATOR = (
    "--preset cpu-quick --precision bf16 --search_precision bf16 --gpus cpu --wandb disabled "
    "--save_every 64"
)
QUICK = (
    "--crop_size 16 --num_images 32 --bs 8 --n_ramp 0 --precision fp32 --num_workers 0 "
    "--view_precision fp32"
)
QUICK_IMLE = "--preset smoke --outer_loops 1 --num_iteration 2"
# Options of execution, and those that name files and folders: what these hold is compared instead.
NOT_COMPARED = (*tagged(isicle_options.OPTIONS, EXECUTION), "net", "cache")
OWN = ("epochs", "seed", "pair", "augs", "f", "num_synth")  # not to be in --extra
PROBES = {"kNN": "knn(", "linear": "linear("}  # how their names begin; the first one counts


def get_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--net", help="the generator's snapshot (default: train one below DIR)")
    parser.add_argument("--data", default="tiny_imagenet_25", help="with a train and a val split")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--only",
        nargs="+",
        default=[arm for arm in ARMS if not any(fnmatch(arm, word) for word in OPTIONAL)],
        help=f"arms, or patterns of them (default: all but {', '.join(OPTIONAL)})",
    )
    parser.add_argument(
        "--key", nargs="*", default=["*-real-real", "*-mixed"], help="arms that run on all seeds"
    )
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--k", type=int, default=8, help="views a picture; 0: anew in every step")
    parser.add_argument("--draw", default="", help="options of the views' drawing, in quotes")
    parser.add_argument("--extra", default="", help="options for all arms, in quotes")
    parser.add_argument("--imle", default="", help="options for the generator's training")
    parser.add_argument("--report", action="store_true", help="write the report of what is there")
    parser.add_argument(
        "--quick", action="store_true", help="two tiny arms on scenes, a minute: does it run?"
    )
    parser.set_defaults(gpus=[])  # one process; arms have the --gpus of --extra
    prepare(parser)
    args = parser.parse_args(argv)
    if args.quick:
        args.data, args.seeds, args.epochs, args.k = "scenes", [0], 1, 1
        args.only = ["crop+flip-real-real", "crop+flip-mixed"]
        args.extra, args.imle = f"{QUICK} {args.extra}", f"{QUICK_IMLE} {args.imle}"
    if args.k < 0:
        parser.error(f"--k {args.k}: views a picture, or 0")
    for pattern in [*args.only, *args.key]:
        if not any(fnmatch(name, pattern) for name in ARMS):
            parser.error(f"no arm {pattern!r}; there are {', '.join(ARMS)}")
    for name in ("draw", "extra", "imle"):
        try:
            shlex.split(getattr(args, name))
        except ValueError as error:
            parser.error(f"--{name} {getattr(args, name)!r}: {error}")
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


def compared(flags: Mapping[str, Any], arm: str) -> dict[str, Any]:
    """The options of an arm that must not differ; of a -long one epochs are by what others took.

    flags: those that shape its run, as `runtime.rundir.shaping` has them and args.json keeps them.
    """
    out = {*NOT_COMPARED, *(["epochs"] if arm.endswith("-long") else [])}
    return {name: value for name, value in flags.items() if name not in out}


def refuse_other(args: argparse.Namespace, done: dict[Piece, dict[str, Any]]) -> None:
    """UsageError if a finished piece had other options, or other views, than this command gives."""
    for piece, found in done.items():
        where = f"{piece.arm} of seed {piece.seed}"
        now = isicle_options.get_args(None, command(args, piece, args.epochs))
        refuse_changes(
            found["asked"], compared(shaping(now, NOT_COMPARED), piece.arm), where, NOT_COMPARED
        )
        source = ARMS[piece.arm][1]
        drawn = views(args, source) if source else None
        if drawn is not None and drawn[0] != found["views"]:
            raise UsageError(
                f"{where} had other views than there are in {args.out}: the generator, or how it "
                "drew, is another"
            )


def generator(args: argparse.Namespace) -> Path:
    """The generator's snapshot; trained first, or further, if none was given."""
    if args.net:
        open_network(net_of(args))  # now, not after hours of arms without it
        return net_of(args)
    run_script("TrainGeneratorWandB", imle_options.get_args(None, training(args)))
    return net_of(args)


def run_script(name: str, args: argparse.Namespace) -> None:
    """Run a root script as its command would, in this process, so that a signal reaches it."""
    root = Path(__file__).resolve().parents[1]
    runpy.run_path(str(root / f"{name}.py"))["main"](args)


def training(args: argparse.Namespace) -> list[str]:
    """The options of TrainGeneratorWandB.py that train the generator."""
    folder = shlex.quote(str(args.out / "generator"))
    words = f"{GENERATOR} --data_tr {shlex.quote(args.data)} --run-dir {folder} {args.imle}"
    return shlex.split(words)


def folder_of_views(args: argparse.Namespace, source: str) -> Path:
    return args.out / f"views-{source}"


def draw(args: argparse.Namespace, source: str) -> None:
    """Train the generator and draw the views of a source, as far as they are not there."""
    generator(args)
    if args.k:
        run_script("generate_views", view_options.get_args(None, drawing(args, source)))


def drawing(args: argparse.Namespace, source: str) -> list[str]:
    """The options of generate_views.py that draw the views of a source."""
    asked = isicle_options.get_args(None, command(args, Piece("full-real-real", 0), args.epochs))
    options, differ = SOURCES[source]
    words = f"{DRAW} --split train --size {asked.picture_size} --format memmap "
    words += f"--views {args.k if differ else 1} {options} {args.draw}"
    words = [*shlex.split(words), "--data", args.data, "--net", str(net_of(args))]
    words += ["--out", str(folder_of_views(args, source))]
    words += ["--gpus", *(map(str, asked.gpus) if asked.gpus else ["cpu"])]
    return [*words, *(["--data_path", asked.data_path] if asked.data_path else [])]


def views(
    args: argparse.Namespace, source: str, used: int | None = None
) -> tuple[str, float] | None:
    """(digest of a source's views, seconds that drawing took), None while they are not there.

    used: of so many pictures alone. Seconds are the CPU's where it drew. Without --k the digest is
    of the generator. UsageError for views of unknown cost.
    """
    if not args.k:
        net = net_of(args)
        return (identity(net), 0.0) if net.is_file() else None
    file = folder_of_views(args, source) / "views-train.json"
    if not file.is_file():
        return None
    note = json.loads(file.read_text())
    plan, facts = note["plan"], note["facts"]
    digest = hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()
    each = facts.get("cpu_ms_per_view", facts.get("ms_per_view"))
    if each is None:
        raise UsageError(f"{file} does not say what a view took; remove its folder, draw again")
    pictures = min(len(note["names"]), used or len(note["names"]))
    return digest, pictures * plan["k"] * each / 1000


def command(args: argparse.Namespace, piece: Piece, epochs: int) -> list[str]:
    """The options of TrainISICLE.py that make a piece."""
    own, source = ARMS[piece.arm]
    words = f"{COMMON} --seed {piece.seed} {own} --epochs {epochs}"
    words = [*shlex.split(words), "--data", args.data, "--run-dir", str(folder_of(args, piece))]
    if source and args.k:
        words += ["--views", "cache", "--cache", str(folder_of_views(args, source))]
    elif source:
        words += [
            *shlex.split(f"{DRAW} {SOURCES[source][0]} {args.draw}"),
            "--net",
            str(net_of(args)),
        ]
    return [*words, *shlex.split(args.extra)]


def longer(args: argparse.Namespace, piece: Piece, done: dict[Piece, dict[str, Any]]) -> int | None:
    """Epochs of a piece; for a -long one None until the two it is held to are done."""
    if not piece.arm.endswith("-real-real-long"):
        return args.epochs
    augs = piece.arm.removesuffix("-real-real-long")
    # All seeds train equally long: as one that has, else by the first seed that has both.
    for seed in sorted({found.seed for found in done}):
        if Piece(piece.arm, seed) in done:
            return done[Piece(piece.arm, seed)]["epochs"]
    for seed in sorted({found.seed for found in done}):
        both = [done.get(Piece(f"{augs}-{pair}", seed)) for pair in ("real-real", "mixed")]
        if all(both):
            if both[0]["time is"] != both[1]["time is"]:
                raise UsageError(
                    f"{augs}-real-real and {augs}-mixed of seed {seed} were timed on different "
                    "devices, so no equal time follows from them; train both on one"
                )
            real, mixed = (found[found["time is"]] + found["drawing_s"] for found in both)
            return max(args.epochs, round(args.epochs * mixed / real))
    return None


def result(args: argparse.Namespace, piece: Piece) -> dict[str, Any] | None:
    """What the run of a piece came to, None while it is not finished."""
    folder = folder_of(args, piece)
    status, probes = folder / "status.json", folder / "probes.json"
    if not probes.is_file() or json.loads(status.read_text()).get("state") != "finished":
        return None
    figures = json.loads(probes.read_text())["figures"]
    record = json.loads((folder / "args.json").read_text())
    asked = record["args"]
    steps = max(int(line) for line in lines_of(folder, "step"))
    source, per_view = ARMS[piece.arm][1], lines_of(folder, "time/ms_per_view")
    digest, seconds = (source and views(args, source, asked["num_images"])) or ("", 0.0)
    found: dict[str, Any] = {
        "arm": piece.arm,
        "seed": piece.seed,
        "epochs": asked["epochs"],
        "steps": steps,
        "cpu_s": steps * mean(lines_of(folder, "time/cpu_s")),
        "wall_s": steps * mean(lines_of(folder, "time/step_s")),
        "drawing_s": seconds,
        "time is": "cpu_s" if asked["gpus"] == [] else "wall_s",
        "ms_per_view": mean(per_view) if per_view else None,
        "synthetic": mean(lines_of(folder, "synthetic")),
        "asked": compared(record["shaping"], piece.arm),
        "views": digest,
    }
    right = load_torch(folder / "right.pt")
    for name, beginning in PROBES.items():
        full = next(k for k in figures if k.startswith(beginning) and k.endswith(" acc1"))
        found[name] = figures[full]
        found[f"{name} is"] = full.removesuffix(" acc1")
        found[f"{name} right"] = "".join(str(int(x)) for x in right[found[f"{name} is"]])
    return found


def right(found: dict[str, Any], probe: str) -> Tensor:
    """Which held-out pictures a piece has right, bool [N]."""
    return torch.tensor([x == "1" for x in found[f"{probe} right"]])


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def per_cent(value: float) -> str:
    return f"{100 * value:+.1f}"


def against(by: dict[Piece, dict[str, Any]], arm: str, probe: str) -> str:
    """Difference from AUGS-real-real: over seeds, and over the pictures of the first seed."""
    augs = next(augs for augs in AUGS if arm.startswith(f"{augs}-"))
    base = f"{'crop+flip' if augs == 'none' else augs}-real-real"
    pairs = [
        (by[Piece(arm, seed)], by[Piece(base, seed)])
        for seed in sorted({piece.seed for piece in by})
        if Piece(arm, seed) in by and Piece(base, seed) in by
    ]
    if arm == base or not pairs:
        return ""
    cells = []
    if len(pairs) > 1:
        t = paired_t(*([pair[i][probe] for pair in pairs] for i in (0, 1)))
        low, high = per_cent(t.low), per_cent(t.high)
        cells.append(f"{per_cent(t.difference)} ({low} to {high}, {t.n} seeds)")
    m = paired_images(*(right(found, probe) for found in pairs[0]))
    low, high = per_cent(m.low), per_cent(m.high)
    cells.append(f"{per_cent(m.difference)} ({low} to {high}, {m.n} pictures, p = {m.p:.2g})")
    return "; ".join(cells)


def over_seeds(accuracies: list[float]) -> str:
    """Mean of accuracies in [0, 1], one a seed, in %, with its interval where there are several."""
    mean_of = f"{100 * sum(accuracies) / len(accuracies):.1f}"
    if len(accuracies) == 1:
        return mean_of
    mean, low, high, _ = mean_share_interval(accuracies)
    if low == 0 or high == 1:  # cut there, and not the same on both sides
        return f"{mean_of} ({100 * low:.1f} to {100 * high:.1f})"
    return f"{mean_of} ± {100 * (high - mean):.1f}"


def report(by: dict[Piece, dict[str, Any]], said: str) -> str:
    """Markdown: how the generator does (`said`), then a row an arm."""
    lines = ["# Do generated views help?", "", *([said, ""] if said else [])]
    if not by:
        return "\n".join([*lines, "No arm is finished.", ""])
    names = {probe: next(iter(by.values()))[f"{probe} is"] for probe in PROBES}
    lines += [
        f"Accuracy on held-out real pictures, %. kNN: {names['kNN']}; linear: {names['linear']}. "
        "Differences are from real-real of the same augmentations (of none: crop+flip), in points, "
        "with 95 % intervals. "
        "Drawing: of all the views of an arm, once for all arms that share them.",
        "",
        "| arm | seeds | epochs | kNN | linear | kNN, difference | linear, difference | "
        "synthetic | CPU s a step | CPU h | clock h | drawing h |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for arm in ARMS:
        own = [found for piece, found in by.items() if piece.arm == arm]
        if not own:
            continue
        cells = [str(len(own)), "/".join(sorted({str(found["epochs"]) for found in own}))]
        for probe in PROBES:
            cells.append(over_seeds([found[probe] for found in own]))
        cells += [against(by, arm, probe) for probe in PROBES]
        drawing = mean([found["drawing_s"] for found in own]) / 3600
        cells += [
            f"{mean([found['synthetic'] for found in own]):.2f}",
            f"{mean([found['cpu_s'] / found['steps'] for found in own]):.2f}",
            f"{mean([found['cpu_s'] for found in own]) / 3600:.2f}",
            f"{mean([found['wall_s'] for found in own]) / 3600:.2f}",
            f"{drawing:.2f}" if drawing else "",
        ]
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def net_of(args: argparse.Namespace) -> Path:
    """The generator's file, trained by this command or not."""
    if args.net:
        return find_network(args.net, "TrainGeneratorWandB")
    return args.out / "generator" / "snapshots" / "network-latest.safetensors"


def about_generator(args: argparse.Namespace) -> str:
    """Fidelity, diversity and cost of the generator at its end; "" if it is not of a run here."""
    folder = net_of(args).parent.parent
    figures = {k: v for line in rows_of(folder) for k, v in line.items() if k.startswith("val/")}
    if not figures:
        return ""
    steps, took = max(lines_of(folder, "step")), lines_of(folder, "time/step_s")
    shown = [f"{k.removeprefix('val/')} {v:.4f}" for k, v in figures.items()]
    cost = f", {steps * mean(took) / 3600:.2f} hours by the clock," if took else ","
    return f"Generator after {steps:.0f} steps{cost} on pictures held out: {', '.join(shown)}."


def collect(args: argparse.Namespace) -> tuple[dict[Piece, dict[str, Any]], str]:
    """(results of all finished pieces, what is said of the generator): from the runs' folders, and
    from results.json where these are gone."""
    file, by, said = args.out / "results.json", {}, ""
    if file.is_file():
        try:
            kept = json.loads(file.read_text())
            by = {Piece(found["arm"], found["seed"]): found for found in kept["pieces"]}
            if strange := {piece.arm for piece in by} - ARMS.keys():
                raise UsageError(f"{file} has arms that this version does not know: {strange}")
            said = kept["generator"]
        except (ValueError, KeyError, TypeError):
            raise UsageError(f"{file} is not a results.json of this study; move it away") from None
    for seed in args.seeds:
        for arm in ARMS:
            piece = Piece(arm, seed)
            if found := result(args, piece):
                if piece in by:  # what it was trained on, whatever views are there now
                    found |= {key: by[piece][key] for key in ("views", "drawing_s")}
                by[piece] = found
    return by, about_generator(args) or said


def refuse_equal_views(args: argparse.Namespace, piece: Piece, asked: argparse.Namespace) -> None:
    """UsageError, before views are drawn, for an arm whose two views would be the same ones."""
    source = ARMS[piece.arm][1]
    if not (source and args.k and asked.augs == "none" and all_synthetic(asked)):
        return
    how = view_options.get_args(None, drawing(args, source))
    if how.views == 1:
        raise UsageError(
            f"{piece.arm} with --k {args.k}: both views of a picture would be the one that is "
            "stored; --k 2 or more, or --k 0, or leave the arm out"
        )
    if how.code == "fixed" or how.view_source == "upsampled" or how.temperature == 0:
        raise UsageError(
            f"{piece.arm} with --draw {args.draw!r}: both views of a picture would be equal; draw "
            "views that differ, or leave the arm out"
        )


def main(args: argparse.Namespace) -> None:
    # What is wrong with options is said now, not after hours.
    if any(source for _, source in map(ARMS.get, {piece.arm for piece in pieces(args)})):
        if args.k:
            asked = view_options.get_args(None, drawing(args, "generated"))
            if asked.num_images or asked.views != args.k:
                raise UsageError("--draw: views are --k of all pictures, no --views, --num_images")
        if not args.net:
            imle_options.get_args(None, training(args))
    for piece in pieces(args):
        words = command(args, piece, args.epochs)
        again = shlex.split(f"{ARMS[piece.arm][0]} --seed {piece.seed} --epochs {args.epochs}")
        asked, own = (isicle_options.get_args(None, w) for w in (words, [*words, *again]))
        for name in OWN:
            if getattr(own, name) != getattr(asked, name):
                raise UsageError(
                    f"--extra: --{name} is what makes an arm, or an option of this one"
                )
        refuse_equal_views(args, piece, asked)
    if args.net:
        generator(args)
    args.out.mkdir(parents=True, exist_ok=True)
    done = collect(args)[0]
    if not args.report:
        refuse_other(args, done)
    for piece in [] if args.report else pieces(args):
        if piece in done:
            continue
        epochs = longer(args, piece, done)
        if epochs is None:
            print(f"{piece.arm}, seed {piece.seed}: waits for real-real and mixed of a seed")
            continue
        if source := ARMS[piece.arm][1]:
            draw(args, source)
            refuse_other(args, done)  # views that are there only now
        run_script("TrainISICLE", isicle_options.get_args(None, command(args, piece, epochs)))
        done = write(args)
    write(args)
    print((args.out / "report.md").read_text())


def write(args: argparse.Namespace) -> dict[Piece, dict[str, Any]]:
    """report.md and results.json of what is done, by this process or another; returns it."""
    by, said = collect(args)
    write_text(args.out / "report.md", report(by, said))
    record = {"generator": said, "pieces": list(by.values())}
    write_text(args.out / "results.json", json.dumps(record, indent=1))
    return by


if __name__ == "__main__":
    launch(main, get_args())
