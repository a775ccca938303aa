"""Prepare a data set: fetch or link it, check every picture, make the resolutions to train on.

    python data/SetupDataset.py --data camnet3 --sizes 16 32 64 128 256
    python data/SetupDataset.py --data mine --source ~/pictures.zip --sizes 16 32 64
    python data/SetupDataset.py --data camnet3_deci_lmdb --sizes 64 128
    python data/SetupDataset.py --data torchvision:MNIST
    python data/SetupDataset.py fetch-weights
    python data/SetupDataset.py fetch-networks edm2-img512-s-autog-dino

Afterwards `--data NAME` works. Running it again goes on or does nothing; sizes can be added.
--source takes a folder (split/class/picture, class/picture or pictures; it is linked, not copied,
so keep it), a .zip or .tar of one, CIFAR-10, CIFAR-100 or STL-10 as they are distributed, or
MNIST's four idx files; NAME is then free. A torchvision data set is fetched by torchvision and read
as it is: no other option but --data_path has a meaning there.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

if __name__ == "__main__":  # run as a file: the repository, not data/, is where imports start
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.InvertDirStructure import CLASS_FIRST, INVERTED, default_out, invert
from data.prepare.published import LICENCE, PUBLISHED, TOY_GUIDE, TOY_NET
from data.prepare.weights import NETS
from data.readers.torchvision_sets import Torchvision, is_torchvision
from data.registry import KNOWN, SYNTHETIC, fraction_of, full_name
from data.sources import CROPS, resolution_name, split_of
from runtime.cli import prepare
from runtime.options import add_names
from storage.errors import DISK_FAILURES, UsageError

SIZES = (16, 32, 64, 128, 256)
MAX_SIZE = 8192
# "cv" is a word of --data_val; the others are folders of the data directory.
_TAKEN = ("cv", "downloads", CLASS_FIRST, INVERTED)


class _Sizes(argparse.Action):
    """`16 32 64`, `[16, 32, 64]` or `16,32,64`."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        words = [w for w in re.split(r"[\s,\[\]]+", " ".join(values)) if w]
        try:
            sizes = [int(w) for w in words]
        except ValueError:
            parser.error(f"--sizes: {' '.join(values)!r} is not a list of whole numbers")
        if not sizes:
            parser.error("--sizes: give at least one number (0: no resizing)")
        if len(sizes) == 1 and sizes[0] <= 0:
            sizes = []
        if any(not 1 <= s <= MAX_SIZE for s in sizes):
            parser.error(f"--sizes: {sizes} must lie in 1..{MAX_SIZE} (a single 0: no resizing)")
        setattr(namespace, self.dest, sorted(set(sizes)))


def _name(text: str) -> str:
    if text == SYNTHETIC:
        raise argparse.ArgumentTypeError(
            f"{text} are rendered as they are asked for; nothing to prepare: --data {text}"
        )
    if is_torchvision(text):
        return text
    if text in _TAKEN:
        raise argparse.ArgumentTypeError(f"{text!r} means something else here; take another name")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", text) or split_of(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} cannot be a data set's name (letters, digits, . _ + -; not train, val, test)"
        )
    return text


def _workers(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) > 1024:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of processes (0..1024)")
    return int(text)


def get_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--data",
        type=_name,
        metavar="NAME",
        help=f"what to prepare: {', '.join(KNOWN)}; these with _deci, _centi, _milli "
        "(a tenth, ...); torchvision:NAME; or any name, with --source (required)",
    )
    add(
        "--source",
        type=Path,
        metavar="DIR|FILE",
        help="a folder, .zip, .tar.* or folder of idx files to make NAME from (default: download)",
    )
    add(
        "--use_existing",
        type=Path,
        metavar="DIR",
        help="a copy of the data set that is on disk already, as --source (default: download)",
    )
    add(
        "--sizes",
        nargs="+",
        action=_Sizes,
        default=list(SIZES),
        metavar="N",
        help="side lengths, [16, 32] works too; one value <= 0: no resizing",
    )
    add("--lmdb", action="store_true", help="make NAME_lmdb, an LMDB a split and size, instead")
    add(
        "--also_cls_first",
        action="store_true",
        help="link class-first trees too: cls_first/NAME/class/split/picture",
    )
    add(
        "--crop", choices=CROPS, default="squash", help="squash to a square, or cut the central one"
    )
    add(
        "--format",
        choices=("png", "keep"),
        default="png",
        help="png: lossless, as resizing on the fly; keep: the original's format (JPEG re-coded)",
    )
    add_data_path(parser)
    workers = add(
        "--num_workers",
        dest="workers",
        type=_workers,
        metavar="N",
        help="processes (default: the cores there are, at most 16)",
    )
    add_names(parser, workers, "--workers")
    add("--fetch-weights", action="store_true", help="fetch LPIPS weights too (see fetch-weights)")
    return parser


