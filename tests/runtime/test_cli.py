"""The command line: types, spellings, lists, booleans, presets, one-line errors."""

import argparse
import copy

import pytest

from data import dataset_tool, process_data
from recipes.words import compact_seeds, image_count, period, period_steps, seed_range
from runtime.cli import parse
from runtime.options import add_bool, add_run_args
from runtime.types import (
    BoolAction,
    IntList,
    boolean,
    finite_float,
    integer,
    nonnegative_float,
    nonnegative_int,
    number,
    one_of,
    positive_float,
    positive_int,
    probability,
    text,
)


def make():
    parser = argparse.ArgumentParser(prog="script")
    parser.add_argument("--res", action=IntList, default=[64, 64], help="resolutions")
    parser.add_argument("--lr", type=positive_float, default=1e-4)
    parser.add_argument("--data_tr", required=True)
    parser.add_argument("--mask-frac", type=probability, default=0.0)
    parser.add_argument("--gray", type=one_of(0, 0.5, 1), default=0)
    parser.add_argument("--mode", choices=("a", "b"), default="a")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--suffix", default=None)
    add_bool(parser, "--cond", False, "conditional")
    add_run_args(parser, save_every=7)
    return parser


def run(*argv, presets=None):
    return parse(make(), presets, ["--data_tr", "x", *argv])


def refused(capsys, *argv, presets=None, base=("--data_tr", "x")):
    """The one line on stderr of a command line that must end with exit code 2."""
    with pytest.raises(SystemExit) as stop:
        parse(make(), presets, [*base, *argv])
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("script: error: ")
    return err


def test_defaults_of_the_run_options():
    args = run()
    expected = dict(
        preset=None,
        run_dir=None,
        results_path=None,
        resume=None,
        save_every=7,
        log_every=10,
        num_workers=2,
        precision="auto",
        compile=False,
        seed=0,
        deterministic=False,
        outdir=None,
        wandb="online",
        gpus=None,
    )
    assert {k: getattr(args, k) for k in expected} == expected


# --- types


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (positive_int, ["1", "7"], ["0", "-1", "1.5", "x", "", "nan", "1e3", str(2**63)]),
        (nonnegative_int, ["0", "7"], ["-1", "1.0", "inf"]),
        (positive_float, ["1e-9", "3"], ["0", "-1", "nan", "inf", "-inf", "1e999", "x"]),
        (nonnegative_float, ["0", "2.5"], ["-1e-9", "nan", "inf"]),
        (finite_float, ["-5", "0"], ["nan", "inf", "1,5"]),
        (probability, ["0", "1", ".5"], ["-0.1", "1.01", "nan"]),
        (number(0, 1, lo_open=True, hi_open=True), ["0.5"], ["0", "1"]),
        (integer(2, 4), ["2", "4"], ["1", "5"]),
        (one_of("rgb", "lab"), ["rgb"], ["RGB", "", "x"]),
        (one_of(0, 0.5, 1), ["0", ".50", "1.0"], ["0.4", "nan", "x"]),
        (boolean, ["True", "false", "1", "0", "YES"], ["2", "", "maybe"]),
        (text, ["a b", "/x"], ["", "  ", "a\nb", "a\0b"]),
    ],
)
def test_types(kind, good, bad):
    for word in good:
        kind(word)
    for word in bad:
        with pytest.raises(argparse.ArgumentTypeError) as error:
            kind(word)
        assert "\n" not in str(error.value)
        assert word in str(error.value) or repr(word) in str(error.value)


