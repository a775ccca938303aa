"""Colour conversions against scikit-image's definition, in both directions."""

from __future__ import annotations

import pytest
import torch

from imle.color import lab_to_rgb, lab_to_xyz, rgb_to_lab, rgb_to_xyz, xyz_to_lab, xyz_to_rgb
from tests.imle import camnet_oracle as oracle

# published D65 values (L, a, b) of sRGB primaries and greys
KNOWN = {
    (0.0, 0.0, 0.0): (0.0, 0.0, 0.0),
    (1.0, 1.0, 1.0): (100.0, 0.0, 0.0),
    (1.0, 0.0, 0.0): (53.24, 80.09, 67.20),
    (0.0, 1.0, 0.0): (87.73, -86.18, 83.18),
    (0.0, 0.0, 1.0): (32.30, 79.19, -107.86),
}


@pytest.mark.parametrize("rgb", KNOWN)
def test_known_colours(rgb: tuple[float, float, float]):
    pixel = torch.tensor(rgb).reshape(1, 3, 1, 1)
    lab = xyz_to_lab(rgb_to_xyz(pixel)).flatten()
    torch.testing.assert_close(lab, torch.tensor(KNOWN[rgb]), atol=0.05, rtol=0)


def test_round_trip_over_the_cube():
    axis = torch.linspace(0, 1, 9)
    rgb = torch.cartesian_prod(axis, axis, axis).T.reshape(1, 3, 27, 27)
    torch.testing.assert_close(lab_to_rgb(rgb_to_lab(rgb)), rgb, atol=2e-5, rtol=0)
    torch.testing.assert_close(xyz_to_rgb(rgb_to_xyz(rgb)), rgb, atol=1e-5, rtol=0)
    lab = xyz_to_lab(rgb_to_xyz(rgb))
    torch.testing.assert_close(lab_to_xyz(lab), rgb_to_xyz(rgb), atol=1e-5, rtol=0)


def test_against_float64_oracle():
    rgb = torch.rand(2, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    expected = oracle.rgb_to_lab(rgb.double(), 127.0).float()
    torch.testing.assert_close(rgb_to_lab(rgb), expected, atol=1e-5, rtol=0)
    lab = torch.rand(2, 3, 5, 7, generator=torch.Generator().manual_seed(1)) * 2 - 1
    lab[:, 0].abs_()
    expected = oracle.lab_to_rgb(lab.double()).float()
    torch.testing.assert_close(lab_to_rgb(lab), expected, atol=2e-5, rtol=1e-5)


def test_reference_range_divides_b_twice():
    rgb = torch.rand(1, 3, 4, 4)
    right, wrong = rgb_to_lab(rgb), rgb_to_lab(rgb, lab_range="reference")
    torch.testing.assert_close(wrong[:, :2], right[:, :2])
    torch.testing.assert_close(wrong[:, 2], right[:, 2] / 127)


def test_correct_range_holds_every_colour():
    """L in [0, 1] and a, b in [-1, 1] for all of sRGB, so that tanh outputs can reach them."""
    axis = torch.linspace(0, 1, 17)
    rgb = torch.cartesian_prod(axis, axis, axis).T.reshape(1, 3, 17, 289)
    lab = rgb_to_lab(rgb)
    assert lab[:, 0].min() >= -1e-6 and lab[:, 0].max() <= 1 + 1e-6
    assert lab[:, 1:].abs().max() < 1
    assert lab[:, 1].min() < -0.6 and lab[:, 2].min() < -0.8


def test_gradients_are_finite_at_the_edges():
    for rgb in (torch.zeros(1, 3, 1, 1), torch.ones(1, 3, 1, 1), torch.full((1, 3, 1, 1), 0.04045)):
        rgb = rgb.requires_grad_()
        lab_to_rgb(rgb_to_lab(rgb)).sum().backward()
        assert torch.isfinite(rgb.grad).all()
    lab = torch.tensor([0.0, -1.0, 1.0]).reshape(1, 3, 1, 1).requires_grad_()
    lab_to_rgb(lab).sum().backward()
    assert torch.isfinite(lab.grad).all()
