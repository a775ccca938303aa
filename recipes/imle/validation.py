"""How good a generator is on held-out pictures: figures and one picture of all; no run, no options.

The noise is that of a loop that is never trained, the same every time, so that two grids of one
run differ by its weights alone.
"""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from evaluation.artifacts import border_error, ripple
from evaluation.looks import (
    best_gain,
    chroma_distance,
    edge_gradient,
    one_color,
    spread,
)
from evaluation.samples import best_of_k, bicubic, pairwise_diversity, psnr
from imle import (
    CodeGenerator,
    Corruption,
    PoolSearch,
    ResolutionLoss,
    UnconditionalGenerator,
    draw_samples,
)
from imle.color import rgb_to_xyz, xyz_to_lab
from imle.consistency import disagreement, known_pixels, to_show
from imle.losses import LossTarget, LossTerms
from storage.pictures import Captions

LOOP = -1  # training's loops begin at 0
WHITE = 0.1  # standard deviation over samples that the sheet shows as white
LARGEST_PSNR = 100.0  # dB; inf for a picture of one colour would be inf for the mean of all
AGREE = 0.1 / 255  # samples whose inputs differ by no more are not projected
TRANSFORM = re.compile(r"(^|\.)transform_\d+$")  # what makes gains and shifts of a style


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
    each: Callable[[int, int], object] = lambda done, total: None,
) -> Look:
    """`unconditional` of a generator without input, `conditional` of any other.

    each: is given (pictures done, of how many) by the latter.
    """
    if isinstance(net, UnconditionalGenerator):
        return unconditional(net, z_gen, targets, device, samples=samples, pool_size=pool_size)
    assert isinstance(loss_fn, ResolutionLoss), "a CAM-Net is not trained by pixels alone"
    return conditional(
        net, loss_fn, z_gen, corruption, inputs, targets, device, samples=samples, each=each
    )


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
    projected: bool = False,
    temperature: float | Sequence[float] = 1.0,
    each: Callable[[int, int], object] = lambda done, total: None,
) -> Look:
    """Rows target | input | its bicubic enlargement, if the target is larger | samples, nearest
    first | where they differ; figures of the last level, means of pictures.

    What is compared with is `evaluation.samples.bicubic` of the input as the network sees it: where
    nothing is enlarged (colorization, inpainting), that is the input itself.
    inputs, targets: uint8 [N, 3, r, r] and [N, 3, R, R]. samples: how many of each, at least one.
    projected: what is looked at is the nearest image to each sample that agrees with its input.
    temperature: of the samples, see `imle.sampling`.
    """
    found: dict[str, list[Tensor]] = {}
    rows, above = [], []
    enlarges = inputs.shape[-1] < targets.shape[-1]
    with recorded_styles(net) as styles:
        for i, (x, y) in enumerate(zip(inputs.split(1), targets.split(1), strict=True)):
            ids = torch.tensor([i], device=device)
            x, y = (t.to(device).float() / 255 for t in (x, y))
            task = Task(corruption, x, ids)
            drawn = draw_samples(
                net, z_gen, task.cx, ids, samples, loop=LOOP, temperature=temperature
            ).clamp(0, 1)[0]
            if projected:
                drawn = task.agreeing(drawn)
            judged = judge(loss_fn, task, drawn, y)
            for name, value in judged.figures.items():
                found.setdefault(name, []).append(value)
            row, words = row_of(task, drawn, y, judged, enlarges=enlarges)
            rows.append(row)
            above += words
            each(i + 1, len(inputs))
    found["ripple"] = [value for value in found["ripple"] if not value.isnan()]  # nothing is flat
    means = {name: torch.stack(values).mean() for name, values in found.items() if values}
    means = shares(means, loss_fn.name) | style_figures(styles)
    names = [f"input, {inputs.shape[-1]} px", "bicubic"] if enlarges else ["input"]
    columns = ["target", *names, *(f"sample {k + 1}" for k in range(samples))]
    title = "PSNR against the target; samples in order of their loss, the best first"
    if samples > 1:
        columns.append("they differ")
        title += f"; last: their standard deviation, white from {WHITE} on, and its mean"
    said = against_bicubic(means, loss_fn.name, samples, "bicubic" if enlarges else "the input")
    verdict = "; ".join([said, *in_words(means)])
    return Look(means, torch.cat(rows), Captions(title, columns, each=above), verdict)


