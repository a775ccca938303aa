"""Corruptions: exact counts, no change in place, keyed by image and loop."""

from __future__ import annotations

import math

import pytest
import torch

from imle import Corruption
from imle.corruption import keep_channel, luma, mask_image, masked_cells


def _images(n: int = 6, side: int = 16) -> torch.Tensor:
    # away from 0, so that a zero pixel is a masked one
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0)) * 0.9 + 0.05


def test_identity():
    x = _images()
    assert torch.equal(Corruption()(x), x)
    assert torch.equal(Corruption().keyed(x, 0, torch.arange(6)), x)
    assert Corruption().is_identity and not Corruption(mask_frac=0.1).is_identity


@pytest.mark.parametrize("frac", [0.01, 0.25, 0.3, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("side", [1, 4, 8])
def test_exact_number_of_cells(frac: float, side: int):
    x = _images()
    out = Corruption(mask_res=side, mask_frac=frac).keyed(x, 3, torch.arange(6))
    cells = (out == 0).all(1).reshape(6, side, 16 // side, side, 16 // side)
    whole, some = cells.all(4).all(2), cells.any(4).any(2)
    assert torch.equal(whole, some), "a cell is hidden in part"
    assert (whole.sum((1, 2)) == math.ceil(frac * side**2)).all()
    assert torch.equal(out[out != 0], x[out != 0])


def test_cells_do_not_come_from_rounding():
    assert masked_cells(0.07, 10) == 7  # 0.07 * 100 is 7.000000000000001
    assert masked_cells(torch.tensor(0.1).item(), 10) == 10  # a fraction kept in float32
    assert masked_cells(0.071, 10) == 8
    assert masked_cells(torch.tensor(0.6).item(), 60) == 2160  # 2160.00009 of 3600
    assert masked_cells(1e-7, 8) == 1  # however small, a fraction hides something
    assert masked_cells(0.0, 8) == 0


def test_cells_are_spread_evenly():
    x = torch.ones(4000, 3, 4, 4)
    out = Corruption(mask_res=4, mask_frac=0.25).keyed(x, 0, torch.arange(4000))
    share = (out[:, 0] == 0).float().mean(0)
    assert (share - 0.25).abs().max() < 4 * math.sqrt(0.25 * 0.75 / 4000)


def test_colour_fill():
    x = _images()
    ids = torch.arange(6)
    out = Corruption(mask_res=4, mask_frac=0.5, fill="color").keyed(x, 0, ids)
    zero = Corruption(mask_res=4, mask_frac=0.5).keyed(x, 0, ids)
    hidden = (zero == 0).all(1)
    assert torch.equal(out.movedim(1, 3)[~hidden], x.movedim(1, 3)[~hidden])
    fills = [
        out[b, :, 4 * i, 4 * j]
        for b in range(6)
        for i in range(4)
        for j in range(4)
        if hidden[b, 4 * i, 4 * j]
    ]
    assert len({tuple(f.tolist()) for f in fills}) == len(fills) == 48
    assert 0 <= torch.stack(fills).min() and torch.stack(fills).max() < 1
    block = out[0].reshape(3, 4, 4, 4, 4)
    flat = (block == block[:, :, :1, :, :1]).all(4).all(2).all(0)
    assert torch.equal(flat, hidden[0].reshape(4, 4, 4, 4).all(3).all(1))


def test_luma_and_kept_channel():
    x = _images()
    weights = torch.tensor([0.299, 0.587, 0.114])
    grey = Corruption(grayscale=1).keyed(x, 0, torch.arange(6))
    for channel in range(3):
        torch.testing.assert_close(grey[:, channel], torch.einsum("c,bchw->bhw", weights, x))
    assert torch.equal(grey, luma(x))
    for channel in range(3):
        out = keep_channel(x, torch.full((6,), channel))
        others = [c for c in range(3) if c != channel]
        assert torch.equal(out[:, channel], x[:, channel])
        for other in others:
            torch.testing.assert_close(out[:, other], x[:, others].mean(1))


def test_half_grayscale_uses_all_channels():
    x = torch.tensor([0.1, 0.4, 0.9]).reshape(1, 3, 1, 1).expand(900, 3, 1, 1)
    out = Corruption(grayscale=0.5).keyed(x, 0, torch.arange(900))
    kept = [
        (out[:, c] == x[:, c]).flatten() & (out[:, c - 1] != x[:, c - 1]).flatten()
        for c in range(3)
    ]
    assert all(240 < int(k.sum()) < 360 for k in kept)
    assert int(sum(k.sum() for k in kept)) == 900


@pytest.mark.parametrize(
    "corruption",
    [
        Corruption(grayscale=0.5, seed=1),
        Corruption(mask_frac=0.4, seed=1),
        Corruption(grayscale=0.5, mask_frac=0.4, fill="color", mask_res=4, seed=1),
    ],
)
def test_keyed_by_seed_loop_and_image_only(corruption: Corruption):
    x, ids = _images(), torch.tensor([5, 2, 900, 7, 11, 3])
    kept = x.clone()
    out = corruption.keyed(x, 4, ids)
    assert torch.equal(x, kept), "changed in place"
    assert torch.equal(corruption.keyed(x, 4, ids), out)
    order = torch.tensor([3, 1, 4])
    assert torch.equal(corruption.keyed(x[order], 4, ids[order]), out[order])
    assert not torch.equal(corruption.keyed(x, 5, ids), out)
    assert not torch.equal(corruption.keyed(x, 4, ids + 1), out)
    other = Corruption(
        corruption.grayscale, corruption.mask_res, corruption.mask_frac, corruption.fill, seed=2
    )
    assert not torch.equal(other.keyed(x, 4, ids), out)


def test_plain_call_follows_torch_generators():
    x, corruption = _images(), Corruption(mask_frac=0.5)
    torch.manual_seed(0)
    first, second = corruption(x), corruption(x)
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(corruption(x), first)
    g = torch.Generator().manual_seed(3)
    assert torch.equal(corruption(x, g), corruption(x, torch.Generator().manual_seed(3)))


def test_mask_image_on_odd_sizes():
    x = torch.ones(1, 3, 7, 7)
    out, mask = mask_image(x, torch.tensor([[0, 1, 2, 3]]), 0.25)
    assert torch.equal(out, x * (1 - mask))
    assert mask.sum() == 16  # nearest: the first cell covers rows and columns 0-3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(grayscale=0.3), "grayscale must be 0, 0.5 or 1, got 0.3"),
        (dict(mask_frac=1.2), r"mask_frac must be in \[0, 1\], got 1.2"),
        (dict(mask_frac=float("nan")), "mask_frac"),
        (dict(mask_res=0), "mask_res must be at least 1, got 0"),
        (dict(fill="noise"), "fill must be zero or color, got 'noise'"),
    ],
)
def test_bad_settings(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        Corruption(**settings)


def test_bad_inputs():
    with pytest.raises(ValueError, match="mask_res 32 is finer"):
        Corruption(mask_res=32, mask_frac=0.5)(_images())
    with pytest.raises(ValueError, match=r"\[B, 3, H, W\]"):
        Corruption(grayscale=1)(torch.rand(2, 1, 8, 8))
    with pytest.raises(ValueError, match="6 images need as many image ids, got 2"):
        Corruption(grayscale=1).keyed(_images(), 0, torch.arange(2))
