"""Options as tables: one row an option, with tags, so that no list of names is written twice.

    OPTIONS = {
        "data": [
            ("--data", data_set, None, "NAME, a folder, a zip or an LMDB", USUAL, was("--data_tr")),
            ("--cache", ("none", "memory"), "none", "keep decoded images in memory", EXECUTION),
        ],
        "network": [("--channels", positive_int, 192, "at full resolution", NETWORK)],
    }

A row is (name, kind, default, help, *tags). The kind is a type of `runtime.types`, a list action
(`IntList`), `bool`, or a tuple of allowed words. Whoever needs a set of options computes it from
the tags: `tagged(OPTIONS, EXECUTION)` are those that a resumed run may change. `Rules` says which
options go together, in the words of the command line.

--help (`runtime.help`) writes the value's kind and the default of every row by itself; where the
default is None the help says what that means: "(default: all)". It shows what is tagged `USUAL`.
An option that is renamed keeps its former names (`was`) for good: command lines, presets and runs
that use them go on.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runtime.types import (
    BoolAction,
    GpuList,
    count,
    dir_path,
    integer,
    metavar_of,
    nonnegative_float,
    nonnegative_int,
    one_of,
    positive_int,
    short_name,
    text_called,
)

Row = tuple[Any, ...]  # (name, kind, default, help, *tags)
Table = Mapping[str, Sequence[Row]]  # title of a group in --help -> its rows

# Tags. EXECUTION: says how a run is executed, not what it computes: it may be another one when the
# run resumes, and is no part of the hash in the run's name.
EXECUTION = "execution"
# Came when there were runs already: at its default it is as good as absent, so that these go on.
ADDED = "added"
# The one option of a script that says how long a run is. A run goes on under another value of it
# (`runtime.length`), though it may be part of the hash.
LENGTH = "length"
# What most people need: --help shows these, --help-all the others too.
USUAL = "usual"
# Nothing but another way to say what another option says, under the name of the original code.
OTHER_WORD = "another word"
NO_EFFECT = "no effect"
# Accepted and never shown.
HIDDEN = "hidden"

# Titles of groups that several scripts have, in the order in which one thinks of them; groups of
# other titles follow, and the last ones are at the end.
FIRST_GROUPS = (
    "which network", "data", "what to train", "which images", "length", "validation", "output",
    "what it runs on",
)  # fmt: skip
LAST_GROUPS = {
    OTHER_WORD: "other words for some of these, as in the original code",
    NO_EFFECT: "no effect, accepted for old command lines",
}


@dataclass(frozen=True)
class Names:
    """A tag: further names of an option, which work and are not shown."""

    names: tuple[str, ...]
    kept: str | None = None  # the name under which the arguments, and so runs, keep the value


def also(*names: str) -> Names:
    """Tag of an option that answers to other names too."""
    return Names(names)


def was(*names: str) -> Names:
    """Tag of an option that was renamed. Its value is kept under the first of its former names:
    that is part of the hash in the names of runs and of what their checkpoints say."""
    return Names(names, dest(names[0]))


def dest(option: str) -> str:
    """`--batch-gpu` -> batch_gpu: an option's name among the parsed arguments."""
    return option.lstrip("-").replace("-", "_")


def kept_name(row: Row) -> str:
    """The name of a row's value among the parsed arguments."""
    kept = [tag.kept for tag in row[4:] if isinstance(tag, Names) and tag.kept]
    return kept[0] if kept else dest(row[0])


def hidden_names(row: Row) -> list[str]:
    """Names that a row's option has beside the one that is shown."""
    return [name for tag in row[4:] if isinstance(tag, Names) for name in tag.names]


def flag(name: str, table: Table) -> str:
    """batch_gpu -> `--batch-gpu`: an option as its row writes it. Errors: KeyError."""
    return _row(table, name)[0]


def rows_of(table: Table) -> Iterator[Row]:
    """All rows of a table, group by group."""
    for rows in table.values():
        yield from rows


def tagged(table: Table, *tags: str) -> tuple[str, ...]:
    """Names (as in the parsed arguments) of the options that bear at least one of the tags."""
    return tuple(kept_name(row) for row in rows_of(table) if set(row[4:]) & set(tags))


def names_of(table: Table) -> tuple[str, ...]:
    """Names (as in the parsed arguments) of all options of a table."""
    return tuple(kept_name(row) for row in rows_of(table))


def spellings(table: Table) -> dict[str, str]:
    """{every name that an option answers to: its name among the parsed arguments}, without dashes
    in front and with `_` for `-`, such as {"data": "data_tr", "data_tr": "data_tr"}."""
    found: dict[str, str] = {}
    for row in rows_of(table):
        found |= {dest(name): kept_name(row) for name in (row[0], *hidden_names(row))}
    return found


