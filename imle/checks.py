"""What is asked of the arguments of a generator."""

from __future__ import annotations

from collections.abc import Sequence


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """ValueError, naming an argument and its value, for one that is no choice."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def check_res(res: Sequence[int]) -> None:
    """ValueError for resolutions r_0, .., r_L that do not stay or double."""
    if len(res) < 2:
        raise ValueError(f"res needs at least two resolutions, got {list(res)}")
    if res[0] < 1:
        raise ValueError(f"res must be positive, got {list(res)}")
    for low, high in zip(res[:-1], res[1:], strict=True):
        if high not in (low, 2 * low):
            raise ValueError(
                f"res {list(res)}: {high} after {low} must be {low} (equal) or {2 * low} (double)"
            )
