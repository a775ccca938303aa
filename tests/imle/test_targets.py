"""Targets that are prepared once a loop."""

import pytest
import torch

from imle import ResolutionLoss
from imle.targets import TargetCache, joined, rows


@pytest.fixture
def loss():
    return ResolutionLoss(random_seed=0, alpha=1.0)


@pytest.fixture
def ys():
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(4, 3, side, side, generator=generator) for side in (16, 32)]


def images(ys):
    generator = torch.Generator().manual_seed(2)
    return [torch.rand(y.shape, generator=generator).requires_grad_() for y in ys]


def test_losses_and_gradients_are_those_of_plain_targets(loss, ys):
    kept = TargetCache(loss)(0, [7, 3, 9, 1], ys)
    for x, y, target in zip(images(ys), ys, kept, strict=True):
        plain, cached = loss(x, y), loss(x, target)
        assert torch.allclose(plain, cached, rtol=1e-5, atol=0)
        (a,), (b,) = (torch.autograd.grad(v.sum(), x) for v in (plain, cached))
        assert (a - b).abs().max() < 1e-5 * a.abs().max()


def test_a_picture_is_prepared_once_a_loop(loss, ys, monkeypatch):
    made = []
    prepare = loss.prepare
    monkeypatch.setattr(loss, "prepare", lambda y: made.append(len(y)) or prepare(y))
    cache = TargetCache(loss)
    cache(0, [0, 1, 2, 3], ys)
    assert made == [1] * 8
    cache(0, [3, 3, 0, 1], [y[[3, 3, 0, 1]] for y in ys])
    assert made == [1] * 8
    cache(1, [0, 1, 2, 3], ys)
    assert made == [1] * 16


def test_another_loop_has_another_flip(loss, ys):
    cache = TargetCache(loss)
    cache(0, [5], [y[:1] for y in ys])
    flipped = [y[:1].flip(3) for y in ys]
    for target, y in zip(cache(1, [5], flipped), flipped, strict=True):
        assert torch.equal(target.y, y)
        assert all(
            torch.equal(a, b)
            for a, b in zip(target.features, loss.prepare(y).features, strict=True)
        )


def test_what_is_kept_does_not_depend_on_the_batch(loss, ys):
    """So that a run which goes on in the middle of a loop has the same bits."""
    begun = TargetCache(loss)
    begun(0, [0, 1], [y[:2] for y in ys])
    whole = begun(0, [2, 0, 3], [y[[2, 0, 3]] for y in ys])
    resumed = TargetCache(loss)(0, [2, 0, 3], [y[[2, 0, 3]] for y in ys])
    for a, b in zip(whole, resumed, strict=True):
        assert all(torch.equal(f, g) for f, g in zip(a.features, b.features, strict=True))


def test_rows_of_prepared_targets_are_those_of_their_pictures(loss, ys):
    whole = joined([loss.prepare(ys[0][:1]), loss.prepare(ys[0][1:])])
    part = rows(whole, slice(1, 3))
    assert torch.equal(part.y, ys[0][1:3]) and len(part.features[0]) == 2
    assert torch.equal(part.features[4], whole.features[4][1:3])
    assert torch.equal(rows(ys[0], slice(1, 3)), ys[0][1:3])
