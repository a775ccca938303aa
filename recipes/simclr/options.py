"""What may be asked of TrainSimCLR.py: presets, the option table, rules between options, and the
run's name. TrainISICLE.py asks the same and more: `{**OPTIONS, ...}`.

"The original SimCLR code" is the PyTorch code whose command line this one keeps; google's is the
code that Chen et al. published.
"""

import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.sources import split_of
from data.views.recipes import NORMALISATIONS, RECIPES, own_options
from data.views.splits import own_view_size
from models.optim import SEMANTICS
from models.simclr import FORMER_HEADS, HEADS
from recipes.command import INIT_FROM, read_options
from recipes.simclr.parts import LOSSES, view_recipe
from recipes.words import former
from runtime.options import EXECUTION, LENGTH, USUAL, Rules, Table, default_of, was
from runtime.precision import LOWEST_TEMPERATURE
from runtime.types import (
    count,
    data_set,
    dir_path,
    integer,
    list_of,
    many,
    nonnegative_float,
    nonnegative_int,
    number,
    one_of,
    positive_float,
    positive_int,
    sets,
    short_name,
    side,
    text_called,
    wide,
)
from storage.errors import DataError

PRESETS = {
    "smoke": {
        "_help": "embedded scenes, CPU, seconds",
        "data": "scenes", "num_images": 256, "crop_size": 8, "bs": 32, "epochs": 2, "n_ramp": 1,
        "eval": "cv", "folds": 3, "eval_iter": 1, "save_iter": 1, "probe_epochs": 2,
        "color_s": 0.5, "log_every": 2, "num_workers": 0, "wandb": "disabled", "gpus": [],
    },
    "cpu-small": {
        "_help": "ResNet-18 on one's own pictures at up to 64 px, half an hour of two cores",
        "data": "scenes", "num_images": 20_000, "crop_max": 64, "steps": 1500, "stem": "standard",
        "bs": 128, "opt": "adam", "lars": 0, "lr": 1e-3, "n_ramp": 0, "color_s": 0.5, "temp": 0.2,
        "probe_epochs": 0, "num_workers": 0,
    },
    "cifar10-r18": {
        "_help": "ResNet-18 on CIFAR-10: 1000 epochs, google's optimizer and rates",
        "data": "cifar10", "bs": 512, "epochs": 1000, "opt": "lars", "lr": 1.0, "lr_scaling":
        "linear", "lr_schedule": "google", "wd": 1e-4, "color_s": 0.5, "temp": 0.5, "eval": "test",
    },
    "cifar10-r50-original": {
        "_help": "settings of the original SimCLR code's 92 % on CIFAR-10, its probe among them: "
        "ResNet-50, Adam in a LARC, bs 1000 (--lr_schedule original: its schedule too)",
        "data": "cifar10", "backbone": "resnet50", "bs": 1000, "epochs": 1000, "opt": "adam",
        "mm": [0.9, 0.99], "lr": 1e-3, "wd": 1e-6, "lars": 1, "color_s": 0.5, "temp": 0.5,
        "eval": "test", "probe_augs": "train",
    },
    "mini-64cv": {
        "_help": "miniImagenet, cross-validated within its 64 train classes; episodes on the 20 "
        "test classes",
        "data": "miniImagenet", "crop_size": 128, "bs": 512, "epochs": 400, "opt": "lars",
        "lr": 0.3, "lr_scaling": "linear", "wd": 1e-4, "color_s": 0.5, "eval": "cv",
        "few_shot": "test",
    },
    "mini-100": {
        "_help": "miniImagenet, all 100 classes: 500 pictures of each to train on, 100 to test on",
        "data": "miniImagenet", "crop_size": 128, "bs": 512, "epochs": 400, "opt": "lars",
        "lr": 0.3, "lr_scaling": "linear", "wd": 1e-4, "color_s": 0.5, "eval": "pooled",
    },
}  # fmt: skip
FORMER_PRESETS = {"cifar10-r50-seed": "cifar10-r50-original"}

