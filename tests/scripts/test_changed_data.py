"""Another picture in one's folder, and the same command."""

import json
import re

import pytest

from storage.errors import DataError
from tests.data.pictures import encoded, make_set
from tests.scripts.support import TINY, get_args, load

SCRIPTS = {
    "TrainGeneratorWandB": [*TINY, *"--outer_loops 1 --data_tr {data}".split()],
    "train_edm2": "--preset smoke --data {data} --duration 80 --sample_images 0".split(),
    "TrainSimCLR": "--preset smoke --data {data} --bs 4 --epochs 1 --n_ramp 0 --no-probe".split(),
    "TrainISICLE": "--preset smoke --data {data} --bs 4 --epochs 1 --n_ramp 0 --no-probe".split(),
}


def launch(name, data, folder, *words):
    script = load(name)
    given = [word.format(data=data) for word in SCRIPTS[name]]
    script.main(get_args(script, [*given, "--run-dir", str(folder), *words]))


@pytest.fixture(autouse=True)
def homes(tmp_path, monkeypatch):
    monkeypatch.setenv("RESULTS_HOME", str(tmp_path / "results"))
    monkeypatch.setenv("DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setattr("os.fsync", lambda fd: None)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_changed_data_set_is_told_and_refused(name, tmp_path, capsys):
    data, run = make_set(tmp_path / "mine", {"train": {"cat": 8, "dog": 8}}), tmp_path / "run"
    launch(name, data, run)
    assert json.loads((run / "data.json").read_text())["pictures"] == 16
    new = [data / "train" / "cat" / f"new_{k}.png" for k in range(3)]
    for k, file in enumerate(new):
        file.write_bytes(encoded(k))
    with pytest.raises(DataError) as error:
        launch(name, data, run)
    said = str(error.value)
    assert error.value.exit_code == 6 and "\n" not in said
    assert "16 pictures before, 19 now (3 new, first cat/new_0.png)" in said
    assert "--outdir" in said and "--resume 0" in said
    for file in new:  # the first way out: as it was
        file.unlink()
    capsys.readouterr()
    launch(name, data, run)
    assert re.search(r"resumed step \d+", capsys.readouterr().out)
    new[0].write_bytes(encoded(0))  # another: from the beginning
    launch(name, data, run, "--resume", "0")
    assert json.loads((run / "data.json").read_text())["pictures"] == 17
    capsys.readouterr()
    launch(name, data, run)
    assert re.search(r"resumed step \d+", capsys.readouterr().out)


@pytest.mark.parametrize("name", ["TrainGeneratorWandB", "train_edm2"])
def test_a_run_without_a_record(name, tmp_path, capsys):
    """Begun by an earlier version: counts are compared; where they agree, the record is made."""
    data, run = make_set(tmp_path / "mine", {"train": {"cat": 8, "dog": 8}}), tmp_path / "run"
    launch(name, data, run)
    for file in run.glob("data.*"):
        file.unlink()
    extra = data / "train" / "cat" / "new.png"
    extra.write_bytes(encoded(0))
    with pytest.raises(DataError, match="has changed: 1. pictures before, 1. now"):
        launch(name, data, run)
    assert not (run / "data.json").exists()
    extra.unlink()
    launch(name, data, run)
    assert (run / "data.json").exists()
