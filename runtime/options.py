"""Options as tables: one row an option, with tags, so that no list of names is written twice.

    OPTIONS = {
        "data": [
            ("--data", text, None, "NAME, a folder, a zip or an LMDB"),
            ("--cache", ("none", "memory"), "none", "keep decoded images in memory", EXECUTION),
        ],
        "network": [("--channels", positive_int, 192, "at full resolution", NETWORK)],
    }

A row is (name, kind, default, help, *tags). The kind is a type of `runtime.types`, a list action
(`IntList`), `bool`, or a tuple of allowed words. Whoever needs a set of options computes it from
the tags: `tagged(OPTIONS, EXECUTION)` are those that a resumed run may change. `Rules` says which
options go together, in the words of the command line.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runtime.types import (
    BoolAction,
    integer,
    list_of,
    nonnegative_float,
    nonnegative_int,
    positive_int,
    text,
)

Row = tuple[Any, ...]  # (name, kind, default, help, *tags)
Table = Mapping[str, Sequence[Row]]  # title of a group in --help -> its rows

# The tag of an option that says how a run is executed, not what it computes: it may be another one
# when the run resumes, and is no part of the hash in the run's name.
EXECUTION = "execution"


def dest(option: str) -> str:
    """`--batch-gpu` -> batch_gpu: an option's name among the parsed arguments."""
    return option.lstrip("-").replace("-", "_")


def flag(name: str, table: Table) -> str:
    """batch_gpu -> `--batch-gpu`: an option as its row writes it. Errors: KeyError."""
    return _row(table, name)[0]


def rows_of(table: Table) -> Iterator[Row]:
    """All rows of a table, group by group."""
    for rows in table.values():
        yield from rows


def tagged(table: Table, *tags: str) -> tuple[str, ...]:
    """Names (as in the parsed arguments) of the options that bear at least one of the tags."""
    return tuple(dest(row[0]) for row in rows_of(table) if set(row[4:]) & set(tags))


def names_of(table: Table) -> tuple[str, ...]:
    """Names (as in the parsed arguments) of all options of a table."""
    return tuple(dest(row[0]) for row in rows_of(table))


def default_of(table: Table, name: str) -> Any:
    """An option's own default, which a preset may replace. Errors: KeyError."""
    return _row(table, name)[2]


def _row(table: Table, name: str) -> Row:
    for row in rows_of(table):
        if dest(row[0]) == name:
            return row
    raise KeyError(f"no option {name!r} in this table")


@dataclass(frozen=True)
class Rules:
    """What goes together: each method raises ValueError in the words of the command line.

    args: the parsed options. table: their rows. An option counts as given when its value is not
    the default of its row, whether it was typed or set by a preset.
    """

    args: argparse.Namespace
    table: Table

    def given(self, name: str) -> bool:
        """Whether an option is not at its default."""
        return self._typed(name, getattr(self.args, name)) != self._typed(
            name, default_of(self.table, name)
        )

    def _typed(self, name: str, value: Any) -> Any:
        """A value in the word that one types for it, where it is kept by a former one."""
        shown_as = getattr(_row(self.table, name)[1], "shown_as", {})
        return shown_as.get(value, value) if isinstance(value, str) else value

    def shown(self, name: str) -> str:
        """An option as one types it: `--late`, `--f 0.5`, `--res 8 16`."""
        value, option = self._typed(name, getattr(self.args, name)), flag(name, self.table)
        if value is True or value is None:
            return option
        if value is False:
            return f"--no-{option[2:]}"
        if isinstance(value, list | tuple):
            return f"{option} {' '.join(map(str, value))}"
        return f"{option} {value:g}" if isinstance(value, float) else f"{option} {value}"

    def excludes(self, *names: str, why: str = "give one") -> None:
        """At most one of these is given."""
        there = [self.shown(name) for name in names if self.given(name)]
        if len(there) > 1:
            raise ValueError(f"{' and '.join(there)} exclude each other: {why}")

    def needs(self, name: str, *others: str, why: str = "") -> None:
        """Where the first is given, one of the others is too."""
        if self.given(name) and not any(self.given(other) for other in others):
            wanted = " or ".join(flag(other, self.table) for other in others)
            raise ValueError(f"{self.shown(name)} needs {wanted}" + (f": {why}" if why else ""))

    def belongs(self, name: str, to: str, holds: bool) -> None:
        """An option that has an effect only where something `holds`: it is of `to`."""
        if self.given(name) and not holds:
            raise ValueError(f"{self.shown(name)} is of {to}: it has no effect here")


