"""Golden vectors of omnigan: `<golden-dir>/omnigan`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.golden import omnigan_loss_checks, omnigan_net_checks
from tests.golden.support import check_file, files_of, vectors_of

pytestmark = pytest.mark.golden
SYSTEM = "omnigan"
FAMILIES = {**omnigan_net_checks.FAMILIES, **omnigan_loss_checks.FAMILIES}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    vectors_of(metafunc, SYSTEM)


def test_folder_has_vectors(golden_dir: Path):
    assert files_of(golden_dir / SYSTEM), f"no golden vectors in {golden_dir / SYSTEM}"


def test_file(path: Path):
    check_file(path, FAMILIES)