def test_values_come_out_typed():
    assert positive_float("3") == 3.0 and isinstance(positive_float("3"), float)
    assert one_of(0, 0.5, 1)(".50") == 0.5
    assert boolean("No") is False


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--lr", "nan"], "nan is out of range, allowed: a finite number > 0"),
        (["--lr", "fast"], "'fast' is not a finite number > 0"),
        (["--mask_frac", "2"], "2 is out of range, allowed: a finite number >= 0 and <= 1"),
        (["--save_every", "0"], "0 is out of range, allowed: a whole number >= 1"),
        (["--gray", "0.3"], "'0.3' is not one of 0, 0.5, 1"),
        (["--seed", "-1"], "-1 is out of range"),
        (["--precision", "fp8"], "fp8"),
        (["--mode"], "--mode"),
        (["--re", "3"], "unrecognized arguments: --re 3"),
        (["--lrr", "3"], "did you mean --lr?"),
        (["--outdi", "x"], "did you mean --outdir?"),
        (["--learning_rate", "1"], "did you mean --lr?"),
        (["--mode", "c"], "choose from 'a', 'b') (see --help)"),
        (["--precision", "bf61"], "did you mean bf16?"),
        (["stray"], "unrecognized arguments: stray"),
        (["--gpus", "0", "0"], "twice"),
        (["--gpus", "-1"], "-1"),
    ],
)
def test_mistakes_are_one_line(capsys, argv, said):
    assert said in refused(capsys, *argv)


def test_required_options_are_asked_for(capsys):
    assert "--data_tr" in refused(capsys, base=())


def test_scripts_errors_after_parsing_are_one_line_too(capsys):
    parser = make()
    parse(parser, None, ["--data_tr", "x"])
    with pytest.raises(SystemExit) as stop:
        parser.error("bs 3 is not a multiple of 2")
    assert stop.value.code == 2
    assert capsys.readouterr().err == "script: error: bs 3 is not a multiple of 2 (see --help)\n"


# --- spellings, lists


def test_hyphen_and_underscore_are_the_same():
    args = run("--run_dir", "a", "--save-every=3", "--mask_frac", "0.5", "--no_cond")
    assert (args.run_dir, args.save_every, args.mask_frac, args.cond) == ("a", 3, 0.5, False)
    assert parse(make(), None, ["--data-tr", "y_z-w"]).data_tr == "y_z-w"


def test_a_script_may_define_both_spellings_itself():
    parser = argparse.ArgumentParser()
    parser.add_argument("--a-b", dest="one")
    parser.add_argument("--a_b", dest="two")
    args = parse(parser, None, ["--a-b", "1", "--a_b", "2"])
    assert (args.one, args.two) == ("1", "2")


@pytest.mark.parametrize(
    "words",
    [
        ["16", "32", "64"],
        ["[16,", "32,", "64]"],
        ["[16,32,64]"],
        ["16,32,64"],
        ["[16", "32", "64]"],
        ["[", "16", "32,64", "]"],
    ],
)
def test_lists(words):
    assert run("--res", *words).res == [16, 32, 64]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["[16,", "32"], "brackets"),
        (["[]"], "no value"),
        ([","], "no value"),
        (["16", "x"], "'x' is not a whole number >= 1"),
        (["16", "-1"], "-1 is out of range"),
        (["[16,", "2.5]"], "2.5"),
        ([], "--res"),
    ],
)
def test_bad_lists(capsys, words, said):
    assert said in refused(capsys, "--res", *words)


def test_gpus():
    assert run("--gpus", "0", "1").gpus == [0, 1]
    assert run("--gpus", "cpu").gpus == []
    assert run("--device", "cuda:1").gpus == [1] and run("--device", "cuda").gpus == [0]


def test_default_lists_are_not_shared():
    parser = make()
    parse(parser, None, ["--data_tr", "x"]).res.append(1)
    assert parse(parser, None, ["--data_tr", "x"]).res == [64, 64]


@pytest.mark.parametrize(
    ("argv", "value"),
    [
        (["--cond"], True),
        (["--no-cond"], False),
        (["--cond", "True"], True),
        (["--cond", "0"], False),
        (["--cond=false"], False),
        (["--cond", "--lr", "1"], True),
        (["--cond", "--no-cond"], False),
        ([], False),
    ],
)
def test_bool(argv, value):
    assert run(*argv).cond is value


def test_bad_bools(capsys):
    assert "'maybe'" in refused(capsys, "--cond", "maybe")
    assert "takes no value" in refused(capsys, "--no_cond", "True")


