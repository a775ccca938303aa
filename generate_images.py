"""Images from a snapshot: of EDM2, guided or not, of conditional and unconditional IMLE, and of any
kind of network that generators/ knows.

EDM2, one image per seed and class:
    python generate_images.py --net RUN/snapshots/network-snapshot-0005000-0.100 --seeds 0-63
    python generate_images.py --net NET --guide GUIDE --guidance 1.7 --class all --seeds 0-9
    python generate_images.py --net NET --guide GUIDE --sweep_guidance 1 1.5 2 --sweep_ema 0.05 0.10
    python generate_images.py --preset edm2-img512-s-autog-dino --outdir OUT
Conditional and unconditional IMLE, k samples for each input:
    python generate_images.py --net RUN/snapshots/network-latest.safetensors --data scenes/val
    python generate_images.py --net FILE --data DIR --num_images 100 --samples 10 --outdir OUT
Any other kind, one image per seed:
    python generate_images.py --net FILE --seeds 0-63 --outdir OUT

EDM2 writes OUT/<seed>.png (with several classes OUT/<seed>_<class>.png), OUT/grid.png and
OUT/provenance.json, a sweep a folder of these for each of its points, sheet.png and sweep.json; any
other kind does as EDM2 without classes.
IMLE writes OUT/<number>_<name of the input>_<k>.png, a grid with a row an input, provenance.json.
An image depends on its seed, class or input, and the settings, not on what else is drawn or on the
number of GPUs (another --batch may change last bits). Images of seeds that are there, of the same
settings, are not drawn again, so the same command goes on after an interruption, and more seeds
may join; a folder of other settings is refused without --overwrite.

What each option means and which go together: recipes/generate/options.py. How each kind of network
draws: generators/.
"""

import argparse
import json
import math
import shutil
from pathlib import Path

import storage.environment  # noqa: F401  (says what to do where torch is missing)

import torch

from diffusion.generate import split_batches
from generators.base import Generator
from generators.edm2 import EDM2, NOT_FINITE
from generators.imle import ConditionalIMLE, UnconditionalIMLE
from recipes.generate import folders, parts
from recipes.generate.options import PRESETS, check_unused, get_args  # noqa: F401
from recipes.words import compact_seeds
from runtime import distributed
from runtime.distributed import say
from runtime.gallery import FACTS, Gallery, grid_of_files, save_png
from runtime.launch import launch
from runtime.place import choose_device
from runtime.progress import Progress
from storage.dirs import results_home
from storage.errors import CheckpointError, NonFiniteError, UsageError
from storage.files import write_text
from storage.find import ema_sibling
from storage.pictures import Captions, save_sheet


def main(args: argparse.Namespace) -> None:
    device = choose_device(args.gpus)
    distributed.init(device)
    net = parts.generator(args, device, say)
    check_unused(args, net.kind)
    if isinstance(net, EDM2):
        edm2_images(args, net, device)
    elif isinstance(net, ConditionalIMLE | UnconditionalIMLE):
        imle_images(args, net)
    else:
        seed_images(args, net)


# ------------------------------------------------------------------------------------------- EDM2


def edm2_images(args: argparse.Namespace, net: EDM2, device: torch.device) -> None:
    """All that the command asks of a diffusion network: a folder, or one for each point of a sweep.

    A sweep has a row for each EMA length and a column for each weight of the guidance.
    """
    emas, weights = args.sweep_ema or [None], args.sweep_guidance or [args.guidance]
    first = net.file
    files = [first if ema is None or first is None else ema_sibling(first, ema) for ema in emas]
    net.check_pictures()  # now rather than after an hour: a VAE that is not there
    guide = None
    if args.gnet and all(w == 1 for w in weights):
        say("guidance 1: --guide has no influence and is not read")
    elif args.gnet:
        guide = parts.guide(args, net, device, say)
    settings = folders.settings_of(args, net, guide, None)
    outdir = folders.asked_outdir(args, say) or folders.default_outdir(args, net.file, settings)
    if not args.sweep_ema and not args.sweep_guidance:
        grid = draw(args, net, guide, args.guidance, outdir)
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
        if own is not None and own != net.file:
            net = parts.sibling(args, own, device, say)
        draw(args, net, guide, point["guidance"], outdir / point["folder"])
        if distributed.is_main():  # after every point: an interrupted sweep has its sheet
            folders.write_sweep(args, outdir, points, emas, weights)
    say(f"{len(points)} points; sheet: {outdir / 'sheet.png'}")


