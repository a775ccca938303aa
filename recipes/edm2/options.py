"""What may be asked of train_edm2.py: presets, the option table, rules between options, the run's
name."""

import argparse
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from recipes import best_of, measuring, selection
from recipes.command import INIT_FROM, read_options
from recipes.words import image_count, period, period_steps
from runtime.options import EXECUTION, LENGTH, OTHER_WORD, USUAL, Rules, Table, also, tagged, was
from runtime.types import (
    at_once,
    blocks,
    classes,
    count,
    data_set,
    dir_path,
    levels,
    list_of,
    network,
    nonnegative_float,
    number,
    positive_float,
    positive_int,
    probability,
    short_name,
    side,
    text_called,
    wide,
)
from selection import METHODS, Picker

_IMG512 = {"data": "img512", "decay": 70000, "P_mean": -0.4, "P_std": 1.0}
_IMG64 = {"data": "img64", "decay": 35000, "P_mean": -0.8, "P_std": 1.6}
_TINY = {
    "data": "tinyImagenet", "duration": 167_618_560, "decay": 5463, "rampup": 0.780288,
    "P_mean": -0.4, "P_std": 1.0, "dropout": 0.0, "save_every": 1000, "snapshot": 500,
}  # fmt: skip
_CIFAR10 = {
    "data": "cifar10", "channels": 64, "lr": 0.017, "decay": 2731, "rampup": 0.38912,
    "P_mean": -0.4, "P_std": 1.0, "dropout": 0.0,
}  # fmt: skip

# Batches of 2048, but for the first two. edm2-img512 and edm2-img64 are EDM2's; the rest after them
# Autoguided's.
PRESETS = {
    "smoke": {
        "_help": "embedded scenes, CPU, seconds; takes the options of every mode",
        "data": "scenes", "res": 8, "channels": 8, "channel_mult": [1, 2], "num_blocks": 1,
        "attn_resolutions": [4], "channels_per_head": 8, "batch": 40, "batch_gpu": 16,
        "duration": 640, "rampup": 0.00008, "decay": 100, "dropout": 0.1, "n": 4, "snapshot": 8,
        "save_every": 8, "log_every": 4, "sample_images": 4, "sample_steps": 4,
        "wandb": "disabled", "num_workers": 0, "gpus": [],
    },
    "cpu-small": {
        "_help": "32 px, 1.25 M parameters, one's own pictures with or without classes: half an "
        "hour of two cores",
        "res": 32, "channels": 32, "channel_mult": [1, 2, 2], "num_blocks": 1,
        "channels_per_head": 32, "batch": 64, "duration": 160_000, "rampup": 0.02, "decay": 1000,
        "xflip": True, "ema_stds": [0.1], "snapshot": 500, "save_every": 250,
        "channels_last": True, "cache": "memory", "num_workers": 0,
    },
    "edm2-img512-xxs": {
        "_help": "EDM2-XXS on latents of ImageNet at 512 px",
        **_IMG512, "duration": "2048Mi", "channels": 64, "lr": 0.017,
    },
    "edm2-img512-xs": {
        "_help": "EDM2-XS on latents of ImageNet at 512 px",
        **_IMG512, "duration": "2048Mi", "channels": 128, "lr": 0.012,
    },
    "edm2-img512-s": {
        "_help": "EDM2-S on latents of ImageNet at 512 px",
        **_IMG512, "duration": "2048Mi", "channels": 192, "lr": 0.010,
    },
    "edm2-img512-m": {
        "_help": "EDM2-M on latents of ImageNet at 512 px",
        **_IMG512, "duration": "2048Mi", "channels": 256, "lr": 0.009, "dropout": .1,
    },
    "edm2-img512-l": {
        "_help": "EDM2-L on latents of ImageNet at 512 px",
        **_IMG512, "duration": "1792Mi", "channels": 320, "lr": 0.008, "dropout": .1,
    },
    "edm2-img512-xl": {
        "_help": "EDM2-XL on latents of ImageNet at 512 px",
        **_IMG512, "duration": "1280Mi", "channels": 384, "lr": .007, "dropout": .1,
    },
    "edm2-img512-xxl": {
        "_help": "EDM2-XXL on latents of ImageNet at 512 px",
        **_IMG512, "duration": "896Mi", "channels": 448, "lr": 0.0065, "dropout": 0.1,
    },
    "edm2-img64-xs": {
        "_help": "EDM2-XS on ImageNet at 64 px",
        **_IMG64, "duration": "1024Mi", "channels": 128, "lr": 0.012,
    },
    "edm2-img64-s": {
        "_help": "EDM2-S on ImageNet at 64 px",
        **_IMG64, "duration": "1024Mi", "channels": 192, "lr": 0.010,
    },
    "edm2-img64-m": {
        "_help": "EDM2-M on ImageNet at 64 px",
        **_IMG64, "duration": "2048Mi", "channels": 256, "lr": 0.009, "dropout": 0.1,
    },
    "edm2-img64-l": {
        "_help": "EDM2-L on ImageNet at 64 px",
        **_IMG64, "duration": "1024Mi", "channels": 320, "lr": 0.008, "dropout": 0.1,
    },
    "edm2-img64-xl": {
        "_help": "EDM2-XL on ImageNet at 64 px",
        **_IMG64, "duration": "640Mi", "channels": 384, "lr": 0.007, "dropout": 0.1,
    },
    "edm2-tiny-xxs": {
        "_help": "tiny ImageNet: Autoguided's weak guide",
        **_TINY, "channels": 64, "lr": 0.017,
    },
    "edm2-tiny-xs": {
        "_help": "tiny ImageNet: Autoguided's learner",
        **_TINY, "channels": 128, "lr": 0.012, "ref_channels": 64,
    },
    "edm2-cifar10-xxs": {
        "_help": "CIFAR-10: Autoguided's small network",
        **_CIFAR10, "duration": 83_808_256, "snapshot": 40,
    },
    "test-training": {
        "_help": "CIFAR-10, 20 steps on all of every batch",
        **_CIFAR10, "duration": 40_960, "save_every": 20, "snapshot": 40,
    },
    "test-random": {
        "_help": "CIFAR-10, 101 steps, each on a random fifth of its batch",
        **_CIFAR10, "duration": 40_960, "save_every": 20, "snapshot": 40, "selection": True,
    },
}  # fmt: skip

