"""generate_images.py with networks of DDPM: the sampler, layouts, and the pictures of both."""

from __future__ import annotations

import hashlib
import io
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from data.decode import MAX_PIXELS, picture_bytes, why_not_read
from data.labelled import LabelledImages
from data.readers.box_list import read_layouts
from data.registry import open_source
from diffusion.ddpm_generate import Drawing
from diffusion.encoders import RGBEncoder
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
from storage.dirs import data_home
from storage.errors import DataError, NonFiniteError, UsageError, first_line
from storage.files import expanded
from storage.layout_pictures import layout_maps, segmentation_maps, with_boxes
from storage.pictures import save_sheet

PICTURE = (".png", ".bmp", ".gif", ".tif", ".tiff")  # a map of classes; without loss


class Layouts(NamedTuple):
    """The layouts of a file, of one row each, and what tells them apart."""

    each: list[Layout]
    told: list[str]

    def of(self, item: Item) -> Layout:
        """The one that an image is drawn of: seed modulo how many there are."""
        return self.each[item.seed % len(self.each)]


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
    if args.steps > net.gaussian.T and args.sampler != "heun":
        say(f"--steps {args.steps}: the network has {net.gaussian.T}, all are visited")
    if interval and args.guidance == 1:
        raise UsageError("--guidance_interval: there is no --guidance")
    return how


def guide(args: Namespace, net: DDPM, say: Callable[[str], object]) -> DDPM | None:
    """The weaker network of --guide; None without. Errors: UsageError if it is no guide."""
    if args.gnet and args.guidance == 1:
        say("guidance 1: --guide has no influence and is not read")
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
    if args.layout is None or net.layout == "none":
        if args.layout is not None and net.concat.get("kind") != "segmentation":
            raise UsageError(f"--layout {args.layout}: the network was trained without layouts")
        if net.layout != "none":
            say("no --layout: nothing but background is asked for")
        return None
    if is_map(args.layout):
        classes = class_map(args.layout)
        try:
            return Layouts([net.labelled(classes)], [str(classes.tolist())])
        except UsageError as error:
            raise UsageError(f"--layout {args.layout}: {error}") from None
    if net.layout == "segmentation":
        raise UsageError(
            f"--layout {args.layout}: the network was trained on classes of pixels, which a PNG has"
        )
    found = []
    for one in read_layouts(Path(args.layout).expanduser(), net.objects):
        if said := one.faults.said():
            say(said)
        numbers = torch.from_numpy(one.classes)[:, None].float()
        found.append(torch.cat([torch.from_numpy(one.boxes).reshape(-1, 4), numbers], 1))
    most = max(len(boxes) for boxes in found)
    if not most:
        say(f"{args.layout} has no usable box: nothing but background is asked for")
    rows = [Layout.pad([b], num_classes=len(net.objects), least=most) for b in found]
    return Layouts(rows, [str(boxes.tolist()) for boxes in found])


def is_map(file: str) -> bool:
    """Whether a file is a picture of classes, by its name, and no list of boxes."""
    return file.lower().endswith(PICTURE)


def class_map(file: str) -> Tensor:
    """The class of every pixel of a picture of one channel, or with a palette: int64 [1, h, w]; 255
    is none. Errors: DataError for what is no such picture."""
    from PIL import Image

    data = None
    try:
        data = picture_bytes(expanded(file))
        with Image.open(io.BytesIO(data)) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise DataError(f"{file}: {picture.width}x{picture.height}, too large")
            if picture.mode not in ("L", "P", "1"):
                raise DataError(
                    f"{file}: a picture of mode {picture.mode}; the class of a pixel is its number "
                    "in one channel of 256 values (mode L or P)"
                )
            return torch.from_numpy(np.array(picture, np.uint8)).long()[None]
    except (MemoryError, DataError):
        raise
    except Exception as error:  # decoders raise nearly everything on damaged bytes
        said = first_line(error, 120) if data is None else why_not_read(data, error)
        raise DataError(f"{file}: no picture that can be read ({said})") from None


