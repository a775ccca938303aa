"""Images from a snapshot, of whatever kind: any snapshot x sampler x guide.

EDM2, one image per seed:
    python generate_images.py --net RUN/snapshots/network-snapshot-0005000-0.100 --seeds 0-63
    python generate_images.py --net NET --gnet GUIDE --guidance 1.7 --class all --seeds 0-9
    python generate_images.py --net NET --gnet GUIDE --sweep_guidance 1 1.5 2 --sweep_ema 0.05 0.10
    python generate_images.py --preset edm2-img512-s-autog-dino --outdir OUT
Conditional and unconditional IMLE, k samples for each input:
    python generate_images.py --net RUN/snapshots/network-latest.safetensors --data scenes/val
    python generate_images.py --net FILE --data DIR --num_images 100 --samples 10 --outdir OUT

EDM2 writes OUT/<seed>.png, OUT/grid.png and OUT/provenance.json; IMLE OUT/<input>_<k>.png and a
grid with a row an input. An image depends on its seed (and input) alone, not on what else is
drawn, the batch or the number of GPUs. EDM2 images that are there, of the same settings, are not
drawn again, so the same command goes on after an interruption, and more seeds may join; a folder
of other settings is refused without --overwrite.
"""

import argparse
import functools
import hashlib
import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from data.pyramids import Pyramid
from data.registry import open_source
from diffusion import Precond
from diffusion.encoders import Encoder, make_encoder
from diffusion.generate import Item, check_guide, generate, seed_classes, split_batches
from diffusion.guidance import guided
from diffusion.samplers import heun, sigma_levels
from imle import CAMNet, CodeGenerator, Corruption, UnconditionalGenerator, draw_samples
from recipes.words import compact_seeds, seed_range
from runtime import distributed
from runtime.cli import parse
from runtime.gallery import FACTS, Gallery, grid_of_files, labelled_sheet, read_facts
from runtime.launch import launch
from runtime.networks import open_network
from runtime.options import add_table
from runtime.place import choose_device
from runtime.precision import Precision
from runtime.progress import Progress
from runtime.provenance import collect
from runtime.types import (
    finite_float,
    list_of,
    nonnegative_float,
    nonnegative_int,
    positive_float,
    positive_int,
    text,
)
from storage.dirs import data_home, results_home
from storage.errors import CheckpointError, NonFiniteError, UsageError
from storage.files import write_text
from storage.find import ema_sibling, find_network, identity
from storage.pictures import save_grid
from storage.snapshot import Snapshot

SAMPLING_LOOP = -3  # the IMLE codes' "loop", apart from training (>= 0) and validation
GRID = 100  # images in grid.png, at most
SEEDS = [16, 17, 18, 19]
MAX_SEEDS = 10_000_000
PARTS = ".parts/"  # where single images are while only a grid is wanted
NOT_FINITE = "look at weights and noise levels, or try --precision fp32"

