"""What may be asked of TrainGeneratorWandB.py: presets, options, which go together, run names."""

import math
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from imle import default_channels
from imle.rejection import parse as rejection_of
from imle.settings import check_context
from recipes import measuring
from recipes.command import INIT_FROM, read_options
from recipes.imle.perceptual import weights_file
from runtime.options import ADDED, EXECUTION, LENGTH, NO_EFFECT, USUAL, Rules, Table, tagged, was
from runtime.types import (
    at_once,
    count,
    data_set,
    dir_path,
    file_path,
    integer,
    list_of,
    many,
    nonnegative_float,
    nonnegative_int,
    number,
    one_of,
    positive_float,
    positive_int,
    probability,
    short_name,
    side,
    text_called,
    wandb_id,
    wide,
)

# What our networks have beyond the originals': docs/imle.md, "What the input says".
_OURS = {"base": "input", "consistency": "project", "padding": "reflect", "norm": "none"}

_CPU_SMALL = {
    **_OURS,
    "data_tr": "scenes", "resid_nc": [48, 32], "dense_nc": [24, 16],
    "n_blocks": 1, "map_nc": 64, "latent_nc": 128, "bs": 8, "mini_bs": 8, "ns": [4, 2],
    "sp": [4, 2], "code_bs": 16, "cells": [4], "local_ns": [2], "subsample_size": 256,
    "num_iteration": 128, "outer_loops": 7, "alpha": 1.0, "lr": 1.5e-3, "lpips": "auto",
    "cache_targets": True, "num_val_images": 20, "num_workers": 0, "cache": "memory",
}  # fmt: skip

PRESETS = {
    "smoke": {
        "_help": "embedded scenes, CPU, a minute",
        **_OURS,
        "data_tr": "scenes", "res": [8, 16, 32], "resid_nc": [16, 16], "dense_nc": [8, 8],
        "n_blocks": 1, "map_nc": 16, "latent_nc": 64, "bs": 8, "ns": [4], "sp": [4], "code_bs": 8,
        "cells": [4], "local_ns": [2],
        "subsample_size": 32, "num_iteration": 24, "outer_loops": 3, "alpha": 1.0, "lr": 3e-3,
        "warmup": 16, "num_val_images": 6, "spi": 4, "lpips": "random",
        "cache_targets": True,
        "wandb": "disabled", "num_workers": 0, "gpus": [],
    },
    "cpu-quick": {
        "_help": "x4 super-resolution 16 -> 64 of one's own pictures, 20 minutes of two cores, 10 "
        "in bf16",
        **_CPU_SMALL, "res": [16, 32, 64],
    },
    "cpu-small": {
        "_help": "the same with nearer samples, 35 minutes of two cores in bf16",
        # What follows from the input is learnt first and costs little: most of the time goes into
        # that, and samples differ around it by what eight candidates a cell leave to choose.
        **_CPU_SMALL, "res": [16, 32, 64], "base": "learned", "base_nc": 64, "base_blocks": 12,
        "base_loops": 3, "base_lpips_loops": 17, "base_opt": "muon", "num_iteration": 192,
        "outer_loops": 9, "local_ns": [8], "sp": [9], "rescore": 0, "code_gain": 0.5, "lr": 1e-3,
    },
    "cpu-small-color": {
        "_help": "colorization, grey 32 -> colours at 64, a quarter of an hour of two cores",
        # What an object is has to be recognised: a U-Net learns that first, and stays as it is, as
        # samples would spoil it. Cells make patches of orange and blue that belong to no object.
        **_CPU_SMALL, "res": [32, 32, 64], "grayscale": 1, "base": "learned", "base_nc": 32,
        "base_blocks": 1, "base_context": 3, "base_loops": 20, "freeze_base": True, "cells": [0],
        "ns": [8, 1], "sp": [8, 1], "subsample_size": 512, "outer_loops": 2, "lr": 1e-3,
    },
    "cpu-small-mask": {
        "_help": "inpainting 32 -> 64, a quarter of the cells masked, 20 minutes of two cores",
        **_CPU_SMALL, "res": [32, 32, 64], "mask_frac": 0.25, "cells": [0], "ns": [8, 4],
        "sp": [8, 4], "outer_loops": 6,
    },
    "camnet-sr16": {
        "_help": "CAM-Net x16 super-resolution 16 -> 256 (widths and ns of the paper's code; with "
        "base, projection and cells, not yet run at full size)",
        **_OURS, "cells": [8], "local_ns": [20],
        "data_tr": "camnet3", "res": [16, 32, 64, 128, 256], "bs": 8, "ns": [120], "sp": [20],
        "code_bs": 4, "subsample_size": 400, "num_iteration": 1000,
    },
    "camnet-color": {
        "_help": "colorization at 128 (not yet run at full size)",
        **_OURS, "cells": [8], "local_ns": [20],
        "data_tr": "camnet3", "res": [64, 64, 64, 64, 128], "grayscale": 1.0, "bs": 8, "ns": [120],
        "sp": [20], "code_bs": 4, "subsample_size": 400, "num_iteration": 1000,
    },
    "camnet-mask": {
        "_help": "inpainting at 128, a quarter of the cells masked (not yet run at full size)",
        **_OURS, "cells": [8], "local_ns": [20],
        "data_tr": "camnet3", "res": [64, 64, 64, 64, 128], "mask_frac": 0.25, "bs": 8,
        "ns": [120], "sp": [20], "code_bs": 4, "subsample_size": 400, "num_iteration": 1000,
    },
    "uncond-small": {
        "_help": "unconditional at 32 with mixture noise, half an hour of two cores",
        "data_tr": "mnist", "unconditional": True, "res": [32], "sample_method": "mixture",
        "map_nc": 64, "latent_nc": 128, "max_nc": 64, "bs": 64, "mini_bs": 64, "lpips": "none",
        "subsample_size": 1024, "pool_size": 4096, "num_iteration": 64, "outer_loops": 30,
        "code_bs": 64, "lr": 2e-3, "mapping_lr_mult": 1.0, "warmup": 50, "flip": 0.0,
        "num_workers": 0, "cache": "memory",
    },
}  # fmt: skip

