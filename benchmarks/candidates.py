"""How to share candidates among levels: `python -m benchmarks.candidates` (`--quick`: a trial).

A small CAM-Net 8 -> 16 -> 32 -> 64, after some steps on scenes, or the network of `--snapshot` as
it is built, searches codes for the same held-out pictures with `--ns` as given, from as many on
every level to many on coarse levels and few on fine ones. A candidate of a fine level costs what
several of a coarse one do, so it is at equal seconds, and not evaluations, that quality is to be
compared.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.imle_setup import (
    Config,
    add_arguments,
    make_loss,
    start,
    take_turns,
    trained,
)
from data.pyramids import Pyramid
from data.registry import train_val_sources
from imle import CAMNet, CodeGenerator, Corruption
from imle.search import search
from runtime.cli import prepare
from storage.dirs import data_home
from storage.snapshot import load_snapshot

SMALL = dict(resid_nc=[16, 16, 16], dense_nc=[8, 8, 8], n_blocks=1, map_nc=32, latent_nc=64)
CONFIG = Config((8, 16, 32, 64), 16, 16, 80, SMALL)
SHARES = {
    2: ("16 16", "32 8", "64 2", "8 24", "8 8", "1 1"),
    3: ("16 16 16", "32 16 4", "64 8 2", "8 8 8", "4 8 16", "1 1 1"),
}


def _pictures(
    data: str, res: list[int], count: int, device: torch.device
) -> tuple[Tensor, list[Tensor]]:
    """Inputs and targets, floats in [0, 1], evenly spaced over the val split."""
    _, val = train_val_sources(data, None, data_home(), val_fraction=0.1, seed=0, sizes=res)
    pyramid = Pyramid(val, res)
    items = [pyramid[i * len(pyramid) // count] for i in range(count)]
    x = torch.stack([x for x, _ in items])
    ys = [torch.stack(level) for level in zip(*(ys for _, ys in items), strict=True)]
    return x.to(device).float() / 255, [y.to(device).float() / 255 for y in ys]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--loops", type=int, default=3, help="times with other candidates")
    parser.add_argument(
        "--ns", nargs="+", default=None, help="lists of a number a level, each in quotes"
    )
    parser.add_argument("--data", default="scenes", help="a data set with a val split")
    prepare(parser)
    args = parser.parse_args(argv)
    device = start(args)
    if args.quick:
        args.images, args.loops, args.ns, args.repeats = 2, 1, ["2 2 2"], 1
    snapshot = None if args.snapshot is None else load_snapshot(args.snapshot)
    if snapshot is not None and snapshot.kind != "camnet":
        parser.error(f"--snapshot {args.snapshot}: a CAM-Net is needed, not of {snapshot.kind}")
    levels = len(CONFIG.res if snapshot is None else snapshot.config["net"]["res"]) - 1
    args.ns = args.ns or SHARES.get(levels)
    if args.ns is None or any(len(words.split()) != levels for words in args.ns):
        parser.error(f"--ns: lists of {levels} numbers are needed, one a level, each in quotes")
    loss = make_loss(args, device)
    corruption = Corruption()
    if snapshot is None:
        model = trained("candidates", CONFIG, loss, args, device)
    else:  # as it is built
        model = CAMNet(**snapshot.config["net"]).to(device)
        model.load_state_dict(snapshot.state_dict)
        corruption = Corruption(**snapshot.config["corruption"], seed=args.seed)
    z = CodeGenerator(model.code_sizes, seed=args.seed)
    x, ys = _pictures(args.data, model.res, args.images, device)
    ids = torch.arange(args.images, device=device)
    cx = corruption.keyed(x, 0, ids)
    lists = {words: [int(n) for n in words.split()] for words in args.ns}

    def found(words: str, loop: int) -> torch.Tensor:
        return search(model, loss, z, cx, ys, ids, loop, lists[words], CONFIG.sp, code_bs=8).losses

    times = take_turns(
        {words: lambda words=words: found(words, 0) for words in lists},  # type: ignore[misc]
        args.repeats,
        device,
    )
    print(
        "| --ns | evaluations | a picture | loss, all levels | last level |\n|---|---|---|---|---|"
    )
    for words, ns in lists.items():
        losses = torch.stack([found(words, loop) for loop in range(args.loops)])
        each = losses.sum(2).mean(1), losses[:, :, -1].mean(1)
        shown = [f"{v.mean():.4f} ({v.min():.4f}-{v.max():.4f})" for v in each]
        seconds = 1000 * statistics.median(times[words]) / args.images
        print(f"| `{words}` | {sum(ns)} | {seconds:.1f} ms | {shown[0]} | {shown[1]} |", flush=True)


if __name__ == "__main__":
    main()
