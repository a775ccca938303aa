"""Online data selection in any training script: its options, their rules, and the draw.

A script puts `whether_rows()` and `how_rows(...)` into its option table, calls `check` (and
`check_jest_options`) in its own, makes the draw by `picker`, and calls `choose` once a step.
"""

from argparse import Namespace
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recipes.words import former
from runtime import distributed
from runtime.options import EXECUTION, NO_EFFECT, USUAL, Row, Rules, Table, tagged
from runtime.precision import LOWEST_TEMPERATURE
from runtime.run import Run
from runtime.types import (
    at_once,
    number,
)
from selection import EarlyLateSwitch, Picker, Spread
from selection.jest import EASY_REFERENCES

JEST = "jest"  # the tag of an option that has an effect on JEST alone

SCALES = ("standardised", "autoguided", "raw", "mean")
AUTOGUIDED = "seed"  # the former name of the scale "autoguided", by which it is kept


def whether_rows() -> list[Row]:
    """Rows of the option table: whether rows are selected, and whether by JEST."""
    # fmt: off
    return [
        ("--selection", bool, None, "train on a part of every batch, at random unless another "
         "option says how (default: yes with one that does, as --acid, else no)", USUAL),
        ("--acid", bool, False, "choose it by JEST", USUAL),
    ]
    # fmt: on


def how_rows(*, num_chunks: int, keep_all: bool, unit: str, scales: str) -> list[Row]:
    """Rows of the option table: how much is selected, when, and by which scores.

    num_chunks: default of --n. keep_all: whether --filt 0 is allowed. unit: what a row of a batch
    is, in the plural. scales: what --score_scale stands for in this script.
    """
    # fmt: off
    return [
        ("--filt", number(0, 1, lo_open=not keep_all, hi_open=True), 0.8, "filter ratio: the part "
         "not trained on", USUAL),
        ("--n", at_once, num_chunks, "chunks in which JEST draws"),
        ("--diff", bool, True, "score: learner loss - reference loss; else - reference loss", JEST),
        ("--invert", bool, False, "prefer low scores", JEST),
        ("--early", bool, False, "select only until the learner beats the reference"),
        ("--late", bool, False, "select only from then on"),
        ("--trick", bool, False, "probabilities are computed in logarithms anyway", EXECUTION,
         NO_EFFECT),
        ("--score_scale", former(SCALES, {AUTOGUIDED: "autoguided"}), "standardised", scales, JEST),
        ("--easy_reference", EASY_REFERENCES, None, "how --no-diff draws; source: as Autoguided's "
         "code, whose scores lost a row (default: intended)", JEST),
        ("--temperature", number(LOWEST_TEMPERATURE), 1.0, "of the draw", JEST),
        ("--score_by_sigma", bool, False, f"rank {unit} among those of like sigma: keeps P(sigma)",
         JEST),
        ("--first_chunk", ("uniform", "scored"), "uniform", "how the first chunk is drawn", JEST),
        ("--normalise", bool, True, "scores over 2n + 1, as Autoguided; else as published", JEST),
        ("--rounding", ("exact", "reference"), "exact", "reference: cut off as Autoguided's"),
    ]
    # fmt: on


Presets = Mapping[str, Mapping[str, Any]]
NONE: Presets = MappingProxyType({})


def check(
    args: Namespace, table: Table, presets: Presets = NONE, *, method: str | None = None
) -> None:
    """Rules between these options; `selection` becomes a yes or no. Errors: ValueError.

    presets: the script's, which may say how to select for a run that does not. method: the one that
    the script was asked for by name, if it can be.
    """
    rules = Rules(args, table, presets)
    for name, asked in (("acid", args.acid), ("method", method)):
        if asked and args.selection is False:
            raise ValueError(f"--no-selection and {rules.shown(name)}, which selects: give one")
    args.selection = bool(args.selection or args.acid or method)
    rules.excludes("early", "late")
    rules.belongs("easy_reference", to="--no-diff", holds=not args.diff)
    if (args.early or args.late) and not args.selection:
        raise ValueError(f"--{'early' if args.early else 'late'} needs --selection or --acid")
    for name in ("filt", "rounding"):
        rules.belongs(name, "--selection", args.selection)
    rules.belongs("n", "--acid", args.acid or method not in (None, "random"))


def check_jest_options(args: Namespace, table: Table, presets: Presets = NONE) -> None:
    """No option of JEST without it. Errors: ValueError."""
    rules = Rules(args, table, presets)
    for name in tagged(table, JEST):
        rules.belongs(name, to="--acid", holds=args.acid)


