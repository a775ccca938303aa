"""The search's copy of the loss equals the loss."""

import pytest
import torch

from imle import frozen_loss as module
from imle.frozen_loss import FrozenResolutionLoss, frozen_loss
from imle.losses import PixelLoss, ResolutionLoss


@pytest.fixture(scope="module")
def loss():
    return ResolutionLoss(random_seed=3, alpha=0.3)


@pytest.mark.parametrize("batch, times, side", [(1, 1, 16), (2, 5, 32), (5, 1, 16), (3, 4, 24)])
@pytest.mark.parametrize("limit", [1, 1 << 16, 1 << 18, 1 << 30])
def test_equals_the_loss_however_the_rows_are_grouped(loss, batch, times, side, limit, monkeypatch):
    monkeypatch.setattr(module, "_MAP_BYTES", limit)
    torch.manual_seed(batch)
    y, fx = torch.rand(batch, 3, side, side), torch.rand(batch * times, 3, side, side)
    before = fx.clone(), y.clone()
    expected = loss(fx, y)
    for channels_last in (True, False):
        frozen = FrozenResolutionLoss(loss, channels_last=channels_last)
        torch.testing.assert_close(frozen(fx, frozen.prepare(y)), expected, rtol=2e-6, atol=0)
    torch.testing.assert_close(frozen(fx, y), expected, rtol=2e-6, atol=0)
    assert torch.equal(fx, before[0]) and torch.equal(y, before[1])


@pytest.mark.parametrize("weighting", ["lpips", "reference", "original"])
def test_weightings_and_low_precision(weighting):
    torch.manual_seed(0)
    loss = ResolutionLoss(random_seed=1, alpha=0.0, weighting=weighting)
    y, fx = torch.rand(2, 3, 32, 32), torch.rand(6, 3, 32, 32)
    expected = loss(fx, y)
    torch.testing.assert_close(FrozenResolutionLoss(loss)(fx, y), expected, rtol=2e-6, atol=0)
    low = FrozenResolutionLoss(loss, torch.bfloat16)
    got = low(fx, low.prepare(y))
    assert got.dtype == torch.float32 and not torch.equal(got, expected)
    torch.testing.assert_close(got, expected, rtol=0.01, atol=0)


@pytest.mark.parametrize(
    "weighting, cells, side",
    [
        ("lpips", 4, 32),
        ("reference", 4, 32),
        ("original", 1, 32),
        ("lpips", 3, 20),
        ("lpips", 8, 64),
    ],
)
def test_maps_of_cells(weighting, cells, side, monkeypatch):
    """The mean over cells is the loss, and the search's copy has the same maps."""
    monkeypatch.setattr(module, "_MAP_BYTES", 1 << 18)
    torch.manual_seed(cells)
    loss = ResolutionLoss(random_seed=2, alpha=0.7, weighting=weighting)
    y, fx = torch.rand(2, 3, side, side), torch.rand(6, 3, side, side)
    maps = loss.maps(fx, loss.prepare(y), cells)
    assert maps.shape == (2, 3, cells, cells) and torch.equal(maps, loss.maps(fx, y, cells))
    if side in (32, 64):  # else deep maps have sides that cells do not divide
        torch.testing.assert_close(maps.mean((2, 3)).flatten(), loss(fx, y), rtol=1e-5, atol=0)
    for channels_last in (True, False):
        frozen = FrozenResolutionLoss(loss, channels_last=channels_last)
        target = frozen.prepare(y)
        torch.testing.assert_close(frozen.maps(fx, target, cells), maps, rtol=5e-6, atol=0)
    low = FrozenResolutionLoss(loss, torch.bfloat16).maps(fx, y, cells)
    assert low.dtype == torch.float32 and not torch.equal(low, maps)
    torch.testing.assert_close(low, maps, rtol=0.05, atol=0)


def test_a_cell_is_of_its_part_of_the_image(loss):
    torch.manual_seed(0)
    y = torch.rand(1, 3, 64, 64)
    fx = y.clone()
    fx[..., 40:44, 4:8] += 0.5  # in cell (2, 0) of 4 x 4
    maps = FrozenResolutionLoss(loss).maps(fx, y, 4)[0, 0]
    assert maps.argmax() == 8 and maps[2, 0] > 5 * maps[0].max()
    with pytest.raises(ValueError, match="3 images cannot be shared out over 2"):
        FrozenResolutionLoss(loss).maps(torch.rand(3, 3, 16, 16), torch.rand(2, 3, 16, 16), 2)


def test_it_is_a_copy_and_only_of_the_loss_it_knows(loss):
    class Other(ResolutionLoss):
        pass

    assert isinstance(frozen_loss(loss, torch.float32, True), FrozenResolutionLoss)
    assert frozen_loss(PixelLoss(), torch.float32, True) is None
    assert frozen_loss(Other(random_seed=1), torch.float32, True) is None
    frozen = FrozenResolutionLoss(loss)
    own = {b.data_ptr() for b in loss.features.buffers() if b.dim() == 4 and b.shape[2] == 3}
    assert not own & {b.data_ptr() for n, b in frozen.named_buffers() if ".w" in n}
    with pytest.raises(ValueError, match="3 images cannot be shared out over 2"):
        frozen(torch.rand(3, 3, 16, 16), torch.rand(2, 3, 16, 16))
    with pytest.raises(ValueError, match=r"images \[3, 32, 32\] and targets \[3, 16, 16\] differ"):
        frozen(torch.rand(2, 3, 32, 32), torch.rand(2, 3, 16, 16))
    with pytest.raises(ValueError, match="too small"):
        frozen(torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8))
