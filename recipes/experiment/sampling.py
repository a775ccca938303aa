"""Values that are drawn: `{sample: list | range | uniform | cartesian | sequential, from: [...]}`.

    list        one of `from`
    range       one of start, start + step, ..., below stop: [stop], [start, stop] or with a step
    uniform     a number between low and high; with a third number, a list of so many
    cartesian   every combination of the values of all such parameters, one run each
    sequential  the values in turn

Draws are keyed by random seed, run, copy and the parameter's name: they stay the same when another
parameter comes or goes, and native Python values come out as they stand in the file.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from runtime.near import listed
from runtime.seeding import hash64

KINDS = ("list", "range", "uniform", "cartesian", "sequential")
SEARCHES = ("cartesian", "sequential")
MOST_RUNS = 1000  # of one experiment
_MOST_VALUES = 10_000  # of one uniform


@dataclass(frozen=True)
class Sampled:
    """A parameter whose value is drawn: a leaf of its tree, so that it is overridden whole."""

    kind: str
    values: tuple[Any, ...]


def mark(tree: Any, where: str) -> Any:
    """A tree of settings with its `{sample, from}` as `Sampled`. Errors: ValueError."""
    if isinstance(tree, list):
        return [mark(value, f"{where}[{k}]") for k, value in enumerate(tree)]
    if not isinstance(tree, Mapping):
        return tree
    if "sample" not in tree:
        return {key: mark(value, f"{where}.{key}") for key, value in tree.items()}
    if set(tree) != {"sample", "from"}:
        raise ValueError(f"{where} is sampled: it has `sample` and `from`, not {sorted(tree)}")
    kind, values = tree["sample"], tree["from"]
    if kind not in KINDS:
        raise ValueError(f"{where}: sample {kind!r} is not one of {listed(KINDS, str(kind))}")
    if not isinstance(values, list) or not values:
        raise ValueError(f"{where}: from {values!r} is no list of values, such as [1, 2]")
    if kind in ("range", "uniform"):
        _check_numbers(kind, values, where)
    return Sampled(kind, tuple(values))


def _check_numbers(kind: str, values: list[Any], where: str) -> None:
    for value in values:
        if isinstance(value, str):
            raise ValueError(
                f"{where}: from has the text {value!r}; YAML reads 1e-3 as one, 1.0e-3 is a number"
            )
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{where}: from has {value!r}, which is no number")
        if isinstance(value, float) and not math.isfinite(value) or abs(value) > 1e300:
            raise ValueError(f"{where}: from has {value!r}, which is not finite")
    if kind == "range":
        if len(values) > 3:
            raise ValueError(f"{where}: a range is [stop], [start, stop] or [start, stop, step]")
        if _range(tuple(values))[2] < 1:
            raise ValueError(f"{where}: from {values!r} is an empty range")
        return
    if len(values) not in (2, 3):
        raise ValueError(f"{where}: uniform is [low, high] or [low, high, size]")
    if len(values) == 3 and not (isinstance(values[2], int) and 1 <= values[2] <= _MOST_VALUES):
        raise ValueError(f"{where}: size {values[2]!r} is no whole number from 1 to {_MOST_VALUES}")


def _range(values: tuple[Any, ...]) -> tuple[Any, Any, int]:
    """(start, step, how many) of a range, its end left out."""
    start, stop = (0, values[0]) if len(values) == 1 else values[:2]
    step = values[2] if len(values) == 3 else 1
    count = 0 if step == 0 else max(0, math.ceil((stop - start) / step))
    if count and (start + step * (count - 1) - stop) * step >= 0:  # the quotient was rounded up
        count -= 1
    return start, step, count


def sampled_in(tree: Any, path: str = "") -> Iterator[tuple[str, Sampled]]:
    """(dotted name, `Sampled`) of each in a tree, in its order."""
    if isinstance(tree, Sampled):
        yield path, tree
    items: Any = ()
    if isinstance(tree, Mapping):
        items = ((f"{path}.{key}" if path else str(key), value) for key, value in tree.items())
    elif isinstance(tree, list):
        items = ((f"{path}[{k}]", value) for k, value in enumerate(tree))
    for name, value in items:
        yield from sampled_in(value, name)


def searches(tree: Any, n_search: int) -> int:
    """How many runs the searches in a tree make. n_search: so many, or -1 for all there are.

    All are the combinations of the cartesian ones, else the longest sequential one; 1 without any.
    Errors: ValueError for more than MOST_RUNS.
    """
    lengths: dict[str, list[int]] = {kind: [] for kind in SEARCHES}
    for _, each in sampled_in(tree):
        if each.kind in SEARCHES:
            lengths[each.kind].append(len(each.values))
    count = 1
    if lengths["cartesian"]:
        count = math.prod(lengths["cartesian"])
    elif lengths["sequential"]:
        count = max(lengths["sequential"])
    count = n_search if n_search != -1 else count
    if count > MOST_RUNS:
        raise ValueError(f"a search of {count} runs; n_search may be at most {MOST_RUNS}")
    return count


def draw(tree: Any, search: int, key: tuple[int | str, ...]) -> tuple[Any, dict[str, Any]]:
    """A tree with values drawn, and these by dotted name. search: number of the run in the search.

    key: what the draws depend on beside the parameter's name: random seed, run, copy, search.
    """
    values: dict[str, Any] = {}
    rest = search
    found = list(sampled_in(tree))
    for name, each in reversed(found):  # the last cartesian one turns fastest
        if each.kind == "cartesian":
            rest, at = divmod(rest, len(each.values))
            values[name] = each.values[at]
    for name, each in found:
        if each.kind == "sequential":
            values[name] = each.values[search % len(each.values)]
        elif each.kind != "cartesian":
            values[name] = _drawn(each, random.Random(hash64("experiment", *key, name)))
    return _replaced(tree, "", values.__getitem__), {name: values[name] for name, _ in found}


def _drawn(each: Sampled, rng: random.Random) -> Any:
    if each.kind == "list":
        return each.values[rng.randrange(len(each.values))]
    if each.kind == "range":
        start, step, count = _range(each.values)
        return start + step * rng.randrange(count)
    low, high = each.values[:2]
    if len(each.values) == 3:
        return [rng.uniform(low, high) for _ in range(each.values[2])]
    return rng.uniform(low, high)


def _replaced(tree: Any, path: str, value_of: Callable[[str], Any]) -> Any:
    if isinstance(tree, Sampled):
        return value_of(path)
    if isinstance(tree, Mapping):
        return {
            key: _replaced(value, f"{path}.{key}" if path else str(key), value_of)
            for key, value in tree.items()
        }
    if isinstance(tree, list):
        return [_replaced(value, f"{path}[{k}]", value_of) for k, value in enumerate(tree)]
    return tree
