"""Prepare a set of pictures with layouts, or the networks that layout diffusion is tuned from.

    python data/SetupLayoutData.py --data coco --splits val
    python data/SetupLayoutData.py --data celebamask --source ~/Downloads
    python data/SetupLayoutData.py fetch-models ldm-text2img

Sets: coco (COCO 2017 with COCO-Stuff), vg (Visual Genome), celebamask (CelebAMask-HQ, whose masks
of parts become one of classes). Afterwards `--data NAME` works in train_ddpm.py with a layout.
Running it again goes on or does nothing. Where a file cannot be fetched the message says where to
get it in a browser and where to put it; the same command goes on from there.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # run as a file: the repository, not data/, is where imports start
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from data import SetupDataset
from runtime.cli import prepare

NAMES = ("coco", "vg", "celebamask")


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", choices=NAMES, help="what to prepare (required)")
    add(
        "--source",
        type=Path,
        metavar="DIR",
        help="a folder in which the set's files lie already; celebamask also unpacked (default: "
        "download)",
    )
    add(
        "--splits",
        nargs="+",
        choices=("train", "val"),
        default=[],
        help="coco: whose pictures (default: both)",
    )
    SetupDataset.add_data_path(parser)
    SetupDataset.add_mirror(parser)
    add(
        "--num_workers",
        type=int,
        metavar="N",
        help="processes that merge masks (default: the cores there are, at most 16)",
    )
    return parser


def setup(args: argparse.Namespace) -> None:
    """Do what the command line says. Errors: DataError."""
    from data.layout_registry import layout_splits
    from data.prepare.layouts import prepare_layouts
    from data.prepare.workers import say
    from storage import dirs
    from storage.files import expanded, locked, make_folder

    data_path = make_folder(expanded(args.data_path or dirs.data_home())).absolute()
    cores = min(16, len(os.sched_getaffinity(0)))
    with locked(data_path / f".{args.data}.lock", wait=False, what=args.data):
        root = prepare_layouts(
            args.data,
            data_path,
            source=None if args.source is None else expanded(args.source).absolute(),
            mirrors=args.mirror or [],
            splits=args.splits,
            workers=cores if args.num_workers is None else args.num_workers,
        )
    splits = ", ".join(layout_splits(args.data, data_path))
    place = f" --data_path {data_path}" if args.data_path else ""
    say(f"ready: {root}, splits {splits}; train with --data {args.data}{place}")


def models(argv: Sequence[str]) -> None:
    """`SetupLayoutData.py fetch-models`."""
    parser = argparse.ArgumentParser(
        prog="SetupLayoutData.py fetch-models",
        description="Fetch published diffusion networks and autoencoders into the models directory "
        "and take them apart: unet, autoencoder, text. Without a name, list what there is.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="which")
    SetupDataset.add_places(parser, mirrors=True)
    prepare(parser)
    args = parser.parse_args(argv)
    from data.prepare.pretrained import PRETRAINED, fetch_pretrained, known
    from storage import dirs

    if not args.names:
        width = max(map(len, PRETRAINED))
        for name, row in PRETRAINED.items():
            print(f"{name:{width}}  {row.about}; licence {row.licence}")
        return
    for name in args.names:
        known(name)  # all names before the first gigabyte
    for name in dict.fromkeys(args.names):
        home = args.models_path or dirs.models_home()
        for file in fetch_pretrained(name, home, mirrors=tuple(args.mirror or ())):
            print(f"ready: {file}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    return SetupDataset.report("SetupLayoutData", lambda: _main(words))


def _main(argv: Sequence[str]) -> None:
    if argv and argv[0] in ("fetch-models", "fetch_models"):
        models(argv[1:])
        return
    parser = get_parser()
    prepare(parser)
    args = parser.parse_args(argv)
    if not args.data:
        parser.error("--data NAME is needed (or: fetch-models)")
    if args.splits and args.data != "coco":
        parser.error(f"--splits: {args.data} comes as a whole; only coco's pictures are apart")
    if args.num_workers is not None and not 0 <= args.num_workers <= 1024:
        parser.error(f"--num_workers: {args.num_workers} is not a number of processes (0..1024)")
    if args.num_workers is not None and args.data != "celebamask":
        parser.error("--num_workers merges masks: of --data celebamask alone")
    setup(args)


if __name__ == "__main__":
    sys.exit(main())
