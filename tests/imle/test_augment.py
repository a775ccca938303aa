"""Keyed flip."""

import pytest
import torch

from imle.augment import KeyedFlip


def pyramid(n):
    return [torch.rand(n, 3, s, s) for s in (4, 8)] + [
        torch.randint(0, 256, (n, 3, 8, 8), dtype=torch.uint8)
    ]


def test_all_resolutions_flip_together_and_only_by_key():
    ids, images = torch.arange(40), pyramid(40)
    copies = [x.clone() for x in images]
    flip = KeyedFlip(seed=1)
    out = flip(images, 3, ids)
    which = flip.flips(3, ids)
    assert 8 < which.sum() < 32
    for x, y, before in zip(images, out, copies, strict=True):
        assert torch.equal(x, before) and y.dtype == x.dtype
        assert torch.equal(y[which], x[which].flip(-1))
        assert torch.equal(y[~which], x[~which])
    # the key is the image, not its place
    order = torch.randperm(40)
    assert torch.equal(flip.flips(3, ids[order]), which[order])
    for other in (KeyedFlip(1).flips(4, ids), KeyedFlip(2).flips(3, ids)):
        assert not torch.equal(other, which)


def test_rate():
    ids = torch.arange(20_000)
    assert KeyedFlip(0, 0.0).flips(0, ids).sum() == 0
    assert KeyedFlip(0, 1.0).flips(0, ids).all()
    for p in (0.5, 0.1):
        rate = KeyedFlip(0, p).flips(0, ids).float().mean().item()
        assert abs(rate - p) < 5 * (p * (1 - p) / 20_000) ** 0.5
    with pytest.raises(ValueError, match="probability"):
        KeyedFlip(0, 1.5)
