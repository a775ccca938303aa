"""Types of options: what one types -> a checked value, or one line that says what is allowed.

A type is a function of a word that raises argparse.ArgumentTypeError; an option that takes several
values is an argparse action (`list_of`), and so is one that is yes or no. `metavar_of` is what
--help writes for a value of it.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from runtime.near import closest, hint

Kind = TypeVar("Kind", bound=Callable[[str], Any])

INT_MAX = 2**63 - 1  # torch's int64; anything larger would only fail later and obscurely
_UNSET = object()


def called(metavar: str, kind: Kind, shown: Callable[[Any], str] | None = None) -> Kind:
    """The same type; --help calls its values `metavar` and writes one as `shown` does."""
    vars(kind).update(metavar=metavar, shown=shown)
    return kind


def metavar_of(kind: Any) -> str:
    """What --help writes for a value of a type: N, FLOAT, FILE, DIR, NAME; TEXT if it does not say.

    A type is one of this module, a function of a word, or None (any text).
    """
    known = {int: "N", float: "FLOAT", Path: "FILE"}
    if isinstance(kind, type) and kind in known:
        return known[kind]
    return getattr(kind, "metavar", "TEXT")


def _bounds(lo: float | None, hi: float | None, lo_open: bool, hi_open: bool) -> str:
    parts = []
    if lo is not None:
        parts.append(f"{'>' if lo_open else '>='} {lo:g}")
    if hi is not None:
        parts.append(f"{'<' if hi_open else '<='} {hi:g}")
    return " and ".join(parts)


def integer(lo: int | None = None, hi: int | None = None) -> Callable[[str], int]:
    """Type of a whole number in [lo, hi] (None = no bound, but always within int64)."""
    allowed = "a whole number" + (
        " " + _bounds(lo, hi, False, False) if (lo, hi) != (None, None) else ""
    )

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {allowed}") from None
        if (lo is not None and value < lo) or (hi is not None and value > hi):
            raise argparse.ArgumentTypeError(f"{text} is out of range, allowed: {allowed}")
        if abs(value) > INT_MAX:
            raise argparse.ArgumentTypeError(f"{text} is out of range, allowed: at most {INT_MAX}")
        return value

    return called("N", convert)


def count(most: int, least: int = 1) -> Callable[[str], int]:
    """Type of how many: a whole number from `least` to `most`, which no machine exceeds.

    The error of a smaller one does not tell of the highest, which nobody meets who meant a number.
    """
    convert_any = integer(least)

    def convert(text: str) -> int:
        value = convert_any(text)
        if value > most:
            raise argparse.ArgumentTypeError(f"{text} is out of range, allowed: at most {most}")
        return value

    return called("N", convert)


def number(
    lo: float | None = None,
    hi: float | None = None,
    *,
    lo_open: bool = False,
    hi_open: bool = False,
) -> Callable[[str], float]:
    """Type of a finite number in [lo, hi]; `lo_open`/`hi_open` exclude the bound itself."""
    bounds = _bounds(lo, hi, lo_open, hi_open)
    allowed = "a finite number" + (f" {bounds}" if bounds else "")

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {allowed}") from None
        below = lo is not None and (value <= lo if lo_open else value < lo)
        above = hi is not None and (value >= hi if hi_open else value > hi)
        if not math.isfinite(value) or below or above:
            raise argparse.ArgumentTypeError(f"{text} is out of range, allowed: {allowed}")
        return value

    return called("FLOAT", convert)


positive_int = integer(1)
nonnegative_int = integer(0)

# How many of what, with bounds that belong to the thing: one that is far above what any machine
# holds is refused here, at once, rather than found when memory is taken. Those of networks are
# those of `storage.arguments`, so that what was trained can be read.
blocks = count(64)  # at a resolution
layers = count(1024)
wide = count(1 << 16)  # channels, dimensions
side = count(8192)  # pixels
classes = count(1 << 20)
at_once = count(1 << 24)  # rows of a step, pictures drawn together, points
many = count(10**7)  # of what is drawn, shown or looked at one after the other
sets = count(10**9)  # pictures of a data set
levels = count(10_000)  # steps of a sampler
first_number = count(10**15, 0)  # of the first of several
positive_float = number(0, lo_open=True)
nonnegative_float = number(0)
finite_float = number()
probability = number(0, 1)


def one_of(
    *values: str | int | float, also: Mapping[str, str] | None = None
) -> Callable[[str], Any]:
    """Type of one of a few named values. If all are numbers, `0.50` and `.5` both mean 0.5.

    also: other words for some of them, which --help does not list.
    """
    listed = ", ".join(str(v) for v in values)
    numeric = all(isinstance(v, int | float) for v in values)

    def convert(text: str) -> Any:
        text = (also or {}).get(text, text)
        for value in values:
            if text == value:
                return value
            if numeric:
                try:
                    if float(text) == value:
                        return value
                except ValueError:
                    break
        near = "" if numeric else hint(closest(text, [str(v) for v in values]))
        raise argparse.ArgumentTypeError(f"{text!r} is not one of {listed}{near}")

    return called(f"{{{','.join(str(v) for v in values)}}}", convert)


def text(value: str) -> str:
    """Type of a non-empty string without NUL or line break."""
    if not value.strip() or any(c in value for c in "\0\n\r"):
        raise argparse.ArgumentTypeError(f"{value!r} is empty or has a line break in it")
    return value


def tag(value: str) -> str:
    """Type of a tag of W&B, which takes them with commas between."""
    if not value.strip() or "," in value or len(value) > 64 or not value.isprintable():
        raise argparse.ArgumentTypeError(f"{value!r} is no tag: 1 to 64 characters, no comma")
    return value


def text_called(metavar: str) -> Callable[[str], str]:
    """Type of a text that --help calls `metavar`."""

    def convert(value: str) -> str:
        return text(value)

    return called(metavar, convert)


# Texts that mean something on disk, or a name. `data_set`: what `data.registry` opens.
file_path = text_called("FILE")
dir_path = text_called("DIR")
short_name = text_called("NAME")
data_set = text_called("NAME|DIR")
network = text_called("FILE|URL")


def wandb_id(value: str) -> str:
    """Type of the id of a run in W&B: up to 128 characters, and which they may be."""
    if re.fullmatch(r"[A-Za-z0-9_.+=@~-]{1,128}", value) and value.strip("."):
        return value
    raise argparse.ArgumentTypeError(
        f"{value!r} is no W&B id: letters, digits and _ - . + = @ ~, at most 128 of them"
    )


called("ID", wandb_id)


def gpu_number(value: str) -> int:
    """Type of a GPU: its number, 0 or cuda:0 (cuda alone is the first)."""
    match = re.fullmatch(r"cuda(?::(\d+))?", value)
    return nonnegative_int(value) if match is None else int(match[1] or 0)


called("N", gpu_number)


_TRUE, _FALSE = {"true", "1", "yes", "on"}, {"false", "0", "no", "off"}


def boolean(value: str) -> bool:
    """Type of True|False|1|0 (also yes/no, on/off), any case."""
    if value.lower() in _TRUE:
        return True
    if value.lower() in _FALSE:
        return False
    raise argparse.ArgumentTypeError(f"{value!r} is not True, False, 1 or 0")


class ListAction(argparse.Action):
    """Several values: `16 32 64`, `16,32,64`, `[16,32,64]`, `[16, 32, 64]` (split by the shell)."""

    item: Callable[[str], Any] = staticmethod(positive_int)
    unique = False
    empty_word: str | None = None

    def __init__(
        self,
        option_strings: Sequence[str],
        dest: str,
        default: Any = None,
        required: bool = False,
        help: str | None = None,
        metavar: str | None = None,
    ) -> None:
        super().__init__(
            option_strings,
            dest,
            nargs="+",
            default=default,
            required=required,
            help=help,
            metavar=metavar or metavar_of(type(self).item),
        )

    def convert(self, words: Sequence[str]) -> list[Any]:
        """Words of the command line -> list of checked values. Errors: argparse.ArgumentError."""
        joined = " ".join(words).strip()
        if self.empty_word is not None and joined.lower() in (self.empty_word, "[]"):
            return []
        if joined.startswith("[") != joined.endswith("]"):
            raise argparse.ArgumentError(self, f"{joined!r} has only one of the two brackets")
        inner = joined[1:-1] if joined.startswith("[") else joined
        parts = [p for p in re.split(r"[,\s]+", inner.strip()) if p]
        if not parts:
            raise argparse.ArgumentError(self, f"{joined!r} names no value")
        try:
            values = [type(self).item(p) for p in parts]
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentError(self, str(error)) from None
        if self.unique and len(set(values)) < len(values):
            raise argparse.ArgumentError(self, f"{joined!r} names the same value twice")
        return values

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        setattr(namespace, self.dest, self.convert(values))


def list_of(
    item: Callable[[str], Any], *, unique: bool = False, empty_word: str | None = None
) -> type[argparse.Action]:
    """Action of an option that takes a list; every element passes `item`.

    `unique` refuses repeated values; `empty_word` is what one types for the empty list, which is
    refused otherwise.
    """
    fields = {"item": staticmethod(item), "unique": unique, "empty_word": empty_word}
    return type("ListAction", (ListAction,), fields)


IntList = list_of(positive_int)
GpuList = list_of(gpu_number, unique=True, empty_word="cpu")  # `--gpus 0 1`, `--gpus cpu`


class Switch(argparse.Action):
    """An option without a value, of commands that take a file or a run beside their options: one of
    kind bool would take that for its value."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(nargs=0, **settings)

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        setattr(namespace, self.dest, True)


