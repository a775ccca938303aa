"""Who is better: only beyond the interval and beyond the spread between trainings."""

import pytest
from scipy import stats

from evaluation.replicates import Resampled
from evaluation.verdict import compare, seed_ranges


def test_ranges():
    found = seed_ranges([3.0, 2.0, 4.0])
    assert (found.least, found.mean, found.most, found.n) == (2, 3, 4, 3)
    half = stats.t.ppf(0.975, 2) * stats.sem([3, 2, 4])
    assert found.interval.high - 3 == pytest.approx(half)
    assert "least 2, mean 3 of 3 seed ranges [" in str(found)
    assert seed_ranges([5.0]).interval is None
    for bad in ([], [1.0, float("nan")]):
        with pytest.raises(ValueError, match="at least 1"):
            seed_ranges(bad)


@pytest.mark.parametrize(
    ("a", "b", "winner"),
    [
        ([2.00, 2.10, 2.20], [2.31, 2.40, 2.50], "A"),  # paired: far beyond both
        ([2.31, 2.40, 2.50], [2.00, 2.10, 2.20], "B"),
        ([2.000, 2.100, 2.200], [2.021, 2.120, 2.219], None),  # sure, but below 1.3 %
        ([2.0, 2.1, 2.2], [2.1, 2.9, 2.1], None),  # far, but not sure
        ([2.0, 2.1], [2.0, 2.1], None),
    ],
)
def test_both_have_to_be_exceeded(a, b, winner):
    found = compare(a, b)
    assert found.winner == winner
    said = "not distinguished" if winner is None else f"{winner} better"
    assert str(found).endswith(said) and "paired t" in str(found)
    assert found.threshold >= 0.013 * max(sum(a), sum(b)) / len(a) - 1e-12
    mirror = {"A": "B", "B": "A", None: None}
    assert compare(a, b, larger_is_better=True).winner == mirror[winner]


def test_one_range_needs_an_interval():
    def interval(value, half):
        return Resampled(value, value - half, value + half / 2, 0.0, 500, 100)

    assert compare([10.0], [10.5], interval=interval(-0.5, 0.3)).winner == "A"
    assert compare([10.0], [10.5], interval=interval(-0.5, 0.6)).winner is None
    assert compare([10.0], [10.1], interval=interval(-0.1, 0.01)).winner is None
    assert compare([10.0], [10.1], interval=interval(-0.1, 0.01), margin=0).winner == "A"
    for call, says in (
        (lambda: compare([10.0], [10.5]), "give an interval"),
        (lambda: compare([10.0], [10.5], interval=interval(0.5, 0.1)), "not of -0.5"),
        (lambda: compare([1.0, 2.0], [1.0, 2.0], interval=interval(0.0, 0.1)), "several"),
        (lambda: compare([1.0, 2.0], [1.0]), "in pairs"),
        (lambda: compare([1.0, 2.0], [1.0, 2.0], margin=1.3), "margin 1.3"),
    ):
        with pytest.raises(ValueError, match=says):
            call()
