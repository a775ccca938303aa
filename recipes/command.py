"""The command line of a training script: its table of options, its presets, its rules."""

import argparse
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from runtime.cli import parse
from runtime.options import USUAL, Row, Table, add_options, add_preset, run_table
from runtime.types import network

# An option of every training script: see `recipes.initial`.
INIT_FROM: Row = (
    "--init_from",
    network,
    None,
    "begin with the weights of a snapshot, of a run (its newest snapshot) or of a file of others, "
    "here or at a URL, all else being new; parts that do not fit are named (default: new weights)",
    USUAL,
)


def read_options(
    doc: str | None,
    table: Table,
    presets: Mapping[str, Mapping[str, Any]],
    check: Callable[[Namespace], None],
    argv: Sequence[str] | None = None,
    *,
    save_every: int = 500,
    fail: Callable[[str], NoReturn] | None = None,
) -> Namespace:
    """The options of a run and of `table`, a preset's values over defaults, `argv` over both.

    doc: what --help begins with. check: rules between options; it may complete the arguments, and
    raises ValueError. save_every: the script's own default. fail: what a mistake is told to, for
    options that are not the process's own (it must raise).
    Errors: whatever `fail` raises; by default SystemExit(2) after one line on stderr.
    """
    parser = argparse.ArgumentParser(description=doc, add_help=fail is None)
    add_preset(parser)
    add_options(parser, table, run_table(save_every=save_every))
    args = parse(parser, presets, argv, fail=fail)
    try:
        check(args)
    except ValueError as error:
        parser.error(str(error))
    return args
