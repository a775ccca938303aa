"""Golden vectors of what came after CAM-Net (CHIMLE, Adaptive IMLE, RS-IMLE):
`<golden-dir>/imle_frontier`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.golden.imle_frontier_checks import FAMILIES
from tests.golden.support import check_file, files_of, vectors_of

pytestmark = pytest.mark.golden
SYSTEM = "imle_frontier"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    vectors_of(metafunc, SYSTEM)


def test_folder_has_vectors(golden_dir: Path):
    assert files_of(golden_dir / SYSTEM), f"no golden vectors in {golden_dir / SYSTEM}"


def test_file(path: Path):
    check_file(path, FAMILIES)
