"""KorKMinusOne: order, balance, state."""

import collections
import random

import pytest
import torch

from imle.kkm import KorKMinusOne


def test_without_shuffle_it_goes_round_in_order():
    kkm = KorKMinusOne([4, 2, 7])
    assert kkm.pop_many(8) == [4, 2, 7, 4, 2, 7, 4, 2]


@pytest.mark.parametrize("n", [1, 2, 7, 40])
@pytest.mark.parametrize("shuffle", [False, True])
def test_every_block_is_a_permutation_and_counts_differ_by_one_at_most(n, shuffle):
    kkm = KorKMinusOne(range(n), shuffle, seed=3)
    pops, counts = [], collections.Counter(dict.fromkeys(range(n), 0))
    for _ in range(5 * n + n // 2):
        pops.append(kkm.pop())
        counts[pops[-1]] += 1
        assert max(counts.values()) - min(counts.values()) <= 1
    for first in range(0, 5 * n, n):
        assert sorted(pops[first : first + n]) == list(range(n))


def test_shuffle_orders():
    orders = [KorKMinusOne(range(20), True, seed=s).pop_many(60) for s in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    passes = [tuple(orders[0][i : i + 20]) for i in (0, 20, 40)]
    assert len(set(passes)) == 3 and tuple(range(20)) not in passes
    plain_first = KorKMinusOne(range(20), True, shuffle_first=False)
    assert plain_first.pop_many(20) == list(range(20))
    assert plain_first.pop_many(20) != list(range(20))


def test_every_order_is_equally_likely():
    counts = collections.Counter(
        tuple(KorKMinusOne(range(3), True, seed=s).pop_many(3)) for s in range(1200)
    )
    assert len(counts) == 6 and max(abs(c - 200) for c in counts.values()) < 5 * 13


def test_no_global_generator_is_touched():
    random.seed(1)
    torch.manual_seed(1)
    before = random.getstate(), torch.get_rng_state()
    KorKMinusOne(range(9), True).pop_many(30)
    assert random.getstate() == before[0] and torch.equal(torch.get_rng_state(), before[1])


@pytest.mark.parametrize("done", [0, 1, 5, 6, 7, 17, 18])
def test_resume(done):
    kkm = KorKMinusOne(range(6), True, seed=8)
    kkm.pop_many(done)
    state = kkm.state_dict()
    rest = kkm.pop_many(20)
    again = KorKMinusOne(range(6), False)
    again.load_state_dict(state)
    assert again.pop_many(20) == rest
    assert all(isinstance(v, (int, bool, str)) for v in state.values())


def test_bad_use():
    with pytest.raises(ValueError, match="at least one index"):
        KorKMinusOne([])
    kkm = KorKMinusOne(range(5))
    with pytest.raises(ValueError, match="cannot pop"):
        kkm.pop_many(-1)
    assert kkm.pop_many(0) == [] and len(kkm) == 5
    with pytest.raises(ValueError, match="6 pictures before, 5 now"):
        kkm.load_state_dict(KorKMinusOne(range(6)).state_dict())
    with pytest.raises(ValueError, match="other indices"):
        kkm.load_state_dict(KorKMinusOne([1, 2, 3, 4, 5]).state_dict())
    with pytest.raises(ValueError, match="damaged"):
        kkm.load_state_dict({**kkm.state_dict(), "counter": 9})