# Autoguided's names of data sets, most of which are called so here too.
DATASETS = ("img512", "img64", "cifar10", "tiny", "folder", "generated")


class DryRunAction(argparse.Action):
    """`-n` or `--dry-run`: a switch without a value."""

    def __init__(
        self, option_strings: Sequence[str], dest: str, default: bool = False, help: str = ""
    ) -> None:
        super().__init__(
            ["-n", *option_strings], dest, nargs=0, const=True, default=default, help=help
        )

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        setattr(namespace, self.dest, True)


class MethodAction(argparse.Action):
    """One of selection.METHODS, those that a script has added to it included."""

    def __init__(
        self, option_strings: Sequence[str], dest: str, default: str | None = None, help: str = ""
    ) -> None:
        super().__init__(option_strings, dest, choices=METHODS, default=default, help=help)

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        setattr(namespace, self.dest, values)


# fmt: off
OPTIONS: Table = {
    "data": [
        ("--data", data_set, "scenes", "NAME, NAME/SPLIT, a folder, a zip or an LMDB; pixels or "
         "latents (data/dataset_tool.py)", USUAL),
        ("--dataset", DATASETS, None, "name of --data; folder, generated: with --data PATH",
         EXECUTION, OTHER_WORD),
        ("--data_path", dir_path, None, "where data sets are stored (default: the data directory)",
         EXECUTION),
        ("--res", side, None, "resolution (default: the data's own; 64 for scenes)",
         USUAL),
        ("--crop", ("center", "squash"), "center", "how pictures that are not square become it",
         USUAL),
        ("--xflip", bool, False, "the data twice, once mirrored"),
        ("--cache", ("none", "memory"), "none", "keep decoded images in memory", EXECUTION),
        ("--cond", bool, None, "condition on the class (default: where the data has classes)",
         USUAL),
        ("--label_dim", classes, None, "width of the one-hot label (default: the classes)"),
    ],
    "what to train": [
        ("--channels", wide, 192, "channels at full resolution", USUAL),
        INIT_FROM,
        ("--dry-run", DryRunAction, False, "print the options and exit", EXECUTION),
    ],
    "length": [
        ("--duration", image_count, 2048 * 2**20, "images to train on, 128Ki, 8Mi ...; those only "
         "looked at do not count, so that --filt 0.8 takes five times the steps", EXECUTION, LENGTH,
          USUAL),
        ("--bs", at_once, 2048, "images of a step, over all GPUs: the super-batch", USUAL,
         was("--batch")),
        ("--bs_gpu", count(1 << 24, 0), 0, "images a GPU takes at once; 0: all of its share", USUAL,
         was("--batch-gpu")),
        ("--lr", positive_float, 0.01, "peak learning rate of Adam", USUAL),
    ],
    "validation": measuring.rows(),
    "output": [
        ("--snapshot_every", period, "4096", "steps between snapshots, or images: 128Ki, 8Mi; up "
         "to step 1000 four times as often", EXECUTION, USUAL, was("--snapshot")),
        ("--sample_images", count(10_000, 0), 16, "in the grid of every snapshot; 0: no grid",
         EXECUTION, USUAL),
        ("--sample_steps", levels, 18, "Heun steps", EXECUTION),
        ("--sample_guidance", positive_float, 2.0, "weight, with --guide", EXECUTION),
        ("--vae", text_called("DIR|NAME"), None, "latents: the VAE that decodes samples "
         "(default: none, and no grids)", EXECUTION),
        ("--suffix", short_name, None, "appended to the run's name"),
        ("--status", period, None, "--log_every, also in images as 128Ki, 8Mi", EXECUTION,
         OTHER_WORD),
        ("--checkpoint", period, None, "--save_every, also in images as 128Ki, 8Mi", EXECUTION,
         OTHER_WORD),
    ],
    "network": [
        ("--channel_mult", list_of(count(1024)), [1, 2, 3, 4], "channels of each resolution over "
         "--channels"),
        ("--num_blocks", blocks, 3, "blocks at each resolution"),
        ("--attn_resolutions", list_of(positive_int, empty_word="none"), [16, 8], "with attention"),
        ("--channels_per_head", wide, 64, "channels of an attention head"),
        ("--dropout", probability, 0.0, "probability of dropping an activation"),
        ("--fp16", bool, None, "True: --precision fp16, False: --precision fp32", EXECUTION,
         OTHER_WORD),
        ("--channels_last", bool, False, "memory format", EXECUTION),
        ("--bench", bool, True, "let cuDNN choose its algorithms by trying", EXECUTION),
    ],
    "loss and optimizer": [
        ("--P_mean", number(-20, 20), -0.4, "mean of ln(sigma)"),
        ("--P_std", positive_float, 1.0, "standard deviation of ln(sigma)"),
        ("--decay", nonnegative_float, 70000, "steps after which the learning rate decays; 0: it "
         "does not"),
        ("--rampup", nonnegative_float, 10.0, "millions of images of its linear ramp"),
        ("--ramp", ("continuous", "reference"), "continuous", "of a selection that begins or ends: "
         "reference jumps as Autoguided's"),
        ("--ls", positive_float, 1.0, "loss scaling"),
        ("--ema_stds", list_of(number(0, 0.288, lo_open=True), unique=True), [0.05, 0.1],
         "relative widths of the power-function EMAs"),
        *best_of.ROWS,
    ],
    "selection": [
        *selection.whether_rows(),
        ("--method", MethodAction, None, "choose by this method of selection/methods.py (default: "
         "at random, or by JEST with --acid)"),
        ("--guide", network, None, "snapshot of a weaker network: reference of AJEST, and guide "
         "of the sample grids (default: none; JEST's reference is then --ref or the EMA)", USUAL,
         was("--guide-path"), also("--gnet")),
        ("--ref", network, None, "snapshot of a stronger network: reference of JEST (default: "
         "none; it is the guide, or the EMA)", was("--ref-path")),
        *selection.how_rows(
            num_chunks=8,
            keep_all=False,
            unit="rows",
            scales="z-scores in the draw; mean: loss a pixel; raw: summed loss; autoguided: that "
            "times --ls over a GPU's batch, as the Autoguided code",
        ),
        ("--select_scope", ("global", "rank"), "global", "draw from the whole super-batch, or per "
         "GPU and round of --bs_gpu as Autoguided does"),
        ("--unpaired", bool, False, "another sigma and noise for the reference, as Autoguided"),
        ("--ref_channels", wide, None, "channels that the reference must have (default: "
         "any)"),
    ],
}
# fmt: on


