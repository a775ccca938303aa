"""The order of a stream of batches against lists written out."""

import pytest

from imle.order import StreamOrder


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("size", [1, 4, 10])
def test_batches_cut_the_passes_one_after_the_other(size, shuffle):
    order = StreamOrder(size, 4, shuffle=shuffle, drop_last=False, seed=3)
    flat = [p for b in range(2 * size) for p in order.positions(5, b)]
    passes = [flat[i : i + size] for i in range(0, len(flat), size)]
    assert all(sorted(p) == list(range(size)) for p in passes)
    if not shuffle:
        assert flat == list(range(size)) * (len(flat) // size)


def test_what_is_left_of_a_pass_is_dropped():
    order = StreamOrder(10, 4, shuffle=False, drop_last=True, seed=0)
    assert [order.positions(0, b) for b in range(3)] == [[0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 2, 3]]
    small = StreamOrder(3, 4, shuffle=False, drop_last=True, seed=0)
    assert small.positions(0, 1) == [1, 2, 0, 1]


def test_it_is_a_function_of_its_keys():
    make = [StreamOrder(50, 50, shuffle=True, drop_last=False, seed=s) for s in (1, 1, 2)]
    a, b, other = ([o.positions(0, 7), o.positions(1, 7)] for o in make)
    assert a == b != other and a[0] != a[1]
    assert make[0].positions(0, 7) == a[0]  # asked for out of order
