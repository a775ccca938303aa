"""What networks of train_omnigan.py are worth: `python -m benchmarks.omnigan_runs PART ..`.

losses     --net RUN: each task's loss at the beginning and at the end of its training.
segments   --net RUN: accuracy and mIoU of its segmentation of held-out pictures, beside those of
           saying everywhere the class that is there most often. --list FILE: of one's own list.
flood      --net RUN --judge RUN: is a dry street that it flooded under water where it should be?
           The judge is another network of train_omnigan.py, trained apart on real scenes, flooded
           and dry, for s and w. What should be flooded is what is under water in the same scene
           when it is drawn flooded, and was not when it is drawn dry. Beside the translated
           pictures: the dry ones as they are, and the scenes that are drawn flooded. A sheet.

Figures are of the network's last snapshot. `--quick`: does it run?
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from benchmarks.imle_setup import machine
from data.omni import DOMAINS, NO_CLASS, DomainSamples, make_loaders, open_samples
from data.omni.transforms import read_steps
from data.scenes import SEGMENT, Scenes
from evaluation.intervals import mean_share_interval
from evaluation.maps import confusion, segmentation_figures
from generators.door import open_generator
from generators.omnigan import KIND, Omnigan
from runtime.cli import prepare
from storage.errors import DataError, RunError
from storage.files import make_folder, read_bytes
from storage.find import find_network
from storage.layout_pictures import segmentation_maps
from storage.pictures import Captions, save_sheet

SHARES = ("translated", "as they are", "drawn flooded")


def network(word: str, args: argparse.Namespace) -> tuple[Omnigan, str]:
    """The network that a word names, and its file's name with its run's."""
    file = find_network(word, "train_omnigan")
    net = open_generator(file, kinds=[KIND], device=args.device, say=lambda line: None)
    return cast(Omnigan, net), f"{file.parent.parent.name}/{file.stem}"


def unit(images: list[Any]) -> Tensor:
    """Pictures uint8 [H, W, 3] as float [n, 3, H, W] in [0, 1]."""
    return torch.stack([torch.from_numpy(x.transpose(2, 0, 1).copy()) for x in images]) / 255


# ------------------------------------------------------------------------------------ losses


def losses(args: argparse.Namespace) -> None:
    """Means of each task's logged losses over --ends of the records at either end."""
    file = find_network(args.net, "train_omnigan").parent.parent / "metrics.jsonl"
    records = [json.loads(line) for line in read_bytes(file).splitlines() if line.strip()]
    names = sorted({k for r in records for k in r if k.startswith("G/task_loss/")})
    if not names:
        raise DataError(f"{file} has no losses of tasks: --set train.log_level=2")
    print("| loss | first | last | last / first |\n|---|---|---|---|")
    for name in names:
        values = [r[name] for r in records if name in r]
        n = max(1, round(len(values) * args.ends))
        first, last = sum(values[:n]) / n, sum(values[-n:]) / n
        task, domain = name.split("/")[-2:]
        print(f"| {task}, {domain} | {first:.3f} | {last:.3f} | {last / first:.2f} |")


# ---------------------------------------------------------------------------------- segments


def segments(args: argparse.Namespace) -> None:
    """Segmentation of --pictures held-out pictures of each of --domains."""
    net, name = network(args.net, args)
    sides, classes = net.snapshot.config.get("resolution", 256), net.net.output_dims["s"]
    steps = read_steps([{"name": "resize", "new_size": sides}])
    print(f"{name}, {sides} px\n\n| domain | pictures | accuracy | most frequent class | mIoU | "
          "mIoU of that class |\n|---|---|---|---|---|---|")  # fmt: skip
    for domain in args.domains:
        found = open_samples(
            args.list, domain, "val", keep=["s"], classes=classes, no_class=args.no_class
        )
        samples = DomainSamples(found, domain, "val", steps, args.seed)
        counts = torch.zeros(classes, classes, dtype=torch.int64)
        for batch in limited(make_loaders({"val": {domain: samples}}, 16).val[domain], args):
            seen = net.see((batch.data.x + 1) / 2)["s"]
            counts += confusion(seen, batch.data.s, classes, NO_CLASS)
        figures = segmentation_figures(counts)
        one = torch.zeros_like(counts)
        one[:, counts.sum(1).argmax()] = counts.sum(1)
        print(f"| {domain} | {min(len(samples), args.pictures)} | {figures['accuracy']:.3f} | "
              f"{figures['majority']:.3f} | {figures['miou']:.3f} | "
              f"{segmentation_figures(one)['miou']:.3f} |")  # fmt: skip


def limited(batches: Any, args: argparse.Namespace) -> Iterator[Any]:
    """Batches, until --pictures were in them."""
    done = 0
    for batch in batches:
        if done >= args.pictures:
            return
        done += len(batch.data.x)
        yield batch


# ------------------------------------------------------------------------------------- flood


class Streets(NamedTuple):
    """dry, wet: the same scenes, float [n, 3, S, S] in [0, 1]. area: bool [n, S, S], under water in
    the wet ones alone. lakes: under water in the dry ones."""

    dry: Tensor
    wet: Tensor
    area: Tensor
    lakes: Tensor


