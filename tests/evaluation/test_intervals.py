"""Intervals against tables, and what they cover in simulation."""

from __future__ import annotations

import math

import pytest
import torch

from evaluation.intervals import (
    mean_interval,
    mean_share_interval,
    paired_images,
    paired_t,
    proportion_interval,
    t_inside,
    t_outside,
    t_quantile,
)


@pytest.mark.parametrize(
    ("df", "t"),
    [(1, 12.70620), (2, 4.30265), (4, 2.77645), (10, 2.22814), (30, 2.04227), (599, 1.96393)],
)
def test_quantiles_are_those_of_the_tables(df, t):
    assert t_quantile(df) == pytest.approx(t, abs=6e-6)
    assert t_inside(t_quantile(df, 0.8), df) == pytest.approx(0.8, abs=1e-12)


def test_student_t_against_a_table():
    for df, t in ((1, 12.7062), (4, 2.7764), (9, 2.2622), (30, 2.0423)):
        assert t_quantile(df) == pytest.approx(t, abs=1e-4)
        assert t_outside(t, df) == pytest.approx(0.05, abs=1e-5)
    assert t_outside(0.0, 5) == pytest.approx(1.0)


def test_tails_are_right_where_they_are_tiny():
    for t in (0.3, 2.0, 50.0, 1e6):  # closed forms
        assert t_outside(-t, 1) == pytest.approx(2 / math.pi * math.atan(1 / t), rel=1e-9)
        root = math.sqrt(2 + t * t)
        assert t_outside(t, 2) == pytest.approx(2 / (root * (root + t)), rel=1e-9)
    assert t_outside(10.0, 599) == pytest.approx(7.070940400930475e-22, rel=1e-6)
    for df, t in ((3, 1.5), (9, 2.0), (599, 3.0)):
        assert t_outside(t, df) == pytest.approx(1 - t_inside(t, df), abs=1e-9)


def test_mean_interval_by_hand():
    mean, low, high, n = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    half = 2.776445 * math.sqrt(2.5 / 5)
    assert (mean, n) == (3.0, 5)
    assert (low, high) == (pytest.approx(3 - half, abs=1e-5), pytest.approx(3 + half, abs=1e-5))


@pytest.mark.parametrize(("hits", "n"), [(15, 100), (1, 20), (0, 10), (10, 10), (7, 9)])
def test_wilson_s_ends_are_the_shares_that_the_score_test_just_does_not_refuse(hits, n):
    got = proportion_interval(hits, n)
    assert (got.mean, got.n) == (hits / n, n)
    for share in (got.low, got.high):
        z = abs(hits / n - share)
        if z:
            z /= math.sqrt(share * (1 - share) / n)
            assert z == pytest.approx(1.959964, abs=1e-5)
    back = proportion_interval(n - hits, n)
    assert (1 - back.high, 1 - back.low) == pytest.approx((got.low, got.high), abs=1e-12)


