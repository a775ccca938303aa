"""How good pictures are: those of a folder or data set, or those that a network draws, against real
ones; any generator of the toolkit, by the same command.

    python calculate_metrics.py ref --data tiny --dest tiny.pkl
    python calculate_metrics.py gen --net RUN --ref tiny.pkl --seeds 0-49999
    python calculate_metrics.py gen --net NET --guide GUIDE --guidance 1.7 --ref tiny.pkl
    python calculate_metrics.py gen --net CAMNET --data photos/val --samples 10 --metrics lpips psnr
    python calculate_metrics.py calc --images DIR --ref photos/train --held photos/val \\
        --metrics fid kid prdc fld memorisation
    python calculate_metrics.py compare A B
    python calculate_metrics.py calc --preset smoke

ref writes statistics of real pictures, an .npz whatever its name; NVIDIA's pickled ones are read as
data. gen draws on all GPUs and writes no picture. Every figure is printed with the number of
pictures, samples a class or input, split and seeds, and is in metrics.json with all that it
depends on: resize policy, file format, hash of the extractor. The same command again prints what is
there. compare says "better" only beyond what chance and another training would give.

Which metrics there are, and what each option means: docs/metrics.md, recipes/metrics/options.py;
the mathematics: evaluation/; the networks: evaluation/extractors/.
"""

from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import storage.environment  # noqa: F401  (says what to do where torch is missing)

import torch

from evaluation.statistics import save_statistics
from recipes.metrics import parts, record
from recipes.metrics.conditional import Figure
from recipes.metrics.measures import Sides, figures
from recipes.metrics.options import get_args
from recipes.metrics.passing import Seen, look
from recipes.metrics.pictures import Pictures, stored
from recipes.metrics.verdicts import verdicts
from runtime import distributed
from runtime.distributed import say
from runtime.launch import launch
from runtime.place import choose_device
from runtime.precision import full_fp32
from storage.files import expanded, make_folder

Source = tuple[Pictures, parts.Watch | None]


def main(args: Namespace) -> None:
    device = choose_device(args.gpus)
    distributed.init(device)
    with full_fp32():  # features of TF32 differ in the third digit
        {"ref": ref, "calc": calc, "gen": gen, "compare": compare}[args.command](args, device)


def ref(args: Namespace, device: torch.device) -> None:
    """Statistics of real pictures to a file."""
    dest = expanded(args.dest)
    pictures = stored(args, args.data, "--data", num=args.num)
    tools = parts.tools(args, device)
    about = {"data": pictures.about, "extractors": tools.about()}
    if dest.exists() and not args.overwrite:
        parts.check_same(dest, about, args.features)
        say(f"done already: {dest} is there (--overwrite makes it anew)")
        return
    batch = parts.checked_batch(args, device, tools, len(pictures))
    distributed.from_main(lambda: make_folder(dest.absolute().parent))
    seen = look(pictures, tools.all(), batch=batch, keep=args.features, desc="reference")
    if distributed.is_main():
        save_statistics(dest, seen.moments, about, seen.features if args.features else None)
    say(f"pictures: {record.of_pictures(pictures.about)}")
    say(f"statistics of {', '.join(sorted(seen.moments))}: {dest}")


def calc(args: Namespace, device: torch.device) -> None:
    """Figures of pictures that are there."""
    pictures = stored(args, args.images, "--images", num=args.num)
    measure(args, device, lambda tools: iter([(pictures, None)]), parts.stem(args))


def gen(args: Namespace, device: torch.device) -> None:
    """Figures of pictures that a network draws, range of seeds by range."""
    found = parts.network(args, device)
    name = parts.stem(args, found.net)
    measure(args, device, lambda tools: parts.ranges(args, found, tools), name, found)


def measure(
    args: Namespace,
    device: torch.device,
    sources: Callable[[parts.Tools], Iterator[Source]],
    stem: str,
    drawn: parts.Network | None = None,
) -> None:
    """Look at all pictures, and at the real ones; print every figure and write metrics.json."""
    # Real pictures are as large as the network's, unless --res says.
    res, crop = (drawn.net.resolution, drawn.crop) if drawn else (None, None)
    reference = parts.reference(args, res, crop)
    held = parts.held_out(args, res, crop)
    statistics = None if reference is None else reference.statistics
    tools = parts.tools(args, device, statistics)
    judged = list(sources(tools))
    if statistics is not None:
        parts.check_policies(statistics, tools.extractors, "--ref")
        parts.check_there(statistics, args.wanted, tools.names)
    labelled = judged[0][0].about.get("per_class") is not None
    parts.check_classes(args.wanted, labelled)
    settings = record.settings_of(
        args, [pictures.about for pictures, _ in judged],
        None if reference is None else reference.about, None if held is None else held.about,
        tools.about(),
    )  # fmt: skip
    folder = record.folder_of(args, settings, stem)
    if old := distributed.from_main(lambda: record.there_already(folder, settings, args)):
        show(old)
        say(f"done already: {folder / record.FILE}")
        return

    most = max(len(pictures) for pictures, _ in judged)
    batch = parts.checked_batch(args, device, tools, most, res)
    real = reference.seen(tools, batch, keep=True) if reference is not None else None
    kept = look(held, tools.all(), batch=batch, desc="held out") if held is not None else None
    ranges: list[tuple[str | None, Mapping[str, Figure]]] = []
    features: list[dict[str, Any]] = []
    for pictures, watch in judged:
        seen = look(pictures, tools.all(), batch=batch, desc="pictures", watch=watch)
        parts.warn_of_sizes(seen, real)
        found = distributed.from_main(partial(judge, args, tools, seen, real, kept, device))
        ranges.append((seen.about.get("seeds"), {**found, **(watch.figures() if watch else {})}))
        features.append(seen.features)
    if distributed.is_main():
        result = record.write(folder, settings, ranges, drawn and parts.run_of(drawn.net))
        if args.features:
            record.save_features(folder, features, real.moments if real else {})
        show(result)
    say(f"figures: {folder / record.FILE}")


def judge(
    args: Namespace,
    tools: parts.Tools,
    seen: Seen,
    real: Seen | None,
    held: Seen | None,
    device: torch.device,
) -> dict[str, Figure]:
    """All figures of one range."""
    return figures(args.wanted, tools.names, Sides(seen, real, held, args, device))


def compare(args: Namespace, device: torch.device) -> None:
    """Which of two records is better, figure by figure."""
    (a_folder, a), (b_folder, b) = (record.read(word) for word in args.runs)
    for line in verdicts(args, (a_folder, a), (b_folder, b), device):
        say(line)


def show(found: Mapping[str, Any]) -> None:
    """Every figure in a line."""
    for line in record.lines(found):
        say(line)


if __name__ == "__main__":
    launch(main, get_args(__doc__))