# The tag of an option that the probes' figures depend on, besides the network and its recipe.
PROBE = "probe"

# `original` is kept as "seed", the word of earlier versions, which is still accepted: see `former`.
FORMER_SCHEDULES = {"seed": "original"}


OPTIONS: Table = {
    "data": [
        ("--data", data_set, "cifar10", "NAME, a folder, a zip or an LMDB", PROBE, USUAL),
        ("--data_path", dir_path, None, "where data sets are stored (default: the data directory)",
         EXECUTION, PROBE),
        ("--num_images", sets, None, "use so many of them alone, equally many of a class, "
         "and of those held out as many (default: all)", PROBE, USUAL),
        ("--crop_size", side, None, "side of a view (default: the data set's; of others a "
         "power of two that the pictures' shorter sides have)", USUAL),
        ("--crop_max", side, 128, "largest --crop_size that is taken from the pictures",
         EXECUTION),
        ("--recipe", tuple(RECIPES), None, "augmentations (default: the data set's)"),
        ("--color_s", nonnegative_float, None, "strength of the colour jitter (default: 1, or what "
         "--recipe has)"),
        ("--gaussian_blur", one_of(0, 1), None, "1: blur, with the recipe's chance, or 0.5 where "
         "it has none (default: 0, or what --recipe has)"),
        ("--unreal_augs", one_of(0, 1), 1, "0: crop and flip alone"),
        ("--normalise", tuple(NORMALISATIONS), "none", "mean and deviation taken out of views"),
        ("--exact_augs", bool, False, "torchvision's arithmetic in augmentations, about twice "
         "the time of a view; without, views are up to 2%% brighter, and up to 2.4 times as "
         "many of their values are 0 or 1", PROBE),
        ("--picture_size", side, None, "side of the pictures that views are cut from "
         "(default: --crop_size)", PROBE),
        ("--place", ("memory", "memmap"), "memory", "where pictures lie: on the device, or in a "
         "file that is mapped", EXECUTION),
    ],
    "what to train": [
        ("--backbone", ("resnet18", "resnet34", "resnet50"), "resnet18", "encoder", USUAL),
        INIT_FROM,
        ("--loss", tuple(LOSSES), "ntxent", "contrastive loss", USUAL),
        ("--temp", number(LOWEST_TEMPERATURE), 0.5, "temperature of the loss (0.1 is dcl's and "
         "dclw's own)", USUAL),
    ],
    "length": [
        ("--epochs", positive_int, 1000, "passes over the data", LENGTH, USUAL),
        ("--steps", positive_int, None, "instead of --epochs: so many that it is about this "
         "number of optimizer steps, whatever the number of pictures; where they are fewer than "
         "--bs, that becomes a smaller power of two (default: --epochs)", EXECUTION,
         USUAL),
        ("--bs", count(1 << 24, 2), 1000, "pictures of a step, over all GPUs", USUAL),
        ("--opt", ("adam", "sgd", "lars"), "adam", "optimizer", USUAL),
        ("--lr", positive_float, 1e-3, "peak learning rate", USUAL),
        ("--n_ramp", nonnegative_int, 10, "epochs of warm-up"),
        ("--keep_schedule", bool, False, "when a run goes on under other --epochs: leave its "
         "learning rate as it was over the former, instead of over the new ones", EXECUTION),
    ],
    "validation": [
        ("--eval", ("auto", "val", "cv", "test", "pooled"), "auto", "what figures are of: its val "
         "or test split; cv: folds of train; pooled: all splits as one, of which --held_out of "
         "every class are held out; auto: val, where there is one of train's classes, else cv",
         PROBE, USUAL),
        ("--eval_iter", positive_int, 10, "epochs between evaluations by kNN", EXECUTION, USUAL),
        ("--folds", integer(2, 1000), None, "folds of --eval cv (default: 5, or as many as the "
         "smallest class has pictures)", EXECUTION, PROBE),
        ("--held_out", many, 100, "pictures a class for --eval pooled; always the same",
         PROBE),
        ("--probe", bool, True, "fit the probes at the end", EXECUTION, PROBE, USUAL),
        ("--probe_epochs", nonnegative_int, 100, "of the probe on augmented pictures; 0: none",
         EXECUTION, PROBE),
        ("--probe_augs", ("crop+flip", "train"), "crop+flip", "its augmentations; train: the "
         "training's own, as in the original SimCLR code", EXECUTION, PROBE),
        ("--few_shot", text_called("SPLIT|NAME|DIR"), None, "episodes of 5 ways on other classes: "
         "a split of --data, or another data set (default: none)", EXECUTION, PROBE),
    ],
    "output": [
        ("--snapshot_every", positive_int, 100, "epochs between files of the network", EXECUTION,
         was("--save_iter")),
        ("--save_pt", bool, False, "also N.pt and latest.pt, all of epoch N in one file, as the "
         "original SimCLR code has it", EXECUTION),
        ("--export_features", bool, False, "at the end, write the features h of all pictures",
         EXECUTION, PROBE),
        ("--export_backbone", bool, False, "at the end, write the backbone under torchvision's "
         "names", EXECUTION, PROBE),
        ("--suffix", short_name, None, "appended to the run's name"),
    ],
    "network": [
        ("--stem", ("auto", "small", "standard"), "auto", "first layers, by --crop_size if auto"),
        ("--head", former((*HEADS, "none"), FORMER_HEADS), "original", "projection; original: the "
         "original SimCLR code's"),
        ("--proj_dim", wide, None, "dimensions of the projection (default: the head's)"),
        ("--proj_hidden", wide, None, "its hidden width (default: the head's)"),
        ("--sync_bn", bool, True, "batch statistics over all ranks"),
        ("--channels_last", bool, True, "memory format"),
    ],
    "loss and optimizer": [
        ("--sigma", number(LOWEST_TEMPERATURE), 0.5, "of dclw's weights"),
        ("--lars", one_of(0, 1), 1, "wrap adam or sgd in a LARC, as the original SimCLR code does"),
        ("--lars_semantics", SEMANTICS, "google", "whose LARS --opt lars is"),
        ("--trust", positive_float, 0.001, "trust coefficient of LARS and LARC"),
        ("--lr_scaling", ("none", "linear", "sqrt"), "none", "of --lr by the batch"),
        ("--lr_schedule", former(("cosine", "google", "original"), FORMER_SCHEDULES), "cosine",
         "of the rate: a warm-up, then a cosine; google: its code's steps; original: the original "
         "SimCLR code's, by epochs"),
        ("--mm", list_of(number(0, 1, hi_open=True)), [0.9, 0.999], "betas of adam; the first is "
         "the others' momentum"),
        ("--weight_decay", nonnegative_float, 1e-6, "weight decay", was("--wd")),
    ],
}  # fmt: skip

