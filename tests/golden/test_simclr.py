"""Golden vectors of SimCLR: losses, optimisers, probes, views: `<golden-dir>/simclr`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.golden import simclr_loss_checks, simclr_probe_checks, simclr_view_checks
from tests.golden.support import check_file, files_of, vectors_of

pytestmark = pytest.mark.golden
SYSTEM = "simclr"
FAMILIES = {
    **simclr_loss_checks.FAMILIES,
    **simclr_probe_checks.FAMILIES,
    **simclr_view_checks.FAMILIES,
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    vectors_of(metafunc, SYSTEM)


def test_folder_has_vectors(golden_dir: Path):
    assert files_of(golden_dir / SYSTEM), f"no golden vectors in {golden_dir / SYSTEM}"


def test_file(path: Path):
    check_file(path, FAMILIES)
