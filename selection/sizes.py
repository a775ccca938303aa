"""How many rows of a super-batch are kept, and in how many chunks. Host integers only."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

ROUNDINGS = ("exact", "reference")

Ratio = float | str | Decimal | Fraction


def selection_size(
    super_batch: int, filter_ratio: Ratio, N: int = 1, rounding: str = "exact"
) -> int:
    """Rows kept out of `super_batch` when the share `filter_ratio` is filtered away, at least 1.

    "exact": b = floor(super_batch * (1 - filter_ratio)) in rational arithmetic, a float standing
    for the decimal it prints as (0.8 is 4/5, so 1280 rows give 256); N has no say, so that every
    method trains on the same number of rows. "reference": see `reference_size`.
    Errors: ValueError for arguments out of range, and when nothing would be kept.
    """
    super_batch, ratio = _checked(super_batch, filter_ratio, N)
    if rounding == "exact":
        b, unit = math.floor(super_batch * (1 - ratio)), 1
    elif rounding == "reference":
        b, unit = reference_size(super_batch, filter_ratio, N), N
    else:
        raise ValueError(f"rounding {rounding!r} is not one of: {', '.join(ROUNDINGS)}")
    if b == 0:
        parts = f" in {N} equal chunks" if unit > 1 else ""
        raise ValueError(
            f"filter_ratio {filter_ratio} keeps no row of a super-batch of {super_batch}{parts}: "
            f"take {math.ceil(unit / (1 - ratio))} rows or more, or a smaller filter_ratio"
        )
    return b


def reference_size(super_batch: int, filter_ratio: Ratio, N: int = 1) -> int:
    """N * int(super_batch * (1 - filter_ratio) / N), Autoguided's; 0 when it truncates to that.

    Floating point as there: 1 - 0.8 is 0.19999.., so 1280 rows give 255 (N = 1) or 248 (N = 8).
    JEST is called with its number of chunks, random with N = 1. Errors: ValueError out of range.
    """
    super_batch, _ = _checked(super_batch, filter_ratio, N)
    return N * int(super_batch * (1 - float(filter_ratio)) / N)


def rows_of(
    super_batch: int,
    filter_ratio: Ratio,
    N: int = 1,
    rounding: str = "exact",
    given: int | None = None,
) -> int:
    """Rows kept: `given` if it is, 1 to `super_batch`, else `selection_size` of the others.

    Errors: ValueError.
    """
    if given is None:
        return selection_size(super_batch, filter_ratio, N, rounding)
    if isinstance(given, bool) or given != int(given) or not 1 <= given <= super_batch:
        raise ValueError(f"selection_size {given} is not a number of rows from 1 to {super_batch}")
    return int(given)


def chunk_sizes(
    super_batch: int, filter_ratio: Ratio, N: int, rounding: str = "exact"
) -> list[int]:
    """Rows drawn chunk by chunk; they sum to `selection_size`. Errors: as there.

    Exact sizes split as evenly as whole numbers allow, larger chunks first. A selection smaller
    than N has as many chunks of one row as it has rows.
    """
    return split(selection_size(super_batch, filter_ratio, N, rounding), N)


def split(total: int, parts: int) -> list[int]:
    """`total` as `parts` whole numbers that differ by at most 1, larger first, without zeros."""
    share, rest = divmod(total, parts)
    return [share + 1] * rest + [share] * (parts - rest if share else 0)


def _checked(super_batch: int, filter_ratio: Ratio, N: int) -> tuple[int, Fraction]:
    for name, value in (("super-batch", super_batch), ("number of chunks N", N)):
        if isinstance(value, bool) or value != int(value) or value < 1:
            raise ValueError(f"{name} {value} is not a positive whole number")
    try:
        ratio = Fraction(str(filter_ratio))
    except (ValueError, ZeroDivisionError):
        ratio = Fraction(-1)
    if not 0 <= ratio < 1:
        whole = ratio >= 1 and ratio == int(ratio)
        hint = f" (for so many rows: selection_size={int(ratio)})" if whole else ""
        raise ValueError(f"filter_ratio {filter_ratio} is not in [0, 1){hint}")
    return int(super_batch), ratio
