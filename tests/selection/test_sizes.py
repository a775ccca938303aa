from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
import torch

from selection import (
    chunk_sizes,
    jointly_sample_batch,
    random_baseline,
    reference_size,
    selection_size,
)
from selection.sizes import split


def test_sizes_are_exact():
    for thousandths in (0, 1, 100, 300, 333, 500, 650, 800, 801, 900, 990, 999):
        ratio = thousandths / 1000
        for B in range(1, 700):
            expected = B * (1000 - thousandths) // 1000
            if expected == 0:
                with pytest.raises(ValueError, match="keeps no row"):
                    selection_size(B, ratio, 8)
            else:
                assert selection_size(B, ratio, 8) == expected, (B, ratio)


@pytest.mark.parametrize(
    ("B", "expected"), [(40, 8), (80, 16), (160, 32), (320, 64), (1280, 256), (4096, 819), (5, 1)]
)
def test_sizes_that_floating_point_truncates(B, expected):
    assert selection_size(B, 0.8) == expected
    assert selection_size(B, 0.8) == selection_size(B, 0.8, 16)


@pytest.mark.parametrize("ratio", ["0.8", "4/5", Decimal("0.8"), Fraction(4, 5), 0.8])
def test_ratio_may_be_written_exactly(ratio):
    assert selection_size(1280, ratio, 8) == 256


def test_jest_and_random_have_the_same_budget():
    for B in (5, 64, 128, 250, 1280):
        for N in (1, 8, 16):
            loss = torch.randn(B)
            assert len(jointly_sample_batch(loss, loss, N)) == len(random_baseline(loss, 0.8))


def test_reference_rounding():
    # spec 4.2: JEST with 8 chunks and random, at 0.8
    for B, jest, random in [(128, 24, 25), (256, 48, 51), (512, 96, 102), (2048, 408, 409)]:
        assert selection_size(B, 0.8, 8, "reference") == reference_size(B, 0.8, 8) == jest
        assert reference_size(B, 0.8) == random
        assert chunk_sizes(B, 0.8, 8, "reference") == [jest // 8] * 8
        loss = torch.zeros(B)
        assert len(jointly_sample_batch(loss, loss, 8, rounding="reference")) == jest
        assert len(random_baseline(loss, rounding="reference")) == random
    assert selection_size(4096, 0.8, 16, "reference") == 816
    assert [reference_size(B, 0.8, 8) for B in (40, 160, 320, 1280)] == [0, 24, 56, 248]
    assert reference_size(80, 0.8) == 15


def test_chunks_differ_by_one_and_sum_up():
    for B in (9, 64, 100, 333):
        for N in (1, 3, 8, 16, 500):
            sizes = chunk_sizes(B, 0.7, N)
            assert sum(sizes) == selection_size(B, 0.7)
            assert max(sizes) - min(sizes) <= 1 and min(sizes) >= 1
            assert len(sizes) == min(N, sum(sizes))
            assert sizes == sorted(sizes, reverse=True)
    assert split(7, 3) == [3, 2, 2] and split(2, 5) == [1, 1] and split(6, 2) == [3, 3]


def test_nothing_left_says_what_to_do():
    with pytest.raises(ValueError, match="super-batch of 4: take 5 rows or more, or a smaller"):
        selection_size(4, 0.8)
    with pytest.raises(ValueError, match="super-batch of 39 in 8 equal chunks: take 40 rows"):
        chunk_sizes(39, 0.8, 8, "reference")
    loss = torch.zeros(4)
    for draw in (lambda: jointly_sample_batch(loss, loss), lambda: random_baseline(loss)):
        with pytest.raises(ValueError, match="keeps no row"):
            draw()


@pytest.mark.parametrize("ratio", [1, 1.0, -0.1, 2, float("nan"), float("inf"), "x", "1/0", None])
def test_bad_ratio(ratio):
    with pytest.raises(ValueError, match="filter_ratio .* is not in"):
        selection_size(100, ratio)


@pytest.mark.parametrize("N", [0, -1, 1.5, True])
def test_bad_number_of_chunks(N):
    with pytest.raises(ValueError, match="number of chunks"):
        chunk_sizes(100, 0.8, N)


def test_bad_super_batch_and_rounding():
    with pytest.raises(ValueError, match="super-batch 0"):
        selection_size(0, 0.8)
    with pytest.raises(ValueError, match="'up' is not one of: exact, reference"):
        selection_size(100, 0.8, 8, "up")
