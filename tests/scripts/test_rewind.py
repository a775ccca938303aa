"""What `--resume 0` leaves of the network of before, and what a refused rewind leaves of a run."""

import pytest

from storage.errors import DataError
from storage.find import newest_epoch
from storage.snapshot import load_snapshot
from tests.data.pictures import encoded, make_set
from tests.scripts.simclr_support import train
from tests.scripts.test_changed_data import homes, launch

__all__ = ["homes"]


def test_the_encoder_of_a_run_begun_again_is_the_new_one(tmp_path, capsys):
    run = tmp_path / "run"
    train(run, "--no-probe", "--n_ramp", "0", "--epochs", "2")
    before = load_snapshot(newest_epoch(run)).provenance["step"]
    assert newest_epoch(run).stem == "1" and (run / "latest.pt").exists()
    train(run, "--no-probe", "--n_ramp", "0", "--epochs", "1", "--resume", "0")
    assert "snapshots of later steps renamed *.superseded: 1" in capsys.readouterr().out
    assert newest_epoch(run).stem == "0"
    assert load_snapshot(newest_epoch(run)).provenance["step"] < before
    assert (run / "1.pt.superseded").exists()


def test_a_refused_rewind_leaves_the_run_as_it_was(tmp_path, capsys):
    data, run = make_set(tmp_path / "mine", {"train": {"cat": 8, "dog": 8}}), tmp_path / "run"
    launch("TrainGeneratorWandB", data, run, "--outer_loops", "2")
    before = sorted(p.name for p in (run / "checkpoints").iterdir())
    new = data / "train" / "cat" / "new.png"
    new.write_bytes(encoded(0))
    with pytest.raises(DataError):
        launch("TrainGeneratorWandB", data, run, "--outer_loops", "2", "--resume", "1")
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == before
    assert (run / "snapshots" / "network-latest.safetensors").exists()
    new.unlink()
    capsys.readouterr()
    launch("TrainGeneratorWandB", data, run, "--outer_loops", "2")
    said = capsys.readouterr().out
    assert f"resumed step {int(before[-1][5:])} " in said and "an earlier launch" not in said
