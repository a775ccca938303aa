"""What may be asked of calculate_metrics.py: options for each command, presets, rules."""

from __future__ import annotations

import argparse
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.extractors.resizing import POLICIES
from recipes.generate.options import OPTIONS as GENERATE
from recipes.generate.options import SAMPLER
from recipes.measuring import WeightsList
from recipes.metrics.names import CONDITIONAL, OF_CROPS, by_classifier, metrics_of, words_of
from recipes.words import seed_range
from runtime.cli import parse
from runtime.options import (
    USUAL,
    Row,
    Rules,
    Table,
    add_options,
    add_preset,
    also,
    kept_name,
    merged,
    rows_of,
)
from runtime.types import (
    GpuList,
    ListAction,
    at_once,
    count,
    data_set,
    dir_path,
    file_path,
    integer,
    list_of,
    many,
    nonnegative_int,
    number,
    sets,
    side,
    text_called,
)

MAX_SEEDS = 10_000_000
_SMOKE: dict[str, Any] = {
    "metrics": ["fd_pixels"], "gpus": [], "num_workers": 0, "res": 16, "batch": 16,
}  # fmt: skip
REF_PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {
        "_help": "embedded scenes at 16 px, features of 8 x 8 pixels, CPU, seconds",
        **_SMOKE, "data": "scenes/val", "num": 64, "dest": "./smoke.npz", "features": True,
    },
}  # fmt: skip
CALC_PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {
        "_help": "embedded scenes against others of them, features of 8 x 8 pixels, CPU",
        **_SMOKE, "images": "scenes/train", "ref": "scenes/val", "num": 64,
        "metrics": ["fd_pixels", "kid_pixels", "prdc_pixels"], "bootstrap": 20,
    },
}  # fmt: skip
GEN_PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {
        "_help": "an untrained EDM2 network against embedded scenes, CPU, seconds",
        **_SMOKE, "ref": "scenes/val", "num": 16, "steps": 2, "bootstrap": 20,
    },
}  # fmt: skip


class ExtractorList(ListAction):
    """Words of extractors, after some of which settings stand: inception,file:NET.pt,side=64."""

    item = staticmethod(text_called("NAME"))

    def convert(self, words: Sequence[str]) -> list[str]:
        """Each word with its settings. Errors: argparse.ArgumentError."""
        found: list[str] = []
        for word in words:
            for part in word.split(","):
                if found and "=" in part and ":" not in part:
                    found[-1] += f",{part}"
                elif part.strip():
                    found.append(part.strip())
        if not found:
            raise argparse.ArgumentError(self, "names no extractor")
        return found


def generating(*names: str, tag: str | None = None) -> list[Row]:
    """Rows of generate_images.py's table: by the names of their values, or of a tag."""
    return [
        row
        for row in rows_of(GENERATE)
        if kept_name(row) in names or (tag is not None and tag in row[4:])
    ]


