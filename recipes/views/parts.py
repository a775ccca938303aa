"""Options -> a generator's views: the sampler, the source with its filter, where they are kept."""

import contextlib
import hashlib
import json
import math
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from data.sources import Source
from data.uint8_cache import source_digest
from data.views.generated import (
    FilteredViews,
    GeneratedViews,
    Sampler,
    UpsampledViews,
    ViewSource,
)
from data.views.naming import set_name
from generators import imle
from generators.base import Generator, ImageConditioned, WrongKind, in_words
from generators.door import kinds_with_views, make_generator, open_generator
from imle.perceptual import MIN_SIDE
from recipes import room
from recipes.imle.perceptual import perceptual_loss
from recipes.views.options import CORRUPTION, GENERATOR, OPTIONS, is_filtered
from runtime.options import merged, tagged
from runtime.precision import Precision
from storage.dirs import output_folder, results_home
from storage.errors import CheckpointError, DataError, UsageError


def sampler(
    args: Namespace,
    net: str | None,
    size: int | None,
    device: torch.device,
    say: Callable[[str], Any] = print,
) -> tuple[Sampler, dict[str, Any]]:
    """The sampler of a generator (untrained without `net`), and the settings that decide its
    pixels, which are kept beside views. Errors: UsageError, CheckpointError."""
    if net is None:
        say("no --net: an untrained generator with random weights, its views mean nothing")
        generator = make_generator(imle.untrained())
    else:
        generator = opened(net, say)
    corruption = {name: getattr(args, name) for name in tagged(GENERATOR, CORRUPTION)}
    options: dict[str, Any] = {
        "corruption": {name: value for name, value in corruption.items() if value is not None},
        "seed": args.view_seed,
        "temperature": args.temperature,
        "truncation": args.truncation,
        "code": args.code,
        "lr_factor": args.lr_factor,
        "precision": Precision(args.view_precision, device).name,
        "channels_last": args.view_channels_last,
    }
    if args.consistency is not None:  # views kept by versions before have no word of it
        options["consistency"] = args.consistency
    made = cast(ImageConditioned, generator).view_sampler(size, **options, device=device)
    if made.image_size < made.size and args.view_source == "generated":
        say(f"the generator gives {made.image_size} px: views of {made.size} px are enlarged")
    config = getattr(generator.net, "config", {})
    values = made.image_size**2 * min(config.get("resid_nc", [3]))  # features of the last level
    if args.view_source == "generated":
        room.batch(args.view_batch, values, device, args, GENERATOR, ("view_batch",))
    filtered = None
    if is_filtered(args):
        filtered = [args.lpips_min or 0.0, args.lpips_max, args.tries, args.lpips]
    facts = {"rows": args.view_batch, "source": args.view_source, "filter": filtered}
    return made, {
        "kind": generator.kind, "snapshot": generator.content, "size": made.size, **options, **facts
    }  # fmt: skip


def opened(net: str, say: Callable[[str], Any] = print) -> Generator:
    """The generator of --net, one with views. Errors: UsageError, CheckpointError."""
    able = kinds_with_views()
    try:
        return open_generator(
            net, kinds=able, script="TrainGeneratorWandB", say=say, option="--net"
        )
    except WrongKind as error:
        raise CheckpointError(
            f"{net} is {in_words(error.kind)}, which gives no views (images of an image): "
            f"that takes {' or '.join(map(in_words, able))}"
        ) from None


def source(
    args: Namespace,
    sampler: Sampler,
    inputs: Tensor,
    real: Tensor | None = None,
    keys: Tensor | None = None,
) -> ViewSource:
    """The source of views that the options ask for.

    inputs: uint8 [N, 3, sampler.input_size, sampler.input_size]; real: uint8 [N, 3, size, size],
    needed by the filter alone; keys: int64 [N] (data.views.naming.root_ids), all on the device.
    Errors: UsageError.
    """
    if args.view_source == "upsampled":
        made: Any = UpsampledViews(inputs, sampler.size, corrupt=sampler.corrupt, keys=keys)
    else:
        made = GeneratedViews(inputs, sampler, keys=keys, rows=args.view_batch)
    if not is_filtered(args):
        return made
    if sampler.size < MIN_SIDE:
        raise UsageError(
            f"--lpips_min and --lpips_max: VGG16 sees no views below {MIN_SIDE} px, these have "
            f"{sampler.size}"
        )
    if real is None:
        raise UsageError("--lpips_min and --lpips_max compare with the real pictures: none given")
    low, high = args.lpips_min or 0.0, args.lpips_max or math.inf
    loss = perceptual_loss(args.lpips, args.lpips_path, alpha=0.0).to(real.device)
    return FilteredViews(made, real, loss, low, high, tries=args.tries, rows=args.view_batch)


def pictures_at_once(views: int, rows: int) -> int:
    """Pictures whose views fill whole batches of `rows`, unless that would be very many."""
    exact = rows // math.gcd(rows, views)
    return exact if exact * views <= 8 * max(rows, views) else max(1, rows // views)


def check_turn(args: Namespace, sampler: Sampler, device: torch.device) -> None:
    """That memory holds all views that are drawn in one turn. Errors: UsageError."""
    turn = pictures_at_once(args.views, args.view_batch) * args.views
    names = ("views", "view_batch", "size")
    pixels = 3 * sampler.size**2
    room.require(
        turn * pixels, device, f"{turn} views at once", args, merged(OPTIONS, GENERATOR), names
    )


def data_settings(args: Namespace, whole: Source, source: Source) -> dict[str, Any]:
    """What tells the pictures that views are of from others, and how they are framed.

    whole: the data set; source: the pictures of it. Names and sizes of files are compared, and the
    pixels of a few.
    """
    sha = hashlib.sha256(source_digest(source, 0, args.crop).encode())
    for i in {k * len(source) // 8 for k in range(8)}:
        with contextlib.suppress(DataError):  # it is told of when views are drawn
            sha.update(source.image(i).tobytes())
    return {"crop": args.crop, "data": set_name(whole), "content": sha.hexdigest()}


def folder(
    args: Namespace,
    name: str,
    settings: Mapping[str, Any],
    say: Callable[[str], Any] = print,
) -> Path:
    """Where views of the data set `name` go: --outdir, else a folder of the results directory that
    has the settings in its name."""
    if args.out:
        return output_folder(args.out, "generate_views", say=say)
    stem = "".join(c if c.isalnum() or c in "._-" else "_" for c in name)
    before = {key: value for key, value in settings.items() if key not in ("data", "content")}

    def named(settings: Mapping[str, Any]) -> Path:
        words = [settings, args.views, args.first, args.format, args.num_images]
        digest = hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()[:8]
        return results_home() / "generate_views" / f"{stem}-{digest}"

    # Versions before told pictures apart by the name of their data set alone.
    return named(before) if named(before).is_dir() else named(settings)
