"""What makes the pictures of conditional IMLE better? `python -m benchmarks.pictures --out DIR`.

Arms are runs of TrainGeneratorWandB.py below DIR, on photographs unless it says otherwise:

present            x4 super-resolution as the preset cpu-small had it before there were a base,
                   consistency and a search in cells
present+project    the same snapshot, its samples projected on their inputs when they are drawn
together           the preset cpu-quick as it is
present+X          present with one part of what the preset has now
together-X         the preset without one part
together+X         the preset with a part that it has not

with X: {parts}. These are stopped at equal times:
--seconds of the CPU for each run, its processes together. The learning rate is a cosine over a
run's steps, and there is none over time; so each arm is timed first, in a short run of four
quarters of a loop, and has as many loops as fit. What they took in the end is in the table.

cpu-small/present, cpu-small/new, and so with color, mask, mnist, mnist-mask (super-resolution and
inpainting of digits, by cpu-quick) and uncond-small (digits): a preset to its end, as it was and as
it is. cpu-small/present-short: as it was, in the time of cpu-quick. cpu-quick/new: that preset;
cpu-quick/learned: with a learnt base; cpu-quick/near: with a larger one and a finer search;
cpu-quick/new-x2, -x4, -x8: with so many times its loops, of which a cosine is made anew.
cpu-small/new+middle and so on: of the same snapshots other samples, the first at a temperature of
0, the middle of what the network takes for possible, the others at 1.2. color/input: without the
base that the preset has, 4 loops.
demo/new: the preset smoke, which is what `make demo` trains; figures of its own log.

Figures are of --pictures held-out pictures, --samples samples each, of the EMA of the last step;
intervals are 95 %, Student's t over seeds; differences are paired by seed. Everything that is done
is in DIR/results.json; the same command, killed or not, goes on with what is missing. Several
commands with other --only may work in one DIR. --report writes the tables and sheets of
docs/studies/pictures.md, from results.json and DIR/sheets alone.

Use OMP_NUM_THREADS=1: then seconds of the CPU are those of one core.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.pictures_report import Results, recipe, write_pages
from generators.files import open_network
from imle import CAMNet, UnconditionalGenerator
from recipes.imle import options as imle_options
from recipes.imle import parts, validation
from runtime.cli import prepare
from runtime.launch import launch
from runtime.options import EXECUTION, flag, names_of, tagged
from runtime.rundir import refuse_changes, shaping
from storage.errors import UsageError
from storage.files import write_text
from storage.pictures import Captions, save_sheet

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "TrainGeneratorWandB.py"
LIMIT = 300_000  # bytes of a sheet

# The presets as they were at commit 44fa2b1, in full, so that they stay what they were.
_SMALL = (
    "--resid_nc 32 16 --dense_nc 16 16 --n_blocks 2 --map_nc 64 --latent_nc 128 --bs 16 "
    "--bs_gpu 16 --ns 16 8 --sp 16 8 --code_bs 16 --subsample_size 128 --num_iteration 64 "
    "--alpha 10 --lr 2e-3 --lpips auto --num_val_images 20 --num_workers 0 --cache memory"
)
PRESENT = {
    "cpu-small": f"{_SMALL} --res 16 32 64 --outer_loops 30",
    "cpu-small-color": f"{_SMALL} --res 32 32 64 --grayscale 1 --outer_loops 24",
    "cpu-small-mask": f"{_SMALL} --res 32 32 64 --mask_frac 0.25 --outer_loops 24",
    "uncond-small": "--unconditional --res 32 --sample_method mixture --map_nc 64 --latent_nc 128 "
    "--max_nc 64 --bs 64 --bs_gpu 64 --lpips none --subsample_size 1024 --pool_size 4096 "
    "--num_iteration 64 --outer_loops 30 --code_bs 64 --lr 2e-3 --mapping_lr_mult 1 --warmup 50 "
    "--flip 0 --num_workers 0 --cache memory",
}
PLAIN = "cpu-quick"  # the preset whose parts are looked at one by one
# Part of the recipe -> option -> (its value in `present`, the value that is tried where that preset
# does not have one of its own).
PARTS: dict[str, dict[str, tuple[str, str]]] = {
    "base": {"base": ("none", "input")},
    "consistency": {"consistency": ("none", "project")},
    "padding": {"padding": ("zeros", "reflect")},
    "norm": {"norm": ("instance", "none")},
    "codes": {"code_gain": ("0.3", "1")},
    "cells": {"cells": ("0", "4")},
    "rejection": {"rejection": ("0", "q0.05")},
    "adaptive": {"adaptive": ("False", "True")},
    "hierarchical": {"mapping": ("independent", "hierarchical")},
}
DIGITS = "--res 8 16 32 --flip 0"
MASKED = f"{DIGITS} --mask_frac 0.5 --mask_res 4"
# Part of the study -> (preset, options, which set it is of).
FULL = {
    "cpu-small": ("cpu-small", "", "photos"),
    "color": ("cpu-small-color", "", "photos"),
    "mask": ("cpu-small-mask", "", "photos"),
    "mnist": (PLAIN, DIGITS, "mnist"),
    "mnist-mask": (PLAIN, MASKED, "mnist"),
    "uncond-small": ("uncond-small", "", "mnist"),
}
# Loops of `new` where the preset's are for photographs, of which a step costs four times as much.
LOOPS = {"mnist": "--outer_loops 16", "mnist-mask": "--outer_loops 16"}
TINTS = "--base input --base_loops 0 --no-freeze_base --outer_loops 4"  # of color/input
# Of cpu-quick/near: what follows from the input is learnt first, by either loss; a finer search.
NEAR = (
    "--base learned --base_nc 48 --base_blocks 12 --base_loops 4 --base_lpips_loops 3 "
    "--num_iteration 256 --outer_loops 12 --local_ns 8 --sp 9 --rescore 0 --alpha 0.5"
)
# Temperatures of samples, the first of which is the middle of what is possible.
MIDDLE = (0.0, 1.2)
SHORT = 9  # loops of cpu-small/present-short, which take the time of cpu-quick/new
LONGER = (2, 4, 8)  # times the loops of cpu-quick/new, for what more time brings
# Options that name files and folders, and the length, which follows from the arm's time.
NOT_COMPARED = (
    *tagged(imle_options.OPTIONS, EXECUTION),
    *("data_tr", "data_val", "outer_loops", "seed", "save_every", "log_every"),
)
OWN = ("seed", "outer_loops")  # not to be in --extra
QUARTERS = 4  # of a loop, in which an arm is timed


class Arm(NamedTuple):
    """A row of a table. words: its options. of: the arm whose snapshot it looks at, if it is not
    trained itself. timed: whether it is given --seconds and not a number of loops. projected: its
    samples are, when they are drawn. temperature: of a picture's samples."""

    words: str
    data: str = "photos"
    of: str | None = None
    timed: bool = False
    projected: bool = False
    temperature: tuple[float, ...] = (1.0,)