def get_args(doc: str | None, argv: Sequence[str] | None = None) -> Namespace:
    """The options of train_edm2.py, those of EDM2 and of Autoguided under their names.

    doc: what --help begins with. Wrong options exit with code 2.
    """
    return read_options(doc, OPTIONS, PRESETS, check, argv, save_every=1024)


def check(args: Namespace) -> None:
    """Rules between options, and what follows from several. Errors: ValueError."""
    rules = Rules(args, OPTIONS, PRESETS)
    measuring.check(args, rules)
    if args.fp16 is not None:
        asked = "fp16" if args.fp16 else "fp32"
        if args.precision not in ("auto", asked):
            raise ValueError(f"--fp16 {args.fp16} and --precision {args.precision}: give one")
        args.precision = asked
    choose_data(args)
    if args.acid and args.method not in (None, "jest"):
        raise ValueError(f"--acid is --method jest, not {args.method}: give one")
    best_of.check(args, OPTIONS)
    selection.check(args, OPTIONS, PRESETS, method=args.method)
    args.acid = args.acid or args.method == "jest"
    if args.method == ("jest" if args.acid else "random"):
        args.method = None  # said twice: the run is the one that was asked for with one word
    selection.check_jest_options(args, OPTIONS, PRESETS)

    # What the learner is compared with: by the draw, and to see when the switch is due.
    needs_ref, switches = selection_picker(args).needs_ref, args.early or args.late
    if needs_ref:
        if args.guide_path and args.ref_path:
            raise ValueError(
                f"{rules.shown('guide_path')} and {rules.shown('ref_path')}: a selection that "
                "compares (--acid) has one reference"
            )
    if args.ref_path and not (needs_ref or switches):
        raise ValueError("--ref is for --acid, --early and --late; nothing here compares")
    if switches and not (needs_ref or args.guide_path or args.ref_path):
        raise ValueError("--early and --late of a random selection need a --guide or --ref")
    for name in ("ramp", "select_scope"):
        rules.belongs(name, "--selection", args.selection)
    rules.belongs("unpaired", "a comparison (--acid, --early, --late)", needs_ref or switches)
    rules.belongs("ref_channels", "--guide and --ref", bool(args.guide_path or args.ref_path))
    rules.belongs("sample_guidance", "--guide", bool(args.guide_path))
    rules.belongs("sample_steps", "--sample_images", args.sample_images > 0)
    rules.belongs("channels_per_head", "--attn_resolutions", bool(args.attn_resolutions))
    rules.belongs("label_dim", "--cond", args.cond is not False)
    if len({f"{std:.3f}" for std in args.ema_stds}) < len(args.ema_stds):
        raise ValueError(f"--ema_stds {args.ema_stds}: two are alike in names of snapshots")
    if args.status is not None:
        args.log_every = period_steps(args.status, args.batch)
    if args.checkpoint is not None:
        args.save_every = period_steps(args.checkpoint, args.batch)
    check_shares(args, max(1, len(args.gpus or [])))


