from __future__ import annotations

from itertools import islice

import pytest

from tests.data.reference_order import reference_order, reference_seed


def first(count: int, n: int, **where) -> list[int]:
    return list(islice(reference_order(n, **where), count))


def test_every_pass_is_a_permutation():
    order = first(40, 10, seed=3)
    passes = [order[i : i + 10] for i in range(0, 40, 10)]
    assert all(sorted(p) == list(range(10)) for p in passes)
    assert len({tuple(p) for p in passes}) == 4
    assert order != first(40, 10, seed=4)


def test_ranks_share_one_order_and_it_can_start_anywhere():
    whole = first(90, 7, seed=1)
    for rank in range(3):
        assert first(30, 7, seed=1, rank=rank, replicas=3) == whole[rank::3]
    assert first(50, 7, seed=1, start=40) == whole[40:90]


def test_seeds():
    assert reference_seed(0, 0, 0) == 360982090  # of the golden file rng
    assert all(0 <= reference_seed(5, r, n) < 2**31 for r in range(4) for n in (0, 2**40))


@pytest.mark.parametrize(
    ("n", "where", "message"),
    [
        (0, {}, "empty"),
        (5, dict(rank=2, replicas=2), "rank 2 of 2 processes"),
        (5, dict(start=-1), "start -1 is negative"),
    ],
)
def test_bad_arguments(n, where, message):
    with pytest.raises(ValueError, match=message):
        reference_order(n, **where)
