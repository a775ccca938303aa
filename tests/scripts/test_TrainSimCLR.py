"""TrainSimCLR.py: runs, resumes bit-exactly in mid epoch, refuses what cannot be."""

import os

import pytest

from runtime.snapshot import load_snapshot
from tests import kill_harness as harness
from tests.scripts.support import load, metrics

TINY = "--preset smoke --num_images 64 --bs 16 --log_every 1 --save_every 2".split()


def train(run_dir, *words):
    """One launch; module-level, for the fork harness."""
    script = load("TrainSimCLR")
    script.main(script.get_args([*TINY, "--run-dir", str(run_dir), *words]))


def stopped(run_dir, step):
    script = load("TrainSimCLR")
    turns, whole = iter(range(10**6)), script.two_views

    def counted(*args):
        if next(turns) == step:
            os.kill(os.getpid(), 15)
        return whole(*args)

    script.two_views = counted
    train(run_dir)


def test_a_run_stopped_in_mid_epoch_ends_as_one_that_was_not(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert harness.finish(train, [whole], tmp_path / "log") == 0, (tmp_path / "log").read_text()
    assert harness.finish(stopped, [broken, 4], tmp_path / "log") == 75
    assert harness.finish(train, [broken], tmp_path / "log") == 0
    assert harness.differences(harness.final_state(whole), harness.final_state(broken)) == []
    assert harness.metrics(whole) == harness.metrics(broken)
    assert sorted(metrics(whole, "loss_tr")) == list(range(1, 9))
    assert "eval/knn(k=20, T=0.07, h) acc1" in (whole / "metrics.jsonl").read_text()
    snapshot = load_snapshot(whole / "snapshots" / "1.safetensors")
    script = load("TrainSimCLR")
    script.SimCLR(**snapshot.config["net"]).load_state_dict(snapshot.state_dict)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--gpus 0 1 --bs 33", "cannot be shared by 2 GPUs"),
        ("--epochs 3 --n_ramp 4", "longer than --epochs 3"),
        ("--temp 0", "out of range"),
        ("--recipe nothing", "invalid choice"),
    ],
)
def test_wrong_options_are_one_line(words, says, capsys):
    with pytest.raises(SystemExit, match="2"):
        load("TrainSimCLR").get_args(words.split())
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and says in said[0]
