"""Networks in files of other programs: what one is, brought in, or given out in formats of others.

    python convert.py FILE                          # what the file is; writes nothing
    python convert.py FILE --to snapshot            # bring it in: FILE.safetensors beside it
    python convert.py FILE.pth --to snapshot --task colorization
    python convert.py RUN --to FORMAT --out PATH    # give out, in a format of others

FILE is read as data, nothing in it runs: checkpoints of the CIMLE refactoring, CAM-Net and CHIMLE,
pickles of NVIDIA's EDM and EDM2 and of Autoguided, encoders of the original SimCLR code, lightly
and solo-learn, UNets of guided-diffusion and latent diffusion, generators of omnigan and
ClimateGAN. Every command that takes a network takes these files too, without converting them. What
is known of each format, and which of its names become which of ours: docs/convert.md. What each
option means: recipes/convert/options.py; the formats that are read: generators/foreign; those that
are written: recipes/convert/targets.py.
"""

from argparse import Namespace
from pathlib import Path

import storage.environment  # noqa: F401  (says what to do where torch is missing)

from generators.files import open_network
from generators.published import locate
from recipes.convert.about import about, check_said, lines, takers
from recipes.convert.options import get_args
from recipes.convert.targets import TARGETS, Given, target
from recipes.runs.layout import printable, size
from runtime.launch import launch
from storage.dirs import results_home
from storage.errors import DiskError, UsageError
from storage.files import expanded
from storage.find import say_found

# Formats whose files are looked for, or told apart, by their ending.
KNOWN_BY_NAME = ("snapshot", "safetensors", "pt2")


def main(args: Namespace) -> None:
    if args.to is None:
        file = given_out(args.file)
        if file is None:
            file = find(args.file)
            check_said(file, args)
        for line in lines(file, about(file, args.asked), printable):
            print(line)
        return
    file = find(args.file)
    if TARGETS["pt2"].about and (said := TARGETS["pt2"].about(file)) is not None:
        raise UsageError(
            f"{file} is given out already, a {said.split(';')[0]}: it does not come in"
        )
    check_said(file, args)
    snapshot = open_network(file, print, args.asked)
    form = target(args.to, snapshot.kind)
    path = place(args, file, form.ending)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskError(f"--out {path}: {error.strerror}") from None
    for line in form.write(Given(file, snapshot), path, args):
        print(printable(line))
    print(f"wrote {path} ({size(weight_of(path))}): {args.to} of a {snapshot.kind!r} network")
    if args.to == "snapshot":
        print(f"taken by: {takers(snapshot.kind)}")


def given_out(word: str) -> Path | None:
    """A folder that was written here, in a format of others; None for any other."""
    here = expanded(word)
    known = here.is_dir() and any(t.about and t.about(here) for t in TARGETS.values())
    return here if known else None


def find(word: str) -> Path:
    """The file that FILE means: a path, a run, a published name, an address. What is there under
    that very name is meant, whatever lies beside it."""
    here = expanded(word)
    if here.is_file():
        return here
    file = locate(word, option="FILE")
    say_found(word, file, print)
    return file


def place(args: Namespace, file: Path, ending: str) -> Path:
    """Where the result goes. Errors: UsageError for what must not be replaced."""
    if args.out is not None:
        path = expanded(args.out)
        if path.is_dir() and ending:
            path /= f"{file.stem}{ending}"
    elif file.parent.name == "snapshots":
        path = results_home() / "convert" / f"{file.parent.parent.name}-{file.stem}{ending}"
    else:
        path = file.with_name(f"{file.stem}{ending}" if ending else f"{file.stem}-{args.to}")
    if path.exists() and path.resolve() == file.resolve():
        raise UsageError(f"--out {path} is FILE itself: name another")
    known = Path(f"NET{ending}").suffix
    if args.to in KNOWN_BY_NAME and path.suffix.lower() != known:
        raise UsageError(f"--out {path}: --to {args.to} ends in {known}, by which it is known")
    if path.exists() and not args.overwrite:
        raise UsageError(f"{path} exists already: --out PATH for another, or --overwrite")
    return path


def weight_of(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(one.stat().st_size for one in files if one.is_file())


if __name__ == "__main__":
    launch(main, get_args(__doc__))
