"""The same data at another path, as in the next job's scratch folder: the same run."""

import json
import re
import shutil

import pytest

from storage.errors import DataError, UsageError
from tests.data.pictures import encoded, make_set
from tests.runtime.runs import rewrite_meta
from tests.scripts.support import TINY, get_args, load

SCRIPTS = {
    "TrainGeneratorWandB": [*TINY, *"--outer_loops 1 --data_tr {data}".split()],
    "train_edm2": "--preset smoke --data {data} --duration 80 --sample_images 0".split(),
    "TrainSimCLR": "--preset smoke --data {data} --bs 4 --epochs 1 --n_ramp 0 --no-probe".split(),
    "TrainISICLE": "--preset smoke --data {data} --bs 4 --epochs 1 --n_ramp 0 --no-probe".split(),
}


def launch(name, data, *words):
    script = load(name)
    given = [word.format(data=data) for word in SCRIPTS[name]]
    script.main(get_args(script, [*given, *map(str, words)]))


def runs(tmp_path, name):
    return sorted((tmp_path / "results" / name).iterdir())


@pytest.fixture(autouse=True)
def homes(tmp_path, monkeypatch):
    monkeypatch.setenv("RESULTS_HOME", str(tmp_path / "results"))
    monkeypatch.setenv("DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setattr("os.fsync", lambda fd: None)


def pictures(root, *, others=False):
    make_set(root, {"train": {"cat": 8, "dog": 8}})
    for k, file in enumerate(sorted(root.rglob("*.png")) if others else ()):
        file.write_bytes(encoded(1000 + k))
    return root


def moved(data, there):
    there.parent.mkdir(parents=True)
    shutil.move(data, there)
    return there


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_next_job_goes_on(name, tmp_path, capsys):
    first = pictures(tmp_path / "job1" / "mine")
    launch(name, first)
    (run,) = runs(tmp_path, name)
    second = moved(first, tmp_path / "job2" / "mine")
    capsys.readouterr()
    launch(name, second)
    out = capsys.readouterr().out
    assert runs(tmp_path, name) == [run] and re.search(r"resumed step [1-9]", out)
    assert f"going on with {run.name}, the same run but for where the same data set (" in out
    assert f"{second} now" in out


def test_packed_by_name_and_in_a_named_folder(tmp_path, capsys):
    name, first = "train_edm2", pictures(tmp_path / "job1" / "mine")
    launch(name, first)
    (run,) = runs(tmp_path, name)
    (tmp_path / "data").mkdir(exist_ok=True)
    shutil.make_archive(str(tmp_path / "data" / "mine"), "zip", first)
    link = tmp_path / "current"
    link.symlink_to(first)
    for word, *more in ((f"{first}/",), ("mine",), (link,), ("mine", "--outdir", run)):
        capsys.readouterr()
        launch(name, word, *more)
        assert re.search(r"resumed step [1-9]", capsys.readouterr().out), word
    assert runs(tmp_path, name) == [run]


def test_other_pictures_under_equal_names_are_another_run(tmp_path, capsys):
    name, first = "train_edm2", pictures(tmp_path / "job1" / "mine")
    launch(name, first)
    (run,) = runs(tmp_path, name)
    other = pictures(tmp_path / "job2" / "mine", others=True)
    with pytest.raises(UsageError, match="--data"):
        launch(name, other, "--outdir", run)
    launch(name, other)
    assert len(runs(tmp_path, name)) == 2
    # At one path, one after the other: refused, or the run that they belong to.
    shutil.rmtree(first)
    shutil.copytree(other, first)
    capsys.readouterr()
    launch(name, first)
    assert "going on with" in capsys.readouterr().out and len(runs(tmp_path, name)) == 2
    for folder in runs(tmp_path, name):
        if folder != run:
            shutil.rmtree(folder)
    with pytest.raises(DataError, match="16 of 16 .* other pictures under the same names"):
        launch(name, first)


def test_a_run_of_an_earlier_version(tmp_path, capsys):
    """It noted names alone: by its words it goes on and is looked at; from elsewhere it is told."""
    name, first = "train_edm2", pictures(tmp_path / "job1" / "mine")
    launch(name, first)
    (run,) = runs(tmp_path, name)
    forget(run)
    second = tmp_path / "job2" / "mine"
    shutil.copytree(first, second)
    capsys.readouterr()
    launch(name, second)
    assert f"add --outdir {run.name}" in capsys.readouterr().out and len(runs(tmp_path, name)) == 2
    launch(name, second, "--outdir", run.name)
    assert re.search(r"resumed step [1-9]", capsys.readouterr().out)
    assert json.loads((run / "inputs.json").read_text())["data"]["sample"]


def forget(run):
    """What versions before did not write."""
    (run / "inputs.json").unlink()
    for path in (run / "checkpoints").glob("step-*"):
        rewrite_meta(path, lambda meta: [meta.pop(key) for key in ("inputs", "points")])


def test_networks_are_known_by_their_bytes(tmp_path, capsys):
    name = "train_edm2"
    launch(name, "scenes", "--outdir", "weak")
    weak = tmp_path / "results" / name / "weak" / "snapshots"
    file = next(weak.glob("*.safetensors"))
    words = ("--acid", "--guide")
    launch(name, "scenes", *words, file)
    there = moved(file, tmp_path / "elsewhere" / file.name)
    capsys.readouterr()
    launch(name, "scenes", *words, there)
    out = capsys.readouterr().out
    assert "the same run but for where the same file (--guide) lies" in out and "resumed" in out
    assert len(runs(tmp_path, name)) == 2
