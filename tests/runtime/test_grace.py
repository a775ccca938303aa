"""What is left of a process that is stuck when SIGTERM comes: within the grace time, nothing."""

import ctypes
import json
import os
import signal
import time
from argparse import Namespace

import pytest
import torch
from torch.utils.data import DataLoader

from data.samplers import StepSampler
from runtime import distributed
from runtime.grace import GRACE, grace_limit
from runtime.launch import TORCHRUN, launch
from runtime.preemption import PreemptionFlag
from storage.errors import UsageError
from tests import kill_harness
from tests.runtime import toy


def wait_for(file, seconds=30.0):
    end = time.monotonic() + seconds
    while not file.exists():
        assert time.monotonic() < end, "the child did not come so far"
        time.sleep(0.01)


class Stuck(torch.utils.data.Dataset):
    """Items whose worker stops for good at item 5."""

    def __init__(self, mark):
        self.mark = mark

    def __len__(self):
        return 8

    def __getitem__(self, i):
        if i == 5:
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGSTOP)
        return torch.zeros(2) + i


def stuck_loader(folder):
    def hook(run, step, loss):
        if step == 6:  # that of step 5 is the last save
            sampler = StepSampler(8, 1, shuffle=False)
            loader = DataLoader(Stuck(folder / "here"), batch_sampler=sampler, num_workers=1)
            list(sampler.batches(loader))
        return loss

    toy.train(toy.toy_args(folder), hook=hook)


def in_a_library(folder):
    """A call that does not come back, as of a driver or a stalled disk."""
    flag = PreemptionFlag()
    flag.install()
    in_c(folder)


def before_a_run(folder):
    """What a script does before its run begins, looking through its data, say; no handler of its
    signals is come to."""
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    launch(lambda args: in_c(folder), Namespace(gpus=[]))


def in_c(folder):
    (folder / "here").touch()
    while True:
        ctypes.CDLL(None).sleep(3600)  # lets go of the interpreter's lock; a signal cuts it short


def in_a_collective(folder):
    distributed.init(torch.device("cpu"))
    flag = PreemptionFlag()
    flag.install()
    distributed.barrier()
    (folder / f"here{distributed.rank()}").touch()
    if distributed.rank() == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    distributed.barrier()


def slow_save(folder):
    """A checkpoint takes more than the grace time: it is let finish."""
    flag = PreemptionFlag()
    flag.install()
    flag.saving = True
    (folder / "here").touch()
    time.sleep(0.9)
    (folder / "saved").touch()
    flag.saving = False
    flag.restore()
    raise SystemExit(75)


@pytest.mark.parametrize(
    ("target", "place"),
    [
        (stuck_loader, "runtime/workers.py"),
        (in_a_library, "tests/runtime/test_grace.py"),
        (before_a_run, "tests/runtime/test_grace.py"),
    ],
)
def test_sigterm_ends_what_is_stuck(target, place, tmp_path):
    log = tmp_path / "log"
    process = kill_harness.launch(target, (tmp_path,), log, {GRACE: "0.6"})
    wait_for(tmp_path / "here")
    time.sleep(0.1)
    os.kill(process.pid, signal.SIGTERM)
    assert kill_harness.wait(process, 10) == 75
    said = log.read_text()
    assert "SIGTERM" in said and f"stuck in {place}" in said, said
    assert "Traceback" not in said
    if target is stuck_loader:
        (run,) = (tmp_path / "toy").iterdir()
        assert "going back to the last save; run the same command to go on" in said
        assert '"state": "preempted"' in (run / "status.json").read_text()
        assert kill_harness.committed(run) == 5


def test_sigterm_ends_a_rank_that_waits_for_a_stopped_one(tmp_path):
    log = tmp_path / "log"
    ranks = kill_harness.launch_ranks(in_a_collective, (tmp_path,), log, 2, **{GRACE: "0.6"})
    try:
        for r in range(2):
            wait_for(tmp_path / f"here{r}")
        time.sleep(0.1)
        os.kill(ranks[0].pid, signal.SIGTERM)
        assert kill_harness.wait(ranks[0], 10) == 75
        assert "stuck in runtime/distributed.py" in log.read_text()
    finally:
        ranks[1].kill()
        ranks[1].join()


def like_torchrun(folder):
    """A launcher of torch's, with a rank."""
    if os.fork():
        in_c(folder / "launcher")
    os.environ[TORCHRUN] = "id"
    signal.signal(signal.SIGTERM, lambda number, frame: (folder / "told").touch())
    launch(lambda args: in_c(folder), Namespace(gpus=[]))


def test_ranks_of_a_torchrun_that_was_killed_are_told_to_end(tmp_path):
    (tmp_path / "launcher").mkdir()
    process = kill_harness.launch(like_torchrun, (tmp_path,), tmp_path / "log", {GRACE: "0.6"})
    wait_for(tmp_path / "here")
    wait_for(tmp_path / "launcher" / "here")
    process.kill()
    wait_for(tmp_path / "told", 10)


def dead_rank(folder):
    def hook(run, step, loss):
        if step == 2 and run.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return loss

    toy.train(toy.toy_args(folder), hook=hook)


def test_a_rank_that_died_is_in_the_status(tmp_path):
    ranks = kill_harness.launch_ranks(dead_rank, (tmp_path,), tmp_path / "log", 2)
    assert [kill_harness.wait(rank, 30) for rank in ranks] == [9, -signal.SIGKILL]
    (run,) = (tmp_path / "toy").iterdir()
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("failed", 9)
    assert status["message"] == "lost contact with another rank, which ended or died"


def test_a_second_ctrl_c_ends_it_too(tmp_path, monkeypatch):
    log = tmp_path / "log"
    process = kill_harness.launch(impatient, (tmp_path,), log)
    wait_for(tmp_path / "here")
    for _ in range(2):
        os.kill(process.pid, signal.SIGINT)
        time.sleep(0.3)
    assert kill_harness.wait(process, 10) == 75
    assert "SIGINT" in log.read_text()


def impatient(folder):
    from runtime import grace

    grace._APART_S, grace.AFTER_SECOND_S = 0.1, 0.2
    in_a_library(folder)


def test_a_save_is_given_the_time_once_more(tmp_path):
    process = kill_harness.launch(slow_save, (tmp_path,), tmp_path / "log", {GRACE: "0.6"})
    wait_for(tmp_path / "here")
    os.kill(process.pid, signal.SIGTERM)
    assert kill_harness.wait(process, 10) == 75
    assert (tmp_path / "saved").exists()


def test_what_a_forked_child_is_sent_is_not_the_parents(monkeypatch):
    monkeypatch.setenv(GRACE, "0.2")
    flag = PreemptionFlag()
    flag.install()
    pid = os.fork()
    if pid == 0:
        os.kill(os.getpid(), signal.SIGTERM)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    time.sleep(0.4)  # would have ended this process
    flag.restore()


@pytest.mark.parametrize("said", ["soon", "0", "-3", "nan"])
def test_a_grace_time_that_is_none(said, monkeypatch):
    monkeypatch.setenv(GRACE, said)
    with pytest.raises(UsageError, match=GRACE):
        grace_limit()
