"""Run: full disks, lack of memory, signals, and several ranks that fail or resume together."""

import errno
import json
import os
import resource
import signal
from pathlib import Path

import pytest
import torch

from runtime import rundir
from storage import checkpoint
from storage.errors import DiskError, OutOfMemory, UsageError
from tests import kill_harness as harness
from tests.runtime import toy
from tests.runtime.runs import exits, linear, status, steps_in
from tests.runtime.toy import open_run, toy_args, train

pytestmark = pytest.mark.usefixtures("one_thread", "no_fsync")

# ---------------------------------------------------------------------------------------- failures


def test_save_failures_are_survived_twice(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("IMLE_LAB_FAILPOINT", "post-fsync:all=ENOSPC")

    def recover(run, step, loss):
        if step == 11:
            os.environ["IMLE_LAB_FAILPOINT"] = ""
        return loss

    run = train(toy_args(tmp_path), hook=recover)
    out = capsys.readouterr().out
    assert out.count("cannot save step") == 2 and "(2/3)" in out
    assert run.finished and steps_in(run) == [40]
    monkeypatch.setenv("IMLE_LAB_FAILPOINT", "post-fsync:all=EIO")
    with pytest.raises(DiskError, match=r"step 15: .*nothing is saved yet \(3/3\)") as caught:
        train(toy_args(tmp_path, run_dir=str(tmp_path / "b")))
    assert caught.value.exit_code == 7


def test_a_run_is_not_done_without_its_last_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setenv("IMLE_LAB_FAILPOINT", "post-fsync:all=ENOSPC")
    with pytest.raises(DiskError, match="step 3"):
        train(toy_args(tmp_path, total=3))
    monkeypatch.setenv("IMLE_LAB_FAILPOINT", "")
    run = train(toy_args(tmp_path, total=3))
    assert steps_in(run) == [3] and status(run)["state"] == "finished"


def test_pictures_and_snapshots_on_a_full_disk(tmp_path, monkeypatch, capsys):
    """Said and survived, except that a run cannot finish without the snapshot of its last step."""
    full = {1}  # steps in which the disk is full

    def refuse(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def once(total):
        with open_run(toy_args(tmp_path, save_every=2)) as run:
            net, optimizer = linear(run)
            for step in run.steps(total):
                run.backward(net(torch.ones(1, 3)).sum())
                run.step(optimizer)
                with monkeypatch.context() as patch:
                    if step in full:
                        patch.setattr(os, "replace", refuse)
                    run.sample_grid("x", torch.zeros(1, 3, 4, 4), 1)
                    run.snapshot("net", net, "linear", {})
        return run

    run = once(4)
    out = capsys.readouterr().out
    assert "samples x-000000002.png not written" in out and "cannot write snapshot" in out
    assert steps_in(run) == [4] and run.finished
    full.add(6)
    with pytest.raises(DiskError, match="cannot write snapshot"):
        once(7)
    assert steps_in(run) == [4, 6] and status(run)["exit_code"] == 7
    full.clear()
    assert steps_in(once(7)) == [7]


def test_a_file_size_limit_and_the_run_goes_on(tmp_path, capsys):
    """F3 with a real limit: files above 20 kB cannot be written for a while."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(run, step, loss):
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000 if 5 <= step < 11 else soft, hard))
        return loss

    try:
        run = train(toy_args(tmp_path, width=800), hook=limit)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    out = capsys.readouterr().out
    assert "cannot save step 10" in out and os.strerror(errno.EFBIG) in out
    assert "keeping step 5" in out and run.finished and steps_in(run) == [40]


@pytest.mark.parametrize(
    "error, word",
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), "in step 6"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate"),
            "",
        ),
        (MemoryError(), "lower --spi"),
        (
            RuntimeError("DataLoader worker (pid 5) is killed by signal: Killed. "),
            "--num_workers (0)",
        ),
    ],
)
def test_out_of_memory(tmp_path, error, word):
    def boom(run, step, loss):
        if step == 6:
            raise error
        return loss

    with pytest.raises(OutOfMemory) as caught:
        train(toy_args(tmp_path, run_dir=str(tmp_path / "r")), hook=boom)
    assert caught.value.exit_code == 8 and word in str(caught.value)
    found = json.loads((tmp_path / "r" / "status.json").read_text())
    assert found["exit_code"] == 8 and found["step"] == 6
    assert checkpoint.steps_of(tmp_path / "r" / "checkpoints") == [5]  # none from half a step


# --------------------------------------------------------------------------------------- preemption


@pytest.mark.parametrize(
    "signals",
    [[signal.SIGTERM], [signal.SIGUSR1], [signal.SIGINT], [signal.SIGUSR1, signal.SIGTERM]],
)
def test_a_signal_saves_the_step_and_skips_the_closing_code(tmp_path, capsys, signals):
    closing = []
    with exits(75):
        train(toy_args(tmp_path, run_dir=str(tmp_path / "r")), signals={7: signals})
        closing.append(1)
    found = json.loads((tmp_path / "r" / "status.json").read_text())
    assert found["state"] == "preempted" and found["wants_requeue"] and found["step"] == 8
    assert checkpoint.steps_of(tmp_path / "r" / "checkpoints") == [5, 8] and not closing
    name = signals[0].name
    assert f"{name}: state of step 8 is saved; run the same command" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # given back


def test_a_signal_during_a_save(tmp_path, monkeypatch):
    fsync, sent = os.fsync, []

    def shoot(fd):
        if not sent and ".tmp-step-000000010" in os.readlink(f"/proc/self/fd/{fd}"):
            sent.append(1)
            for signum in (signal.SIGTERM, signal.SIGUSR1, signal.SIGTERM):
                signal.raise_signal(signum)
        fsync(fd)

    monkeypatch.setattr(os, "fsync", shoot)
    with exits(75):
        train(toy_args(tmp_path, run_dir=str(tmp_path / "r")))
    assert sent and harness.committed(tmp_path / "r") == 10


def test_a_signal_in_the_last_step_is_a_finished_run(tmp_path):
    assert train(toy_args(tmp_path), signals={39: [signal.SIGTERM]}).finished


def test_a_signal_before_the_first_step(tmp_path):
    with exits(75), open_run(toy_args(tmp_path, run_dir=str(tmp_path / "r"))) as run:
        signal.raise_signal(signal.SIGTERM)
        run.restore()
        for _ in run.steps(3):
            pytest.fail("a step was taken")
    assert json.loads((tmp_path / "r" / "status.json").read_text())["state"] == "preempted"


def test_a_long_phase_is_left_at_once_and_the_last_step_saved(tmp_path):
    def search(run, step, loss):
        if step == 7:
            signal.raise_signal(signal.SIGTERM)
            run.check_preempted()
            pytest.fail("still searching")
        run.check_preempted()
        return loss

    args = toy_args(tmp_path, run_dir=str(tmp_path / "r"))
    with exits(75):
        train(args, hook=search)
    assert harness.committed(tmp_path / "r") == 7


def test_after_an_update_the_turn_is_finished_first(tmp_path):
    with exits(75), open_run(toy_args(tmp_path, run_dir=str(tmp_path / "r"))) as run:
        net, optimizer = linear(run)
        for step in run.steps(9):
            run.backward(net(torch.ones(1, 3)).sum())
            run.step(optimizer)
            if step == 2:
                signal.raise_signal(signal.SIGTERM)
            run.check_preempted()  # does nothing now
            reached = step
    assert reached == 2 and harness.committed(tmp_path / "r") == 3


def test_no_progress_in_three_launches_is_not_worth_a_fourth(tmp_path, capsys):
    for _ in range(3):
        with exits(75), open_run(toy_args(tmp_path, run_dir=str(tmp_path / "r"))) as run:
            signal.raise_signal(signal.SIGTERM)
            run.restore()
            next(run.steps(3))
        wanted = json.loads((tmp_path / "r" / "status.json").read_text())["wants_requeue"]
    assert not wanted and "no progress in 3 launches" in capsys.readouterr().out


def test_an_impatient_interrupt_saves_only_what_is_whole(tmp_path):
    def interrupt(at_update):
        with exits(75), open_run(toy_args(tmp_path, run_dir=str(tmp_path / str(at_update)))) as run:
            net, optimizer = linear(run)
            for step in run.steps(9):
                if step == 3 and not at_update:
                    raise KeyboardInterrupt
                run.backward(net(torch.ones(1, 3)).sum())
                run.step(optimizer)
                if step == 3 and at_update:
                    raise KeyboardInterrupt
        return harness.committed(tmp_path / str(at_update))

    assert interrupt(False) == 3
    assert interrupt(True) == 0


# ------------------------------------------------------------------------------------------- ranks


def ranks_main(root, changes, more):
    """A toy whose rank 1 misbehaves at step 6 if asked to."""
    bad = more.pop("bad", None)

    def hook(run, step, loss):
        if run.rank == 1 and bad == "loss" and step in (6, 7, 8):
            return loss + float("nan")
        if run.rank == 1 and bad == "grad" and step == 6:
            return loss * float("inf") * 0 + loss
        if run.rank == 1 and bad == "signal" and step == 6:
            signal.raise_signal(signal.SIGTERM)
        return loss

    train(toy_args(Path(root), **changes), hook=hook, **more)


def run_ranks(tmp_path, name, more, world=2, **changes):
    """Exit codes of the ranks, and their output."""
    log = tmp_path / f"{name}.txt"
    args = ("unused", {"run_dir": str(tmp_path / name), "total": 12} | changes, more)
    codes = [harness.wait(p, 60) for p in harness.launch_ranks(ranks_main, args, log, world)]
    return codes, log.read_text()


def test_two_ranks_save_and_resume_together(tmp_path):
    codes, out = run_ranks(tmp_path, "a", {})
    assert codes == [0, 0], out
    codes, out = run_ranks(tmp_path, "b", {"bad": "signal"})  # only rank 1 got it
    assert codes == [75, 75], out
    assert harness.committed(tmp_path / "b") == 7
    codes, out = run_ranks(tmp_path, "b", {})
    assert codes == [0, 0] and out.count("resumed step 7") == 1, out
    found = harness.differences(
        harness.final_state(tmp_path / "a"), harness.final_state(tmp_path / "b")
    )
    assert not found, found
    assert len(checkpoint.load_latest(tmp_path / "a" / "checkpoints").state["_run"]["rng"]) == 2
    codes, out = run_ranks(tmp_path, "b", {}, world=1, total=14)
    assert codes == [0] and "world size 2 -> 1" in out, out


def test_one_bad_rank_of_two(tmp_path):
    codes, out = run_ranks(tmp_path, "grad", {"bad": "grad"})
    assert codes == [0, 0], out
    assert out.count("non-finite") == 1 and "(rank 1, samples" in out
    codes, out = run_ranks(tmp_path, "loss", {"bad": "loss"})
    assert codes == [5, 5], out
    assert "skipped 3/3" in out and "non-finite loss (rank 1, samples " in out
    order = toy.Sampler(64, 8)
    batches = [order.next() for _ in range(9)]
    assert f"samples {','.join(map(str, batches[8][1::2]))}, step 8)" in out
    assert harness.committed(tmp_path / "loss") == 5


def test_errors_of_the_first_rank_reach_all(tmp_path):
    codes, out = run_ranks(tmp_path, "a", {}, total=2)
    codes, out = run_ranks(tmp_path, "a", {}, lr=0.5)
    assert codes == [2, 2] and "--lr" in out, out


def test_a_launch_that_could_not_begin_leaves_no_directory(tmp_path):
    """Wrong options or data found after the directory was made: nothing is left of it."""
    run = open_run(toy_args(tmp_path))
    with pytest.raises(UsageError), run:
        made = run.dir
        assert made.is_dir()
        raise UsageError("--num_val_images 9: there are 3 images")
    assert not made.exists()


def test_a_directory_that_was_there_is_kept(tmp_path):
    train(toy_args(tmp_path))
    run = open_run(toy_args(tmp_path))
    with pytest.raises(UsageError), run:
        raise UsageError("no such file")
    assert run.dir.is_dir() and steps_in(run)


@pytest.mark.parametrize("number", [errno.EIO, errno.EFBIG, errno.ENOSPC])
@pytest.mark.parametrize("name", ["args.json", "launches.jsonl", "status.json"])
def test_any_error_of_the_disk_at_the_start(tmp_path, monkeypatch, name, number):
    """args.json is needed to go on, and ends the launch with 7; the others do not."""
    real, code = open, 0

    def refuse(path, *more, **others):
        if name in str(path) and str(path).startswith(str(tmp_path)):
            raise OSError(number, os.strerror(number), str(path))
        return real(path, *more, **others)

    monkeypatch.setattr("builtins.open", refuse)
    try:
        train(toy_args(tmp_path, total=2))
    except OSError as error:
        code = rundir.exit_code_of(error)
    assert code == (7 if name == "args.json" else 0)


def test_no_inodes_when_the_folder_is_made(tmp_path, monkeypatch):
    def refuse(self, *more, **others):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(DiskError, match="No space left"):
        train(toy_args(tmp_path, total=2))
