"""Pictures of what networks of the 2-D tree have learnt."""

import json
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from diffusion import toy
from diffusion.guidance import guided
from diffusion.toy_eval import TRUTH, calls_of, panels
from runtime.gallery import difference, settings_digest
from runtime.progress import Watched
from runtime.rundir import folder_name
from storage.dirs import results_home
from storage.errors import UsageError
from storage.files import expanded

NOTE = "toy_example"  # the entry in a PNG's metadata


def examining(
    nets: int, n: int, report: Callable[[int, int], object], *, guide: bool, external: bool,
    batch: int = 1024,
) -> Watched:  # fmt: skip
    """The `watch` of `diffusion.toy_eval.examine` with so many nets and these options of it."""
    times = (1 + external) * (1 + nets * (1 + guide))
    return Watched(calls_of(times, n, batch=batch), report)


def training_picture(
    tree: toy.Mixture,
    learner: toy.ToyModel,
    average: toy.ToyModel,
    guide: toy.ToyModel | None,
    weight: float,
    path: Path,
    generator: torch.Generator,
) -> dict[str, float]:
    """Samples of the learner, of its EMA, and of that guided by `weight`, into a PNG.

    Returns the share of them in the tree by title, as `diffusion.toy_eval.panels`.
    """
    columns = [("learner", learner.denoise), ("EMA", average.denoise)]
    if guide is not None:
        steered = guided(average.denoise, guide.denoise, weight)
        columns.append((f"guided by {weight:g}", steered))
    return panels(tree, columns, path, generator=generator)


def verdict(shares: Mapping[str, float]) -> str:
    """How many samples of `training_picture` are in the tree, and of those of the ground truth."""
    said = [f"{title} {100 * share:.1f} %" for title, share in shares.items() if title != TRUTH]
    exact = 100 * shares[TRUTH]
    return f"samples in the tree: {', '.join(said)}; of the ground truth's own {exact:.1f} %"


def network_picture(
    tree: toy.Mixture,
    net: toy.ToyModel,
    guide: toy.ToyModel | None,
    weight: float,
    path: Path,
    count: int,
    generator: torch.Generator,
    note: Mapping[str, Any],
    report: Callable[[int, int], object] = lambda done, total: None,
) -> None:
    """`count` samples of a network, of its guide, and guided ones, into a PNG.

    note: what it shows, JSON values, kept in its metadata for `there_already`. report: of
    `Watched`. Errors: UsageError if it cannot be written.
    """
    columns = [("network", net.denoise)]
    if guide is not None:
        steered = guided(net.denoise, guide.denoise, weight)
        columns += [("guide", guide.denoise), (f"guided by {weight:g}", steered)]
    watched = Watched(calls_of(len(columns), count), report)
    columns = [(title, watched(denoise)) for title, denoise in columns]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = {NOTE: json.dumps(note)}
        panels(tree, columns, path, n=count, generator=generator, note=text)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot write {path}: {error}") from error


def picture_file(args: Namespace, settings: Mapping[str, Any]) -> Path:
    """The PNG that --save means, or one of the results with the settings in its name. Errors:
    UsageError."""
    if not args.save:
        name = folder_name(f"tree-{Path(args.net or 'untrained').stem}", settings_digest(settings))
        return results_home() / "toy_example" / f"{name}.png"
    path = expanded(args.save)
    if path.is_dir():
        raise UsageError(f"--save {path} is a folder: give the PNG to write")
    return path if path.suffix else path.with_suffix(".png")


def there_already(path: Path, note: Mapping[str, Any], *, overwrite: bool) -> bool:
    """Whether a PNG shows what `note` (settings, args) says. Errors: UsageError if it shows
    something else, unless it shall be overwritten, or is none of this script's."""
    from PIL import Image

    if not path.exists():
        return False
    try:
        with Image.open(path) as picture:
            old = json.loads(picture.info.get(NOTE, "null"))
    except (OSError, ValueError):
        old = None
    if not isinstance(old, dict) or not isinstance(old.get("settings"), dict):
        raise UsageError(f"{path} is there and says not that this script drew it: another --save")
    if overwrite:
        return False
    if old["settings"] != note["settings"]:
        differs = difference(old, note["settings"], note["args"])
        raise UsageError(f"{path} shows something else: {differs}; another --save, or --overwrite")
    return True
