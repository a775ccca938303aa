"""Kill -9 at random moments, some inside a save: the end is that of the uninterrupted run."""

import json
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests import kill_harness as harness
from tests.runtime import toy

TOTAL, SAVE_EVERY = 60, 3
CHANGES = {"total": TOTAL, "save_every": SAVE_EVERY, "log_every": 3}
SLOW = {"slow": 0.005}
POINTS = ["half-file:30", "pre-fsync:9", "post-manifest:3", "post-rename:2", "mid-prune:2"]


def args_for(run_dir: Path, **changes):
    # The same path for all, so that the flags differ in nothing; run_dir shapes nothing.
    return "unused", CHANGES | {"run_dir": str(run_dir)} | changes, SLOW


def compare(run_dir, reference):
    found = harness.differences(harness.final_state(run_dir), harness.final_state(reference))
    assert not found, found
    assert harness.metrics(run_dir) == harness.metrics(reference)
    assert json.loads((run_dir / "status.json").read_text())["state"] == "finished"
    assert len((run_dir / "launches.jsonl").read_text().splitlines()) > 1


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """An uninterrupted run; seconds before its first step and from there to the last."""
    folder = tmp_path_factory.mktemp("reference")
    harness.finish(toy.main, args_for(folder / "warm-up", total=1), folder / "log.txt")
    start = time.time()
    code = harness.finish(toy.main, args_for(folder / "run"), folder / "log.txt")
    assert code == 0, (folder / "log.txt").read_text()
    times = [
        json.loads(line)["time"]
        for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    return folder / "run", times[0] - start, times[-1] - times[0]


def test_thirty_kills(reference, tmp_path):
    folder, startup, loop = reference
    # A twelfth of the loop a launch, so that the kills fall on a few runs.
    report = harness.kill_and_resume(
        toy.main,
        args_for,
        tmp_path,
        kills=30,
        seconds=(0.7 * startup, startup + 0.2 * loop),
        failpoints=POINTS,
        check=lambda run_dir: compare(run_dir, folder),
    )
    assert report.kills == 30
    assert report.where["save"] >= 3 and report.where["other"] >= 3, report
    assert report.launches < 45, report  # otherwise few were killed far into a run


def test_the_comparison_can_fail(tmp_path):
    """Negative control: dropping any one object's state at the resume must be seen."""
    log, changes = tmp_path / "log.txt", {"total": 8}
    straight = ("unused", changes | {"run_dir": str(tmp_path / "straight")}, {})
    assert harness.finish(toy.main, straight, log) == 0
    for drop in ("net", "optimizer", "scheduler", "ema", "sampler"):
        run_dir = tmp_path / drop
        args = ("unused", changes | {"run_dir": str(run_dir)})
        assert harness.finish(toy.main, (*args, {"signals": {4: [15]}}), log) == 75
        assert harness.finish(toy.main, (*args, {"drop": drop}), log) == 0, log.read_text()
        found = harness.differences(
            harness.final_state(run_dir), harness.final_state(tmp_path / "straight")
        )
        assert any(drop in where for where in found), (drop, found)


@pytest.mark.parametrize("workers", [0, 2])
def test_kill_and_resume_is_bit_exact_with_workers(reference, tmp_path, workers):
    """7 steps, 2 lost to a kill, 5 more; the loader's own workers change nothing."""
    changes = {"total": 12, "save_every": 7, "log_every": 2, "num_workers": workers}
    # Few steps: the toy starts its workers anew in each.
    straight = ("unused", changes | {"run_dir": str(tmp_path / "a")}, {})
    broken = ("unused", changes | {"run_dir": str(tmp_path / "b")}, {})
    killed = (*broken[:2], {"signals": {8: [signal.SIGKILL]}})
    assert harness.finish(toy.main, straight, tmp_path / "log.txt") == 0
    assert harness.finish(toy.main, killed, tmp_path / "log.txt") == -signal.SIGKILL
    assert harness.committed(tmp_path / "b") == 7
    assert harness.finish(toy.main, broken, tmp_path / "log.txt") == 0
    compare(tmp_path / "b", tmp_path / "a")


def test_signals_at_random_times_lose_no_step(reference, tmp_path):
    """F5: SIGTERM and SIGUSR1 from outside, some twice, until the run is finished."""
    folder, startup, loop = reference
    run_dir, log, preempted, earlier = tmp_path / "run", tmp_path / "log.txt", 0, 1.0
    for attempt in range(24):
        process = harness.launch(toy.main, args_for(run_dir), log)
        process.join(earlier * (startup + loop * (0.1 + 0.1 * (attempt % 3))))
        for number in range(1 + attempt % 2):
            if process.is_alive():
                harness.os.kill(process.pid, (signal.SIGTERM, signal.SIGUSR1)[number])
        code = harness.wait(process)
        if code == 0 and preempted >= 2:
            break
        if code == 0:  # the machine is faster now than when `startup` and `loop` were measured
            shutil.rmtree(run_dir)
            preempted, earlier = 0, 0.8 * earlier
            continue
        if code == -signal.SIGTERM or code == -signal.SIGUSR1:
            continue  # before the run had taken over the signals
        assert code == 75, log.read_text()[-2000:]
        preempted += 1
        status = json.loads((run_dir / "status.json").read_text())
        assert status["state"] == "preempted" and status["exit_code"] == 75
        assert status["step"] == harness.committed(run_dir)  # no step is lost
    assert preempted >= 2
    assert harness.finish(toy.main, args_for(run_dir), log) == 0
    compare(run_dir, folder)