# Tags. Of a CAM-Net as it is built, of its codes, of what is taken from its inputs: a trained
# network brings these along.
NETWORK, CODES, CORRUPTION = "network", "codes", "corruption"
# Of a generator that is trained alone: its data, its length, its validation, its names. Where
# another script trains one on the way, that script has options of its own for them.
OUTER = "outer"

# Of a CAM-Net and of its search alone: of one that is said to be otherwise than by default, and of
# those sizes of it that any command line may carry.
OF_CASCADE = (
    "color_space", "lab_range", "init", "init_type", "init_scale", "mapping_init", "code_gain",
    "base", "base_nc", "base_blocks", "base_context", "base_loops",
    "base_lpips_loops", "base_opt", "muon_lr", "freeze_base",
    "consistency", "padding", "norm", "mapping", "search_precision", "rescore",
    "cells", "rejection_levels", "rejection_empty",
)  # fmt: skip
SIZES_OF_CASCADE = ("ns", "sp", "code_nc", "resid_nc", "dense_nc", "n_blocks")
LAYERS = 5  # of VGG16 whose features are compared

# fmt: off
OPTIONS: Table = {
    "data": [
        ("--data", data_set, None, "what to train on: NAME, NAME/SPLIT, a folder, a zip or an LMDB "
         "(required, unless a preset names it; scenes are built in)", OUTER, USUAL,
         was("--data_tr")),
        ("--data_val", data_set, None, "the same, to validate on; cv: a part of --data, held out "
         "(default: the val split of --data, else cv)", OUTER, USUAL),
        ("--data_path", dir_path, None, "where data sets are stored (default: the data directory)",
         OUTER, EXECUTION),
        ("--cv_frac", probability, 0.1, "slice of the train images that cv holds out", OUTER),
        ("--res", list_of(side), [64, 64, 64, 64, 128], "resolutions of the input and of each "
         "level; each equals or doubles the last", NETWORK, USUAL),
        ("--crop", ("squash", "center"), "squash", "how pictures that are not square become it",
         OUTER, USUAL),
        ("--flip", probability, 0.5, "probability of a horizontal flip"),
        ("--cache", ("none", "memory"), "none", "keep decoded images in memory", OUTER, EXECUTION),
    ],
    "what to train": [
        ("--grayscale", one_of(0, 0.5, 1), 0, "of the input; 1: grey; 0.5: two random channels "
         "averaged; 0: off", CORRUPTION, USUAL),
        ("--mask_frac", probability, 0.0, "fraction of the input's cells masked", CORRUPTION,
         USUAL),
        ("--mask_res", side, 8, "cells along a side of the masking grid", CORRUPTION),
        ("--fill", ("color", "zero"), "zero", "what masked cells show", CORRUPTION),
        ("--unconditional", bool, False, "no input: a StyleGAN-like generator at the last --res",
         USUAL),
        (*INIT_FROM, OUTER),
        ("--lpips", ("pretrained", "random", "none", "auto"), "pretrained", "random: a seeded "
         "random VGG16, figures are then called lpips_random; none: pixel MSE alone (unconditional "
         "only); auto: pretrained if its weights are there, else random", USUAL),
    ],
    "length": [
        ("--outer_loops", positive_int, 20, "times to search codes and train on them", OUTER,
         LENGTH, USUAL),
        ("--num_iteration", positive_int, 1, "optimizer steps in an outer loop", OUTER, USUAL),
        ("--subsample_size", integer(1, 10**7), None, "images in an outer loop (default: all)",
         USUAL),
        ("--bs", integer(1, 10**6), 512, "images an optimizer step, all GPUs together", USUAL),
        ("--bs_gpu", count(10**6), 8, "images a GPU takes at once; gradients add up to --bs",
         USUAL, was("--mini_bs")),
        ("--base_loops", integer(0, 10**6), 0, "loops before --outer_loops that train --base "
         "learned alone, by regression", OUTER, ADDED),
        ("--base_bs", count(10**6), 32, "images an optimizer step of these, all GPUs together, "
         "each its share at once", OUTER, ADDED),
        ("--base_lpips_loops", integer(0, 10**6), 0, "loops behind --base_loops that train "
         "--base learned alone, by the loss of samples, --bs images a step", OUTER, ADDED),
        ("--base_opt", ("adamw", "muon"), "adamw", "what --base_loops and --base_lpips_loops train "
         "the hidden convolutions of --base learned by", OUTER, ADDED),
        ("--muon_lr", positive_float, 0.015, "peak learning rate of --base_opt muon; that of all "
         "other weights is --lr", OUTER, ADDED),
        ("--freeze_base", bool, False, "the learnt base stays as its loops or --init_from left it, "
         "instead of learning from samples too", OUTER, ADDED),
        ("--lr", positive_float, 1e-4, "peak learning rate of AdamW", USUAL),
        ("--chunk_epochs", one_of(0, 1), 0, "1: stop after one loop, of a base too (job arrays)",
         OUTER, EXECUTION),
    ],
    "validation": [
        ("--num_val_images", many, 10, "validation images, evenly spaced", OUTER, USUAL),
        ("--samples", count(10_000), 6, "samples per validation image, showing the model's "
         "diversity", OUTER, EXECUTION, USUAL, was("--spi")),
        *measuring.rows(OUTER),
    ],
    "output": [
        ("--snapshot_every", nonnegative_int, 0, "loops between snapshots kept beside the latest",
         OUTER, EXECUTION),
        ("--suffix", short_name, None, "appended to the run's name", OUTER),
        ("--job_id", short_name, None, "SLURM job id; stands in the run's name, instead of --uid",
         OUTER, EXECUTION),
        ("--uid", wandb_id, None, "the run's id in W&B: goes on with the run that has it, or "
         "begins one, in whose name it stands (default: a new one)", OUTER, EXECUTION),
    ],
    "search for codes": [
        ("--ns", list_of(integer(1, 10**6)), [128], "candidate codes an image, one number or one a"
         " level", USUAL),
        ("--sp", list_of(at_once), [128], "candidates evaluated in parallel, one number or one a "
         "level",
         EXECUTION),
        ("--code_bs", count(10**6), 2, "images a GPU searches in parallel", EXECUTION),
        ("--cells", list_of(integer(0, 1024)), None, "cells along a side of a grid: each takes the "
         "spatial noise of the candidate that is best there, in a second search behind that of "
         "--ns; one number or one a level; 0: whole pictures only (default: 0)", USUAL),
        ("--local_ns", list_of(integer(1, 10**6)), None, "candidate codes of that second search, "
         "one number or one a level (default: as --ns)"),
        ("--rejection", text_called("FLOAT|TEXT"), None, "candidates are rejected whose loss is "
         "below this, and the nearest of the others is chosen (RS-IMLE); q0.1: below the "
         "0.1-quantile of the first loop's winners; 0: none (default: 0)"),
        ("--rejection_levels", ("last", "all"), "last", "where candidates are rejected", ADDED),
        ("--rejection_empty", ("skip", "keep"), "skip", "pictures all of whose candidates are: are "
         "left out of the loop; or keep the farthest", ADDED),
        ("--adaptive", bool, False, "search a picture again when it is solved or its code is old, "
         "and keep the code until then (Adaptive IMLE)", ADDED),
        ("--adaptive_gamma", number(0, 1, hi_open=True), 0.04, "solved: its loss is so much, as a "
         "fraction, below what it was when its code was chosen", ADDED),
        ("--adaptive_staleness", positive_int, None, "loops with a picture for which it keeps its "
         "code at least (default: 7, or as --adaptive_force if that is less)"),
        ("--adaptive_force", positive_int, 30, "and at most; 1: always search", ADDED),
        ("--adaptive_compat", bool, False, "solved: measured by the code before, as the code "
         "release has it", ADDED),
        ("--sample_method", ("normal", "mixture"), "normal", "distribution of the codes", CODES),
        ("--num_components", count(1 << 16), 5, "components of the mixture", CODES),
        ("--proj_dim", integer(0, 10**5), 0, "search in LPIPS features projected to so many "
         "dimensions (1000 in the CIMLE refactoring, to no effect); 0: search in the loss "
         "itself, unconditional: in the pixel MSE", OUTER),
        ("--search_precision", ("auto", "fp32", "bf16"), "auto", "bf16: losses in bf16, those "
         "of the best few again in fp32; auto: on GPUs that have bf16"),
        ("--rescore", integer(0, 10**6), 4, "how many are the best few; 0: bf16 alone decides, for "
         "searches of few candidates"),
        ("--pool_size", integer(1, 10**8), 4096, "unconditional: samples all images choose from",
         OUTER),
    ],
    "network": [
        ("--code_nc", wide, 5, "spatial noise channels of a code", NETWORK),
        ("--in_nc", wide, 3, "input channels, always three", NETWORK),
        ("--out_nc", wide, 3, "output channels, equal to --in_nc", NETWORK),
        ("--map_nc", wide, 128, "entries of a code that go through the mapping net",
         NETWORK),
        ("--latent_nc", wide, 512, "width of the mapping net", NETWORK),
        ("--resid_nc", list_of(wide), [128, 64, 64, 64], "residual channels of each level",
         NETWORK),
        ("--dense_nc", list_of(wide), [256, 192, 128, 64], "dense channels of each level", NETWORK),
        ("--n_blocks", count(256), 6, "RRDB blocks in a level", NETWORK),
        ("--max_nc", wide, 128, "unconditional: channels of the coarse resolutions", OUTER),
        ("--act_type", ("leakyrelu",), "leakyrelu", "activation", NETWORK),
        ("--init_type", ("kaiming", "normal"), "kaiming", "distribution of the initial weights",
         NETWORK),
        ("--init_scale", positive_float, 0.1, "scale of the initial weights", NETWORK),
        ("--init", ("default", "reference"), "default", "reference: what the CIMLE refactoring "
         "really started from, with --base none; --init_type and --init_scale have no effect on "
         "convolutions then",
         NETWORK),
        ("--mapping_init", ("default", "reference"), "default", "reference: styles start at 1e-9",
         NETWORK),
        ("--code_gain", positive_float, 0.3, "scale of codes in the initial network", NETWORK,
         ADDED),
        ("--base", ("none", "input", "learned"), "none", "input: a level's output is added to the "
         "enlarged input, masked cells filled in; learned: also to what a small network makes of "
         "the input alone; none: it is the picture", NETWORK, ADDED),
        ("--base_nc", wide, 64, "channels of that small network", NETWORK, ADDED),
        ("--base_blocks", count(256), 8, "and its residual blocks, at each of its resolutions on "
         "either way", NETWORK, ADDED),
        ("--base_context", integer(0, 16), 0, "and how many times it halves the input on the way "
         "down of a U-Net, to see more of it, as colours need; 1 block is enough then", NETWORK,
         ADDED),
        ("--consistency", ("none", "project"), "none", "project: pictures agree with their input "
         "exactly, when reduced and corrupted again", NETWORK, ADDED),
        ("--padding", ("zeros", "reflect", "replicate"), "zeros", "how pictures go on beyond their "
         "border, for convolutions", NETWORK, ADDED),
        ("--mapping", ("independent", "hierarchical"), "independent", "hierarchical: the mapping "
         "net of a level sees what those before it gave (CHIMLE)", NETWORK, ADDED),
        ("--norm", ("instance", "none"), "instance", "of features where a style acts on them; none "
         "keeps flat areas free of ripples", NETWORK, ADDED),
        ("--color_space", ("rgb", "lab"), "rgb", "colours inside the network", NETWORK),
        ("--lab_range", ("correct", "reference"), "correct", "correct: a and b are signed",
         NETWORK),
        ("--channels_last", bool, True, "memory format"),
    ],
    "loss and optimizer": [
        ("--alpha", nonnegative_float, 0.1, "weight of the pixel MSE beside LPIPS"),
        ("--lpips_path", file_path, None, "VGG16 weights (default: from SetupDataset.py "
         "fetch-weights)",
         EXECUTION),
        ("--lpips_weighting", ("lpips", "reference"), "lpips", "reference: layers as the "
         "CIMLE refactoring weighs them"),
        ("--cache_targets", bool, False, "keep the features of a loop's targets, 2.5 MB a picture "
         "of 64 pixels, 43 MB of 256, instead of making them in every batch", OUTER, ADDED),
        ("--lr_schedule", ("cosine", "constant", "reference"), "cosine", "reference: a cosine to "
         "1e-4, without warm-up, as the CIMLE refactoring; at --lr 1e-4 that is constant"),
        ("--keep_schedule", bool, False, "when a run goes on under other --outer_loops: leave the "
         "learning rate as it was over the former, instead of over the new one", OUTER, EXECUTION),
        ("--warmup", nonnegative_int, 100, "steps of linear warm-up, of a base's loops and of "
         "samples each"),
        ("--mapping_lr_mult", positive_float, 0.01, "learning rate of the mapping net over --lr"),
        ("--weight_decay", nonnegative_float, 1e-4, "AdamW's and Muon's"),
        ("--grad_clip", nonnegative_float, 0.0, "largest gradient norm; 0: no limit"),
        ("--ema_std", number(0, 0.28), 0.05, "relative width of the power-function EMA; 0: no EMA"),
    ],
    "for old command lines": [
        ("--epochs", positive_int, 20, "as in the CIMLE refactoring: see --outer_loops", OUTER,
         EXECUTION, NO_EFFECT),
        ("--ipc", positive_int, 10240, "but a multiple of --bs_gpu: see --num_iteration",
         EXECUTION, NO_EFFECT),
    ],
}
# fmt: on


