"""What is asked of the objects a loader is given: ours do it, wrappers count as what they wrap."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from imle import (
    CAMNet,
    CodeGenerator,
    Corruption,
    KorKMinusOne,
    PixelLoss,
    ProjectedDistance,
    ResolutionLoss,
    UnconditionalGenerator,
    types,
)
from imle.perceptual import VGG16Features


class Wrapped:
    """Hands attributes through, as compiled modules do."""

    def __init__(self, inner):
        self.inner = inner

    def __getattr__(self, name):
        if name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)

    def __call__(self, *args, **options):
        return self.inner(*args, **options)


def plain(*args, **options):
    return None


CASES: dict[str, tuple[Callable[[object], bool], Callable[[], object]]] = {
    "cascade": (types.is_cascade, lambda: UnconditionalGenerator(8, channels=[4, 4])),
    "frozen_copy": (
        types.has_frozen_copy,
        lambda: CAMNet([4, 8], map_nc=4, latent_nc=4, resid_nc=[4], dense_nc=[4], n_blocks=1),
    ),
    "levels": (types.has_levels, lambda: UnconditionalGenerator(8, channels=[4, 4])),
    "keyed codes": (types.is_keyed_codes, lambda: CodeGenerator([3])),
    "corruption": (types.is_keyed_corruption, Corruption),
    "prepared loss": (
        types.is_prepared,
        lambda: ResolutionLoss(random_seed=0),
    ),
    "rounds": (types.is_rounded, lambda: ProjectedDistance(VGG16Features(random_seed=0))),
    "indices": (types.is_many, lambda: KorKMinusOne(range(3))),
    "state": (types.is_stateful, lambda: KorKMinusOne(range(3))),
}


@pytest.mark.parametrize("case", CASES)
def test_ours_do_it_wrappers_too_and_plain_functions_do_not(case):
    asks, make = CASES[case]
    ours = make()
    assert asks(ours) and asks(Wrapped(ours))
    assert not asks(plain)


def test_a_plain_loss_prepares_nothing():
    assert not types.is_rounded(PixelLoss()) and types.is_sized([1]) and not types.is_sized(plain)


def test_where_a_model_is():
    assert types.device_of(nn.Linear(1, 1).to("meta")) == torch.device("meta")
    assert types.device_of(plain) == types.device_of(nn.Identity()) == torch.device("cpu")