# Of TrainSimCLR.py alone.
ANOTHER_USE: Table = {
    "another use": [
        ("--probe_only", text_called("FILE|DIR|untrained|pixels"), None, "no training: probes of a "
         "snapshot, an <epoch>.pt or a run's newest; untrained: of the network that training would "
         "begin with; pixels: of pictures (default: train)"),
    ],
}  # fmt: skip


def get_args(doc: str | None, argv: Sequence[str] | None = None) -> Namespace:
    """The original SimCLR code's options under their names, and ours. Wrong ones exit with 2."""
    argv = sys.argv[1:] if argv is None else argv
    # A preset's former name is accepted and not listed.
    typed = [old for old in FORMER_PRESETS if any(word.endswith(old) for word in argv)]
    presets = PRESETS | {old: PRESETS[FORMER_PRESETS[old]] for old in typed}

    def check_all(args: Namespace) -> None:
        check_effects(args, {**OPTIONS, **ANOTHER_USE}, PRESETS)
        check(args)
        if args.probe_only == "pixels" and args.export_backbone:
            raise ValueError("--probe_only pixels has no backbone for --export_backbone")
        if args.probe_only and args.init_from:
            raise ValueError("--probe_only trains nothing, so it takes no --init_from")
        if args.probe_only and args.profile:
            raise ValueError("--probe_only trains nothing, so there is no step to --profile")

    return read_options(doc, {**OPTIONS, **ANOTHER_USE}, presets, check_all, argv)


