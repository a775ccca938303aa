"""imle_lab.py: what another project imports."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import imle_lab
from data.labelled import LabelledImages
from data.registry import open_source
from data.views.recipes import recipe
from data.views.splits import Plain
from generators import edm2, imle
from models import SimCLR
from storage.snapshot import save_snapshot
from tests.scripts.made_runs import make_run
from tests.scripts.simclr_support import small_backbone
from tests.test_python_doc import make_photos

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("RESULTS_HOME", str(tmp_path / "results"))
    monkeypatch.chdir(tmp_path)
    make_photos(tmp_path / "photos")
    return tmp_path / "results"


@pytest.fixture
def encoder_file(home, monkeypatch):
    """A run of SimCLR with two epochs' snapshots of a tiny encoder; the last one's path."""
    monkeypatch.setattr("models.simclr.build_backbone", small_backbone)
    folder = make_run(home, "scenes-resnet18-0a0a0a0a", script="TrainSimCLR", options={"data": "x"})
    for epoch in (2, 10):
        net = SimCLR("resnet18", resolution=16, proj_hidden=16, proj_dim=8)
        plan = recipe("cifar", crop_size=16, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
        config = {"net": net.config, "recipe": plan._asdict(), "picture_size": 24, "epoch": epoch}
        file = folder / "snapshots" / f"{epoch}.safetensors"
        save_snapshot(file, net.state_dict(), "simclr", config, {})
    (folder / "snapshots" / "network-latest.safetensors").unlink()
    return file


def in_python(code: str, cwd: Path, path: Path | str = ROOT) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(path)}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=env, capture_output=True, text=True
    )


# ------------------------------------------------------------------------------------------ import


def test_importing_is_quick_and_nothing_else(tmp_path):
    done = in_python(
        "import sys; before = list(sys.meta_path); import imle_lab\n"
        "assert sys.meta_path == before\n"
        "print({'torch', 'numpy', 'PIL', 'data', 'models'} & sys.modules.keys())",
        tmp_path,
    )
    assert done.stdout.strip() == "set()", done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["data", "models", "recipes", "runtime"])
def test_a_package_of_another_project_is_named(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("mine = True\n")
    for code in ("import imle_lab", f"import {name}, imle_lab"):
        done = in_python(code, tmp_path)
        assert done.returncode == 1
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith(f"ImportError: the package '{name}' here is ") and str(ROOT) in last
        assert f"{tmp_path / name / '__init__.py'}" in last and "environment" in last


def test_a_module_of_such_a_name_is_named_too(tmp_path):
    (tmp_path / "models.py").write_text("")
    assert "the package 'models' here is" in in_python("import imle_lab", tmp_path).stderr


def test_a_folder_of_pictures_is_in_nobodys_way(tmp_path):
    """As an editable install finds packages: after the folders of sys.path, packages or not."""
    for name in ("data", "models"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "picture.png").touch()
    installed = f"""
import importlib.util, os, sys
from importlib.machinery import PathFinder
class Editable:
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        for place in ({str(ROOT)!r} + "/" + name + "/__init__.py", {str(ROOT)!r} + f"/{{name}}.py"):
            if "." not in name and os.path.isfile(place):
                inside = [os.path.dirname(place)] if place.endswith("__init__.py") else None
                return importlib.util.spec_from_file_location(
                    name, place, submodule_search_locations=inside)
