"""Arguments that come as a dict, checked against what takes them."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

Made = TypeVar("Made")


def made_of(make: Callable[..., Made], given: Mapping[str, Any], where: str) -> Made:
    """make(**given). Errors: ValueError for a name that it does not take, with the nearest one, and
    for what it refuses; both begin with `where`."""
    check_names(given, inspect.signature(make).parameters, where)
    try:
        return make(**given)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def check_names(given: Mapping[str, Any], known: Mapping[str, Any], where: str) -> None:
    """Errors: ValueError for a name that is not known, with the nearest one."""
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(str(name), list(known), 1)
            meant = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise ValueError(f"{where}: {name!r} is no argument; {meant}")


def defaults_of(make: Callable[..., Any]) -> dict[str, Any]:
    """The arguments that have a default, with it."""
    parameters = inspect.signature(make).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