# fmt: off
WHAT: Table = {
    "what to measure": [
        ("--metrics", list_of(text_called("NAME")), ["fid", "fd_dinov2"], "fid, and of any "
         "extractor fd, kid, prdc, is, fld, memorisation, modes, fdr; top (accuracy of "
         "--classifier); of CAM-Nets lpips, fwv, psnr, ssim; of networks with boxes scenefid; "
         "kid_dinov2: of that extractor alone",
         USUAL),
        ("--extractor", ExtractorList, ["inception"], "networks for metrics that "
         "name none: inception, dinov2 (ViT-L/14), dinov2_vitb14, simclr:RUN, torchvision:NAME, "
         "timm:NAME, file:PROGRAM, pixels", USUAL),
        ("--weights", WeightsList, None, "weights files of extractors "
         "as inception=FILE; random: from seed 0, and the names of metrics say so (default: where "
         "SetupDataset.py fetch-weights puts them)", USUAL),
        ("--resize", ("auto", *POLICIES), "auto", "how pictures come to an extractor's side: "
         "clean (as clean-fid), bicubic, tf1 (as the original FID); auto: as the reference's were, "
         "else clean, of DINOv2 and classifiers bicubic"),
    ],
}
REFERENCE: Table = {
    "against what": [
        ("--ref", text_called("FILE|NAME"), None, "statistics of `ref`, NVIDIA's .pkl, an .npz; or "
         "a data set (required)", USUAL),
        ("--held", data_set, None, "real pictures held out, for fdr, fld and memorisation: NAME, "
         "NAME/SPLIT, a folder, a zip or an LMDB (default: none)", USUAL),
        ("--classifier", text_called("NAME"), None, "of top and modes: torchvision:NAME, "
         "timm:NAME, file:PROGRAM, with --weights WORD=FILE (default: modes are clusters)"),
        ("--label_order", file_path, None, "a text file with the classifier's class for each class "
         "of the data, in order (default: the same order)"),
        ("--clusters", count(10**6), 100, "of the reference's features, for modes"),
        ("--nearest", count(10**5), 5, "neighbours of prdc: 5 as Naeem et al. 2020, 3 as "
         "Kynkaanniemi et al. 2019"),
        ("--bootstrap", count(10**5, 0), None, "resamples for intervals; 0: no intervals (default: "
         "100; of Frechet distances that are long to make, 20 groups left out in turn)"),
    ],
}
READING: Table = {
    "which images": [
        ("--num", sets, 50_000, "so many: of a set that has more, a part drawn by --seed; "
         "one that has fewer is refused", USUAL),
        ("--seed", nonnegative_int, 0, "random seed of that part; of gen the first seed", USUAL),
        ("--res", side, None, "pictures of data sets become squares of this side first "
         "(default: as they are; of gen, as large as the network's)", USUAL),
        ("--crop", ("center", "squash"), "center", "how pictures that are not square become it"),
        ("--data_path", dir_path, None, "where data sets are stored (default: the data directory)"),
    ],
}
RUNNING: Table = {
    "what it runs on": [
        ("--gpus", GpuList, None, "numbers of GPUs, or cpu (default: all there are)", USUAL,
         also("--device")),
        ("--batch", at_once, None, "pictures at a time on each GPU; figures do not depend on "
         "it (default: 64, 16 without a GPU)", USUAL),
        ("--num_workers", integer(0, 1024), 2, "processes that read pictures, per rank; 0: none",
         USUAL, also("--workers")),
    ],
}
OUTPUT: Table = {
    "output": [
        ("--outdir", dir_path, None, "where metrics.json goes; DIR lies below "
         "RESULTS/calculate_metrics, ./DIR in the working directory (default: NAME-HASH, the same "
         "for the same settings)", USUAL),
        ("--features", bool, False, "also keep the features, features.npz: `compare` makes paired "
         "intervals of them", USUAL),
        ("--overwrite", bool, False, "measure what is there anew", USUAL),
    ],
}
REF: Table = {
    "data": [
        ("--data", data_set, None, "real pictures: NAME, NAME/SPLIT, a folder, a zip or an LMDB "
         "(required)", USUAL, also("--dataset", "--images")),
        ("--dest", file_path, None, "the file to write, an .npz whatever its name (required)",
         USUAL),
        ("--features", bool, False, "keep the features too, which kid, prdc, fld, memorisation and "
         "modes need", USUAL),
        ("--num", sets, None, "a part of so many, drawn by --seed (default: all)", USUAL),
    ],
}
CALC: Table = {
    "which images": [
        ("--images", data_set, None, "the pictures to judge: NAME, NAME/SPLIT, a folder, a zip or "
         "an LMDB (required)", USUAL),
    ],
}
GEN: Table = {
    "which network": generating("net", "gnet", "guidance"),
    "which images": [
        ("--seeds", list_of(seed_range), None, "a range of seeds is a measurement: 0-49999 "
         "50000-99999 gives least and mean of two (default: --num from --seed on)", USUAL),
        *generating("class", "random"),
        ("--data", data_set, None, "IMLE, omnigan: inputs: NAME, NAME/SPLIT, a folder, a zip or an "
         "LMDB (required, unless it has no input); DDPM trained with boxes: a layout set, whose "
         "layouts take turns by seed", USUAL),
        ("--num_images", many, None, "so many inputs or layouts, evenly spaced (default: "
         "all; layouts as many as pictures)", USUAL),
        ("--samples", many, 10, "IMLE: samples of each input, unless --seeds says", USUAL),
        *generating("consistency", "temperature", "to"),
    ],
    "against what": [
        ("--lpips", ("pretrained", "random"), "pretrained", "weights of LPIPS; random: not "
         "comparable with anything"),
        ("--min_crop", count(4096), 8, "of scenefid: boxes of fewer pixels a side are left out"),
        ("--lpips_path", file_path, None, "VGG16 of torchvision (default: where SetupDataset.py "
         "puts it)"),
    ],
    "what it runs on": generating("precision", "compile", "noise_device"),
    "sampler of EDM2": [
        *generating("guidance_interval", "vae", tag=SAMPLER),
    ],
}
COMPARE: Table = {
    "how": [
        ("--margin", number(0, 1, hi_open=True), 0.013, "share of a Frechet distance that does not "
         "count, for the spread between trainings"),
        ("--resamples", count(10**5, 20), 100, "of pairs of samples, for Frechet distances where "
         "each has one range of seeds and kept its features; else the replicates of both records"),
        ("--gpus", GpuList, None, "numbers of GPUs, or cpu (default: all there are)",
         also("--device")),
    ],
}
# fmt: on


