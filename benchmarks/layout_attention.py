"""Seconds of layout attention, forward and backward: `python -m benchmarks.layout_attention`.

loop       region by region of image by image, and the background's attention over all pixels: what
           the release does, which takes one image at a time.
closed, expanded, packed    the batched forms of `models.ddpm.layout_forms`.
default    the one that `choose` takes.

Boxes are random, of sides 0.15 to 0.6 of the image. One layer's attention between its projections;
what a form works out of the boxes first is in its time, though a network does it once for all
layers of a size. On a CPU `--threads` threads (1) and their processor time, the methods in turns;
the ratio is the median over rounds of loop / this one. Before, all forms are compared with the loop
in float64. `--quick`: does it run?
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from benchmarks.imle_setup import add_running, begin, parser_of
from models.ddpm.layout_forms import FORMS, choose, make_regions, region_attention
from models.ddpm.regions import Layout, region_masks


def layouts(images: int, boxes: int, generator: torch.Generator) -> Layout:
    """Random boxes inside the image."""
    size = 0.15 + 0.45 * torch.rand(images, boxes, 2, generator=generator)
    corner = (1 - size) * torch.rand(images, boxes, 2, generator=generator)
    classes = torch.randint(10, (images, boxes), generator=generator)
    return Layout(torch.cat([corner, size], 2), classes)


def run(rows: list[Tensor], layout: Layout, args: argparse.Namespace, form: str | None) -> Tensor:
    """What a layer does between its projections: [B, L, C]."""
    masks = region_masks(layout, args.grid, args.grid)
    regions = make_regions(masks, with_background=False, form=form)
    return region_attention(rows[0], rows[1], args.heads, regions)


def seconds(step: Callable[[], object], device: torch.device) -> float:
    """Of one call; on a CPU the processor time of this process."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = clock()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - began


def check(args: argparse.Namespace, device: torch.device) -> float:
    """Largest difference of any form, output or gradient, from the loop in float64, relative."""
    generator = torch.Generator().manual_seed(args.seed)
    layout = layouts(2, 5, generator).to(device)
    rows = torch.randn(2, 2, args.grid**2, 3 * args.channels, generator=generator).to(device)
    cotangent = torch.randn(2, args.grid**2, args.channels, generator=generator).to(device)

    def result(form: str, dtype: torch.dtype) -> Tensor:
        given = rows.to(dtype).requires_grad_()
        out = run(list(given), layout, args, form)
        (gradient,) = torch.autograd.grad((out * cotangent).sum(), given)
        return torch.cat([out.detach().flatten(), gradient.flatten()]).double()

    wanted = result("loop", torch.float64)
    found = [result(form, torch.float32) for form in FORMS]
    return max(float((f - wanted).abs().max() / wanted.abs().max()) for f in found)


def compare(images: int, boxes: int, args: argparse.Namespace, device: torch.device) -> str:
    """A row of the table."""
    generator = torch.Generator().manual_seed(args.seed + 100 * images + boxes)
    layout = layouts(images, boxes, generator).to(device)
    shape = (2, images, args.grid**2, 3 * args.channels)
    rows = [r.requires_grad_() for r in torch.randn(shape, generator=generator).to(device)]
    masks = region_masks(layout, args.grid, args.grid)

    def stepper(form: str | None) -> Callable[[], object]:
        def step() -> object:
            out = run(rows, layout, args, form)
            return torch.autograd.grad(out, rows, torch.ones_like(out))

        return step

    steps = {name: stepper(name) for name in FORMS} | {"default": stepper(None)}
    found: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(args.repeats + 1):
        for name, step in steps.items():
            took = seconds(step, device)
            if turn:  # the first one pays for what is loaded at first use
                found[name].append(took)
    ratios = {
        name: [a / b for a, b in zip(found["loop"], took, strict=True)]
        for name, took in found.items()
    }
    area = masks.float().mean()
    cells = [str(images), str(boxes), f"{area:.2f}"]
    cells.append(f"{1000 * statistics.median(found['loop']):.0f}")
    cells += [f"{statistics.median(ratios[n]):.2f}" for n in ("closed", "expanded", "packed")]
    worst = min(ratios["default"])
    cells.append(f"{choose(masks)} {statistics.median(ratios['default']):.2f} (>= {worst:.2f})")
    return f"| {' | '.join(cells)} |"


def main(argv: Sequence[str] | None = None) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--images", nargs="+", type=int, default=[1, 4, 16])
    parser.add_argument("--boxes", nargs="+", type=int, default=[2, 8, 20], help="of an image")
    parser.add_argument("--grid", type=int, default=16, help="side of the feature map")
    parser.add_argument("--channels", type=int, default=128)
    parser.add_argument("--heads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3, help="rounds; the forms take turns")
    add_running(parser)
    args = parser.parse_args(argv)
    if args.quick:
        args.images, args.boxes, args.grid, args.channels, args.repeats = [1, 2], [2], 8, 32, 1
    device = begin(args)
    far = check(args, device)
    print(f"largest difference from the loop in float64, relative: {far:.0e}")
    print(f"grid {args.grid} x {args.grid}, {args.channels} channels, {args.heads} heads, fp32\n")
    print("| images | boxes | mean area | loop ms | closed | expanded | packed | default |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for images in args.images:
        for boxes in args.boxes:
            print(compare(images, boxes, args, device), flush=True)


if __name__ == "__main__":
    main()
