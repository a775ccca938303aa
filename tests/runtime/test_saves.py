"""Run: what is saved by the clock, what status.json says, what is told of steps that are lost."""

import os
import shutil
import time

import pytest

from runtime.clock import SHARE, Every
from tests import kill_harness as harness
from tests.runtime import toy
from tests.runtime.runs import status, steps_in
from tests.runtime.test_run_failures import run_ranks
from tests.runtime.toy import toy_args, train

pytestmark = pytest.mark.usefixtures("one_thread", "no_fsync")
OFTEN = 1e-6  # minutes


def test_every():
    now = [0.0]
    timer = Every(10, lambda: now[0])
    now[0] = 9.9
    assert not timer.due()
    now[0] = 10.0
    assert timer.due() and timer.due()
    timer.restart(cost=2.0)
    now[0] += 2 * SHARE - 0.1
    assert not timer.due()
    now[0] += 0.2
    assert timer.due()
    timer.restart()
    now[0] += 10
    assert timer.due()
    never = Every(0, lambda: now[0])
    now[0] += 1e9
    assert not never.due()


class Stop(Exception):
    pass


def die(at):
    def hook(run, step, loss):
        if step == at:
            raise Stop  # as a kill: nothing is saved
        return loss

    return hook


def test_a_killed_run_goes_on_from_a_save_by_the_clock(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("runtime.clock.SHARE", 0)
    options = {"save_every": 1000, "save_minutes": OFTEN}
    with pytest.raises(Stop):
        train(toy_args(tmp_path, **options), hook=die(30))
    run = train(toy_args(tmp_path, **options), stop_at=31)
    assert "resumed step 30" in capsys.readouterr().out
    assert steps_in(run)[-1] == 31


def test_saving_by_the_clock_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("runtime.clock.SHARE", 0)
    never = train(toy_args(tmp_path / "never", save_every=1000, save_minutes=0))
    assert steps_in(never) == [40]
    saved = []

    def hook(run, step, loss):
        saved.extend(steps_in(run)[-1:])
        return loss

    often = train(toy_args(tmp_path / "often", save_every=1000, save_minutes=OFTEN), hook=hook)
    assert len(set(saved)) > 30
    found = harness.differences(harness.final_state(never.dir), harness.final_state(often.dir))
    assert not found, found
    assert harness.metrics(never.dir) == harness.metrics(often.dir)


def test_a_timed_save_that_the_disk_refuses_is_tried_again_later(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("IMLE_LAB_FAILPOINT", "pre-write=ENOSPC")
    run = train(toy_args(tmp_path, save_every=1000, save_minutes=OFTEN))
    assert "(1/3)" in capsys.readouterr().out
    assert run.finished and steps_in(run)[-1] == 40


def clocks_that_differ(root, changes, more):
    """By rank 1's own clock a save is due after every step, by rank 0's after a slow one."""

    def hook(run, step, loss):
        if run.rank:
            run._save_timer = Every(1e-9)
        elif step == 3:
            time.sleep(0.5)
        return loss

    toy.train(toy_args(root, **changes), hook=hook)


def test_two_ranks_save_the_same_step(tmp_path):
    changes = {"save_every": 1000, "save_minutes": 0.4 / 60, "results_path": str(tmp_path)}
    args = (tmp_path, changes | {"run_dir": str(tmp_path / "a"), "total": 12}, {})
    log = tmp_path / "log.txt"
    codes = [harness.wait(p, 60) for p in harness.launch_ranks(clocks_that_differ, args, log, 2)]
    assert codes == [0, 0], log.read_text()
    said = (tmp_path / "a" / "log.txt").read_text()
    assert "saved step 4 in" in said and said.count("saved step") < 6
    codes, out = run_ranks(tmp_path, "b", {})
    assert codes == [0, 0], out
    found = harness.differences(
        harness.final_state(tmp_path / "a"), harness.final_state(tmp_path / "b")
    )
    assert not found, found


def test_the_log_says_how_far_an_earlier_launch_got(tmp_path, capsys):
    options = {"save_every": 1000, "save_minutes": 0, "log_every": 4}
    with pytest.raises(Stop):
        train(toy_args(tmp_path, **options), hook=die(30))
    capsys.readouterr()
    run = train(toy_args(tmp_path, **options), stop_at=1)
    said = capsys.readouterr().out
    assert "an earlier launch got to step 30" in said and "begins at step 0" in said
    assert "--save_every 1000, --save_minutes 0" in said
    assert "an earlier launch" in (run.dir / "log.txt").read_text()
    with pytest.raises(Stop):
        train(toy_args(tmp_path, **options), hook=die(9))
    train(toy_args(tmp_path, **options), stop_at=10)
    assert "got to step 9, but no later checkpoint is there: this one goes on from step 1" in (
        capsys.readouterr().out
    )


def test_nothing_is_said_where_nothing_is_lost(tmp_path, capsys):
    train(toy_args(tmp_path), stop_at=7)
    train(toy_args(tmp_path))
    train(toy_args(tmp_path))
    assert "an earlier launch" not in capsys.readouterr().out


def test_steps_of_a_hard_kill_are_known_from_the_figures(tmp_path, capsys):
    """A process that is killed writes no last status; the newest line of figures tells."""
    run = train(toy_args(tmp_path, total=12, save_every=1000, save_minutes=0), stop_at=12)
    shutil.rmtree(run.checkpoints)
    (run.dir / "status.json").write_text('{"state": "running", "step": 0}')
    train(toy_args(tmp_path, total=12, save_every=1000, save_minutes=0), stop_at=1)
    assert "got to step 12" in capsys.readouterr().out


def test_status_is_fresh(tmp_path, monkeypatch):
    monkeypatch.setattr("runtime.run._STATUS_S", 1e-9)
    monkeypatch.setattr("runtime.clock.SHARE", 0)
    seen = []

    def hook(run, step, loss):
        found = status(run)
        seen.append((found["state"], found["step"], found["nimg"]))
        return loss

    train(toy_args(tmp_path, save_every=1000, log_every=10), hook=hook)
    assert seen == [("running", step, 8 * step) for step in range(40)]


def test_status_is_not_written_in_every_step(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(
        "runtime.rundir.RunDir.write_status", lambda self, *a, **k: written.append(k["step"])
    )
    train(toy_args(tmp_path, save_every=1000, save_minutes=0))
    assert len(written) == 4  # of the launch, of the loop, with the last save, at the end


def test_a_fresh_status_does_not_wait_for_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("runtime.run._STATUS_S", 1e-9)
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda fd: flushed.append(fd))
    train(toy_args(tmp_path / "a", save_every=1000, save_minutes=0))
    often = len(flushed)
    monkeypatch.setattr("runtime.run._STATUS_S", 1e9)
    train(toy_args(tmp_path / "b", save_every=1000, save_minutes=0))
    assert len(flushed) == 2 * often


@pytest.mark.parametrize(("keep", "during", "after"), [(1, 2, 1), (3, 3, 3), (0, 7, 8)])
def test_how_many_checkpoints_stay(tmp_path, keep, during, after):
    """While a run goes on there is one to fall back to; when it is done, what was asked for."""
    most = []

    def hook(run, step, loss):
        most.append(len(steps_in(run)))
        return loss

    run = train(toy_args(tmp_path, keep=keep), hook=hook)
    assert max(most) == during and len(steps_in(run)) == after
    assert steps_in(run)[-1] == 40


def test_a_run_that_stops_short_keeps_one_to_fall_back_to(tmp_path, capsys):
    run = train(toy_args(tmp_path), stop_at=20)
    assert steps_in(run) == [15, 20]
    (run.checkpoints / "step-000000020" / "net.pt").write_bytes(b"damaged")
    assert train(toy_args(tmp_path)).finished
    assert "resumed step 15" in capsys.readouterr().out


def test_milestones_that_go_are_told_once(tmp_path, monkeypatch, capsys):
    """As in a run of an older version, which has kept more than there is room for."""
    run = train(toy_args(tmp_path), stop_at=20, milestone_every=2)
    assert steps_in(run) == list(range(2, 21, 2))
    capsys.readouterr()
    size = sum(f.stat().st_size for f in (run.checkpoints / "step-000000020").iterdir())
    monkeypatch.setattr("storage.checkpoint.MILESTONE_BYTES", 3 * size)
    train(toy_args(tmp_path, keep=0), stop_at=21, milestone_every=2)
    assert "deleted" not in capsys.readouterr().out and len(steps_in(run)) == 11
    train(toy_args(tmp_path), stop_at=28, milestone_every=2)
    said = capsys.readouterr().out
    assert said.count("deleted") == 1 and "--keep 0 keeps all" in said
    assert "ends of loops at 8 steps from 2 to 16" in said and "as many as fit into" in said
    assert (run.dir / "log.txt").read_text().count("deleted") == 1
    train(toy_args(tmp_path), stop_at=30, milestone_every=2)
    assert capsys.readouterr().out.count("ends of loops at step") == 1  # a launch of its own
