"""generate_images.py with networks of omnigan: pictures translated, with what the decoders see."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from generators.omnigan import Omnigan
from recipes.generate import folders
from recipes.generate.parts import Inputs
from recipes.generate.parts import inputs as open_inputs
from recipes.generate.sheets import MOST_LETTERS
from runtime import distributed
from runtime.distributed import say
from runtime.gallery import read_png
from runtime.progress import Progress
from storage.layout_pictures import street_map
from storage.pictures import Captions, save_sheet

SEEN = {"d": "depth", "h": "height", "s": "segments", "w": "water"}


def images(args: Namespace, net: Omnigan) -> None:
    """Each picture of --data flooded, or as --to says; in the grid beside itself and its maps.

    Errors: UsageError, DataError.
    """
    folder = folders.asked_outdir(args, say)
    inputs = open_inputs(args, net, folder, say)
    net.draw(1, inputs=inputs.x[:1], to=args.to)  # a target that there is not, before a folder is
    shown = range(min(len(inputs.names), folders.ROWS))
    where = folders.PARTS if args.grid_only else ""
    drawn = shown if args.grid_only else range(len(inputs.names))
    names = {i: f"{where}{inputs.names[i]}_{args.to}.png" for i in drawn}
    settings = {
        "data": inputs.data, "inputs": inputs.checksum(), "net": net.content, "to": args.to,
        "precision": args.precision,
    }  # fmt: skip
    folder = folder or folders.imle_outdir(args, net.file, settings)
    filling = folders.Filling(
        args, net, folder, settings, list(names.values()), shown=[names[i] for i in shown],
        words=f"{len(inputs.names)}-{args.to}", what=f"{len(inputs.names)} pictures",
    )  # fmt: skip
    if filling.finished:
        return
    # A batch that lacks an image is drawn whole, so that it is what it would have been at once.
    order = list(drawn)
    batches = [order[start : start + args.batch] for start in range(0, len(order), args.batch)]
    todo = [batch for batch in batches if filling.lacks(names[i] for i in batch)]
    mine = todo[distributed.rank() :: distributed.world_size()]
    with Progress(sum(map(len, mine)), desc=folder.name, unit="picture") as bar:
        for batch in mine:
            made = net.draw(1, inputs=inputs.x[batch], to=args.to, batch=args.batch)
            for i, image in zip(batch, made, strict=True):
                filling.add(names[i], image)
            bar.update(len(batch))
    files = {i: folder / names[i] for i in shown}
    filling.end(lambda grid: sheet(grid, files, net, inputs, args.to, args.batch))


def sheet(
    file: Path, made: Mapping[int, Path], net: Omnigan, inputs: Inputs, to: str, batch: int
) -> Path:
    """A PNG with a row for each picture: itself, what each decoder sees in it, its translation."""
    x = inputs.x[list(made)]
    seen = {SEEN[task]: street_map(task, found) for task, found in net.see(x, batch=batch).items()}
    after = torch.stack([read_png(one) for one in made.values()]).float() / 255
    columns: dict[str, Tensor] = {"picture": x, **seen, words_of(to): after}
    names: Sequence[str] = [inputs.names[i][:MOST_LETTERS] for i in made]
    stack = torch.stack([column.float().cpu() for column in columns.values()], 1)
    return save_sheet(file, stack.flatten(0, 1), len(columns), Captions("", list(columns), names))


def words_of(to: str) -> str:
    """What stands above the column of translations."""
    return {"f": "flooded", "n": "not flooded"}.get(to, f"as {to}")