class Given(NamedTuple):
    """What a network with an image beside is given: `of(item)`, one row, and what tells it."""

    of: Callable[[Item], Tensor]
    told: str


def given(args: Namespace, net: DDPM) -> Given | None:
    """The images of --data, by seed modulo how many there are, or the map of --layout; None for a
    network without. Errors: UsageError, DataError."""
    kind = net.concat.get("kind")
    if kind in (None, "segmentation") and args.data is not None:
        raise UsageError(f"--data {args.data}: the network takes no pictures")
    if kind is None:
        return None
    if kind == "segmentation":
        if args.layout is None or not is_map(args.layout):
            raise UsageError("--layout FILE.png is missing: the class of every pixel, beside")
        one = net.beside(class_map(args.layout))
        return Given(lambda item: one, hashlib.sha256(str(one.tolist()).encode()).hexdigest())
    if args.data is None:
        raise UsageError(f"--data is missing: pictures that are given in {kind}")
    source = open_source(args.data, Path(args.data_path or data_home()), split="val")
    pictures = LabelledImages(source, net.resolution)

    def of(item: Item) -> Tensor:
        return net.beside(pictures[item.seed % len(pictures)][1][None])

    return Given(of, f"{args.data} {len(pictures)}")


def beside(image: Tensor, layout: Layout, names: Sequence[str]) -> Tensor:
    """The layout, and beside it the sample uint8 [C, H, W] with its boxes: uint8 [3, h, 2 w]."""
    sample = image[None].float() / 255
    if layout.segmentation is not None:
        maps = segmentation_maps(layout.segmentation)
        drawn = sample.expand(-1, 3, -1, -1)
        maps = nn.functional.interpolate(maps, drawn.shape[2:], mode="nearest")
    else:
        drawn = with_boxes(sample, layout.boxes, layout.classes, names)
        maps = layout_maps(layout.boxes, layout.classes, names, size=drawn.shape[-1])
    return torch.cat([maps, drawn], 3)[0].mul(255).round().byte()


def settings(
    args: Namespace,
    net: DDPM,
    how: Drawing,
    weaker: DDPM | None,
    asked: Layouts | None,
    inputs: Given | None,
) -> dict[str, Any]:
    """What decides how the image of a file name looks, as JSON values."""
    rule = vars(args)["class"] or ("random" if args.random else "seed modulo classes")
    told: Mapping[str, Any] = {k: plain(v) for k, v in vars(how).items()}
    sha = hashlib.sha256()
    for line in asked.told if asked else ():
        sha.update(line.encode())
    return {
        **told,
        "interval": list(how.interval) if how.interval else None,
        "net": net.content,
        "guide": weaker.content if weaker else None,
        "layout": sha.hexdigest() if asked else None,
        "class": "in the names" if has_class(args, net) else rule,
        "precision": args.precision,
        **({"given": inputs.told} if inputs else {}),
        **(
            {"classifier": [net.classifier.content, net.classifier_scale]} if net.classifier else {}
        ),
    }


def _classifier_told(net: DDPM) -> dict[str, Any]:
    if net.classifier is None:  # folders of before the option have no word of it
        return {}
    return {"classifier": net.classifier.content, "classifier_scale": net.classifier_scale}


def images(args: Namespace, net: DDPM) -> None:
    """Images of all seeds, each of its class and layout, as far as they are missing."""
    if args.vae is not None and isinstance(net.encoder, RGBEncoder):
        raise UsageError(f"--vae {args.vae}: the network makes pixels, no latents to decode")
    net.check_pictures()
    how, weaker = drawing(args, net), guide(args, net, say)
    if args.classifier is not None:
        net.take_classifier(args.classifier, args.classifier_scale)
    asked, inputs = layouts(args, net, say), given(args, net)
    names, shown, ncol = choose_images(args, net)
    ways = {i: n.replace(".png", "_trajectory.png") for i, n in names.items() if args.trajectory}
    maps = {i: n.replace(".png", "_layout.png") for i, n in names.items() if asked}
    told = settings(args, net, how, weaker, asked, inputs)
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
        layouts={item: asked.of(item) for item in names} if asked else None,
        given=inputs.of if inputs else None,
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