def get_args(
    doc: str | None,
    argv: Sequence[str] | None = None,
    *,
    own: Mapping[str, Any] | None = None,
    fail: Callable[[str], NoReturn] | None = None,
) -> Namespace:
    """The options, checked. doc: what --help begins with. fail: see `recipes.command`.

    own: values, by option, that a script which trains a generator on the way has for it itself.
    Errors: whatever `fail` raises; by default SystemExit(2) after one line on stderr.
    """

    def complete(args: Namespace) -> None:
        vars(args).update(own or {})
        check(args)

    return read_options(doc, OPTIONS, PRESETS, complete, argv, fail=fail)


def check(args: Namespace) -> None:
    """Rules between options; numbers of the search become one a level. Errors: ValueError."""
    if args.data_tr is None:
        raise ValueError("--data is missing: a data set's name or a folder (built in: scenes)")
    measuring.check(args, Rules(args, OPTIONS, PRESETS))
    own_weights = args.lpips in ("pretrained", "auto")
    Rules(args, OPTIONS).belongs("lpips_path", "--lpips pretrained", own_weights)
    if args.lpips == "auto":
        args.lpips = "pretrained" if weights_file(args.lpips_path).is_file() else "random"
    if args.ipc % args.mini_bs:
        raise ValueError(f"--ipc {args.ipc} is not a multiple of --bs_gpu {args.mini_bs}")
    ranks = max(1, len(args.gpus or []))
    for name in ("bs", "base_bs") if args.base_loops else ("bs",):
        if (shared := getattr(args, name)) % ranks:
            raise ValueError(
                f"--{name} {shared} cannot be shared by {ranks} GPUs: take a multiple of it"
            )
    if 0 < args.ema_std < 1e-3:
        raise ValueError(f"--ema_std {args.ema_std}: 0 for no EMA, else at least 0.001")
    if (args.adaptive_staleness or 1) > args.adaptive_force:
        raise ValueError(
            f"--adaptive_staleness {args.adaptive_staleness} exceeds --adaptive_force "
            f"{args.adaptive_force}: it is to be at most that"
        )
    if args.rejection is not None:
        try:
            radius = rejection_of(args.rejection)[0]
        except ValueError as error:
            raise ValueError(f"--rejection {error}") from None
        if radius == 0:
            args.rejection = None  # in the names of runs too, whether 0 is typed or not
    preset_cells = not Rules(args, OPTIONS, PRESETS).typed("cells")
    if not any(args.cells or []) or (args.proj_dim and preset_cells):
        args.cells = None  # in the names of runs too, whether 0 is typed or not
    if args.sample_method == "mixture" and args.num_components < 2:
        raise ValueError(f"--num_components {args.num_components}: a mixture has at least two")
    if 0 < args.proj_dim < LAYERS:
        raise ValueError(
            f"--proj_dim {args.proj_dim}: 0, or at least one for each of {LAYERS} layers"
        )
    if args.unconditional:
        _check_unconditional(args)
    else:
        _check_cascade(args)
    _check_effects(args)
    if args.unconditional:
        args.cells = args.local_ns = None  # where a preset has them
    if args.unconditional or args.base != "learned":  # likewise
        args.base_loops = args.base_lpips_loops = args.base_context = 0
    if not args.base_loops + args.base_lpips_loops:
        args.base_opt = "adamw"
    if not _is_taught(args):
        args.freeze_base = False
    try:
        check_context(args.res[0], args.base_context, args.padding)
    except ValueError as error:
        raise ValueError(f"--{error}: give another one, or other --res") from None


