"""`--preset cpu-small` on one's own pictures, flat or in class folders, with nothing else given.

Launches are cut down to a few steps, and what a run says of its choices is read.
"""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import models.simclr
from recipes.edm2 import options as edm2
from recipes.edm2 import parts as edm2_parts
from recipes.imle import options as imle
from recipes.simclr import options as simclr
from recipes.simclr import parts as simclr_parts
from runtime import rundir
from runtime.options import EXECUTION, tagged
from storage.errors import DataError, UsageError
from tests.scripts.simclr_support import small_backbone
from tests.scripts.support import get_args, load, metrics

IMLE = "--ns 2 --sp 2 --bs 2 --subsample_size 4"
CUT = {
    "TrainGeneratorWandB": f"{IMLE} --outer_loops 1 --num_iteration 2 --samples 2",
    "TrainSimCLR": "--steps 2",
    "TrainISICLE": f"--steps 2 --joint_steps 1 --imle_steps 1 --view_batch 4 --imle |{IMLE}|",
    "train_edm2": "--duration 8 --bs 4 --sample_images 2 --sample_steps 2",
    "train_ddpm": "--duration 8 --bs 4 --sample_images 2 --sample_steps 2",
}


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setattr(models.simclr, "build_backbone", small_backbone)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def photographs(folder, count, height=24, width=30):
    """`count` pictures that are not square."""
    folder.mkdir(parents=True)
    for k in range(count):
        small = np.random.default_rng(k).integers(0, 256, (4, 5, 3), dtype=np.uint8)
        image = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
        image.save(folder / f"{k:03d}.png")
    return folder


def flat(folder):
    return photographs(folder, 12)


def classes(folder):
    for name in ("cats", "dogs"):
        photographs(folder / name, 6)
    return folder


def splits(folder):
    classes(folder / "train")
    for name in ("cats", "dogs"):
        photographs(folder / "val" / name, 2)
    return folder


def words_of(name, preset):
    before, _, quoted = CUT[name].partition("|")
    words = before.split()
    return words + ([f"--preset {preset} {quoted.rstrip('|')}"] if quoted else [])


def launched(name, data, run_dir, capsys, *more, preset="cpu-small"):
    """What a launch of a script says."""
    words = [*words_of(name, preset), *more]
    if (name, preset) == ("TrainGeneratorWandB", "cpu-small"):
        words += ["--base_loops", "1", "--base_lpips_loops", "1"]
    script = load(name)
    common = ["--preset", preset, "--data", str(data), "--run-dir", str(run_dir)]
    script.main(get_args(script, [*common, "--wandb", "disabled", "--gpus", "cpu", *words]))
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "make"),
    [
        *((name, make) for name in CUT for make in (flat, classes)),
        ("TrainSimCLR", splits),
        ("train_edm2", splits),
    ],
)
def test_the_first_steps_on_ones_own_pictures(name, make, tmp_path, capsys):
    said = launched(name, make(tmp_path / "photos"), tmp_path / "run", capsys)
    state = json.loads((tmp_path / "run" / "status.json").read_text())
    assert state["state"] == "finished" and state["step"] >= 2
    assert list((tmp_path / "run" / "samples").glob("*.png"))
    if name == "TrainGeneratorWandB":
        assert "LPIPS on random VGG16 weights" in said and "fetch-weights" in said
        assert "validation: photos (val part) has" in said and "the 20 asked for" in said
        assert "data: photos (train part), 1" in said
    if name == "train_edm2":
        told = (
            "unconditional: photos has no classes" if make is flat else "conditional on the 2 cla"
        )
        assert told in said
        assert "data: photos" in said and "12 pictures, " in said
    if name in ("TrainSimCLR", "TrainISICLE"):
        assert "views of 16 px: the pictures of photos" in said and "24 px (the median)" in said
        assert "batches of 8 instead of 128" in said and "2 steps: 2 epochs of 1" in said
        assert "data: photos" in said and "12 pictures, " in said
        assert ("has no classes: no kNN" in said) == (make is flat)
        assert bool(metrics(tmp_path / "run", "acc_val")) == (make is not flat)


@pytest.mark.parametrize(
    "preset, words",
    [("cpu-quick", []), ("cpu-small-color", ["--base_loops", "1"]), ("cpu-small-mask", [])],
)
def test_the_other_presets(preset, words, tmp_path, capsys):
    data, run_dir = flat(tmp_path / "photos"), tmp_path / "run"
    launched("TrainGeneratorWandB", data, run_dir, capsys, *words, preset=preset)
    assert metrics(run_dir, "val/psnr")


