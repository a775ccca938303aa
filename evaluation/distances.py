"""Squared distances between two sets of rows, a block at a time."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from evaluation.accuracy import check_features

_BLOCK = 1 << 24  # entries of a block, float64: 128 MiB


def checked_pair(a: Tensor, b: Tensor, names: tuple[str, str]) -> tuple[Tensor, Tensor]:
    """Both as features of as many columns, b on the device of a. Errors: ValueError."""
    check_features(a, names[0])
    check_features(b, names[1])
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"{names[0]} have {a.shape[1]} features, {names[1]} {b.shape[1]}")
    return a, b.to(a.device)


def blocks(n: int, m: int) -> Iterator[slice]:
    """Slices of range(n) such that a block of so many rows and m columns is not too large."""
    step = max(1, _BLOCK // max(m, 1))
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """|a_i - b_j|^2 of rows [n, d] and [m, d], float64 [n, m].

    By |a|^2 + |b|^2 - 2 ab, whose rounding `rounding(a, b)` bounds.
    """
    a, b = a.double(), b.double()
    out = (a @ b.T).mul_(-2)
    return out.add_(a.square().sum(1)[:, None]).add_(b.square().sum(1)).clamp_(min=0)


def rounding(a: Tensor, b: Tensor) -> Tensor:
    """What rounding can have done to `squared_distances(a, b)`, [n, m]: two that differ by less
    are equal."""
    sizes = a.double().square().sum(1)[:, None] + b.double().square().sum(1)
    return sizes.mul_(1e-13 + 2e-16 * a.shape[1])
