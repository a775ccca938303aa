"""Pictures a second in two views, per core: `python -m benchmarks.augment` (`--quick`: a trial).

per sample  torchvision on PIL pictures, one at a time, as a DataLoader's worker does it: already
            decoded, two views each, stacked to a batch. The reference.
exact       data.views.recipes.ExactViews on the uint8 batch, index sampling and drawing included.
folded      data.views.recipes.FoldedViews, the same.

Recipes: 32 px, color_s .5, no blur; 96 px, color_s 1, blur of 9 taps with p .5; both normalised,
pictures of the views' size. On the CPU: one thread, its processor time (other work on the machine
does not count), the methods in turns, medians; the ratio's range over the rounds in brackets. On a
GPU (`--device cuda`): elapsed time, and the reference stays on the CPU.

A second table says what folding changes: the mean of the views' values in [0, 1], and how many of
them lie at 0 or 1, of exact views (which are torchvision's on float pictures) and of folded ones
with the same draws, for those pictures and for the embedded scenes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from benchmarks.imle_setup import machine
from data.scenes import Scenes
from data.views.recipes import (
    CIFAR_MEAN,
    CIFAR_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    ExactViews,
    FoldedViews,
    Recipe,
    per_sample,
    recipe,
    view_keys,
)
from runtime.cli import prepare

RECIPES = {
    32: recipe("cifar", color_s=0.5, mean=CIFAR_MEAN, std=CIFAR_STD),
    96: recipe("imagenet", crop_size=96, color_s=1.0, mean=IMAGENET_MEAN, std=IMAGENET_STD),
}
REFERENCE = "per sample"


def pictures(n: int, size: int, seed: int) -> Tensor:
    """uint8 [n, 3, size, size], smooth with some noise."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, 6, 6, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size, mode="bicubic") * 255
    noise = torch.randn(smooth.shape, generator=generator) * 8
    return (smooth + noise).clamp(0, 255).to(torch.uint8)


def methods(plan: Recipe, images: Tensor, device: str) -> dict[str, Callable[[Tensor, int], None]]:
    """What makes two views of the pictures with given indices in an epoch."""
    slow = per_sample(plan)
    pil = [to_pil_image(image) for image in images]
    there = images.to(device)

    def one_by_one(indices: Tensor, epoch: int) -> None:
        for _ in range(2):
            torch.stack([slow(pil[i]) for i in indices.tolist()])

    def batched(views: ExactViews | FoldedViews) -> Callable[[Tensor, int], None]:
        def make(indices: Tensor, epoch: int) -> None:
            indices = indices.to(device)
            batch = there[indices]
            for view in range(2):
                views(batch, view_keys(0, epoch, indices, view))

        return make

    return {
        REFERENCE: one_by_one,
        "exact": batched(ExactViews(plan)),
        "folded": batched(FoldedViews(plan)),
    }


def seconds(make: Callable[[Tensor, int], None], indices: Tensor, epoch: int, cuda: bool) -> float:
    clock = time.perf_counter if cuda else time.process_time
    if cuda:
        torch.cuda.synchronize()
    began = clock()
    make(indices, epoch)
    if cuda:
        torch.cuda.synchronize()
    return clock() - began


def compare(size: int, batch: int, args: argparse.Namespace) -> list[str]:
    """Rows of the table for one size of pictures and of batches."""
    images = pictures(batch, size, args.seed)
    found: dict[str, list[float]] = {}
    makers = methods(RECIPES[size], images, args.device)
    generator = torch.Generator().manual_seed(args.seed)
    for turn in range(args.repeats + 1):
        indices = torch.randperm(batch, generator=generator)
        for name, make in makers.items():
            cuda = args.device != "cpu" and name != REFERENCE
            part = indices[: args.reference] if name == REFERENCE else indices
            times = 1 if name == REFERENCE else args.times
            took = sum(seconds(make, part, turn * times + k, cuda) for k in range(times))
            if turn:
                found.setdefault(name, []).append(took / times / len(part))
    rows = []
    for name, took in found.items():
        ratios = [a / b for a, b in zip(found[REFERENCE], took, strict=True)]
        rows.append(
            f"| {size} | {batch} | {name} | {1 / statistics.median(took):.0f} | "
            f"{statistics.median(took) * 1e6 / 2:.1f} | "
            f"{statistics.median(ratios):.1f} ({min(ratios):.1f}-{max(ratios):.1f}) |"
        )
    return rows


def changes(size: int, count: int, seed: int) -> list[str]:
    """Rows of the second table for one recipe: what folding does to the values of views."""
    plan = RECIPES[size]._replace(mean=None, std=None)
    scenes = Scenes("train")
    drawn = torch.stack(
        [torch.from_numpy(scenes.render(i, size).image).permute(2, 0, 1) for i in range(count)]
    )
    rows = []
    for name, images in (("smooth", pictures(count, size, seed)), ("scenes", drawn)):
        keys = [view_keys(seed, 0, torch.arange(count), view) for view in range(4)]
        exact, folded = (
            torch.cat([kind(plan)(images, key) for key in keys])
            for kind in (ExactViews, FoldedViews)
        )
        ends = [((x <= 0) | (x >= 1)).double().mean().item() for x in (exact, folded)]
        shift = folded.double().mean() / exact.double().mean() - 1
        rows.append(
            f"| {size} | {name} | {exact.mean():.3f} | {folded.mean():.3f} | {shift:+.1%} | "
            f"{ends[0]:.1%} | {ends[1]:.1%} |"
        )
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--sizes", type=int, nargs="+", choices=list(RECIPES), default=list(RECIPES))
    add("--batches", type=int, nargs="+", default=[256])
    add("--repeats", type=int, default=9, help="rounds; the methods take turns")
    add("--times", type=int, default=4, help="batches a round, of the batched methods")
    add("--reference", type=int, default=128, help="pictures a round, of the reference")
    add("--pictures", type=int, default=512, help="of the second table")
    add("--device", default="cpu", help="of the batched methods")
    add("--seed", type=int, default=0)
    add("--quick", action="store_true")
    prepare(parser)
    args = parser.parse_args(argv)
    if args.quick:
        args.repeats, args.times, args.batches, args.reference = 1, 1, [16], 16
        args.pictures = 16
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    print(machine(torch.device(args.device)))
    print("\n| px | batch | method | pictures/s (2 views) | us a view | times the reference |")
    print("|---|---|---|---|---|---|")
    for size in args.sizes:
        for batch in args.batches:
            print("\n".join(compare(size, batch, args)), flush=True)
    print("\n| px | pictures | mean, exact | folded | change | at 0 or 1, exact | folded |")
    print("|---|---|---|---|---|---|---|")
    for size in args.sizes:
        print("\n".join(changes(size, args.pictures, args.seed)), flush=True)


if __name__ == "__main__":
    main()
