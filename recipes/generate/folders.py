"""What is drawn into which files, under which settings, and how a folder is filled with it."""

import hashlib
import json
import math
import re
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion.generate import Item
from diffusion.samplers import sigma_levels
from generators.base import Generator
from generators.ddpm import DDPM
from generators.edm2 import EDM2
from generators.imle import ConditionalIMLE, UnconditionalIMLE
from recipes.generate.options import OPTIONS, SAMPLER
from recipes.generate.parts import Inputs, check_room, temperature_of
from recipes.words import compact_seeds
from runtime import distributed
from runtime.distributed import say
from runtime.gallery import Gallery, clear, labelled_sheet, read_facts, sheet_of
from runtime.options import tagged
from runtime.provenance import collect
from runtime.rundir import folder_name
from storage.dirs import output_folder, results_home
from storage.errors import UsageError
from storage.files import read_object, write_text
from storage.find import run_of
from storage.pictures import Captions

GRID = 100  # images in grid.png, at most
ROWS = 50  # inputs in the grid of IMLE, at most
PARTS = ".parts/"  # where single images are while only a grid is wanted


class Filling:
    """A folder of one setting while it is filled: what it lacks, its grid, its end.

    names: of the pictures it shall have. shown: those of them in the grid. words: what tells this
    grid from others of the folder. what: the pictures, in the last line that is printed. facts: for
    provenance.json beside what is always there. finished: nothing is to be done, which was said.
    All ranks make one together. Errors: UsageError, as of `Gallery`.
    """

    def __init__(
        self,
        args: Namespace,
        net: Generator,
        folder: Path,
        settings: Mapping[str, Any],
        names: Sequence[str],
        *,
        shown: Sequence[str],
        words: str,
        what: str,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder, self.names, self.what = folder, list(names), what
        self.only_grid = args.grid_only
        self._gallery = Gallery(folder, settings, overwrite=args.overwrite, asked=asked(args))
        grid = self._gallery.sheet("grid", canonical(shown), words, self.names)
        self.grid = folder / grid
        needed = [grid] if self.only_grid else [grid, *self.names]
        self.finished = self._gallery.has(needed)
        if self.finished:
            whose = f"the grid of {what} is" if self.only_grid else f"{len(self.names)} pictures"
            say(f"done already: {whose} in {folder}")
            return
        self._there = self._gallery.start([*self.names, grid]) - {grid}
        own = facts_of(args, net, folder) if distributed.is_main() else {}
        self._facts = {**own, **(facts or {})}
        self._gallery.describe(self._facts)
        if self._there:
            say(f"{len(self._there)} of {len(self.names)} images are there already")

    def lacks(self, names: Iterable[str]) -> bool:
        """Whether one of these pictures is still to be drawn."""
        return not self._there.issuperset(names)

    def add(self, name: str, image: Tensor) -> None:
        """Write a picture uint8 [3 or 1, H, W], unless it is there."""
        if name not in self._there:
            self._gallery.add(name, image)

    def end(self, write_grid: Callable[[Path], object]) -> None:
        """All ranks have drawn what they had to: write the grid, and that all is there."""
        distributed.barrier()
        if distributed.is_main():
            write_grid(self.grid)
            if self.only_grid:
                self._gallery.drop(self.names)
        self._gallery.describe(self._facts, finished=self.names)
        say(f"{self.what}; grid: {self.grid}")


def canonical(names: Iterable[str]) -> list[str]:
    """Names as they are where single images are kept, too."""
    return [name.removeprefix(PARTS) for name in names]


def asked(args: Namespace) -> dict[str, Any]:
    """The options, as JSON values."""
    return {name: plain(value) for name, value in vars(args).items()}


def choose_images(args: Namespace, net: EDM2 | DDPM) -> tuple[dict[Item, str], list[Item], int]:
    """What to draw, with file names; which of it the grid shows, in how many columns.

    Errors: UsageError.
    """
    count, words = len(net.classes), vars(args)["class"]
    if words and not count:
        raise UsageError(f"--class {' '.join(words)}: this network has no classes")
    check_room(args, net, len(args.seeds) * (count if words == ["all"] else len(words or "1")))
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


def levels_of(args: Namespace) -> Captions:
    """What stands on a trajectory: the noise level that each of its images was the answer at."""
    levels = sigma_levels(args.steps, args.sigma_min, args.sigma_max, args.rho)[:-1]
    return Captions(each=[f"sigma {level:.3g}" for level in levels])


def class_number(word: str, net: EDM2 | DDPM) -> int:
    """A class by number or by name. Errors: UsageError."""
    if re.fullmatch(r"[0-9]{1,9}", word) and int(word) < len(net.classes):
        return int(word)
    if word in net.classes:
        return net.classes.index(word)
    few = f" ({', '.join(net.classes)})" if len(net.classes) <= 20 else ""
    raise UsageError(
        f"--class {word}: classes are 0 to {len(net.classes) - 1}, their names{few}, or all"
    )


def has_class(args: Namespace, net: EDM2 | DDPM) -> bool:
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
        # Folders of before the option, all of noise drawn on the CPU, have no word of it.
        **({} if args.noise_device == "cpu" else {"noise_device": args.noise_device}),
    }


