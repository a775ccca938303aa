"""Suggestions: what is close is offered, what is not close is not."""

import pytest

from runtime.near import SYNONYMS, closest, closest_option, distance

IMLE = "data data_val res crop lab_range lr bs bs_gpu outdir num_workers gpus samples net warmup"
OPTIONS = {f"--{name}": f"--{name}" for name in IMLE.split()} | {"--data_tr": "--data"}


@pytest.mark.parametrize(
    ("a", "b", "letters"),
    [("", "", 0), ("lr", "lr", 0), ("lrr", "lr", 1), ("bulid", "build", 1), ("", "abc", 3),
     ("kitten", "sitting", 3), ("ab", "ba", 1), ("abc", "cab", 2)],
)  # fmt: skip
def test_distance(a, b, letters):
    assert distance(a, b) == distance(b, a) == letters


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("--learning_rate", "--lr"),  # not --lab_range
        ("--learning-rate", "--lr"),
        ("--batch_size", "--bs"),
        ("--output", "--outdir"),
        ("--out", "--outdir"),
        ("--workers", "--num_workers"),
        ("--gpu", "--gpus"),
        ("--dataset", "--data"),
        ("--data_tra", "--data"),  # near a former name: the one that is shown
        ("--lrr", "--lr"),
        ("--num-worker", "--num_workers"),
        ("--OUTDIR", "--outdir"),
        ("--lab_rang", "--lab_range"),
        ("--warm", "--warmup"),
        ("--teacher", None),  # a synonym of an option that this script does not have
        ("--momentum", None),
        ("--x", None),
        ("--banana", None),
    ],
)
def test_options(typed, offered):
    assert closest_option(typed, OPTIONS) == offered


def test_every_synonym_is_of_an_option_of_some_script():
    from tests import frozen_cli

    shown = set()
    for name in frozen_cli.COMMANDS:
        for line in frozen_cli.read(name):
            if line.startswith("--") and "| hidden" not in line:
                shown.add(line.split(" ")[0].split("/")[0].lstrip("-").replace("-", "_"))
    named = {option for options in SYNONYMS.values() for option in options}
    assert named - shown <= {"init_from"}


@pytest.mark.parametrize(
    ("typed", "words", "offered"),
    [
        ("smke", ["smoke", "cpu-small", "camnet-sr16"], "smoke"),
        ("cpu_small", ["smoke", "cpu-small"], "cpu-small"),
        ("camnet", ["camnet-sr16", "camnet-color"], None),  # two begin so
        ("centre", ["squash", "center"], "center"),
        ("large", ["smoke", "cpu-small"], None),
        ("?", ["a", "b"], None),
        ("", [], None),
    ],
)
def test_words(typed, words, offered):
    assert closest(typed, words) == offered
