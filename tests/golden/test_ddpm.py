"""Golden vectors of DDPM, DDIM and layout-conditioned diffusion: `<golden-dir>/ddpm`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.golden import ddpm_math_checks, ddpm_net_checks
from tests.golden.support import check_file, files_of, vectors_of

pytestmark = pytest.mark.golden
SYSTEM = "ddpm"
FAMILIES = {
    **ddpm_math_checks.FAMILIES,
    **ddpm_net_checks.FAMILIES,
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    vectors_of(metafunc, SYSTEM)


def test_folder_has_vectors(golden_dir: Path):
    assert files_of(golden_dir / SYSTEM), f"no golden vectors in {golden_dir / SYSTEM}"


def test_file(path: Path):
    check_file(path, FAMILIES)