class Piece(NamedTuple):
    """An arm on a seed."""

    arm: str
    seed: int


def part_words(name: str, on: bool) -> str:
    """The options that put a part in, as the preset cpu-quick has it, or leave it out."""
    preset, words = imle_options.PRESETS[PLAIN], []
    for option, (without, tried) in PARTS[name].items():
        typed = flag(option, imle_options.OPTIONS)
        found = as_typed(preset[option]) if option in preset else without
        words += [typed, without if not on else tried if found == without else found]
    return " ".join(words)


def as_typed(value: Any) -> str:
    """An option's value in the words that one types: [16, 8] -> 16 8."""
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def is_in_preset(name: str) -> bool:
    """Whether the preset cpu-quick has a part of the recipe."""
    preset = imle_options.PRESETS[PLAIN]
    return any(
        option in preset and as_typed(preset[option]) != without
        for option, (without, _) in PARTS[name].items()
    )


def arms() -> dict[str, Arm]:
    """All arms by name, in the order of the tables."""
    present, together = PRESENT["cpu-small"], f"--preset {PLAIN}"
    found = {
        "present": Arm(present, timed=True),
        "present+project": Arm(present, of="present", timed=True, projected=True),
        "together": Arm(together, timed=True),
    }
    known = names_of(imle_options.OPTIONS)
    parts_here = [name for name in PARTS if all(option in known for option in PARTS[name])]
    for name in parts_here:
        found[f"present+{name}"] = Arm(f"{present} {part_words(name, True)}", timed=True)
    for name in parts_here:
        sign, on = ("-", False) if is_in_preset(name) else ("+", True)
        found[f"together{sign}{name}"] = Arm(f"{together} {part_words(name, on)}", timed=True)
    for part, (preset, more, data) in FULL.items():
        before = PRESENT["cpu-small" if preset == PLAIN else preset]
        found[f"{part}/present"] = Arm(f"{before} {more}", data)
        if part == "cpu-small":
            found["cpu-small/present+project"] = Arm(before, of="cpu-small/present", projected=True)
            found["cpu-small/present-short"] = Arm(f"{before} --outer_loops {SHORT}")
        found[f"{part}/new"] = Arm(f"--preset {preset} {more} {LOOPS.get(part, '')}", data)
        if part == "color":
            found["color/input"] = Arm(f"--preset {preset} {TINTS}")
        if part == "cpu-small":
            found |= _with_a_middle("cpu-small/new", found["cpu-small/new"].words)
            found |= _of_cpu_quick()
    found["demo/new"] = Arm("--preset smoke", "scenes")
    return found