def add_bool(
    parser: argparse._ActionsContainer, name: str, default: bool | None, help: str
) -> argparse.Action:
    """Add a yes/no option: `--cond`, `--no-cond` and `--cond True|False|1|0` all work."""
    return parser.add_argument(name, action=BoolAction, default=default, help=help)


def add_table(parser: argparse.ArgumentParser, title: str, rows: Sequence[Row]) -> None:
    """Add a group of options, one row each; --help shows the default."""
    group = parser.add_argument_group(title)
    for name, kind, default, help_, *_tags in rows:
        if default is not None:
            help_ = f"{help_} (default: %(default)s)"
        if kind is bool:
            add_bool(group, name, default, help_)
        elif isinstance(kind, tuple):
            group.add_argument(name, choices=kind, default=default, help=help_)
        elif isinstance(kind, type) and issubclass(kind, argparse.Action):
            group.add_argument(name, action=kind, default=default, help=help_)
        else:
            group.add_argument(name, type=kind, default=default, help=help_, metavar="VALUE")


def add_options(parser: argparse.ArgumentParser, table: Table) -> None:
    """Add all groups of a table."""
    for title, rows in table.items():
        add_table(parser, title, rows)


def run_options() -> tuple[str, ...]:
    """Names of the options that `add_run_args` adds."""
    parser = argparse.ArgumentParser(add_help=False)
    add_run_args(parser)
    return tuple(action.dest for action in parser._actions)


def add_run_args(parser: argparse.ArgumentParser, *, save_every: int = 500) -> None:
    """Add the options of `runtime.run.Run`: where it lives, how it resumes, what it runs on."""
    g = parser.add_argument_group("run", "where the run lives, how it resumes, what it runs on")
    g.add_argument("--preset", metavar="NAME", help="a named set of options; the command line wins")
    g.add_argument(
        "--run-dir",
        type=text,
        metavar="DIR",
        help="the run's folder (default: RESULTS/SCRIPT/NAME-HASH, the same for the same options)",
    )
    g.add_argument(
        "--results_path",
        type=text,
        metavar="DIR",
        help="the folder runs go to (default: $RESULTS_HOME, or what dirs.json says)",
    )
    g.add_argument(
        "--resume",
        type=text,
        metavar="auto|N|PATH",
        help="auto (default): newest good checkpoint of the run's folder, if any; N: go on from "
        "the end of loop N-1 (0 = from scratch); PATH: a checkpoint or another run's folder",
    )
    g.add_argument(
        "--save_every",
        type=positive_int,
        default=save_every,
        metavar="STEPS",
        help="steps between checkpoints (default %(default)s)",
    )
    g.add_argument(
        "--save_minutes",
        type=nonnegative_float,
        default=10.0,
        metavar="MINUTES",
        help="a checkpoint also after so many minutes without one; 0: never by time "
        "(default %(default)g)",
    )
    g.add_argument(
        "--log_every",
        type=positive_int,
        default=10,
        metavar="STEPS",
        help="steps between lines in metrics.jsonl (default %(default)s)",
    )
    g.add_argument(
        "--num_workers",
        type=integer(0, 1024),
        default=2,
        metavar="N",
        help="processes that read data, per rank; 0 = none (default %(default)s)",
    )
    g.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16", "fp16"),
        default="auto",
        help="auto (default): bf16 on GPUs that have it, fp32 elsewhere",
    )
    add_bool(g, "--compile", False, "torch.compile the networks (default no)")
    g.add_argument("--seed", type=nonnegative_int, default=0, help="seed of everything (default 0)")
    add_bool(g, "--deterministic", False, "bit-equal reruns on GPUs too, slower (default no)")
    g.add_argument(
        "--wandb",
        type=lambda word: {"1": "online", "0": "disabled"}.get(word, word),
        choices=("online", "offline", "disabled"),
        default="online",
        help="Weights & Biases; online (default, or 1) goes offline without a key or a network; "
        "disabled (or 0): none",
    )
    g.add_argument(
        "--gpus",
        action=list_of(nonnegative_int, unique=True, empty_word="cpu"),
        metavar="N",
        help="GPU numbers, one process each; `cpu` = none (default: all there are)",
    )
