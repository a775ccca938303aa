"""Which options go together, and what of TrainGeneratorWandB.py's --imle takes."""

import pytest

from recipes.imle import options as imle
from recipes.isicle.options import NOT_IMLE, OF_THE_NET, get_args, idle_options, imle_options


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("", "give --net SNAPSHOT"),
        ("--net x --pair real-synth --f 0.5", "--f 0.5 is of --pair mixed"),
        ("--net x --f 2", "no share of views"),
        ("--views cache", "needs --cache"),
        ("--cache x", "needs --views cache"),
        ("--views cache --cache x --refresh 2", "takes no --refresh"),
        ("--pair real-real --joint 1", "no synthetic views"),
        ("--pair real-real --augs none", "two equal views"),
        ("--net x --pair multi --loss dcl", "not --loss dcl"),
        ("--net x --pair synth-synth --domain_bn", "one kind of views"),
        ("--net x --domain_bn --compile", "exclude each other"),
        ("--net x --unreal_augs 0 --augs full", "exclude each other"),
        ("--joint 3 --refresh 2", "not a multiple of --refresh 2"),
        ("--joint 1 --imle=--nonsense", "--nonsense"),
        ("--joint 1 --imle=--num-workers=2", "--num-workers=2 has no influence"),
        ("--joint 1 --imle=--no-compile", "--no-compile has no influence"),
        ("--joint 1 --imle '", "No closing quotation"),
        ("--net x --lpips_min 1 --lpips_max 0.5", "not below"),
        ("--net x --pair some", "invalid choice"),
        ("--net x --augs none --f 0", "two equal views"),
        ("--net x --augs none --pair synth-synth --code fixed", "two equal views"),
        ("--net x --augs none --f 1 --temperature 0", "two equal views"),
        ("--net x --augs none --pair synth-synth --refresh 1 --k 1", "two equal views"),
        ("--net x --k 8", "--k 8 is of --refresh"),
        ("--net x --num_synth 3", "--num_synth 3 is of --pair multi"),
        ("--net x --reduce in", "--reduce in is of --pair multi"),
        ("--views cache --cache x --temperature 0.5", "takes no --temperature"),
        ("--views cache --cache x --lpips_max 0.5", "takes no --lpips_max"),
    ],
)
def test_wrong_options_are_one_line(words, says, capsys):
    with pytest.raises(SystemExit, match="2"):
        get_args(None, ["--data", "cifar10", *words.split()])
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and says in said[0]


def test_every_option_of_imle_is_taken_or_refused():
    """A new option of TrainGeneratorWandB.py has to be put in one of these."""
    taken = """
        preset bs mini_bs ipc code_bs ns sp rescore search_precision subsample_size flip lr
        lr_schedule mapping_lr_mult warmup weight_decay grad_clip ema_std alpha lpips lpips_path
        lpips_weighting channels_last unconditional cells local_ns adaptive adaptive_gamma
        adaptive_staleness adaptive_force adaptive_compat rejection rejection_levels
        rejection_empty
    """.split()  # unconditional is refused by what it asks for
    options = [*vars(imle.get_args(None, ["--data_tr", "scenes"]))]
    assert sorted((*taken, *NOT_IMLE, *OF_THE_NET)) == sorted(options)


JOINT = ["--data", "cifar10", "--joint", "2", "--imle_steps", "7", "--seed", "3"]


def test_a_generator_beside_an_encoder_has_no_loops_of_a_base():
    words = "--preset cpu-small-color"
    own = imle_options(get_args(None, [*JOINT, "--imle", words]))
    assert (own.base, own.base_context) == ("learned", 3)
    assert (own.base_loops, own.base_lpips_loops, own.freeze_base) == (0, 0, False)


@pytest.mark.parametrize("words", ["--preset cpu-small", "--preset=cpu-small --ns 3", ""])
def test_the_generators_cpu_small_is_the_one_without_loops_of_a_base(words):
    """Not what is nothing without them; the text stays, and with it runs that were begun."""
    args = get_args(None, [*JOINT, *([f"--imle={words}"] if words else [])])
    own = imle_options(args)
    assert args.imle == (words or "--preset cpu-small")
    assert (own.base, own.base_opt, own.lr) == ("input", "adamw", 1.5e-3)
    assert own.ns[0] == (3 if "3" in words else 4)


def test_the_generators_options_are_this_runs_and_those_in_quotes():
    words = "--preset smoke --lr 0.5 --res 8 16 --resid_nc 6 --dense_nc=4 --no-channels_last"
    own = imle_options(get_args(None, [*JOINT, "--num_workers", "1", "--imle", words]))
    assert (own.lr, own.res, own.channels_last) == (0.5, [8, 16], False)
    assert (own.data_tr, own.seed, own.num_iteration, own.num_workers) == ("cifar10", 3, 7, 1)
    assert idle_options(words) == ["--res", "--resid_nc", "--dense_nc=4"]


def test_a_network_that_is_there_has_its_own_levels():
    """Also more of them than the preset has widths for."""
    args = get_args(None, [*JOINT, "--net", "x", "--imle", "--preset smoke"])
    net = {"res": [16, 16, 16, 32], "resid_nc": [4, 4, 4], "dense_nc": [4, 4, 4]}
    own = imle_options(args, net)
    assert own.res == net["res"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--lr nought", "--imle: argument --lr"),
        ("--lr 0 --preset smoke", "--imle: argument --lr"),
        ("--preset nope", "--imle: argument --preset: 'nope' is not a preset"),
        ("--preset smoke --ns 1 2 3", "--imle: --ns has 3 values"),
        ("--help", "--imle: unrecognized arguments: --help"),
        ("--preset smoke --unconditional", "views need a generator that takes a picture"),
    ],
)
def test_what_is_wrong_in_quotes_is_a_value_error(words, says):
    args = get_args(None, JOINT)
    args.imle = words
    with pytest.raises(ValueError, match=says):
        imle_options(args)
