"""Views for contrastive learning, drawn once and kept: k samples of a generator for every picture.

    python generate_views.py --net RUN/snapshots/network-latest --data DIR --size 64 --views 8 \\
        --out DIR_views
    python generate_views.py --net FILE --data DIR --size 128 --views 8 --format lmdb --out OUT
    python generate_views.py --preset smoke --out OUT         # embedded data, untrained, seconds

Formats: folder (SPLIT/CLASS/<picture>_aug<j>.png, an ImageFolder), lmdb (raw pixels), memmap (one
array, the fastest to train on). TrainISICLE.py --views cache --cache OUT reads all three. View j of
a picture is what TrainISICLE.py draws online as its draw j, to the bit if --view_precision,
--view_batch and the machine are the same. The same command goes on after an interruption.

TrainISICLE.py takes from here how a snapshot becomes a source of views; another generator is one
entry of SAMPLERS.
"""

import argparse
import contextlib
import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from data.registry import open_source
from data.sources import Subset, evenly
from data.uint8_cache import UInt8Cache
from data.views.generated import (
    Acceptance,
    FilteredViews,
    GeneratedViews,
    Sampler,
    UpsampledViews,
    ViewSource,
    to_size,
)
from data.views.stored import FORMATS, ViewWriter, root_ids, root_of
from generate_images import build, untrained
from imle import CAMNet, CodeGenerator, Corruption
from imle.perceptual import MIN_SIDE
from recipes.imle.perceptual import perceptual_loss
from runtime import distributed
from runtime.cli import parse
from runtime.launch import launch
from runtime.networks import open_network
from runtime.options import add_table
from runtime.place import choose_device
from runtime.precision import Precision
from runtime.preemption import PreemptionFlag
from runtime.progress import Progress
from runtime.provenance import collect
from runtime.types import (
    list_of,
    nonnegative_float,
    nonnegative_int,
    one_of,
    positive_float,
    positive_int,
    probability,
    text,
)
from storage.dirs import data_home, results_home
from storage.errors import CheckpointError, Preempted, UsageError
from storage.find import find_network, identity
from storage.snapshot import Snapshot

VIEW_LOOP = -4  # the codes' "loop" of views, apart from training (>= 0), validation and sampling
CODES = ("random", "fixed")
CORRUPTION = ("grayscale", "mask_frac", "mask_res", "fill")

# fmt: off
PRESETS = {
    "smoke": {
        "_help": "embedded scenes, CPU, an untrained generator unless --net is given",
        "data": "scenes", "num_images": 6, "views": 3, "view_batch": 8, "gpus": [],
    },
}
# fmt: on

# ------------------------------------------------------------------------- generators by their kind