# --- presets

PRESETS = {
    "smoke": {
        "_help": "CPU, 100% quick",
        "data_tr": "scenes",
        "res": [16, 32],
        "lr": 1e-3,
        "cond": True,
        "gpus": [],
        "gray": 0.5,
        "mask-frac": 1,
        "verbose": True,
        "suffix": None,
    },
    "other": {"mode": "b", "res": "8,16"},
}


def test_a_preset_fills_in_and_the_command_line_wins():
    before = copy.deepcopy(PRESETS)
    args = parse(make(), PRESETS, ["--preset", "smoke"])
    assert (args.data_tr, args.res, args.lr, args.cond) == ("scenes", [16, 32], 1e-3, True)
    assert (args.gpus, args.gray, args.mask_frac, args.verbose) == ([], 0.5, 1.0, True)
    assert isinstance(args.mask_frac, float) and args.preset == "smoke"
    args = parse(make(), PRESETS, ["--no-cond", "--preset=smoke", "--res", "4", "8", "--lr=2"])
    assert (args.cond, args.res, args.lr, args.gpus) == (False, [4, 8], 2.0, [])
    args.res.append(99)
    parse(make(), PRESETS, ["--preset", "smoke"]).res.append(99)
    assert PRESETS == before


def test_a_preset_equals_the_same_words_typed():
    preset = parse(make(), PRESETS, ["--preset", "other", "--data_tr", "x"])
    typed = run("--mode", "b", "--res", "8", "16")
    preset.preset = None
    assert preset == typed


def test_a_preset_leaves_the_parser_as_it_was(capsys):
    parser = make()
    parse(parser, PRESETS, ["--preset", "smoke"])
    assert parse(parser, PRESETS, ["--data_tr", "x"]).res == [64, 64]
    with pytest.raises(SystemExit):
        parse(parser, PRESETS, [])  # data_tr is required again


@pytest.mark.parametrize(
    ("preset", "said"),
    [
        ({"learning_rate": 1}, "'learning_rate', which is no option"),
        ({"save_ever": 1}, "did you mean 'save_every'"),
        ({"preset": "smoke"}, "'preset', which is no option"),
        ({"help": True}, "'help', which is no option"),
        ({"lr": float("nan")}, "nan is out of range"),
        ({"lr": "fast"}, "'fast'"),
        ({"lr": True}, "True"),
        ({"lr": None}, "None"),
        ({"lr": [1.0]}, "[1.0]"),
        ({"save_every": 1.5}, "1.5"),
        ({"res": [16, 0]}, "0 is out of range"),
        ({"res": []}, "no value"),
        ({"mode": "c"}, "'c'"),
        ({"cond": 1}, "1 is not True or False"),
        ({"verbose": "yes"}, "'yes' is not True or False"),
    ],
)
def test_bad_presets_are_refused_even_when_not_chosen(capsys, preset, said):
    err = refused(capsys, presets={"p": preset})
    assert said in err and "'p'" in err


def test_an_unknown_preset_names_the_known(capsys):
    err = refused(capsys, "--preset", "smok", presets=PRESETS)
    assert "'smok'" in err and "smoke, other; did you mean smoke? (see --help)" in err
    assert "did you mean" not in refused(capsys, "--preset", "large", presets=PRESETS)
    assert "--preset" in refused(capsys, "--preset", presets=PRESETS)


