"""How good a generator is on held-out pictures: figures and one picture of all; no run, no options.

The noise is that of a loop that is never trained, the same every time, so that two grids of one
run differ by its weights alone.
"""

from collections.abc import Mapping
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
from storage.pictures import Captions

LOOP = -1  # training's loops begin at 0


class Look(NamedTuple):
    """figures: scalars by name. pictures: [N, 3, H, W] in [0, 1], a row of them has a picture for
    each of the captions' columns. verdict: what the figures say, in a line."""

    figures: dict[str, Tensor]
    pictures: Tensor
    captions: Captions
    verdict: str

    @property
    def columns(self) -> int:
        return len(self.captions.columns)


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
    """Rows target | input | its bicubic enlargement, if the target is larger | samples, nearest
    first; figures of the last level, means of pictures.

    What is compared with is `evaluation.samples.bicubic` of the input as the network sees it: where
    nothing is enlarged (colorization, inpainting), that is the input itself.
    inputs, targets: uint8 [N, 3, r, r] and [N, 3, R, R]. samples: how many of each, at least one.
    """
    found: dict[str, list[Tensor]] = {}
    rows, above = [], []
    enlarges = inputs.shape[-1] < targets.shape[-1]
    for i, (x, y) in enumerate(zip(inputs.split(1), targets.split(1), strict=True)):
        ids = torch.tensor([i], device=device)
        x, y = (t.to(device).float() / 255 for t in (x, y))
        cx = corruption.keyed(x, LOOP, ids)
        drawn = draw_samples(net, z_gen, cx, ids, samples, loop=LOOP).clamp(0, 1)[0]
        terms, size = loss_fn.terms(drawn, y), drawn.shape[-1]
        baseline = bicubic(cx, size)
        fidelity, compared = psnr(drawn, y.expand_as(drawn)), psnr(baseline, y)[0]
        figures = {
            loss_fn.name: terms.lpips.mean(),
            "mse": terms.mse.mean(),
            "combined": terms.combined.mean(),
            f"best_{loss_fn.name}": terms.lpips.min(),
            "best_combined": best_of_k(terms.combined[None])[0],
            "psnr": fidelity.mean(),
            "best_psnr": fidelity.max(),
            "bicubic_psnr": compared,
            f"bicubic_{loss_fn.name}": loss_fn.terms(baseline, y).lpips[0],
        }
        if samples > 1:  # the mean over pairs of samples
            pairs = loss_fn.pairwise(drawn)
            figures[f"diversity_{loss_fn.name}"] = pairs.sum() / (samples * (samples - 1))
        for name, value in figures.items():
            found.setdefault(name, []).append(value)
        shown = nn.functional.interpolate(cx, size=size, mode="nearest")
        order = terms.combined.argsort()
        rows.append(torch.cat([y, shown, *([baseline] if enlarges else []), drawn[order]]))
        above += ["", *([""] if enlarges else []), f"{compared:.1f} dB"]
        above += [f"{value:.1f} dB" for value in fidelity[order].tolist()]
    means = {name: torch.stack(values).mean() for name, values in found.items()}
    names = [f"input, {inputs.shape[-1]} px", "bicubic"] if enlarges else ["input"]
    columns = ["target", *names, *(f"sample {k + 1}" for k in range(samples))]
    title = "PSNR against the target; samples in order of their loss, the best first"
    verdict = against_bicubic(means, loss_fn.name, samples, "bicubic" if enlarges else "the input")
    return Look(means, torch.cat(rows), Captions(title, columns, each=above), verdict)


def against_bicubic(figures: Mapping[str, Tensor], loss: str, samples: int, name: str) -> str:
    """What `conditional` figures say: PSNR of the best sample of each picture, of all samples on
    average, of bicubic (`name`: what it is called); then the perceptual loss of the last two."""
    mean, best, other = (float(figures[key]) for key in ("psnr", "best_psnr", "bicubic_psnr"))
    own = f"best of {samples} {best:.1f} dB, mean sample {mean:.1f} dB"
    if samples == 1:
        own = f"sample {mean:.1f} dB"
    if abs(mean - other) < 0.05:
        word = f"as good as {name}"
    else:
        word = f"{abs(mean - other):.1f} dB {'better' if mean > other else 'worse'} than {name}"
    whose = "the sample" if samples == 1 else "the mean sample"
    perceptual = (
        f"{loss} {float(figures[loss]):.4f} against {float(figures[f'bicubic_{loss}']):.4f}"
    )
    return f"{own}, {name} {other:.1f} dB: {whose} is {word}; {perceptual}"


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

    targets: uint8 [N, 3, R, R]; there are N rows of `samples`. What is compared with is the
    distance of a picture to the mean of the others, where there are others.
    """
    ids = torch.arange(len(targets), device=device)
    no_input = torch.zeros(len(ids), 0, device=device)
    batch = (ids, no_input, [targets.to(device).float() / 255])
    y = batch[2][0]
    _, distances = PoolSearch(pool_size).search(net, z_gen, [batch], LOOP)
    drawn = draw_samples(net, z_gen, no_input, ids, samples, loop=LOOP).clamp(0, 1)
    figures = {"nearest_mse": distances.mean()}
    if samples > 1:
        apart = pairwise_diversity(drawn, lambda a, b: (a - b).square().mean((1, 2, 3)))
        figures["diversity_mse"] = apart.mean()
    columns = [f"sample {k + 1}" for k in range(samples)]
    words = Captions("samples, each of a code of its own", columns)
    verdict = f"MSE to the nearest of {pool_size} samples {float(figures['nearest_mse']):.4f}"
    if len(y) > 1:
        others = (y.sum(0) - y) / (len(y) - 1)
        figures["mean_picture_mse"] = (y - others).square().mean()
        word = "better" if figures["nearest_mse"] < figures["mean_picture_mse"] else "worse"
        verdict += f", to the mean of the other pictures {float(figures['mean_picture_mse']):.4f}"
        verdict += f": the nearest sample is {word} than the mean picture"
    return Look(figures, drawn.flatten(0, 1), words, verdict)