def _check_recipe(args: Namespace, own: Mapping[str, float]) -> None:
    """Refuse a --recipe that is typed where the preset has another value for what it consists of:
    neither the recipe as it is nor the preset's would be meant. Errors: ValueError."""
    from_preset: set[str] = getattr(args, "from_preset", set())
    if args.recipe is None or "recipe" in from_preset:
        return
    for name in sorted(from_preset & own.keys()):
        value = getattr(args, name)
        if value is not None and value != own[name]:
            raise ValueError(
                f"--recipe {args.recipe} has --{name} {own[name]:g}, --preset {args.preset} sets "
                f"{value:g}: say which by --{name} {own[name]:g} or --{name} {value:g}"
            )


def check_effects(args: Namespace, table: Table, presets: Mapping[str, Mapping[str, Any]]) -> None:
    """What has no effect beside the other options is refused, before `check` fills any in.

    Errors: ValueError.
    """
    rules, larc = Rules(args, table, presets), args.opt != "lars"
    if rules.typed("steps") and not rules.typed("epochs"):
        args.epochs = default_of(table, "epochs")  # a preset's do not hold beside --steps
    for name in ("color_s", "gaussian_blur"):
        rules.belongs(name, "--unreal_augs 1", bool(args.unreal_augs))
        rules.belongs(name, "recipes other than real", args.recipe != "real")
    rules.belongs("crop_max", "a --crop_size that the pictures say", args.crop_size is None)
    rules.belongs("lars", "--opt adam and sgd", larc)
    rules.belongs("lars_semantics", "--opt lars", not larc)
    rules.belongs("trust", "LARS and LARC", not larc or bool(args.lars))
    rules.belongs("held_out", "--eval pooled", args.eval == "pooled")
    rules.belongs("probe_augs", "--probe_epochs", args.probe_epochs > 0)


def check(args: Namespace) -> None:
    """Rules between options; fills in what follows from others. Errors: ValueError."""
    color_s, blur = (1.0, False) if args.recipe is None else own_options(args.recipe)
    _check_recipe(args, {"color_s": color_s, "gaussian_blur": int(blur)})
    args.color_s = color_s if args.color_s is None else args.color_s
    args.gaussian_blur = int(blur) if args.gaussian_blur is None else args.gaussian_blur
    Rules(args, OPTIONS).belongs("sigma", "--loss dclw", args.loss == "dclw")
    args.crop_size = args.crop_size or own_view_size(args.data)
    if args.crop_size is not None:  # otherwise the pictures say it: parts.fit
        args.picture_size = args.picture_size or args.crop_size
        try:
            view_recipe(args)
        except DataError as error:
            raise ValueError(str(error)) from None
    if args.bs % max(1, len(args.gpus or [])):
        raise ValueError(f"--bs {args.bs} cannot be shared by {len(args.gpus)} GPUs")
    if args.n_ramp > args.epochs:
        raise ValueError(f"--n_ramp {args.n_ramp} is longer than --epochs {args.epochs}")
    if args.lr_schedule in FORMER_SCHEDULES and args.n_ramp == args.epochs:
        raise ValueError(f"--n_ramp {args.n_ramp} leaves --lr_schedule original no epoch after it")
    if args.few_shot and split_of(args.few_shot) == "train":
        raise ValueError(f"--few_shot {args.few_shot}: episodes are of other pictures than train's")
    if len(args.mm) > 2 or args.opt == "adam" and len(args.mm) != 2:
        raise ValueError(f"--mm has {len(args.mm)} values; adam takes 2, the others 1")


def run_name(args: Namespace) -> str:
    """The run directory's readable part; a hash of the shaping options follows it."""
    parts = [Path(args.data).stem, args.backbone, f"bs{args.bs}", f"lr{args.lr:g}"]
    return "-".join([*parts, *([args.suffix] if args.suffix else [])])
