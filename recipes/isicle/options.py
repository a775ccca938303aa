"""What may be asked of TrainISICLE.py: TrainSimCLR.py's options, those of generated views, and how
the two are paired."""

import shlex
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from data.views.generated import MODES, fraction
from recipes import measuring
from recipes.command import read_options
from recipes.imle import options as imle
from recipes.simclr import options as simclr
from recipes.views.options import DRAWING, GENERATOR, check_generator
from runtime.options import (
    EXECUTION,
    USUAL,
    Rules,
    Table,
    dest,
    flag,
    merged,
    names_of,
    run_options,
    run_table,
    spellings,
    tagged,
)
from runtime.types import (
    count,
    dir_path,
    nonnegative_int,
    positive_int,
    text_called,
)

TINY_IMLE = (
    "--preset smoke --res 8 16 --resid_nc 6 --dense_nc 4 --map_nc 4 --latent_nc 8 --bs 4 "
    "--mini_bs 4 --ns 4 --sp 4 --code_bs 4 --subsample_size 8"
)
PRESETS = {
    "smoke": {
        "_help": "embedded scenes, a tiny generator trained on the way, CPU, seconds",
        "data": "scenes", "num_images": 64, "crop_size": 16, "stem": "standard", "bs": 16,
        "epochs": 2, "n_ramp": 1, "eval": "cv", "folds": 2, "eval_iter": 1, "save_iter": 1,
        "probe_epochs": 0, "color_s": 0.5, "log_every": 2, "num_workers": 0, "wandb": "disabled",
        "gpus": [], "joint": 1, "imle_steps": 3, "imle": TINY_IMLE, "view_batch": 16,
    },
    "cpu-small": {
        "_help": "one's own pictures at up to 64 px, the generator trained on the way; half an "
        "hour of two cores",
        "data": "scenes", "num_images": 20_000, "crop_max": 64, "steps": 500, "stem": "standard",
        "bs": 128, "opt": "adam", "lars": 0, "lr": 1e-3, "n_ramp": 0, "color_s": 0.5, "temp": 0.2,
        "probe_epochs": 0, "num_workers": 0, "joint_steps": 50, "imle_steps": 80,
        "imle": "--preset cpu-small",
    },
    "tiny25": {
        "_help": "25 classes of tiny ImageNet at 64 px, 20 epochs: benchmarks/isicle_arms.py",
        "data": "tiny_imagenet_25", "crop_size": 64, "recipe": "small", "stem": "standard",
        "bs": 256, "epochs": 20, "n_ramp": 2, "opt": "adam", "lars": 0, "lr": 1e-3, "color_s": 0.5,
        "temp": 0.2, "eval": "val", "eval_iter": 5, "save_iter": 20, "probe_epochs": 0,
        "precision": "bf16", "view_precision": "bf16", "num_workers": 0, "log_every": 8,
        "save_every": 16,
    },
}  # fmt: skip

AUGS = ("none", "crop+flip", "full")
PAIRS: Table = {
    "pairs": [
        ("--pair", MODES, "mixed", "what the views of a picture are; mixed: each is synthetic with "
         "probability --f; multi: one is real, --num_synth are not", USUAL),
        ("--f", text_called("FLOAT|FLOAT:FLOAT"), None, "of mixed: a share, or START:END over the "
         "epochs (default: 0.5)", USUAL),
        ("--num_synth", count(1024), 2, "synthetic views of multi"),
        ("--reduce", ("out", "in"), "out", "of multi: where the loss sums over positives"),
        ("--augs", AUGS, None, "on top of all views (default: full, as --unreal_augs says)"),
        ("--domain_bn", bool, False, "batch norms of their own for synthetic views; figures and "
         "snapshots have the real ones"),
    ],
    "where synthetic views come from": [
        ("--views", ("online", "cache"), "online", "drawn when they are needed, or from --cache",
         USUAL),
        ("--cache", dir_path, None, "folder of views, as generate_views.py writes it (default: "
         "none)", USUAL),
        ("--refresh", nonnegative_int, 0, "draw --k views a picture every so many epochs; 0: draw "
         "in every step"),
        ("--k", count(10_000), 4, "views a picture of --refresh"),
        ("--joint", nonnegative_int, 0, "train the generator before every so many epochs; 0: "
         "do not", USUAL),
        ("--joint_steps", positive_int, None, "instead of --joint: so many epochs that it is about "
         "this number of the encoder's steps; no effect where no generator draws views (default: "
         "--joint)", EXECUTION),
        ("--imle_steps", positive_int, 100, "its steps each time, on codes searched anew"),
        ("--imle", text_called("OPTIONS"), "--preset cpu-small", "options of "
         "TrainGeneratorWandB.py for it, in quotes; with --net none of the network's, its codes' "
         "and its corruption's; cpu-small is cpu-quick here, as a base has no loops of its own"),
    ],
}  # fmt: skip
OPTIONS: Table = merged(simclr.OPTIONS, PAIRS, GENERATOR, {"validation": measuring.rows()})

