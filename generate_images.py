"""Images from a snapshot: of EDM2 and DDPM, guided or not, of conditional and unconditional IMLE,
of omnigan, and of any kind of network that generators/ knows.

EDM2, one image per seed and class:
    python generate_images.py --net RUN/snapshots/network-snapshot-0005000-0.100 --seeds 0-63
    python generate_images.py --net NET --guide GUIDE --guidance 1.7 --class all --seeds 0-9
    python generate_images.py --net NET --guide GUIDE --sweep_guidance 1 1.5 2 --sweep_ema 0.05 0.10
    python generate_images.py --preset edm2-img512-s-autog-dino --outdir OUT
DDPM, one image per seed and class, or of layouts, each drawn beside its sample:
    python generate_images.py --net RUN --seeds 0-63 --sampler dpmpp --steps 20 --guidance 2
    python generate_images.py --net RUN --layout room.txt --seeds 0-7    # x,y,w,h,class a line
Conditional and unconditional IMLE, k samples for each input:
    python generate_images.py --net RUN/snapshots/network-latest.safetensors --data scenes/val
    python generate_images.py --net FILE --data DIR --num_images 100 --samples 10 --outdir OUT
omnigan, pictures flooded (--to n: dried), beside what its decoders see:
    python generate_images.py --net RUN --data streets --to f
Any other kind, one image per seed:
    python generate_images.py --net FILE --seeds 0-63 --outdir OUT

--net is a snapshot or a run's folder, which means its newest snapshot; --data a data set's name, a
folder, a zip or a single picture.

EDM2, DDPM and any other kind write OUT/<seed>.png (with several classes OUT/<seed>_<class>.png),
IMLE OUT/<number>_<name of the input>_<k>.png, omnigan OUT/<number>_<name of the input>_f.png; all
of them a grid.png, provenance.json, and files.jsonl, the list of what was written. A sweep has a
folder of these for each of its points, beside sheet.png and sweep.json. A row of IMLE's grid:
target, where it is known, input, bicubic, samples.
An image depends on its seed, class or input, and the settings, not on what else is drawn or on the
number of GPUs (another --batch may change last bits). OUT is by default a folder for each setting.
The same command goes on where it stopped, or says that it is done; more seeds or samples may join,
and have a grid of another name. A folder of other settings is refused; --overwrite takes away what
is in its list, and no other file.

What each option means and which go together: recipes/generate/options.py. How each kind of network
draws: generators/.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import storage.environment  # noqa: F401  (says what to do where torch is missing)

import torch

from diffusion.generate import split_batches
from generators.base import Generator
from generators.ddpm import DDPM
from generators.edm2 import EDM2, NOT_FINITE
from generators.imle import ConditionalIMLE, UnconditionalIMLE
from generators.omnigan import Omnigan
from recipes.generate import ddpm, folders, parts, translated
from recipes.generate.options import PRESETS, check_unused, get_args  # noqa: F401
from recipes.generate.sheets import sample_sheet
from recipes.words import compact_seeds
from runtime import distributed
from runtime.distributed import say
from runtime.gallery import grid_of_files
from runtime.launch import launch
from runtime.place import choose_device
from runtime.progress import Progress
from storage.errors import CheckpointError, NonFiniteError
from storage.find import ema_sibling
from storage.pictures import Captions, save_sheet


def main(args: argparse.Namespace) -> None:
    device = choose_device(args.gpus)
    distributed.init(device)
    net = parts.generator(args, device, say)
    check_unused(args, net.kind)
    if isinstance(net, EDM2):
        edm2_images(args, net, device)
    elif isinstance(net, DDPM):
        ddpm.images(args, net)
    elif isinstance(net, ConditionalIMLE | UnconditionalIMLE):
        imle_images(args, net)
    elif isinstance(net, Omnigan):
        translated.images(args, net)
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
        draw(args, net, guide, args.guidance, outdir)
        return
    points = [
        {"folder": (f"ema{ema:.3f}-" if ema else "") + f"guidance{weight:g}", "ema": ema,
         "guidance": weight, "net": str(own)}
        for ema, own in zip(emas, files, strict=True) for weight in weights
    ]  # fmt: skip
    sweep = folders.Sweep(args, net, outdir, settings, points)
    drawn = 0
    for k, point in enumerate(points):
        say(f"{point['folder']} ({k + 1} of {len(points)})")
        own = files[k // len(weights)]
        if own is not None and own != net.file:
            net = parts.sibling(args, own, device, say)
        drawn += draw(args, net, guide, point["guidance"], outdir / point["folder"])
        if distributed.is_main() and (drawn or not sweep.finished):
            sweep.write()  # after every point: an interrupted sweep has its sheet
    say(f"{'' if drawn else 'done already: '}{len(points)} points; sheet: {sweep.sheet}")


def draw(
    args: argparse.Namespace, net: EDM2, guide: EDM2 | None, guidance: float, folder: Path
) -> bool:
    """Images of all seeds under one setting, as far as they are missing; whether there were any."""
    names, shown, ncol = folders.choose_images(args, net)
    strips = {i: n.replace(".png", "_trajectory.png") for i, n in names.items() if args.trajectory}
    filling = folders.Filling(
        args, net, folder, folders.settings_of(args, net, guide, guidance),
        [*names.values(), *strips.values()], shown=[names[item] for item in shown],
        words=folders.sheet_words(args), what=f"{len(args.seeds)} seeds",
        facts={"guide": guide.snapshot.provenance if guide else None},
    )  # fmt: skip
    if filling.finished:
        return False
    rank, world = distributed.rank(), distributed.world_size()
    # A batch that lacks an image is drawn whole, so that it is what it would have been at once.
    batches = [
        batch for batch in split_batches(list(names), args.batch, rank=rank, world=world)
        if filling.lacks(name for i in batch for name in (names[i], strips.get(i, names[i])))
    ]  # fmt: skip
    drawing = net.pictures(
        batches, guide=guide, guidance=guidance, interval=args.guidance_interval,
        sampler=parts.sampler(args),
        keep_every=2 if args.trajectory else 0,  # Heun's method asks twice a step
    )  # fmt: skip
    levels = folders.levels_of(args)
    with Progress(sum(map(len, batches)), desc=folder.name, unit="image") as bar:
        for batch, drawn in zip(batches, drawing, strict=True):
            if not drawn.finite:
                seeds = compact_seeds([item.seed for item in batch])
                raise NonFiniteError(f"seeds {seeds}: {NOT_FINITE}")
            for n, item in enumerate(batch):
                if args.trajectory and filling.lacks([strips[item]]):
                    way = drawn.steps[n].float() / 255
                    save_sheet(folder / strips[item], way, min(8, len(way)), levels)
                filling.add(names[item], drawn.images[n])
            bar.update(len(batch))
    files, captions = (
        [folder / names[i] for i in shown],
        folders.captions_of(shown, ncol, net.classes),
    )
    filling.end(lambda grid: grid_of_files(grid, files, ncol, captions))
    return True


# ------------------------------------------------------------------------------------------- IMLE


def imle_images(args: argparse.Namespace, net: ConditionalIMLE | UnconditionalIMLE) -> None:
    """`samples` images for each input; those of an unconditional network are rows of the grid."""
    how: dict[str, Any] = {"seed": args.seed, "first": args.first, "batch": args.batch}
    folder = folders.asked_outdir(args, say)
    parts.check_imle(args, net)
    inputs = parts.inputs(args, net, folder, say) if isinstance(net, ConditionalIMLE) else None
    count = len(inputs.names) if inputs else args.num_images
    parts.check_room(args, net, count * args.samples, args.samples)
    rows = inputs.names if inputs else [f"row{i:04d}" for i in range(count)]
    ids = inputs.ids if inputs else torch.arange(len(rows))
    shown = range(min(len(rows), folders.ROWS))
    drawn = shown if args.grid_only else range(len(rows))
    where = folders.PARTS if args.grid_only else ""
    numbers = range(args.first, args.first + args.samples)
    names = {i: [f"{where}{rows[i]}_{k}.png" for k in numbers] for i in drawn}
    settings = folders.imle_settings(args, net, inputs)
    folder = folder or folders.imle_outdir(args, net.file, settings)
    filling = folders.Filling(
        args, net, folder, settings, [name for row in names.values() for name in row],
        shown=[name for i in shown for name in names[i]],
        words=f"{len(rows)}x{args.first}-{numbers[-1]}",
        what=f"{len(rows)} x {args.samples} samples",
    )  # fmt: skip
    if filling.finished:
        return
    todo = [i for i in drawn if filling.lacks(names[i])]
    mine = todo[distributed.rank() :: distributed.world_size()]
    with Progress(len(mine), desc=folder.name, unit="input") as bar:
        for i in mine:
            own: dict[str, Any] = {}
            if inputs:
                own = {"inputs": inputs.x[i : i + 1], "consistency": args.consistency}
                own["temperature"] = args.temperature
            images = net.draw(args.samples, ids=ids[i : i + 1], **how | own)
            for name, image in zip(names[i], images, strict=True):
                filling.add(name, image)
            bar.update(1)

    files = {rows[i]: [folder / name for name in names[i]] for i in shown}
    captions = [f"sample {k + 1}" for k in numbers]
    filling.end(lambda grid: sample_sheet(grid, files, captions, net, inputs, seed=args.seed))


# -------------------------------------------------------------------------------------- other kinds


def seed_images(args: argparse.Namespace, net: Generator) -> None:
    """Image 0 of every seed, of a kind that is known by its protocol alone."""
    if net.input_size is not None:
        raise CheckpointError(f"a {net.kind!r} snapshot draws images of images: only camnet's here")
    shown = args.seeds[: folders.GRID]
    where = folders.PARTS if args.grid_only else ""
    names = {s: f"{where}{s:06d}.png" for s in (shown if args.grid_only else args.seeds)}
    settings = {"net": net.content, "precision": args.precision}
    folder = folders.asked_outdir(args, say) or folders.default_outdir(args, net.file, settings)
    filling = folders.Filling(
        args, net, folder, settings, list(names.values()), shown=[names[s] for s in shown],
        words=folders.sheet_words(args), what=f"{len(args.seeds)} seeds",
    )  # fmt: skip
    if filling.finished:
        return
    todo = [seed for seed, name in names.items() if filling.lacks([name])]
    mine = todo[distributed.rank() :: distributed.world_size()]
    with Progress(len(mine), desc=folder.name, unit="image") as bar:
        for seed in mine:
            filling.add(names[seed], net.draw(1, seed=seed, batch=args.batch)[0])
            bar.update(1)
    files, ncol = [folder / names[s] for s in shown], math.ceil(len(shown) ** 0.5)
    captions = Captions(each=[f"seed {seed}" for seed in shown])
    filling.end(lambda grid: grid_of_files(grid, files, ncol, captions))


if __name__ == "__main__":
    launch(main, get_args(__doc__))