class CAMNetSampler:
    """Draws from a CAM-Net: data.views.generated.Sampler.

    net: trained; only the levels up to the first image of at least `size` (None: its largest) are
    kept, frozen, and run without gradient. codes: settings of CodeGenerator; corruption: of
    Corruption; seed: of both. temperature scales the codes. truncation t: codes from the normal
    distribution within (-t, t) (not for mixtures). code "fixed": one code for every picture and
    draw, a control. lr_factor n: inputs lose the detail below n pixels first. precision: fp32, bf16
    or auto.
    Errors: UsageError for settings that cannot be.
    """

    def __init__(
        self,
        net: CAMNet,
        size: int | None,
        *,
        codes: Mapping[str, Any] | None = None,
        corruption: Mapping[str, Any] | None = None,
        seed: int = 0,
        temperature: float = 1.0,
        truncation: float | None = None,
        code: str = "random",
        lr_factor: int = 1,
        precision: str = "fp32",
        channels_last: bool = True,
        device: torch.device | str = "cpu",
    ) -> None:
        c = net.config
        if (c["in_nc"], c["head"]) != (3, "rgb") or c["feedback"] == "none":
            raise UsageError("this CAM-Net does not take RGB pictures and give RGB pictures")
        if code not in CODES:
            raise UsageError(f"code {code!r} is none of {', '.join(CODES)}")
        if not 0 <= temperature < math.inf or not (truncation is None or truncation > 0):
            raise UsageError(
                f"temperature {temperature}, truncation {truncation}: positive, finite"
            )
        size = net.res[-1] if size is None else int(size)
        self.size, self.input_size = size, net.res[0]
        if self.input_size % lr_factor:
            raise UsageError(f"lr_factor {lr_factor} does not divide inputs of {self.input_size}")
        self.levels = next((i + 1 for i, r in enumerate(net.res[1:]) if r >= size), net.levels)
        self.image_size = net.res[self.levels]
        self.temperature, self.truncation, self.code = temperature, truncation, code
        self.lr_factor, self.channels_last = lr_factor, channels_last
        self.device = torch.device(device)
        self.dtype = Precision(precision, self.device).dtype
        self._codes = CodeGenerator(net.code_sizes, **{**(codes or {}), "seed": seed})
        if truncation is not None and self._codes.method != "normal":
            raise UsageError("--truncation is for normal codes, this generator has a mixture")
        try:
            self._corruption = Corruption(**{**(corruption or {}), "seed": seed})
        except ValueError as error:
            raise UsageError(str(error)) from None
        if self._corruption.mask_frac and self._corruption.mask_res > self.input_size:
            raise UsageError(
                f"--mask_res {self._corruption.mask_res} is finer than inputs of "
                f"{self.input_size} pixels"
            )
        self.update(net)

    def update(self, net: CAMNet) -> None:
        """Draw from the weights that `net` has now (in joint training: after every phase)."""
        frozen = net.scorer(dtype=self.dtype, channels_last=self.channels_last).to(self.device)
        frozen._modules["levels"] = nn.ModuleList(list(frozen.stages)[: self.levels])
        self._net = frozen

    def corrupt(self, inputs: Tensor, ids: Tensor) -> Tensor:
        """Inputs float [B, 3, r0, r0] as the generator is shown them, whatever the draw."""
        if self.lr_factor > 1:
            small = to_size(inputs, self.input_size // self.lr_factor)
            inputs = to_size(small, self.input_size).clamp(0, 1)
        return self._corruption.keyed(inputs, VIEW_LOOP, ids)

    @torch.no_grad()
    def sample(self, inputs: Tensor, ids: Tensor, draw: Tensor) -> Tensor:
        """Images float32 [B, 3, size, size] of corrupted inputs; ids, draw int64 [B]."""
        codes = [self.codes(level, ids, draw) for level in range(self.levels)]
        return to_size(self._net(inputs, codes, loi=-1).float(), self.size)

    def codes(self, level: int, ids: Tensor, draw: Tensor) -> Tensor:
        """The codes of a level, float32 [B, d_level]."""
        if self.code == "fixed":
            nought = torch.zeros_like(ids[:1])
            z = self._codes.draw(level, VIEW_LOOP, nought, nought).expand(len(ids), -1)
        else:
            z = self._codes.draw(level, VIEW_LOOP, ids, draw[:, None])
        if self.truncation is not None:
            z = truncated(z, self.truncation)
        return z * self.temperature


def truncated(z: Tensor, bound: float) -> Tensor:
    """Standard normals mapped, keeping their order, to normals within (-bound, bound).

    By the distribution function: x = F^-1(F(-b) + F(z) (1 - 2 F(-b))), in the lower half, where
    numbers are fine-grained, and mirrored; in float64, as torch's float32 F is 1 % off in the tail.
    """
    outside = 0.5 * math.erfc(bound / math.sqrt(2))
    lower = torch.special.ndtr(-z.abs().double()) * (1 - 2 * outside) + outside
    return (-torch.special.ndtri(lower) * z.sign()).to(z.dtype)


def camnet_sampler(snapshot: Snapshot, **options: Any) -> CAMNetSampler:
    """The registry's entry of kind "camnet"."""
    config = snapshot.config
    corruption = {**config.get("corruption", {}), **options.pop("corruption")}
    return CAMNetSampler(
        build(snapshot), codes=config.get("codes"), corruption=corruption, **options
    )


# Kinds of snapshots that give images of an image: kind -> (snapshot, options) -> Sampler.
SAMPLERS: dict[str, Callable[..., Sampler]] = {"camnet": camnet_sampler}


def view_sampler(
    snapshot: Snapshot,
    *,
    size: int | None,
    corruption: Mapping[str, Any] | None = None,
    seed: int = 0,
    temperature: float = 1.0,
    truncation: float | None = None,
    code: str = "random",
    lr_factor: int = 1,
    precision: str = "fp32",
    channels_last: bool = True,
    device: torch.device | str = "cpu",
) -> Sampler:
    """A snapshot as a source of images at `size`; options as in CAMNetSampler.

    corruption: what shall differ from the generator's own. Errors: CheckpointError for a kind that
    is not in SAMPLERS or weights that are not finite.
    """
    if snapshot.kind not in SAMPLERS:
        raise CheckpointError(
            f"a {snapshot.kind!r} snapshot gives no images of an image; those that do: "
            f"{', '.join(SAMPLERS)}"
        )
    for name, tensor in snapshot.state_dict.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise CheckpointError(f"the {snapshot.kind} snapshot has no finite weights in {name}")
    return SAMPLERS[snapshot.kind](
        snapshot,
        size=size,
        corruption=dict(corruption or {}),
        seed=seed,
        temperature=temperature,
        truncation=truncation,
        code=code,
        lr_factor=lr_factor,
        precision=precision,
        channels_last=channels_last,
        device=device,
    )


# ------------------------------------------------------------------ options shared with TrainISICLE

# fmt: off
GENERATOR = [
    ("--view_source", ("generated", "upsampled"), "generated", "upsampled: the generator's input, "
     "enlarged (a control)"),
    ("--code", CODES, "random", "fixed: one code for all pictures and draws (a control)"),
    ("--temperature", nonnegative_float, 1.0, "scale of the codes"),
    ("--truncation", positive_float, None, "bound of the codes' entries, before the temperature"),
    ("--grayscale", one_of(0, 0.5, 1), None, "of the generator's input (default: as trained)"),
    ("--mask_frac", probability, None, "the same"),
    ("--mask_res", positive_int, None, "the same"),
    ("--fill", ("color", "zero"), None, "the same"),
    ("--lr_factor", positive_int, 1, "coarsen the input so many times beside what was trained"),
    ("--lpips_min", nonnegative_float, None, "reject views nearer than this to the picture"),
    ("--lpips_max", positive_float, None, "reject views further than this from the picture"),
    ("--tries", positive_int, 4, "draws before the picture itself stands in"),
    ("--lpips", ("pretrained", "random"), "pretrained", "random: a seeded random VGG16"),
    ("--lpips_path", text, None, "VGG16 weights (default: from SetupDataset.py fetch-weights)"),
    ("--view_seed", nonnegative_int, 0, "of codes and corruptions"),
    ("--view_batch", positive_int, 64, "images generated at a time"),
    ("--view_precision", ("auto", "fp32", "bf16"), "auto", "of the generator"),
    ("--view_channels_last", bool, True, "memory format of the generator"),
]
# fmt: on


def add_generator_args(parser: argparse.ArgumentParser) -> None:
    """--net and the table GENERATOR."""
    parser.add_argument("--net", "--snapshot", type=text, metavar="FILE", help=(
        "the generator: a .safetensors file of a run's snapshots folder"))  # fmt: skip
    add_table(parser, "views from a generator", GENERATOR)


def check_generator_args(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Rules between the options of GENERATOR; a breach ends with code 2."""
    low, high = args.lpips_min or 0.0, args.lpips_max
    if high is not None and low >= high:
        parser.error(f"--lpips_min {low:g} is not below --lpips_max {high:g}")


def open_generator(
    args: argparse.Namespace,
    size: int | None,
    device: torch.device,
    say: Callable[[str], Any] = print,
) -> tuple[Sampler, dict[str, Any]]:
    """The sampler of args.net (untrained without one) and the settings that decide its pixels."""
    if args.net is None:
        say("no --net: an untrained generator with random weights, its views mean nothing")
        snapshot, content = untrained("smoke"), "untrained"
    else:
        file = find_network(args.net, "TrainGeneratorWandB")
        snapshot, content = open_network(file, say), identity(file)
    corruption = {k: getattr(args, k) for k in CORRUPTION if getattr(args, k) is not None}
    options: dict[str, Any] = {
        "size": size,
        "corruption": corruption,
        "seed": args.view_seed,
        "temperature": args.temperature,
        "truncation": args.truncation,
        "code": args.code,
        "lr_factor": args.lr_factor,
        "precision": Precision(args.view_precision, device).name,
        "channels_last": args.view_channels_last,
    }
    sampler = view_sampler(snapshot, **options, device=device)
    options["size"] = sampler.size
    if sampler.image_size < sampler.size and args.view_source == "generated":
        say(f"the generator gives {sampler.image_size} px: views of {sampler.size} px are enlarged")
    filtered = None
    if is_filtered(args):
        filtered = [args.lpips_min or 0.0, args.lpips_max, args.tries, args.lpips]
    facts = {"rows": args.view_batch, "source": args.view_source, "filter": filtered}
    return sampler, {"kind": snapshot.kind, "snapshot": content, **options, **facts}


def is_filtered(args: argparse.Namespace) -> bool:
    """Whether a bound of the distance is given."""
    return args.lpips_min is not None or args.lpips_max is not None


def view_source(
    args: argparse.Namespace,
    sampler: Sampler,
    inputs: Tensor,
    real: Tensor | None = None,
    keys: Tensor | None = None,
) -> ViewSource:
    """The source of views that the options ask for.

    inputs: uint8 [N, 3, sampler.input_size, sampler.input_size]; real: uint8 [N, 3, size, size],
    needed by the filter alone; keys: int64 [N] (data.views.stored.root_ids), all on the device.
    """
    if args.view_source == "upsampled":
        source: Any = UpsampledViews(inputs, sampler.size, corrupt=sampler.corrupt, keys=keys)
    else:
        source = GeneratedViews(inputs, sampler, keys=keys, rows=args.view_batch)
    if not is_filtered(args):
        return source
    if sampler.size < MIN_SIDE:
        raise UsageError(
            f"--lpips_min and --lpips_max: VGG16 sees no views below {MIN_SIDE} px, these have "
            f"{sampler.size}"
        )
    if real is None:
        raise UsageError("--lpips_min and --lpips_max compare with the real pictures: none given")
    low, high = args.lpips_min or 0.0, args.lpips_max or math.inf
    loss = perceptual_loss(args.lpips, args.lpips_path, alpha=0.0).to(real.device)
    return FilteredViews(source, real, loss, low, high, tries=args.tries, rows=args.view_batch)


# -------------------------------------------------------------------------------------- the command


def get_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Options of this script; a wrong one exits with code 2."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    # fmt: off
    add_table(parser, "what and where", [
        ("--data", text, None, "pictures: NAME, NAME/SPLIT, a folder, a zip or an LMDB"),
        ("--data_path", text, None, "where data sets are stored (default: the data directory)"),
        ("--split", ("train", "val", "test"), "train", "where --data names none"),
        ("--num_images", positive_int, None, "so many of them alone: those that "
         "TrainISICLE.py takes"),
        ("--crop", ("center", "squash"), "center", "how pictures that are not square become it"),
        ("--views", positive_int, 8, "views of each picture"),
        ("--first", nonnegative_int, 0, "number of the first view"),
        ("--size", positive_int, None, "side of the views (default: the generator's largest)"),
        ("--format", FORMATS, "folder", "how they are stored"),
        ("--out", text, None, "the folder (default: under the results directory)"),
        ("--num_workers", nonnegative_int, 0, "processes that decode pictures"),
        ("--gpus", list_of(nonnegative_int, unique=True, empty_word="cpu"), None, "GPUs to use, or "
         "cpu"),
    ])
    # fmt: on
    add_generator_args(parser)
    args = parse(parser, PRESETS, argv)
    if args.net is None and args.preset != "smoke":
        parser.error("--net is missing: a .safetensors file of a run's snapshots folder")
    if args.data is None:
        parser.error("--data is missing: a data set's name or a folder (built in: scenes)")
    check_generator_args(parser, args)
    return args


def main(args: argparse.Namespace) -> None:
    device = choose_device(args.gpus)
    distributed.init(device)
    flag = PreemptionFlag()
    flag.install()
    try:
        generate(args, device, flag)
    finally:
        flag.restore()


def generate(args: argparse.Namespace, device: torch.device, flag: PreemptionFlag) -> None:
    """All views that are not there yet."""
    whole = open_source(args.data, args.data_path or data_home(), split=args.split)
    source = evenly(whole, args.num_images)
    split = getattr(root_of(source)[0], "split", None) or args.split
    sampler, settings = open_generator(args, args.size, device, say)
    settings |= {"crop": args.crop}
    out = Path(args.out) if args.out else default_out(whole.name, settings, args)
    with contextlib.ExitStack() as stack:
        writer = None
        if distributed.is_main():
            writer = stack.enter_context(
                ViewWriter(
                    out, source, k=args.views, size=sampler.size, format=args.format,
                    split=split, first=args.first, settings=settings,
                )
            )  # fmt: skip
        done = distributed.gather_object(writer.done if writer else 0)[0]
        say(f"{out}: {done} of {len(source)} pictures have their {args.views} views")
        report = {}
        if done < len(source):
            rest = Subset(source, range(done, len(source)))
            report = draw_rest(args, sampler, rest, done, device, writer, flag)
        if writer is not None:
            finish(args, writer, report, len(source))
        distributed.barrier()


def draw_rest(
    args: argparse.Namespace,
    sampler: Sampler,
    rest: Subset,
    done: int,
    device: torch.device,
    writer: ViewWriter | None,
    flag: PreemptionFlag,
) -> dict[str, float]:
    """Draw and write the views of the pictures that are left, shared by all ranks; figures."""
    cache = partial(
        UInt8Cache, rest, crop=args.crop, workers=args.num_workers, quiet=writer is None
    )
    inputs = cache(sampler.input_size).to(device).images
    real = cache(sampler.size).to(device).images if is_filtered(args) else None
    source = view_source(args, sampler, inputs, real, root_ids(rest))
    rank, world = distributed.rank(), distributed.world_size()
    turn = pictures_at_once(args.views, args.view_batch) * world
    numbers = args.first + torch.arange(args.views, device=device)
    seconds, cpu_seconds, drawn, report = 0.0, 0.0, 0, {}
    counts = torch.zeros(4, dtype=torch.int64, device=device)
    total = done + len(rest)
    with Progress(total, desc="views", unit="picture", initial=done) as bar:
        for start in range(0, len(rest), turn):
            ids = torch.arange(start, min(start + turn, len(rest)), device=device)
            spare = -len(ids) % world  # every rank has as many; the last picture again
            mine = torch.cat([ids, ids[-1:].expand(spare)])[rank::world]
            begin, worked = time.perf_counter(), time.process_time()
            views = source(mine.repeat_interleave(args.views), numbers.repeat(len(mine)))
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if start or turn >= len(rest):  # the first turn also prepares
                seconds, drawn = seconds + time.perf_counter() - begin, drawn + len(views)
                cpu_seconds += time.process_time() - worked
            views = distributed.interleave(views.unflatten(0, (len(mine), args.views)))
            if isinstance(source, FilteredViews):
                counts += torch.stack(list(source.take_counts()))
            if writer is not None:
                writer.put(views[: len(ids)])
            bar.update(len(ids))
            if drawn:
                report = {"ms_per_view": 1000 * seconds / drawn}
                if device.type == "cpu":  # on a shared machine the cost is this
                    report["cpu_ms_per_view"] = 1000 * cpu_seconds / drawn
            if isinstance(source, FilteredViews):
                report |= Acceptance(*distributed.all_reduce_sum(counts.clone())).figures()
            bar.postfix(report)
            where = done + start + len(ids)
            if distributed.all_reduce_max(int(flag.is_set)) and where < total:
                raise Preempted(
                    f"{flag.signal or 'a signal'}: {where} of {total} pictures are done; the same "
                    "command goes on"
                )
    return report


def finish(
    args: argparse.Namespace, writer: ViewWriter, report: dict[str, float], pictures: int
) -> None:
    """Say that all of it is there, with the figures of this launch."""
    origin = collect(writer.folder)
    facts = {"command": origin["command"], "git": origin["git"], "torch": torch.__version__}
    size = writer.finish(**facts, **report)
    count = pictures * args.views
    figures = [f"{name} {value:.4g}" for name, value in report.items()]
    print(
        f"{count} views of {writer.size} px in {writer.place}: {size} bytes "
        f"({size / count:.0f} a view){''.join(', ' + f for f in figures)}",
        flush=True,
    )


def pictures_at_once(views: int, rows: int) -> int:
    """Pictures whose views fill whole batches of `rows`, unless that would be very many."""
    exact = rows // math.gcd(rows, views)
    return exact if exact * views <= 8 * max(rows, views) else max(1, rows // views)


def default_out(name: str, settings: Mapping[str, Any], args: argparse.Namespace) -> Path:
    """A folder of the results directory that has the settings in its name."""
    words = [settings, args.views, args.first, args.format, args.num_images]
    digest = hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()[:8]
    stem = "".join(c if c.isalnum() or c in "._-" else "_" for c in name)
    return results_home() / "generate_views" / f"{stem}-{digest}"


def say(line: str) -> None:
    if distributed.is_main():
        print(line, flush=True)


if __name__ == "__main__":
    launch(main, get_args())
