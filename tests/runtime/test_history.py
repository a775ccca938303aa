"""Lost history is said: logs and networks that were deleted or damaged between two launches."""

import json
import os

import pytest
import torch

from runtime.history import LOGS, History, lost
from storage.index_log import IndexLog
from storage.snapshot import save_snapshot
from tests import kill_harness as harness
from tests.runtime.toy import open_run, toy_args, train

pytestmark = pytest.mark.usefixtures("one_thread", "no_fsync")


def written(tmp_path, total):
    """A run that writes a log of indices, a snapshot and a .pt beside its figures."""
    with open_run(toy_args(tmp_path, save_every=2)) as run:
        net = torch.nn.Linear(1, 1)
        run.restore(net=net)
        log = IndexLog(run.dir / "selected.bin", run.completed)
        for step in run.steps(total):
            log.add(step, torch.arange(4).numpy())
            run.log(loss=step)
            if step == 1:
                run.snapshot("first", net, "toy", {})
                (run.dir / "0.pt").write_bytes(b"weights")
        log.close()
    return run


def flip(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 1
    file.write_bytes(data)


HARM = {"gone": lambda file: file.unlink(), "damaged": flip}


@pytest.mark.parametrize("name", [*LOGS, "snapshots/first.safetensors", "0.pt"])
@pytest.mark.parametrize("harm", HARM)
def test_what_is_lost_is_said_and_training_goes_on(tmp_path, capsys, name, harm):
    run = written(tmp_path, 4)
    HARM[harm](run.dir / name)
    capsys.readouterr()
    again = written(tmp_path, 6)
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith(name)]
    assert len(said) == 1 and ("goes on" in said[0]), said
    assert again.completed == 6


def test_figures_of_any_size_are_not_read(tmp_path, capsys):
    """A file with a hole in it: what was in it is not shown, and training goes on."""
    run = written(tmp_path, 4)
    os.truncate(run.dir / "metrics.jsonl", 100 << 30)
    capsys.readouterr()
    assert written(tmp_path, 6).completed == 6
    out = capsys.readouterr().out
    assert "metrics.jsonl cannot be read (107374182400 bytes, too large): its figures" in out
    os.truncate(run.dir / "metrics.jsonl", 1 << 30)  # a line without an end
    assert "metrics.jsonl" not in History(run.dir).record()


def test_whole_files_are_no_news(tmp_path, capsys):
    written(tmp_path, 4)
    capsys.readouterr()
    written(tmp_path, 6)
    out = capsys.readouterr().out
    assert "goes on" not in out and "lost" not in out


def test_a_network_that_a_killed_launch_wrote_anew_is_whole(tmp_path):
    """Under the name of the one that the checkpoint before remembers."""
    (tmp_path / "snapshots").mkdir()
    file = tmp_path / "snapshots" / "network-latest.safetensors"
    save_snapshot(file, {"w": torch.zeros(3)}, "toy", {}, {})
    torch.save({"w": torch.zeros(3)}, tmp_path / "0.pt")
    known = History(tmp_path).record()
    save_snapshot(file, {"w": torch.ones(50)}, "toy", {}, {})
    torch.save({"w": torch.ones(50)}, tmp_path / "0.pt")
    assert list(lost(tmp_path, known)) == []
    flip(file)
    assert len(list(lost(tmp_path, known))) == 1


def test_a_log_that_grows_after_the_save_is_whole(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    kept = History(tmp_path)
    known = kept.record()
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2, "psnr": 3}\n{"step": 3}\n')
    assert list(lost(tmp_path, known)) == []
    assert kept.record() == History(tmp_path).record() != known
    (tmp_path / "metrics.jsonl").write_text('{"step": 7}\n{"step": 2, "psnr": 3}\n{"step": 3}\n')
    assert len(list(lost(tmp_path, known))) == 1
    assert list(lost(tmp_path, None)) == list(lost(tmp_path, {"x": 3})) == []


def test_a_network_that_later_ones_replaced_is_not_missed(tmp_path):
    (tmp_path / "0.pt").write_bytes(b"a")
    known = History(tmp_path).record()
    (tmp_path / "0.pt").rename(tmp_path / "1.pt")
    assert list(lost(tmp_path, known)) == []


def test_one_failed_open_of_the_figures_leaves_no_hole(tmp_path, monkeypatch, capsys):
    """Nor do several: lines wait, and those of one step are one."""
    import builtins

    real, refused = open, []

    def refuse(file, mode="r", *more, **others):
        if str(file).endswith("metrics.jsonl") and "+" in mode and len(refused) < 3:
            refused.append(file)
            raise OSError(5, os.strerror(5))
        return real(file, mode, *more, **others)

    def hook(run, step, loss):
        if step == 2:
            monkeypatch.setattr(builtins, "open", refuse)
        return loss

    run = train(toy_args(tmp_path, total=8), hook=hook)
    assert len(refused) == 3 and "step 3 not written" in capsys.readouterr().err
    assert [line["step"] for line in harness.metrics(run.dir)] == list(range(1, 9))
    assert all("loss" in json.loads(line) for line in (run.dir / "metrics.jsonl").open())
