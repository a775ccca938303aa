"""The option --golden-dir.

`tests/conftest.py` takes it from here. A plugin of its own as well (entry point `pytest11`, or
`-p tests.golden_option`), because in `pytest --golden-dir DIR` without a test path pytest takes DIR
for one, and then looks for conftest files there instead of here.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

DEFAULT = Path(__file__).parent / "golden" / "vectors"


def pytest_addoption(parser: pytest.Parser) -> None:
    with contextlib.suppress(ValueError):  # added before, by the plugin
        parser.addoption(
            "--golden-dir",
            type=Path,
            default=DEFAULT,
            metavar="DIR",
            help="golden vectors, one subfolder a system (imle, ..); default tests/golden/vectors",
        )
