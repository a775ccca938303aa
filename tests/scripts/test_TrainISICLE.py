"""TrainISICLE.py: SimCLR bit for bit without synthetic views; every source of views, resumed and on
several ranks; what cannot be is refused."""

import os

import pytest
import torch

from imle import CAMNet
from storage.errors import CheckpointError, UsageError
from storage.snapshot import load_snapshot, save_snapshot
from tests import gloo
from tests import kill_harness as harness
from tests.data.pictures import make_set
from tests.scripts import simclr_support
from tests.scripts.support import get_args, load, metrics

COMMON = (
    "--num_images 24 --bs 8 --epochs 2 --crop_size 8 --proj_hidden 16 --n_ramp 1 --stem standard "
    "--eval cv --folds 2 --eval_iter 2 --save_iter 2 --probe False --color_s 0.5 --log_every 1 "
    "--save_every 100 --num_workers 0 --wandb disabled --gpus cpu"
).split()
NET = {"res": [4, 8], "map_nc": 4, "latent_nc": 8, "resid_nc": [6], "dense_nc": [4], "n_blocks": 1}
JOINT = [
    *"--crop_size 16 --joint 1 --imle_steps 3 --imle".split(),
    "--preset smoke --res 8 16 --resid_nc 6 --dense_nc 4 --map_nc 4 --latent_nc 8 --bs 4 "
    "--mini_bs 2 --ns 2 --sp 2 --code_bs 4 --subsample_size 4",
]