# The names of NVIDIA's presets. Numbers in names are thousands of images, * is what our source does
# not tell (EMA lengths mostly): then the models directory must have one such file. FID and FD are
# the published figures, on 50000 images. Guided xl and xxl are left out: no weight is known.
# fmt: off
PRESETS = {
    "smoke": {
        "_help": "embedded scenes, CPU, an untrained IMLE network unless --net is given",
        "data": "scenes/val", "num_images": 2, "samples": 3, "gpus": [],
    },
    "smoke-edm2": {
        "_help": "CPU, an untrained EDM2 network unless --net is given",
        "seeds": ["0-3"], "steps": 4, "gpus": [],
    },
    "edm2-img512-xs-fid": {"_help": "FID 3.53", "net": "edm2-img512-xs-2147483-*"},
    "edm2-img512-xs-dino": {"_help": "FD-DINOv2 103.39", "net": "edm2-img512-xs-2147483-*"},
    "edm2-img512-s-fid": {"_help": "FID 2.56", "net": "edm2-img512-s-2147483-*"},
    "edm2-img512-s-dino": {"_help": "FD-DINOv2 68.64", "net": "edm2-img512-s-2147483-*"},
    "edm2-img512-m-fid": {"_help": "FID 2.25", "net": "edm2-img512-m-2147483-*"},
    "edm2-img512-m-dino": {"_help": "FD-DINOv2 58.44", "net": "edm2-img512-m-2147483-*"},
    "edm2-img512-l-fid": {"_help": "FID 2.06", "net": "edm2-img512-l-1879048-*"},
    "edm2-img512-l-dino": {"_help": "FD-DINOv2 52.25", "net": "edm2-img512-l-1879048-*"},
    "edm2-img512-xl-fid": {"_help": "FID 1.96", "net": "edm2-img512-xl-1342177-*"},
    "edm2-img512-xl-dino": {"_help": "FD-DINOv2 45.96", "net": "edm2-img512-xl-1342177-*"},
    "edm2-img512-xxl-fid": {"_help": "FID 1.91", "net": "edm2-img512-xxl-0939524-*"},
    "edm2-img512-xxl-dino": {"_help": "FD-DINOv2 42.84", "net": "edm2-img512-xxl-0939524-*"},
    "edm2-img64-s-fid": {"_help": "FID 1.58", "net": "edm2-img64-s-1073741-*"},
    "edm2-img64-m-fid": {"_help": "FID 1.43", "net": "edm2-img64-m-2147483-*"},
    "edm2-img64-l-fid": {"_help": "FID 1.33", "net": "edm2-img64-l-1073741-*"},
    "edm2-img64-xl-fid": {"_help": "FID 1.33", "net": "edm2-img64-xl-0671088-*"},
    # classifier-free guidance: the guide is the unconditional xs
    "edm2-img512-xs-guid-fid": {"_help": "FID 2.91", "net": "edm2-img512-xs-2147483-*",
        "gnet": "edm2-img512-xs-uncond-*", "guidance": 1.4},
    "edm2-img512-xs-guid-dino": {"_help": "FD-DINOv2 79.94", "net": "edm2-img512-xs-2147483-*",
        "gnet": "edm2-img512-xs-uncond-*", "guidance": 1.7},
    "edm2-img512-s-guid-fid": {"_help": "FID 2.23", "net": "edm2-img512-s-2147483-*",
        "gnet": "edm2-img512-xs-uncond-*", "guidance": 1.4},
    "edm2-img512-s-guid-dino": {"_help": "FD-DINOv2 52.32", "net": "edm2-img512-s-2147483-*",
        "gnet": "edm2-img512-xs-uncond-*", "guidance": 1.9},
    "edm2-img512-m-guid-fid": {"_help": "FID 2.01", "net": "edm2-img512-m-2147483-*",
        "gnet": "edm2-img512-xs-uncond-*", "guidance": 1.2},
    "edm2-img512-m-guid-dino": {"_help": "FD-DINOv2 41.98", "net": "edm2-img512-m-2147483-*",
        "gnet": "edm2-img512-xs-uncond-*", "guidance": 2.0},
    "edm2-img512-l-guid-fid": {"_help": "FID 1.88", "net": "edm2-img512-l-1879048-*",
        "gnet": "edm2-img512-xs-uncond-*", "guidance": 1.2},
    "edm2-img512-l-guid-dino": {"_help": "FD-DINOv2 38.20", "net": "edm2-img512-l-1879048-*",
        "gnet": "edm2-img512-xs-uncond-*", "guidance": 1.7},
    # autoguidance: the guide is smaller or trained less (134 and 268 million images)
    "edm2-img512-s-autog-fid": {"_help": "FID 1.34", "net": "edm2-img512-s-2147483-0.070",
        "gnet": "edm2-img512-xs-0134*-0.125", "guidance": 2.1},
    "edm2-img512-s-autog-dino": {"_help": "FD-DINOv2 36.67", "net": "edm2-img512-s-2147483-0.120",
        "gnet": "edm2-img512-xs-0134*-0.165", "guidance": 2.45},
    "edm2-img512-xxl-autog-fid": {"_help": "FID 1.25", "net": "edm2-img512-xxl-0939524-0.075",
        "gnet": "edm2-img512-m-0268*-0.155", "guidance": 2.05},
    "edm2-img512-xxl-autog-dino": {"_help": "FD-DINOv2 24.18", "net": "edm2-img512-xxl-0939524-*",
        "gnet": "edm2-img512-m-0268*", "guidance": 2.3},
    "edm2-img512-s-uncond-autog-fid": {"_help": "FID 3.86", "net": "edm2-img512-s-uncond-*",
        "gnet": "edm2-img512-xs-uncond-*", "guidance": 2.85},
    "edm2-img512-s-uncond-autog-dino": {"_help": "FD-DINOv2 90.39", "net": "edm2-img512-s-uncond-*",
        "gnet": "edm2-img512-xs-uncond-*", "guidance": 2.9},
    "edm2-img64-s-autog-fid": {"_help": "FID 1.01", "net": "edm2-img64-s-1073741-0.045",
        "gnet": "edm2-img64-xs-0134*-0.110", "guidance": 1.7},
    "edm2-img64-s-autog-dino": {"_help": "FD-DINOv2 31.85", "net": "edm2-img64-s-1073741-*",
        "gnet": "edm2-img64-xs-0134*", "guidance": 2.2},
}
# fmt: on


