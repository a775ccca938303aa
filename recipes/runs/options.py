"""What may be asked of runs.py: a table of options for each command."""

from __future__ import annotations

import argparse
import re
import sys
import time
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from recipes.runs.reading import STATES
from runtime.cli import parse
from runtime.options import Table, add_options
from runtime.types import Switch, called, dir_path, nonnegative_int, short_name, text
from storage.dirs import results_home

_UNITS = {"min": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}


def moment(word: str) -> float:
    """Type of a point in time, `2d` (before now) or `2026-11-05`: seconds since the epoch."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(min|h|d|w)", word)
    if match:
        return time.time() - float(match[1]) * _UNITS[match[2]]
    try:
        return datetime.fromisoformat(word).timestamp()
    except (ValueError, OverflowError, OSError):
        raise argparse.ArgumentTypeError(
            f"{word!r} is no time: 30min, 12h, 2d, 3w, or a day as 2026-11-05"
        ) from None


COMMON: Table = {
    "where": [
        ("--results_path", dir_path, None, "the folder of runs (default: $RESULTS_HOME, or what "
         "dirs.json says)"),
        ("--json", Switch, False, "JSON instead of tables; its keys: docs/runs.md"),
    ],
}  # fmt: skip
CHOICE: Table = {
    "which runs": [
        (
            "--script",
            short_name,
            None,
            "of this script or method: train_edm2, or SimCLR (default: any)",
        ),
        ("--state", STATES, None, "in this state (default: any)"),
        ("--data", text, None, "whose data set's name has this in it (default: any)"),
        (
            "--since",
            called("TIME", moment),
            None,
            "that wrote something since: 30min, 12h, 2d, 3w, or 2026-11-05 (default: ever)",
        ),
    ],
}
LIST: Table = {
    "how": [
        ("--sort", ("updated", "name", "step", "started"), "updated", "newest or furthest first; "
         "names from a"),
        ("--limit", nonnegative_int, 0, "list so many; 0: all"),
        ("--all", Switch, False, "name the folders that are no runs, too"),
    ],
}  # fmt: skip
RANK: Table = {
    "by what": [
        (
            "--by",
            short_name,
            None,
            "the figure, or a part of its name that no other has, such as val/best_psnr (needed)",
        ),
        ("--max", Switch, False, "more is better (default: as the figure's name tells)"),
        ("--min", Switch, False, "less is better"),
        ("--limit", nonnegative_int, 20, "list so many; 0: all"),
    ],
}
REMOVE: Table = {
    "how": [("--yes", Switch, False, "do not ask: for scripts")],
}

# command -> (its tables, how many runs it takes, what it does)
_COMMANDS: dict[str, tuple[Table, str | None, str]] = {
    "ls": ({**CHOICE, **LIST, **COMMON}, None, "List runs, the latest first."),
    "show": (COMMON, "run", "Show all of one run."),
    "compare": (COMMON, "runs", "Show which options of runs differ, and their figures."),
    "best": ({**RANK, **CHOICE, **COMMON}, None, "Rank runs by a figure."),
    "rm": ({**REMOVE, **COMMON}, "runs", "Remove runs, after a yes."),
}
NAMES = "a run: its folder's name, the beginning of it, the hash at its end, or a path"


def get_args(doc: str | None, argv: Sequence[str] | None = None) -> Namespace:
    """The options of a command, the first word, which becomes `command`; `roots` are the folders to
    look in. doc: what --help begins with. Wrong options exit with code 2, and so does no command.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    name = words[0] if words else ""
    if name not in _COMMANDS:
        overview = ArgumentParser(
            prog="runs.py", description=doc, formatter_class=RawDescriptionHelpFormatter
        )
        overview.add_argument(
            "command", choices=list(_COMMANDS), help="`runs.py ls --help` tells more"
        )
        return parse(overview, None, words)  # says what is wrong, or helps, and ends
    table, takes, what = _COMMANDS[name]
    parser = ArgumentParser(
        prog=f"runs.py {name}", description=what, formatter_class=RawDescriptionHelpFormatter
    )
    if takes is None:
        parser.add_argument(
            "folders", nargs="*", metavar="DIR", help="where to look (default: all results)"
        )
    else:
        many = {"run": None, "runs": "+"}[takes]
        parser.add_argument("runs", nargs=many, metavar="RUN", type=text, help=NAMES)
    add_options(parser, table)
    args = parse(parser, None, words[1:])
    args.command = name
    if name == "best" and args.by is None:
        parser.error("--by is missing: a figure, val/best_psnr say; `runs.py show RUN` lists them")
    if name == "best" and args.max and args.min:
        parser.error("--max and --min exclude each other: give one")
    if name == "compare" and len(args.runs) < 2:
        parser.error("compare takes two runs or more")
    given = [Path(word) for word in vars(args).get("folders", [])]
    args.roots = given or [Path(args.results_path) if args.results_path else results_home()]
    return args
