"""Nested settings, as YAML files have them: merged, checked against a schema, set by a word.

    SCHEMA = {
        "gen": {
            "opt": {"lr": Leaf(positive_float, 5e-4, "learning rate")},
            "encoder": {"dim": Leaf(positive_int, 32, "channels at full resolution")},
        },
    }
    settings = merge(defaults(SCHEMA), checked(read_yaml(file), SCHEMA, str(file)))
    settings = merge(settings, checked(assigned("gen.opt.lr=1e-3"), SCHEMA, "--set"))

A section is a mapping, a leaf has a kind as a row of `runtime.options` has one: `bool`, a tuple of
allowed words, a type of `runtime.types`; and beside these `Each(kind)`, a list, and `dict`, any
mapping.
Every mistake is one line: where it stands, the setting by its dotted name, what to write instead.
"""

from __future__ import annotations

import argparse
import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from runtime.near import closest, hint
from runtime.types import metavar_of
from storage.yaml_files import parse_yaml

NUMBERS = ("N", "FLOAT")  # what types of numbers call their values


@dataclass(frozen=True)
class Each:
    """Kind of a list: every element is of one kind. least: elements that it has at least."""

    kind: Any
    least: int = 0


@dataclass(frozen=True)
class Leaf:
    """A setting. default: None says that null is a value of it. check: of the whole value, after
    its kind; it returns the value or raises ValueError. tags: as of options (`EXECUTION`)."""

    kind: Any
    default: Any
    help: str = ""
    tags: tuple[str, ...] = ()
    check: Callable[[Any], Any] | None = None


