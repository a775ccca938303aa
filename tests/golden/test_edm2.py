"""Golden vectors of EDM2, selection, sampling and the 2-D tree: `<golden-dir>/edm2`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.golden import (
    edm2_net_checks,
    edm2_sampling_checks,
    edm2_selection_checks,
    edm2_toy_checks,
)
from tests.golden.support import check_file, files_of, vectors_of

pytestmark = pytest.mark.golden
SYSTEM = "edm2"
FAMILIES = {
    **edm2_net_checks.FAMILIES,
    **edm2_selection_checks.FAMILIES,
    **edm2_sampling_checks.FAMILIES,
    **edm2_toy_checks.FAMILIES,
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    vectors_of(metafunc, SYSTEM)


def test_folder_has_vectors(golden_dir: Path):
    assert files_of(golden_dir / SYSTEM), f"no golden vectors in {golden_dir / SYSTEM}"


def test_file(path: Path):
    check_file(path, FAMILIES)
