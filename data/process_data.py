"""List the pictures of a domain and their maps for omnigan: folders to a JSON file.

    python data/process_data.py --path DIR                    # -> DIR/data.json
    python data/process_data.py --path DIR --train_size 80    # -> DIR/train.json, DIR/val.json
    python data/process_data.py --path DIR --mapping Photos=x Labels=s --out lists

DIR has a folder for each kind: Data (x, the pictures), Segmentation (s), Depth (d), Height (h) and,
if there is any, Water (w). A map is called as its picture, but its ending may be another:
Depth/image_1.npy belongs to Data/image_1.jpg. A picture may lack any map; what has no partner is
named. Samples are sorted by name; paths are relative to the list where the data lie beside or below
it, so that both can be moved together.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":  # run as a file: the repository, not data/, is where imports start
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.formats import is_image_name
from data.omni.lists import KEYS
from data.readers.layout import list_files
from data.sources import keyed_order
from runtime.cli import prepare
from runtime.near import closest, hint
from runtime.types import integer, nonnegative_int
from storage.errors import DataDiskError, DataError
from storage.files import make_folder, write_json

MAPPING = {"Segmentation": "s", "Depth": "d", "Data": "x", "Height": "h", "Water": "w"}
OPTIONAL = ("Water",)  # of these the one that may be missing
ARRAY = ".npy"
_NAMED = 5  # of files without a partner


class Listed(NamedTuple):
    """Samples, sorted by name, and what was left over: {folder: names without a picture}, {key:
    names of pictures without that map}."""

    samples: list[dict[str, str]]
    alone: dict[str, list[str]]
    lacking: dict[str, list[str]]


def list_samples(path: Path, mapping: Mapping[str, str] | None = None) -> Listed:
    """The samples of a folder, as absolute paths.

    mapping: folder -> key, default MAPPING. Errors: DataError: no such folder, two files of one
    name in it, no picture at all.
    """
    if not path.is_dir():
        raise DataError(
            f"{path} is not a folder: --path is the one with {', '.join(MAPPING)} in it"
        )
    folders = dict(MAPPING if mapping is None else mapping)
    _check_folders(path, folders, given=mapping is not None)
    found: dict[str, dict[str, Path]] = {}
    names = {key: folder for folder, key in folders.items()}
    for folder, key in folders.items():
        if (path / folder).is_dir():
            found[key] = _stems(path / folder)
    pictures = found.pop("x")
    if not pictures:
        raise DataError(f"{path / names['x']} has no pictures")
    samples = []
    for stem in sorted(pictures):
        parts = {"x": pictures[stem]} | {k: f[stem] for k, f in found.items() if stem in f}
        samples.append({key: str(parts[key].absolute()) for key in KEYS if key in parts})
    alone = {names[k]: sorted(f.keys() - pictures.keys()) for k, f in found.items()}
    lacking = {k: sorted(pictures.keys() - f.keys()) for k, f in found.items()}
    return Listed(samples, alone, lacking)


def _check_folders(path: Path, folders: dict[str, str], given: bool) -> None:
    there = [n for n in sorted(os.listdir(path)) if (path / n).is_dir() and not n.startswith(".")]
    for folder in folders:
        if (path / folder).is_dir() or (not given and folder in OPTIONAL):
            continue
        have = [f for f in folders if (path / f).is_dir()]
        if given:
            near = closest(folder, [n for n in there if n not in have])
            listed = ", ".join(there) or "none"
            raise DataError(
                f"--mapping {folder}={folders[folder]}: {path} has no folder {folder}; there are "
                f"{listed}{hint(near)}"
            )
        words = " ".join(f"{f}={folders[f]}" for f in have if f not in OPTIONAL or f in there)
        raise DataError(
            f"{path} has no folder {folder}; there are {', '.join(there) or 'none'}: add it, or "
            f"say which are what: --mapping {words or 'DIR=x DIR=s'}"
        )


def _stems(folder: Path) -> dict[str, Path]:
    """{path below the folder without its ending: file} of images and arrays."""
    found: dict[str, Path] = {}
    for name in list_files(folder, lambda n: is_image_name(n) or n.lower().endswith(ARRAY)):
        stem = name.rpartition(".")[0]
        if stem in found:
            raise DataError(
                f"{found[stem]} and {folder / name} have one name: which is sample {stem}?"
            )
        found[stem] = folder / name
    return found


def split(samples: list[dict[str, str]], percent: int, seed: int) -> dict[str, list]:
    """{"train": int(N * percent / 100) of the samples, drawn by the seed, "val": the others}; both
    keep their order. Errors: DataError if one of them would be empty."""
    count = len(samples) * percent // 100
    if not 0 < count < len(samples):
        raise DataError(
            f"--train_size {percent} of {len(samples)} samples leaves "
            f"{'nothing to train on' if not count else 'none for validation'}"
        )
    chosen = set(keyed_order(len(samples), seed)[:count].tolist())
    parts: dict[str, list] = {"train": [], "val": []}
    for i, sample in enumerate(samples):
        parts["train" if i in chosen else "val"].append(sample)
    return parts


def write_lists(parts: Mapping[str, list[dict[str, str]]], out: Path) -> list[Path]:
    """Write `{out}/{name}.json` of each part; returns the files. Errors: DataDiskError."""
    try:
        make_folder(out)
        files = []
        for name, samples in parts.items():
            files.append(out / f"{name}.json")
            listed = [{k: _relative(p, out) for k, p in s.items()} for s in samples]
            write_json(files[-1], listed, indent=4)
    except OSError as error:
        raise DataDiskError(f"cannot write into {out}: {error.strerror or error}") from None
    return files


def _relative(path: str, out: Path) -> str:
    """A path from the list's folder where it lies below that, or below the folder above."""
    way = os.path.relpath(path, out.absolute())
    return path if way.startswith(os.path.join("..", "..")) else Path(way).as_posix()


