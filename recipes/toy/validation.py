"""Pictures of what networks of the 2-D tree have learnt."""

from collections.abc import Mapping
from pathlib import Path

import torch

from diffusion import toy
from diffusion.guidance import guided
from diffusion.toy_eval import TRUTH, panels
from storage.errors import UsageError


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
    steered = None if guide is None else guided(average.denoise, guide.denoise, weight)
    last = "no guide" if guide is None else f"guided by {weight:g}"
    columns = [("learner", learner.denoise), ("EMA", average.denoise), (last, steered)]
    return panels(tree, columns, path, generator=generator)


def verdict(shares: Mapping[str, float]) -> str:
    """How many samples of `training_picture` are in the tree, and how many exact ones."""
    said = [f"{title} {100 * share:.1f} %" for title, share in shares.items() if title != TRUTH]
    return f"samples in the tree: {', '.join(said)}, exact ones {100 * shares[TRUTH]:.1f} %"


def network_picture(
    tree: toy.Mixture,
    net: toy.ToyModel,
    guide: toy.ToyModel | None,
    weight: float,
    path: Path,
    count: int,
    generator: torch.Generator,
) -> None:
    """`count` samples of a network, of its guide, and guided ones, into a PNG.

    Errors: UsageError if it cannot be written.
    """
    if guide is None:
        columns = [("network", net.denoise), ("no guide", None), ("", None)]
    else:
        steered = guided(net.denoise, guide.denoise, weight)
        columns = [("network", net.denoise), ("guide", guide.denoise)]
        columns.append((f"guided by {weight:g}", steered))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        panels(tree, columns, path, n=count, generator=generator)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot write {path}: {error}") from error


def picture_file(word: str | Path) -> Path:
    """The PNG that --save means. Errors: UsageError."""
    path = Path(word).expanduser()
    if path.is_dir():
        raise UsageError(f"--save {path} is a folder: give the PNG to write")
    return path if path.suffix else path.with_suffix(".png")
