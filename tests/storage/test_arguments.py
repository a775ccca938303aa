"""What a constructor accepts is read off its signature."""

import inspect
from collections.abc import Sequence
from typing import Annotated

import pytest

from diffusion.edm2 import Precond
from diffusion.toy import ToyModel
from storage.arguments import (
    Between,
    Share,
    arguments,
    given_arguments,
    is_modest,
    is_number,
)


class Made:
    def __init__(
        self,
        side: Annotated[int, Between(1, 8)],
        share: Share = 0.5,
        *,
        widths: Sequence[Annotated[int, Between(0, 4)]] = (1, 2),
        more: Annotated[float, Between(0, 9)] | None = None,
        on: bool = True,
        free: float = 1.0,
    ) -> None: ...


def test_a_signature_says_types_bounds_and_defaults():
    found = arguments(Made)
    assert list(found) == ["side", "share", "widths", "more", "on", "free"]
    assert found["side"].default is inspect.Parameter.empty and found["side"].positional
    assert found["side"].bounds == (1, 8) and found["free"].bounds is None
    assert found["widths"].many and found["widths"].bounds == (0, 4)
    assert found["more"].optional and not found["widths"].positional


@pytest.mark.parametrize(
    "name, good, bad",
    [
        ("side", [1, 8], [0, 9, 1.0, True, None, "1"]),
        ("share", [0, 1, 0.3], [1.1, float("nan"), None]),
        ("widths", [[], (0, 4)], [[5], 3, [1.0], [[1]], [1] * 33, None]),
        ("more", [None, 0, 9.0], [9.1, "x"]),
        ("on", [True, False], [0, 1, None]),
        ("free", [-1e200, 3], [1e300, float("inf")]),
    ],
)
def test_values_that_fit_and_do_not(name, good, bad):
    argument = arguments(Made)[name]
    assert all(argument.fits(value) for value in good)
    assert not any(argument.fits(value) for value in bad)


def test_arguments_that_a_file_gives():
    assert given_arguments(Made, [3], {"widths": (4,)}) == {
        "side": 3, "share": 0.5, "widths": [4], "more": None, "on": True, "free": 1.0
    }  # fmt: skip
    for args, keywords, says in (
        ((1, 0.5, [1]), {}, "other arguments than it takes"),
        ((1,), {"side": 2}, "two values of side"),
        ((), {}, "without its side"),
        ((1,), {"colour": 1}, "unknown argument colour"),
        ((99,), {}, "side 99"),
    ):
        with pytest.raises(ValueError, match=f"has a Made .*{says}"):
            given_arguments(Made, args, keywords)


def test_the_networks_say_the_bounds_of_all_their_numbers():
    for make in (Precond, ToyModel):
        for name, argument in arguments(make).items():
            assert argument.bounds is not None or argument.type is bool, name
            default = argument.default
            assert default is inspect.Parameter.empty or argument.fits(default), name


def test_annotations_that_are_not_understood():
    def make(x: dict[str, int]) -> None: ...

    with pytest.raises(TypeError, match="dict"):
        arguments(make)
    assert is_number(1) and not is_number(True)


def test_settings_without_bounds_are_modest():
    good = {
        "n_res": 4,
        "dims": [64, 128],
        "norm": "instance",
        "bias": None,
        "on": True,
        "k": {"x": 0.5},
    }
    assert is_modest(good) and is_modest(None) and is_modest("abc")
    for key, bad in (
        ("n_res", 257), ("dims", [1 << 17]), ("dims", [1] * 65), ("norm", "x" * 1001),
        ("k", {"num_layers": 10**9}), ("k", {"x": float("nan")}), ("k", {"x": 1e300}),
        ("k", {1: 1}),
        ("k", [[[[[[[1]]]]]]]),
    ):  # fmt: skip
        assert not is_modest({**good, key: bad}), (key, bad)
    assert not is_modest({f"a{i}": 0 for i in range(65)})


def test_a_parameter_without_an_annotation_may_be_anything():
    def make(size: int, device=None):
        return size, device

    taken = arguments(make)["device"]
    assert (taken.type, taken.optional) == (object, True)