def imle_settings(
    args: Namespace, net: ConditionalIMLE | UnconditionalIMLE, inputs: Inputs | None
) -> dict[str, Any]:
    """What decides how the images of an IMLE network look, as JSON values."""
    data: dict[str, Any] = {}
    if inputs is not None:
        data = {"data": inputs.data, "num_images": len(inputs.names), "inputs": inputs.checksum()}
    if args.consistency is not None:  # folders of before an option have no word of it
        data["consistency"] = args.consistency
    if temperature_of(args) != 1:
        data["temperature"] = temperature_of(args)
    return {**data, "net": net.content, "seed": args.seed, "precision": args.precision}


def asked_outdir(args: Namespace, say: Callable[[str], object] = print) -> Path | None:
    """The folder that --outdir means, if it is given."""
    return output_folder(args.outdir, "generate_images", say=say) if args.outdir else None


def imle_outdir(args: Namespace, file: Path | None, settings: Mapping[str, Any]) -> Path:
    """RESULTS/generate_images/RUN-DATA-HASH, the same for the same settings and as many images."""
    shaping = [settings, args.num_images, args.samples]
    key = hashlib.sha256(json.dumps(shaping).encode()).hexdigest()[:8]
    run, _ = run_of(file.parent) if file else (None, None)  # its files have the same names
    stem = "-".join(filter(None, [run.name if run else _name(args, file), settings.get("data")]))
    return results_home() / "generate_images" / folder_name(stem, key)


def default_outdir(args: Namespace, file: Path | None, settings: dict[str, Any]) -> Path:
    """RESULTS/generate_images/RUN-SNAPSHOT-HASH, the same for the same settings and any seeds.

    The folder that a version before named by the snapshot alone is gone on with, if it is there."""
    sweep = [args.sweep_ema or [], args.sweep_guidance or [args.guidance]]
    key = hashlib.sha256(json.dumps([settings, sweep]).encode()).hexdigest()[:8]
    home, own = results_home() / "generate_images", _name(args, file)
    older = home / f"{own}-{key}"
    run, _ = run_of(file.parent) if file else (None, None)  # runs' files have the same names
    if run is None or older.is_dir():
        return older
    return home / folder_name(f"{run.name}-{own}", key)


def _name(args: Namespace, file: Path | None) -> str:
    return file.name.removesuffix(file.suffix) if file else args.preset


def point_folders(note: Mapping[str, Any]) -> list[str]:
    """Names of the folders of a sweep's points, as its sweep.json tells them."""
    points = note.get("points")
    known = points if isinstance(points, list) else []
    told = [point.get("folder") for point in known if isinstance(point, dict)]
    return [Path(name).name for name in told if isinstance(name, str)]


