"""Options and fixtures that every test may use."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import golden_option


def pytest_addoption(parser: pytest.Parser) -> None:
    golden_option.pytest_addoption(parser)


@pytest.fixture
def golden_dir(request: pytest.FixtureRequest) -> Path:
    """The folder given by --golden-dir."""
    return request.config.getoption("--golden-dir")