@pytest.fixture(scope="module", autouse=True)
def light():
    """One thread and a small encoder."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with simclr_support.light():
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    """A small generator, untrained, whose draws differ."""
    torch.manual_seed(3)
    model = CAMNet(**NET)
    config = {
        "net": model.config,
        "codes": {"method": "normal", "num_components": 5},
        "corruption": {"grayscale": 0, "mask_res": 2, "mask_frac": 0.25, "fill": "zero"},
        "crop": "center",
    }
    file = tmp_path_factory.mktemp("net") / "net.safetensors"
    return str(save_snapshot(file, model.state_dict(), "camnet", config, {}))


@pytest.fixture(scope="module", autouse=True)
def pictures(tmp_path_factory):
    """26 pictures of two classes; runs train on 24 of them."""
    folder = tmp_path_factory.mktemp("data") / "set"
    os.environ["ISICLE_TEST_SET"] = str(make_set(folder, {"train": {"a": 13, "b": 13}}))
    yield folder
    del os.environ["ISICLE_TEST_SET"]


def train(run_dir, *words, name="TrainISICLE"):
    """One launch; module-level, for processes of its own."""
    script, data = load(name), os.environ["ISICLE_TEST_SET"]
    words = [*words, "--view_batch", "8"] if name == "TrainISICLE" else words
    words = ["--data", data, *COMMON, "--run-dir", str(run_dir), *words]
    with simclr_support.light():
        script.main(get_args(script, words))
    return run_dir


def stop(run_dir, turn, *words):
    """A launch that gets a signal in turn `turn`."""
    script = load("TrainISICLE")
    whole = script.Turns.at

    def at(self, number):
        if number == turn:
            os.kill(os.getpid(), 15)
        return whole(self, number)

    script.Turns.at = at
    try:
        with pytest.raises(SystemExit, match="75"):
            train(run_dir, *words)
    finally:
        script.Turns.at = whole


def stop_and_resume(run_dir, turn, *words):
    """A signal in turn `turn`, then the same command again."""
    stop(run_dir, turn, *words)
    return train(run_dir, *words)


def same(a, b):
    assert harness.differences(harness.final_state(a), harness.final_state(b)) == []
    assert harness.metrics(a) == harness.metrics(b)


def test_real_real_is_simclr_bit_for_bit(tmp_path):
    ours = train(tmp_path / "ours", "--pair", "real-real")
    theirs = train(tmp_path / "theirs", name="TrainSimCLR")
    assert metrics(ours, "loss_tr") == metrics(theirs, "loss_tr")
    assert len(metrics(ours, "loss_tr")) == 6
    states = [harness.final_state(d) for d in (ours, theirs)]
    assert harness.differences(*states) == []
    a, b = (load_snapshot(d / "snapshots" / "1.safetensors") for d in (ours, theirs))
    assert harness.differences(a.state_dict, b.state_dict) == [] and a.config == b.config


@pytest.mark.parametrize(
    ("words", "share", "resumed"),
    [
        ("--pair synth-synth --augs none --code random", 1.0, False),
        ("--pair mixed --f 0:1 --augs crop+flip", None, True),
        ("--pair multi --num_synth 2 --temperature 0.7 --truncation 2", 2 / 3, False),
        ("--pair real-synth --domain_bn --view_source upsampled", 0.5, True),
    ],
)
def test_every_pair_trains_and_resumes(words, share, resumed, net, tmp_path):
    words = ["--net", net, *words.split()]
    whole = train(tmp_path / "whole", *words)
    if resumed:
        same(whole, stop_and_resume(tmp_path / "broken", 4, *words))
    losses, shares = metrics(whole, "loss_tr"), metrics(whole, "synthetic")
    assert all(0 < v < 20 for v in losses.values())
    if share is None:  # 0 in the first epoch, 1 in the last
        assert list(shares.values()) == [0, 0, 0, 1, 1, 1]
    else:
        assert list(shares.values()) == pytest.approx([share] * 6)
    timed = metrics(whole, "time/ms_per_view")
    assert set(timed) == {step for step, value in shares.items() if value}
    assert any((whole / "samples").glob("views-*.png"))
    # what is for use is a plain SimCLR, whatever the norms were
    snapshot = load_snapshot(whole / "snapshots" / "1.safetensors")
    model = load("TrainSimCLR").SimCLR(**snapshot.config["net"])
    model.load_state_dict(snapshot.state_dict)


def test_other_views_give_other_losses(net, tmp_path):
    """Each option reaches the views; the filter counts."""
    found = {}
    for name, words in {
        "random": "",
        "fixed": "--code fixed",
        "upsampled": "--view_source upsampled",
        "filtered": "--crop_size 16 --lpips random --lpips_min 1e-4 --lpips_max 0.01 --tries 2",
    }.items():
        command = ["--net", net, *"--pair synth-synth --epochs 1 --n_ramp 0 --num_images 8".split()]
        run_dir = train(tmp_path / name, *command, *words.split())
        found[name] = metrics(run_dir, "loss_tr")[1]
    assert len(set(found.values())) == 4
    accepted = metrics(tmp_path / "filtered", "acceptance")
    assert set(accepted) == {1} and 0 <= accepted[1] <= 1
    assert set(metrics(tmp_path / "filtered", "stood_in")) == {1}
    log = (tmp_path / "filtered" / "log.txt").read_text()
    assert "the filter takes" in log and "8 px: views of 16 px are enlarged" in log


def test_a_filter_on_refreshed_views_counts_once(net, tmp_path):
    """A resumed run draws again what it had, and says nothing of it twice."""
    words = ["--net", net, *"--crop_size 16 --refresh 2 --k 2 --lpips random".split()]
    words += "--lpips_min 1e-4 --lpips_max 0.01 --tries 2 --num_images 16".split()
    whole = train(tmp_path / "whole", *words)
    same(whole, stop_and_resume(tmp_path / "broken", 3, *words))
    assert set(metrics(whole, "acceptance")) == {1}
    with pytest.raises(UsageError, match="VGG16 sees no views below 16 px, these have 8"):
        train(tmp_path / "small", "--net", net, "--lpips", "random", "--lpips_min", "0.01")


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", ["--pair multi", "--pair multi --domain_bn --reduce in", "--f 1:0 --k 2 --refresh 1"]
)
def test_others_resume_too(words, net, tmp_path):
    words = ["--net", net, *words.split()]
    same(train(tmp_path / "whole", *words), stop_and_resume(tmp_path / "broken", 4, *words))


def test_a_run_does_not_go_on_with_another_generator(net, tmp_path):
    snapshot, file = load_snapshot(net), tmp_path / "net.safetensors"
    save_snapshot(file, *snapshot)
    stop(tmp_path / "run", 4, "--net", str(file))
    other = {k: 2 * v for k, v in snapshot.state_dict.items()}
    save_snapshot(file, other, *snapshot[1:])
    with pytest.raises(CheckpointError, match="has changed since this run began"):
        train(tmp_path / "run", "--net", str(file))
    save_snapshot(file, *snapshot)
    train(tmp_path / "run", "--net", str(file))
    assert len(metrics(tmp_path / "run", "loss_tr")) == 6


def test_refreshed_views_are_those_of_a_folder_until_they_are_drawn_anew(net, pictures, tmp_path):
    views = tmp_path / "views"
    words = f"--net {net} --data {pictures} --size 8 --views 3 --format memmap --out {views}"
    script = load("generate_views")
    script.main(script.get_args(None, f"{words} --view_batch 8 --gpus cpu".split()))
    cached = train(tmp_path / "cached", "--views", "cache", "--cache", str(views))
    once = train(tmp_path / "once", "--net", net, "--refresh", "2", "--k", "3")
    assert metrics(cached, "loss_tr") == metrics(once, "loss_tr")

    # one view of each, or one code for all draws: without augmentation nothing to learn from
    for name, more in (
        ("one", "--views 1"),
        ("fixed", "--code fixed"),
        ("cold", "--temperature 0"),
    ):
        folder = tmp_path / name
        again = words.replace(str(views), str(folder))
        script.main(script.get_args(None, f"{again} {more} --view_batch 8 --gpus cpu".split()))
        pair = ["--pair", "synth-synth", "--augs", "none", "--views", "cache"]
        with pytest.raises(UsageError, match="two equal views teach nothing"):
            train(tmp_path / f"{name}-run", *pair, "--cache", str(folder))

    words = ["--net", net, "--refresh", "1", "--k", "3"]
    anew = train(tmp_path / "anew", *words)
    first, second = metrics(once, "loss_tr"), metrics(anew, "loss_tr")
    assert [first[s] == second[s] for s in range(1, 7)] == [True] * 3 + [False] * 3
    same(anew, stop_and_resume(tmp_path / "broken", 4, *words))


@pytest.mark.parametrize(  # in a phase, in an epoch, and so again
    "turn", [*(pytest.param(t, marks=pytest.mark.slow) for t in (1, 4, 7)), 10]
)
def test_joint_training_resumes(turn, joint_run, tmp_path):
    same(joint_run, stop_and_resume(tmp_path / "broken", turn, *JOINT))


@pytest.fixture(scope="module")
def joint_run(tmp_path_factory):
    return train(tmp_path_factory.mktemp("joint") / "run", *JOINT)


def test_joint_training_trains_the_generator_in_its_phases_alone(joint_run):
    imle = metrics(joint_run, "imle/batch loss")
    assert set(imle) == {1, 2, 3, 7, 8, 9}  # three turns before each epoch of three
    assert set(metrics(joint_run, "loss_tr")) == {4, 5, 6, 10, 11, 12}
    assert set(metrics(joint_run, "imle/search loss")) == {1, 7}
    start, end = (
        load_snapshot(joint_run / "snapshots" / f"generator-{n}.safetensors").state_dict
        for n in ("initial", "latest")
    )
    assert harness.differences(start, end)
    state = harness.final_state(joint_run)
    # the encoder's last epoch left the generator as its last phase made it
    steps = {int(s["step"]) for s in state["generator_optimizer"]["state"].values()}
    assert steps == {6}


def test_joint_training_goes_on_from_a_snapshot_and_refreshes(joint_run, tmp_path):
    words = [*JOINT, "--net", str(joint_run), "--refresh", "1", "--k", "2"]
    whole = train(tmp_path / "whole", *words)
    assert not (whole / "snapshots" / "generator-initial.safetensors").exists()
    said = (whole / "log.txt").read_text()
    assert "--imle: --res, --resid_nc, --dense_nc, --map_nc, --latent_nc have no influence" in said
    assert said.count(f"{joint_run}: taking {joint_run / 'snapshots'}") == 1
    same(whole, stop_and_resume(tmp_path / "broken", 10, *words))


def test_joint_training_chooses_noise_cell_by_cell(tmp_path):
    words = [*JOINT[:-1], f"{JOINT[-1]} --cells 4 --local_ns 3", "--epochs", "1"]
    gains = metrics(train(tmp_path / "run", *words), "imle/search/cells_gain_0")
    assert set(gains) == {1} and 0 < gains[1] < 1


def losses_of_ranks(run_dir, words):
    train(run_dir, *words)


@pytest.mark.parametrize("words", ["", "--refresh 1 --k 2 --domain_bn"])
def test_two_processes_are_one(words, net, tmp_path):
    # SGD, since Adam would make whole steps of rounding errors.
    words = f"--net {net} --epochs 1 --n_ramp 0 --opt sgd --lars 0 --lr 0.03 {words}".split()
    one = train(tmp_path / "one", *words)
    gloo.run(2, losses_of_ranks, tmp_path / "two", words, join=False)
    a, b = (metrics(d, "loss_tr") for d in (one, tmp_path / "two"))
    assert [*a.values()] == pytest.approx([*b.values()], abs=1e-5)
    shares = (metrics(d, "synthetic") for d in (one, tmp_path / "two"))
    assert len({tuple(s.values()) for s in shares}) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_batch_ahead_on_a_gpu_is_the_batch(net, tmp_path):
    words = ["--net", net, "--gpus", "0", "--deterministic"]
    script = load("TrainISICLE")
    with_it = train(tmp_path / "with", *words)
    script.Ahead.start, kept = lambda self, step: None, script.Ahead.start
    try:
        without = train(tmp_path / "without", *words)
    finally:
        script.Ahead.start = kept
    assert metrics(with_it, "loss_tr") == metrics(without, "loss_tr")


@pytest.mark.slow
def test_the_smoke_preset(tmp_path):
    script = load("TrainISICLE")
    script.main(get_args(script, ["--preset", "smoke", "--run-dir", str(tmp_path / "run")]))
    assert len(metrics(tmp_path / "run", "imle/search loss")) == 2
