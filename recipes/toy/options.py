"""What may be asked of toy_example.py: presets, a table of options for each command, rules."""

import argparse
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from data.prepare.published import ROOT, TOY_GUIDE, TOY_NET
from recipes import selection
from recipes.command import INIT_FROM
from runtime.cli import parse
from runtime.options import (
    EXECUTION,
    LENGTH,
    NO_EFFECT,
    USUAL,
    Rules,
    Table,
    add_options,
    add_preset,
    also,
    run_table,
    tagged,
    was,
)
from runtime.types import (
    GpuList,
    at_once,
    file_path,
    finite_float,
    layers,
    many,
    network,
    nonnegative_int,
    positive_float,
    positive_int,
    wide,
)
from selection import Picker

# Of train; test and plot have a smoke of their own.
PRESETS = {
    "smoke": {
        "_help": "tiny, seconds; takes the options of every mode",
        "layers": 2, "dim": 16, "total_iter": 24, "batch_size": 512, "val_every": 8,
        "val_samples": 64, "test_samples": 64, "viz_every": 0, "snapshot_every": 8,
        "save_every": 8, "log_every": 4, "wandb": "disabled",
    },
    "cpu-small": {
        "_help": "eight times the default's steps: under half an hour of one core",
        "total_iter": 32768, "val_every": 2048, "val_samples": 4096, "test_samples": 16384,
        "viz_every": 8192, "snapshot_every": 4096, "save_every": 2048, "log_every": 128,
        "mandala": True,
    },
}  # fmt: skip
TEST_PRESETS = {"smoke": {"_help": "an untrained network unless given one", "n_samples": 64}}
PLOT_PRESETS = {"smoke": {"_help": "an untrained network unless given one", "n_samples": 256}}


# fmt: off
_CLASS = ("--cls", ("A", "B", "AB"), "A", "class of the tree")
_GPUS = ("--gpus", GpuList, None, "number of a GPU, or cpu (default: cpu)", also("--device"))

OPTIONS: Table = {
    "data": [(*_CLASS, USUAL)],
    "what to train": [
        ("--layers", layers, 4, "hidden layers", USUAL),
        ("--dim", wide, 64, "their width", USUAL),
        INIT_FROM,
        *selection.whether_rows(),
        ("--guide", network, None, "snapshot of a small network: reference of --acid, and in "
         "metrics (default: none)", USUAL, was("--guide-path"), also("--gnet")),
        ("--guidance", bool, None, "use the guide (default: yes, where there is one)"),
        ("--interpol", bool, False, "train and select by the loss of the guided score"),
    ],
    "length": [
        ("--total-iter", positive_int, 4096, "optimizer steps", EXECUTION, LENGTH, USUAL),
        ("--bs", at_once, 4096, "points of a step: the super-batch", USUAL,
         was("--batch-size")),
        ("--lr", positive_float, 1e-2, "peak learning rate of Adam", USUAL),
        ("--decay", positive_float, 512, "steps after which it falls as 1 / sqrt(step)"),
    ],
    "validation": [
        ("--val", bool, True, "metrics during training", EXECUTION),
        ("--val_every", positive_int, 128, "steps between them", EXECUTION, USUAL),
        ("--val_samples", many, 512, "points they are taken over", EXECUTION),
        ("--test", bool, True, "metrics at the end", EXECUTION),
        ("--test_samples", many, 1024, "points they are taken over", EXECUTION),
        ("--external", bool, False, "metrics also on the deep branches of the tree", EXECUTION),
        ("--mandala", bool, False, "also the shares of cells and samples in the tree", EXECUTION,
         USUAL),
    ],
    "output": [
        ("--viz", bool, True, "pictures of samples", EXECUTION),
        ("--viz_every", nonnegative_int, 512, "steps between pictures of samples; 0: at the end "
         "only", EXECUTION, USUAL),
        ("--snapshot_every", positive_int, 256, "steps between snapshots of the EMA", EXECUTION,
         USUAL),
        ("--logging", file_path, None, "file for a text log of Autoguided's form (default: none)",
         EXECUTION),
        ("--verbose", bool, False, "print the figures of every log interval", EXECUTION),
        ("--debug", bool, False, "print these and how selective the draws are", EXECUTION),
    ],
    "what it runs on": [(*_GPUS, USUAL)],
    "selection": [
        *selection.how_rows(
            num_chunks=16,
            keep_all=True,
            unit="points",
            scales="z-scores in the draw; autoguided and mean: losses as logged, as the Autoguided "
            "code; raw: summed over both dimensions",
        ),
    ],
}
TEST_OPTIONS: Table = {
    "test": [
        ("--net", network, None, "network to test, called Learner in the figures (required, or "
         "--ema-path)", was("--net-path")),
        ("--ema-path", network, None, "another, called EMA (default: none)"),
        ("--guide", network, None, "guide; guided figures are with weight 3 (default: none)",
         was("--guide-path"), also("--gnet")),
        _CLASS,
        ("--samples", many, 1024, "points the figures are taken over", was("--n-samples")),
        ("--batch", at_once, 1024, "points at once", was("--batch-size"), also("--bs")),
        ("--external", bool, False, "also on the deep branches of the tree"),
        ("--mandala", bool, False, "also the shares of cells and samples in the tree"),
        ("--seed", nonnegative_int, 0, "of points and noise"),
        ("--logging", file_path, None, "file for a text log of Autoguided's form (default: none)"),
        _GPUS,
        ("--acid", bool, False, "as in Autoguided", NO_EFFECT),
        ("--verbose", bool, False, "everything is printed", NO_EFFECT),
    ],
}
PLOT_OPTIONS: Table = {
    "plot": [
        ("--net", network, None, "network: a snapshot, a toy pickle of NVIDIA's, or a URL "
         "(default: NVIDIA's, which is fetched)"),
        ("--guide", network, None, "guide (default: none; with NVIDIA's network NVIDIA's guide)",
         was("--gnet"), also("--guide-path")),
        ("--guidance", finite_float, 3.0, "guidance weight"),
        _CLASS,
        ("--samples", many, 4096, "samples in a panel", was("--n_samples")),
        ("--save", file_path, None, "PNG to write (default: one for each setting in the "
         "results of this script)"),
        ("--overwrite", bool, False, "draw it anew, also where this script drew something else"),
        ("--seed", nonnegative_int, 0, "of samples and noise"),
        _GPUS,
    ],
}
# fmt: on


