"""--help and --help-all: kinds of values, defaults, groups in order, what most need first."""

import argparse
import re

import pytest

from runtime.cli import parse, prepare
from runtime.options import (
    EXECUTION,
    NO_EFFECT,
    OTHER_WORD,
    USUAL,
    add_options,
    add_preset,
    also,
    merged,
    names_of,
    run_table,
    spellings,
    was,
)
from runtime.types import (
    GpuList,
    data_set,
    dir_path,
    file_path,
    list_of,
    nonnegative_int,
    one_of,
    positive_float,
    positive_int,
    probability,
    short_name,
    text,
)

TABLE = {
    "network": [
        ("--width", positive_int, 64, "channels", "network"),
        ("--weights", file_path, None, "where they are (default: downloaded)"),
        ("--rates", list_of(positive_float), [0.5, 1e-4], "of each part"),
        ("--epochs", positive_int, 20, "see --loops", EXECUTION, NO_EFFECT),
        ("--half", bool, None, "as --precision fp16", OTHER_WORD),
    ],
    "data": [
        ("--data", data_set, None, "pictures (required)", USUAL, was("--data_tr", "--dataroot")),
        ("--crop", ("squash", "center"), "squash", "how", USUAL, also("--crop_mode")),
        ("--flip", probability, 0.5, "100% of the time at 1"),
        ("--grey", one_of(0, 0.5, 1), 0, "how grey"),
        ("--labels", bool, True, "with classes", also("--cond")),
    ],
    "output": [
        ("--outdir", dir_path, None, "the folder (default: a new one)", USUAL),
        ("--suffix", short_name, None, "appended"),
        ("--remark", text, None, "anything"),
        ("--gpus", GpuList, [], "numbers"),
        ("--devices", nonnegative_int, 0, "no more", "hidden"),
    ],
}
PRESETS = {
    "smoke": {"_help": "seconds", "data": "scenes", "width": 8},
    "long": {"_help": "a line that is too long to stand beside the name of the preset that it is "
             "about, so that it goes on in the next one, below its own beginning", "data_tr": "x"},
}  # fmt: skip


def make() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="script.py", description="What it does.")
    add_preset(parser)
    add_options(parser, TABLE)
    return parser


