"""--best_of_k in any diffusion trainer: see `diffusion.best_of`."""

from argparse import Namespace

from runtime.options import ADDED, Row, Rules, Table
from runtime.types import (
    count,
    nonnegative_float,
)

# fmt: off
ROWS: list[Row] = [
    ("--best_of_k", count(10_000), 1, "noises drawn for each image at its noise level, of which "
     "the one is trained on that the network loses least at, as IMLE trains on the nearest sample; "
     "1: plain training", ADDED),
    ("--best_of_reject", nonnegative_float, 0.0, "of those, leave out the ones at which it loses "
     "less than this (mean over an image's values); 0: none", ADDED),
]
# fmt: on


def check(args: Namespace, table: Table) -> None:
    """Rules between these options. Errors: ValueError."""
    rules = Rules(args, table)
    rules.belongs("best_of_reject", "--best_of_k 2 or more", args.best_of_k > 1)
