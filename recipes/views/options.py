"""What may be asked of generate_views.py; TrainISICLE.py shares how a generator draws views."""

import argparse
from typing import Any

from data.views.writing import FORMATS
from generators.imle import CODES, CONSISTENCY
from runtime.cli import parse
from runtime.options import (
    EXECUTION,
    USUAL,
    Rules,
    Table,
    add_options,
    add_preset,
    also,
    tagged,
    was,
)
from runtime.types import (
    GpuList,
    at_once,
    count,
    data_set,
    dir_path,
    file_path,
    first_number,
    nonnegative_float,
    nonnegative_int,
    one_of,
    positive_float,
    probability,
    sets,
    side,
    text_called,
)

PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {
        "_help": "embedded scenes, CPU, an untrained generator unless --net is given",
        "data": "scenes", "num_images": 6, "views": 3, "view_batch": 8, "gpus": [],
    },
}  # fmt: skip

# Tags of rows: what the generator's input loses; the distances between which views are accepted.
CORRUPTION, FILTER = "corruption", "filter"
# How views are drawn, not what they show: a preset may set these for a run that draws none.
DRAWING = "drawing"

# fmt: off
_NET = ("--net", text_called("FILE|DIR"), None)
_ITS_HELP = "the generator: a .safetensors file of a run's snapshots folder, or the run's folder"
GENERATOR: Table = {
    "views from a generator": [
        (*_NET, f"{_ITS_HELP} (default: none)", USUAL, also("--snapshot")),
        ("--view_source", ("generated", "upsampled"), "generated", "upsampled: the generator's "
         "input, enlarged (a control)"),
        ("--code", CODES, "random", "fixed: one code for all pictures and draws (a control)"),
        ("--temperature", nonnegative_float, 1.0, "scale of the codes", USUAL),
        ("--truncation", positive_float, None, "bound of the codes' entries, before the "
         "temperature (default: none)"),
        ("--grayscale", one_of(0, 0.5, 1), None, "of the generator's input (default: as trained)",
         CORRUPTION),
        ("--mask_frac", probability, None, "the same (default: as trained)", CORRUPTION),
        ("--mask_res", side, None, "the same (default: as trained)", CORRUPTION),
        ("--fill", ("color", "zero"), None, "the same (default: as trained)", CORRUPTION),
        ("--consistency", CONSISTENCY, None, "project: views agree with the generator's input when "
         "reduced and corrupted again (default: as trained)"),
        ("--lr_factor", side, 1, "coarsen the input so many times beside what was trained"),
        ("--lpips_min", nonnegative_float, None, "reject views nearer than this to the picture "
         "(default: none)", FILTER),
        ("--lpips_max", positive_float, None, "reject views further than this from the picture "
         "(default: none)", FILTER),
        ("--tries", count(10_000), 4, "draws before the picture itself stands in"),
        ("--lpips", ("pretrained", "random"), "pretrained", "random: a seeded random VGG16",
         DRAWING),
        ("--lpips_path", file_path, None, "VGG16 weights (default: from SetupDataset.py "
         "fetch-weights)",
         DRAWING, EXECUTION),
        ("--view_seed", nonnegative_int, 0, "of codes and corruptions"),
        ("--view_batch", at_once, 64, "images generated at a time", DRAWING),
        ("--view_precision", ("auto", "fp32", "bf16"), "auto", "of the generator", DRAWING),
        ("--view_channels_last", bool, True, "memory format of the generator", DRAWING),
    ],
}
OPTIONS: Table = {
    "which network": [(*_NET, f"{_ITS_HELP} (required)", USUAL, also("--snapshot"))],
    "data": [
        ("--data", data_set, None, "pictures: NAME, NAME/SPLIT, a folder, a zip, an LMDB or a "
         "picture (required)", USUAL),
        ("--data_path", dir_path, None, "where data sets are stored (default: the data directory)"),
        ("--split", ("train", "val", "test"), "train", "where --data names none", USUAL),
        ("--num_images", sets, None, "so many of them alone: those that TrainISICLE.py "
         "takes (default: all)", USUAL),
        ("--crop", ("center", "squash"), "center", "how pictures that are not square become it",
         USUAL),
    ],
    "which images": [
        ("--views", count(10**6), 8, "views of each picture", USUAL),
        ("--first", first_number, 0, "number of the first view"),
        ("--crop_size", side, None, "side of the views (default: the generator's largest)",
         USUAL, was("--size")),
    ],
    "output": [
        ("--outdir", dir_path, None, "the folder; DIR lies below RESULTS/generate_views, ./DIR in "
         "the working directory (default: NAME-HASH, the same for the same options)", USUAL,
         was("--out")),
        ("--overwrite", bool, False, "draw what is there anew; the views of this split that this "
         "script has written go", USUAL),
        ("--format", FORMATS, "folder", "how views are stored", USUAL),
    ],
    "what it runs on": [
        ("--gpus", GpuList, None, "numbers of GPUs, or cpu (default: all there are)", USUAL,
         also("--device")),
        ("--num_workers", count(1024, 0), 0, "processes that decode pictures", USUAL),
    ],
}
# fmt: on
# The options behind what the note of a set of views says of it.
OPTION_OF = {
    "data": "--data",
    "content": "--data",
    "pictures": "--data or --num_images",
    "snapshot": "--net",
    "k": "--views",
    "first": "--first",
    "size": "--crop_size",
    "format": "--format",
    "crop": "--crop",
    "seed": "--view_seed",
    "rows": "--view_batch",
    "source": "--view_source",
    "code": "--code",
    "precision": "--view_precision",
    "channels_last": "--view_channels_last",
    "temperature": "--temperature",
    "truncation": "--truncation",
    "lr_factor": "--lr_factor",
    "consistency": "--consistency",
    "filter": "--lpips_min, --lpips_max, --tries, --lpips:",
    "corruption": "--grayscale, --mask_frac, --mask_res, --fill:",
}  # fmt: skip


def get_args(doc: str | None, argv: list[str] | None = None) -> argparse.Namespace:
    """Options of generate_views.py; a wrong one exits with code 2. doc: what --help begins with."""
    parser = argparse.ArgumentParser(description=doc)
    add_preset(parser)
    add_options(parser, OPTIONS, GENERATOR)
    args = parse(parser, PRESETS, argv)
    if args.net is None and args.preset != "smoke":
        parser.error("--net is missing: a run's folder, or a .safetensors file of a snapshot")
    if args.data is None:
        parser.error("--data is missing: a data set's name or a folder (built in: scenes)")
    try:
        check_generator(args)
    except ValueError as error:
        parser.error(str(error))
    return args


def check_generator(args: argparse.Namespace) -> None:
    """Rules between the options of GENERATOR. Errors: ValueError."""
    low, high = args.lpips_min or 0.0, args.lpips_max
    if high is not None and low >= high:
        raise ValueError(f"--lpips_min {low:g} is not below --lpips_max {high:g}")
    rules = Rules(args, GENERATOR)
    for name in ("tries", "lpips", "lpips_path"):
        rules.belongs(name, "--lpips_min and --lpips_max", is_filtered(args))
    rules.belongs("lpips_path", "--lpips pretrained", args.lpips == "pretrained")
    for name in ("code", "temperature", "truncation", "consistency"):
        rules.belongs(name, "--view_source generated", args.view_source == "generated")


def is_filtered(args: argparse.Namespace) -> bool:
    """Whether a bound of the distance is given."""
    rules = Rules(args, GENERATOR)
    return any(rules.given(name) for name in tagged(GENERATOR, FILTER))
