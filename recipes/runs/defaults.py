"""Which of a run's options are not at their defaults, in the words of the command line."""

from __future__ import annotations

import argparse
from typing import Any

from recipes.runs.about import PLACES
from recipes.runs.reading import RunFolder
from runtime.options import Table, add_run_args, dest, rows_of
from runtime.rundir import plain


def changed(run: RunFolder) -> dict[str, Any]:
    """{name: value} of the options that are not at their defaults; those of a script that is not
    known here, or whose packages are missing, are all there.
    """
    table = _table(run.script)
    parser = argparse.ArgumentParser(add_help=False)
    add_run_args(parser)
    # How often to save is the script's own default.
    known = {a.dest: a.default for a in parser._actions if a.dest != "save_every"}
    known |= {dest(row[0]): row[2] for row in rows_of(table)}
    skipped = PLACES | ({"save_every"} if table else set())
    return {
        name: shown(table, name, value)
        for name, value in run.options.items()
        if name not in skipped and value is not None
        if name not in known or plain(known[name]) != shown(table, name, value)
    }


def shown(table: Table, name: str, value: Any) -> Any:
    """A value in the word that one types for it today, where a file has a former one."""
    for row in rows_of(table):
        if dest(row[0]) == name and isinstance(value, str):
            return getattr(row[1], "shown_as", {}).get(value, value)
    return value


def _table(script: str) -> Table:
    """The option table of a script; imports its recipe, and with it torch."""
    tables: list[Table] = []
    try:
        if script == "TrainGeneratorWandB":
            from recipes.imle.options import OPTIONS as imle

            tables = [imle]
        elif script == "train_edm2":
            from recipes.edm2.options import OPTIONS as edm2

            tables = [edm2]
        elif script == "TrainSimCLR":
            from recipes.simclr.options import ANOTHER_USE
            from recipes.simclr.options import OPTIONS as simclr

            tables = [simclr, ANOTHER_USE]
        elif script == "TrainISICLE":
            from recipes.isicle.options import OPTIONS as isicle

            tables = [isicle]
        elif script == "toy_example":
            from recipes.toy.options import OPTIONS as toy

            tables = [toy]
    except ImportError:
        return {}
    return {title: rows for table in tables for title, rows in table.items()}
