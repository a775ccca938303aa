"""The options of a selection, in a table of a script's own, and the draw from a rank's rows."""

from __future__ import annotations

from argparse import Namespace

import pytest
import torch

from diffusion.rows import Rows
from recipes import selection
from recipes.command import read_options
from runtime import rundir
from runtime.options import Table
from runtime.seeding import generator
from selection import Picker

OPTIONS: Table = {
    "selection": [
        *selection.whether_rows(),
        *selection.how_rows(num_chunks=4, keep_all=False, unit="rows", scales="of scores"),
    ]
}


def check(args: Namespace) -> None:
    selection.check(args, OPTIONS)
    selection.check_jest_options(args, OPTIONS)


def parsed(words: str) -> Namespace:
    return read_options(None, OPTIONS, {}, check, words.split())


def test_what_selects():
    assert not parsed("").selection and not parsed("--no-selection").selection
    assert parsed("--selection").selection and parsed("--acid").selection


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--acid --no-selection", "--no-selection and --acid"),
        ("--acid --early --late", "--early and --late"),
        ("--late", "--late needs --selection"),
        ("--selection --temperature 0.5", "--temperature 0.5 is of --acid"),
        ("--no-normalise", "--no-normalise is of --acid"),
        ("--acid --score_scale z", "choose from standardised, autoguided, raw, mean"),
    ],
)
def test_wrong_options_are_one_line(words, says, capsys):
    with pytest.raises(SystemExit, match="2"):
        parsed(words)
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1


def test_the_former_name_of_a_scale_is_the_same_run():
    now, before = (parsed(f"--acid --score_scale {word}") for word in ("autoguided", "seed"))
    assert rundir.shaping(now, ()) == rundir.shaping(before, ())
    assert rundir.shaping(now, ())["score_scale"] == "seed"  # as in the args.json of older runs
    for args in (now, before):
        assert selection.picker(args, "jest", batch_gpu_total=8).scale == "autoguided"


def test_options_reach_the_picker():
    args = parsed(
        "--acid --filt 0.5 --n 3 --no-diff --invert --temperature 2 --score_by_sigma --first_chunk "
        "scored --no-normalise --rounding reference --score_scale raw"
    )
    assert selection.picker(args, "jest", values=7, loss_scaling=3.0, batch_gpu_total=9) == Picker(
        method="jest", filter_ratio=0.5, num_chunks=3, rounding="reference", scale="raw", values=7,
        loss_scaling=3.0, batch_gpu_total=9, by_sigma=True, learnability=False, inverted=True,
        temperature=2.0, first_chunk="scored", normalise=False,
    )  # fmt: skip
    assert selection.picker(args, "random", scale="mean").scale == "mean"


def test_the_switch():
    assert selection.early_late_switch(parsed("--acid --early")).mode == "early"
    assert selection.early_late_switch(parsed("--acid --late")).mode == "late"
    assert selection.early_late_switch(parsed("--acid")).mode is None


def test_rows_are_drawn_from_all_or_from_parts():
    count = 24
    raw = torch.arange(count)[:, None, None, None].float()
    rows = Rows(torch.arange(100, 100 + count), raw, torch.zeros(count).long(), torch.arange(count))
    learner, ref = torch.rand(2, count, generator=torch.Generator().manual_seed(0))

    def random(*key):
        return generator("cpu", "test", *key)

    picker = Picker(method="jest", filter_ratio=0.5, num_chunks=2)
    whole = selection.choose(picker, rows, learner, ref, None, random=random)
    positions = picker.pick(count, learner, ref, random=random()).rows.sort().values
    assert torch.equal(whole.rows.keys, positions) and len(whole.spreads) == 1
    assert torch.equal(whole.chosen, torch.stack([positions, 100 + positions]))

    parts = selection.choose(picker, rows, learner, ref, None, random=random, part=8)
    assert len(parts.spreads) == 3 and len(parts.rows.keys) == 12
    for k in range(3):
        piece = slice(8 * k, 8 * k + 8)
        own = picker.pick(8, learner[piece], ref[piece], random=random(0, k)).rows
        assert torch.equal(parts.rows.keys[4 * k : 4 * k + 4], 8 * k + own)
    assert torch.equal(parts.chosen[1], 100 + parts.chosen[0])
