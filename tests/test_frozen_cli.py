"""The command lines are promises: whatever goes, comes or changes must be seen here first.

After a wanted change: python -m tests.frozen_cli --write
"""

import argparse
import re
from pathlib import Path

import pytest

from tests import frozen_cli


@pytest.fixture(scope="module")
def found():
    return frozen_cli.tables(list(frozen_cli.COMMANDS))


@pytest.mark.parametrize("name", frozen_cli.COMMANDS)
def test_the_command_line_is_as_in_the_table(name, found):
    changed = frozen_cli.differences(frozen_cli.read(name), found[name])
    advice = "if that is wanted: python -m tests.frozen_cli --write"
    assert not changed, "\n".join([f"{name} has changed (- was, + is); {advice}", *changed])


def test_every_script_and_command_has_a_table():
    assert list(frozen_cli.unknown_files()) == []
    listed = {command[0] for command in frozen_cli.COMMANDS.values()}
    root = frozen_cli.ROOT
    scripts = {p.name for p in root.glob("*.py") if _is_command(p)}
    commands = {f"data/{p.name}" for p in (root / "data").glob("*.py") if _is_command(p)}
    benchmarks = {f"benchmarks.{p.stem}" for p in (root / "benchmarks").glob("*.py")}
    assert scripts <= listed
    assert {c for c in commands if _module(c) not in listed} <= listed
    assert {b for b in benchmarks if _is_command(root / f"{b.replace('.', '/')}.py")} <= listed


def _is_command(file: Path) -> bool:
    text = file.read_text()
    # The repository's own paths are added first in some, so that they run as a file too.
    return '\nif __name__ == "__main__":' in text and "argparse" in text


def _module(path: str) -> str:
    return path.removesuffix(".py").replace("/", ".")


# ------------------------------------------------------------------------- the table sees a change


def described(**changed) -> list[str]:
    options = dict(type=int, default=4, metavar="N", help="a number") | changed
    parser = argparse.ArgumentParser(prog="x", allow_abbrev=False)
    parser.add_argument("--number", **options)
    return frozen_cli.describe(parser)


@pytest.mark.parametrize(
    "change",
    [
        {"default": 5},
        {"default": "4"},
        {"type": float},
        {"type": str},
        {"type": lambda word: int(word) + 1},
        {"choices": (4, 5)},
        {"metavar": "M"},
        {"dest": "other"},
        {"required": True},
        {"nargs": "+"},
        {"action": "append"},
        {"help": argparse.SUPPRESS},
    ],
)
def test_a_planted_change_is_one_line(change):
    lost = frozen_cli.differences(described(), described(**change))
    assert [line[0] for line in lost] == ["-", "+"]
    assert all("--number" in line for line in lost)


def test_the_name_of_a_type_and_the_help_may_change():
    def whole(word: str) -> int:
        return int(re.sub("x", "x", word))

    def refused(word):
        try:
            return whole(word)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{word!r} is not a whole number") from None

    def under_another_name(word):
        return refused(word)

    assert described(type=refused) == described(type=under_another_name, help="something else")


def test_a_removed_option_and_a_changed_preset_are_seen():
    was = ["# x.py", "--a | dest a", "preset smoke: a=1"]
    assert frozen_cli.differences(was, [was[0], was[2]]) == ["---a | dest a"]
    assert frozen_cli.differences(was, [*was[:2], "preset smoke: a=2"]) == [
        "-preset smoke: a=1",
        "+preset smoke: a=2",
    ]
