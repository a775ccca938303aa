"""What a constructor accepts, read off its own signature: types, bounds, defaults.

A parameter is annotated once, where it stands:

    def __init__(self, img_channels: Annotated[int, Between(1, 1024)], dropout: Share = 0.0, ...)

and whoever takes arguments from a file checks them against that. Nothing is checked when the
constructor itself is called.
"""

from __future__ import annotations

import functools
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

_MAX_VALUES = 32  # of an argument that is a list
_MAX_TEXT = 1000
_MAX_PARTS, _LEVELS = 64, 6  # of settings that are objects
_DEEP = re.compile(r"^n_(?!classes)|blocks|layers|depth")  # names of how many in a row


class Between(NamedTuple):
    """Lowest and highest value of a number, both allowed."""

    low: float
    high: float


# Kinds of arguments that networks of every kind have, and how far a file, or a command, may go.
Share = Annotated[float, Between(0, 1)]
Width = Annotated[int, Between(1, 1 << 16)]  # channels, dimensions
Count = Annotated[int, Between(0, 1 << 16)]  # of channels, components, classes, that may be none
Depth = Annotated[int, Between(1, 256)]  # blocks or layers in a row
Side = Annotated[int, Between(1, 8192)]  # pixels
Multiple = Annotated[float, Between(0, 1024)]  # of a width
Classes = Annotated[int, Between(0, 1 << 20)]


class Argument(NamedTuple):
    """One parameter: of which type its values are, whether it is a list of them or may be None."""

    type: type
    bounds: Between | None
    many: bool
    optional: bool
    positional: bool
    default: Any  # inspect.Parameter.empty: it must be given

    def fits(self, value: Any) -> bool:
        """Whether a value is one that the constructor may be given."""
        if value is None:
            return self.optional
        if not self.many:
            return self._fits(value)
        listed = isinstance(value, (list, tuple)) and len(value) <= _MAX_VALUES
        return listed and all(map(self._fits, value))

    def _fits(self, value: Any) -> bool:
        if self.type is object:
            return is_modest(value)
        if self.type is str:
            return isinstance(value, str) and len(value) <= _MAX_TEXT
        if self.type is bool:
            return isinstance(value, bool)
        if not is_number(value) or (self.type is int and type(value) is not int):
            return False
        return self.bounds is None or self.bounds.low <= value <= self.bounds.high


@functools.cache  # annotations are strings, to be evaluated once
def arguments(make: Callable[..., Any]) -> dict[str, Argument]:
    """The parameters of a constructor, or a partial of one, by name, in its order.

    Words may be any (the constructor knows which there are), and so may mappings and devices: their
    type is str or object. Errors: TypeError for a kind of annotation that is not understood."""
    make = make.func if isinstance(make, functools.partial) else make
    # a class's hints are those of its attributes
    hinted = make.__init__ if isinstance(make, type) else make  # type: ignore[misc]
    hints = typing.get_type_hints(hinted, include_extras=True)
    found = {}
    for name, parameter in inspect.signature(make).parameters.items():
        # without one, as torch's own modules have device and dtype in some versions: anything
        kind, bounds, many, optional = _taken_apart(hints.get(name, Any))
        positional = parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        found[name] = Argument(kind, bounds, many, optional, positional, parameter.default)
    return found


def _taken_apart(hint: Any) -> tuple[type, Between | None, bool, bool]:
    """(type of a value, its bounds, whether a list, whether None is allowed) of an annotation."""
    bounds, many, optional = None, False, False
    if hint is Any:
        return object, None, False, True
    while not isinstance(hint, type) or typing.get_origin(hint) is not None:
        origin, inner = typing.get_origin(hint), typing.get_args(hint)
        if origin is Annotated:
            bounds = next((m for m in inner[1:] if isinstance(m, Between)), bounds)
            hint = inner[0]
        elif origin in (typing.Union, types.UnionType) and len(inner) == 2 and type(None) in inner:
            optional = True
            hint = next(h for h in inner if h is not type(None))
        elif origin is Sequence:
            many, hint = True, inner[0]
        elif origin is Literal:
            hint = str
        elif hint is Any or origin is Mapping or origin in (typing.Union, types.UnionType):
            optional, hint = True, object
        else:
            raise TypeError(f"no bounds can be read off the annotation {hint}")
    return hint, bounds, many, optional


def given_arguments(
    make: Callable[..., Any], args: Sequence[Any], keywords: Mapping[str, Any]
) -> dict[str, Any]:
    """All arguments of a constructor by name, of those that a file gives: JSON values.

    Errors: ValueError for an unknown, a missing or an impossible one.
    """
    made: Any = make.func if isinstance(make, functools.partial) else make
    table, name = arguments(make), made.__name__
    if len(args) > sum(argument.positional for argument in table.values()):
        raise ValueError(f"has a {name} made with other arguments than it takes")
    given = dict(keywords)
    for key, value in zip(table, args, strict=False):
        if key in given:
            raise ValueError(f"has a {name} with two values of {key}")
        given[key] = value
    if unknown := [str(key)[:80] for key in given if key not in table]:
        raise ValueError(f"has a {name} with an unknown argument {unknown[0]}")
    config = {}
    for key, argument in table.items():
        value = given.get(key, argument.default)
        if value is inspect.Parameter.empty:
            raise ValueError(f"has a {name} without its {key}")
        if not argument.fits(value):
            raise ValueError(f"has a {name} with {key} {_said(value)}")
        config[key] = list(value) if argument.many and value is not None else value
    return config


def is_number(value: Any) -> bool:
    """Whether a value is an int or a float of a size that arithmetic stands; a bool is none."""
    return type(value) in (int, float) and abs(value) < 1e300


def is_modest(value: Any, key: str = "", level: int = 0) -> bool:
    """Whether settings without bounds of their own, as of a part of a network, are of a size that
    networks have: counts up to 2^16, of layers up to 256, lists and objects of 64."""
    if isinstance(value, dict) and level < _LEVELS:
        names = len(value) <= _MAX_PARTS and all(isinstance(k, str) for k in value)
        return names and all(is_modest(v, k, level + 1) for k, v in value.items())
    if isinstance(value, (list, tuple)) and level < _LEVELS:
        return len(value) <= _MAX_PARTS and all(is_modest(v, key, level + 1) for v in value)
    if isinstance(value, str):
        return len(value) <= _MAX_TEXT
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return is_number(value) and abs(value) <= (256 if _DEEP.search(key) else 1 << 16)
    return value is None or not isinstance(value, (dict, list, tuple))


def _said(value: Any) -> str:
    """A value from a file for a message; never the text of something deep or huge."""
    if isinstance(value, str):
        return ascii(value[:60])
    if value is None or isinstance(value, (bool, float)):
        return repr(value)
    if isinstance(value, int):
        return repr(value) if value.bit_length() < 200 else "a huge number"
    if isinstance(value, (list, tuple)) and len(value) <= 8:
        parts = [_said(v) if isinstance(v, (int, float)) else "..." for v in value]
        return f"[{', '.join(parts)}]"
    return f"a {type(value).__name__}"