Schema = Mapping[str, Any]  # of Leaf or Schema


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with what `over` says instead, section by section; lists are replaced whole. Neither
    is changed, and nothing in the result is theirs."""
    out = {key: copy.deepcopy(value) for key, value in base.items()}
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
        out[key] = merge(out[key], value) if both else copy.deepcopy(value)
    return out


def flat(config: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """{"a.b": value} of nested settings. Lists and empty sections are values."""
    out: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            out |= flat(value, f"{above}{key}.")
        else:
            out[above + key] = value
    return out


def nested(config: Mapping[str, Any]) -> dict[str, Any]:
    """The reverse of `flat`. Errors: ValueError where a name is a value and a section too."""
    out: dict[str, Any] = {}
    for name, value in config.items():
        *sections, last = name.split(".")
        here = out
        for section in sections:
            here = here.setdefault(section, {})
            if not isinstance(here, dict):
                raise ValueError(f"{name}: {section} is a value already")
        here[last] = value
    return out


def assigned(word: str) -> dict[str, Any]:
    """`a.b=c` as nested settings, {"a": {"b": c}}; c is read as YAML, but `1e-3` as a number.

    Errors: ValueError, one line.
    """
    name, equals, text = word.partition("=")
    if not equals or not all(part.strip() == part and part for part in name.split(".")):
        raise ValueError(f"{word!r} is no setting: NAME.NAME=VALUE")
    try:
        value = parse_yaml(text)
    except ValueError as error:
        raise ValueError(f"{name}: {text!r}: {error}") from None
    number = _as_number(value)
    return nested({name: value if number is None else number})


def leaves(schema: Schema, above: str = "") -> Iterator[tuple[str, Leaf]]:
    """(dotted name, leaf) of all settings, in order."""
    for key, part in schema.items():
        if isinstance(part, Leaf):
            yield above + key, part
        else:
            yield from leaves(part, f"{above}{key}.")


def defaults(schema: Schema) -> dict[str, Any]:
    """All settings at their defaults."""
    return {
        key: copy.deepcopy(part.default) if isinstance(part, Leaf) else defaults(part)
        for key, part in schema.items()
    }


def unlike_defaults(config: Mapping[str, Any], schema: Schema, *without: str) -> dict[str, Any]:
    """{dotted name: value} of settings that are not at their default, but for leaves with one of
    the tags `without`: what a run is known by, so that a new setting changes no earlier run."""
    found: dict[str, Any] = {}
    for name, leaf in leaves(schema):
        value = at(config, name)
        if value != leaf.default and not set(leaf.tags) & set(without):
            found[name] = value
    return found


def at(config: Mapping[str, Any], name: str) -> Any:
    """The value of a dotted name. Errors: KeyError."""
    value: Any = config
    for part in name.split("."):
        value = value[part]
    return value


def checked(config: Any, schema: Schema, where: str) -> dict[str, Any]:
    """What a file or an option says, every name known and every value of its kind; nothing is
    filled in. None counts as an empty section.

    Errors: ValueError, one line that begins with `where`.
    """
    try:
        return _section(config, schema, "", schema)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _section(config: Any, schema: Schema, above: str, whole: Schema) -> dict[str, Any]:
    if config is None:
        return {}
    if not isinstance(config, Mapping):
        name = above.rstrip(".") or "it"
        raise ValueError(
            f"{name} is a section ({', '.join(list(schema)[:4])}, ..), not {config!r}"[:200]
        )
    out: dict[str, Any] = {}
    for key, value in config.items():
        part = schema.get(key)
        if part is None:
            raise ValueError(f"{above}{key} is no setting{hint(_meant(key, above, schema, whole))}")
        name = f"{above}{key}"
        if isinstance(part, Leaf):
            out[key] = _leaf(value, part, name)
        else:
            out[key] = _section(value, part, f"{name}.", whole)
    return out


def _meant(key: str, above: str, schema: Schema, whole: Schema) -> str | None:
    """The setting that an unknown key was probably meant for: beside it, or else anywhere."""
    near = closest(key, list(schema))
    if near is not None:
        return above + near
    named = [name for name, _ in leaves(whole) if name.rpartition(".")[2] == key]
    return named[0] if len(named) == 1 else None


def _leaf(value: Any, leaf: Leaf, name: str) -> Any:
    if value is None:
        if leaf.default is None:
            return None
        raise ValueError(f"{name} has no value; its default is {leaf.default!r}")
    found = _value(value, leaf.kind, name)
    if leaf.check is None:
        return found
    try:
        return leaf.check(found)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _value(value: Any, kind: Any, name: str) -> Any:
    if isinstance(kind, Each):
        if not isinstance(value, list):
            raise ValueError(f"{name} is a list, [..], not {value!r}")
        if len(value) < kind.least:
            raise ValueError(f"{name} needs {kind.least} value or more")
        return [_value(item, kind.kind, f"{name}[{i}]") for i, item in enumerate(value)]
    if kind is dict:
        if not isinstance(value, Mapping):
            raise ValueError(f"{name} is a section, not {value!r}")
        return copy.deepcopy(dict(value))
    if isinstance(value, list | dict):
        raise ValueError(f"{name} is one value, not {value!r}"[:200])
    if kind is bool:
        if isinstance(value, bool):
            return value
        raise ValueError(f"{name} {value!r} is not true or false")
    if isinstance(kind, tuple):
        return _word(value, kind, name)
    return _typed(value, kind, name)


def _word(value: Any, words: tuple[Any, ...], name: str) -> Any:
    for word in words:
        if type(word) is type(value) and word == value:
            return word
    if isinstance(value, bool) and any(isinstance(word, str) for word in words):
        raise ValueError(f"{name} {value}: YAML reads yes, no, on and off so; put it in quotes")
    near = closest(str(value), [str(word) for word in words])
    raise ValueError(f"{name} {value!r} is none of {', '.join(map(str, words))}{hint(near)}")


def _typed(value: Any, kind: Any, name: str) -> Any:
    """A value by a type of `runtime.types`, which is a function of a word."""
    numeric = metavar_of(kind) in NUMBERS
    if isinstance(value, bool):
        more = "" if numeric else ": YAML reads yes, no, on and off so; put it in quotes"
        raise ValueError(f"{name} {value} is not a {'number' if numeric else 'text'}{more}")
    if numeric and isinstance(value, str):
        number = _as_number(value)
        if number is None:
            raise ValueError(f"{name} {value!r} is not a number")
        raise ValueError(
            f"{name} {value!r} is a text: YAML reads a number in quotes, or one with e and without "
            f"a point, so; write {_written(number)}"
        )
    if not numeric and not isinstance(value, str):
        raise ValueError(f"{name} {value!r} is a number, not a text; put it in quotes")
    try:
        return kind(repr(value) if isinstance(value, float) else str(value))
    except argparse.ArgumentTypeError as error:
        raise ValueError(f"{name} {error}") from None


def _as_number(value: Any) -> int | float | None:
    """The number that a text looks like, as people write numbers; None for any other value."""
    if not isinstance(value, str) or not any(c.isdigit() for c in value) or "_" in value:
        return None
    try:
        return int(value)
    except ValueError:
        pass
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _written(number: int | float) -> str:
    """A number so that YAML reads it as one."""
    text = repr(number)
    return text.replace("e", ".0e", 1) if "e" in text and "." not in text else text