# command -> (its table, its presets, what it does)
COMMANDS: dict[str, tuple[Table, dict[str, dict[str, Any]], str]] = {
    "ref": (
        merged(REF, WHAT, READING, RUNNING, {"output": [OUTPUT["output"][2]]}),
        REF_PRESETS,
        "Write statistics of real pictures, to measure against.",
    ),
    "calc": (
        merged(CALC, WHAT, REFERENCE, READING, RUNNING, OUTPUT),
        CALC_PRESETS,
        "Measure pictures that are there: a folder, a zip, an LMDB, a data set.",
    ),
    "gen": (
        merged(GEN, WHAT, REFERENCE, READING, RUNNING, OUTPUT),
        GEN_PRESETS,
        "Draw pictures from a network and measure them; no picture is written.",
    ),
    "compare": (COMPARE, {}, "Say which of two networks is better, or that nothing tells."),
}


def get_args(doc: str | None, argv: Sequence[str] | None = None) -> Namespace:
    """Options of calculate_metrics.py, the command among them; wrong ones exit with code 2."""
    argv = list(sys.argv[1:] if argv is None else argv)
    listed = "\n".join(f"  {name:8} {about}" for name, (*_, about) in COMMANDS.items())
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=form, epilog=f"commands:\n{listed}",
        usage="%(prog)s {" + ",".join(COMMANDS) + "} ...",
    )  # fmt: skip
    if argv[:1] and argv[0] in COMMANDS:
        command, rest = argv[0], argv[1:]
        table, presets, about = COMMANDS[command]
        parser = argparse.ArgumentParser(
            prog=f"{parser.prog} {command}", description=about, formatter_class=form
        )
        if command == "compare":
            parser.add_argument(
                "runs", nargs=2, metavar="RUN", help="a metrics.json, or its folder"
            )
        else:
            add_preset(parser)
        add_options(parser, table)
        args = parse(parser, presets, rest)
        args.command = command
        try:
            check(args, table, presets)
        except ValueError as error:
            parser.error(str(error))
        return args
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="what to do")
    parse(parser, None, argv)
    raise AssertionError("a command would have been told apart above")