class Sweep:
    """The folder of a sweep: sheet.png with a labelled cell for each finished point, and sweep.json
    with its settings; other seeds have files of other names. settings: of all points together.

    Made once guide and network are open. Errors: UsageError, as of `Gallery`.
    """

    def __init__(
        self,
        args: Namespace,
        net: EDM2,
        outdir: Path,
        settings: Mapping[str, Any],
        points: list[dict[str, Any]],
    ) -> None:
        self.args, self.outdir, self.points = args, outdir, points
        self.emas = list(dict.fromkeys(point["ema"] for point in points))
        self.weights = list(dict.fromkeys(point["guidance"] for point in points))
        names, shown, _ = choose_images(args, net)
        self._shown = canonical(names[item] for item in shown)
        whole = {**settings, "sweep_ema": args.sweep_ema, "sweep_guidance": args.sweep_guidance}
        before = read_object(outdir / "sweep.json") or {}
        gallery = Gallery(
            outdir, whole, overwrite=args.overwrite, asked=asked(args), older=self._is_same(before)
        )  # fmt: skip
        sheet = gallery.sheet("sheet", self._shown, sheet_words(args), [])
        self.sheet, self.note = outdir / sheet, outdir / sheet.replace("sheet", "sweep", 1)
        self.note = self.note.with_suffix(".json")
        self.finished = gallery.has([sheet, self.note.name])

        def clear_points() -> None:  # of other settings; only sweep.json tells where they are
            for name in point_folders(before):
                clear(outdir / name)

        gallery.start([sheet, self.note.name], clear_points)
        gallery.describe(facts_of(args, net, outdir) if distributed.is_main() else {})

    def _is_same(self, before: Mapping[str, Any]) -> bool:
        """Whether the sweep.json of a version before is of the same points and seeds."""
        now = {"emas": self.emas, "weights": self.weights, "seeds": compact_seeds(self.args.seeds)}
        return all(before.get(key) == value for key, value in now.items())

    def write(self) -> None:
        """Both files, with all points that are there."""
        done, grids = [], {}
        for point in self.points:
            folder = self.outdir / point["folder"]
            if (grid := sheet_of(folder, self._shown)) is not None:
                grids[point["ema"], point["guidance"]] = grid
                done.append(point | {"settings": (read_facts(folder) or {}).get("settings")})
        labelled_sheet(
            self.sheet,
            [[grids.get((ema, weight)) for weight in self.weights] for ema in self.emas],
            rows=[f"EMA {ema:.3f}" if ema else "" for ema in self.emas],
            columns=[f"guidance {weight:g}" for weight in self.weights],
        )
        seeds = compact_seeds(self.args.seeds)
        whole = {"emas": self.emas, "weights": self.weights, "seeds": seeds, "points": done}
        write_text(self.note, json.dumps(whole, indent=1))


def sheet_words(args: Namespace) -> str:
    """What tells the grids of other seeds and classes apart in names of files."""
    return "-".join([compact_seeds(args.seeds), *(vars(args)["class"] or [])])


def facts_of(args: Namespace, net: Generator, folder: Path) -> dict[str, Any]:
    """For provenance.json: what was asked, which network, and which version of this toolkit."""
    origin = collect(folder)
    options = asked(args) | {"seeds": compact_seeds(args.seeds)}
    toolkit = {k: origin[k] for k in ("command", "git", "python")} | {"torch": torch.__version__}
    return {
        "args": options, "kind": net.kind, "snapshot": net.snapshot.provenance, "toolkit": toolkit
    }  # fmt: skip


def plain(value: Any) -> Any:
    """For JSON, which has no infinity."""
    if isinstance(value, list):
        return [plain(v) for v in value]
    return str(value) if value == math.inf else value
