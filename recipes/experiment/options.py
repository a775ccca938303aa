"""What may be asked of experiment.py."""

from __future__ import annotations

import argparse
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from runtime.cli import parse
from runtime.options import USUAL, Rules, Table, add_options
from runtime.types import Switch, file_path, nonnegative_int

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = ROOT / "experiments" / "template.sh"

OPTIONS: Table = {
    "what to run": [
        ("--experiment", file_path, None, "the experiment, a YAML file: docs/experiment.md "
         "(required)", USUAL),
        ("--template", file_path, None, "the batch script, with {{param}} where a value goes "
         "(default: experiments/template.sh)", USUAL),
        ("--seed", nonnegative_int, None, "of what is sampled (default: the file's "
         "experiment.seed, else 0)"),
    ],
    "where": [
        ("--dry-run", Switch, False, "print what would be written and submitted; write nothing",
         USUAL),
        ("--local", Switch, False, "write the runs, and run them here, one after the other", USUAL),
    ],
}  # fmt: skip


def get_args(doc: str | None, argv: Sequence[str] | None = None) -> Namespace:
    """The options of experiment.py; a wrong one exits with code 2. doc: what --help begins with."""
    parser = argparse.ArgumentParser(description=doc)
    add_options(parser, OPTIONS)
    args = parse(parser, None, argv)
    args.gpus = []  # for `launch`: one process whatever the machine has
    if args.experiment is None:
        parser.error("--experiment FILE is missing")
    try:
        Rules(args, OPTIONS).excludes("dry_run", "local")
    except ValueError as error:
        parser.error(str(error))
    args.template = TEMPLATE if args.template is None else Path(args.template)
    return args
