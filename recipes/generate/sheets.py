"""The grid of IMLE: what is known of each input, then its samples."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from evaluation.samples import bicubic
from generators.imle import ConditionalIMLE
from recipes.generate.parts import Inputs
from runtime.gallery import read_png
from storage.pictures import save_grid


def sample_sheet(
    file: Path,
    samples: Sequence[Sequence[Path]],
    net: ConditionalIMLE | None = None,
    inputs: Inputs | None = None,
    *,
    seed: int = 0,
) -> Path:
    """A PNG with a row for each list of `samples`: target, input, bicubic enlargement, samples.

    inputs: of at least as many rows, for a network that has any. The column of targets is there if
    one is known, that of enlargements if the network enlarges. seed: of the corruptions. Errors:
    UsageError for a sample that cannot be read.
    """
    rows = [torch.stack([read_png(one) for one in row]).float() / 255 for row in samples]
    if net is not None and inputs is not None:
        names = columns(net, inputs, len(rows))
        rows = [
            torch.cat([*before_samples(net, inputs, i, names, seed=seed), row])
            for i, row in enumerate(rows)
        ]
    return save_grid(file, torch.cat(rows), ncol=len(rows[0]))


def columns(net: ConditionalIMLE, inputs: Inputs, rows: int) -> list[str]:
    """What stands before the samples in the first `rows` rows."""
    known = any(target is not None for target in inputs.targets[:rows])
    names = {"target": known, "input": True, "bicubic": net.input_size < net.resolution}
    return [name for name, there in names.items() if there]


def before_samples(
    net: ConditionalIMLE, inputs: Inputs, i: int, names: Sequence[str], *, seed: int
) -> list[Tensor]:
    """The images of the columns `names` for input i, float [1, 3, r, r] in [0, 1] each; a target
    that is not known is white."""
    seen = net.corrupt(inputs.x[i : i + 1], seed=seed, ids=inputs.ids[i : i + 1])
    target, size = inputs.targets[i], (net.resolution, net.resolution)
    made = {
        "target": torch.ones(1, 3, *size) if target is None else target[None].float() / 255,
        "input": F.interpolate(seen, size=size, mode="nearest"),  # with its pixels visible
        "bicubic": bicubic(seen, size),
    }
    return [made[name].expand(1, 3, *size) for name in names]