class BoolAction(argparse.Action):
    """`--cond`, `--no-cond`, `--cond False`, `--cond=1`."""

    def __init__(
        self,
        option_strings: Sequence[str],
        dest: str,
        default: bool | None = None,
        help: str | None = None,
    ) -> None:
        self._negative: set[str] = set()
        negative = self.add_negatives(option_strings)
        super().__init__(
            [*option_strings, *negative],
            dest,
            nargs="?",
            const=_UNSET,
            default=default,
            help=help,
            metavar="BOOL",
        )

    def add_negatives(self, options: Sequence[str]) -> list[str]:
        """`--no-cond` of `--cond`, which mean no from now on."""
        negative = [f"--no-{o[2:]}" for o in options if o.startswith("--")]
        self._negative |= {canonical(o) for o in negative}
        return negative

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        if canonical(option_string or "") in self._negative:
            if values is not _UNSET:
                raise argparse.ArgumentError(
                    self, f"{option_string} takes no value, got {values!r}"
                )
            value = False
        else:
            try:
                value = True if values is _UNSET else boolean(values)
            except argparse.ArgumentTypeError as error:
                raise argparse.ArgumentError(self, str(error)) from None
        setattr(namespace, self.dest, value)


def canonical(option: str) -> str:
    """`--run_dir` -> `--run-dir`: the one spelling under which names are compared."""
    return option.replace("_", "-")