def setup(args: argparse.Namespace) -> None:
    """Do what the command line says. DataError for anything wrong with the data."""
    from data.prepare.acquire import acquire
    from data.prepare.pack import lmdb_sources, prepare_lmdb
    from data.prepare.sizes import prepare_folders
    from data.prepare.workers import say
    from storage.files import expanded, locked, make_folder

    data_path = make_folder(expanded(args.data_path or _home("data"))).absolute()
    # `tiny` is made as tinyImagenet, unless somebody makes a set of that name of his own
    name = args.data if args.source or args.use_existing else full_name(args.data)
    known = KNOWN.get(name)
    # camnet3_deci_lmdb is made from camnet3; NAME_lmdb of any other set from that set
    lmdb = args.lmdb or name.endswith("_lmdb")
    plain = name.removesuffix("_lmdb")
    base, fraction = fraction_of(plain)
    original = base if lmdb and fraction is not None and known and known.lmdb else plain
    workers = min(16, len(os.sched_getaffinity(0))) if args.workers is None else args.workers
    with locked(data_path / f".{original}.lock", wait=False, what=original):
        root = acquire(original, data_path, args.source or args.use_existing)
        prepare_folders(
            root, [] if lmdb else args.sizes, workers=workers, crop=args.crop, form=args.format
        )
        if lmdb:
            prepare_lmdb(
                lmdb_sources(root, plain),
                root,
                data_path / f"{plain}_lmdb",
                plain,
                args.sizes,
                workers=workers,
                crop=args.crop,
            )
        if args.also_cls_first:
            folders = (
                [original] + [] if lmdb else [resolution_name(original, s) for s in args.sizes]
            )
            for folder in dict.fromkeys([original, *folders]):
                out = default_out(data_path / folder, False, CLASS_FIRST)
                made, there = invert(data_path / folder, out)
                say(f"{out}: {made} links made, {there} there already")
    done = f"{plain}_lmdb" if lmdb else name
    place = f" --data_path {data_path}" if args.data_path else ""
    sides = f", at {' '.join(str(size) for size in args.sizes)}" if args.sizes else ""
    say(f"ready: {data_path / done}{sides}; train with --data {done}{place}")
    _offer_weights(say)


def setup_torchvision(args: argparse.Namespace) -> None:
    """Have torchvision fetch one of its data sets. Errors: DataError."""
    from data.prepare.workers import say
    from storage.files import expanded, make_folder

    data_path = make_folder(expanded(args.data_path or _home("data"))).absolute()
    splits = Torchvision(args.data, data_path).fetch()
    place = f" --data_path {data_path}" if args.data_path else ""
    say(f"ready: {', '.join(splits)} of {args.data}; train with --data {args.data}{place}")


def _offer_weights(say: Callable[[str], object]) -> None:
    """A last line that says how to get the weights of LPIPS, unless they are there."""
    from data.prepare.weights import vgg_file

    try:
        file = vgg_file(_home("models"))
    except UsageError:  # a models directory that cannot be made is another command's matter
        return
    if not file.is_file():
        say(
            f"LPIPS, by which TrainGeneratorWandB.py compares pictures, needs {file.name}, which "
            "is not there yet: python data/SetupDataset.py fetch-weights"
        )


def add_places(parser: argparse.ArgumentParser, *, mirrors: bool = False) -> None:
    """The options of a command that fetches networks: where to, and, where it has any, from."""
    parser.add_argument(
        "--models_path",
        type=Path,
        metavar="DIR",
        help="where they go (default: MODELS_HOME or dirs.json)",
    )
    if mirrors:
        add_mirror(parser)


def add_mirror(parser: argparse.ArgumentParser) -> None:
    """--mirror, of which there may be several."""
    parser.add_argument(
        "--mirror", action="append", metavar="URL", help="folder to try first (repeatable)"
    )


def add_data_path(parser: argparse.ArgumentParser) -> None:
    """--data_path of a command that prepares a set."""
    parser.add_argument(
        "--data_path",
        type=Path,
        metavar="DIR",
        help="where data sets are stored (default: DATA_HOME or dirs.json)",
    )