# Options of TrainGeneratorWandB.py that --imle does not take: this run's own hold for the generator
# too, or they have no influence on it here. And those that are as a --net has them.
NOT_IMLE = {*run_options(), *tagged(imle.OPTIONS, imle.OUTER)} - {"preset"}
# Presets that are nothing without the loops of their base, which there are none of here -> the same
# with none. So cpu-small is what it has always been here.
WITHOUT_LOOPS = {"cpu-small": "cpu-quick"}
OF_THE_NET = set(tagged(imle.OPTIONS, imle.NETWORK, imle.CODES, imle.CORRUPTION))


def get_args(doc: str | None, argv: Sequence[str] | None = None) -> Namespace:
    """The options, checked; a wrong one exits with code 2. doc: what --help begins with."""
    return read_options(doc, OPTIONS, PRESETS, check, argv)


def check(args: Namespace) -> None:
    """Rules between the options; fills in what follows from others. Errors: ValueError."""
    simclr.check_effects(args, OPTIONS, PRESETS)
    if args.augs is not None:
        if args.augs == "full" and not args.unreal_augs:
            raise ValueError("--unreal_augs 0 and --augs full exclude each other")
        args.unreal_augs = int(args.augs == "full")
    simclr.check(args)
    check_generator(args)
    _check_pair(args)
    _check_source(args)
    _check_equal_views(args)
    if args.joint or args.joint_steps:
        imle_options(args)


def _check_pair(args: Namespace) -> None:
    rules, multi = Rules(args, OPTIONS), args.pair == "multi"
    rules.belongs("f", "--pair mixed", args.pair == "mixed")
    rules.belongs("num_synth", "--pair multi", multi)
    rules.belongs("reduce", "--pair multi", multi)
    fraction(args.f or 0.5)
    if multi and args.loss != "ntxent":
        raise ValueError(f"--pair multi has NT-Xent for many views only, not --loss {args.loss}")
    if args.domain_bn and args.pair in ("real-real", "synth-synth"):
        raise ValueError(f"--domain_bn: --pair {args.pair} has one kind of views only")
    if args.domain_bn and args.compile:
        raise ValueError("--domain_bn and --compile exclude each other: batches split unevenly")


def _check_source(args: Namespace) -> None:
    rules = Rules(args, OPTIONS, PRESETS)
    joint = bool(args.joint or args.joint_steps)
    for name in ("imle_steps", "imle", "metrics_every"):
        rules.belongs(name, "--joint", joint)
    measuring.check(args, rules)
    for name in set(names_of(GENERATOR)) - set(tagged(GENERATOR, DRAWING)):
        rules.belongs(name, "synthetic views", args.pair != "real-real")
    if args.joint or args.cache or args.pair == "real-real":
        args.joint_steps = None
    if args.joint_steps and args.refresh:
        raise ValueError(
            f"--joint_steps {args.joint_steps} with --refresh {args.refresh}: give --joint "
            "instead, a multiple of --refresh"
        )
    rules.needs("views", "cache")
    if args.cache and args.views != "cache":
        raise ValueError(f"--cache {args.cache} needs --views cache")
    if args.cache:
        # A preset may say how to draw for a run that draws nothing.
        how = {*names_of(GENERATOR)} - {"net", *tagged(GENERATOR, DRAWING)}
        useless = [name for name in ("refresh", "joint", *sorted(how)) if rules.given(name)]
        if useless or args.net:
            option = "--net" if args.net else flag(useless[0], OPTIONS)
            raise ValueError(f"--views cache draws nothing, so it takes no {option}")
    if args.pair == "real-real":
        if args.joint or args.refresh or args.cache:
            raise ValueError(
                "--pair real-real has no synthetic views: no --joint, --refresh, --cache"
            )
    elif not (args.net or args.cache or args.joint or args.joint_steps):
        raise ValueError(
            f"--pair {args.pair} takes synthetic views from somewhere: give --net SNAPSHOT, "
            "--views cache --cache FOLDER, or --joint R"
        )
    rules.belongs("k", "--refresh", bool(args.refresh))
    if args.joint and args.refresh and args.joint % args.refresh:
        raise ValueError(
            f"--joint {args.joint} is not a multiple of --refresh {args.refresh}: a resumed run "
            "could not draw again what an earlier generator drew"
        )


