"""What may be asked of report.py."""

from __future__ import annotations

import argparse
from argparse import Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

from recipes.runs.options import NAMES, Switch
from runtime.cli import parse
from runtime.options import USUAL, Table, add_options
from runtime.types import dir_path, integer, number, text
from storage.dirs import results_home

# fmt: off
OPTIONS: Table = {
    "output": [
        ("--outdir", dir_path, None, "where the page goes; DIR lies below RESULTS/report, ./DIR in "
         "the working directory (default: RESULTS/report)", USUAL),
        ("--max_mb", number(0.5, 1000), 10.0, "megabytes of a page at most; sheets are made "
         "smaller, or fewer, to fit", USUAL),
    ],
    "while runs go on": [
        ("--watch", Switch, False, "write the page again and again, until the runs have ended; a "
         "browser that shows it follows", USUAL),
        ("--serve", Switch, False, "show all runs of the results folder in a browser of this "
         "machine, until Ctrl-C; takes no RUN", USUAL),
        ("--every", number(1, 86400), 10.0, "seconds between two looks at runs that go on", USUAL),
        ("--port", integer(0, 65535), 8010, "of --serve; 0: one that is free", USUAL),
    ],
    "where": [
        ("--results_path", dir_path, None, "the folder of runs (default: $RESULTS_HOME, or what "
         "dirs.json says)", USUAL),
    ],
}
# fmt: on


def get_args(doc: str | None, argv: Sequence[str] | None = None) -> Namespace:
    """The options of report.py; `root` is the folder of runs. A wrong one exits with code 2.

    doc: what --help begins with.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", metavar="RUN", type=text, help=NAMES)
    add_options(parser, OPTIONS)
    args = parse(parser, None, argv)
    try:
        check(args)
    except ValueError as error:
        parser.error(str(error))
    args.root = Path(args.results_path) if args.results_path else results_home()
    return args


def check(args: Namespace) -> None:
    """Rules between options. Errors: ValueError."""
    if args.serve:
        if args.runs:
            raise ValueError(f"--serve shows all runs: leave out {' '.join(args.runs)}")
        for name, given in (("--watch", args.watch), ("--outdir", args.outdir is not None)):
            if given:
                raise ValueError(f"--serve and {name} exclude each other: give one")
        return
    if not args.runs:
        raise ValueError("RUN is missing: name at least one, or --serve; `runs.py ls` lists them")
    if args.port != 8010:
        raise ValueError(f"--port {args.port} is of --serve: it has no effect here")
    if args.every != 10.0 and not args.watch:
        raise ValueError(f"--every {args.every:g} is of --watch and --serve: no effect here")