sys.meta_path.insert(sys.meta_path.index(PathFinder) + 1, Editable)
"""
    alone = in_python(installed + "from models import NTXent", tmp_path, path="")
    assert "cannot import name 'NTXent'" in alone.stderr, "the trap is there"
    code = "import imle_lab, data.registry, models\nprint(models.__file__)"
    done = in_python(installed + code, tmp_path, path="")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(ROOT / "models" / "__init__.py")


def test_every_public_function_is_explained():
    for name in imle_lab.__all__:
        found = getattr(imle_lab, name)
        assert inspect.getdoc(found), name
        if isinstance(found, types.FunctionType):
            assert "Errors:" in found.__doc__ and found.__annotations__["return"], name
    assert {"load_generator", "load_encoder", "open_run"} <= set(imle_lab.__all__)


def test_setup_installs_it():
    text = (ROOT / "setup.py").read_text()
    assert 'py_modules=["imle_lab"]' in text


# -------------------------------------------------------------------------------------- generators


def test_a_generator_is_found_by_run_and_by_file(home):
    made = edm2.untrained()
    run = make_run(home, "edm2-x-0b0b0b0b", script="train_edm2", options={"data": "x"})
    file = run / "snapshots" / "network-latest.safetensors"
    save_snapshot(file, made.state_dict, made.kind, made.config, {"command": "x"})
    images = [
        imle_lab.load_generator(word).draw(3, seed=5)
        for word in ("edm2-x", "0b0b0b0b", "train_edm2/edm2", run, file, str(file)[:-12])
    ]
    assert images[0].dtype == torch.uint8 and images[0].shape == (3, 3, 16, 16)
    assert all(torch.equal(images[0], other) for other in images)
    other = imle_lab.load_generator("edm2-x", results=home, device="cpu", precision="fp32")
    assert torch.equal(other.draw(1, seed=6), images[0][1:2])


def test_a_conditional_generator_draws_from_own_pictures(home):
    made = imle.untrained()
    save_snapshot(Path("net.safetensors"), made.state_dict, made.kind, made.config, {})
    net = imle_lab.load_generator("net.safetensors")
    inputs = imle_lab.load_pictures("photos", net.input_size).float() / 255
    images = net.draw(2, inputs=inputs[:3])
    assert images.shape == (6, 3, 32, 32) and images.dtype == torch.uint8


def test_loading_says_nothing_unless_asked(home, capsys):
    made = edm2.untrained()
    run = make_run(home, script="train_edm2")
    file = run / "snapshots" / "network-latest.safetensors"
    save_snapshot(file, made.state_dict, made.kind, made.config, {})
    imle_lab.load_generator(run)
    assert capsys.readouterr().out == ""
    lines: list[str] = []
    imle_lab.load_generator(run, say=lines.append)
    assert len(lines) == 1 and str(file) in lines[0]


def test_what_is_no_generator_is_said_in_a_sentence(home, encoder_file):
    with pytest.raises(imle_lab.CheckpointError, match="holds an encoder.*load_encoder is for it"):
        imle_lab.load_generator("scenes-resnet18")
    with pytest.raises(imle_lab.CheckpointError, match="nothing: no such file"):
        imle_lab.load_generator("nothing")
    damaged = Path("damaged.safetensors")
    damaged.write_bytes(b"no weights")
    with pytest.raises(imle_lab.CheckpointError, match="damaged"):
        imle_lab.load_generator(damaged)
    make_run(home, "scenes-resnet18-0c0c0c0c")
    with pytest.raises(imle_lab.UsageError, match="scenes may be .*: give more of the name"):
        imle_lab.load_generator("scenes")


@pytest.mark.parametrize("device", ["cuda:99", "abacus"])
def test_a_device_that_is_not_there(home, encoder_file, device):
    for load in (imle_lab.load_generator, imle_lab.load_encoder):
        with pytest.raises(imle_lab.UsageError, match=f"device '{device}' cannot be used here: "):
            load("scenes-resnet18", device=device)


# ---------------------------------------------------------------------------------------- encoders


def test_an_encoder_gives_the_features_of_training(home, encoder_file):
    """Those of TrainSimCLR.py: pictures at --picture_size, made views without augmentation."""
    encoder = imle_lab.load_encoder("scenes-resnet18")
    assert encoder.picture_size == 24 and encoder.size == 16 and encoder.dim == 512
    assert not encoder.net.training and not any(p.requires_grad for p in encoder.net.parameters())
    files = sorted(Path("photos").glob("*.jpg"))
    features = encoder(files)
    assert features.shape == (6, 512) and features.dtype == torch.float32

    held = LabelledImages(open_source("photos", home), 24)
    images = torch.stack([held[i][1] for i in range(len(held))])
    plain = Plain(16, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    with torch.no_grad():
        assert torch.equal(encoder.net.features(plain(images)), features)
    assert torch.equal(encoder.prepare(files), plain(images))


def test_an_encoder_takes_pictures_of_any_kind(home, encoder_file):
    encoder = imle_lab.load_encoder(encoder_file)
    file = Path("photos/3.jpg")
    picture = Image.open(file)
    array = np.asarray(picture)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    one = encoder(file)
    assert one.shape == (1, 512)
    for same in (str(file), [file], picture, [picture], array, array[None], tensor, tensor[None],
                 [tensor], picture.convert("RGBA"), (file,)):  # fmt: skip
        assert torch.equal(encoder(same), one), type(same)
    several = [file, picture, array, tensor, "photos/0.jpg"]
    assert torch.allclose(encoder(several, batch=2), encoder(several), atol=1e-6)
    assert torch.equal(encoder(several)[:4], one.expand(4, -1)) or torch.allclose(
        encoder(several)[:4], one.expand(4, -1), atol=1e-6
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "no pictures"),
        (np.zeros((4, 4, 3)), "float64 \\[4, 4, 3\\] is no picture"),
        (np.zeros((4, 4, 1), dtype=np.uint8), "is no picture"),
        (torch.zeros(2, 3, 8, 8), "float32 \\[3, 8, 8\\] is no picture"),
        (torch.zeros(1, 4, 8, 8, dtype=torch.uint8), "is no picture"),
        ([3], "int.* is no picture"),
        ("nowhere.jpg", "bad image nowhere.jpg"),
    ],
)
def test_what_is_no_picture_is_refused(home, encoder_file, given, said):
    encoder = imle_lab.load_encoder(encoder_file)
    with pytest.raises(imle_lab.DataError, match=said):
        encoder(given)


def test_of_a_run_the_last_epoch_is_taken_whatever_lies_beside(home, encoder_file):
    made = imle.untrained()
    generator = encoder_file.parent / "generator-latest.safetensors"  # as TrainISICLE.py writes
    save_snapshot(generator, made.state_dict, made.kind, made.config, {})
    by_run, by_file = (imle_lab.load_encoder(w) for w in ("scenes-resnet18", encoder_file))
    assert torch.equal(by_run("photos/0.jpg"), by_file("photos/0.jpg"))
    assert imle_lab.load_generator("scenes-resnet18").kind == "camnet"
    with pytest.raises(imle_lab.CheckpointError, match="snapshot of camnet, not of SimCLR"):
        imle_lab.load_encoder(generator)
    with pytest.raises(imle_lab.CheckpointError, match="nothing: no such file, and no run"):
        imle_lab.load_encoder("nothing")
    run = make_run(home, "empty-00000001", script="TrainSimCLR")
    with pytest.raises(imle_lab.CheckpointError, match="has no snapshot of an encoder"):
        imle_lab.load_encoder(run)


# ---------------------------------------------------------------------------------------- pictures


def test_pictures_of_a_folder_and_of_a_data_set(home):
    pictures = imle_lab.load_pictures("photos", 16)
    assert pictures.shape == (6, 3, 16, 16) and pictures.dtype == torch.uint8
    squashed = imle_lab.load_pictures(Path("photos"), 16, crop="squash")
    assert not torch.equal(pictures, squashed)
    few = imle_lab.load_pictures("photos", 16, count=3)
    assert len(few) == 3 and all(any(torch.equal(p, q) for q in pictures) for p in few)
    assert imle_lab.load_pictures("scenes/val", 8, count=2).shape == (2, 3, 8, 8)


@pytest.mark.parametrize("how", [{"size": 0}, {"crop": "middle"}, {"count": 0}])
def test_pictures_that_cannot_be(home, how):
    with pytest.raises(imle_lab.UsageError, match=">= 1, center or squash"):
        imle_lab.load_pictures("photos", **{"size": 8, **how})
    with pytest.raises(imle_lab.DataError):
        imle_lab.load_pictures("no/such/folder", 8)


# -------------------------------------------------------------------------------------------- runs


def test_a_run_as_values(home):
    folder = make_run(home)
    (folder / "samples").mkdir()
    (folder / "samples" / "val-000000020.png").touch()
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": 25, "val/psnr": None, "word": "x"}) + "\n" + '{"step": 30')
    run = imle_lab.open_run("camnet")
    assert (run.path, run.name, run.script) == (folder, folder.name, "TrainGeneratorWandB")
    assert (run.method, run.data, run.state, run.step) == ("IMLE", "photos", "finished", 25)
    assert run.options["res"] == [8, 16, 32] and run.status["state"] == "finished"
    assert (
        run.metrics["step"].tolist() == [10, 15, 20, 25] and run.metrics["step"].dtype == np.int64
    )
    psnr = run.metrics["val/psnr"]
    assert psnr.dtype == np.float64 and psnr[[0, 2]].tolist() == [15.0, 14.0]
    assert np.isnan(psnr[[1, 3]]).all() and np.isnan(run.metrics["word"]).all()
    assert {array.shape for array in run.metrics.values()} == {(4,)}
    steps, values = run.series("val/psnr")
    assert steps.tolist() == [10, 20] and values.tolist() == [15.0, 14.0]
    assert run.figures["val/psnr"] == 14.0 and run.figures["batch loss"] == 0.4
    assert run.snapshot == folder / "snapshots" / "network-latest.safetensors"
    assert run.snapshots == [run.snapshot] and [p.name for p in run.samples] == [
        "val-000000020.png"
    ]
    assert repr(run) == "<run camnet-photos-0a1b2c3d: IMLE, finished, step 25>"
    with pytest.raises(imle_lab.UsageError, match="has no figure 'fid'; there are"):
        run.series("fid")


def test_a_run_without_figures_yet(home, tmp_path):
    folder = make_run(tmp_path / "elsewhere", state=None, rows=[])
    (folder / "snapshots" / "network-latest.safetensors").unlink()
    run = imle_lab.open_run(folder)
    assert run.state == "new" and run.step is None and run.snapshot is None and run.figures == {}
    assert run.metrics["step"].shape == (0,) and set(run.metrics) == {"step", "time"}
    assert imle_lab.open_run("camnet", results=tmp_path / "elsewhere").path == folder


def test_no_run_and_a_damaged_one(home):
    folder = make_run(home)
    with pytest.raises(imle_lab.UsageError, match="nothing: no run of that name"):
        imle_lab.open_run("nothing")
    (folder / "args.json").write_text("{")
    with pytest.raises(imle_lab.UsageError, match="args.json cannot be read"):
        imle_lab.open_run("camnet")