def told(listed: Listed) -> list[str]:
    """What has no partner, in lines."""
    lines = []
    for folder, names in listed.alone.items():
        if names:
            lines.append(f"{folder}: {len(names)} without a picture, left out: {_some(names)}")
    for key, names in listed.lacking.items():
        if names:
            lines.append(f"{len(names)} of {len(listed.samples)} without {key}: {_some(names)}")
    return lines


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", .." if len(names) > _NAMED else "")


def pair(word: str) -> tuple[str, str]:
    """Type of DIR=KEY."""
    folder, equals, key = word.rpartition("=")
    if not equals or not folder.strip("/") or key not in KEYS:
        raise argparse.ArgumentTypeError(
            f"{word!r} is not DIR=KEY, with one of {', '.join(KEYS)} as KEY"
        )
    return folder.strip("/"), key


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--path", type=Path, required=True, metavar="DIR",
        help="the folder with a folder of each kind in it (required)",
    )  # fmt: skip
    parser.add_argument(
        "--mapping", type=pair, nargs="+", metavar="DIR=KEY",
        help="which folder has which kind: x, d, h, s or w (default: Data=x Segmentation=s "
        "Depth=d Height=h, and Water=w if there is one)",
    )  # fmt: skip
    parser.add_argument(
        "--train_size", type=integer(0, 99), default=0, metavar="N",
        help="percent of the samples that go into train.json, the others into val.json; 0: all "
        "into data.json",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=nonnegative_int, default=1332, metavar="N", help="of that draw"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where the lists go (default: --path)"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code."""
    parser = get_parser()
    prepare(parser)
    args = parser.parse_args(argv)
    mapping = None
    if args.mapping is not None:
        mapping = dict(args.mapping)
        keys = list(mapping.values())
        if len(keys) < len(args.mapping) or len(set(keys)) < len(keys) or "x" not in keys:
            parser.error("--mapping names each folder and each kind once, and x among them")
    try:
        listed = list_samples(args.path, mapping)
        parts = {"data": listed.samples}
        if args.train_size:
            parts = split(listed.samples, args.train_size, args.seed)
        files = write_lists(parts, args.out or args.path)
    except DataError as error:
        print(f"process_data: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:  # such as a name that is too long
        print(f"process_data: {args.path}: {error.strerror or error}", file=sys.stderr)
        return DataError.exit_code
    for line in told(listed):
        print(line)
    for file, samples in zip(files, parts.values(), strict=True):
        print(f"{file}: {len(samples)} samples")
    return 0


if __name__ == "__main__":
    sys.exit(main())