def test_the_toy_has_a_longer_length(tmp_path, capsys):
    script = load("toy_example")
    words = f"train --preset cpu-small --run-dir {tmp_path / 'run'} --wandb disabled --total-iter 2"
    cut = "--bs 64 --val_samples 16 --test_samples 16 --dim 8 --no-viz"
    script.main(get_args(script, [*words.split(), *cut.split()]))
    assert metrics(tmp_path / "run", "Average Learner Loss")
    assert get_args(script, ["train", "--preset", "cpu-small"]).total_iter == 32768


# ----------------------------------------------------------------------------------------- IMLE


def test_without_vgg_weights_the_distance_is_random(tmp_path):
    weights = tmp_path / "vgg.pth"
    words = ["--preset", "cpu-small", "--data", "photos", "--lpips_path", str(weights)]
    assert imle.get_args(None, words).lpips == "random"
    weights.touch()
    found = imle.get_args(None, words)
    assert found.lpips == "pretrained"
    typed = imle.get_args(None, [*words, "--lpips", "pretrained"])  # the name it has always had
    shaping = [rundir.shaping(a, tagged(imle.OPTIONS, EXECUTION)) for a in (found, typed)]
    assert shaping[0] == shaping[1]


# ----------------------------------------------------------------------------------------- EDM2


