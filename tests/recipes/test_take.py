"""Options handed to a constructor by the names of its parameters."""

from argparse import Namespace

import pytest

from recipes.take import take


def make(width: int, depth: int = 2, *, act: str = "relu") -> tuple[int, int, str]:
    return width, depth, act


def test_options_with_a_parameters_name_are_taken():
    args = Namespace(width=8, depth=3, unrelated=1)
    assert take(make, args) == (8, 3, "relu")
    assert take(make, args, depth=5, act="silu") == (8, 5, "silu")


def test_what_does_not_fit_is_an_error():
    with pytest.raises(TypeError, match="width"):
        take(make, Namespace(depth=3))
    with pytest.raises(TypeError, match="wdith"):
        take(make, Namespace(width=8), wdith=4)
