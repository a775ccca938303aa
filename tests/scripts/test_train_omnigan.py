"""train_omnigan.py from its command line to its files."""

import json

import pytest
import torch

from recipes.omnigan.options import get_args
from tests.scripts.support import load

SMOKE = ["--preset", "smoke"]


def _train(folder, *words):
    script = load("train_omnigan")
    script.main(get_args(None, [*SMOKE, "--run-dir", str(folder), *words]))
    return folder


def _rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    return _train(tmp_path_factory.mktemp("omnigan") / "run")


def test_smoke_run_has_both_phases_and_its_files(smoke):
    rows = _rows(smoke)
    names = [set(row) for row in rows]
    assert any("G/task_loss/s/sf" in n and "G/t/gan/rn_to_rf" not in n for n in names)
    assert any("G/t/gan/rn_to_rf" in n and "G/task_loss/s/sf" not in n for n in names)
    terms = {k for n in names for k in n if k.startswith("D/") and k.count("/") == 3}
    assert len(terms) == 16
    last = {k: v for row in rows for k, v in row.items()}
    for domain in ("rf", "rn", "sf", "sn"):
        assert 0 <= last[f"val/s/miou/{domain}"] <= last[f"val/s/accuracy/{domain}"] + 1e-9 <= 1.0 + 1e-9
        assert last[f"val/d/rmse/{domain}"] > 0
        assert (smoke / f"samples/panel-{domain}-8.png").is_file()
    assert "val/w/iou/sf" in last and "val/w/iou/rf" not in last  # real ones have no such label
    assert list((smoke / "snapshots").glob("*.safetensors"))


def test_a_killed_run_goes_on_to_the_same_weights(smoke, tmp_path):
    """Of every half of an update: ExtraAdam's saved copy is in the checkpoint."""
    _train(tmp_path / "run", "--steps", "5")
    _train(tmp_path / "run", "--steps", "8", "--resume", "auto")
    one, other = (
        torch.load(next((f / "checkpoints").rglob("*.pt")), weights_only=True)
        for f in (smoke, tmp_path / "run")
    )
    assert one is not None and other is not None