def test_conditioning_that_is_asked_for_wants_classes(tmp_path, capsys):
    with pytest.raises(UsageError, match="photos has no classes; leave --cond out"):
        launched(
            "train_edm2", flat(tmp_path / "photos"), tmp_path / "run", capsys, "--cond", "True"
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("make", [flat, classes])
def test_a_run_is_the_one_of_the_command_that_said_it(make, tmp_path, capsys):
    """Leaving --cond out names the run as typing what it comes to: old runs go on."""
    data, names = str(make(tmp_path / "photos")), []
    asked = "--cond False" if make is flat else "--cond True"
    for words in ("", asked):
        args = edm2.get_args(None, ["--preset", "smoke", "--data", data, *words.split()])
        edm2_parts.choose_conditioning(args, edm2_parts.data(args))
        flags = rundir.shaping(args, edm2.execution_options(args))
        names.append(rundir.config_hash("train_edm2", flags))
        assert flags["cond"] is (make is classes)
    assert names[0] == names[1]


def test_one_picture_is_said_to_be_one(tmp_path):
    file = next(flat(tmp_path / "photos").iterdir())
    args = edm2.get_args(None, ["--preset", "cpu-small", "--data", str(file)])
    said = edm2_parts.choose_conditioning(args, edm2_parts.data(args))
    assert f"; {file.name} is one picture, which the network can only learn by heart" in said


def test_no_classes_wanted_is_said(tmp_path, capsys):
    data = classes(tmp_path / "photos")
    said = launched("train_edm2", data, tmp_path / "run", capsys, "--no-cond")
    assert "unconditional: as --cond says" in said


# --------------------------------------------------------------------------------------- SimCLR


def fitted(data, *words):
    args = simclr.get_args(None, ["--data", str(data), *words])
    return args, simclr_parts.fit(args, simclr.OPTIONS)


def test_views_are_as_large_as_the_pictures_allow(tmp_path):
    args, said = fitted(photographs(tmp_path / "a", 5, 70, 100))
    assert (args.crop_size, args.picture_size, args.bs, args.epochs) == (64, 64, 1000, 1000)
    assert len(said) == 1 and "views of 64 px" in said[0] and "70 px" in said[0]
    assert fitted(tmp_path / "a", "--crop_max", "48")[0].crop_size == 32
    assert fitted(photographs(tmp_path / "icons", 3, 5, 5))[0].crop_size == 8
    args, said = fitted("scenes")
    assert args.crop_size == 128 and "drawn at any size" in said[0]
    args, said = fitted(tmp_path / "a", "--crop_size", "24")
    assert (args.crop_size, said) == (24, [])
    args, said = fitted("cifar10")  # known to the registry: no look at pictures
    assert (args.crop_size, said) == (32, [])


def test_views_of_an_own_folder_may_not_fit_a_recipe(tmp_path):
    with pytest.raises(UsageError, match="a blur of 1 tap"):
        fitted(photographs(tmp_path / "a", 3, 10, 10), "--recipe", "imagenet")
    with pytest.raises(DataError, match="no data set"):
        fitted(tmp_path / "nowhere")


def test_steps_are_as_many_whatever_the_number_of_pictures(tmp_path):
    data = photographs(tmp_path / "a", 20)
    args, (_, said) = fitted(data, "--steps", "7", "--bs", "8")
    assert (args.bs, args.epochs, args.eval_iter, args.save_iter) == (8, 4, 1, 4)
    assert said == "batches of 8, 8 steps: 4 epochs of 2"
    args, (_, said) = fitted(data, "--steps", "100", "--bs", "32")
    assert (args.bs, args.epochs, args.eval_iter) == (16, 100, 20)
    assert said.startswith("batches of 16 instead of 32, since a has 20 pictures")
    args, _ = fitted(data, "--steps", "100", "--bs", "20", "--num_images", "10", "--eval_iter", "3")
    assert (args.bs, args.epochs, args.eval_iter) == (8, 100, 3)
    args, _ = fitted(data, "--steps", "100", "--bs", "8", "--epochs", "12")
    assert (args.epochs, args.eval_iter) == (12, 10)
    with pytest.raises(UsageError, match="has 1 picture: .* at least two"):
        fitted(photographs(tmp_path / "one", 1), "--steps", "5", "--n_ramp", "0")


def test_what_follows_from_the_pictures_is_found_again_and_names_no_run(tmp_path):
    data, names = photographs(tmp_path / "a", 20, 40, 50), []
    for words in ("--steps 8 --bs 32", "--steps 9 --bs 32", "--steps 8 --bs 16"):
        args = simclr.get_args(None, ["--data", str(data), "--n_ramp", "0", *words.split()])
        flags = rundir.shaping(*simclr_parts.asked(args, simclr.OPTIONS))
        names.append(rundir.config_hash("TrainSimCLR", flags))
        found = [fitted(data, "--n_ramp", "0", *words.split())[0] for _ in range(2)]
        assert found[0] == found[1] and (found[0].bs, found[0].crop_size) == (16, 32)
    assert names[0] == names[1] != names[2]


def test_more_steps_go_on_with_the_run(tmp_path, capsys):
    data, run_dir = flat(tmp_path / "photos"), tmp_path / "run"
    launched("TrainSimCLR", data, run_dir, capsys)
    said = launched("TrainSimCLR", data, run_dir, capsys, "--steps", "3")
    assert "resumed step 2" in said and "length (epochs): 2 before, 3 now" in said
    assert sorted(metrics(run_dir, "loss_tr")) == [2, 3]


def test_small_classes_have_fewer_folds(tmp_path, capsys):
    data = tmp_path / "photos"
    for name, count in (("cats", 3), ("dogs", 4)):
        photographs(data / name, count)
    said = launched("TrainSimCLR", data, tmp_path / "run", capsys)
    assert "class 'cats' of photos has 3 pictures: 3 folds instead of 5" in said
    assert any("linear" in name for name in json.loads(probes(tmp_path / "run"))["figures"])
    photographs(data / "birds", 2)
    said = launched("TrainSimCLR", data, tmp_path / "run2", capsys)
    assert "class 'birds' of photos has 2 pictures: 2 folds instead of 5, and no linear" in said
    assert not any("linear" in name for name in json.loads(probes(tmp_path / "run2"))["figures"])
    photographs(data / "newts", 1)
    with pytest.raises(
        UsageError, match="'newts' of photos has 1 pictures, .* leave that class out"
    ):
        launched("TrainSimCLR", data, tmp_path / "run3", capsys)


def probes(run_dir):
    return (run_dir / "probes.json").read_text()


# --------------------------------------------------------------------------------------- ISICLE


def test_the_generator_is_trained_between_the_epochs(tmp_path, capsys):
    said = launched("TrainISICLE", flat(tmp_path / "photos"), tmp_path / "run", capsys)
    assert "the generator is trained 2 times, before every epoch: 1 steps each time." in said
    assert "Both are counted: 4 steps, 2 of the encoder and 2 of the generator" in said
    assert len(list((tmp_path / "run" / "samples").glob("views-*.png"))) == 2


@pytest.mark.parametrize("words", ["--pair real-real", "--views cache --cache somewhere"])
def test_nothing_is_trained_where_no_generator_draws(words):
    script = load("TrainISICLE")
    args = get_args(script, ["--preset", "cpu-small", "--data", "photos", *words.split()])
    assert args.joint_steps is None and not args.joint


def test_joint_steps_are_not_for_refreshed_views(capsys):
    with pytest.raises(SystemExit, match="2"):
        get_args(load("TrainISICLE"), "--preset cpu-small --data photos --refresh 2".split())
    assert "--joint_steps 50 with --refresh 2: give --joint instead" in capsys.readouterr().err
