"""Tables of options: tags, sets computed from them, and rules between options."""

import argparse

import pytest

from recipes.words import former
from runtime.cli import parse
from runtime.options import (
    EXECUTION,
    Rules,
    add_options,
    add_run_args,
    default_of,
    flag,
    names_of,
    run_options,
    tagged,
)
from runtime.types import IntList, positive_float, positive_int, text

TABLE = {
    "data": [
        ("--data", text, None, "pictures"),
        ("--data_path", text, None, "where", EXECUTION),
    ],
    "network": [
        ("--batch-gpu", positive_int, 4, "at once", EXECUTION, "loop"),
        ("--res", IntList, [8, 16], "resolutions", "network"),
        ("--lr", positive_float, 0.1, "rate"),
        ("--early", bool, False, "first"),
        ("--late", bool, False, "last"),
        ("--cond", bool, True, "labels"),
        ("--mode", ("a", "b"), "a", "which"),
    ],
}


def rules(*argv: str) -> Rules:
    parser = argparse.ArgumentParser(prog="script")
    add_options(parser, TABLE)
    return Rules(parse(parser, {}, list(argv)), TABLE)


def test_sets_are_computed_from_tags():
    assert tagged(TABLE, EXECUTION) == ("data_path", "batch_gpu")
    assert tagged(TABLE, "loop", "network") == ("batch_gpu", "res")
    assert tagged(TABLE, "nothing") == ()
    assert names_of(TABLE)[:3] == ("data", "data_path", "batch_gpu") and len(names_of(TABLE)) == 9
    assert default_of(TABLE, "res") == [8, 16] and flag("batch_gpu", TABLE) == "--batch-gpu"
    with pytest.raises(KeyError, match="batch"):
        flag("batch", TABLE)


def test_a_table_is_what_the_parser_takes():
    args = rules("--res", "4", "--no-cond", "--batch_gpu", "2").args
    assert (args.res, args.cond, args.batch_gpu, args.mode) == ([4], False, 2, "a")


def test_run_options_are_those_of_the_parser():
    parser = argparse.ArgumentParser()
    add_run_args(parser)
    assert set(run_options()) == set(vars(parser.parse_args([])))


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["--early", "--late"], "--early and --late exclude each other: give one"),
        (["--no-cond", "--lr", "0.5"], "--no-cond needs --data or --res: it has classes"),
        (["--res", "4", "8"], "--res 4 8 is of --mode b: it has no effect here"),
        (["--lr", "0.25", "--data", "x"], "--lr 0.25 is of --mode b: it has no effect here"),
    ],
)
def test_rules_say_what_was_typed(argv, line):
    found = rules(*argv)

    def check() -> None:
        found.excludes("early", "late")
        found.needs("cond", "data", "res", why="it has classes")
        found.belongs("res", "--mode b", found.args.mode == "b")
        found.belongs("lr", "--mode b", found.args.mode == "b")

    with pytest.raises(ValueError) as error:
        check()
    assert str(error.value) == line


def test_what_holds_passes():
    found = rules("--early", "--no-cond", "--data", "x", "--mode", "b", "--lr", "2")
    found.excludes("early", "late")
    found.needs("cond", "data", "res")
    found.needs("late", "data")
    found.belongs("lr", "--mode b", found.args.mode == "b")
    found.belongs("res", "--mode a", False)  # at its default


def test_options_from_elsewhere_fail_in_their_own_way():
    def fail(message: str):
        raise ValueError(f"--imle: {message}")

    parser = argparse.ArgumentParser(add_help=False)
    add_options(parser, TABLE)
    presets = {"small": {"lr": 0.5}}
    assert parse(parser, presets, ["--preset", "small"], fail=fail).lr == 0.5
    for argv, part in (
        (["--lr", "-1"], "out of range"),
        (["--help"], "unrecognized arguments: --help"),
        (["--lrr", "1"], "did you mean"),
        (["--preset", "large"], "is not a preset"),
        (["--preset"], "expected one argument"),
        (["--mode", "c"], "invalid choice"),
    ):
        with pytest.raises(ValueError, match=part):
            parse(parser, presets, argv, fail=fail)


def test_a_value_kept_under_a_former_word_is_shown_as_typed():
    table = {"a": [("--scale", former(("new", "other"), {"old": "new"}), "new", "which")]}
    for typed, given, shown in (
        ([], False, "--scale new"),
        (["--scale", "new"], False, "--scale new"),
        (["--scale", "old"], False, "--scale new"),
        (["--scale", "other"], True, "--scale other"),
    ):
        parser = argparse.ArgumentParser()
        add_options(parser, table)
        found = Rules(parse(parser, {}, typed), table)
        assert (found.given("scale"), found.shown("scale")) == (given, shown), typed
