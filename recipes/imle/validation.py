"""How good a generator is on held-out pictures: figures and one picture of all; no run, no options.

The noise is that of a loop that is never trained, the same every time, so that two grids of one
run differ by its weights alone.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from evaluation.samples import best_of_k, bicubic, pairwise_diversity, psnr
from imle import (
    CodeGenerator,
    Corruption,
    PoolSearch,
    ResolutionLoss,
    UnconditionalGenerator,
    draw_samples,
)

LOOP = -1  # training's loops begin at 0


class Look(NamedTuple):
    """figures: scalars by name. pictures: [N, 3, H, W] in [0, 1], `columns` of them a row."""

    figures: dict[str, Tensor]
    pictures: Tensor
    columns: int


def look(
    net: nn.Module,
    loss_fn: nn.Module,
    z_gen: CodeGenerator,
    corruption: Corruption,
    inputs: Tensor,
    targets: Tensor,
    device: torch.device,
    *,
    samples: int,
    pool_size: int,
) -> Look:
    """`unconditional` of a generator without input, `conditional` of any other."""
    if isinstance(net, UnconditionalGenerator):
        return unconditional(net, z_gen, targets, device, samples=samples, pool_size=pool_size)
    assert isinstance(loss_fn, ResolutionLoss), "a CAM-Net is not trained by pixels alone"
    return conditional(net, loss_fn, z_gen, corruption, inputs, targets, device, samples=samples)


@torch.no_grad()
def conditional(
    net: nn.Module,
    loss_fn: ResolutionLoss,
    z_gen: CodeGenerator,
    corruption: Corruption,
    inputs: Tensor,
    targets: Tensor,
    device: torch.device,
    *,
    samples: int,
) -> Look:
    """Rows target | input | samples, nearest first; figures of the last level, means of pictures.

    inputs, targets: uint8 [N, 3, r, r] and [N, 3, R, R]. samples: how many of each, at least one.
    """
    found: dict[str, list[Tensor]] = {}
    rows = []
    for i, (x, y) in enumerate(zip(inputs.split(1), targets.split(1), strict=True)):
        ids = torch.tensor([i], device=device)
        x, y = (t.to(device).float() / 255 for t in (x, y))
        cx = corruption.keyed(x, LOOP, ids)
        drawn = draw_samples(net, z_gen, cx, ids, samples, loop=LOOP).clamp(0, 1)[0]
        terms, size = loss_fn.terms(drawn, y), drawn.shape[-1]
        baseline = bicubic(cx, size)
        figures = {
            loss_fn.name: terms.lpips.mean(),
            "mse": terms.mse.mean(),
            "combined": terms.combined.mean(),
            f"best_{loss_fn.name}": terms.lpips.min(),
            "best_combined": best_of_k(terms.combined[None])[0],
            "psnr": psnr(drawn, y.expand_as(drawn)).mean(),
            "best_psnr": psnr(drawn, y.expand_as(drawn)).max(),
            "bicubic_psnr": psnr(baseline, y)[0],
            f"bicubic_{loss_fn.name}": loss_fn.terms(baseline, y).lpips[0],
        }
        if samples > 1:  # the mean over pairs of samples
            pairs = loss_fn.pairwise(drawn)
            figures[f"diversity_{loss_fn.name}"] = pairs.sum() / (samples * (samples - 1))
        for name, value in figures.items():
            found.setdefault(name, []).append(value)
        shown = nn.functional.interpolate(cx, size=size, mode="nearest")
        rows.append(torch.cat([y, shown, drawn[terms.combined.argsort()]]))
    means = {name: torch.stack(values).mean() for name, values in found.items()}
    return Look(means, torch.cat(rows), 2 + samples)


@torch.no_grad()
def unconditional(
    net: nn.Module,
    z_gen: CodeGenerator,
    targets: Tensor,
    device: torch.device,
    *,
    samples: int,
    pool_size: int,
) -> Look:
    """Rows of samples, and how far held-out pictures are from a pool of them. All ranks call it.

    targets: uint8 [N, 3, R, R]; there are N rows of `samples`.
    """
    ids = torch.arange(len(targets), device=device)
    no_input = torch.zeros(len(ids), 0, device=device)
    batch = (ids, no_input, [targets.to(device).float() / 255])
    _, distances = PoolSearch(pool_size).search(net, z_gen, [batch], LOOP)
    drawn = draw_samples(net, z_gen, no_input, ids, samples, loop=LOOP).clamp(0, 1)
    figures = {"nearest_mse": distances.mean()}
    if samples > 1:
        apart = pairwise_diversity(drawn, lambda a, b: (a - b).square().mean((1, 2, 3)))
        figures["diversity_mse"] = apart.mean()
    return Look(figures, drawn.flatten(0, 1), samples)
