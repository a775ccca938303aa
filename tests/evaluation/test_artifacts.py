"""Borders and ripples, on pictures that are known to have them."""

import pytest
import torch

from evaluation.artifacts import border_error, ripple


def example():
    """A picture whose left half is flat and whose right half is noise."""
    target = torch.full((1, 3, 16, 16), 0.5)
    target[..., 8:] = torch.rand(1, 3, 16, 8, generator=torch.Generator().manual_seed(0))
    return target


def test_a_border_that_is_off_by_three_times_as_much():
    target = example()
    images = target + 0.01
    images[:, :, :2] = target[:, :, :2] + 0.03
    assert border_error(target + 0.01, target) == pytest.approx(1, rel=1e-4)
    ring, top = 16 * 16 - 12 * 12, 2 * 16
    expected = (3 * top + ring - top) / ring
    assert border_error(images, target) == pytest.approx(expected, rel=1e-4)
    with pytest.raises(ValueError, match="all border"):
        border_error(target[..., :4, :4], target[..., :4, :4])


def test_ripples_count_where_the_target_is_flat_alone():
    target = example()
    waves = 0.02 * torch.tensor([0.0, 1.0]).repeat(8).expand(1, 3, 16, 16)
    rippled, rough = target.clone(), target.clone()
    rippled[..., :8] += waves[..., :8]
    rough[..., 8:] += waves[..., 8:]
    both = torch.cat([target, rippled, rough])
    assert ripple(both, target).tolist() == pytest.approx([0, 0.02 * 255, 0], abs=1e-3)
    tilted = torch.linspace(0, 0.15, 16).expand(1, 3, 16, 16)
    assert ripple(tilted, tilted) == pytest.approx(1, rel=1e-4)
    assert ripple(1 - tilted * 2, tilted) == pytest.approx(2, rel=1e-4)
    assert ripple(target, torch.rand(1, 3, 16, 16)).isnan().all()
