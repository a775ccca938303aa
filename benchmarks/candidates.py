"""How to share candidates among levels: `python -m benchmarks.candidates` (`--quick`: a trial).

A small CAM-Net 8 -> 16 -> 32 -> 64, after some steps on scenes, searches codes for the same
held-out scenes with `--ns` as given, from as many on every level to many on coarse levels and few
on fine ones. A candidate of a fine level costs what several of a coarse one do, so it is at equal
seconds, and not evaluations, that quality is to be compared.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence

import torch

from benchmarks.imle_setup import (
    Config,
    add_arguments,
    batch_of,
    make_loss,
    start,
    take_turns,
    trained,
)
from imle import CodeGenerator
from imle.search import search
from runtime.cli import prepare

SMALL = dict(resid_nc=[16, 16, 16], dense_nc=[8, 8, 8], n_blocks=1, map_nc=32, latent_nc=64)
CONFIG = Config((8, 16, 32, 64), 16, 16, 80, SMALL)
SHARES = ("16 16 16", "32 16 4", "64 8 2", "8 8 8", "4 8 16", "1 1 1")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--loops", type=int, default=3, help="times with other candidates")
    parser.add_argument("--ns", nargs="+", default=list(SHARES), help="one list of numbers each")
    prepare(parser)
    args = parser.parse_args(argv)
    device = start(args)
    if args.quick:
        args.images, args.loops, args.ns, args.repeats = 2, 1, args.ns[:2], 1
    loss = make_loss(args, device)
    model = trained("candidates", CONFIG, loss, args, device)
    z = CodeGenerator(model.code_sizes, seed=args.seed)
    cx, ys = batch_of(CONFIG, args.images, device)
    ids = torch.arange(args.images, device=device)
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
