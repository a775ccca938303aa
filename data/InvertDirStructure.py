"""Turn `split/class/picture` into `class/split/picture`, by links, beside the data set.

    python data/InvertDirStructure.py --folder miniImagenet
        -> DATA/camnet_data/miniImagenet/{class}/{split}/...
    python data/InvertDirStructure.py --folder ~/pictures/mine    # -> ~/pictures/camnet_data/mine
    python data/InvertDirStructure.py --folder DATA/camnet_data/miniImagenet --reverse --out DATA/x

Hard links where the file system allows, else symbolic ones; nothing is copied, moved or deleted.
Running it again adds what is new. If another file stands where a link should go nothing is done.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # run as a file: the repository, not data/, is where imports start
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.readers.folders import splits_in
from data.readers.layout import list_files
from data.registry import full_name, missing
from data.sources import split_of
from runtime.cli import prepare
from runtime.progress import track
from storage.errors import DataDiskError, DataError, UsageError

INVERTED = "camnet_data"
CLASS_FIRST = "cls_first"  # SetupDataset.py --also_cls_first


def invert(folder: Path, out: Path, *, reverse: bool = False) -> tuple[int, int]:
    """Link every `a/b/rest` under `folder` as `out/b/a/rest`. Returns (links made, already there).

    `reverse` says that the classes come first; otherwise the splits must.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder")
    found = splits_in(folder, outer=True).values()
    splits = {f.name for f in found}
    folder = next(
        (f.parent for f in found), folder
    )  # the splits may lie in a folder that wraps them
    if reverse == bool(splits):
        raise DataError(
            f"{folder} has the splits first ({', '.join(sorted(splits))}); leave out --reverse"
            if splits
            else f"{folder} has no split folders (train, val, test) inside; "
            "is it class-first already? then add --reverse"
        )
    out_real, folder_real = out.resolve(), folder.resolve()
    if out_real == folder_real or folder_real in out_real.parents:
        raise DataError(f"--out {out} lies inside {folder}; choose a place beside it")
    wanted = []
    for path in list_files(folder):
        parts = path.split("/")
        if parts[0] not in splits and not reverse:
            continue
        if len(parts) < 3:
            raise DataError(f"{folder / path} is not in split/class/picture; nothing done")
        if reverse and split_of(parts[1]) is None:
            raise DataError(f"{folder / path} is not in class/split/picture; nothing done")
        wanted.append((folder / path, out / "/".join([parts[1], parts[0], *parts[2:]])))
    if not wanted:
        raise DataError(f"no images under {folder}")
    missing = []
    for original, link in wanted:  # all collisions are known before the first link is made
        if not os.path.lexists(link):
            missing.append((original, link))
        elif not (link.exists() and os.path.samefile(original, link)):
            raise DataError(f"{link} is another file than {original}; nothing done")
    try:
        for original, link in track(missing, len(missing), f"links in {out.name}", "link"):
            link.parent.mkdir(parents=True, exist_ok=True)
            _link(os.path.realpath(original), link)
    except OSError as error:
        raise DataDiskError(f"cannot link into {out}: {error.strerror}; run again") from None
    return len(missing), len(wanted) - len(missing)


def _link(original: str, link: Path) -> None:
    try:
        os.link(original, link)
    except FileExistsError:
        raise
    except OSError:  # another file system, or one without hard links, or not our file
        os.symlink(original, link)


def default_out(folder: Path, reverse: bool, parent: str = INVERTED) -> Path:
    """`DATA/NAME` -> `DATA/camnet_data/NAME`, and back."""
    folder = Path(os.path.abspath(folder))
    if not reverse:
        return folder.parent / parent / folder.name
    if folder.parent.name in (INVERTED, CLASS_FIRST):
        return folder.parent.parent / folder.name
    return folder.parent / "split_first" / folder.name


def place_of(folder: Path, data_path: Path | None = None) -> Path:
    """The folder that --folder means: that path, else the data set of that name.

    data_path: where data sets are stored; default the configured place. Errors: DataError.
    """
    given = Path(os.path.expanduser(folder))
    if given.is_dir():
        return given
    if folder.is_absolute() or len(folder.parts) != 1:
        raise DataError(f"{folder} is not a folder")
    if data_path is None:
        from storage.dirs import data_home

        data_path = data_home()
    named = data_path / full_name(folder.name)
    if not named.is_dir():
        raise DataError(missing(named.name, data_path))
    return named


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder",
        type=Path,
        required=True,
        metavar="DIR",
        help="the data set, split/class/picture: a folder, or the name of one that is prepared "
        "(required)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help=f"where the links go (default: {INVERTED}/NAME beside the folder)",
    )
    parser.add_argument(
        "--data_path",
        type=Path,
        metavar="DIR",
        help="where data sets are stored (default: DATA_HOME or dirs.json)",
    )
    parser.add_argument("--reverse", action="store_true", help="from class/split to split/class")
    prepare(parser)
    args = parser.parse_args(argv)
    try:
        folder = place_of(args.folder, args.data_path)
        out = args.out or default_out(folder, args.reverse)
        made, there = invert(folder, out, reverse=args.reverse)
    except (DataError, UsageError) as error:
        print(f"InvertDirStructure: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{out}: {made} links made, {there} there already")
    return 0


if __name__ == "__main__":
    sys.exit(main())
