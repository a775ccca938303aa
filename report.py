"""One page about one run, or several side by side: open it in any browser, send it to anybody.

    python report.py camnet-scenes
    python report.py photos-x4-seed0 photos-x4-seed1 photos-x4-slow
    python report.py photos-x4 --watch
    python report.py --serve

The page is one file, without a network or a server: what ran and how the runs differ, curves to
zoom into, sheets of samples with a slider over the steps, figures with intervals over seeds, speed,
memory, where the time went, launches, and the commands to make the runs again. A run is named as
for runs.py: its folder's name, the beginning of it, the hash at its end, or a path. What is missing
or damaged in a run is said in the page. Looking writes nothing into a run. docs/report.md has more.
"""

import hashlib
import shlex
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import storage.environment  # noqa: F401  (says what to do where torch is missing)

from recipes.report import page, pictures, reading, server
from recipes.report.options import get_args
from recipes.runs.layout import counted, printable, size
from runtime.progress import Progress
from storage.console import tell
from storage.dirs import output_folder
from storage.errors import DiskError, RunError, UsageError, not_made
from storage.files import expanded, open_plain, write_text


def main(args: Namespace) -> None:
    """One page, a page that follows runs, or all runs in a browser. Errors: RunError."""
    if args.serve:
        serve(args)
        return
    paths = reading.find(args.runs, args.root)
    file = place(args, paths)
    encoder = pictures.Encoder()
    if args.watch:
        watch(args, paths, file, encoder)
        return
    with bar(paths) as progress:
        built = write(args, paths, file, encoder, progress=progress)
    say_result(paths, file, built)


def place(args: Namespace, paths: Sequence[Path]) -> Path:
    """The page's file, whose name says of which runs it is. Errors: UsageError for a file in the
    way that is no page of this script."""
    root = expanded(args.root).absolute()
    folder = root / "report"
    if args.outdir is not None:
        folder = output_folder(args.outdir, "report", root, tell)
    name = paths[0].name[:100]
    if len(paths) > 1:
        digest = hashlib.sha256("\n".join(map(str, paths)).encode(errors="replace")).hexdigest()
        name += f"-and-{len(paths) - 1}-more-{digest[:8]}"
    file = folder / f"{name}.html"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open_plain(file) as before:
            known = page.MARK.encode() in before.read(200)
    except FileNotFoundError:
        return file
    except OSError as error:
        raise not_made(f"--outdir {folder}: {error.strerror} ({file.name})", error) from None
    if not known:
        raise UsageError(f"{file} is no page of report.py: choose another --outdir")
    return file


def bar(paths: Sequence[Path]) -> Progress:
    """A bar over the sheets of the runs, which take most of the time."""
    count = sum(len(reading.read(path).sheets) for path in paths)
    return Progress(count, desc="sheets", unit="sheet")


def write(
    args: Namespace,
    paths: Sequence[Path],
    file: Path,
    encoder: pictures.Encoder,
    *,
    every: float | None = None,
    progress: Progress | None = None,
) -> page.Page:
    """Read the runs and write their page. Errors: UsageError, DiskError."""
    reads = [reading.read(path) for path in paths]
    words = ["python", "report.py", *map(str, paths)]
    built = page.build(
        reads,
        limit=int(args.max_mb * 1e6),
        encoder=encoder,
        command=shlex.join(words),
        every=every,
        done=progress.update if progress else lambda: None,
    )
    try:
        write_text(file, built.text)
    except OSError as error:
        raise DiskError(f"cannot write {file}: {error.strerror}") from None
    return built


def watch(args: Namespace, paths: Sequence[Path], file: Path, encoder: pictures.Encoder) -> None:
    """Write the page again and again, and a last time when the runs have ended or at Ctrl-C."""
    said = False
    try:
        while any(map(goes_on, paths)):
            write(args, paths, file, encoder, every=args.every)
            if not said:
                runs = counted(len(paths), "run", "runs")
                tell(f"watching {runs} until the end, or Ctrl-C: {file}")
                said = True
            time.sleep(args.every)
    except KeyboardInterrupt:
        tell("no longer watching")
    say_result(paths, file, write(args, paths, file, encoder))


def goes_on(path: Path) -> bool:
    """Whether there is more to come of a run: it is running, about to, or queued again."""
    run = reading.read(path).run
    queued = run.state == "preempted" and run.status.get("wants_requeue") is True
    return queued or run.state in ("running", "new")


def say_result(paths: Sequence[Path], file: Path, built: page.Page) -> None:
    """Where the page lies, and what it lacks."""
    for sentence in built.said:
        tell(printable(sentence))
    runs = counted(len(paths), "run", "runs")
    tell(f"page of {runs}, {size(file.stat().st_size)}: {file}")


def serve(args: Namespace) -> None:
    """All runs, until Ctrl-C."""
    root = expanded(args.root).absolute()
    if not root.is_dir():
        raise UsageError(f"{root}: no such folder")
    with server.Server(root, args.port, limit=int(args.max_mb * 1e6), every=args.every) as served:
        try:
            tell(f"runs of {root}: {served.address} (this machine only; Ctrl-C ends it)")
            served.serve_forever()
        except KeyboardInterrupt:
            tell("no longer serving")


if __name__ == "__main__":
    try:
        main(get_args(__doc__))
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("nothing is written", file=sys.stderr)
        sys.exit(130)