def _with_a_middle(name: str, words: str) -> dict[str, Arm]:
    """An arm, and other samples of its snapshot."""
    return {name: Arm(words), f"{name}+middle": Arm(words, of=name, temperature=MIDDLE)}


def _of_cpu_quick() -> dict[str, Arm]:
    """That preset, and what more of it brings."""
    found = {
        **_with_a_middle("cpu-quick/new", f"--preset {PLAIN}"),
        "cpu-quick/learned": Arm(f"--preset {PLAIN} --base learned --base_loops 5"),
        **_with_a_middle("cpu-quick/near", f"--preset {PLAIN} {NEAR}"),
    }
    for times in LONGER:
        loops = times * imle_options.PRESETS[PLAIN].get("outer_loops", 1)
        found[f"cpu-quick/new-x{times}"] = Arm(f"--preset {PLAIN} --outer_loops {loops}")
    return found


def get_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").replace("{parts}", ", ".join(PARTS)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--data", default="tiny_imagenet_25", help="photographs to train on")
    parser.add_argument("--mnist", default="mnist", help="digits to train on")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--seconds", type=float, default=900, help="of the CPU, for arms of equal time"
    )
    parser.add_argument("--only", nargs="+", default=["*"], help="arms, or patterns of them")
    parser.add_argument("--pictures", type=int, default=60, help="held-out pictures")
    parser.add_argument("--samples", type=int, default=6, help="samples of each")
    parser.add_argument("--extra", default="", help="options for all arms, in quotes")
    parser.add_argument("--report", action="store_true", help="write the report of what is there")
    parser.add_argument(
        "--docs", type=Path, help="folder of pictures.md and of its sheets (default: DIR)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="two tiny arms on scenes, a minute: does it run?"
    )
    parser.set_defaults(gpus=[])  # one process; arms have the --gpus of --extra
    prepare(parser)
    args = parser.parse_args(argv)
    if args.quick:
        args.data, args.seeds, args.seconds, args.pictures, args.samples = "scenes", [0], 12, 4, 2
        args.only, args.extra = ["present", "present+project", "together"], f"{QUICK} {args.extra}"
    for pattern in args.only:
        if not any(fnmatch(name, pattern) for name in arms()):
            parser.error(f"no arm {pattern!r}; there are {', '.join(arms())}")
    try:
        shlex.split(args.extra)
    except ValueError as error:
        parser.error(f"--extra {args.extra!r}: {error}")
    if min(args.pictures, args.samples - 1) < 1 or not args.seconds > 0:
        parser.error("at least 1 of --pictures, 2 of --samples, and --seconds above 0")
    return args


QUICK = (
    "--res 8 16 --resid_nc 6 --dense_nc 4 --n_blocks 1 --map_nc 4 --latent_nc 8 --bs 4 --bs_gpu 4 "
    "--ns 2 --sp 2 --code_bs 4 --subsample_size 8 --num_iteration 4"
)


