"""Options that were renamed: the former names do the same, and runs begun with them go on."""

import pytest

from recipes.edm2 import options as edm2
from recipes.imle import options as imle
from recipes.isicle import options as isicle
from recipes.simclr import options as simclr
from recipes.toy import options as toy
from runtime.options import EXECUTION, tagged
from runtime.rundir import config_hash, plain, shaping

# Script, its options, former words, the same under the names that --help shows, and the names under
# which runs keep them: in args.json, in what a checkpoint says, in the hash of the folder's name.
CASES = [
    ("TrainGeneratorWandB", imle, "--data_tr scenes --mini_bs 4 --spi 2 --run-dir x",
     "--data scenes --bs_gpu 4 --samples 2 --run-dir x", "data_tr mini_bs spi"),
    ("TrainSimCLR", simclr, "--wd=1e-4 --save_iter 3", "--weight_decay 1e-4 --snapshot_every 3",
     "wd save_iter"),
    ("TrainISICLE", isicle, "--wd=1e-4 --snapshot x --device cpu",
     "--weight_decay 1e-4 --net x --gpus cpu", "wd net gpus"),
    ("train_edm2", edm2, "--batch 64 --batch-gpu 8 --snapshot 4 --acid --guide-path g",
     "--bs 64 --bs_gpu 8 --snapshot_every 4 --acid --guide g",
     "batch batch_gpu snapshot guide_path"),
    ("train_edm2", edm2, "--acid --ref_path=r", "--acid --ref r", "ref_path"),
    ("toy_example", toy, "--batch-size 64 --guide-path g --device 1", "--bs 64 --guide g --gpus 1",
     "batch_size guide_path gpus"),
]  # fmt: skip


@pytest.mark.parametrize(("script", "options", "former", "shown", "kept"), CASES)
def test_former_names_are_the_same_run(script, options, former, shown, kept):
    old, new = (options.get_args(None, words.split()) for words in (former, shown))
    assert plain(vars(old)) == plain(vars(new)) and set(kept.split()) <= vars(new).keys()
    flags = [shaping(args, tagged(options.OPTIONS, EXECUTION)) for args in (old, new)]
    assert config_hash(script, flags[0]) == config_hash(script, flags[1])


def test_the_options_of_a_generator_on_the_way_have_both_names(capsys):
    def get(words: str):
        return isicle.get_args(None, ["--preset", "smoke", "--imle", f"{isicle.TINY_IMLE} {words}"])

    assert isicle.imle_options(get("--bs_gpu 2")).mini_bs == 2
    for words in ("--data_tr scenes", "--data scenes", "--spi 3", "--samples 3", "--device 0"):
        with pytest.raises(SystemExit):
            get(words)
        assert f"--imle: {words.split()[0]} has no influence there" in capsys.readouterr().err
