"""The command line of TrainSimCLR.py: what is refused, and former spellings."""

import pytest

from recipes.simclr.figures import ASKED
from recipes.simclr.options import OPTIONS, PRESETS, get_args, run_name
from runtime.options import EXECUTION, tagged
from runtime.rundir import config_hash, shaping
from tests.scripts.simclr_support import TINY


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--gpus 0 1 --bs 33", "cannot be shared by 2 GPUs"),
        ("--epochs 3 --n_ramp 4", "longer than --epochs 3"),
        ("--epochs 3 --n_ramp 3 --lr_schedule seed", "leaves --lr_schedule original no epoch"),
        ("--temp 0", "out of range"),
        ("--bs 1", "out of range"),
        ("--mm 0.9", "adam takes 2"),
        ("--mm 0.9 1", "out of range"),
        ("--recipe nothing", "invalid choice"),
        ("--head nothing", "invalid choice: 'nothing' (choose from original, paper, v2,"),
        ("--color_s 3", "hue 0.6"),
        ("--sigma 0.4", "is of --loss dclw"),
        ("--crop_size 16 --gaussian_blur 1", "a blur of 1 tap changes nothing"),
        ("--wandb 2", "--wandb"),
        ("--few_shot train", "other pictures than train's"),
    ],
)
def test_wrong_options_are_one_line(words, says, capsys):
    with pytest.raises(SystemExit, match="2"):
        get_args(None, words.split())
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and says in said[0]


@pytest.mark.parametrize(
    ("former", "now"),
    [
        ("--head seed", "--head original"),
        ("--head seed", ""),
        ("--lr_schedule seed", "--lr_schedule original"),
        ("--preset cifar10-r50-seed", "--preset cifar10-r50-original"),
        ("--preset=cifar10-r50-seed", "--preset cifar10-r50-original"),
    ],
)
def test_a_former_spelling_is_the_same_run(former, now):
    args, again = (get_args(None, [*TINY, *words.split()]) for words in (former, now))
    args.preset = again.preset
    assert args == again and run_name(args) == run_name(again)


def test_runs_begun_before_are_found():
    """The hash in the name of a run's folder is what it was when there was only the old word."""
    args = get_args(None, ["--preset", "smoke"])
    flags = shaping(args, tagged(OPTIONS, EXECUTION))
    assert (args.head, config_hash("TrainSimCLR", flags)) == ("seed", "32f794a0")


def test_former_spellings_are_not_listed(capsys):
    assert not any("seed" in name for name in PRESETS)
    with pytest.raises(SystemExit, match="0"):
        get_args("", ["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "original" in said and "r50-seed" not in said and "{seed" not in said
    assert ",seed" not in said


def test_what_the_probes_figures_depend_on():
    assert {"data", "eval", "probe_epochs", "few_shot", "exact_augs", "precision"} < set(ASKED)
    assert not {"place", "eval_iter", "lr", "crop_size"} & set(ASKED)
    assert len(ASKED) == 16


def test_a_recipe_beside_a_preset_that_sets_what_it_consists_of(capsys):
    """`--recipe imagenet` has color_s 1: a preset's 0.5 neither replaces it silently nor yields."""
    for words in (["--preset", "cifar10-r18"], ["--crop_size", "32", "--preset=smoke"]):
        with pytest.raises(SystemExit, match="2"):
            get_args(None, [*words, "--recipe", "imagenet"])
        said = capsys.readouterr().err
        preset = words[-1].removeprefix("--preset=")
        assert f"--recipe imagenet has --color_s 1, --preset {preset} sets 0.5" in said
        for option in ("--color_s", "--color-s"):
            for value in ("0.5", "1"):
                args = get_args(None, [*words, "--recipe", "imagenet", option, value])
                assert args.color_s == float(value) and args.gaussian_blur == 1
    assert get_args(None, ["--preset", "smoke", "--recipe", "strong"]).color_s == 0.5
    assert get_args(None, ["--recipe", "imagenet"]).color_s == 1
    assert get_args(None, ["--preset", "smoke"]).recipe is None


def test_the_same_of_a_run_with_generated_views(capsys):
    from recipes.isicle.options import get_args as isicle_args

    with pytest.raises(SystemExit, match="2"):
        isicle_args(None, ["--preset", "tiny25", "--pair", "real-real", "--recipe", "imagenet"])
    assert "--preset tiny25 sets 0.5" in capsys.readouterr().err
    assert isicle_args(None, ["--preset", "tiny25", "--pair", "real-real"]).recipe == "small"


@pytest.mark.parametrize("option", ["--temp", "--sigma"])
def test_temperatures_that_leave_the_range_are_refused(option, capsys):
    for value in ("1e-31", "1e-38", "1e-45"):
        with pytest.raises(SystemExit, match="2"):
            get_args(None, ["--preset", "smoke", "--loss", "dclw", option, value])
        assert ">= 1e-30" in capsys.readouterr().err