def level(word: str) -> float:
    """Type of a noise level: a number >= 0, or inf."""
    return math.inf if word.lower() == "inf" else nonnegative_float(word)


class GuidanceAction(argparse.Action):
    """`--guidance 1.7` or `--guide-weight 1.7`; `--no-guidance` is 1, bare `--guidance` nothing."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        if option_string.startswith("--no"):
            if values is not None:
                raise argparse.ArgumentError(self, f"{option_string} takes no value")
            values = 1.0
        if values is not None:
            setattr(namespace, self.dest, values)


# fmt: off
IMLE = [
    ("--data", text, None, "inputs: NAME, NAME/SPLIT, a folder, a zip or an LMDB"),
    ("--data_path", text, None, "where data sets are stored (default: the data directory)"),
    ("--num_images", positive_int, 10, "inputs, evenly spaced; or rows of the grid"),
    ("--samples", positive_int, 6, "samples for each input"),
    ("--seed", nonnegative_int, 0, "seed of the codes and corruptions"),
    ("--first", nonnegative_int, 0, "number of the first sample, to draw more another time"),
]
EDM2 = [
    ("--gnet", text, None, "the guide: a weaker or an unconditional network"),
    ("--guidance_interval", list_of(level), None, "LO HI: guide where LO < sigma <= HI only"),
    ("--seeds", list_of(seed_range), None, "e.g. 0-63,100 (default: 16-19)"),
    ("--class", list_of(text), None, "classes by number or name, or all (default: random); with "
     "several, each seed is drawn in each of them"),
    ("--random", bool, True, "classes drawn from the seeds; --no-random: seed modulo classes"),
    ("--steps", positive_int, 32, "of Heun's method"),
    ("--sigma_min", positive_float, 0.002, "lowest noise level"),
    ("--sigma_max", positive_float, 80.0, "highest noise level"),
    ("--rho", positive_float, 7.0, "exponent of the levels between"),
    ("--S_churn", nonnegative_float, 0.0, "stochasticity"),
    ("--S_min", level, 0.0, "lowest noise level with churn"),
    ("--S_max", level, math.inf, "highest noise level with churn"),
    ("--S_noise", nonnegative_float, 1.0, "noise inflation of churn"),
    ("--subdirs", bool, False, "a folder for each 1000 seeds"),
    ("--name_class", bool, False, "files are <seed>_<class>.png; so they are with several classes"),
    ("--trajectory", bool, False, "also <seed>_trajectory.png: what is denoised at each step"),
    ("--sweep_guidance", list_of(finite_float, unique=True), None, "a folder for each weight, and "
     "a sheet that compares them"),
    ("--sweep_ema", list_of(positive_float, unique=True), None, "the same for EMA lengths of --net:"
     " its siblings NAME-STEP-EMA, or phema-STEP-EMA"),
    ("--vae", text, None, "folder or name of the VAE, for networks on its latents"),
    ("--compile", bool, False, "torch.compile the networks"),
    ("--overwrite", bool, False, "draw what is there anew; images of other settings go"),
]
# fmt: on


def get_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Options of this script; a wrong one exits with code 2."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] in (["checkpoint"], ["pretrained"]):  # the subcommands of Autoguided
        print(f"{argv[0]}: not needed here; its classes were those of --no-random")
        argv = argv[1:]
    parser.add_argument("--net", "--snapshot", type=text, metavar="FILE", help=(
        "the network: a .safetensors file of a run's snapshots folder, NVIDIA's .pkl, or the name "
        "of a published one in the models directory"))  # fmt: skip
    # fmt: off
    add_table(parser, "how", [
        ("--outdir", text, None, "where images go (default: under the results directory)"),
        ("--grid_only", bool, False, "no single images"),
        ("--batch", positive_int, 32, "images drawn at a time on each GPU"),
        ("--precision", ("auto", "fp32", "bf16", "fp16"), None, "number format of the network "
         "(default: fp32; EDM2 fp16 on a GPU if it was trained so)"),
        ("--gpus", list_of(nonnegative_int, unique=True, empty_word="cpu"), None, "GPUs to use, or "
         "cpu; IMLE takes one"),
    ])
    # fmt: on
    add_table(parser, "IMLE", IMLE)
    add_table(parser, "EDM2", EDM2)
    parser.add_argument(
        "--guidance", "--guide-weight", "--no-guidance", action=GuidanceAction, type=finite_float,
        nargs="?", metavar="W", help="weight of the guidance: GUIDE + W * (NET - GUIDE); 1: none",
    )  # fmt: skip
    args = parse(parser, PRESETS, argv)
    if args.net is None and args.preset not in ("smoke", "smoke-edm2"):
        parser.error("--net is missing: a .safetensors file of a run's snapshots folder")
    ranges = args.seeds or [SEEDS]
    if sum(map(len, ranges)) > MAX_SEEDS:
        parser.error(f"--seeds: {sum(map(len, ranges))} of them, at most {MAX_SEEDS} at a time")
    args.seeds = list(dict.fromkeys(seed for r in ranges for seed in r))
    args.guidance = 1.0 if args.guidance is None else args.guidance
    weights = args.sweep_guidance or [args.guidance]
    if args.gnet is None and (args.guidance_interval or any(w != 1 for w in weights)):
        parser.error(f"--guidance {weights[-1]:g}: the guide is missing, --gnet FILE")
    if len(args.guidance_interval or [0, 1]) != 2:
        parser.error(f"--guidance_interval {args.guidance_interval}: two levels, LO HI")
    try:
        sigma_levels(args.steps, args.sigma_min, args.sigma_max, args.rho)
        guided(min, min, 2.0, args.guidance_interval)
    except ValueError as error:
        parser.error(str(error))
    if args.sweep_ema and args.net is None:
        parser.error("--sweep_ema takes the siblings of a --net")
    for option, names in (
        ("--sweep_guidance", [f"{w:g}" for w in weights]),
        ("--sweep_ema", [f"{ema:.3f}" for ema in args.sweep_ema or []]),
    ):
        if len(set(names)) < len(names):
            parser.error(f"{option} {' '.join(names)}: values not told apart in names of folders")
    if args.trajectory and args.grid_only:
        parser.error("--trajectory writes single images, --grid_only none")
    if args.S_min > args.S_max:
        parser.error(f"--S_min {args.S_min:g} is above --S_max {args.S_max:g}")
    return args


def main(args: argparse.Namespace) -> None:
    device = choose_device(args.gpus)
    distributed.init(device)
    file = find_network(args.net) if args.net else None
    snapshot = open_network(file, say) if file else untrained(args.preset)
    if file is None:
        say("no --net: an untrained network with random weights, its images mean nothing")
    if snapshot.kind == "edm2":
        check_unused(args, IMLE, snapshot)
        edm2_images(args, file, snapshot, device)
    else:
        check_unused(args, EDM2, snapshot)
        imle_images(args, snapshot, device)


def say(line: str) -> None:
    if distributed.is_main():
        print(line, flush=True)


def check_unused(args: argparse.Namespace, rows: list[tuple], snapshot: Snapshot) -> None:
    """An option of another kind of network does not pass silently. Errors: UsageError."""
    for name, _, default, _ in rows:
        value = getattr(args, name[2:])
        if value != (SEEDS if name == "--seeds" else default):
            raise UsageError(f"{name} {value}: no use for it with a network of {snapshot.kind}")


def untrained(preset: str) -> Snapshot:
    """A tiny network with random weights, so that the smoke presets need no earlier run."""
    torch.manual_seed(0)
    if preset == "smoke-edm2":
        net = Precond(16, 3, 4, model_channels=8, channel_mult=[1, 2], num_blocks=1)
        torch.nn.init.ones_(net.unet.out_gain)  # 0 would be no network at all
        config = {"net": net.config, "encoder": {"name": "rgb"}, "classes": list("abcd")}
        return Snapshot(net.state_dict(), "edm2", config, {})
    net = CAMNet(res=[16, 32], resid_nc=[8], dense_nc=[4], n_blocks=1, map_nc=8, latent_nc=16)
    config = {"net": net.config, "codes": {}, "corruption": {}, "crop": "squash"}
    return Snapshot(net.state_dict(), "camnet", config, {})


def build(snapshot: Snapshot) -> torch.nn.Module:
    """The snapshot's network in evaluation mode, on the CPU. Errors: CheckpointError."""
    kinds = {"camnet": CAMNet, "imle-unconditional": UnconditionalGenerator, "edm2": Precond}
    if snapshot.kind not in kinds:
        raise CheckpointError(f"a {snapshot.kind!r} snapshot: this script knows {sorted(kinds)}")
    try:
        net = kinds[snapshot.kind](**snapshot.config["net"])
        net.load_state_dict(snapshot.state_dict)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        what = " ".join(str(error).split())[:200]
        raise CheckpointError(f"the {snapshot.kind} snapshot does not fit itself: {what}") from None
    return net.eval().requires_grad_(False)


