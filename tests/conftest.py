"""Options and fixtures that every test may use."""

from __future__ import annotations

from pathlib import Path

import pytest

DEFAULT_GOLDEN_DIR = Path(__file__).parent / "golden" / "vectors"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden-dir",
        type=Path,
        default=DEFAULT_GOLDEN_DIR,
        metavar="DIR",
        help="golden vectors, one subfolder per system (imle, ...); default tests/golden/vectors",
    )


@pytest.fixture
def golden_dir(request: pytest.FixtureRequest) -> Path:
    """The folder given by --golden-dir."""
    return request.config.getoption("--golden-dir")
