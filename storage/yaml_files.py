"""YAML as data: `&` and `<<` work, nothing foreign is made, and what YAML 1.1 reads by surprise is
left a text.

PyYAML follows YAML 1.1, where `12:00:00` is the number 43200, `010` is 8 and `2020-01-01` a date.
Here they are texts. `1e-3` is a text there too, and stays one, since other programs read the same
file: `runtime.settings` says so where a number belongs. `yes`, `no`, `on`, `off` are true or false.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from storage.errors import first_line
from storage.files import read_bytes

DEEPEST = 40  # sections in sections; a file that contains itself has no end
LARGEST_FILE = 1 << 26  # bytes
LARGEST = 200_000  # values: a few lines of `&` and `*` can mean more than memory holds
_NUMBERS = {
    "int": r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0b[01_]+)$",
    "float": r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+][0-9]+)?$"
    r"|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$",
}
_TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """SafeLoader with fewer surprises; a key that stands twice in one section is refused."""

    yaml_implicit_resolvers = {
        first: [
            pair for pair in pairs if pair[0].removeprefix(_TAG) not in (*_NUMBERS, "timestamp")
        ]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[str, int] = {}
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            line = key.start_mark.line + 1
            if key.tag == f"{_TAG}merge" or not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise ValueError(
                    f"line {line}: {key.value!r} stands in line {seen[key.value]} already"
                )
            seen[key.value] = line
        return super().construct_mapping(node, deep)


for _name, _pattern in _NUMBERS.items():
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(_pattern), list("-+.0123456789"))


class _Dumper(yaml.SafeDumper):
    """SafeDumper that writes what stands in two places twice, instead of `&id001`."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def read_yaml(file: Path) -> Any:
    """What a YAML file says: None for an empty one, else mappings with texts as keys, lists, texts,
    numbers, True, False, None. Errors: ValueError, one line that begins with the file's name.
    """
    try:
        text = read_bytes(file, LARGEST_FILE).decode("utf-8-sig")
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: is no text in UTF-8 ({error.reason})") from None
    try:
        return parse_yaml(text)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def parse_yaml(text: str) -> Any:
    """What YAML says, as `read_yaml`. Errors: ValueError, one line."""
    loader = None
    try:
        loader = _Loader(text)
        value = loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        why = error.problem or error.context or "no YAML"
        why = f"{error.context}, {why}" if why.startswith("but ") else why
        raise ValueError(where + first_line(Exception(why), 120)) from None
    except yaml.YAMLError as error:
        raise ValueError(f"is no YAML ({first_line(error, 120)})") from None
    except RecursionError:
        raise ValueError(f"more than {DEEPEST} sections lie in one another") from None
    finally:
        if loader is not None:
            loader.dispose()
    _check(value, "", [0], 0)
    return value


def _check(value: Any, path: str, count: list[int], depth: int) -> None:
    """ValueError for keys and values that are no plain data, and for what has no end."""
    count[0] += 1
    if depth > DEEPEST or count[0] > LARGEST:
        raise ValueError(
            f"{path[:60]}: more than {DEEPEST} sections lie in one another"
            if depth > DEEPEST
            else f"means more than {LARGEST} values"
        )
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"{path}{key!r}: a key has to be a text; put it in quotes")
            _check(item, f"{path}{key}.", count, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check(item, path, count, depth + 1)
    elif not (value is None or isinstance(value, str | bool | int | float)):
        raise ValueError(f"{path.rstrip('.')}: {type(value).__name__} is no plain value")


def yaml_text(value: Any) -> str:
    """Plain values as YAML, keys in their order. Errors: ValueError for what is none of mappings,
    lists, texts, numbers, True, False, None."""
    _check(value, "", [0], 0)
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=96)
