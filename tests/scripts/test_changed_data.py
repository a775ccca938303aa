"""Another picture in one's folder, and the same command."""

import json
import re
from argparse import Namespace

import numpy as np
import pytest
from PIL import Image

import models.simclr
from recipes.simclr import parts
from recipes.simclr.options import OPTIONS
from runtime import rundir
from runtime.options import EXECUTION, tagged
from storage.errors import DataError, UsageError
from tests.data.pictures import encoded, make_set
from tests.scripts.simclr_support import small_backbone
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


# ------------------------------------------------------------- where options follow from pictures

CPU_SMALL = {  # --preset cpu-small, cut down
    "TrainSimCLR": "--steps 2",
    "TrainISICLE": "--steps 3 --bs 8 --joint_steps 4 --imle_steps 1 --view_batch 4",
}
IMLE = "--preset cpu-quick --ns 2 --sp 2 --bs 2 --subsample_size 4"


def photographs(folder, numbers, side=24, *, gone=False):
    """Write or remove pictures of these numbers."""
    folder.mkdir(exist_ok=True)
    for k in numbers:
        file = folder / f"{k:03d}.png"
        if gone:
            file.unlink()
            continue
        pixels = np.random.default_rng(k).integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file)


def cpu_small(name, data, *words):
    script = load(name)
    given = ["--preset", "cpu-small", "--data", str(data), *CPU_SMALL[name].split()]
    if name == "TrainISICLE":
        given += ["--imle", IMLE]
    script.main(
        get_args(script, [*given, "--gpus", "cpu", "--wandb", "disabled", "--no-probe", *words])
    )


@pytest.mark.parametrize("where", ["--outdir", "named by its options"])
@pytest.mark.parametrize("name", CPU_SMALL)
def test_what_follows_from_the_pictures_is_no_option(name, where, tmp_path, capsys, monkeypatch):
    """From 30 to 34 pictures the batch of cpu-small goes from 16 to 32, with --bs 8 --joint from 2
    to 1: the data set is what has changed, and the refusal says so."""
    monkeypatch.setattr(models.simclr, "build_backbone", small_backbone)
    data = tmp_path / "mine"
    photographs(data, range(30))
    words = ["--outdir", str(tmp_path / "run")] if where == "--outdir" else []
    cpu_small(name, data, *words)
    photographs(data, range(30, 34))
    with pytest.raises(
        DataError, match="30 pictures before, 34 now .4 new, first 030.png"
    ) as error:
        cpu_small(name, data, *words)
    assert error.value.exit_code == 6
    photographs(data, range(30, 34), gone=True)
    capsys.readouterr()
    cpu_small(name, data, *words, "--steps", "3" if name == "TrainSimCLR" else "6")
    said = capsys.readouterr().out
    length = "2 before, 3 now" if name == "TrainSimCLR" else "1 before, 2 now"
    assert re.search(r"resumed step \d", said) and f"length (epochs): {length}" in said
    photographs(data, range(20, 30), gone=True)  # fewer
    with pytest.raises(DataError, match="30 pictures before, 20 now"):
        cpu_small(name, data, *words)


def test_pictures_of_another_size_under_equal_names(tmp_path, monkeypatch):
    """What cannot be seen in the list of files is seen in what follows from them."""
    monkeypatch.setattr(models.simclr, "build_backbone", small_backbone)
    monkeypatch.setattr("storage.listing.refuse_changed", lambda *_: None)
    monkeypatch.setattr("runtime.resume.refuse_changed", lambda *_: None)
    data, words = tmp_path / "mine", ["--outdir", str(tmp_path / "run")]
    photographs(data, range(8))
    cpu_small("TrainSimCLR", data, *words)
    photographs(data, range(8), side=40)
    with pytest.raises(UsageError, match="--crop_size 16, as followed .* now follows 32"):
        cpu_small("TrainSimCLR", data, *words)


def test_a_batch_that_processes_cannot_share_is_refused(tmp_path, monkeypatch):
    """It is no smaller than that of one process: a run would go on with another batch."""
    photographs(tmp_path / "mine", range(30))
    args = get_args(load("TrainSimCLR"), ["--data", str(tmp_path / "mine"), "--steps", "2"])
    for world in (2, 3):
        monkeypatch.setattr("recipes.simclr.parts.place", lambda w=world: Namespace(world=w))
        again = Namespace(**vars(args))
        if world == 2:
            parts.fit(again, OPTIONS)
            assert again.bs == 16
            continue
        with pytest.raises(UsageError, match="30 pictures, for batches of 16, which 3 .* --bs 15 "):
            parts.fit(again, OPTIONS)


def test_a_run_is_known_by_what_was_typed(tmp_path):
    """As before where nothing follows from the pictures; by what it follows from otherwise."""

    def known_by(*words):
        args = get_args(load("TrainSimCLR"), ["--data", str(tmp_path), "--n_ramp", "0", *words])
        typed = rundir.shaping(args, tagged(OPTIONS, EXECUTION))
        asked, free = parts.asked(args, OPTIONS)
        return typed, rundir.shaping(asked, free)

    typed, flags = known_by("--crop_size", "16", "--bs", "8", "--epochs", "4")
    assert typed == flags and flags["bs"] == 8
    typed, flags = known_by("--crop_size", "16", "--bs", "8", "--epochs", "4", "--steps", "9")
    assert typed == flags
    typed, flags = known_by("--bs", "8", "--steps", "9")
    assert "epochs" not in flags and flags["crop_max"] == 128 and flags["bs"] == 8
