"""Pieces from outside that break the loader's contract are told so in a sentence."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from imle.codes import CodeGenerator
from imle.loader import CIMLEDataLoader
from imle.pool import pool_search
from imle.sampling import draw_samples
from imle.search import search
from tests.imle.loaders import make, take
from tests.imle.toys import PlainModel, ToyCascade, mse

SIZES = ToyCascade(2).code_sizes


def z_gen(rows, level):
    return torch.randn(rows, SIZES[level])


def loader(**change) -> CIMLEDataLoader:
    plain = dict(model=PlainModel(ToyCascade(2)), z_gen=z_gen, corruptor=None, augment=None)
    return make(**(plain | change))


class Without(nn.Module):
    """A generator that knows nothing of levels to stop at."""

    def forward(self, x, codes):
        return PlainModel(ToyCascade(2))(x, codes)


def passing_on(*args, **kwargs):
    return Without()(*args, **kwargs)


def test_plain_pieces_do():
    assert len(take(loader(corruptor=lambda x: x.clone()))) == 5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dict(model=Without()), r"model is to be called as model\(x, codes, loi=LEVEL\).*'loi'"),
        (dict(model=lambda x: x), r"model is to be called as .*takes \(x\)"),
        (dict(model="net.pt"), "model is a str, which cannot be called"),
        (dict(z_gen=lambda rows: torch.randn(rows, 3)), r"z_gen is to be called as z_gen\(rows"),
        (dict(z_gen=3), "z_gen is a int, which cannot be called"),
        (dict(corruptor=lambda: None), "corruptor is to be called as"),
        (dict(corruptor="gray"), "corruptor is a str, which cannot be called"),
        (dict(loss_fn=lambda fx: fx), "loss_fn is to be called as .* one value a row"),
        (dict(loss_fn="lpips"), "loss_fn is a str"),
        (dict(kkm=list(range(3)).__iter__()), r"kkm is a list_iterator without pop\(\)"),
    ],
)
def test_what_cannot_be_called_is_refused_at_once(change, said):
    with pytest.raises(ValueError, match=said) as error:
        loader(**change)
    assert "\n" not in str(error.value)


def of_level(change):
    """A model that does `change(images, loi)` instead of returning images[loi]."""

    def model(x, codes, loi=None):
        images = ToyCascade(2)(x, [*codes, torch.zeros(len(x), SIZES[1])][:2])
        return change(images, loi)

    return model


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dict(model=passing_on), r"model is to be called as model\(x, codes, loi=LEVEL\)"),
        (dict(model=of_level(lambda i, k: i)), r"returned a list of 2: with loi=0 .* level alone"),
        (dict(model=of_level(lambda i, k: tuple(i))), "returned a tuple of 2"),
        (dict(model=of_level(lambda i, k: None)), "returned a NoneType"),
        (dict(model=of_level(lambda i, k: i[1])), r"\[6, 3, 16, 16\] for level 0.*\[3, 8, 8\]"),
        (dict(model=of_level(lambda i, k: i[k][:1])), r"returned \[1, 3, 8, 8\]: with loi=0"),
        (dict(model=of_level(lambda i, k: i[k].mean((2, 3)))), r"returned \[6, 3\]"),
        (dict(z_gen=lambda rows, level: torch.randn(1, 3)), r"z_gen\(6, 0\) must give 6 codes"),
        (dict(z_gen=lambda rows, level: [0] * rows), "must give 6 codes, got list"),
        (dict(z_gen=None), "z_gen is a NoneType, which cannot be called"),
        (dict(corruptor=lambda x: (x, x)), r"corruptor returned a tuple for \[2, 3, 4, 4\]"),
        (dict(corruptor=lambda x: x[:1]), r"corruptor returned \[1, 3, 4, 4\]"),
        (dict(loss_fn=lambda fx, y: mse(fx, y).mean()), r"one value per row \(6 of them\), got"),
        (dict(loss_fn=lambda fx, y: 0.0), "one value per row .* got float"),
    ],
)
def test_what_returns_another_thing_is_told_so(change, said):
    with pytest.raises(ValueError, match=said) as error:
        take(loader(**change))
    assert "\n" not in str(error.value)


def test_a_type_error_of_the_models_own_stays():
    def model(x, codes, loi=None):
        return x + "noise"

    with pytest.raises(TypeError, match="unsupported operand|must be Tensor"):
        take(loader(model=model))


def test_the_other_ways_to_search_and_draw_say_the_same():
    cx, y = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 8, 8)
    ids, codes_of = torch.arange(2), CodeGenerator([3], seed=0)
    with pytest.raises(ValueError, match="returned a list"):
        search(of_level(lambda i, k: i), mse, z_gen, cx, [y], ids, 0, 2, 2)
    with pytest.raises(ValueError, match=re.escape("model(x, codes, loi=LEVEL)")):
        pool_search(lambda x, codes: x, codes_of, [y], 0, pool_size=2, device="cpu")
    with pytest.raises(ValueError, match="returned a list"):
        draw_samples(lambda x, codes, loi: [x], codes_of, cx, ids, 1, loop=0)


def test_a_cascade_that_forgets_its_state():
    class Forgetful(ToyCascade):
        def advance(self, state, code, level):
            return super().advance(state, code, level)[0]

    with pytest.raises(ValueError, match=r"advance must give \(images, state\)"):
        take(make(model=Forgetful(2)))
