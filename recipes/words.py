"""Words of a command line that stand for something else: image counts, periods, seeds, words that
had another name before."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from fractions import Fraction

from runtime.types import INT_MAX, called, positive_int

_UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def image_count(value: str) -> int:
    """Type of a number of images: `20480`, `128Ki`, `1.5Mi`, `2Gi` (powers of 1024)."""
    number_, unit = (value[:-2], value[-2:]) if value[-2:] in _UNITS else (value, "")
    try:
        exact = Fraction(number_) * _UNITS.get(unit, 1)
    except (ValueError, ZeroDivisionError):
        exact = Fraction(0)
    if exact.denominator != 1 or not 0 < exact <= INT_MAX:
        raise argparse.ArgumentTypeError(
            f"{value!r} is no whole positive number of images, like 20480, 128Ki, 8Mi or 2Gi"
        )
    return int(exact)


def compact_count(images: int) -> str:
    """131072 -> "128Ki"; a number that is no whole multiple stays as it is."""
    for unit in reversed(_UNITS):
        if images and images % _UNITS[unit] == 0:
            return f"{images // _UNITS[unit]}{unit}"
    return str(images)


called("N[Ki|Mi|Gi]", image_count, shown=compact_count)


def period(value: str) -> str:
    """Type of how often something is done: `500` are steps, `128Ki` (Ki, Mi, Gi) are images."""
    if value[-2:] in _UNITS:
        image_count(value)
        return value
    return str(positive_int(value))


called("N[Ki|Mi|Gi]", period)


def period_steps(value: str, images_per_step: int) -> int:
    """Steps of a `period`; images are rounded to whole steps, at least one."""
    if value[-2:] in _UNITS:
        return max(1, round(Fraction(image_count(value), images_per_step)))
    return int(value)


def seed_range(word: str) -> range:
    """Type of a seed or a range of them: `7`, `16-19`."""
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", word)
    if match is None:
        raise argparse.ArgumentTypeError(f"{word!r} is neither a seed nor a range such as 16-19")
    first, last = int(match[1]), int(match[2] or match[1])
    if not first <= last < 2**32:
        raise argparse.ArgumentTypeError(f"{word}: seeds go upwards, to 4294967295 at most")
    return range(first, last + 1)


called("N|N-N", seed_range)


def compact_seeds(seeds: Sequence[int]) -> str:
    """[0, 1, 2, 7] -> "0-2,7"."""
    runs: list[list[int]] = []
    for seed in seeds:
        if runs and seed == runs[-1][1] + 1:
            runs[-1][1] = seed
        else:
            runs.append([seed, seed])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def former(words: Sequence[str], names: Mapping[str, str]) -> type[argparse.Action]:
    """Action of an option that takes one of `words`, some of which had another name before.

    names: former name -> word. Either may be typed, and the former one is what is kept: it is part
    of the hash in the name of every run's folder, so that with another word no run begun before
    would go on. `Rules` shows and compares the new ones.
    """
    kept = {word: old for old, word in names.items()}

    def convert(word: str) -> str:
        if word not in (*words, *names):
            listed = ", ".join(words)
            raise argparse.ArgumentTypeError(f"invalid choice: {word!r} (choose from {listed})")
        return kept.get(word, word)

    class FormerAction(argparse.Action):
        shown_as = dict(names)  # for `Rules`: what is kept -> what one types

        def __init__(
            self,
            option_strings: Sequence[str],
            dest: str,
            default: str | None = None,
            help: str | None = None,
        ) -> None:
            metavar = f"{{{','.join(words)}}}"
            super().__init__(
                option_strings, dest, type=convert, default=default, metavar=metavar, help=help
            )

        def __call__(self, parser, namespace, values, option_string=None) -> None:
            setattr(namespace, self.dest, values)

    return FormerAction
