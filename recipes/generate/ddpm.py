"""generate_images.py with networks of DDPM: the sampler, layouts, and the pictures of both."""

from __future__ import annotations

import hashlib
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from data.readers.box_list import read_layouts
from diffusion.ddpm_generate import Drawing
from diffusion.generate import Item, split_batches
from generators.ddpm import DDPM
from generators.door import open_generator
from generators.edm2 import NOT_FINITE
from models.ddpm import Layout
from recipes.generate.folders import (
    Filling,
    asked_outdir,
    captions_of,
    choose_images,
    default_outdir,
    has_class,
    plain,
    sheet_words,
)
from recipes.take import take
from recipes.words import compact_seeds
from runtime import distributed
from runtime.distributed import say
from runtime.gallery import grid_of_files
from runtime.progress import Progress
from storage.errors import NonFiniteError, UsageError
from storage.layout_pictures import layout_maps, with_boxes
from storage.pictures import save_sheet


class Layouts(NamedTuple):
    """The layouts of a file, each [n, 5] x_min, y_min, width, height, class."""

    boxes: list[Tensor]

    def of(self, item: Item) -> Tensor:
        """The one that an image is drawn of: seed modulo how many there are."""
        return self.boxes[item.seed % len(self.boxes)]


def drawing(args: Namespace, net: DDPM) -> Drawing:
    """Sampler, steps and guidance that are asked for. Errors: UsageError."""
    interval = tuple(args.guidance_interval) if args.guidance_interval else None
    how = Drawing(
        args.sampler, args.steps, args.spacing, args.eta, args.guidance, interval,
        args.rescale, args.clip or net.clip,
    )  # fmt: skip
    try:
        how.check()
        if interval:
            net.gaussian.interval(*interval)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if args.guidance != 1 and not args.gnet and not net.classes and net.layout == "none":
        raise UsageError(
            f"--guidance {args.guidance:g}: the network has no condition to leave out; --guide "
            "FILE can be a weaker one"
        )
    if interval and args.guidance == 1:
        raise UsageError("--guidance_interval: there is no --guidance")
    return how


def guide(args: Namespace, net: DDPM, say: Callable[[str], object]) -> DDPM | None:
    """The weaker network of --guide; None without. Errors: UsageError if it is no guide."""
    if not args.gnet or args.guidance == 1:
        return None
    found = take(
        open_generator, args, path=args.gnet, kinds=[DDPM.kind], device=net.device, say=say,
        option="--guide",
    )  # fmt: skip
    assert isinstance(found, DDPM)
    try:
        net.check_guide(found)
    except ValueError as error:
        raise UsageError(f"--guide {args.gnet}: {error}") from None
    return found


def layouts(args: Namespace, net: DDPM, say: Callable[[str], object]) -> Layouts | None:
    """The layouts of --layout; None without. Errors: UsageError, DataError."""
    if args.layout is None:
        if net.layout != "none":
            say("no --layout: nothing but background is asked for")
        return None
    if net.layout != "boxes":
        raise UsageError(f"--layout {args.layout}: the network was trained without boxes")
    found = []
    for one in read_layouts(Path(args.layout).expanduser(), net.objects):
        if said := one.faults.said():
            say(said)
        classes = torch.from_numpy(one.classes)[:, None].float()
        found.append(torch.cat([torch.from_numpy(one.boxes).reshape(-1, 4), classes], 1))
    return Layouts(found)


def rows_of(net: DDPM, asked: Layouts, items: Sequence[Item]) -> dict[Item, Layout]:
    """For each image its layout, as the network takes it."""
    most = max(len(boxes) for boxes in asked.boxes)
    return {
        item: Layout.pad([asked.of(item)], num_classes=len(net.objects), least=most)
        for item in items
    }


def beside(image: Tensor, boxes: Tensor, names: Sequence[str]) -> Tensor:
    """The layout, and beside it the sample uint8 [C, H, W] with its boxes: uint8 [3, h, 2 w]."""
    where, classes = boxes[None, :, :4], boxes[None, :, 4].long()
    drawn = with_boxes(image[None].float() / 255, where, classes, names)
    maps = layout_maps(where, classes, names, size=drawn.shape[-1])
    return torch.cat([maps, drawn], 3)[0].mul(255).round().byte()


def settings(
    args: Namespace, net: DDPM, how: Drawing, weaker: DDPM | None, asked: Layouts | None
) -> dict[str, Any]:
    """What decides how the image of a file name looks, as JSON values."""
    rule = vars(args)["class"] or ("random" if args.random else "seed modulo classes")
    told: Mapping[str, Any] = {k: plain(v) for k, v in vars(how).items()}
    sha = hashlib.sha256()
    for boxes in asked.boxes if asked else ():
        sha.update(str(boxes.tolist()).encode())
    return {
        **told,
        "interval": list(how.interval) if how.interval else None,
        "net": net.content,
        "guide": weaker.content if weaker else None,
        "layout": sha.hexdigest() if asked else None,
        "class": "in the names" if has_class(args, net) else rule,
        "precision": args.precision,
    }


def images(args: Namespace, net: DDPM) -> None:
    """Images of all seeds, each of its class and layout, as far as they are missing."""
    net.check_pictures()
    how, weaker = drawing(args, net), guide(args, net, say)
    asked = layouts(args, net, say)
    names, shown, ncol = choose_images(args, net)
    ways = {i: n.replace(".png", "_trajectory.png") for i, n in names.items() if args.trajectory}
    maps = {i: n.replace(".png", "_layout.png") for i, n in names.items() if asked}
    told = settings(args, net, how, weaker, asked)
    folder = asked_outdir(args, say) or default_outdir(args, net.file, told)
    pictured = maps or names
    filling = Filling(
        args, net, folder, told, [*names.values(), *ways.values(), *maps.values()],
        shown=[pictured[item] for item in shown], words=sheet_words(args),
        what=f"{len(args.seeds)} seeds",
        facts={"guide": weaker.snapshot.provenance if weaker else None},
    )  # fmt: skip
    if filling.finished:
        return
    rank, world = distributed.rank(), distributed.world_size()
    batches = [
        batch for batch in split_batches(list(names), args.batch, rank=rank, world=world)
        if filling.lacks(kind[i] for kind in (names, ways, maps) if kind for i in batch)
    ]  # fmt: skip
    drawn_batches = net.pictures(
        batches, drawing=how, guide=weaker, keep_every=max(1, args.steps // 8) * args.trajectory,
        layouts=rows_of(net, asked, list(names)) if asked else None,
    )  # fmt: skip
    with Progress(sum(map(len, batches)), desc=folder.name, unit="image") as bar:
        for batch, drawn in zip(batches, drawn_batches, strict=True):
            if not drawn.finite:
                seeds = compact_seeds([item.seed for item in batch])
                raise NonFiniteError(f"seeds {seeds}: {NOT_FINITE}")
            for n, item in enumerate(batch):
                if args.trajectory and filling.lacks([ways[item]]):
                    save_sheet(folder / ways[item], drawn.steps[n].float() / 255, 8)
                if asked:
                    pair = beside(drawn.images[n], asked.of(item), net.objects)
                    filling.add(maps[item], pair)
                filling.add(names[item], drawn.images[n])
            bar.update(len(batch))
    files = [folder / pictured[i] for i in shown]
    captions = captions_of(shown, ncol, net.classes)
    filling.end(lambda grid: grid_of_files(grid, files, ncol, captions))
