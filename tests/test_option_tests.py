"""Every option of every command has a test that shows its effect: the table is tests/options/.

One file a command, as in tests/cli/, one line an option:

    --lr tests/scripts/test_options_imle.py::test_an_option_changes_what_it_should

The benchmarks have none. An argument without dashes, <runs>, needs a line too.

The test shows what the option does (other sizes, figures, pictures, files), or that it is refused
where it does nothing; parsing it is not enough. What is checked here is that no option lacks a
line, that no line is left over, and that the source of the test - what it uses of its own module
included, so its table of cases too - names the option. Whether it shows the effect, whoever writes
the line must see.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests import frozen_cli

ROOT = frozen_cli.ROOT
TABLE = Path(__file__).parent / "options"


def options(command: str) -> dict[str, set[str]]:
    """{option or <argument> of a command: every name for it}, of the frozen command line."""
    found: dict[str, set[str]] = {}
    lines = frozen_cli.read(command)
    for line in lines:
        if dest := re.search(r" \| dest (\S+) \| ", line):
            names = line.split(" ")[0].split("/")
            long = [name for name in names if name.startswith(("--", "<"))]
            found[(long or names)[0]] = {*names, dest[1]}
    for line in lines:
        if same := re.fullmatch(r"(--\S+) \| hidden, the same as (\S+)", line):
            found[same[2].split("/")[0]].add(same[1])
    return found


def table(command: str) -> list[tuple[str, str]]:
    """(option, node id) of every line."""
    file = TABLE / f"{command}.txt"
    lines = file.read_text().splitlines() if file.exists() else []
    return [(line.split(" ")[0], line.split(" ", 1)[1]) for line in lines]


@cache
def module(path: str) -> tuple[dict[str, ast.stmt], str]:
    """{name: statement at the top of a module that defines it}, and the module's text."""
    text = (ROOT / path).read_text()
    defined: dict[str, ast.stmt] = {}
    for statement in ast.parse(text).body:
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            defined[statement.name] = statement
        elif isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = getattr(statement, "targets", None) or [statement.target]
            defined |= {t.id: statement for t in targets if isinstance(t, ast.Name)}
    return defined, text


def used(path: str, name: str) -> Iterator[str]:
    """Source of what defines `name` in a module, and of all of the module that it uses."""
    defined, text = module(path)
    waiting, seen = [name], set()
    while waiting:
        here = waiting.pop()
        if here in seen or here not in defined:
            continue
        seen.add(here)
        statement = defined[here]
        first = min(
            [statement.lineno, *(d.lineno for d in getattr(statement, "decorator_list", []))]
        )
        yield "\n".join(text.splitlines()[first - 1 : statement.end_lineno])
        waiting += [n.id for n in ast.walk(statement) if isinstance(n, ast.Name)]
        waiting += [n.arg for n in ast.walk(statement) if isinstance(n, ast.arg)]  # fixtures


def exists(node: str) -> bool:
    """Whether a node id is that of a test."""
    path, _, name = node.partition("::")
    if not (name.startswith("test_") and (ROOT / path).is_file()):
        return False
    return isinstance(module(path)[0].get(name), ast.FunctionDef)


def names_it(node: str, names: set[str]) -> bool:
    """Whether the source of a test has one of the names of an option as a word of its own."""
    path, _, name = node.partition("::")
    words = {n.strip("<>") for n in names}
    no = {f"--no-{w[2:]}" for w in words if w.startswith("--")}
    either = "|".join(re.escape(w) for w in sorted(words | no, key=len, reverse=True))
    pattern = re.compile(rf"(?<![\w-])(?:{either})(?![\w-])")
    return any(pattern.search(source) for source in used(path, name))


# The benchmarks' own options are few and of no run; their tests are in tests/benchmarks.
COMMANDS = [name for name in frozen_cli.COMMANDS if not name.startswith("benchmarks.")]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_a_test_that_shows_its_effect(command):
    known, lines = options(command), table(command)
    listed = [option for option, _ in lines]
    wrong = [f"{option} has no line" for option in known if option not in listed]
    wrong += [f"{option} is no option" for option in listed if option not in known]
    wrong += [f"{option} has two lines" for option in set(listed) if listed.count(option) > 1]
    for option, node in lines:
        if option in known and not exists(node):
            wrong.append(f"{option}: there is no test {node}")
        elif option.startswith("--") and option in known and not names_it(node, known[option]):
            wrong.append(f"{option}: {node} does not name it")
    assert not wrong, f"tests/options/{command}.txt:\n" + "\n".join(wrong)


def test_there_is_no_table_of_what_is_gone():
    assert {file.stem for file in TABLE.glob("*.txt")} == set(COMMANDS)


def test_what_is_wrong_is_seen():
    here = "tests/test_option_tests.py"
    assert exists(f"{here}::test_what_is_wrong_is_seen") and not exists(f"{here}::options")
    assert not exists("tests/nowhere.py::test_x")
    node = f"{here}::test_the_table_of_cases_counts"
    assert names_it(node, {"--planted", "planted"}) and names_it(node, {"--helped"})
    assert not names_it(node, {"--plant"}) and not names_it(node, {"--elsewhere"})


CASES = ["--planted 1"]
ELSEWHERE = ["--elsewhere"]


def helper() -> str:
    return "--helped"


@pytest.mark.parametrize("words", CASES)
def test_the_table_of_cases_counts(words):
    assert words.split()[0] != helper()