def facts_of(args: argparse.Namespace, snapshot: Snapshot, folder: Path) -> dict[str, Any]:
    """For provenance.json: what was asked, which network, and which version of this toolkit."""
    origin = collect(folder)
    asked = {name: plain(value) for name, value in vars(args).items()}
    asked["seeds"] = compact_seeds(args.seeds)
    toolkit = {k: origin[k] for k in ("command", "git", "python")} | {"torch": torch.__version__}
    return {
        "args": asked, "kind": snapshot.kind, "snapshot": snapshot.provenance, "toolkit": toolkit
    }  # fmt: skip


def plain(value: Any) -> Any:
    """For JSON, which has no infinity."""
    if isinstance(value, list):
        return [plain(v) for v in value]
    return str(value) if value == math.inf else value


# ------------------------------------------------------------------------------------------- EDM2


class Model(NamedTuple):
    """A diffusion network, ready to be asked."""

    net: torch.nn.Module
    encoder: Encoder
    classes: list[str]  # names, or numbers where there are none
    key: str  # tells its weights from others
    snapshot: Snapshot


def edm2_images(
    args: argparse.Namespace, file: Path | None, snapshot: Snapshot, device: torch.device
) -> None:
    """All that the command asks of a diffusion network: a folder, or one for each point of a sweep.

    A sweep has a row for each EMA length and a column for each weight of the guidance.
    """
    emas, weights = args.sweep_ema or [None], args.sweep_guidance or [args.guidance]
    files = [file if ema is None else ema_sibling(file, ema) for ema in emas]
    model, guide = edm2_model(args, file, snapshot, device), None
    # Now rather than after an hour: a VAE that is not there, channels that are no image.
    probe = model.encoder.decode(torch.zeros(1, model.net.img_channels, 8, 8, device=device))
    if probe.shape[1] not in (1, 3):
        raise UsageError(f"{file} makes {probe.shape[1]} channels, which are no picture")
    if args.gnet and all(w == 1 for w in weights):
        say("guidance 1: --gnet has no influence and is not read")
    elif args.gnet:
        guide = edm2_guide(args, model, device)
    outdir = Path(args.outdir or default_outdir(args, file, settings_of(args, model, guide, None)))
    if not args.sweep_ema and not args.sweep_guidance:
        grid = draw(args, model, guide, args.guidance, outdir, device)
        say(f"{len(args.seeds)} seeds; grid: {grid}")
        return
    points = [
        {"folder": (f"ema{ema:.3f}-" if ema else "") + f"guidance{weight:g}", "ema": ema,
         "guidance": weight, "net": str(own)}
        for ema, own in zip(emas, files, strict=True) for weight in weights
    ]  # fmt: skip
    for k, point in enumerate(points):
        say(f"{point['folder']} ({k + 1} of {len(points)})")
        own = files[k // len(weights)]
        if own != file:
            model, file = edm2_model(args, own, open_network(own, say), device), own
        draw(args, model, guide, point["guidance"], outdir / point["folder"], device)
        if distributed.is_main():  # after every point: an interrupted sweep has its sheet
            write_sweep(args, outdir, points, emas, weights)
    say(f"{len(points)} points; sheet: {outdir / 'sheet.png'}")


def edm2_model(
    args: argparse.Namespace, file: Path | None, snapshot: Snapshot, device: torch.device
) -> Model:
    """The network on the device, in the number format asked for.

    Errors: UsageError, CheckpointError.
    """
    net = build(snapshot).to(device)
    precision = Precision(args.precision or "fp32", device)
    precision.apply_tf32_policy()
    if args.precision is not None:
        net.compute_dtype = precision.dtype
    names = snapshot.config.get("classes") or [str(i) for i in range(net.label_dim)]
    if not isinstance(names, list):
        raise CheckpointError(f"{file}: classes {names!r} are no list of names")
    try:
        encoder = make_encoder(snapshot.config["encoder"], vae=args.vae)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{file}: no usable encoder ({error})") from None
    key = identity(file) if file else "untrained"
    called = torch.compile(net) if args.compile else net
    return Model(called, encoder, names[: net.label_dim], key, snapshot)


def edm2_guide(args: argparse.Namespace, model: Model, device: torch.device) -> Model:
    """The network of --gnet. Errors: UsageError if it is no guide for the model's."""
    file = find_network(args.gnet)
    snapshot = open_network(file, say)
    if snapshot.kind != "edm2":
        raise UsageError(f"--gnet {args.gnet} holds a {snapshot.kind!r} network, not edm2")
    guide = edm2_model(args, file, snapshot, device)
    try:
        check_guide(model.net, guide.net)
    except ValueError as error:
        raise UsageError(f"--gnet {args.gnet}: {error}") from None
    if guide.encoder.config != model.encoder.config:
        raise UsageError(f"--gnet {args.gnet} works on the latents of another encoder")
    return guide


def draw(
    args: argparse.Namespace,
    model: Model,
    guide: Model | None,
    guidance: float,
    folder: Path,
    device: torch.device,
) -> Path:
    """Images of all seeds under one setting, as far as they are missing; returns their grid."""
    names, shown, ncol = choose_images(args, model)
    strips = {i: n.replace(".png", "_trajectory.png") for i, n in names.items() if args.trajectory}
    wanted = [*names.values(), *strips.values()]
    gallery = Gallery(folder, settings_of(args, model, guide, guidance), overwrite=args.overwrite)
    grid = folder / "grid.png"
    if args.grid_only and gallery.finished(wanted) and grid.exists():
        say(f"{folder}: the grid is there already")
        return grid
    there = gallery.start(wanted)
    facts = facts_of(args, model.snapshot, folder) if distributed.is_main() else {}
    facts["guide"] = guide.snapshot.provenance if guide else None
    gallery.describe(facts)
    todo = [i for i in names if not there.issuperset({names[i], strips.get(i, names[i])})]
    if len(todo) < len(names):
        say(f"{len(names) - len(todo)} of {len(names)} images are there already")

    sampler = functools.partial(
        heun, steps=args.steps, sigma_min=args.sigma_min, sigma_max=args.sigma_max, rho=args.rho,
        S_churn=args.S_churn, S_min=args.S_min, S_max=args.S_max, S_noise=args.S_noise,
    )  # fmt: skip
    rank, world = distributed.rank(), distributed.world_size()
    batches = split_batches(todo, args.batch, rank=rank, world=world)
    drawing = generate(
        model.net, batches, sampler, device=device, classes=len(model.classes),
        guide=guide and guide.net, guidance=guidance, interval=args.guidance_interval,
        keep_every=2 if args.trajectory else 0,  # Heun's method asks twice a step
    )  # fmt: skip
    with Progress(sum(map(len, batches)), desc=folder.name, unit="image") as bar:
        for batch, drawn in zip(batches, drawing, strict=True):
            if not torch.isfinite(drawn.latents).all():
                seeds = compact_seeds([item.seed for item in batch])
                raise NonFiniteError(f"seeds {seeds}: not finite; {NOT_FINITE}")
            images = model.encoder.decode(drawn.latents).cpu()
            for n, item in enumerate(batch):
                if args.trajectory:
                    way = model.encoder.decode(drawn.denoised[:, n]).float() / 255
                    save_grid(folder / strips[item], way, ncol=min(8, len(way)))
                gallery.add(names[item], images[n])
            bar.update(len(batch))
    distributed.barrier()
    if distributed.is_main():
        grid_of_files(grid, [folder / names[item] for item in shown], ncol)
        if args.grid_only:
            shutil.rmtree(folder / PARTS)
    gallery.describe(facts, finished=wanted)
    return grid


def choose_images(
    args: argparse.Namespace, model: Model
) -> tuple[dict[Item, str], list[Item], int]:
    """What to draw, with file names; which of it the grid shows, in how many columns.

    Errors: UsageError.
    """
    count, words = len(model.classes), vars(args)["class"]
    if words and not count:
        raise UsageError(f"--class {' '.join(words)}: this network has no classes")
    if words:
        wanted = range(count) if words == ["all"] else [class_number(w, model) for w in words]
        classes = list(dict.fromkeys(wanted))
        items = [Item(seed, c) for seed in args.seeds for c in classes]
    elif count and not args.random:
        items = [Item(seed, seed % count) for seed in args.seeds]
    elif count and args.name_class:
        drawn = seed_classes(model.net, args.seeds, count)
        items = [Item(seed, c) for seed, c in zip(args.seeds, drawn, strict=True)]
    else:
        items = [Item(seed) for seed in args.seeds]

    shown, ncol = items[:GRID], math.ceil(min(len(items), GRID) ** 0.5)
    if words and len(classes) > 1:  # a row for each class
        seeds = args.seeds[: max(1, min(10, GRID // len(classes)))]
        shown, ncol = [Item(seed, c) for c in classes[:GRID] for seed in seeds], len(seeds)

    def name(item: Item) -> str:
        folder = f"{item.seed // 1000 * 1000:06d}/" if args.subdirs else ""
        after = f"_{item.label:05d}" if has_class(args, model) else ""
        return f"{PARTS if args.grid_only else folder}{item.seed:06d}{after}.png"

    return {item: name(item) for item in (shown if args.grid_only else items)}, shown, ncol


def class_number(word: str, model: Model) -> int:
    """A class by number or by name. Errors: UsageError."""
    if word.isdigit() and int(word) < len(model.classes):
        return int(word)
    if word in model.classes:
        return model.classes.index(word)
    few = f" ({', '.join(model.classes)})" if len(model.classes) <= 20 else ""
    raise UsageError(
        f"--class {word}: classes are 0 to {len(model.classes) - 1}, their names{few}, or all"
    )


def has_class(args: argparse.Namespace, model: Model) -> bool:
    """Whether file names tell the class."""
    words = vars(args)["class"] or []
    return bool(model.classes) and (args.name_class or len(words) > 1 or words == ["all"])


def settings_of(
    args: argparse.Namespace, model: Model, guide: Model | None, guidance: float | None
) -> dict[str, Any]:
    """What decides how the image of a file name looks, as JSON values."""
    used = guide is not None and guidance != 1
    sampler = ("steps", "sigma_min", "sigma_max", "rho", "S_churn", "S_min", "S_max", "S_noise")
    rule = vars(args)["class"] or ("random" if args.random else "seed modulo classes")
    return {
        "net": model.key,
        "guide": guide.key if used else None,
        "guidance": guidance,
        "guidance_interval": plain(args.guidance_interval) if used else None,
        **{name: plain(getattr(args, name)) for name in sampler},
        "class": "in the names" if has_class(args, model) else rule,
        "precision": args.precision,
        "vae": args.vae,
    }


def default_outdir(args: argparse.Namespace, file: Path | None, settings: dict[str, Any]) -> Path:
    """RESULTS/generate_images/NAME-HASH, the same for the same settings, whatever the seeds."""
    sweep = [args.sweep_ema or [], args.sweep_guidance or [args.guidance]]
    key = hashlib.sha256(json.dumps([settings, sweep]).encode()).hexdigest()[:8]
    name = file.name.removesuffix(file.suffix) if file else args.preset
    return results_home() / "generate_images" / f"{name}-{key}"


def write_sweep(
    args: argparse.Namespace,
    outdir: Path,
    points: list[dict[str, Any]],
    emas: list[float | None],
    weights: list[float],
) -> None:
    """sheet.png with a labelled cell for each finished point, and sweep.json with its settings."""
    done = []
    for point in points:
        facts = read_facts(outdir / point["folder"]) or {}
        if facts.get("done"):
            done.append(point | {"settings": facts["settings"]})
    grids = {(p["ema"], p["guidance"]): outdir / p["folder"] / "grid.png" for p in done}
    labelled_sheet(
        outdir / "sheet.png",
        [[grids.get((ema, weight)) for weight in weights] for ema in emas],
        rows=[f"EMA {ema:.3f}" if ema else "" for ema in emas],
        columns=[f"guidance {weight:g}" for weight in weights],
    )
    whole = {"emas": emas, "weights": weights, "seeds": compact_seeds(args.seeds), "points": done}
    write_text(outdir / "sweep.json", json.dumps(whole, indent=1))


# ------------------------------------------------------------------------------------------- IMLE


def imle_images(args: argparse.Namespace, snapshot: Snapshot, device: torch.device) -> None:
    """`samples` images for each input; those of an unconditional network are rows of the grid."""
    if args.gpus and len(args.gpus) > 1:
        raise UsageError(f"--gpus {args.gpus}: sampling of IMLE takes one GPU")
    if not distributed.is_main():
        return
    torch.manual_seed(args.seed)
    net = build(snapshot).to(device)
    z = CodeGenerator(net.code_sizes, **{**snapshot.config["codes"], "seed": args.seed})
    precision = Precision(args.precision or "fp32", device)

    if snapshot.kind == "imle-unconditional":
        names = [f"row{i:04d}" for i in range(args.num_images)]
        ids, cx = torch.arange(args.num_images), torch.zeros(args.num_images, 0)
    else:
        names, ids, x = load_inputs(args, snapshot)
        corruption = Corruption(**snapshot.config["corruption"], seed=args.seed)
        cx = corruption.keyed(x, SAMPLING_LOOP, ids)

    outdir = Path(args.outdir) if args.outdir else results_home() / "generate_images"
    try:
        outdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--outdir {outdir}: {error.strerror}") from error
    rows = []
    for name, i, c in zip(names, ids.split(1), cx.split(1), strict=True):
        with precision.autocast():
            images = draw_samples(
                net, z, c.to(device), i.to(device), args.samples,
                loop=SAMPLING_LOOP, first=args.first, parallel=args.batch,
            )[0].float().cpu().clamp(0, 1)  # fmt: skip
        if not args.grid_only:
            for k, image in enumerate(images):
                save_grid(outdir / f"{name}_{args.first + k}.png", image[None], ncol=1)
        rows.append(torch.cat([enlarge(c, images.shape[-1]), images]) if c.numel() else images)
    grid = save_grid(outdir / "grid.png", torch.cat(rows), ncol=len(rows[0]))
    write_text(outdir / FACTS, json.dumps(facts_of(args, snapshot, outdir), indent=1))
    print(f"{len(rows)} x {args.samples} samples; grid: {grid}")


def load_inputs(args: argparse.Namespace, snapshot: Snapshot) -> tuple[list[str], Tensor, Tensor]:
    """Names, ids [N] and inputs [N, 3, r0, r0] in [0, 1], evenly spaced over the data."""
    if args.data is None:
        raise UsageError("--data is missing: this network needs input images")
    source = open_source(args.data, Path(args.data_path or data_home()), split="val")
    pyramid = Pyramid(source, snapshot.config["net"]["res"][:1], crop=snapshot.config["crop"])
    count = min(args.num_images, len(source))
    ids = [i * len(source) // count for i in range(count)]
    names = [f"{i:06d}_{Path(source.path(i)).stem}" for i in ids]
    x = torch.stack([pyramid[i][0] for i in ids]).float() / 255
    return names, torch.tensor(ids), x


def enlarge(x: Tensor, size: int) -> Tensor:
    """Inputs [N, 3, h, h] shown at `size` with their pixels visible."""
    return torch.nn.functional.interpolate(x, size=size, mode="nearest")


if __name__ == "__main__":
    launch(main, get_args())
