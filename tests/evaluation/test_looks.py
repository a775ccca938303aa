"""Gain, spread, hues and seams, each against a loop of its definition."""

import math

import pytest
import torch

from evaluation.looks import (
    best_gain,
    chroma_distance,
    edge_gradient,
    one_color,
    spread,
)


def batch(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_best_gain_is_what_the_best_has_over_the_mean():
    got = best_gain(torch.tensor([[1.0, 2.0, 3.0], [4.0, 4.0, 4.0], [0.0, 0.0, 0.0]]))
    assert got.tolist() == [0.5, 0.0, 0.0]


def test_spread_is_the_standard_deviation_in_each_pixel():
    samples = batch(2, 4, 3, 3, 5)
    got = spread(samples)
    assert got.shape == (2, 1, 3, 5)
    for n in range(2):
        for i in range(3):
            for j in range(5):
                each = []
                for c in range(3):
                    values = samples[n, :, c, i, j].tolist()
                    mean = sum(values) / 4
                    each.append(math.sqrt(sum((v - mean) ** 2 for v in values) / 4))
                assert got[n, 0, i, j].item() == pytest.approx(sum(each) / 3, rel=1e-5)
    assert spread(samples[:, :1]).abs().max() == 0


def test_chroma_distance_is_in_a_and_b_alone():
    lab, other = batch(2, 3, 4, 5) * 100, batch(2, 3, 4, 5, seed=1) * 100
    for n, got in enumerate(chroma_distance(lab, other)):
        want = [
            math.hypot(*(float(lab[n, c, i, j] - other[n, c, i, j]) for c in (1, 2)))
            for i in range(4)
            for j in range(5)
        ]
        assert got.item() == pytest.approx(sum(want) / 20, rel=1e-5)
    brighter = lab + torch.tensor([9.0, 0.0, 0.0])[:, None, None]
    assert chroma_distance(lab, brighter).abs().max() < 1e-4


def test_one_color_has_the_lightness_and_the_mean_hue_of_its_picture():
    lab = batch(2, 3, 4, 5)
    got = one_color(lab)
    assert torch.equal(got[:, 0], lab[:, 0])
    for n in range(2):
        for c in (1, 2):
            assert torch.allclose(got[n, c], lab[n, c].mean())


def test_edge_gradient_is_the_mean_step_over_the_edge_of_holes():
    images, holes = batch(2, 3, 5, 6), batch(2, 1, 5, 6, seed=1) > 0.6
    for n, got in enumerate(edge_gradient(images, holes)):
        steps = []
        for i in range(5):
            for j in range(6):
                for k, m in ((i + 1, j), (i, j + 1)):
                    if k < 5 and m < 6 and holes[n, 0, i, j] != holes[n, 0, k, m]:
                        apart = images[n, :, i, j] - images[n, :, k, m]
                        steps.append(apart.abs().mean().item())
        assert got.item() == pytest.approx(sum(steps) / len(steps), rel=1e-5)
    assert edge_gradient(images, torch.zeros(1, 1, 5, 6).bool()).isnan().all()


def test_edge_gradient_sees_a_seam_and_no_detail_inside():
    plain, hole = torch.full((1, 3, 8, 8), 0.5), torch.zeros(1, 1, 8, 8).bool()
    hole[..., 2:6, 2:6] = True
    assert edge_gradient(plain, hole) == 0
    filled = torch.where(hole, 0.7, plain)
    assert edge_gradient(filled, hole).item() == pytest.approx(0.2, rel=1e-5)
    inside = plain.clone()
    inside[..., 3:5, 3:5] = 1.0
    assert edge_gradient(inside, hole) == 0