def get_args(doc: str | None, argv: Sequence[str] | None = None) -> Namespace:
    """The options of a command, the first word (train where there are options alone), which becomes
    `command`.

    doc: what --help begins with. Wrong options exit with code 2.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    command = words.pop(0) if words and words[0] in _COMMANDS else "train"
    table, presets, check = _COMMANDS[command]
    parser = argparse.ArgumentParser(prog=f"toy_example.py {command}", description=doc)
    parser.epilog = (
        "commands: train, also where options name none; test; plot. Each has its --help."
    )
    add_preset(parser)
    add_options(parser, table, run_table(save_every=512) if command == "train" else {})
    args = parse(parser, presets, words)
    if argv is None and len(sys.argv) == 1:  # an hour of training should be asked for
        parser.error("which command: train, test or plot? Each has its --help")
    args.command = command
    try:
        check(args)
    except ValueError as error:
        parser.error(str(error))
    return args


def check_train(args: Namespace) -> None:
    """Rules between options of train, and what follows from several. Errors: ValueError."""
    choose_device(args)
    if args.guidance is False and args.guide_path:
        raise ValueError(f"--no-guidance with --guide {args.guide_path}: give one")
    if args.guidance and not args.guide_path:
        raise ValueError("--guidance needs a guide: --guide FILE, a small network's snapshot")
    args.guidance = bool(args.guide_path)
    if args.interpol and not args.guidance:
        raise ValueError("--interpol guides the score: it needs --guide")
    selection.check(args, OPTIONS, PRESETS)
    selection.check_jest_options(args, OPTIONS, PRESETS)
    if (args.early or args.late) and not (args.acid or args.guidance):
        raise ValueError("--early and --late of a random selection need a --guide")
    if args.selection:
        selection_picker(args).size(args.batch_size)
    check_effects(args)


def check_effects(args: Namespace) -> None:
    """What every run has and the toy has no use for is refused. Errors: ValueError."""
    rules = Rules(args, {**OPTIONS, **{f"run, {k}": v for k, v in run_table().items()}}, PRESETS)
    for name, what in (
        ("num_workers", "data that are read, and the toy's points are drawn"),
        ("compile", "larger networks"),
        ("deterministic", "larger networks"),
    ):
        rules.belongs(name, what, False)
    if args.precision not in ("auto", "fp32"):
        raise ValueError(f"--precision {args.precision}: the toy computes in fp32")


def check_test(args: Namespace) -> None:
    """Rules between options of test. Errors: ValueError."""
    if args.net_path is None and args.ema_path is None and args.preset != "smoke":
        raise ValueError("--net is missing: the snapshot of a network, iter4096.safetensors say")
    choose_device(args)


def check_plot(args: Namespace) -> None:
    """Rules between options of plot; no --net means NVIDIA's networks. Errors: ValueError."""
    if args.net is None and args.preset != "smoke":
        if args.cls != "A":
            raise ValueError(
                f"--cls {args.cls}: NVIDIA's network is of class A; give --net, a snapshot of train"
            )
        args.net = f"{ROOT}/{TOY_NET}"
        args.gnet = args.gnet or f"{ROOT}/{TOY_GUIDE}"
    choose_device(args)


_Command = tuple[Table, Mapping[str, Mapping[str, Any]], Callable[[Namespace], None]]
_COMMANDS: dict[str, _Command] = {
    "train": (OPTIONS, PRESETS, check_train),
    "test": (TEST_OPTIONS, TEST_PRESETS, check_test),
    "plot": (PLOT_OPTIONS, PLOT_PRESETS, check_plot),
}


def choose_device(args: Namespace) -> None:
    """--gpus: the CPU unless asked. Errors: ValueError."""
    args.gpus = args.gpus or []
    if len(args.gpus) > 1:
        raise ValueError(f"--gpus {args.gpus}: the toy runs in one process")


def selection_picker(args: Namespace) -> Picker:
    """The draw, from losses that are sums over both dimensions."""
    # The Autoguided code draws from the toy's losses as it logs them, means over both dimensions.
    scale = "mean" if args.score_scale == selection.AUTOGUIDED else args.score_scale
    return selection.picker(args, "jest" if args.acid else "random", scale=scale, values=2)


def execution_options() -> tuple[str, ...]:
    """Names of arguments of train that do not change what the run computes."""
    return (*tagged(OPTIONS, EXECUTION), "command")


def run_name(args: Namespace) -> str:
    """The run directory's readable part; a hash of the shaping options follows it."""
    kind = "jest" if args.acid else "random" if args.selection else "baseline"
    kind = "a" + kind if args.acid and args.guidance else kind
    when = ["early"] * args.early + ["late"] * args.late + ["interpol"] * args.interpol
    return "-".join([args.cls, f"{args.layers}x{args.dim}", kind, *when])
