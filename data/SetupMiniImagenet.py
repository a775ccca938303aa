"""Prepare miniImagenet: fetch it, check it, make the resolutions to train on.

    python data/SetupMiniImagenet.py
    python data/SetupMiniImagenet.py --source mini.zip --sizes 84 128 --also_cls_first

The same as `SetupDataset.py --data miniImagenet` with a look at what came: the split into 64, 16
and 20 classes (train, val, test), no class in two of them, 600 pictures each. Running it again
goes on or does nothing.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # run as a file: the repository, not data/, is where imports start
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from data import SetupDataset
from runtime.cli import prepare
from storage.errors import DataError

NAME = "miniImagenet"
CLASSES = {"train": 64, "val": 16, "test": 20}
PER_CLASS = 600


def get_parser() -> argparse.ArgumentParser:
    """The command line: SetupDataset's, less --data, with --sha256."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[SetupDataset.get_parser()],
        conflict_handler="resolve",
    )
    parser.add_argument("--data", default=NAME, help=argparse.SUPPRESS)
    parser.add_argument(
        "--sha256",
        type=_hex,
        metavar="HEX",
        help="what the archive must have, or its beginning (default: any)",
    )
    return parser


def _hex(text: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{8,64}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no SHA-256 (8 to 64 hexadecimal digits)")
    return text.lower()


def check_splits(root: Path) -> None:
    """DataError unless `root` is split as miniImagenet is."""
    from data.readers.folders import FolderSource, splits_in
    from data.sources import labels_of

    splits = splits_in(root)
    if set(splits) != set(CLASSES):
        raise DataError(
            f"{root} has splits {', '.join(splits) or 'none'}, {NAME} has {', '.join(CLASSES)}: "
            "it is of another archive"
        )
    seen: dict[str, str] = {}
    for split, folder in splits.items():
        source = FolderSource(folder, base=root, split=split)
        if len(source.classes) != CLASSES[split]:
            raise DataError(
                f"{folder} has {len(source.classes)} classes, {NAME} has {CLASSES[split]} there"
            )
        for name in source.classes:
            if name in seen:
                raise DataError(f"class {name} is in {seen[name]} and in {split} of {root}")
            seen[name] = split
        for label, count in Counter(labels_of(source).tolist()).items():
            if count != PER_CLASS:
                raise DataError(
                    f"{folder / source.classes[label]} has {count} pictures, not {PER_CLASS}"
                )


def setup(args: argparse.Namespace) -> None:
    """Do what the command line says."""
    from data.prepare.acquire import acquire
    from data.prepare.digests import digest_of
    from data.prepare.download import archive_fault, fetch
    from data.prepare.workers import say
    from data.registry import KNOWN
    from storage.dirs import data_home
    from storage.files import locked, make_folder

    data_path = make_folder(args.data_path or data_home()).absolute()
    source = args.source or args.use_existing
    root = data_path / NAME
    with locked(data_path / f".{NAME}.lock", wait=False, what=NAME):
        if args.sha256 and source is not None:
            if not source.is_file():
                raise DataError(f"--sha256 is that of an archive; {source} is none")
            if not (found := digest_of(source)).startswith(args.sha256):
                raise DataError(f"{source} has sha256 {found}, not {args.sha256}; fetch it again")
        elif args.sha256 and not (root.is_dir() and any(root.iterdir())):
            mirrors, file = KNOWN[NAME].mirrors, data_path / "downloads" / f"{NAME}.zip"
            fetch(mirrors, file, sha256=args.sha256, check=archive_fault)
        acquire(NAME, data_path, source)
        try:
            check_splits(root)
        except DataError as error:
            raise DataError(f"{error}; remove {root}, or use SetupDataset") from None
    counts = "/".join(str(c) for c in CLASSES.values())
    say(f"{NAME}: {counts} classes of {PER_CLASS}, no class in two splits")
    SetupDataset.setup(args)


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code."""
    parser = get_parser()
    prepare(parser)
    args = parser.parse_args(argv)
    if args.data != NAME:
        parser.error(f"this prepares {NAME}; for other sets there is SetupDataset.py")
    if args.source and args.use_existing:
        parser.error("give --source or --use_existing, not both")
    return SetupDataset.report("SetupMiniImagenet", lambda: setup(args))


if __name__ == "__main__":
    sys.exit(main())