def default_of(table: Table, name: str) -> Any:
    """An option's own default, which a preset may replace. Errors: KeyError."""
    return _row(table, name)[2]


def merged(*tables: Table) -> dict[str, list[Row]]:
    """One table of several: groups of the same title become one, and of rows of the same name the
    first counts."""
    out: dict[str, list[Row]] = {}
    known: set[str] = set()
    for table in tables:
        for title, rows in table.items():
            new = [row for row in rows if row[0] not in known]
            out.setdefault(title, []).extend(new)
            known.update(row[0] for row in new)
    return out


def _row(table: Table, name: str) -> Row:
    for row in rows_of(table):
        if kept_name(row) == name:
            return row
    raise KeyError(f"no option {name!r} in this table")


@dataclass(frozen=True)
class Rules:
    """What goes together: each method raises ValueError in the words of the command line.

    args: the parsed options. table: their rows. An option counts as given when its value is not
    the default of its row, whether it was typed or set by a preset. presets: those of the script,
    where a preset may set what has no effect beside a word typed after it; see `typed`.
    """

    args: argparse.Namespace
    table: Table
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def given(self, name: str) -> bool:
        """Whether an option is not at its default."""
        return self._word(name, getattr(self.args, name)) != self._word(
            name, default_of(self.table, name)
        )

    def typed(self, name: str) -> bool:
        """Whether an option is given, and not merely by the chosen preset.

        Of arguments that came from a command line it is known which words stood there; of others
        an option that has the preset's value is taken for the preset's.
        """
        from_preset = getattr(self.args, "from_preset", None)
        if from_preset is not None and self.presets:
            return self.given(name) and name not in from_preset
        preset = self.presets.get(getattr(self.args, "preset", None) or "", {})
        as_preset = name in preset and getattr(self.args, name) == preset[name]
        return self.given(name) and not as_preset

    def _word(self, name: str, value: Any) -> Any:
        """A value in the word that one types for it, where it is kept by a former one."""
        shown_as = getattr(_row(self.table, name)[1], "shown_as", {})
        return shown_as.get(value, value) if isinstance(value, str) else value

    def shown(self, name: str) -> str:
        """An option as one types it: `--late`, `--f 0.5`, `--res 8 16`."""
        value, option = self._word(name, getattr(self.args, name)), flag(name, self.table)
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
        if self.typed(name) and not holds:
            raise ValueError(f"{self.shown(name)} is of {to}: it has no effect here")


def enlarged(args: argparse.Namespace, table: Table, names: Sequence[str]) -> str:
    """Those of the options `names` (as arguments are called) that are larger than by default, as
    one types them, all of them if none is: what to lower. One that is not in the table has no
    default."""

    def size(value: Any) -> float:
        numbers = value if isinstance(value, list | tuple) else [value]
        return max((n for n in numbers if isinstance(n, int | float)), default=0)

    usual = {kept_name(row): size(row[2]) for row in rows_of(table)}
    there = [name for name in names if getattr(args, name, None) is not None]
    more = [name for name in there if size(getattr(args, name)) > usual.get(name, 0)]
    typed = getattr(args, "typed_as", {})
    words = {n: str(getattr(args, n)).strip("[]").replace(",", "") for n in there}
    return ", ".join(f"{typed.get(n, f'--{n}')} {words[n]}" for n in more or there)


def add_bool(
    parser: argparse._ActionsContainer, name: str, default: bool | None, help: str
) -> argparse.Action:
    """Add a yes/no option: `--cond`, `--no-cond` and `--cond True|False|1|0` all work."""
    return parser.add_argument(name, action=BoolAction, default=default, help=help)


def add_names(
    parser: argparse._ActionsContainer, action: argparse.Action, *names: str
) -> argparse.Action:
    """Let an option answer to further names, which --help does not show. Returns the action.

    Errors: ValueError if one of them is another option's.
    """
    if isinstance(action, BoolAction):
        names = (*names, *action.add_negatives(names))
    for name in names:
        if parser._option_string_actions.setdefault(name, action) is not action:
            raise ValueError(f"{name} is an option already, so it cannot be {action.dest} too")
    action.hidden_names = [*getattr(action, "hidden_names", []), *names]  # type: ignore[attr-defined]
    return action


