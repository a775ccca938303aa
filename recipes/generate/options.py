"""What may be asked of generate_images.py: presets, the option table, rules between options."""

import argparse
import math
import sys
from collections.abc import Sequence
from typing import Any

from data.prepare.published import PUBLISHED, Preset
from diffusion.ddpm_generate import CLIPS
from diffusion.ddpm_samplers import SAMPLERS
from diffusion.guidance import guided
from diffusion.respace import SPACINGS
from diffusion.samplers import sigma_levels
from generators.imle import CONSISTENCY, HOTTEST
from models.omnigan.domains import DOMAINS, FLOODS
from recipes.words import seed_range
from runtime.cli import parse
from runtime.options import (
    USUAL,
    Rules,
    Table,
    add_options,
    add_preset,
    also,
    flag,
    tagged,
    was,
)
from runtime.types import (
    GpuList,
    at_once,
    called,
    data_set,
    dir_path,
    file_path,
    finite_float,
    first_number,
    levels,
    list_of,
    many,
    nonnegative_float,
    nonnegative_int,
    number,
    positive_float,
    probability,
    text_called,
)
from storage.errors import UsageError

SEEDS = [16, 17, 18, 19]
TARGETS = (*FLOODS, *DOMAINS)  # of omnigan's translation
MAX_SEEDS = 10_000_000

# Tags of rows: of which kinds of generators an option is, ANY being those that this script knows by
# their protocol alone; settings of Heun's method.
IMLE, EDM2, DDPM, OMNIGAN = "IMLE", "EDM2", "DDPM", "omnigan"
ANY, SAMPLER = "any kind", "sampler"
FAMILIES = {
    "camnet": IMLE,
    "imle-unconditional": IMLE,
    "edm2": EDM2,
    "ddpm": DDPM,
    "omnigan": OMNIGAN,
}


def _published(row: Preset) -> dict[str, Any]:
    """A setting of NVIDIA's release as a preset: exactly the networks that it names."""
    preset: dict[str, Any] = {
        "_help": f"{row.figure} by NVIDIA's release; its pictures: --noise_device cuda",
        "net": row.net,
    }
    return preset if row.gnet is None else preset | {"gnet": row.gnet, "guidance": row.guidance}


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {
        "_help": "embedded scenes, CPU, an untrained IMLE network unless --net is given",
        "data": "scenes/val", "num_images": 2, "samples": 3, "gpus": [],
    },
    "smoke-ddpm": {
        "_help": "CPU, an untrained DDPM network unless --net is given",
        "seeds": ["0-3"], "steps": 4, "gpus": [],
    },
    "smoke-edm2": {
        "_help": "CPU, an untrained EDM2 network unless --net is given",
        "seeds": ["0-3"], "steps": 4, "gpus": [],
    },
    **{row.name: _published(row) for row in PUBLISHED},
}  # fmt: skip


def level(word: str) -> float:
    """Type of a noise level: a number >= 0, or inf."""
    return math.inf if word.lower() == "inf" else nonnegative_float(word)


called("FLOAT", level)


class GuidanceAction(argparse.Action):
    """`--guidance 1.7` or `--guide-weight 1.7`; `--no-guidance` is 1, bare `--guidance` nothing."""

    def __init__(
        self, option_strings: Sequence[str], dest: str, default: Any = None, help: str = ""
    ) -> None:
        super().__init__(
            option_strings, dest, nargs="?", type=finite_float, default=default, help=help,
            metavar="FLOAT",
        )  # fmt: skip

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        if option_string.startswith("--no"):
            if values is not None:
                raise argparse.ArgumentError(self, f"{option_string} takes no value")
            values = 1.0
        if values is not None:
            setattr(namespace, self.dest, values)


