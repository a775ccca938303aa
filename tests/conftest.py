"""Fixtures that every test may use; the options are in the conftest.py above."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """No test writes into the user's own data, models or results, nor needs a network."""
    home = tempfile.mkdtemp(prefix="imle-lab-tests-")
    for name in ("DATA_HOME", "MODELS_HOME", "RESULTS_HOME"):
        os.environ[name] = str(Path(home) / name.lower())
    os.environ["IMLE_LAB_NETWORKS"] = "http://127.0.0.1:9"  # where nothing answers
    os.environ["IMLE_LAB_DIRS"] = str(Path(home) / "dirs.json")
    config.add_cleanup(lambda: shutil.rmtree(home, ignore_errors=True))


@pytest.fixture(scope="session", autouse=True)
def no_curves() -> Iterator[None]:
    """Runs of tests draw no curves.png, which is a second each; `curves` gives it back."""
    try:
        from runtime.tracker import Tracker
    except ModuleNotFoundError:  # without what training needs there are no runs
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tracker, "drawn_curves", Tracker.curves, raising=False)
        patch.setattr(Tracker, "curves", lambda self: self.dir / "curves.png")
        yield


@pytest.fixture
def curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of this test draw their curves.png."""
    from runtime.tracker import Tracker

    monkeypatch.setattr(Tracker, "curves", Tracker.drawn_curves)  # type: ignore[attr-defined]


@pytest.fixture
def golden_dir(request: pytest.FixtureRequest) -> Path:
    """The folder given by --golden-dir."""
    return request.config.getoption("--golden-dir")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread of torch: the same roundings everywhere."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
