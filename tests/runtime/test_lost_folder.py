"""The folder of a run, or its lock, is taken away while it runs: nothing is written over another's,
and what is not there does not count as done."""

import contextlib
import json
import shutil
import signal
from types import SimpleNamespace

import pytest
import torch

from recipes.simclr import figures
from runtime.run import Run
from storage.errors import DiskError, LockError
from storage.index_log import IndexLog, read_index_log
from tests import kill_harness as harness
from tests.runtime.runs import status, steps_in
from tests.runtime.toy import open_run, toy_args, train

pytestmark = pytest.mark.usefixtures("one_thread", "no_fsync")


def contents(folder):
    """Names and bytes of all files of a run."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def train_until_lost(tmp_path, harm, **more):
    """A run whose folder is harmed in step 3: (error, what was there right after that)."""
    seen = {}

    def hook(run, step, loss):
        if step == 3:
            seen["dir"] = run.dir
            harm(run.dir)
            seen["there"] = contents(run.dir)
        return loss

    with pytest.raises(LockError) as caught:
        train(toy_args(tmp_path, total=9, save_every=2), hook=hook, **more)
    return caught.value, seen["dir"], seen["there"]


def another_lock(folder):
    (folder / "lock").unlink()
    (folder / "lock").write_text("")


@pytest.mark.parametrize(
    "harm", [lambda folder: (folder / "lock").unlink(), another_lock, shutil.rmtree]
)
def test_a_lock_that_is_gone_ends_the_run_and_nothing_more_is_written(tmp_path, harm, capsys):
    error, folder, there = train_until_lost(tmp_path, harm)
    assert error.exit_code == 4 and str(folder / "lock") in str(error)
    assert contents(folder) == there
    assert folder.exists() == bool(there)  # one that was removed is not made again
    assert "saved step 4" not in capsys.readouterr().out


def test_a_folder_that_was_moved_is_not_made_again(tmp_path):
    error, folder, _ = train_until_lost(tmp_path, lambda folder: folder.rename(tmp_path / "away"))
    assert error.exit_code == 4 and not folder.exists()
    assert harness.committed(tmp_path / "away") == 2


def test_a_second_writer_has_the_folder_to_itself(tmp_path):
    """The same command again, when the lock was removed: it trains on, the first one ends."""

    def second(folder):
        (folder / "lock").unlink()
        train(toy_args(tmp_path, total=9, save_every=2))

    _, folder, _ = train_until_lost(tmp_path, second)
    assert [line["step"] for line in harness.metrics(folder)] == list(range(1, 10))
    assert json.loads((folder / "status.json").read_text())["state"] == "finished"
    assert harness.committed(folder) == 9


def test_what_was_selected_is_the_second_writers_alone(tmp_path):
    """And no step stands in selected.bin twice, though both have it open."""

    def one(lost):
        with open_run(toy_args(tmp_path, save_every=4)) as run:
            run.restore(net=torch.nn.Linear(1, 1))
            log = IndexLog(run.dir / "selected.bin", run.completed, run.is_mine)
            for step in run.steps(8):
                if lost and step == 5:
                    (run.dir / "lock").unlink()
                    one(lost=False)
                log.add(step, torch.arange(4).numpy())
        return run

    with pytest.raises(LockError):
        one(lost=True)
    (file,) = tmp_path.rglob("selected.bin")
    assert [step for step, _ in read_index_log(file)] == list(range(8))


def test_probes_after_the_loop_are_not_written_into_anothers_folder(tmp_path, monkeypatch):
    rows = SimpleNamespace(features=None, classes=1)
    monkeypatch.setattr(figures, "_embedded", lambda *given: rows)
    monkeypatch.setattr(figures, "_probed", lambda *given: figures.Found({}, {}, []))
    for name in ("_show_neighbours", "_log_rank", "_log", "_export"):
        monkeypatch.setattr(figures, name, lambda *given, **named: None)
    args = toy_args(tmp_path)
    vars(args).update(dict.fromkeys(figures.ASKED) | vars(args))
    with pytest.raises(LockError), open_run(args) as run:
        another_lock(run.dir)
        there = contents(run.dir)
        try:
            figures.final_probes(
                run, torch.nn.Linear(1, 1), None, None, SimpleNamespace(_asdict=dict)
            )
        finally:
            assert contents(run.dir) == there


def test_a_save_that_another_swept_is_no_fault_of_the_disk(tmp_path, monkeypatch):
    """The lock goes while the checkpoint is being written: exit 4, not 7."""
    from storage import checkpoint

    def stage(staged, *more):
        another_lock(staged.parents[1])
        raise FileNotFoundError(2, "No such file or directory", str(staged))

    monkeypatch.setattr(checkpoint, "_stage", stage)
    with pytest.raises(LockError):
        train(toy_args(tmp_path, total=4, save_every=2))


def test_a_signal_saves_nothing_into_anothers_folder(tmp_path):
    def hook(run, step, loss):
        if step == 3:
            another_lock(run.dir)
            signal.raise_signal(signal.SIGTERM)
        return loss

    with pytest.raises(LockError):
        train(toy_args(tmp_path, total=9, save_every=100), hook=hook)


def test_a_folder_lost_after_the_last_step_is_not_finished(tmp_path):
    with pytest.raises(LockError), open_run(toy_args(tmp_path, total=2)) as run:
        run.restore(net=torch.nn.Linear(1, 1))
        for _ in run.steps(2):
            pass
        shutil.rmtree(run.dir)
    assert not run.dir.exists()


def shot(run: Run, net):
    return run.snapshot("network", net, "toy", {})


@pytest.mark.parametrize("harm", [lambda file: file.unlink(), lambda file: file.write_bytes(b"x")])
def test_a_run_is_not_finished_without_its_last_snapshot(tmp_path, harm):
    """And what follows it: the last step is done again."""

    def once(harm):
        with open_run(toy_args(tmp_path, save_every=3)) as run:
            net = torch.nn.Linear(1, 1)
            run.restore(net=net)
            for step in run.steps(5):
                file = shot(run, net) if step == 4 else None
                if file is not None:
                    harm(file)
        return run

    with pytest.raises(DiskError, match="network.safetensors"):
        once(harm)
    run = once(lambda file: None)
    assert steps_in(run) == [5] and status(run)["state"] == "finished"
    assert (run.dir / "snapshots" / "network.safetensors").stat().st_size > 100


def test_figures_that_are_gone_are_not_finished(tmp_path):
    def hook(run, step, loss):
        if step == 3:
            (run.dir / "metrics.jsonl").unlink()
        return loss

    with pytest.raises(DiskError, match=r"metrics.jsonl lacks 3 of 6 points"):
        train(toy_args(tmp_path, total=6), hook=hook)


def test_args_json_is_there_at_the_end(tmp_path, capsys):
    def hook(run, step, loss):
        with contextlib.suppress(FileNotFoundError):
            (run.dir / "args.json").unlink()
        return loss

    run = train(toy_args(tmp_path, total=3), hook=hook)
    assert json.loads((run.dir / "args.json").read_text())["shaping"] == run.flags
    assert "args.json was gone" in capsys.readouterr().out


def test_checkpoints_that_are_gone_are_not_finished(tmp_path):
    with pytest.raises(DiskError, match="step 2"), open_run(toy_args(tmp_path, total=2)) as run:
        run.restore(net=torch.nn.Linear(1, 1))
        for _ in run.steps(2):
            pass
        shutil.rmtree(run.dir / "checkpoints")
    assert status(run)["state"] == "failed" and status(run)["exit_code"] == 7


def test_what_killed_launches_left_is_swept(tmp_path, capsys):
    """Small files, and a network each, wherever they were being written."""
    run = train(toy_args(tmp_path, total=2))
    (run.dir / "snapshots").mkdir()
    left = [".tmp-status.json-0123abcd", "snapshots/.tmp-iter4.safetensors-0123abcd"]
    for name in left:
        (run.dir / name).write_bytes(b"half")
    kept = run.dir / "snapshots" / ".tmp-of-the-user"
    kept.write_text("")
    capsys.readouterr()
    train(toy_args(tmp_path, total=4))
    out = capsys.readouterr().out
    assert kept.exists() and not any((run.dir / name).exists() for name in left)
    assert all(f"removed unfinished {name}" in out for name in left)