class Task:
    """One picture as the network is to have it: its corrupted input, and what that says of outputs.

    x: [1, 3, r, r] in [0, 1], before the corruption; ids: int64 [1], of the picture.
    """

    def __init__(self, corruption: Corruption, x: Tensor, ids: Tensor) -> None:
        self.corruption = corruption
        self.cx = corruption.keyed(x, LOOP, ids)

    def disagreement(self, images: Tensor) -> Tensor:
        """How far images [K, 3, R, R] are from the input when they are corrupted again, [K]."""
        return disagreement(images, self._inputs(images), self.corruption)

    def agreeing(self, images: Tensor) -> Tensor:
        """The images in [0, 1] near these [K, 3, R, R] that agree with the input."""
        return to_show(images, self._inputs(images), self.corruption)

    def _inputs(self, images: Tensor) -> Tensor:
        return self.cx.expand(len(images), -1, -1, -1)

    def own_figures(self, drawn: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Figures of colorization and of inpainting alone; drawn [K, 3, R, R], y [1, 3, R, R]."""
        figures = {}
        if self.corruption.grayscale:
            lab, true = (xyz_to_lab(rgb_to_xyz(images)) for images in (drawn, y))
            apart = chroma_distance(lab, true)
            figures["chroma_error"] = apart.mean()
            figures["best_chroma_error"] = apart.min()
            figures["chroma_error_grey"] = chroma_distance(torch.zeros_like(true), true)[0]
            figures["chroma_error_mean_color"] = chroma_distance(one_color(true), true)[0]
            # Where hues lie; grey has one colour a picture's error here, the right tint less.
            within = chroma_distance(lab - one_color(lab), true - one_color(true))
            figures["chroma_error_within"] = within.mean()
            figures["best_chroma_error_within"] = within.min()
        known = known_pixels(self.cx, self.corruption)
        if known is not None and 0 < known.sum() < known.numel():
            size = y.shape[-1]
            holes = nn.functional.interpolate((~known).float(), size=size).bool()
            shown = nn.functional.interpolate(self.cx, size=size, mode="nearest")
            figures["seam"] = edge_gradient(drawn, holes).mean()
            figures["input_seam"] = edge_gradient(shown, holes)[0]
            figures["real_seam"] = edge_gradient(y, holes)[0]
        return figures


class Judged(NamedTuple):
    """One picture's samples: their figures, each [], their loss and PSNR, each [K], and what they
    are compared with, [1, 3, R, R]."""

    figures: dict[str, Tensor]
    loss: Tensor
    psnr: Tensor
    baseline: Tensor


def judge(loss_fn: ResolutionLoss, task: Task, drawn: Tensor, y: Tensor) -> Judged:
    """Figures of samples [K, 3, R, R] of one picture y [1, 3, R, R], all in [0, 1]."""
    target, made = loss_fn.prepare(y), loss_fn.prepare(drawn)
    terms = loss_fn.terms(made, target)
    baseline = bicubic(task.cx, drawn.shape[-1])
    fidelity = psnr(drawn, y.expand_as(drawn)).clamp(max=LARGEST_PSNR)
    figures = {
        loss_fn.name: terms.lpips.mean(),
        "mse": terms.mse.mean(),
        "combined": terms.combined.mean(),
        f"best_{loss_fn.name}": terms.lpips.min(),
        "best_combined": best_of_k(terms.combined[None])[0],
        "psnr": fidelity.mean(),
        "best_psnr": fidelity.max(),
        "bicubic_psnr": psnr(baseline, y)[0].clamp(max=LARGEST_PSNR),
        f"bicubic_{loss_fn.name}": loss_fn.terms(baseline, target).lpips[0],
        "consistency": task.disagreement(drawn).mean(),
        "bicubic_consistency": task.disagreement(baseline)[0],
        "target_consistency": task.disagreement(y)[0],
        "border_error": border_error(drawn, y).mean(),
        "ripple": ripple(drawn, y).mean(),
    }
    if len(drawn) > 1:
        figures |= differences(loss_fn, task, drawn, made, terms, target)
    figures |= task.own_figures(drawn, y)
    return Judged(figures, terms.combined, fidelity, baseline)


def row_of(
    task: Task, drawn: Tensor, y: Tensor, judged: Judged, *, enlarges: bool
) -> tuple[Tensor, list[str]]:
    """A row of the sheet [columns, 3, R, R], and what is written above each."""
    shown = nn.functional.interpolate(task.cx, size=drawn.shape[-1], mode="nearest")
    order = judged.loss.argsort()
    row = [y, shown, *([judged.baseline] if enlarges else []), drawn[order]]
    words = ["", *([""] if enlarges else []), f"{judged.figures['bicubic_psnr']:.1f} dB"]
    words += [f"{value:.1f} dB" for value in judged.psnr[order].tolist()]
    if len(drawn) > 1:
        differ = spread(drawn[None])
        row.append((differ / WHITE).clamp(0, 1).expand(-1, 3, -1, -1))
        words.append(f"{float(differ.mean()):.3f}")
    return torch.cat(row), words


def differences(
    loss_fn: ResolutionLoss,
    task: Task,
    drawn: Tensor,
    made: LossTarget,
    terms: LossTerms,
    target: LossTarget,
) -> dict[str, Tensor]:
    """How much samples [K, 3, R, R] of one picture differ, as drawn and where they agree with their
    input; made: their features, terms: their distance to the target. K >= 2."""
    pairs = len(drawn) * (len(drawn) - 1)
    raw = loss_fn.pairwise(made).sum() / pairs  # the mean over pairs of samples
    consistent, far = raw, terms.lpips.mean()
    if float(task.disagreement(drawn).max()) > AGREE:
        projected = loss_fn.prepare(task.agreeing(drawn))
        consistent = loss_fn.pairwise(projected).sum() / pairs
        far = loss_fn.terms(projected, target).lpips.mean()
    return {
        f"diversity_{loss_fn.name}": raw,
        f"consistent_diversity_{loss_fn.name}": consistent,
        "consistent_distance": far,
        "best_gain": best_gain(terms.combined[None])[0],
    }


def shares(means: dict[str, Tensor], loss: str) -> dict[str, Tensor]:
    """Figures that are ratios of means over pictures, with what they are of left out."""
    means = dict(means)
    if "consistent_distance" in means:
        far = means.pop("consistent_distance")
        means["diversity_share"] = means[f"consistent_diversity_{loss}"] / far
    if "real_seam" in means:
        real = means.pop("real_seam")
        means |= {name: means[name] / real for name in ("seam", "input_seam")}
    return means


@contextlib.contextmanager
def recorded_styles(net: nn.Module) -> Iterator[dict[int, list[list[Tensor]]]]:
    """Inside, the style modulation that a generator computes is kept: level -> layers -> calls.

    Of a CAM-Net what `transform_K` of each level gives for codes, gains and shifts [rows, 2 C].
    """
    kept: dict[int, list[list[Tensor]]] = {}
    hooks = []
    for level, stage in enumerate(getattr(net, "stages", ())):
        layers = [m for n, m in stage.named_modules() if TRANSFORM.search(n)]
        kept[level] = [[] for _ in layers]
        for calls, layer in zip(kept[level], layers, strict=True):
            hooks.append(
                layer.register_forward_hook(
                    lambda _module, _in, out, calls=calls: calls.append(out.detach().float())
                )
            )
    try:
        yield kept
    finally:
        for hook in hooks:
            hook.remove()


def style_figures(styles: Mapping[int, list[list[Tensor]]]) -> dict[str, Tensor]:
    """Standard deviation of the style modulation over codes: of each level, and their mean.

    With --norm instance features are normalised before they are modulated, so 1 is as much as they
    vary themselves; near 0 the mapping network says nothing.
    """
    each = {
        f"level{level}_style_std": torch.stack(
            [torch.cat(calls).std(0, correction=0).mean() for calls in layers]
        ).mean()
        for level, layers in styles.items()
        if layers and all(layers)
    }
    return {"style_std": torch.stack(list(each.values())).mean(), **each} if each else {}


def in_words(figures: Mapping[str, Tensor]) -> list[str]:
    """What the other figures say: agreement with the input, differences, hues, seams."""
    off, real = (255 * float(figures[f"{which}consistency"]) for which in ("", "target_"))
    share = figures.get("diversity_share")
    agrees = off <= max(1, real)  # a set may hold its sizes apart
    word = "agree with" if agrees else "contradict"
    beside = f", as real pictures are by {real:.1f}" if agrees and off > 1 else ""
    said = [f"samples {word} the input (off by {off:.2f} of 255{beside})"]
    if share is not None:
        word = "and differ" if agrees else "and, made to agree with it, differ"
        said[0] += f" {word} by {100 * float(share):.0f} % of their distance to the target"
    if "chroma_error" in figures:
        own, grey, mean = (
            float(figures[f"chroma_error{end}"]) for end in ("", "_grey", "_mean_color")
        )
        said.append(f"error of hues {own:.1f}, grey {grey:.1f}, one colour a picture {mean:.1f}")
    if "seam" in figures:
        own, holes = float(figures["seam"]), float(figures["input_seam"])
        said.append(f"edges of holes {own:.2f} times as steep as real ones (input {holes:.1f})")
    return said


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