def _check_equal_views(args: Namespace) -> None:
    one_draw = (
        args.temperature == 0
        or args.code == "fixed"
        or args.view_source == "upsampled"
        or bool(args.refresh and args.k == 1)
    )
    all_real = args.pair == "real-real" or is_share(args, 0)
    if args.augs == "none" and (all_real or all_synthetic(args) and one_draw):
        raise ValueError(f"--pair {args.pair} --augs none: two equal views teach nothing")


def all_synthetic(args: Namespace) -> bool:
    """Whether no view of the run is of a real picture."""
    return args.pair == "synth-synth" or is_share(args, 1)


def is_share(args: Namespace, share: float) -> bool:
    """Whether the pairs are mixed and this share of the views is synthetic, in all epochs."""
    return args.pair == "mixed" and fraction(args.f or 0.5) == (share, share)


# ------------------------------------------------------------------ the generator's own, in --imle


def imle_options(args: Namespace, net: Mapping[str, Any] | None = None) -> Namespace:
    """--imle as TrainGeneratorWandB.py reads it, with this run's data, seed and workers.

    net: constructor arguments of a network that is there already; None: one is made.
    Errors: ValueError.
    """
    words = _without_loops(imle_words(args.imle))
    for word, name in named(words).items():
        if name in NOT_IMLE:
            raise ValueError(
                f"--imle: {word} has no influence there: leave it out. What this run has an option "
                "for is as that says; --joint and --imle_steps say how long the generator trains"
            )
    own = {
        "data_tr": args.data,
        "seed": args.seed,
        "num_iteration": args.imle_steps,
        "num_workers": args.num_workers,
        # samples are made from the first step on
        "base_loops": 0,
        "base_lpips_loops": 0,
    }
    if net is not None:  # a number a level
        own |= {name: list(net[name]) for name in ("res", "resid_nc", "dense_nc")}
    found = imle.get_args(None, words, own=own, fail=_refuse)
    if found.unconditional:
        raise ValueError("--imle --unconditional: views need a generator that takes a picture")
    return found


def _without_loops(words: Sequence[str]) -> list[str]:
    """Words with another preset for one whose base has loops of its own."""
    found: list[str] = []
    for word in words:
        _, equals, name = word.rpartition("=") if word.startswith("--preset=") else ("", "", word)
        if equals or found[-1:] == ["--preset"]:
            name = WITHOUT_LOOPS.get(name, name)
        found.append(f"--preset={name}" if equals else name)
    return found


def idle_options(text: str) -> list[str]:
    """The options in --imle that are as a --net has them."""
    return [word for word, name in named(imle_words(text)).items() if name in OF_THE_NET]


def imle_words(text: str) -> list[str]:
    """What is in the quotes, word by word. Errors: ValueError."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ValueError(f"--imle {text!r}: {error}") from None


def named(words: Sequence[str]) -> dict[str, str]:
    """Option as it is written, --no-compile or --lr=1 -> its name, compile or lr."""
    options = [word for word in words if word.startswith("--")]
    names = [dest(word.split("=")[0]).removeprefix("no_") for word in options]
    known = spellings(merged(imle.OPTIONS, run_table()))
    return {o: known.get(name, name) for o, name in zip(options, names, strict=True)}


def _refuse(message: str) -> NoReturn:
    raise ValueError(f"--imle: {message}")


def run_name(args: Namespace) -> str:
    """The run directory's readable part; a hash of the shaping options follows it."""
    return f"{simclr.run_name(args)}-{args.pair}"
