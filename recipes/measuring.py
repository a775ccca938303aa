"""Options of measuring during training, for every training script that draws pictures: off by
default, and no part of a run's name. What they ask for: `recipes.metrics.during`."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence

from runtime.options import ADDED, EXECUTION, Row, Rules
from runtime.types import (
    ListAction,
    list_of,
    many,
    positive_int,
    text_called,
)

NAMES = ("metrics", "metrics_num", "metrics_ref", "metrics_weights")


class WeightsList(ListAction):
    """WORD=FILE, each a word of the shell: a path may have spaces and commas in it."""

    item = staticmethod(text_called("FILE|random"))

    def convert(self, words: Sequence[str]) -> list[str]:
        """The words as they are."""
        return list(words)


def rows(*tags: str) -> list[Row]:
    """The rows, for a table's group "validation". tags: of the script's own."""
    # fmt: off
    return [
        ("--metrics_every", positive_int, None, "steps between measuring what the network draws, "
         "FID say, as calculate_metrics.py does (default: never)", EXECUTION, ADDED, *tags),
        ("--metrics", list_of(text_called("NAME")), ["fid"], "which: docs/metrics.md",
         EXECUTION, ADDED, *tags),
        ("--metrics_num", many, 5000, "pictures drawn for it, on which figures depend",
         EXECUTION, ADDED, *tags),
        ("--metrics_ref", text_called("FILE|NAME"), None, "statistics or a data set to measure "
         "against (default: the training pictures)", EXECUTION, ADDED, *tags),
        ("--metrics_weights", WeightsList, None, "weights of "
         "extractors, as --weights there (default: those that were fetched)",
         EXECUTION, ADDED, *tags),
    ]
    # fmt: on


def check(args: Namespace, rules: Rules) -> None:
    """Rules between these options. Errors: ValueError."""
    for name in NAMES:
        rules.belongs(name, "--metrics_every", args.metrics_every is not None)