def check(args: Namespace, table: Table, presets: Mapping[str, Mapping[str, Any]]) -> None:
    """Rules between options; --metrics becomes `args.wanted`. Errors: ValueError."""
    if args.command == "compare":
        return
    rules = Rules(args, table, presets)
    args.wanted = metrics_of(args.metrics, args.extractor)
    if getattr(args, "classifier", None) is not None:
        args.wanted = by_classifier(args.wanted)
    unused = set(args.extractor) - set(words_of(args.wanted, args.extractor))
    rules.belongs("extractor", "metrics that name none, such as fd or kid", not unused)
    if args.command == "ref":
        for name in ("data", "dest"):
            if getattr(args, name) is None:
                raise ValueError(f"--{name} is missing")
        if bad := [m.name for m in args.wanted if m.measure != "fd"]:
            raise ValueError(f"--metrics {bad[0]}: statistics are of Frechet distances, fid or fd")
        return
    if args.command == "calc" and args.images is None:
        raise ValueError("--images is missing: a folder, a zip, an LMDB or a data set")
    measures = {m.measure for m in args.wanted}
    if args.command == "gen":
        _check_gen(args, rules)
        for name in ("lpips", "lpips_path"):
            rules.belongs(name, "--metrics lpips and fwv", bool(measures & {"lpips", "fwv"}))
        rules.belongs("lpips_path", "--lpips pretrained", args.lpips == "pretrained")
        rules.belongs("min_crop", "--metrics scenefid", "scenefid" in measures)
    elif odd := [m.name for m in args.wanted if m.measure in (*CONDITIONAL, *OF_CROPS)]:
        raise ValueError(f"--metrics {odd[0]} is of gen, with a network that has inputs or layouts")
    if args.ref is None and measures - CONDITIONAL - {"is", "top", *OF_CROPS}:
        raise ValueError("--ref is missing: statistics of `ref`, or a data set of real pictures")
    if not args.held and (needs := sorted(measures & {"fdr", "fld", "memorisation"})):
        raise ValueError(f"--metrics {needs[0]} needs --held DATA: real pictures held out")
    if "top" in measures and args.classifier is None:
        raise ValueError("--metrics top needs --classifier WORD")
    rules.belongs(
        "held",
        "--metrics fdr, fld and memorisation",
        bool(measures & {"fdr", "fld", "memorisation"}),
    )
    rules.belongs("classifier", "--metrics top and modes", bool(measures & {"top", "modes"}))
    rules.belongs("label_order", "--classifier", args.classifier is not None)
    rules.belongs("clusters", "--metrics modes", "modes" in measures and not args.classifier)
    rules.belongs("nearest", "--metrics prdc", "prdc" in measures)
    if args.bootstrap and args.bootstrap < 20:
        raise ValueError(f"--bootstrap {args.bootstrap}: at least 20 resamples, or 0")


def _check_gen(args: Namespace, rules: Rules) -> None:
    if args.net is None and args.preset != "smoke":
        raise ValueError("--net is missing: a run's folder, a snapshot, a published name")
    args.guidance = 1.0 if args.guidance is None else args.guidance
    if args.seeds is None and args.num > MAX_SEEDS:
        raise ValueError(f"--num {args.num}: at most {MAX_SEEDS} are drawn at a time")
    if args.seeds is not None:
        lengths = {len(r) for r in args.seeds}
        if len(lengths) > 1:
            raise ValueError(f"--seeds: ranges of {sorted(lengths)} seeds do not compare")
        if sum(map(len, args.seeds)) > MAX_SEEDS:
            raise ValueError(f"--seeds: at most {MAX_SEEDS} at a time")
        taken = sorted((r.start, r.stop) for r in args.seeds)
        if any(a[1] > b[0] for a, b in zip(taken, taken[1:], strict=False)):
            raise ValueError("--seeds: ranges share seeds, so they are not several measurements")
        for name in ("num", "seed"):
            if rules.typed(name):
                raise ValueError(f"{rules.shown(name)} and --seeds: give one")