def add_row(group: argparse._ActionsContainer, row: Row) -> None:
    """Add one option."""
    name, kind, default, help_, *tags = row
    more: dict[str, Any] = {"dest": kept_name(row), "default": default}
    more["help"] = argparse.SUPPRESS if HIDDEN in tags else help_
    if kind is bool:
        more["action"] = BoolAction
    elif isinstance(kind, tuple):
        more["choices"] = kind
    elif isinstance(kind, type) and issubclass(kind, argparse.Action):
        more["action"] = kind
    else:
        more |= {"type": kind, "metavar": metavar_of(kind)}
    action = group.add_argument(name, **more)
    action.usual = USUAL in tags  # type: ignore[attr-defined]
    action.added = ADDED in tags  # type: ignore[attr-defined]
    add_names(group, action, *hidden_names(row))


def add_options(parser: argparse.ArgumentParser, *tables: Table) -> None:
    """Add all groups of the tables, as `merged`."""
    groups = {group.title: group for group in parser._action_groups}
    for title, rows in merged(*tables).items():
        for row in rows:
            last = next((LAST_GROUPS[tag] for tag in LAST_GROUPS if tag in row[4:]), title)
            if last not in groups:
                groups[last] = parser.add_argument_group(last)
            add_row(groups[last], row)


WANDB = one_of("online", "offline", "disabled", also={"1": "online", "0": "disabled"})


def run_table(*, save_every: int = 500) -> Table:
    """Rows of the options of `runtime.run.Run`: where it lives, how it resumes, what it runs on.

    save_every: the script's own default.
    """
    # fmt: off
    return {
        "what to train": [("--seed", nonnegative_int, 0, "random seed of everything", USUAL)],
        "output": [
            ("--outdir", dir_path, None, "the run's folder; DIR lies below RESULTS/SCRIPT, ./DIR "
             "in the working directory (default: NAME-HASH, the same for the same options)", USUAL),
            ("--run-dir", dir_path, None, "as --outdir, from the working directory", HIDDEN),
            ("--results_path", dir_path, None, "RESULTS, the folder runs go to (default: "
             "$RESULTS_HOME, or what dirs.json says)"),
            ("--resume", text_called("auto|N|PATH"), None, "auto: from the newest good "
             "checkpoint of the run's folder, if any; 0: from the beginning; N: in "
             "TrainGeneratorWandB from the end of outer loop N-1; PATH: a checkpoint or a "
             "run's folder (default: auto)", USUAL),
            ("--save_every", positive_int, save_every, "steps between checkpoints", USUAL),
            ("--save_minutes", nonnegative_float, 10.0, "a checkpoint also after so many minutes "
             "without one; 0: never by time"),
            ("--keep", nonnegative_int, 1, "newest checkpoints to keep (while a run goes on at "
             "least two), and in TrainSimCLR and TrainISICLE networks of epochs; 0: all; "
             "TrainGeneratorWandB also keeps ends of outer loops, as many as fit into 2 GB"),
            ("--log_every", positive_int, 10, "steps between lines in metrics.jsonl"),
            ("--wandb", WANDB, "online", "Weights & Biases; online goes offline without a "
             "key or a network; 1 is online, 0 is disabled", USUAL),
            ("--tensorboard", bool, False, "also write event files for TensorBoard into the run's "
             "folder", USUAL),
        ],
        "what it runs on": [
            ("--gpus", GpuList, None, "numbers of GPUs, one process each; cpu: none (default: all "
             "there are)", USUAL, also("--device")),
            ("--num_workers", integer(0, 1024), 2, "processes that read data, per rank; 0: none",
             USUAL),
            ("--precision", ("auto", "fp32", "bf16", "fp16"), "auto", "auto: bf16 on GPUs that "
             "have it, fp32 elsewhere"),
            ("--compile", bool, False, "torch.compile the networks"),
            ("--deterministic", bool, False, "bit-equal reruns on GPUs too, slower"),
            ("--profile", count(10_000, 0), 0, "profile so many steps, after the first three of a "
             "launch: a trace, the costliest operators and, on GPUs, a memory snapshot in the "
             "run's folder; 0: none"),
        ],
    }
    # fmt: on


def run_options() -> tuple[str, ...]:
    """Names of the options that `add_run_args` adds."""
    return ("preset", *names_of(run_table()))


def add_preset(parser: argparse.ArgumentParser) -> None:
    """Add --preset."""
    parser.add_argument(
        "--preset", type=short_name, metavar="NAME", help="a named set of options (default: none)"
    )


def add_run_args(parser: argparse.ArgumentParser, *, save_every: int = 500) -> None:
    """Add --preset and the options of `runtime.run.Run` (`run_table`)."""
    add_preset(parser)
    add_options(parser, run_table(save_every=save_every))
