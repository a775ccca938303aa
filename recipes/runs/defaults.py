"""Options of a run's script: which are not at their defaults, what they are called today."""

from __future__ import annotations

from typing import Any

from recipes.runs.about import PLACES
from recipes.runs.reading import RunFolder
from runtime.options import Table, kept_name, merged, rows_of, run_table

_OWN_DEFAULT = "save_every"  # is another one in each script


def changed(run: RunFolder) -> dict[str, Any]:
    """{name: value} of the options that are not at their defaults; those of a script that is not
    known here, or whose packages are missing, are all there.
    """
    from runtime.rundir import plain  # imports torch, which a list of runs does without

    table = table_of(run.script)
    known = {kept_name(row): plain(row[2]) for row in rows_of(table)}
    found = {}
    for name, value in run.options.items():
        value = todays(table, name, value)
        if name in PLACES or name == _OWN_DEFAULT or value is None:
            continue
        if name not in known or known[name] != value:
            found[name] = value
    return found


def todays(table: Table, name: str, value: Any) -> Any:
    """A value in the word that one types for it today, where a file has a former one."""
    for row in rows_of(table):
        if kept_name(row) == name and isinstance(value, str):
            return getattr(row[1], "shown_as", {}).get(value, value)
    return value


def spelled(table: Table, name: str) -> str:
    """data_tr -> `--data`: an option as one types it today."""
    return next((row[0] for row in rows_of(table) if kept_name(row) == name), f"--{name}")


def table_of(script: str) -> Table:
    """The option table of a script, {} if it is not known; imports its recipe, and so torch."""
    tables: list[Table] = []
    try:
        if script == "TrainGeneratorWandB":
            from recipes.imle.options import OPTIONS as imle

            tables = [imle]
        elif script == "train_edm2":
            from recipes.edm2.options import OPTIONS as edm2

            tables = [edm2]
        elif script == "train_ddpm":
            from recipes.ddpm.options import OPTIONS as ddpm

            tables = [ddpm]
        elif script == "train_omnigan":
            from recipes.omnigan.options import OPTIONS as omnigan

            tables = [omnigan]
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
    return merged(run_table(), *tables)