def _is_taught(args: Namespace) -> bool:
    """Whether there is a learnt base that knows something before samples are made."""
    loops = args.base_loops + args.base_lpips_loops
    started = loops > 0 or getattr(args, "init_from", None) is not None
    return args.base == "learned" and not args.unconditional and started


def _check_effects(args: Namespace) -> None:
    """What has no effect beside the other options is refused."""
    rules = Rules(args, OPTIONS, PRESETS)
    for name in tagged(OPTIONS, CORRUPTION):
        rules.excludes("unconditional", name, why="there is no input to take anything from")
    cascade = "a generator with an input, not of --unconditional"
    for name in OF_CASCADE:
        rules.belongs(name, cascade, not args.unconditional)
    for name in ("pool_size", "max_nc"):
        rules.belongs(name, "--unconditional", args.unconditional)
    for name in ("mask_res", "fill"):
        rules.belongs(name, "--mask_frac", args.mask_frac > 0)
    initial = "--init default or --mapping_init reference"
    drawn = args.init == "default" or args.mapping_init == "reference"
    for name in ("init_type", "init_scale"):
        rules.belongs(name, initial, drawn)
    taken = args.init == "default" or args.mapping_init == "default"
    rules.belongs("code_gain", "--init default or --mapping_init default", taken)
    rules.belongs("local_ns", "--cells", bool(args.cells))
    learnt = ("base_nc", "base_blocks", "base_context", "base_loops", "base_lpips_loops")
    for name in (*learnt, "freeze_base"):
        rules.belongs(name, "--base learned", args.base == "learned")
    alone = args.base == "learned" and not args.unconditional  # a base may have loops of its own
    rules.belongs("base_bs", "--base_loops", alone and args.base_loops > 0)
    loops = alone and args.base_loops + args.base_lpips_loops > 0
    rules.belongs("base_opt", "--base_loops or --base_lpips_loops", loops)
    by_muon = loops and args.base_opt == "muon"
    rules.belongs("muon_lr", "--base_opt muon and loops of a base", by_muon)
    if by_muon and not 0 < args.muon_lr / args.lr < math.inf:
        raise ValueError(
            f"--muon_lr {args.muon_lr:g} and --lr {args.lr:g} are too far apart: their ratio is no "
            "number"
        )
    taught = "--base_loops, --base_lpips_loops or --init_from"
    rules.belongs("freeze_base", taught, _is_taught(args))
    several = "a generator of several levels"
    for name in ("mapping", "rejection_levels"):
        rules.belongs(name, several, len(args.res) > 2)
    for name in ("rejection_levels", "rejection_empty"):
        rules.belongs(name, "--rejection", args.rejection is not None)
    for name in ("adaptive_gamma", "adaptive_staleness", "adaptive_force", "adaptive_compat"):
        rules.belongs(name, "--adaptive", args.adaptive)
    rules.belongs("lab_range", "--color_space lab", args.color_space == "lab")
    rules.belongs("num_components", "--sample_method mixture", args.sample_method == "mixture")
    rules.belongs("rescore", "a search in bf16", args.search_precision != "fp32")
    for name in ("alpha", "lpips_weighting", "cache_targets"):
        rules.belongs(name, "LPIPS, not of --lpips none", args.lpips != "none")