def weights(argv: Sequence[str]) -> None:
    """`SetupDataset.py fetch-weights`."""
    parser = argparse.ArgumentParser(
        prog="SetupDataset.py fetch-weights",
        description="Fetch the networks under LPIPS, those that calculate_metrics.py measures by, "
        "and one that train_omnigan.py may begin with, into the models directory, for jobs without "
        "internet (set TORCH_HOME to that directory, as the training scripts do).",
    )
    parser.add_argument(
        "--nets",
        nargs="+",
        choices=NETS,
        default=["vgg"],
        help="which: vgg, alex, squeeze under LPIPS; inception, dinov2 (ViT-L/14), dinov2_vitb14 "
        "for calculate_metrics.py; deeplabv2 for train_omnigan.py",
    )
    add_places(parser, mirrors=True)
    prepare(parser)
    args = parser.parse_args(argv)
    _fetch_weights(args.nets, args.models_path, args.mirror or [])


def _fetch_weights(nets: Sequence[str], models_path: Path | None, mirrors: Sequence[str]) -> None:
    from data.prepare.weights import fetch_weights

    for file in fetch_weights(models_path or _home("models"), nets, mirrors=mirrors):
        print(f"ready: {file}", file=sys.stderr)


def networks(argv: Sequence[str]) -> None:
    """`SetupDataset.py fetch-networks`."""
    parser = argparse.ArgumentParser(
        prog="SetupDataset.py fetch-networks",
        description="Fetch the networks of presets of generate_images.py, as NVIDIA publishes them "
        "with EDM2, into the models directory, for jobs without internet. Without a name, list "
        f"what there is. Their licence: {LICENCE}.",
    )
    parser.add_argument(
        "names", nargs="*", metavar="PRESET|NAME|URL",
        help="a preset (both its networks), toy (those of toy_example.py plot), the name of a "
        "network, or a URL",
    )  # fmt: skip
    add_places(parser)
    prepare(parser)
    args = parser.parse_args(argv)
    from data.prepare.networks import check_record, fetch_network, networks_of, place

    if not args.names:
        width = max(len(row.name) for row in PUBLISHED)
        for row in PUBLISHED:
            guide = f" guided by {row.gnet} with weight {row.guidance:g}" if row.gnet else ""
            print(f"{row.name:{width}}  {row.figure}: {row.net}{guide}")
        print(f"{'toy':{width}}  the 2-D tree: {TOY_NET} guided by {TOY_GUIDE}")
        return
    words = [word for name in args.names for word in networks_of(name)]
    for word in dict.fromkeys(words):
        home = args.models_path or _home("models")
        if (file := place(word, home)).is_file():
            check_record(file)
        else:
            fetch_network(word, home)
        print(f"ready: {file}", file=sys.stderr)


def _home(kind: str) -> Path:
    from storage import dirs

    return dirs.data_home() if kind == "data" else dirs.models_home()


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns its exit code."""
    return report("SetupDataset", lambda: _main(list(sys.argv[1:] if argv is None else argv)))


def _main(argv: Sequence[str]) -> None:
    if argv and argv[0] in ("fetch-weights", "fetch_weights"):
        weights(argv[1:])
        return
    if argv and argv[0] in ("fetch-networks", "fetch_networks"):
        networks(argv[1:])
        return
    parser = get_parser()
    prepare(parser)
    args = parser.parse_args(argv)
    if args.source and args.use_existing:
        parser.error("give --source or --use_existing, not both")
    if not args.data and not args.fetch_weights:
        parser.error("--data NAME is needed (or: fetch-weights, fetch-networks)")
    if args.fetch_weights:
        _fetch_weights(["vgg"], None, [])
    if args.data and is_torchvision(args.data):
        for name in ("source", "use_existing", "lmdb", "also_cls_first"):
            if getattr(args, name):
                parser.error(f"--{name}: {args.data} is fetched by torchvision and read as it is")
        setup_torchvision(args)
    elif args.data:
        setup(args)


def report(command: str, action: Callable[[], None]) -> int:
    """Run a command of this kind; faults of data or disk become one line and an exit code."""
    try:
        action()
        return 0
    except KeyboardInterrupt:
        print(f"{command}: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    except Exception as error:
        code = getattr(error, "exit_code", None)  # ours and runtime's errors carry one
        if isinstance(error, OSError):
            code = 7 if error.errno in DISK_FAILURES else 6
        if isinstance(error, MemoryError):
            code, error = 8, MemoryError(f"out of memory: {error}".removesuffix(": "))
        if code is None or os.environ.get("IMLE_LAB_TRACEBACK"):
            raise
        print(f"{command}: {error}", file=sys.stderr)
        return code


if __name__ == "__main__":
    sys.exit(main())
