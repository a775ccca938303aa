"""TrainSimCLR.py: runs, resumes bit-exactly, is one on several ranks, refuses what cannot be."""

import json
import os
import re

import pytest

import models.simclr
from data.scenes import CLASSES
from evaluation.features import fingerprint, load_features
from recipes.simclr import parts
from recipes.simclr.files import open_encoder
from recipes.simclr.options import get_args
from runtime.run import Run
from storage.snapshot import load_snapshot
from storage.torchfile import load_torch
from tests import kill_harness as harness
from tests.scripts.simclr_support import TINY, Coloured, small_backbone, stopped, train
from tests.scripts.support import metrics

LAST = "final/majority class"
KNN = "knn(k=20, T=0.07, h), 2 folds"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("simclr") / "whole"
    log = folder.with_name("log")
    assert harness.finish(train, [folder], log) == 0, log.read_text()
    return folder


def test_a_run_leaves_what_it_should(whole, monkeypatch):
    monkeypatch.setattr(models.simclr, "build_backbone", small_backbone)
    assert sorted(metrics(whole, "loss_tr")) == list(range(1, 9))
    assert all(v > 0 for v in metrics(whole, "time/images_per_s").values())
    assert sorted(metrics(whole, f"eval/{KNN} acc1")) == [4]  # the last is among the final ones
    top1 = metrics(whole, f"eval/{KNN} acc1") | metrics(whole, f"final/{KNN} acc1")
    assert metrics(whole, "acc_val") == top1 and sorted(top1) == [4, 8]
    found = json.loads((whole / "probes.json").read_text())
    figures = found["figures"]
    names = [KNN, "linear(l2 swept, standardised, h), 2 folds"]
    names.append("augmented(crop+flip, 1 epochs, standardised, h), 2 folds")
    right = load_torch(whole / "right.pt")
    for name in names:
        assert figures[f"{name} acc1"] == metrics(whole, f"final/{name} acc1")[8]
        assert right[name].shape == (64,)
        assert right[name].double().mean() == pytest.approx(figures[f"{name} acc1"], abs=1e-9)
    snapshot = load_snapshot(whole / "snapshots" / "1.safetensors")
    model, *rest = open_encoder(whole / "snapshots" / "1.safetensors")
    assert rest[0].size == 8 and isinstance(rest[0].scale, tuple) and rest[1] == 8
    assert list(open_encoder(whole / "1.pt")[1:]) == rest
    model.load_state_dict(snapshot.state_dict)


@pytest.mark.parametrize("turn", [pytest.param(2, marks=pytest.mark.slow), 5])
def test_a_run_stopped_in_mid_epoch_ends_as_one_that_was_not(whole, tmp_path, turn):
    broken, log = tmp_path / "broken", tmp_path / "log"
    assert harness.finish(stopped, [broken, turn, "two_views"], log) == 75, log.read_text()
    assert harness.finish(train, [broken], log) == 0, log.read_text()
    assert harness.differences(harness.final_state(whole), harness.final_state(broken)) == []
    assert harness.metrics(whole) == harness.metrics(broken)


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_as_one_that_was_not(whole, tmp_path):
    def check(folder):
        assert harness.differences(harness.final_state(whole), harness.final_state(folder)) == []
        assert harness.metrics(whole) == harness.metrics(folder)
        ours, theirs = (json.loads((d / "probes.json").read_text()) for d in (whole, folder))
        assert ours == theirs
        assert load_torch(whole / "1.pt")["results"] == load_torch(folder / "1.pt")["results"]
        assert not [p.name for p in folder.iterdir() if p.name.startswith(".")]

    report = harness.kill_and_resume(
        train, lambda d: [d], tmp_path, kills=8, seconds=(0.8, 4), check=check
    )
    assert report.kills == 8


@pytest.mark.slow
def test_ranks_of_which_one_gets_a_signal_end_as_those_that_did_not(tmp_path):
    log, folders = tmp_path / "log", [tmp_path / "whole", tmp_path / "broken"]
    ranks = harness.launch_ranks(stopped_on_rank_1, [folders[1]], log, 2)
    assert [harness.wait(p) for p in ranks] == [75, 75], log.read_text()
    for folder in folders:
        ranks = harness.launch_ranks(train, [folder], log, 2)
        assert [harness.wait(p) for p in ranks] == [0, 0], log.read_text()
    assert harness.differences(*(harness.final_state(d) for d in folders)) == []
    assert harness.metrics(folders[0]) == harness.metrics(folders[1])
    ours, theirs = (json.loads((d / "probes.json").read_text()) for d in folders)
    assert ours == theirs


def stopped_on_rank_1(run_dir):
    if os.environ["RANK"] == "1":
        stopped(run_dir, 2, "two_views")
    else:
        train(run_dir)


