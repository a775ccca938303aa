"""A user's own Python file: what is taken from it, and what is said where it cannot be."""

from __future__ import annotations

import enum

import pytest

from storage.errors import UsageError
from storage.user_code import load_classes, load_object

OWN = """
import dataclasses
from fractions import Fraction
from beside import FACTOR


@dataclasses.dataclass
class First:
    value: int = FACTOR


class Second(First):
    pass


class _Hidden(First):
    pass


def make():
    return Second()


LIMIT = 3
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "beside.py").write_text("FACTOR = 2\n")
    (tmp_path / "mine.py").write_text(OWN)
    return tmp_path


def test_what_a_file_has(folder):
    make = load_object(f"{folder}/mine.py:make", "function")
    assert make().value == 2 and load_object(f"{folder}/mine.py:LIMIT") == 3
    found = load_classes(folder / "mine.py", object)
    assert list(found) == ["First", "Second"]  # its own, not what it imports
    assert type(make()) is found["Second"]  # the file is run once
    assert list(load_classes(f"{folder}/mine.py", found["Second"])) == ["Second"]


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("mine.py", "give FILE.py:NAME, a Python file and a name in it"),
        ("mine.txt:First", "give FILE.py:NAME"),
        ("mine.py:two words", "give FILE.py:NAME"),
        ("none.py:First", "none.py: no such file"),
        ("mine.py:Nobody", "mine.py has no Nobody; it has First, Second, make"),
        ("broken.py:A", "broken.py, line 3: ZeroDivisionError: division by zero"),
        ("typo.py:A", "typo.py, line 2: SyntaxError: "),
        ("needs.py:A", "needs.py, line 1: ModuleNotFoundError: No module named 'not_there'"),
    ],
)
def test_files_that_cannot_be(folder, place, said):
    (folder / "broken.py").write_text("def f():\n    # why\n    return 1 / 0\nA = f()\n")
    (folder / "typo.py").write_text("x = 1\nclass A(:\n")
    (folder / "needs.py").write_text("import not_there\n")
    with pytest.raises(UsageError) as error:
        load_object(f"{folder}/{place}", "network")
    assert said in str(error.value) and str(error.value).startswith("network")
    assert "\n" not in str(error.value)


def test_a_file_without_blocks(folder):
    with pytest.raises(UsageError, match="beside.py: it defines no Enum or Flag"):
        load_classes(folder / "beside.py", (enum.Enum, enum.Flag))
    with pytest.raises(UsageError, match="not a Python file"):
        load_classes(folder, enum.Enum)
