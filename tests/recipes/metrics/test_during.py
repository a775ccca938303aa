"""--metrics_every: figures while training are those of `calculate_metrics.py gen` on the snapshot,
and the run is the same with and without them."""

import json

import pytest

from storage.errors import UsageError
from tests.effects import checkpointed, launch, pictures
from tests.scripts.support import get_args, load

RUNS = {
    "train_edm2": "--preset smoke --duration 80 --save_every 2 --sample_images 0",
    "train_ddpm": "--preset smoke --duration 32 --save_every 2 --sample_images 0",
    "TrainGeneratorWandB": "--preset smoke --unconditional --res 8 --outer_loops 1 "
    "--num_iteration 2 --lpips none --map_nc 4 --latent_nc 8 --max_nc 8 --pool_size 8 "
    "--subsample_size 4 --bs 4 --mini_bs 4",
    "TrainISICLE": "--preset smoke --num_images 16 --bs 8 --epochs 1 --n_ramp 0 --crop_size 8",
}
# It trains an encoder too, which takes long.
CASES = [pytest.param(n, marks=[pytest.mark.slow] * (n == "TrainISICLE")) for n in RUNS]
EVERY = "--metrics_every 2 --metrics fd_pixels --metrics_num 12"


def train(name, results, words=""):
    """Two steps on a few pictures, which are also what is measured against."""
    script, data = load(name), results.parent / "pictures"
    if not data.is_dir():
        for label in ("a", "b"):
            pictures(data / "train" / label, 16, size=(16, 16))
            pictures(data / "val" / label, 4, size=(16, 16))
    words = f"{RUNS[name]} --data {data} {words}"
    return launch(script.main, lambda argv: get_args(script, argv), results, *words.split())


def logged(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {r["step"]: r["metrics/fd_pixels"] for r in rows if "metrics/fd_pixels" in r}


@pytest.mark.parametrize("name", CASES)
def test_figures_are_logged_and_training_is_the_same(name, tmp_path):
    """--metrics_every, --metrics, --metrics_num."""
    plain, measured = train(name, tmp_path / "a"), train(name, tmp_path / "b", EVERY)
    assert plain.name == measured.name  # the options are no part of a run's name
    assert logged(plain) == {} and set(logged(measured)) == {2}
    assert checkpointed(plain) == checkpointed(measured)
    other = train(name, tmp_path / "c", f"{EVERY} --metrics_num 16")
    assert logged(other) != logged(measured)


@pytest.mark.parametrize("name", RUNS)
def test_what_is_measured_against(name, tmp_path):
    """--metrics_ref, --metrics_weights."""
    pictures(tmp_path / "other", 12, size=(8, 8))
    first = logged(train(name, tmp_path / "a", EVERY))
    other = logged(train(name, tmp_path / "b", f"{EVERY} --metrics_ref {tmp_path / 'other'}"))
    assert first != other
    words = "--metrics_every 2 --metrics fid"
    with pytest.raises(UsageError, match="--nets inception"):
        train(name, tmp_path / "c", words)
    with pytest.raises(UsageError, match=f"there is no weights file {tmp_path}"):
        train(name, tmp_path / "d", f"{words} --metrics_weights inception={tmp_path}/gone.pth")
    with pytest.raises(SystemExit, match="2"):
        get_args(load(name), [*RUNS[name].split(), "--metrics_num", "3"])