# fmt: off
OPTIONS: Table = {
    "which network": [
        ("--net", text_called("FILE|DIR|NAME|URL"), None, "a .safetensors file of a run's "
         "snapshots folder, the run's folder, NVIDIA's .pkl, or the name of a published one or a "
         "URL, which are fetched into the models directory (required)", USUAL, also("--snapshot")),
        ("--guide", text_called("FILE|DIR|NAME|URL"), None, "EDM2, DDPM: the guide, a weaker or an "
         "unconditional network (default: none)", EDM2, DDPM, USUAL, was("--gnet"),
         also("--guide-path")),
        ("--guidance", GuidanceAction, None, "EDM2, DDPM: weight of the guidance: GUIDE + W * "
         "(NET - GUIDE), of DDPM without --guide away from NET without its class or layout; 1: "
         "none (default: 1)", USUAL, also("--guide-weight", "--no-guidance")),
    ],
    "which images": [
        ("--seeds", list_of(seed_range), None, "an image a seed, e.g. 0-63,100 (default: 16-19, as "
         "EDM2's own script)", EDM2, DDPM, ANY, USUAL),
        ("--class", list_of(text_called("N|NAME")), None, "EDM2, DDPM: classes by number or name, "
         "or all; with several, each seed is drawn in each of them (default: random)", EDM2, DDPM,
         USUAL),
        ("--random", bool, True, "EDM2, DDPM: classes drawn from the seeds; --no-random: seed "
         "modulo classes", EDM2, DDPM),
        ("--layout", file_path, None, "DDPM: what stands where: a text of x,y,w,h,class a line, in "
         "shares of the sides, or JSON, several layouts of which take turns by seed; or a PNG of "
         "classes, 255 none, for networks of masks and of pixels' classes; each is drawn beside "
         "its sample, <seed>_layout.png (default: none)", DDPM, USUAL),
        ("--data", data_set, None, "IMLE, omnigan: inputs: NAME, NAME/SPLIT, a folder, a zip, an "
         "LMDB or a picture (required, unless it has no input); DDPM of --concat: what is given in "
         "grey or smaller, by seed", IMLE, DDPM, OMNIGAN, USUAL),
        ("--data_path", dir_path, None, "IMLE, DDPM, omnigan: where data sets are stored (default: "
         "the data directory)", IMLE, DDPM, OMNIGAN),
        ("--num_images", many, 10, "IMLE, omnigan: inputs, evenly spaced; or rows of the grid",
         IMLE, OMNIGAN, USUAL),
        ("--to", TARGETS, "f", "omnigan: what pictures become: f flooded, n not, or as of a domain "
         "(rf, rn, sf, sn)", OMNIGAN, USUAL),
        ("--samples", many, 6, "IMLE: samples for each input", IMLE, USUAL),
        ("--seed", nonnegative_int, 0, "IMLE: random seed of the codes and corruptions", IMLE,
         USUAL),
        ("--consistency", CONSISTENCY, None, "IMLE with an input: project: pictures agree with it "
         "when reduced and corrupted again (default: as the network was trained)", IMLE),
        ("--temperature", list_of(number(0, HOTTEST)), [1.0], "IMLE with an input: scale of the "
         "codes; below 1 samples differ less and are nearer to what is likely; several: of the "
         "first samples of an input, the last of all others, as 0 1: the middle of what is likely, "
         "then samples", IMLE),
        ("--first", first_number, 0, "IMLE: number of the first sample, to draw more another "
         "time", IMLE),
    ],
    "output": [
        ("--outdir", dir_path, None, "where images go; DIR lies below RESULTS/generate_images, "
         "./DIR in the working directory (default: NAME-HASH, the same for the same settings)",
         USUAL),
        ("--grid_only", bool, False, "no single images", USUAL),
        ("--overwrite", bool, False, "draw what is there anew; what this script has written there "
         "under other settings goes", USUAL),
        ("--subdirs", bool, False, "EDM2, DDPM: a folder for each 1000 seeds", EDM2, DDPM),
        ("--name_class", bool, False, "EDM2, DDPM: files are <seed>_<class>.png; so they are with "
         "several classes", EDM2, DDPM),
        ("--trajectory", bool, False, "EDM2, DDPM: also <seed>_trajectory.png: what is denoised at "
         "each step", EDM2, DDPM),
        ("--sweep_guidance", list_of(finite_float, unique=True), None, "EDM2: a folder for each "
         "weight, and a sheet that compares them (default: none)", EDM2),
        ("--sweep_ema", list_of(positive_float, unique=True), None, "EDM2: the same for EMA "
         "lengths of --net: its siblings NAME-STEP-EMA, or phema-STEP-EMA (default: none)", EDM2),
    ],
    "what it runs on": [
        ("--gpus", GpuList, None, "numbers of GPUs, or cpu (default: all there are)", USUAL,
         also("--device")),
        ("--batch", at_once, 32, "images drawn at a time on each GPU", USUAL),
        ("--precision", ("auto", "fp32", "bf16", "fp16"), None, "number format of the network "
         "(default: fp32; EDM2 fp16 on a GPU if it was trained so)"),
        ("--compile", bool, False, "EDM2, DDPM: torch.compile the networks", EDM2, DDPM),
        ("--noise_device", ("cpu", "cuda"), "cpu", "EDM2: where the noise of a seed is drawn; cpu: "
         "the same images on every machine; cuda: those of NVIDIA's code, which draws on the GPU",
         EDM2),
    ],
    "sampler of DDPM": [
        ("--sampler", tuple(SAMPLERS), "ddim", "DDPM: ddpm (ancestral), ddim, plms, dpmpp (2M), "
         "unipc, heun (of EDM)", DDPM, USUAL),
        ("--spacing", SPACINGS, "trailing", "DDPM: which steps of its training it visits", DDPM),
        ("--eta", nonnegative_float, 0.0, "DDPM: noise that ddim adds: 0 none, 1 as much as ddpm",
         DDPM),
        ("--rescale", probability, 0.0, "DDPM: how far a guided prediction is brought back to the "
         "spread of the network's own", DDPM),
        ("--clip", CLIPS, None, "DDPM: of predicted clean images: to [-1, 1], by their 0.9 "
         "quantile, or not (default: as the network was trained)", DDPM),
        ("--classifier", text_called("FILE|file:FILE"), None, "DDPM: guide by the gradient of a "
         "classifier of noised images: a snapshot (docs/ddpm.md), a file of guided-diffusion's, or "
         "a TorchScript program of (x, t) that gives logits (default: none)", DDPM),
        ("--classifier_scale", positive_float, 1.0, "DDPM: what that gradient is multiplied by",
         DDPM),
        ("--code", file_path, None, "DDPM: Python file with the blocks or the network of one's own "
         "that the network was made of; it is run (default: none)", DDPM),
    ],
    "sampler of EDM2": [
        ("--steps", levels, 32, "of Heun's method, or of DDPM's sampler", EDM2, DDPM,
         SAMPLER, USUAL),
        ("--guidance_interval", list_of(level), None, "LO HI: guide where LO < sigma <= HI only "
         "(default: everywhere)", EDM2, DDPM),
        ("--sigma_min", positive_float, 0.002, "lowest noise level", EDM2, SAMPLER),
        ("--sigma_max", positive_float, 80.0, "highest noise level", EDM2, SAMPLER),
        ("--rho", positive_float, 7.0, "exponent of the levels between", EDM2, SAMPLER),
        ("--S_churn", nonnegative_float, 0.0, "stochasticity", EDM2, SAMPLER),
        ("--S_min", level, 0.0, "lowest noise level with churn", EDM2, SAMPLER),
        ("--S_max", level, math.inf, "highest noise level with churn", EDM2, SAMPLER),
        ("--S_noise", nonnegative_float, 1.0, "noise inflation of churn", EDM2, SAMPLER),
        ("--vae", text_called("DIR|NAME"), None, "the VAE, for networks on its latents (default: "
         "the one of its training)", EDM2, DDPM),
    ],
}
# fmt: on


