"""Options that every training script has from `runtime.run.Run`, in each of the scripts."""

import os

import pytest
import torch

import models.simclr
from data.labelled import LabelledImages
from data.omni import DomainSamples
from data.pyramids import Pyramid
from tests.effects import launch
from tests.scripts.simclr_support import small_backbone
from tests.scripts.support import get_args, load

TINY = {
    "TrainGeneratorWandB": "--preset smoke --unconditional --lpips none --res 8 --pool_size 8 "
    "--bs 2 --subsample_size 2 --num_iteration 2 --outer_loops 1 --num_val_images 1 --samples 1",
    "train_edm2": "--preset smoke --bs 8 --duration 16 --snapshot_every 8 --sample_images 0",
    "train_ddpm": "--preset smoke --bs 8 --duration 16 --snapshot_every 8 --sample_images 0",
    "train_omnigan": "--preset smoke --steps 2 --set val.max_log_images=0 val.samples=1",
    "TrainSimCLR": "--preset smoke --num_images 40 --bs 16 --epochs 1 --n_ramp 0 --no-probe",
    "TrainISICLE": "--preset smoke --num_images 24 --bs 8 --epochs 1 --n_ramp 0 --no-probe "
    "--pair real-real --joint 0",
    "toy_example": "--preset smoke --total-iter 4 --bs 20 --no-val --no-test --no-viz",
}
READING = [name for name in TINY if name != "toy_example"]


@pytest.fixture
def train(tmp_path, monkeypatch):
    """(script, words) -> the run's folder."""
    monkeypatch.setattr(models.simclr, "build_backbone", small_backbone)

    def train(name, *words):
        script = load(name)
        folder = tmp_path / f"results{len(list(tmp_path.iterdir()))}"
        typed = [*TINY[name].split(), *words]
        return launch(script.main, lambda w: get_args(script, w), folder, *typed)

    return train


@pytest.mark.parametrize("name", READING)
def test_what_is_asked_of_torch_and_of_processes(name, train, tmp_path, monkeypatch):
    """--compile, --deterministic, --num_workers."""
    compiled, notes = [], tmp_path / "pids"
    monkeypatch.setattr(
        torch,
        "compile",
        lambda m: compiled.append(torch.are_deterministic_algorithms_enabled()) or m,
    )
    for reader in (LabelledImages, Pyramid, DomainSamples):
        read = reader.__getitem__

        def noted(self, i, read=read):
            with notes.open("a") as file:
                file.write(f"{os.getpid()}\n")
            return read(self, i)

        monkeypatch.setattr(reader, "__getitem__", noted)
    train(name)
    assert not compiled and set(notes.read_text().split()) == {str(os.getpid())}
    train(name, "--compile", "--deterministic", "--num_workers", "1")
    assert compiled and all(compiled)  # omnigan compiles each of its networks
    assert len(set(notes.read_text().split())) > 1
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("name", TINY)
def test_where_a_run_lies(name, train, tmp_path):
    """--results_path, --outdir, and --run-dir, which is from the working directory."""
    there, script = tmp_path / "there", load(name)
    script.main(get_args(script, [*TINY[name].split(), "--run-dir", str(there)]))
    assert (there / "args.json").is_file()
    assert train(name, "--outdir", "a/b").relative_to(tmp_path).parts[1:] == (name, "a", "b")


@pytest.mark.parametrize("name", TINY)
def test_what_a_run_leaves(name, train):
    """--tensorboard, --save_every, --keep, --profile: event files, checkpoints, a trace."""
    plain = train(name)
    assert not list(plain.rglob("*tfevents*")) and not (plain / "profile").exists()
    assert len(list((plain / "checkpoints").iterdir())) == 1
    more = train(name, "--tensorboard", "--save_every", "1", "--keep", "0", "--profile", "1")
    assert list(more.rglob("*tfevents*"))
    assert len(list((more / "checkpoints").iterdir())) > 1
    assert len(list((more / "profile").glob("steps-*.json.gz"))) == 1
    assert more.name == plain.name  # it is the same run