def test_intervals_of_shares_stay_within_0_and_1_and_have_a_width():
    for n in (1, 2, 3, 49, 10**6):
        none, whole = proportion_interval(0, n), proportion_interval(n, n)
        assert (none.low, whole.high) == (0, 1) and none.high > 0 and whole.low < 1
        for hits in {0, 1, n // 2, n - 1, n}:
            got = proportion_interval(hits, n)
            assert 0 <= got.low <= got.mean <= got.high <= 1 and got.low < got.high
    wide = mean_share_interval([0.02, 0.5])
    assert (wide.low, wide.high) == (0, 1) and mean_interval([0.02, 0.5]).low < 0
    high = mean_share_interval(torch.tensor([0.99, 1.0, 1.0], dtype=torch.float64))
    assert high.high == 1 and high.low == mean_interval([0.99, 1.0, 1.0]).low
    assert mean_share_interval([0.4, 0.41, 0.42]) == mean_interval([0.4, 0.41, 0.42])
    assert mean_share_interval([1.0] * 5) == proportion_interval(5, 5)
    assert mean_share_interval([0.0] * 5) == proportion_interval(0, 5)
    assert mean_share_interval([0.5, 0.5]).high == 0.5  # nothing is known of other values


def test_wilson_covers_95_percent():
    g = torch.Generator().manual_seed(0)
    for share in (0.02, 0.3):
        hits = (torch.rand(2000, 120, generator=g) < share).sum(1).tolist()
        inside = sum(i.low <= share <= i.high for i in (proportion_interval(h, 120) for h in hits))
        assert abs(inside / 2000 - 0.95) < 0.025


def test_paired_t_by_hand():
    first, second = [0.81, 0.84, 0.79], torch.tensor([0.80, 0.81, 0.78], dtype=torch.float64)
    got = paired_t(first, second)
    d, s = 0.05 / 3, math.sqrt(((0.01 - 0.05 / 3) ** 2 * 2 + (0.03 - 0.05 / 3) ** 2) / 2)
    t = d / (s / math.sqrt(3))
    assert got.difference == pytest.approx(d) and got.n == 3
    assert got.high - got.low == pytest.approx(2 * 4.30265 * s / math.sqrt(3), rel=1e-5)
    # Student's t with 2 degrees of freedom has a closed form
    assert got.p == pytest.approx(1 - t / math.sqrt(2 + t * t), abs=1e-10)
    assert str(got).startswith("+0.0167 [") and "paired t" in str(got)
    assert paired_t([0.5, 0.5], [0.5, 0.5]).p == 1
    back = paired_t(second, first)
    assert (back.difference, back.low) == (-got.difference, -got.high)


def right(n, only_a, only_b, both):
    a, b = torch.zeros(n, dtype=torch.bool), torch.zeros(n, dtype=torch.bool)
    a[: both + only_a] = True
    b[:both] = True
    b[both + only_a : both + only_a + only_b] = True
    return a, b


def test_paired_images_by_hand():
    got = paired_images(*right(100, 9, 2, 60))
    assert got.difference == pytest.approx(0.07)
    exact = 2 * sum(math.comb(11, i) for i in range(3)) / 2**11
    assert got.p == pytest.approx(exact, rel=1e-12)
    half = 1.959964 * math.sqrt(12 - 49 / 102) / 102
    assert got.low == pytest.approx(7 / 102 - half) and got.high == pytest.approx(7 / 102 + half)
    assert "McNemar" in got.method
    same = paired_images(*right(100, 0, 0, 60))
    assert (same.difference, same.p) == (0, 1) and same.low < 0 < same.high
    assert paired_images(*right(200000, 40000, 20000, 9)).p == 0


def test_paired_images_cover_95_percent():
    """2 000 repetitions: the standard error of a coverage is 0.5 points."""
    g = torch.Generator().manual_seed(0)
    inside = 0
    for u in torch.rand(2000, 200, generator=g):  # P(only first) .1, P(only second) .04
        got = paired_images(u < 0.1, (u > 0.1) & (u < 0.14))
        inside += got.low <= 0.06 <= got.high
    assert abs(inside / 2000 - 0.95) < 0.015


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: mean_interval([1.0]), "1 values"),
        (lambda: mean_interval([1.0, math.nan]), "not all values are finite"),
        (lambda: mean_share_interval([0.5, 1.2]), r"shares from 0.5 to 1.2"),
        (lambda: mean_share_interval([0.5]), "1 values"),
        (lambda: proportion_interval(4, 3), "4 of 3"),
        (lambda: proportion_interval(0, 0), "0 of 0"),
        (lambda: paired_t([1.0, 2.0], [1.0, 2.0, 3.0]), "2 figures against 3"),
        (lambda: paired_images(torch.ones(3).bool(), torch.ones(2).bool()), "3 images against 2"),
        (lambda: paired_images(torch.ones(3), torch.ones(3)), "torch.float32"),
        (lambda: paired_images(torch.ones(0).bool(), torch.ones(0).bool()), r"\[0\]"),
        (lambda: t_quantile(0), "0 degrees"),
    ],
)
def test_bad_arguments(call, word):
    with pytest.raises(ValueError, match=word) as error:
        call()
    assert "\n" not in str(error.value)