def test_probes_that_a_signal_ended_are_made_by_the_same_command(whole, tmp_path):
    broken, log = tmp_path / "broken", tmp_path / "log"
    assert (
        harness.finish(stopped, [broken, 0, "recipes.simclr.validation.augmented_probe"], log) == 75
    ), log.read_text()
    assert (broken / "1.pt").is_file() and not (broken / "probes.json").exists()
    assert harness.finish(train, [broken], log) == 0, log.read_text()
    said = log.read_text()
    assert re.search(r"validation: kNN [\d.]+ %, linear probe .* \(majority class [\d.]+ %\)", said)
    shares = [line["final/majority class"] for line in harness.metrics(broken) if LAST in line]
    assert len(shares) == 1 and 0 < shares[0] < 0.5
    ours, theirs = (json.loads((d / "probes.json").read_text()) for d in (whole, broken))
    assert ours == theirs
    assert harness.finish(train, [broken], log) == 0
    assert "figures are in" in log.read_text().removeprefix(said)
    assert harness.finish(train, [broken, "--no-probe"], log) == 0  # asked otherwise: made anew
    figures = json.loads((broken / "probes.json").read_text())["figures"]
    assert f"{KNN} acc1" in figures and not any(k.startswith("linear") for k in figures)


def test_probe_only_gives_the_figures_of_the_run(whole, tmp_path):
    for name in ("snapshots/1.safetensors", "1.pt"):
        folder, log = tmp_path / name.replace("/", "-"), tmp_path / "log"
        words = ["--probe_only", str(whole / name), "--crop_size", "16"]  # the network knows better
        assert harness.finish(train, [folder, *words], log) == 0, log.read_text()
        found = json.loads((folder / "probes.json").read_text())
        assert found["figures"] == json.loads((whole / "probes.json").read_text())["figures"]


def test_options_work_together(tmp_path):
    """Held-out splits, other losses, schedules and augmentations, episodes, exports."""
    words = (
        "--eval val --loss dclw --sigma 0.4 --temp 0.2 --lr_schedule google --opt lars "
        "--crop_size 24 --gaussian_blur 1 --exact_augs --probe_augs train --few_shot scenes/val "
        "--num_images 96 --wandb 0 --export_features --export_backbone"
    ).split()
    folder, log = tmp_path / "run", tmp_path / "log"
    assert harness.finish(train, [folder, *words], log) == 0, log.read_text()
    text = log.read_text()
    assert "views of 24 px: crop 0.08 to 1" in text and "blur of 3 taps with p 0.5" in text
    assert "classes are among train's" in text
    record = json.loads((folder / "probes.json").read_text())
    found = {k.removesuffix(" acc1") for k in record["figures"] if k.endswith(" acc1")}
    assert len(record["l2"]) == 1 and record["l2"][0] > 0
    assert "augmented(train, 1 epochs, standardised, h)" in found
    assert sum("way" in name for name in found) == 4 and len(found) == 2 + 1 + 1 + 4
    right = load_torch(folder / "right.pt")
    for name, rows in load_features(folder / "features" / "held.safetensors")._asdict().items():
        if name == "features":
            assert len(rows) == len(next(iter(right.values()))) == 96 and rows.shape[1] == 512
    state = load_torch(folder / "resnet18-torchvision.pt")
    assert state.keys() == small_backbone().state_dict().keys()
    snapshot = load_snapshot(folder / "snapshots" / "1.safetensors")
    assert (snapshot.provenance["step"], snapshot.provenance["nimg"]) == (12, 192)


def test_pooled_pictures_are_held_out(tmp_path):
    words = "--eval pooled --held_out 3 --num_images 64 --no-probe".split()
    folder, log = tmp_path / "run", tmp_path / "log"
    assert harness.finish(train, [folder, *words], log) == 0, log.read_text()
    right = load_torch(folder / "right.pt")
    assert {len(v) for v in right.values()} == {3 * len(CLASSES)}


def test_what_an_encoder_has_to_beat(tmp_path, monkeypatch):
    """The network as training begins it, and no network, by the same probes."""
    found = {}
    for word in ("untrained", "pixels"):
        log = tmp_path / "log"
        words = ["--probe_only", word, "--probe_epochs", "0", "--seed", "3"]
        assert harness.finish(train, [tmp_path / word, *words], log) == 0, log.read_text()
        found[word] = json.loads((tmp_path / word / "probes.json").read_text())
        assert {k.split("(")[0] for k in found[word]["figures"]} == {"knn", "linear"}
        layer = {"untrained": "h", "pixels": "pixels"}[word]
        assert all(f", {layer})" in k for k in found[word]["figures"])
        assert len(found[word]["l2"]) == 2  # folds
    monkeypatch.setattr(models.simclr, "build_backbone", small_backbone)
    args = get_args(None, [*TINY, "--seed", "3", "--run-dir", str(tmp_path / "run")])
    with Run(args, script="TrainSimCLR", name="init") as run:
        begins = fingerprint(parts.network(args, run.world_size))
    assert found["untrained"]["network"] == begins != found["pixels"]["network"]


