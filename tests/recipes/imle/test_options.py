"""Options of conditional and unconditional IMLE: names, defaults, which go together."""

import pytest

from recipes.imle.options import (
    CODES,
    CORRUPTION,
    NETWORK,
    OPTIONS,
    OUTER,
    check,
    display_name,
    get_args,
    run_name,
)
from runtime.options import EXECUTION, names_of, tagged

# The options of the CIMLE refactoring, in its order.
THEIR_OPTIONS = """--wandb disabled --suffix s --job_id 7 --uid u --resume 0 --data_path p --spi 2
--num_val_images 3 --chunk_epochs 1 --gpus 0 1 --code_bs 2 --data_tr
camnet3/train --data_val camnet3/val --res 16 32 64 128 256 --alpha 0.1 --seed 1
--proj_dim 1000 --epochs 3 --outer_loops 4 --bs 4 --mini_bs 2 --ns 8 --ipc 10
--lr 1e-3 --color_space lab --sp 4 --subsample_size 5 --num_iteration 6
--sample_method mixture --grayscale 0.5 --mask_res 4 --mask_frac 0.5 --fill
color --code_nc 4 --in_nc 3 --out_nc 3 --map_nc 16 --latent_nc 32 --resid_nc 8 8
8 8 --dense_nc 4 4 4 4 --n_blocks 1 --act_type leakyrelu --init_type normal
--init_scale 0.2""".split()


def test_every_original_option_is_accepted():
    args = get_args(None, THEIR_OPTIONS)
    assert args.ns == [8] * 4 and args.sp == [4] * 4  # one value broadcasts
    assert (args.grayscale, args.fill, args.color_space) == (0.5, "color", "lab")


def test_original_defaults():
    args = get_args(None, ["--data_tr", "camnet3"])
    assert args.res == [64, 64, 64, 64, 128] and args.ns == [128] * 4
    assert (args.bs, args.mini_bs, args.lr, args.alpha) == (512, 8, 1e-4, 0.1)
    assert args.wandb == "online" and args.n_blocks == 6


def test_original_run_name():
    words = "--data_tr camnet3/train --res 16 32 64 --ns 8 4 --suffix x --uid abc --grayscale 1"
    args = get_args(None, words.split())
    assert display_name(args) == (
        "camnet3-bs512-OuterLoops20-grayscale1-ipc10240-lr1.00e-04-ns8_4-res16_32_64-seed0-abc-x"
    )


@pytest.mark.parametrize(
    "words, says",
    [
        ("--res 16 48", "48 after 16"),
        ("--res 16", "--res 16"),
        ("--res 4 8 16", "too small for VGG16"),
        ("--res 16 32 64 --ns 1 2 3", "--ns has 3 values"),
        ("--res 16 32 64 --sp 1 2 3", "--sp has 3 values"),
        ("--resid_nc 8", "--resid_nc [8]"),
        ("--ipc 9 --mini_bs 2", "--ipc 9"),
        ("--gpus 0 1 2 --bs 512", "--bs 512"),
        ("--in_nc 1", "3 channels"),
        ("--lr nan", "--lr"),
        ("--lr -1", "--lr"),
        ("--bs 0", "--bs"),
        ("--bs x", "--bs"),
        ("--grayscale 0.3", "--grayscale"),
        ("--mask_frac 1.5", "--mask_frac"),
        ("--ema_std 0.4", "--ema_std"),
        ("--lpips none", "--lpips none"),
        ("--ema_std 1e-300", "--ema_std"),
        ("--sample_method mixture --num_components 1", "--num_components 1"),
        ("--res 16 32 --mask_frac 0.5 --mask_res 17", "--mask_res 17"),
        ("--unconditional --lpips none --res 3", "--res 3"),
        ("--unconditional --lpips none --res 44", "--res 44"),
        ("--unconditional --lpips none --res 32 --proj_dim 9", "--proj_dim 9"),
        ("--nonsense 1", "--nonsense"),
        ("--ns 1000000000", "--ns"),
        ("--subsample_size 100000000", "--subsample_size"),
        ("--preset nope", "nope"),
    ],
)
def test_wrong_options_are_one_line_and_exit_2(words, says, capsys):
    with pytest.raises(SystemExit) as stop:
        get_args(None, ["--data_tr", "scenes", *words.split()])
    said = capsys.readouterr().err.strip()
    assert stop.value.code == 2
    assert says in said and "\n" not in said


def test_data_is_asked_for(capsys):
    with pytest.raises(SystemExit) as stop:
        get_args(None, [])
    assert stop.value.code == 2 and "--data is missing" in capsys.readouterr().err


def test_what_is_wrong_is_told_to_whom_it_is_said():
    def fail(message):
        raise LookupError(message)

    for words in (["--lr", "-1"], ["--nonsense", "1"], ["--data_tr", "scenes", "--res", "16"]):
        with pytest.raises(LookupError, match=words[-2].lstrip("-")):
            get_args(None, words, fail=fail)


def test_tags_are_of_options_that_are_there():
    """What a resumed run may change never shapes a network, its codes or its inputs."""
    shaping = tagged(OPTIONS, NETWORK, CODES, CORRUPTION)
    assert {"res", "code_nc", "sample_method", "fill"} <= set(shaping) <= set(names_of(OPTIONS))
    assert not set(shaping) & {*tagged(OPTIONS, EXECUTION), *tagged(OPTIONS, OUTER)}
    assert set(tagged(OPTIONS, EXECUTION)) == set(
        "data_path spi chunk_epochs code_bs sp uid job_id snapshot_every lpips_path cache epochs "
        "keep_schedule metrics metrics_num metrics_ref metrics_every metrics_weights "
        "ipc".split()
    )


def test_names_of_a_run():
    args = get_args(None, "--data_tr some/where/camnet3/train --res 16 32 --job_id 7".split())
    assert run_name(args) == "camnet-camnet3-16x32-7"
    args.unconditional, args.suffix = True, "x"
    assert run_name(args) == "uncond-camnet3-16x32-7-x"


def test_checking_twice_changes_nothing():
    args = get_args(None, ["--data_tr", "scenes"])
    before = dict(vars(args))
    check(args)
    assert vars(args) == before
