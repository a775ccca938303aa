"""The options of the tests, here because pytest reads a conftest.py of the folders it is started in
and of all above the tests it is given, before it understands its command line."""

from tests.golden_option import pytest_addoption

__all__ = ["pytest_addoption"]
