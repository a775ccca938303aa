"""The effective rank of an encoder's features in the log, and the warning that they collapsed."""

from types import SimpleNamespace

import pytest
import torch

import models.simclr
from recipes.simclr import figures
from tests.data.pictures import encoded
from tests.scripts import simclr_support
from tests.scripts.support import metrics


@pytest.mark.parametrize("collapsed", [True, False])
def test_a_collapse_is_said(collapsed):
    said, logged = [], {}
    run = SimpleNamespace(is_main=True, say=said.append, log_now=lambda **new: logged.update(new))
    h = torch.randn(200, 16, generator=torch.Generator().manual_seed(0))
    figures._log_rank(run, 1 + 1e-4 * h if collapsed else h)
    assert any("WARNING: the features have collapsed" in line for line in said) == collapsed
    assert (logged["health/effective_rank"] < 2) == collapsed
    assert logged["health/effective_rank"] <= 16


def test_pictures_without_classes_have_a_rank_at_every_evaluation(tmp_path, monkeypatch):
    monkeypatch.setattr(models.simclr, "build_backbone", simclr_support.small_backbone)
    (tmp_path / "mine").mkdir()
    for k in range(24):
        (tmp_path / "mine" / f"{k}.png").write_bytes(encoded(k))
    words = ["--data", str(tmp_path / "mine"), "--bs", "8", "--epochs", "3", "--eval_iter", "1"]
    simclr_support.train(tmp_path / "run", *words)
    found = metrics(tmp_path / "run", "health/effective_rank")
    assert list(found) == [3, 6, 9] and all(1 <= rank <= 24 for rank in found.values())