def test_help_lists_presets_and_their_values(capsys):
    with pytest.raises(SystemExit) as stop:
        parse(make(), PRESETS, ["--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0 and "\n  smoke  CPU, 100% quick\n  other\n" in text


def test_presets_without_run_options():
    parser = argparse.ArgumentParser()
    parser.add_argument("--n", type=int, default=1)
    assert parse(parser, {"big": {"n": 9}}, ["--preset", "big"]).n == 9
    assert parse(parser, {"big": {"n": 9}}, []).n == 1


def test_nargs_options_in_presets():
    parser = argparse.ArgumentParser()
    parser.add_argument("--pair", type=int, nargs=2)
    parser.add_argument("--many", type=float, nargs="+")
    presets = {"p": {"pair": [1, 2], "many": [1, 2.5]}}
    args = parse(parser, presets, ["--preset", "p"])
    assert args.pair == [1, 2] and args.many == [1.0, 2.5]
    with pytest.raises(SystemExit):
        parse(parser, {"p": {"pair": [1]}}, [])


# ------------------------------------------------------------------------------------------- seeds


@pytest.mark.parametrize(("word", "seeds"), [("7", [7]), ("16-19", [16, 17, 18, 19]), ("3-3", [3])])
def test_seeds(word, seeds):
    assert list(seed_range(word)) == seeds


@pytest.mark.parametrize("word", ["", "-1", "5-3", "1-", "1.5", "4294967296", "0-4294967296"])
def test_what_are_no_seeds(word):
    with pytest.raises(argparse.ArgumentTypeError, match="seed"):
        seed_range(word)


def test_seeds_in_few_words():
    assert compact_seeds([0, 1, 2, 7, 9, 10]) == "0-2,7,9-10"
    assert compact_seeds([5, 4]) == "5,4" and compact_seeds([]) == ""


# ------------------------------------------------------------------------------------ image counts


@pytest.mark.parametrize(
    ("word", "images"), [("7", 7), ("128Ki", 131072), ("1.5Mi", 1572864), ("2Gi", 2**31)]
)
def test_numbers_of_images(word, images):
    assert image_count(word) == images


@pytest.mark.parametrize(
    "word", ["", "0", "-1", "Ki", "1.5", "0.3Ki", "4K", "nan", "1/0", "9" * 30]
)
def test_what_is_no_number_of_images(word):
    with pytest.raises(argparse.ArgumentTypeError, match="images"):
        image_count(word)


@pytest.mark.parametrize(
    ("word", "batch", "steps"),
    [
        ("64", 2048, 64),
        ("128Ki", 2048, 64),
        ("1Ki", 2048, 1),
        ("4Ki", 1000, 4),
        ("8Mi", 2048, 4096),
    ],
)
def test_a_period_is_in_steps_or_in_images(word, batch, steps):
    assert period_steps(period(word), batch) == steps


@pytest.mark.parametrize("word", ["0", "1.5", "steps", "0Ki"])
def test_what_is_no_period(word):
    with pytest.raises(argparse.ArgumentTypeError):
        period(word)


def test_an_option_given_twice_is_said(capsys, monkeypatch):
    parser = argparse.ArgumentParser(prog="x.py")
    parser.add_argument("--lr", type=float, default=1.0)
    parser.add_argument("--res", action=IntList, default=[4])
    parser.add_argument("--on", action=BoolAction, default=False)
    args = parse(parser, {}, "--lr 1 --res 8 16 --on --lr=2 --res 32 --no-on --lr 3".split())
    assert (args.lr, args.res, args.on) == (3.0, [32], False)
    assert capsys.readouterr().err.splitlines() == [
        "x.py: --lr is given 3 times; 3.0 counts",
        "x.py: --res is given twice; 32 counts",
        "x.py: --on is given twice; False counts",
    ]
    parse(parser, {}, ["--lr", "1"])
    monkeypatch.setenv("RANK", "1")
    parse(parser, {}, ["--lr", "1", "--lr", "2"])
    assert capsys.readouterr().err == ""


def test_an_option_given_twice_to_a_data_tool_is_said(capsys, tmp_path):
    """They have parsers of their own, and commands below them."""
    assert process_data.main(["--path", "a", "--path", str(tmp_path / "b")]) == 6
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and said[0].endswith(f"--path is given twice; {tmp_path}/b counts")
    words = f"encode --source a --batch 2 --dest {tmp_path}/c --batch=3 --source {tmp_path}/d"
    assert dataset_tool.main(words.split()) == 6
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(": ")[2] for line in said[:2]] == [
        f"--source is given twice; {tmp_path}/d counts",
        "--batch is given twice; 3 counts",
    ]
    assert not any("is given" in line for line in said[2:])
