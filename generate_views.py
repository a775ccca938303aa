"""Views for contrastive learning, drawn once and kept: k samples of a generator for every picture.

    python generate_views.py --net RUN/snapshots/network-latest --data DIR --crop_size 64 \\
        --views 8 --outdir DIR_views
    python generate_views.py --net FILE --data DIR --views 8 --format lmdb --outdir OUT
    python generate_views.py --preset smoke --outdir OUT         # embedded data, untrained, seconds

Formats: folder (SPLIT/CLASS/<picture>_aug<j>.png, an ImageFolder), lmdb (raw pixels), memmap (one
array, the fastest to train on). TrainISICLE.py --views cache --cache OUT reads all three. View j of
a picture is what TrainISICLE.py draws online as its draw j, to the bit if --view_precision,
--view_batch and the machine are the same. The same command goes on after an interruption.

What each option means: recipes/views/options.py. How a snapshot becomes a source of views:
generators/imle.py, by recipes/views/parts.py.
"""

import argparse
import contextlib
import time
from functools import partial

import storage.environment  # noqa: F401  (says what to do where torch is missing)

import torch

from data.registry import open_source
from data.sources import Subset, check_outside, evenly
from data.told import told
from data.uint8_cache import UInt8Cache
from data.views.generated import Acceptance, FilteredViews, Sampler
from data.views.naming import root_ids, root_of
from data.views.writing import ViewWriter
from recipes.views import parts
from recipes.views.options import OPTION_OF, PRESETS, get_args, is_filtered  # noqa: F401
from runtime import distributed
from runtime.launch import launch
from runtime.place import choose_device
from runtime.preemption import PreemptionFlag
from runtime.progress import Progress
from runtime.provenance import collect
from storage.dirs import data_home
from storage.errors import Preempted


def main(args: argparse.Namespace) -> None:
    device = choose_device(args.gpus)
    distributed.init(device)
    flag = PreemptionFlag()
    flag.install()
    code = None
    try:
        generate(args, device, flag)
        code = 0
    finally:
        flag.restore(code)


def generate(args: argparse.Namespace, device: torch.device, flag: PreemptionFlag) -> None:
    """All views that are not there yet."""
    whole = open_source(args.data, args.data_path or data_home(), split=args.split)
    source = evenly(whole, args.num_images)
    distributed.say(told(source))
    split = getattr(root_of(source)[0], "split", None) or args.split
    sampler, settings = parts.sampler(args, args.net, args.size, device, distributed.say)
    parts.check_turn(args, sampler, device)
    settings |= parts.data_settings(args, whole, source)
    out = parts.folder(args, whole.name, settings, distributed.say)
    check_outside(whole, out, "--outdir")
    with contextlib.ExitStack() as stack:
        writer = None
        if distributed.is_main():
            writer = stack.enter_context(
                ViewWriter(
                    out, source, k=args.views, size=sampler.size, format=args.format,
                    split=split, first=args.first, settings=settings,
                    options=OPTION_OF, overwrite=args.overwrite,
                )
            )  # fmt: skip
        done = distributed.gather_object(writer.done if writer else 0)[0]
        state = f"{out}: {done} of {len(source)} pictures have their {args.views} views"
        whole_set = f"done already: {done * args.views} views in {out}"
        distributed.say(whole_set if done == len(source) else state)
        report = {}
        if done < len(source):
            rest = Subset(source, range(done, len(source)))
            report = draw_rest(args, sampler, rest, done, device, writer, flag)
        if writer is not None:
            finish(args, writer, report, len(source))
        distributed.barrier()


def draw_rest(
    args: argparse.Namespace,
    sampler: Sampler,
    rest: Subset,
    done: int,
    device: torch.device,
    writer: ViewWriter | None,
    flag: PreemptionFlag,
) -> dict[str, float]:
    """Draw and write the views of the pictures that are left, shared by all ranks; figures."""
    cache = partial(
        UInt8Cache, rest, crop=args.crop, workers=args.num_workers, quiet=writer is None
    )
    inputs = cache(sampler.input_size).to(device).images
    real = cache(sampler.size).to(device).images if is_filtered(args) else None
    source = parts.source(args, sampler, inputs, real, root_ids(rest))
    rank, world = distributed.rank(), distributed.world_size()
    turn = parts.pictures_at_once(args.views, args.view_batch) * world
    view_numbers = args.first + torch.arange(args.views, device=device)
    seconds, cpu_seconds, drawn, report = 0.0, 0.0, 0, {}
    counts = torch.zeros(4, dtype=torch.int64, device=device)
    total = done + len(rest)
    with Progress(total, desc="views", unit="picture", initial=done) as bar:
        for start in range(0, len(rest), turn):
            ids = torch.arange(start, min(start + turn, len(rest)), device=device)
            spare = -len(ids) % world  # every rank has as many; the last picture again
            mine = torch.cat([ids, ids[-1:].expand(spare)])[rank::world]
            begin, worked = time.perf_counter(), time.process_time()
            views = source(mine.repeat_interleave(args.views), view_numbers.repeat(len(mine)))
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if start or turn >= len(rest):  # the first turn also prepares
                seconds, drawn = seconds + time.perf_counter() - begin, drawn + len(views)
                cpu_seconds += time.process_time() - worked
            views = distributed.interleave(views.unflatten(0, (len(mine), args.views)))
            if isinstance(source, FilteredViews):
                counts += torch.stack(list(source.take_counts()))
            if writer is not None:
                writer.put(views[: len(ids)])
            bar.update(len(ids))
            if drawn:
                report = {"ms_per_view": 1000 * seconds / drawn}
                if device.type == "cpu":  # on a shared machine the cost is this
                    report["cpu_ms_per_view"] = 1000 * cpu_seconds / drawn
            if isinstance(source, FilteredViews):
                report |= Acceptance(*distributed.all_reduce_sum(counts.clone())).figures()
            bar.postfix(report)
            where = done + start + len(ids)
            if distributed.all_reduce_max(int(flag.is_set)) and where < total:
                raise Preempted(
                    f"{flag.signal or 'a signal'}: {where} of {total} pictures are done; the same "
                    "command goes on"
                )
    return report


def finish(
    args: argparse.Namespace, writer: ViewWriter, report: dict[str, float], pictures: int
) -> None:
    """Say that all of it is there, with the figures of this launch."""
    origin = collect(writer.folder)
    facts = {"command": origin["command"], "git": origin["git"], "torch": torch.__version__}
    size = writer.finish(**facts, **report)
    count = pictures * args.views
    figures = [f"{name} {value:.4g}" for name, value in report.items()]
    print(
        f"{count} views of {writer.size} px in {writer.pixels_path}: {size} bytes "
        f"({size / count:.0f} a view){''.join(', ' + f for f in figures)}",
        flush=True,
    )


if __name__ == "__main__":
    launch(main, get_args(__doc__))