@pytest.fixture
def said(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")

    def say(*words: str) -> str:
        with pytest.raises(SystemExit) as stop:
            parse(make(), PRESETS, list(words))
        assert stop.value.code == 0
        return capsys.readouterr().out

    return say


def test_help_shows_what_most_people_need(said):
    text = said("--help")
    assert re.findall(r"^  (--\S+)", text, re.M) == ["--data", "--crop", "--outdir"]
    assert re.findall(r"^(\w[^:(\n]*):$", text, re.M) == ["data", "output"]
    assert "These are the 3 most used options; --help-all lists all 15." in text
    assert text.index("What it does.") < text.index("presets") < text.index("data:")


def test_help_all_shows_all_but_former_names(said):
    text = said("--help-all")
    titles = ["data", "output", "network", "other words for some of these, as in the original code",
              "no effect, accepted for old command lines"]  # fmt: skip
    assert re.findall(r"^(\w[^:(\n]*):$", text, re.M) == titles
    for hidden in ("--data_tr", "--dataroot", "--crop_mode", "--cond", "--devices", "VALUE"):
        assert hidden not in text
    assert text == said("--help_all")


def test_kinds_and_defaults(said):
    text = re.sub(r"\s+", " ", said("--help-all"))
    for part in (
        "--data NAME|DIR pictures (required)",
        "--crop {squash,center} how (default: squash)",
        "--flip FLOAT 100% of the time at 1 (default: 0.5)",
        "--grey {0,0.5,1} how grey (default: 0)",
        "--[no-]labels with classes (default: yes)",
        "--outdir DIR the folder (default: a new one)",
        "--suffix NAME appended (default: none)",
        "--remark TEXT anything (default: none)",
        "--gpus N [N ...] numbers (default: cpu)",
        "--width N channels (default: 64)",
        "--weights FILE where they are (default: downloaded)",
        "--rates FLOAT [FLOAT ...] of each part (default: 0.5 0.0001)",
    ):
        assert part in text, part


def test_presets_stand_one_a_line_and_their_values_become_the_defaults(said):
    text = said("--preset", "smoke", "--help-all")
    assert "\n  smoke  seconds\n  long   a line that" in text
    flat = re.sub(r"\s+", " ", text)
    assert "--width N channels (default: 8)" in flat
    assert "--data NAME|DIR pictures (required)" in flat


def test_a_raw_argparse_option_speaks_as_the_others_do(capsys):
    parser = argparse.ArgumentParser(prog="x")
    parser.add_argument("--count", type=int, default=3, help="how many")
    parser.add_argument("--name", help="whose", required=True)
    parser.add_argument("--quick", action="store_true", help="less")
    prepare(parser)
    for word in ("--help", "--help-all"):
        with pytest.raises(SystemExit):
            parser.parse_args([word])
        text = re.sub(r"\s+", " ", capsys.readouterr().out)
        assert (
            "usage: x --name TEXT [options]" in text and "--count N how many (default: 3)" in text
        )
        assert "--name TEXT whose (required)" in text and "--quick less (default: no)" in text
    with pytest.raises(SystemExit):
        parser.parse_args(["--name", "x", "--nothing"])
    assert capsys.readouterr().err.count("\n") == 1


# ------------------------------------------------------------------------------------------- names


def arguments(*words: str) -> argparse.Namespace:
    args = parse(make(), PRESETS, list(words))
    return args


def test_former_names_do_what_they_did_and_what_is_kept_stays():
    new = arguments("--data", "x", "--crop", "center", "--no-labels")
    assert vars(new)["data_tr"] == "x" and "data" not in vars(new)
    for words in (
        ["--data_tr", "x", "--crop_mode", "center", "--no-cond"],
        ["--data-tr=x", "--crop-mode=center", "--cond=False"],
        ["--dataroot", "x", "--crop", "center", "--no_cond"],
    ):
        assert arguments(*words) == new
    assert new.typed_as["data_tr"] == "--data" and "typed_as" not in vars(new)
    assert "data_tr" in names_of(TABLE) and spellings(TABLE)["dataroot"] == "data_tr"


def test_presets_may_use_any_name_of_an_option():
    assert arguments("--preset", "smoke").data_tr == "scenes"
    assert arguments("--preset", "long").data_tr == "x"


def test_mistakes_are_told_under_the_shown_name(capsys):
    for words, line in (
        (["--crop_mode", "centre"], "argument --crop: invalid choice: 'centre'"),
        (["--crop_mode", "centre"], "did you mean center? (see --help)"),
        (["--data_tra", "x"], "unrecognized arguments: --data_tra x; did you mean --data?"),
        (["--device", "3"], "unrecognized arguments: --device 3; did you mean --gpus?"),
        (["--learning_rate", "3"], "unrecognized arguments: --learning_rate 3 (see --help)"),
    ):
        with pytest.raises(SystemExit):
            parse(make(), PRESETS, words)
        err = capsys.readouterr().err
        assert line in err and err.count("\n") == 1


def test_one_name_for_two_options_is_refused():
    table = {"a": [("--x", text, None, "x"), ("--y", text, None, "y", also("--x"))]}
    with pytest.raises(ValueError, match="--x is an option already"):
        add_options(argparse.ArgumentParser(), table)


def test_a_scripts_own_row_goes_before_that_of_every_run():
    own = {"what it runs on": [("--gpus", positive_int, 1, "how many")]}
    rows = [row for rows in merged(own, run_table()).values() for row in rows]
    assert [row[3] for row in rows if row[0] == "--gpus"] == ["how many"]