def get_args(doc: str | None, argv: list[str] | None = None) -> argparse.Namespace:
    """Options of generate_images.py; a wrong one exits with code 2. doc: the head of --help."""
    parser = argparse.ArgumentParser(description=doc)
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] in (["checkpoint"], ["pretrained"]):  # the subcommands of Autoguided
        print(f"{argv[0]}: not needed here; its classes were those of --no-random")
        argv = argv[1:]
    add_preset(parser)
    add_options(parser, OPTIONS)
    args = parse(parser, PRESETS, argv)
    try:
        check(args)
    except ValueError as error:
        parser.error(str(error))
    return args


def check(args: argparse.Namespace) -> None:
    """Rules between options; makes --seeds one list and --guidance a number. Errors: ValueError."""
    if args.net is None and args.preset not in ("smoke", "smoke-edm2", "smoke-ddpm"):
        raise ValueError("--net is missing: a run's folder, or a .safetensors file of a snapshot")
    ranges = args.seeds or [SEEDS]
    if sum(map(len, ranges)) > MAX_SEEDS:
        raise ValueError(f"--seeds: {sum(map(len, ranges))} of them, at most {MAX_SEEDS} at a time")
    args.seeds = list(dict.fromkeys(seed for r in ranges for seed in r))
    args.guidance = 1.0 if args.guidance is None else args.guidance
    weights = args.sweep_guidance or [args.guidance]
    if len(args.guidance_interval or [0, 1]) != 2:
        raise ValueError(f"--guidance_interval {args.guidance_interval}: two levels, LO HI")
    sigma_levels(args.steps, args.sigma_min, args.sigma_max, args.rho)
    guided(min, min, 2.0, args.guidance_interval)  # whether the interval is one
    if args.sweep_ema and args.net is None:
        raise ValueError("--sweep_ema takes the siblings of a --net")
    for option, names in (
        ("--sweep_guidance", [f"{w:g}" for w in weights]),
        ("--sweep_ema", [f"{ema:.3f}" for ema in args.sweep_ema or []]),
    ):
        if len(set(names)) < len(names):
            raise ValueError(
                f"{option} {' '.join(names)}: values not told apart in names of folders"
            )
    if args.trajectory and args.grid_only:
        raise ValueError("--trajectory writes single images, --grid_only none")
    if args.S_min > args.S_max:
        raise ValueError(f"--S_min {args.S_min:g} is above --S_max {args.S_max:g}")
    rules = Rules(args, OPTIONS, PRESETS)
    for name in ("S_min", "S_max", "S_noise"):
        rules.belongs(name, "--S_churn", args.S_churn > 0)
    rules.belongs("eta", "--sampler ddim", args.sampler == "ddim")
    rules.belongs("spacing", "samplers other than heun", args.sampler != "heun")
    rules.belongs("rescale", "--guidance", args.guidance != 1)
    rules.belongs("classifier_scale", "--classifier", args.classifier is not None)


def check_unused(args: argparse.Namespace, kind: str) -> None:
    """An option of another kind of network does not pass silently. Errors: UsageError."""
    rules = Rules(args, OPTIONS)
    own = set(tagged(OPTIONS, FAMILIES.get(kind, ANY)))
    for name in tagged(OPTIONS, IMLE, EDM2, DDPM, OMNIGAN):
        if name in own:
            continue
        given = args.seeds != SEEDS if name == "seeds" else rules.given(name)
        if given:
            value = getattr(args, name)
            raise UsageError(
                f"{flag(name, OPTIONS)} {value}: no use for it with a network of {kind}"
            )
    weights = args.sweep_guidance or [args.guidance]
    guided_ = args.guidance_interval or any(w != 1 for w in weights)
    if FAMILIES.get(kind) is EDM2 and args.gnet is None and guided_:
        raise UsageError(f"--guidance {weights[-1]:g}: the guide is missing, --guide FILE")
