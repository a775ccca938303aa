"""The option --golden-dir, which `conftest.py` at the top takes from here.

Versions before installed this module as a plugin of pytest; where such an installation is still
there, the option is added by that and not again.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

DEFAULT = Path(__file__).parent / "golden" / "vectors"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the option, unless it is there."""
    with contextlib.suppress(ValueError):
        parser.addoption(
            "--golden-dir",
            type=Path,
            default=DEFAULT,
            metavar="DIR",
            help="golden vectors, one subfolder a system (imle, ..); default tests/golden/vectors",
        )