def streets(args: argparse.Namespace, domain: str, size: int) -> Streets:
    """Held-out scenes of a dry domain, of which a flood would cover --least of the picture."""
    style = "real" if domain[0] == "r" else "sim"
    scenes = Scenes("val", None, DOMAINS.index(domain), style, False)
    found: list[list[Any]] = [[], [], [], []]
    for i in range(len(scenes)):
        dry, wet = scenes.render(i, size), scenes.render(i, size, flooded=True)
        area = wet.water & ~dry.water
        if area.mean() >= args.least:
            for column, value in zip(found, (dry.image, wet.image, area, dry.water), strict=True):
                column.append(value)
        if len(found[0]) == args.pictures:
            break
    masks = [torch.stack([torch.from_numpy(m) for m in column]) for column in found[2:]]
    return Streets(unit(found[0]), unit(found[1]), *masks)


def flood(args: argparse.Namespace) -> None:
    """How much of what should be flooded a judge finds to be water, and of what should not."""
    net, name = network(args.net, args)
    judge, judges = network(args.judge, args)
    print(f"{name}, judged by {judges}; pictures of which a flood covers {args.least:.0%}\n")
    print("| pictures | n | judge's | water in what should be flooded | in the rest |\n"
          "|---|---|---|---|---|")  # fmt: skip
    for domain in args.domains:
        if domain[1] != "n":
            continue
        scenes = streets(args, domain, net.resolution)
        made = net.draw(1, inputs=scenes.dry, to="f").float() / 255
        shown = dict(zip(SHARES, (made, scenes.dry, scenes.wet), strict=True))
        seen = {word: judge.see(x) for word, x in shown.items()}
        for word, maps in seen.items():
            water = {"w": maps["w"][:, 0] > 0.5, "s": maps["s"] == SEGMENT["water"]}
            for task, wet in water.items():
                inside = shares(wet, scenes.area)
                outside = shares(wet, ~scenes.area & ~scenes.lakes)
                print(f"| {domain}, {word} | {len(inside)} | {task} | {said(inside)} | "
                      f"{said(outside)} |")  # fmt: skip
        sheet(args, domain, scenes, shown, seen)


def shares(wet: Tensor, where: Tensor) -> list[float]:
    """Of each picture, the share of an area in which there is water."""
    sizes = where.flatten(1).sum(1)
    hits = (wet & where).flatten(1).sum(1)
    return [float(h / n) for h, n in zip(hits, sizes, strict=True) if n]


def said(values: list[float]) -> str:
    """A mean over pictures with its interval, in percent."""
    mean, low, high, _ = mean_share_interval(values)
    return f"{100 * mean:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def sheet(
    args: argparse.Namespace,
    domain: str,
    scenes: Streets,
    shown: dict[str, Tensor],
    seen: dict[str, dict[str, Tensor]],
) -> None:
    """The first --rows pictures: dry, translated, what the judge sees there, drawn flooded."""
    n = min(args.rows, len(scenes.dry))

    def mask(wet: Tensor) -> Tensor:
        return wet[:n].float()[:, None].expand(-1, 3, -1, -1)

    columns = {
        "dry": scenes.dry[:n],
        "translated": shown["translated"][:n],
        "judge: water": mask(seen["translated"]["w"][:, 0] > 0.5),
        "judge: segments": segmentation_maps(seen["translated"]["s"][:n]),
        "should be": mask(scenes.area | scenes.lakes),
        "drawn flooded": scenes.wet[:n],
    }
    stack = torch.stack([c.float().cpu() for c in columns.values()], 1).flatten(0, 1)
    stack = torch.nn.functional.interpolate(stack, scale_factor=args.enlarge)
    title = Captions(f"{domain}: translated to flooded", list(columns))
    save_sheet(args.out / f"flood-{domain}.png", stack, len(columns), title)


PARTS = {"flood": flood, "losses": losses, "segments": segments}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--net", required=True, help="a run or snapshot of train_omnigan.py")
    parser.add_argument("--judge", default=None, help="another, for flood")
    parser.add_argument("--list", default="scenes", help="held-out pictures of segments")
    parser.add_argument("--no_class", type=int, default=None, help="number in the list's maps that "
                        "is no class, as 255 is")  # fmt: skip
    parser.add_argument("--domains", nargs="+", choices=DOMAINS, default=list(DOMAINS))
    parser.add_argument("--pictures", type=int, default=128, help="of each domain")
    parser.add_argument("--least", type=float, default=0.1, help="share of a picture to flood")
    parser.add_argument("--ends", type=float, default=0.05, help="share of the records, for losses")
    parser.add_argument("--rows", type=int, default=8, help="of a sheet")
    parser.add_argument("--enlarge", type=int, default=2, help="of a sheet's pictures")
    parser.add_argument("--out", type=Path, default=Path("omnigan_runs"), help="sheets")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="seconds: does it run?")
    prepare(parser)
    args = parser.parse_args(argv)
    if args.part == "flood" and args.judge is None:
        parser.error("flood: who judges? --judge RUN")
    if args.quick:
        args.pictures, args.rows = 4, 2
    torch.set_num_threads(args.threads)
    make_folder(args.out)
    print(machine(torch.device(args.device)))
    try:
        PARTS[args.part](args)
    except (RunError, DataError) as error:
        sys.exit(f"omnigan_runs: {error}")


if __name__ == "__main__":
    main()