def choose_data(args: Namespace) -> None:
    """--data from --dataset, which goes over a preset's; --res of scenes. Errors: ValueError."""
    given = args.data != PRESETS.get(args.preset or "", {}).get("data", "scenes")
    if args.dataset in ("folder", "generated") and not given:
        raise ValueError(f"--dataset {args.dataset}: give its folder, --data PATH")
    if args.dataset is not None and not given:
        args.data = "tinyImagenet" if args.dataset == "tiny" else args.dataset
    if args.res is None and args.data.split("/")[0] == "scenes":
        args.res = 64


def check_shares(args: Namespace, ranks: int) -> None:
    """That the batch can be shared by so many processes. Errors: ValueError."""
    share, rest = divmod(args.batch, ranks)
    if rest:
        raise ValueError(f"--bs {args.batch} cannot be shared by {ranks} GPUs")
    if args.select_scope == "rank" and args.selection and share % (args.batch_gpu or share):
        raise ValueError(
            f"--bs_gpu {args.batch_gpu} does not divide a GPU's {share} images, which "
            "--select_scope rank draws from one part at a time"
        )
    mini_batch(args, ranks)


def method_name(args: Namespace) -> str:
    """Of the selection, if there is one: a key of selection.METHODS."""
    return args.method or ("jest" if args.acid else "random")


def selection_picker(args: Namespace, ranks: int = 1, values: int | None = None) -> Picker:
    """The draw, on so many ranks, from losses that are sums over `values` of an image."""
    return selection.picker(
        args,
        method_name(args),
        values=values,
        loss_scaling=args.ls,
        batch_gpu_total=args.batch // ranks,
    )


def mini_batch(args: Namespace, ranks: int) -> int:
    """Images that a selecting step trains on, over all ranks; of a run without selection: all.

    Errors: ValueError where a selection leaves none.
    """
    if not args.selection:
        return args.batch
    pool, draws = args.batch, 1
    if args.select_scope == "rank":
        pool = min(args.batch_gpu or args.batch, args.batch // ranks)
        draws = args.batch // pool
    return draws * selection_picker(args).size(pool)


def execution_options(args: Namespace) -> tuple[str, ...]:
    """Names of options that do not change what the run computes."""
    names = tagged(OPTIONS, EXECUTION)
    # Drawn from one part at a time, the selection depends on how large a part is.
    return names if args.select_scope == "rank" else (*names, "batch_gpu")


def snapshot_period(args: Namespace, step: int) -> int:
    """Steps between snapshots; four times as many while training changes fastest."""
    whole = period_steps(args.snapshot, args.batch)
    return max(1, whole // 4) if step <= 1000 else whole


def run_name(args: Namespace) -> str:
    """The run directory's readable part; a hash of the shaping options follows it."""
    mode = "baseline"
    if args.selection:
        mode = "ajest" if args.acid and args.guide_path else method_name(args)
        mode = ("early-" if args.early else "late-" if args.late else "") + mode
    parts = ["edm2", Path(args.data).stem, f"c{args.channels}", mode, args.suffix]
    return "-".join(part for part in parts if part)
