"""Classes and functions out of a user's own Python file, which the command line names.

Such a file is run: it may do whatever a script may. So a file is only ever taken from what the user
typed, never from a checkpoint, a snapshot or any other file; those keep the bare name of a class,
and whoever loads one names its file again.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from storage.errors import RunError, UsageError, one_line

_PREFIX = "user_code."


def load_object(place: str, what: str = "object") -> Any:
    """What is called NAME in FILE, of a place "FILE.py:NAME". what: in words, for messages.

    Errors: UsageError for a place of another form, and as `load_file`.
    """
    file, colon, name = place.rpartition(":")
    if not colon or not file.endswith(".py") or not name.isidentifier():
        raise UsageError(f"{what} {place!r}: give FILE.py:NAME, a Python file and a name in it")
    module = load_file(file, what)
    if name not in vars(module):
        own = ", ".join(_public(module)) or "nothing"
        raise UsageError(f"{what} {place!r}: {file} has no {name}; it has {own}")
    return vars(module)[name]


def load_classes(
    file: str | Path, kinds: type | tuple[type, ...], what: str = "blocks"
) -> dict[str, type]:
    """The classes that FILE itself defines and that are of one of these kinds, by name.

    Errors: UsageError where there is none, and as `load_file`.
    """
    module = load_file(file, what)
    found = {
        name: value
        for name, value in vars(module).items()
        if inspect.isclass(value) and value.__module__ == module.__name__
        if issubclass(value, kinds) and not name.startswith("_")
    }
    if not found:
        names = [k.__name__ for k in (kinds if isinstance(kinds, tuple) else (kinds,))]
        raise UsageError(f"{what} {file}: it defines no {' or '.join(names)}")
    return found


def load_file(file: str | Path, what: str = "file") -> ModuleType:
    """A Python file, run once a process however often it is asked for.

    Files beside it can be imported by it. Errors: UsageError for a file that is missing, or whose
    code fails: where, and with what.
    """
    path = Path(file).expanduser().resolve()
    if path.suffix != ".py":
        raise UsageError(f"{what} {file}: not a Python file (.py)")
    if not path.is_file():
        raise UsageError(f"{what} {file}: no such file")
    name = f"{_PREFIX}{path.stem}_{abs(hash(str(path))):x}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # of a .py file there is one
    module = importlib.util.module_from_spec(spec)
    # Known by its name while it runs: dataclasses and pickles of data workers look there.
    sys.modules[name] = module
    sys.path.insert(0, str(path.parent))
    try:
        with at_work(file, what):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.path.remove(str(path.parent))
    return module


@contextmanager
def at_work(place: str | Path, what: str) -> Iterator[None]:
    """Whatever fails inside is the file's: of a place FILE.py, or FILE.py:NAME.

    Errors: UsageError that says in which line and with what; those of this toolkit as they are.
    """
    file = str(place) if str(place).endswith(".py") else str(place).rpartition(":")[0]
    path = Path(file).expanduser().resolve()
    try:
        yield
    except RunError:
        raise
    except Exception as error:
        raise UsageError(f"{what} {place}{_line(error, path)}: {_said(error)}") from error


def blame(error: BaseException) -> str:
    """Whose an error is: "FILE, line 7", the last place in a loaded file that it went through; ""
    if in none."""
    files = {
        module.__file__ for name, module in list(sys.modules.items()) if name.startswith(_PREFIX)
    }
    places = [f for f in traceback.extract_tb(error.__traceback__) if f.filename in files]
    return f"{places[-1].filename}, line {places[-1].lineno}" if places else ""


def _public(module: ModuleType) -> list[str]:
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]


def _line(error: Exception, path: Path) -> str:
    """The line of the file that was at work when it failed, as ", line 7"."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f", line {error.lineno}"
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    return f", line {lines[-1]}" if lines else ""


def _said(error: Exception) -> str:
    text = error.msg if isinstance(error, SyntaxError) else one_line(error, 200)
    return text if text == type(error).__name__ else f"{type(error).__name__}: {text}"