def early_late_switch(args: Namespace) -> EarlyLateSwitch:
    """Whether a step selects: always, until the learner beats the reference, or from then on."""
    return EarlyLateSwitch("early" if args.early else "late" if args.late else None)


def picker(
    args: Namespace,
    method: str,
    *,
    scale: str | None = None,
    values: int | None = None,
    loss_scaling: float = 1.0,
    batch_gpu_total: int | None = None,
) -> Picker:
    """The draw that the options ask for, by `method`.

    scale: in place of --score_scale. values: the numbers that a row's loss is a sum over.
    loss_scaling, batch_gpu_total: of the scale "autoguided" only.
    """
    scale = scale or args.score_scale
    return Picker(
        method=method,
        filter_ratio=args.filt,
        num_chunks=args.n,
        rounding=args.rounding,
        scale="autoguided" if scale == AUTOGUIDED else scale,
        values=values,
        loss_scaling=loss_scaling,
        batch_gpu_total=batch_gpu_total,
        by_sigma=args.score_by_sigma,
        learnability=args.diff,
        inverted=args.invert,
        temperature=args.temperature,
        first_chunk=args.first_chunk,
        normalise=args.normalise,
        easy_reference=args.easy_reference or "intended",
    )


# diffusion.rows.Rows, or another tuple of tensors [n, ...] that has its fields among others.
AnyRows = Any


class Choice(NamedTuple):
    """What to train on.

    rows: this rank's share. chosen: int64 [2, b], what all ranks have, as positions in the
    super-batch and as indices into the data set. spreads: how selective each draw was. blind: bool
    scalar, whether a draw saw no finite score (`spoil_blind`).
    """

    rows: AnyRows
    chosen: Tensor
    spreads: list[Spread]
    blind: Tensor


def choose(
    picker: Picker,
    rows: AnyRows,
    learner: Tensor | None,
    ref: Tensor | None,
    sigma: Tensor | None,
    *,
    random: Callable[..., torch.Generator],
    part: int | None = None,
) -> Choice:
    """Draw from a super-batch, of which `rows` is this rank's share, as StepSampler deals them.

    learner, ref, sigma: [n] losses and noise levels of these rows; None where the method does not
    look at them. random: a generator on their device, another one for each key it is called with.
    part: None: one draw from all ranks' rows, the same for every number of ranks; a number: draws
    from so many rows of one rank at a time, as Autoguided does. All ranks call it.
    """
    if not picker.needs_losses:
        learner = None
    if not picker.needs_ref:
        ref = sigma = None
    losses = (learner, ref, sigma)
    share, rank, world_size = len(rows.keys), distributed.rank(), distributed.world_size()
    if part is not None:
        own, spreads, blind = [], [], []
        for first in range(0, share, part):
            piece = slice(first, first + part)
            here = [None if t is None else t[piece] for t in losses]
            blind.append(picker.blind(*here[:2]))
            found = picker.pick(
                len(rows.keys[piece]),
                *here,
                random=random(rank, first // part),
            )
            own.append(first + found.rows)
            spreads.append(found.spread)
        mine = torch.cat(own)
        rows = rows.take(mine)
        positions = distributed.gather(rank + world_size * mine)
        chosen = torch.stack([positions, distributed.gather(rows.index)])
        given = [s for s in spreads if s is not None]
        return Choice(rows, chosen, given, torch.stack(blind).any())
    everywhere = [None if t is None else distributed.interleave(t) for t in losses]
    found = picker.pick(share * world_size, *everywhere, random=random())
    # The same on every rank, unless their devices round differently: then rank 0 decides.
    positions = distributed.gather(found.rows)[: len(found.rows)].sort().values
    chosen = torch.stack([positions, distributed.interleave(rows.index)[positions]])
    # Any tuple of tensors like Rows, with more fields perhaps.
    mine_of_all = type(rows)(*distributed.take_interleaved(rows, positions))
    given = [] if found.spread is None else [found.spread]
    return Choice(mine_of_all, chosen, given, picker.blind(*everywhere[:2]))


def spoil_blind(run: Run, blind: Tensor) -> None:
    """Before the step's update: skip it, and count it towards exit 5, if its draw was `blind`."""
    run.spoil(
        blind, "scores of the selection", "look at the reference (--guide, --ref) and the data"
    )