def test_figures_asked_otherwise_are_made_anew(whole, tmp_path):
    """In one folder: there is no checkpoint that would refuse another seed."""
    folder, log = tmp_path / "probes", tmp_path / "log"
    for words, made in (("--seed 0", True), ("--seed 0", False), ("--seed 1", True)):
        log.write_text("")
        more = ["--probe_only", str(whole), *words.split(), "--no-probe"]
        assert harness.finish(train, [folder, *more], log) == 0, log.read_text()
        assert ("figures are in" not in log.read_text()) == made
        assert json.loads((folder / "probes.json").read_text())["asked"]["seed"] == int(words[-1])


RANKS = "--opt sgd --lars 0 --mm 0.9 --lr 0.01 --n_ramp 0 --precision fp32 --probe_epochs 0".split()


FOUR = pytest.param(4, marks=pytest.mark.slow)


@pytest.mark.parametrize("world", [2, FOUR])
def test_several_ranks_are_one(tmp_path, world):
    log = tmp_path / "log"
    one, many = tmp_path / "one", tmp_path / "many"
    assert harness.finish(train, [one, *RANKS], log) == 0, log.read_text()
    ranks = harness.launch_ranks(train, [many, *RANKS], log, world)
    assert [harness.wait(p) for p in ranks] == [0] * world, log.read_text()
    a, b = metrics(one, "loss_tr"), metrics(many, "loss_tr")
    assert sorted(a) == sorted(b) == list(range(1, 9))
    off = [abs(a[k] - b[k]) / a[k] for k in sorted(a)]
    assert off[0] < 1e-6 and max(off) < 1e-5  # rounding grows on the way
    assert metrics(one, "contrastive_top1") == pytest.approx(metrics(many, "contrastive_top1"))
    a, b = harness.final_state(one)["model"], harness.final_state(many)["model"]
    assert max(float((a[k] - b[k]).abs().max()) for k in a) < 1e-5
    a, b = (json.loads((d / "probes.json").read_text())["figures"] for d in (one, many))
    assert a.keys() == b.keys() and abs(a[f"{KNN} acc1"] - b[f"{KNN} acc1"]) < 0.05


@pytest.mark.slow
def test_without_synchronised_statistics_ranks_are_not_one(tmp_path):
    log = tmp_path / "log"
    one, many = tmp_path / "one", tmp_path / "many"
    assert harness.finish(train, [one, *RANKS, "--epochs", "1"], log) == 0
    ranks = harness.launch_ranks(train, [many, *RANKS, "--epochs", "1", "--no-sync_bn"], log, 2)
    assert [harness.wait(p) for p in ranks] == [0, 0], log.read_text()
    a, b = metrics(one, "loss_tr"), metrics(many, "loss_tr")
    assert max(abs(a[k] - b[k]) for k in a) > 1e-5


def test_a_mapped_file_gives_the_same_run(whole, tmp_path):
    folder, log = tmp_path / "mapped", tmp_path / "log"
    words = ["--place", "memmap", "--data_path", str(tmp_path / "data")]
    assert harness.finish(train, [folder, *words], log) == 0, log.read_text()
    assert list((tmp_path / "data" / "uint8").glob("*/pixels.u8"))
    assert harness.differences(harness.final_state(whole), harness.final_state(folder)) == []
    assert harness.metrics(whole) == harness.metrics(folder)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("--bs 128", 2, "--bs 128: scenes has 64 pictures"),
        ("--head none", 2, "proj_dim is 8, but without a head"),
        ("--opt lars --lars_semantics bolts --wd 0", 2, "semantics 'bolts'"),
        ("--folds 60", 2, "pictures, too few for --folds 60"),
        ("--num_images 24 --folds 2", 2, "outside of a fold, and l2 is chosen on one; --no-probe"),
        ("--data scenes/val --eval val", 6, "scenes/val is the split val itself"),
        ("--few_shot scenes/test", 6, "scenes has splits train and val"),
        ("--probe_only nowhere", 3, "--probe_only nowhere: no such file"),
        ("--probe_only pixels --export_backbone", 2, "pixels has no backbone"),
    ],
)
def test_what_shows_only_later_is_one_line_too(tmp_path, words, code, says):
    log, folder = tmp_path / "log", tmp_path / "run"
    assert harness.finish(train, [folder, *words.split()], log) == code
    said = [line for line in log.read_text().splitlines() if "error" in line.lower()]
    assert len(said) == 1 and says in said[0], log.read_text()
    assert not folder.exists()


def test_a_set_without_classes_is_trained_on_and_not_probed(tmp_path):
    log, folder = tmp_path / "log", tmp_path / "run"
    assert harness.finish(unlabelled, [folder], log) == 0, log.read_text()
    assert log.read_text().count("has no classes: no kNN and no probes") == 1
    assert len(metrics(folder, "loss_tr")) == 4 and not metrics(folder, "acc_val")


def unlabelled(run_dir):
    parts.splits = lambda args, say: (Coloured("plain", ["images"]), None)
    train(run_dir, "--bs", "2", "--epochs", "2", "--num_images", "4")
