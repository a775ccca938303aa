"""What every training script leaves to go on from."""

import pytest

from storage import checkpoint
from tests import kill_harness as harness
from tests.scripts.support import TINY, get_args, load

SMALL = {
    "TrainGeneratorWandB": TINY,
    "train_edm2": "--preset smoke --duration 200 --snapshot 1000 --sample_images 0".split(),
    "train_ddpm": "--preset smoke --bs 8 --duration 40 --sample_images 0".split(),
    "train_omnigan": "--preset smoke --steps 4 --set val.max_log_images=0".split(),
    "TrainSimCLR": "--preset smoke --epochs 1 --n_ramp 0 --no-probe --num_images 96".split(),
    "TrainISICLE": "--preset smoke --epochs 1 --n_ramp 0 --no-probe".split(),
}


def launch(name, folder, *words):
    script = load(name)
    script.main(get_args(script, [*SMALL[name], "--run-dir", str(folder), *words]))


@pytest.mark.parametrize("name", SMALL)
def test_saving_by_the_clock_changes_nothing(name, tmp_path, monkeypatch):
    monkeypatch.setenv("RESULTS_HOME", str(tmp_path))
    monkeypatch.setattr("runtime.clock.SHARE", 0)
    monkeypatch.setattr("os.fsync", lambda fd: None)
    saved = []
    save_state = checkpoint.save_state
    monkeypatch.setattr(
        checkpoint, "save_state", lambda *a, **k: (saved.append(a[1]), save_state(*a, **k))[1]
    )
    launch(name, tmp_path / "never", "--save_every", "1000", "--save_minutes", "0")
    never = len(saved)
    launch(name, tmp_path / "often", "--save_every", "1000", "--save_minutes", "1e-6")
    assert len(saved) >= 2 * never + 2
    one, other = tmp_path / "never", tmp_path / "often"
    found = harness.differences(harness.final_state(one), harness.final_state(other))
    assert not found, found
    assert harness.metrics(one) == harness.metrics(other)


@pytest.mark.parametrize("name", ["TrainSimCLR", "TrainISICLE"])
def test_one_file_for_use_and_one_for_resuming(name, tmp_path, monkeypatch):
    monkeypatch.setenv("RESULTS_HOME", str(tmp_path))
    launch(name, tmp_path / "run", "--epochs", "2")
    large = [p for p in (tmp_path / "run").rglob("*") if p.is_file() and p.stat().st_size > 4e6]
    folders = sorted({p.parent.relative_to(tmp_path / "run").parts[0] for p in large})
    assert folders == ["checkpoints", "snapshots"]
    assert [p.name for p in large if p.parent.name == "snapshots"] == ["1.safetensors"]
    assert len(list((tmp_path / "run" / "checkpoints").glob("step-*"))) == 1
    assert sum(p.stat().st_size for p in large) < 210e6