def draw(
    args: argparse.Namespace, net: EDM2, guide: EDM2 | None, guidance: float, folder: Path
) -> Path:
    """Images of all seeds under one setting, as far as they are missing; returns their grid."""
    names, shown, ncol = folders.choose_images(args, net)
    strips = {i: n.replace(".png", "_trajectory.png") for i, n in names.items() if args.trajectory}
    wanted = [*names.values(), *strips.values()]
    settings = folders.settings_of(args, net, guide, guidance)
    gallery = Gallery(folder, settings, overwrite=args.overwrite)
    grid = folder / "grid.png"
    if args.grid_only and gallery.finished(wanted) and grid.exists():
        say(f"{folder}: the grid is there already")
        return grid
    there = gallery.start(wanted)
    facts = folders.facts_of(args, net, folder) if distributed.is_main() else {}
    facts["guide"] = guide.snapshot.provenance if guide else None
    gallery.describe(facts)
    todo = [i for i in names if not there.issuperset({names[i], strips.get(i, names[i])})]
    if len(todo) < len(names):
        say(f"{len(names) - len(todo)} of {len(names)} images are there already")

    rank, world = distributed.rank(), distributed.world_size()
    batches = split_batches(todo, args.batch, rank=rank, world=world)
    drawing = net.pictures(
        batches, guide=guide, guidance=guidance, interval=args.guidance_interval,
        sampler=parts.sampler(args),
        keep_every=2 if args.trajectory else 0,  # Heun's method asks twice a step
    )  # fmt: skip
    with Progress(sum(map(len, batches)), desc=folder.name, unit="image") as bar:
        for batch, drawn in zip(batches, drawing, strict=True):
            if not drawn.finite:
                seeds = compact_seeds([item.seed for item in batch])
                raise NonFiniteError(f"seeds {seeds}: {NOT_FINITE}")
            for n, item in enumerate(batch):
                if args.trajectory:
                    way = drawn.steps[n].float() / 255
                    save_sheet(folder / strips[item], way, ncol=min(8, len(way)))
                gallery.add(names[item], drawn.images[n])
            bar.update(len(batch))
    distributed.barrier()
    if distributed.is_main():
        words = folders.captions_of(shown, ncol, net.classes)
        grid_of_files(grid, [folder / names[item] for item in shown], ncol, words)
        if args.grid_only:
            shutil.rmtree(folder / folders.PARTS)
    gallery.describe(facts, finished=wanted)
    return grid


# ------------------------------------------------------------------------------------------- IMLE


def imle_images(args: argparse.Namespace, net: ConditionalIMLE | UnconditionalIMLE) -> None:
    """`samples` images for each input; those of an unconditional network are rows of the grid."""
    if args.gpus and len(args.gpus) > 1:
        raise UsageError(f"--gpus {args.gpus}: sampling of IMLE takes one GPU")
    if not distributed.is_main():
        return
    how = {"seed": args.seed, "first": args.first, "batch": args.batch}
    if isinstance(net, ConditionalIMLE):
        names, ids, inputs = parts.inputs(args, net)
    else:
        names, ids = [f"row{i:04d}" for i in range(args.num_images)], torch.arange(args.num_images)

    outdir = folders.asked_outdir(args, say) or results_home() / "generate_images"
    try:
        outdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--outdir {outdir}: {error.strerror}") from error
    rows = []
    for row, (name, i) in enumerate(zip(names, ids.split(1), strict=True)):
        shown = []
        if isinstance(net, ConditionalIMLE):
            x = inputs[row : row + 1]
            seen = net.corrupt(x, seed=args.seed, ids=i)
            # with its pixels visible
            shown = [torch.nn.functional.interpolate(seen, size=net.resolution, mode="nearest")]
            images = net.draw(args.samples, inputs=x, ids=i, **how)
        else:
            images = net.draw(args.samples, ids=i, **how)
        if not args.grid_only:
            for k, image in enumerate(images):
                save_png(outdir / f"{name}_{args.first + k}.png", image)
        rows.append(torch.cat([*shown, images.float() / 255]))
    columns = ["input"] * (len(rows[0]) - args.samples)
    columns += [f"sample {args.first + k}" for k in range(args.samples)]
    words = Captions(columns=columns, rows=names)
    grid = save_sheet(outdir / "grid.png", torch.cat(rows), len(columns), words)
    write_text(outdir / FACTS, json.dumps(folders.facts_of(args, net, outdir), indent=1))
    print(f"{len(rows)} x {args.samples} samples; grid: {grid}")


# -------------------------------------------------------------------------------------- other kinds


def seed_images(args: argparse.Namespace, net: Generator) -> None:
    """Image 0 of every seed, of a kind that is known by its protocol alone."""
    if net.input_size is not None:
        raise CheckpointError(f"a {net.kind!r} snapshot draws images of images: only camnet's here")
    shown = args.seeds[: folders.GRID]
    where = folders.PARTS if args.grid_only else ""
    names = {s: f"{where}{s:06d}.png" for s in (shown if args.grid_only else args.seeds)}
    wanted = list(names.values())
    settings = {"net": net.content, "precision": args.precision}
    outdir = folders.asked_outdir(args, say) or folders.default_outdir(args, net.file, settings)
    gallery = Gallery(outdir, settings, overwrite=args.overwrite)
    there = gallery.start(wanted)
    facts = folders.facts_of(args, net, outdir) if distributed.is_main() else {}
    gallery.describe(facts)
    todo = [seed for seed in names if names[seed] not in there]
    mine = todo[distributed.rank() :: distributed.world_size()]
    with Progress(len(mine), desc=outdir.name, unit="image") as bar:
        for seed in mine:
            gallery.add(names[seed], net.draw(1, seed=seed, batch=args.batch)[0])
            bar.update(1)
    distributed.barrier()
    grid = outdir / "grid.png"
    if distributed.is_main():
        words = Captions(each=[f"seed {seed}" for seed in shown])
        files, ncol = [outdir / names[s] for s in shown], math.ceil(len(shown) ** 0.5)
        grid_of_files(grid, files, ncol, words)
        if args.grid_only:
            shutil.rmtree(outdir / folders.PARTS)
    gallery.describe(facts, finished=wanted)
    say(f"{len(args.seeds)} seeds; grid: {grid}")


if __name__ == "__main__":
    launch(main, get_args(__doc__))