def pieces(args: argparse.Namespace) -> list[Piece]:
    """What is to be done, in order: seed by seed."""
    chosen = [name for name in arms() if any(fnmatch(name, word) for word in args.only)]
    return [Piece(arm, seed) for seed in args.seeds for arm in chosen]


# ------------------------------------------------------------------------------------------- runs


def folder_of(args: argparse.Namespace, piece: Piece) -> Path:
    return args.out / "runs" / f"seed{piece.seed}" / piece.arm


def command(args: argparse.Namespace, piece: Piece, folder: Path, loops: int | None) -> list[str]:
    """The options of TrainGeneratorWandB.py that make a piece; loops: None: as its words say."""
    arm = arms()[piece.arm]
    data = {"photos": args.data, "mnist": args.mnist, "scenes": "scenes"}[arm.data]
    words = [*shlex.split(arm.words), "--gpus", "cpu", "--wandb", "disabled"]
    if arm.timed:  # what a look costs is no part of the method
        words += ["--num_val_images", "1", "--samples", "2"]
    words += [*shlex.split(args.extra), "--seed", str(piece.seed), "--data", data]
    words += ["--outer_loops", str(loops)] if loops else []
    return last_said([*words, "--run-dir", str(folder)])


def last_said(words: Sequence[str]) -> list[str]:
    """Options of which one that is said twice has its last values, and says nothing of it."""
    said: dict[str, list[str]] = {}
    option = ""
    for word in words:
        if word.startswith("--"):
            option = word
            said.pop(option, None)
            said[option] = []
        else:
            said.setdefault(option, []).append(word)
    return [word for option, values in said.items() for word in (option, *values) if word]


def asked(args: argparse.Namespace, piece: Piece, loops: int | None = None) -> argparse.Namespace:
    """The options of a piece as the script will have them. Errors: SystemExit(2)."""
    return imle_options.get_args(None, command(args, piece, folder_of(args, piece), loops))


def run(
    words: Sequence[str],
    seconds_file: Path,
    watch: Callable[[float], object] = lambda seconds: None,
    every: float = 2.0,
) -> float:
    """Train to the end in a process of its own; seconds of the CPU of it and of all that it
    starts, over all launches.

    The file keeps what launches took that were ended before. watch is told the seconds of this
    launch, every so many. What a signal does to this process it does to the run, which saves; exit
    code 75 then, or that of a run that failed.
    """
    seconds_file.parent.mkdir(parents=True, exist_ok=True)
    before = json.loads(seconds_file.read_text()) if seconds_file.is_file() else 0.0
    began = children_seconds()
    child = subprocess.Popen([sys.executable, str(SCRIPT), *words])
    try:
        while child.poll() is None:
            took = tree_seconds(child.pid)
            watch(took)
            write_text(seconds_file, json.dumps(before + took))
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(every)
    except BaseException:  # a signal
        child.send_signal(signal.SIGTERM)
        child.wait()
        raise
    took = children_seconds() - began
    write_text(seconds_file, json.dumps(before + took))
    if child.returncode:  # it has said why
        sys.exit(child.returncode)
    watch(took)
    return before + took


