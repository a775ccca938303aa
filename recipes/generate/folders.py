"""What is drawn into which files, under which settings, and what a folder says of itself."""

import hashlib
import json
import math
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from diffusion.generate import Item
from generators.base import Generator
from generators.edm2 import EDM2
from recipes.generate.options import OPTIONS, SAMPLER
from recipes.words import compact_seeds
from runtime.gallery import labelled_sheet, read_facts
from runtime.options import tagged
from runtime.provenance import collect
from storage.dirs import output_folder, results_home
from storage.errors import UsageError
from storage.files import write_text
from storage.pictures import Captions

GRID = 100  # images in grid.png, at most
PARTS = ".parts/"  # where single images are while only a grid is wanted


def choose_images(args: Namespace, net: EDM2) -> tuple[dict[Item, str], list[Item], int]:
    """What to draw, with file names; which of it the grid shows, in how many columns.

    Errors: UsageError.
    """
    count, words = len(net.classes), vars(args)["class"]
    if words and not count:
        raise UsageError(f"--class {' '.join(words)}: this network has no classes")
    if words:
        wanted = range(count) if words == ["all"] else [class_number(w, net) for w in words]
        classes = list(dict.fromkeys(wanted))
        items = [Item(seed, c) for seed in args.seeds for c in classes]
    elif count and not args.random:
        items = [Item(seed, seed % count) for seed in args.seeds]
    elif count and args.name_class:
        drawn = net.seed_classes(args.seeds)
        items = [Item(seed, c) for seed, c in zip(args.seeds, drawn, strict=True)]
    else:
        items = [Item(seed) for seed in args.seeds]

    shown, ncol = items[:GRID], math.ceil(min(len(items), GRID) ** 0.5)
    if words and len(classes) > 1:  # a row for each class
        seeds = args.seeds[: max(1, min(10, GRID // len(classes)))]
        shown, ncol = [Item(seed, c) for c in classes[:GRID] for seed in seeds], len(seeds)

    def name(item: Item) -> str:
        folder = f"{item.seed // 1000 * 1000:06d}/" if args.subdirs else ""
        after = f"_{item.label:05d}" if has_class(args, net) else ""
        return f"{PARTS if args.grid_only else folder}{item.seed:06d}{after}.png"

    return {item: name(item) for item in (shown if args.grid_only else items)}, shown, ncol


def captions_of(shown: list[Item], ncol: int, classes: list[str]) -> Captions:
    """What stands on the grid of these images: seeds, and classes where they are known.

    A grid with a row for each class has their names beside them, and seeds above its columns.
    """
    names = ["" if item.label is None else classes[item.label] for item in shown]
    rows, seeds = [shown[i : i + ncol] for i in range(0, len(shown), ncol)], [i.seed for i in shown]
    if len(rows) > 1 and all([i.seed for i in row] == seeds[:ncol] for row in rows):
        return Captions(columns=[f"seed {seed}" for seed in seeds[:ncol]], rows=names[::ncol])
    each = [f"{seed}: {name}" if name else f"seed {seed}" for seed, name in zip(seeds, names)]  # noqa: B905
    return Captions(each=each)


def class_number(word: str, net: EDM2) -> int:
    """A class by number or by name. Errors: UsageError."""
    if word.isdigit() and int(word) < len(net.classes):
        return int(word)
    if word in net.classes:
        return net.classes.index(word)
    few = f" ({', '.join(net.classes)})" if len(net.classes) <= 20 else ""
    raise UsageError(
        f"--class {word}: classes are 0 to {len(net.classes) - 1}, their names{few}, or all"
    )


def has_class(args: Namespace, net: EDM2) -> bool:
    """Whether file names tell the class."""
    words = vars(args)["class"] or []
    return bool(net.classes) and (args.name_class or len(words) > 1 or words == ["all"])


def settings_of(
    args: Namespace, net: EDM2, guide: EDM2 | None, guidance: float | None
) -> dict[str, Any]:
    """What decides how the image of a file name looks, as JSON values."""
    used = None if guidance == 1 else guide
    rule = vars(args)["class"] or ("random" if args.random else "seed modulo classes")
    return {
        "net": net.content,
        "guide": used.content if used else None,
        "guidance": guidance,
        "guidance_interval": plain(args.guidance_interval) if used else None,
        **{name: plain(getattr(args, name)) for name in tagged(OPTIONS, SAMPLER)},
        "class": "in the names" if has_class(args, net) else rule,
        "precision": args.precision,
        "vae": args.vae,
    }


def asked_outdir(args: Namespace, say: Callable[[str], object] = print) -> Path | None:
    """The folder that --outdir means, if it is given."""
    return output_folder(args.outdir, "generate_images", say=say) if args.outdir else None


def default_outdir(args: Namespace, file: Path | None, settings: dict[str, Any]) -> Path:
    """RESULTS/generate_images/NAME-HASH, the same for the same settings, whatever the seeds."""
    sweep = [args.sweep_ema or [], args.sweep_guidance or [args.guidance]]
    key = hashlib.sha256(json.dumps([settings, sweep]).encode()).hexdigest()[:8]
    name = file.name.removesuffix(file.suffix) if file else args.preset
    return results_home() / "generate_images" / f"{name}-{key}"


def write_sweep(
    args: Namespace,
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


def facts_of(args: Namespace, net: Generator, folder: Path) -> dict[str, Any]:
    """For provenance.json: what was asked, which network, and which version of this toolkit."""
    origin = collect(folder)
    asked = {name: plain(value) for name, value in vars(args).items()}
    asked["seeds"] = compact_seeds(args.seeds)
    toolkit = {k: origin[k] for k in ("command", "git", "python")} | {"torch": torch.__version__}
    return {
        "args": asked, "kind": net.kind, "snapshot": net.snapshot.provenance, "toolkit": toolkit
    }  # fmt: skip


def plain(value: Any) -> Any:
    """For JSON, which has no infinity."""
    if isinstance(value, list):
        return [plain(v) for v in value]
    return str(value) if value == math.inf else value
