"""Every training script goes on when its run is asked to be longer, killed in between or not."""

import json
import os
import shutil
import signal

import pytest
import torch

from recipes.imle.parts import lr_factor
from recipes.isicle.options import imle_options
from recipes.simclr.parts import learning_rate
from runtime.run import Run
from tests import kill_harness as harness
from tests.scripts import simclr_support, support, test_train_edm2, test_TrainISICLE
from tests.scripts import test_toy_example as toy
from tests.scripts.support import get_args, load, metrics

IMLE_JOINT = test_TrainISICLE.JOINT
LONG, LONGER = ("--outer_loops", "2"), ("--outer_loops", "3")


@pytest.fixture(scope="module", autouse=True)
def light():
    """One thread and a small encoder."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with simclr_support.light():
        yield
    torch.set_num_threads(before)


def same(a, b):
    found = harness.differences(harness.final_state(a), harness.final_state(b))
    assert not [name for name in found if not name.startswith(".journal.seconds")]
    assert harness.metrics(a) == harness.metrics(b)


@pytest.fixture
def killed(monkeypatch):
    """killed(at): whatever trains next gets a SIGTERM in that step, once."""
    original, due = Run.backward, []

    def backward(self, *args, **options):
        if due and self.completed == due[0]:
            due.clear()
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *args, **options)

    monkeypatch.setattr(Run, "backward", backward)
    return due.append


def longer_in_two_launches(short, folder, train, killed, at):
    """The runs that go on from a copy of `short`: in one launch, and killed in step `at`."""
    for name in ("one", "two"):
        shutil.copytree(short, folder / name)
    train(folder / "one")
    killed(at)
    with pytest.raises(SystemExit) as stop:
        train(folder / "two")
    assert stop.value.code == 75
    train(folder / "two")
    same(folder / "one", folder / "two")
    return folder / "one"


# -------------------------------------------------------------------------------------------- IMLE


@pytest.fixture(scope="module")
def imle(tmp_path_factory):
    """Two loops of four steps."""
    folder = tmp_path_factory.mktemp("imle") / "run"
    support.train(folder, *LONG)
    return folder


def imle_rates(run, loops, first=0):
    """The learning rates that the schedule over so many loops has, by completed steps."""
    args = get_args(load("TrainGeneratorWandB"), support.TINY)
    factor = lr_factor(args, loops * 4)
    return {step + 1: args.lr * factor(step) for step in range(first, 12)}


def test_imle_goes_on_and_recomputes_its_schedule(imle, tmp_path, killed, capsys):
    run = longer_in_two_launches(imle, tmp_path, lambda d: support.train(d, *LONGER), killed, at=10)
    rates = metrics(run, "learning rate")
    before = metrics(imle, "learning rate")
    assert rates == pytest.approx(before | imle_rates(run, 3, first=8))
    out = capsys.readouterr().out
    assert "length (outer_loops): 2 before, 3 now" in out
    assert "its schedule is over --outer_loops 3 from here on, not 2: 0.00075 in the next" in out
    assert out.count("its schedule is over") == 2  # not again where a killed launch goes on


def test_imle_keeps_its_schedule(imle, tmp_path, killed, capsys):
    words = (*LONGER, "--keep_schedule")
    run = longer_in_two_launches(imle, tmp_path, lambda d: support.train(d, *words), killed, at=10)
    rates = metrics(run, "learning rate")
    assert all(rates[step] == 0 for step in range(9, 13)) and rates[8] > 0
    assert "which has come to 0: nothing is learnt" in capsys.readouterr().out


def test_imle_of_a_constant_rate_is_as_one_long_run(tmp_path):
    words = ("--lr_schedule", "constant")
    support.train(tmp_path / "short", *words, *LONG)
    support.train(tmp_path / "short", *words, *LONGER)
    support.train(tmp_path / "long", *words, *LONGER)
    same(tmp_path / "short", tmp_path / "long")


def test_imle_goes_on_in_the_folder_that_its_options_name(tmp_path, capsys):
    script = load("TrainGeneratorWandB")

    def launch(*words):
        script.main(get_args(script, [*support.TINY, "--results_path", str(tmp_path), *words]))
        return sorted(p.name for p in (tmp_path / "TrainGeneratorWandB").iterdir())

    (first,) = launch("--outer_loops", "1")
    assert launch("--outer_loops", "2") == [first]
    assert f"going on with {first}, the same run but for its length" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        launch("--outer_loops", "1")
    assert stop.value.code == 0
    assert "8 steps are done, more than the 4 that are asked for" in capsys.readouterr().out


# ----------------------------------------------------------------------------------- SimCLR, ISICLE


@pytest.mark.parametrize("schedule", ["cosine", "google", "original"])
def test_simclr_goes_on(tmp_path, killed, schedule, capsys):
    words = ("--lr_schedule", schedule)
    if schedule != "cosine":
        words = (*words, "--no-probe")
    simclr_support.train(tmp_path / "short", "--epochs", "2", *words)
    probed = json.loads((tmp_path / "short" / "probes.json").read_text())
    run = longer_in_two_launches(
        tmp_path / "short",
        tmp_path,
        lambda d: simclr_support.train(d, "--epochs", "3", *words),
        killed,
        at=10,
    )
    args = simclr_support.options(*words)
    want = {s + 1: learning_rate(args, s, 4, 2 if s < 8 else 3) for s in range(12)}
    assert metrics(run, "lr") == pytest.approx(want)
    assert "its schedule is over --epochs 3 from here on, not 2" in capsys.readouterr().out
    again = json.loads((run / "probes.json").read_text())  # of the new weights
    assert again["network"] != probed["network"] and again["step"] == 12
    assert (run / "snapshots" / "2.safetensors").exists()


def test_simclr_keeps_its_schedule_at_its_end(tmp_path):
    words = ("--no-probe", "--lr_schedule", "original")
    simclr_support.train(tmp_path, "--epochs", "2", *words)
    simclr_support.train(tmp_path, "--epochs", "4", "--keep_schedule", *words)
    rates = metrics(tmp_path, "lr")
    assert rates[8] > 0 and {rates[step] for step in range(8, 17)} == {rates[8]}


@pytest.fixture
def isicle_set(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("data") / "set"
    test_TrainISICLE.make_set(folder, {"train": {"a": 13, "b": 13}})
    monkeypatch.setenv("ISICLE_TEST_SET", str(folder))


def test_isicle_goes_on_with_its_generator(isicle_set, tmp_path, killed):
    """Both cosines, and the share of synthetic views, are over the new length from there on."""
    words = (*IMLE_JOINT, "--f", "0:1")
    train = test_TrainISICLE.train
    train(tmp_path / "short", *words, "--epochs", "2")  # 2 x (3 of the generator, 3 of the encoder)
    run = longer_in_two_launches(
        tmp_path / "short", tmp_path, lambda d: train(d, *words, "--epochs", "3"), killed, at=16
    )
    args = get_args(load("TrainISICLE"), ["--data", "x", *test_TrainISICLE.COMMON, *words])
    own = imle_options(args)
    over = {epochs: lr_factor(own, epochs * 3) for epochs in (2, 3)}
    generator = {t: own.lr * over[2](n) for n, t in enumerate((1, 2, 3, 7, 8, 9))}
    generator |= {t: own.lr * over[3](n) for n, t in enumerate((13, 14, 15), start=6)}
    assert metrics(run, "imle/learning rate") == pytest.approx(generator)
    encoder = {t: learning_rate(args, n, 3, 2) for n, t in enumerate((4, 5, 6, 10, 11, 12))}
    encoder |= {t: learning_rate(args, n, 3, 3) for n, t in enumerate((16, 17, 18), start=6)}
    assert metrics(run, "lr") == pytest.approx(encoder)
    assert metrics(run, "synthetic")[18] == 1  # --f has come to its end


# --------------------------------------------------------------------------------------- EDM2, toy


def test_edm2_goes_on(tmp_path, killed, capsys):
    train = test_train_edm2.train
    train(tmp_path / "short", "--duration", "160")
    run = longer_in_two_launches(
        tmp_path / "short", tmp_path, lambda d: train(d, "--duration", "320"), killed, at=6
    )
    assert "length (duration): 160 before, 320 now" in capsys.readouterr().out
    assert sorted(metrics(run, "Learning rate")) == list(range(1, 9))
    train(tmp_path / "whole", "--duration", "320")
    same(run, tmp_path / "whole")  # its learning rate does not know how long a run is
    with pytest.raises(SystemExit) as stop:
        train(run, "--duration", "200")
    assert stop.value.code == 0
    assert "8 steps are done, more than the 5 that are asked for" in capsys.readouterr().out
    train(run, "--duration", "310")  # 320 are as near as steps of 40 come
    assert "finished: 8 of 8 steps" in capsys.readouterr().out


def test_the_toy_goes_on(tmp_path, killed, capsys):
    toy.train(tmp_path / "short", "--total-iter", "4")
    run = longer_in_two_launches(
        tmp_path / "short", tmp_path, lambda d: toy.train(d, "--total-iter", "8"), killed, at=6
    )
    toy.train(tmp_path / "whole", "--total-iter", "8")
    found = harness.differences(harness.final_state(run), harness.final_state(tmp_path / "whole"))
    assert not [name for name in found if not name.startswith(".journal")]
    with pytest.raises(SystemExit) as stop:
        toy.train(run, "--total-iter", "4")
    assert stop.value.code == 0