def tree_seconds(pid: int) -> float:
    """Seconds of the CPU that a process and its descendants have taken, also those that ended; 0
    where there is no /proc."""
    parents, ticks = {}, {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = entry.read_text().rpartition(")")[2].split()
            parents[int(entry.parent.name)] = int(fields[1])
            ticks[int(entry.parent.name)] = sum(map(int, fields[11:15]))

    def below(process: int | None) -> bool:
        while process is not None and process != pid:
            process = parents.get(process)
        return process == pid

    return sum(ticks[p] for p in ticks if below(p)) / os.sysconf("SC_CLK_TCK")


def probe(args: argparse.Namespace, arm: str) -> dict[str, float]:
    """Seconds of the CPU of an arm's start, and of a loop.

    Of a short run of quarters of a loop, in which pictures and steps and so all that a loop does
    are a quarter: what the second to the last take, by when their sheets are written.
    """
    piece = Piece(arm, args.seeds[0])
    whole = asked(args, piece)
    if whole.subsample_size is None:
        raise UsageError(f"{arm}: --subsample_size is needed, so that a quarter of a loop is known")
    folder = args.out / "probes" / arm
    words = command(args, piece, folder, QUARTERS)
    for name in ("subsample_size", "num_iteration"):
        words += [f"--{name}", str(max(1, getattr(whole, name) // 4))]
    ends: list[float] = []  # of the start, and of each quarter

    def watch(seconds: float) -> None:
        sheets = len(list(folder.glob("samples/val-*.png")))
        ends.extend([seconds] * (sheets - len(ends)))

    shutil.rmtree(folder, ignore_errors=True)  # one that was ended
    run(words, folder.with_suffix(".json"), watch, 0.1)
    quarter = (ends[-1] - ends[1]) / (len(ends) - 2)
    parts_of = whole.num_iteration / max(1, whole.num_iteration // 4)
    return {
        "start_s": round(ends[1] - quarter, 2),
        "loop_s": round(max(parts_of * quarter, 1e-3), 3),
    }


def children_seconds() -> float:
    """Seconds of the CPU of the processes that this one has waited for."""
    times = os.times()
    return times.children_user + times.children_system


def loops_of(args: argparse.Namespace, arm: str, results: Results) -> int | None:
    """How many loops fit into --seconds, by the arm's probe, at least one; None: as its words say.

    Of a probe under other --seconds the seconds of a loop still hold."""
    if not arms()[arm].timed:
        return None
    if arm not in results.probes:
        results.probes[arm] = probe(args, arm)
        save(args, results)
    times = results.probes[arm]
    return max(1, math.floor((args.seconds - times["start_s"]) / times["loop_s"]))


def train(args: argparse.Namespace, piece: Piece, results: Results) -> dict[str, Any]:
    """Run a piece to its end; what it took."""
    folder, loops = folder_of(args, piece), loops_of(args, piece.arm, results)
    began = time.monotonic()
    took = run(command(args, piece, folder, loops), folder.with_suffix(".json"))
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        "steps": max(row["step"] for row in rows),
        "cpu_s": round(took, 1),
        "wall_s": round(time.monotonic() - began, 1),
        "own": {
            name: rounded(value)
            for row in rows
            for name, value in row.items()
            if name.startswith(("val/", "search"))
        },
    }


# ---------------------------------------------------------------------------------------- figures


def judged(args: argparse.Namespace, piece: Piece, folder: Path) -> dict[str, float]:
    """Figures of a run's last snapshot on held-out pictures; writes its sheet too."""
    arm, options = arms()[piece.arm], asked(args, piece)
    options.num_val_images = args.pictures
    cpu = torch.device("cpu")
    snapshot = open_network(folder / "snapshots" / "network-latest.safetensors")
    made = UnconditionalGenerator if options.unconditional else CAMNet
    net = made(**snapshot.config["net"]).eval()
    net.load_state_dict(snapshot.state_dict)
    train, val = parts.sources(options)
    _, inputs, targets = parts.pictures(options, train, val, lambda _: None)
    codes, _ = parts.codes(options, net)
    corruption, _ = parts.corruption(options)
    loss_fn = parts.loss(options, cpu)

    def look(count: int, samples: int) -> validation.Look:
        few = [i * len(inputs) // count for i in range(count)]
        if options.unconditional:
            return validation.unconditional(
                net, codes, targets[few], cpu, samples=samples, pool_size=options.pool_size
            )
        return validation.conditional(
            net, loss_fn, codes, corruption, inputs[few], targets[few], cpu,
            samples=samples, projected=arm.projected, temperature=arm.temperature,
        )  # fmt: skip

    found = look(len(inputs), args.samples)
    for rows in range(min(6, len(inputs)), 0, -1):
        sheet = look(rows, min(4, args.samples))
        file = args.out / "sheets" / f"{piece.arm.replace('/', '-')}-seed{piece.seed}.png"
        save_sheet(file, sheet.pictures, sheet.columns, Captions(columns=sheet.captions.columns))
        if file.stat().st_size <= LIMIT:
            break
    return {name: rounded(value) for name, value in found.figures.items()}


def rounded(value: Any) -> float:
    """Six digits of a number."""
    return float(f"{float(value):.6g}")


def result(args: argparse.Namespace, piece: Piece, results: Results) -> dict[str, Any]:
    """Train and judge a piece."""
    arm, source = arms()[piece.arm], piece
    if arm.of is not None:
        source = Piece(arm.of, piece.seed)
        took = results.find(*source)
        if took is None or not folder_of(args, source).is_dir():
            raise UsageError(f"{piece.arm} of seed {piece.seed} looks at {arm.of}: run that first")
    else:
        took = train(args, piece, results)
    found = judged(args, piece, folder_of(args, source))
    return {
        "arm": piece.arm,
        "seed": piece.seed,
        "asked": asked_of(args, piece),
        **{name: took[name] for name in ("steps", "cpu_s", "wall_s", "own")},
        "figures": found,
    }


def compared(options: argparse.Namespace) -> dict[str, Any]:
    """The options of an arm that must not differ."""
    flags = shaping(options, NOT_COMPARED)
    return {name: value for name, value in flags.items() if name not in NOT_COMPARED}


def asked_of(args: argparse.Namespace, piece: Piece) -> dict[str, Any]:
    """What must not differ of a piece: its options, and what its samples are drawn at."""
    drawn = arms()[piece.arm].temperature
    at = {} if drawn == (1.0,) else {"temperature": list(drawn)}
    return compared(asked(args, piece)) | at


# ------------------------------------------------------------------------------------ one command


def load(args: argparse.Namespace) -> Results:
    """What is done so far. Errors: UsageError for a file that is none of this study."""
    file = args.out / "results.json"
    settings = {"seconds": args.seconds, "pictures": args.pictures, "samples": args.samples}
    if not file.is_file():
        return Results(settings, {}, [])
    try:
        return Results.read(file)
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{file} is not a results.json of this study; move it away") from None


def save(args: argparse.Namespace, results: Results) -> None:
    """Write what is done, with what another process has done meanwhile; `results` has it then."""
    there = load(args)
    results.probes = {**there.probes, **results.probes}
    known = {(found["arm"], found["seed"]) for found in results.pieces}
    results.pieces += [
        found for found in there.pieces if (found["arm"], found["seed"]) not in known
    ]
    order = {name: n for n, name in enumerate(arms())}
    results.pieces.sort(key=lambda found: (order.get(found["arm"], len(order)), found["seed"]))
    write_text(args.out / "results.json", results.text())


def refuse_other(args: argparse.Namespace, results: Results) -> None:
    """UsageError for a finished piece that had other options than this command gives it, and for
    other settings than the pieces that are there have."""
    now = {"seconds": args.seconds, "pictures": args.pictures, "samples": args.samples}
    refuse_changes(results.settings, now, args.out, ())
    for found in results.pieces:
        piece = Piece(found["arm"], found["seed"])
        if piece.arm in arms() and any(fnmatch(piece.arm, word) for word in args.only):
            where = f"{piece.arm} of seed {piece.seed}"
            now_asked = asked_of(args, piece)
            if "asked" in found:
                refuse_changes(found["asked"], now_asked, where, NOT_COMPARED)
            elif found.get("recipe", recipe(now_asked)) != recipe(now_asked):  # of a published file
                raise UsageError(
                    f"{where} in {args.out} was made with other options than this command gives "
                    "it: take it out of results.json, or give another --out"
                )


def check(args: argparse.Namespace) -> None:
    """What is wrong with options is said now, not after hours."""
    for piece in pieces(args):
        asked(args, piece)
        for name in OWN:
            if f"--{name}" in shlex.split(args.extra):
                raise UsageError(f"--extra: --{name} is of this study")


def main(args: argparse.Namespace) -> None:
    if not args.report:
        check(args)
        args.out.mkdir(parents=True, exist_ok=True)
        results = load(args)
        refuse_other(args, results)
        for piece in pieces(args):
            if results.find(*piece) is None:
                print(f"== {piece.arm}, seed {piece.seed}", flush=True)
                results.pieces.append(result(args, piece, results))
                save(args, results)
    results = load(args)
    print(write_pages(results, args.out / "sheets", args.docs or args.out))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    launch(main, get_args())