def idle(args: Namespace) -> str | None:
    """A line that names what was typed to no effect and is no contradiction; None: nothing was.

    Such are sizes of a CAM-Net and of its search beside --unconditional, which command lines carry
    along from a run with an input.
    """
    rules = Rules(args, OPTIONS, PRESETS)
    names = list(SIZES_OF_CASCADE) if args.unconditional else []
    names += ["warmup"] if args.lr_schedule == "reference" else []
    words = [rules.shown(name) for name in names if rules.typed(name)]
    return f"of no effect here: {', '.join(words)}" if words else None


def _check_unconditional(args: Namespace) -> None:
    try:
        default_channels(args.res[-1])
    except ValueError as error:
        raise ValueError(f"--res {args.res[-1]}: {error}") from None
    if args.lpips == "none" and args.proj_dim:
        raise ValueError(f"--proj_dim {args.proj_dim}: --lpips none has no features to project")
    if args.lpips != "none" and args.res[-1] < 16:
        raise ValueError(f"--res {args.res[-1]} is too small for VGG16 (16): take --lpips none")


def _check_cascade(args: Namespace) -> None:
    if args.lpips == "none":
        raise ValueError("--lpips none is for --unconditional: CAM-Net is trained by LPIPS + MSE")
    levels = len(args.res) - 1
    if levels < 1:
        raise ValueError(f"--res {args.res[0]}: give the input's and an output's resolution")
    for low, high in zip(args.res, args.res[1:], strict=False):
        if high not in (low, 2 * low):
            raise ValueError(f"--res: {high} after {low}; each must equal or double the one before")
    if args.res[1] < 16:
        raise ValueError(f"--res: the first output, {args.res[1]}, is too small for VGG16 (16)")
    if args.mask_frac and args.mask_res > args.res[0]:
        raise ValueError(f"--mask_res {args.mask_res} is finer than inputs of {args.res[0]} pixels")
    for name in ("ns", "sp", *(("cells", "local_ns") if args.cells else ())):
        values = getattr(args, name)
        if values is None:  # --local_ns as --ns
            continue
        if len(values) not in (1, levels):
            raise ValueError(f"--{name} has {len(values)} values, --res {levels} levels: 1 or that")
        setattr(args, name, values * levels if len(values) == 1 else values)
    if args.cells and args.proj_dim:
        raise ValueError(
            f"--proj_dim {args.proj_dim}: projected features are of whole pictures; give --cells 0"
        )
    for name in ("resid_nc", "dense_nc"):
        if len(getattr(args, name)) < levels:
            raise ValueError(f"--{name} {getattr(args, name)}: --res asks for {levels} numbers")
    if args.init == "reference" and args.base != "none":
        if Rules(args, OPTIONS, PRESETS).typed("base"):
            raise ValueError(
                f"--base {args.base} and --init reference exclude each other: the CIMLE "
                "refactoring's networks add their output to nothing"
            )
        args.base = "none"  # a preset has it otherwise
    if args.base != "none" and (args.color_space, args.lab_range) == ("lab", "reference"):
        if Rules(args, OPTIONS, PRESETS).typed("base"):
            raise ValueError(
                f"--base {args.base} needs --lab_range correct: reference has a and b of two scales"
            )
        args.base = "none"  # a preset has it otherwise
    if args.in_nc != 3 or args.out_nc != 3:
        raise ValueError(f"--in_nc {args.in_nc} --out_nc {args.out_nc}: images have 3 channels")


def run_name(args: Namespace) -> str:
    """The run directory's readable part; a hash of the shaping options follows it."""
    parts = ["uncond" if args.unconditional else "camnet", data_name(args.data_tr)]
    parts += ["x".join(map(str, args.res)), args.job_id or args.uid, args.suffix]
    return "-".join(part for part in parts if part)


def display_name(args: Namespace) -> str:
    """What W&B shows: the run's name as the CIMLE refactoring composes it."""
    ns, res = ("_".join(map(str, v)) for v in (args.ns, args.res))
    name = (
        f"{data_name(args.data_tr)}-bs{args.bs}-OuterLoops{args.outer_loops}"
        f"-grayscale{args.grayscale}-ipc{args.ipc}-lr{args.lr:.2e}-ns{ns}-res{res}-seed{args.seed}"
    )
    return "-".join(part for part in (name, args.job_id or args.uid, args.suffix) if part)


def data_name(spec: str) -> str:
    """`camnet3/train`, `some/where/camnet3` -> camnet3."""
    parts = [part for part in Path(spec).parts if part not in ("train", "val", "test", "/")]
    return Path(parts[-1]).stem if parts else "data"
