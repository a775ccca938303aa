"""The grid of IMLE: what is known of each input, then its samples."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from evaluation.samples import bicubic
from generators.base import Generator
from generators.imle import ConditionalIMLE
from recipes.generate.parts import Inputs
from runtime.gallery import read_png
from storage.pictures import Captions, save_sheet

TITLE = "samples in the order of their codes; sample 1 is in the file that ends in _0"
MOST_LETTERS = 24  # of an input's name beside its row


def sample_sheet(
    file: Path,
    samples: Mapping[str, Sequence[Path]],
    captions: Sequence[str],
    net: Generator,
    inputs: Inputs | None = None,
    *,
    seed: int = 0,
) -> Path:
    """A PNG with a row for each entry of `samples`: target, input, bicubic enlargement, samples.

    samples: name of the row -> files; captions: of the samples. inputs: of a network that needs
    some, of which the first are shown. The column of targets is there if one of them is known, that
    of enlargements if the network enlarges. seed: of the corruptions. Errors: UsageError for a
    sample that cannot be read.
    """
    rows = [torch.stack([read_png(one) for one in row]).float() / 255 for row in samples.values()]
    columns: dict[str, str] = {}
    if inputs is not None and isinstance(net, ConditionalIMLE):
        columns = before_samples(net, inputs, len(rows))
        for i, row in enumerate(rows):
            made = known_of(net, inputs, i, seed=seed)
            rows[i] = torch.cat([*(made[name] for name in columns), row])
    names = [name if len(name) <= MOST_LETTERS else f"{name[:MOST_LETTERS]}..." for name in samples]
    words = Captions(TITLE, [*columns.values(), *captions], names)
    return save_sheet(file, torch.cat(rows), len(rows[0]), words)


def before_samples(net: ConditionalIMLE, inputs: Inputs, rows: int) -> dict[str, str]:
    """What stands before the samples in the first `rows` rows, with the captions."""
    known = any(target is not None for target in inputs.targets[:rows])
    enlarges = net.input_size < net.resolution
    there = {"target": "target"} if known else {}
    there["input"] = f"input, {net.input_size} px" if enlarges else "input"
    return there | ({"bicubic": "bicubic"} if enlarges else {})


def known_of(net: ConditionalIMLE, inputs: Inputs, i: int, *, seed: int) -> dict[str, Tensor]:
    """What may stand in row i before the samples, float [1, 3, r, r] in [0, 1]; a target that is
    not known is white."""
    seen = net.corrupt(inputs.x[i : i + 1], seed=seed, ids=inputs.ids[i : i + 1])
    target, size = inputs.targets[i], (net.resolution, net.resolution)
    made = {
        "target": torch.ones(1, 3, *size) if target is None else target[None].float() / 255,
        "input": F.interpolate(seen, size=size, mode="nearest"),  # with its pixels visible
        "bicubic": bicubic(seen, size),
    }
    return {name: image.expand(1, 3, *size) for name, image in made.items()}
