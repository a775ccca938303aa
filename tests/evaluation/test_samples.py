"""Every statistic against a float64 loop written from its definition."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from evaluation.samples import (
    best_of_k,
    bicubic,
    distance_to_target,
    faithfulness_weighted_variance,
    fwv_form,
    pairwise_diversity,
    psnr,
    ssim,
)


def mse(a, b):
    return (a - b).square().flatten(1).mean(1)


def batch(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_psnr_equals_its_definition():
    a, b = batch(3, 3, 5, 4), batch(3, 3, 5, 4, seed=1)
    for i, got in enumerate(psnr(a, b)):
        err = np.mean((a[i].double().numpy() - b[i].double().numpy()) ** 2)
        assert got.item() == pytest.approx(-10 * math.log10(err), rel=1e-12)
    assert psnr(a * 255, b * 255, peak=255.0)[0] == pytest.approx(psnr(a, b)[0].item(), rel=1e-6)


def test_psnr_of_equal_images_is_inf_and_shapes_must_agree():
    a = batch(2, 3, 4, 4)
    assert torch.isinf(psnr(a, a)).all()
    with pytest.raises(ValueError, match="shapes differ"):
        psnr(a, a[:1])


@pytest.mark.parametrize("peak", [1.0, 255.0])
def test_ssim_is_torchmetrics(peak):
    oracle = pytest.importorskip("torchmetrics.functional.image")
    a = batch(3, 3, 17, 24).double() * peak
    b = (0.8 * a + 0.2 * peak * batch(3, 3, 17, 24, seed=1)).double()
    theirs = oracle.structural_similarity_index_measure(
        a, b, data_range=peak, sigma=1.5, reduction="none"
    )
    np.testing.assert_allclose(ssim(a, b, peak=peak), theirs, rtol=1e-6)


def test_ssim_at_one_place_is_its_definition():
    a, b = batch(1, 1, 11, 11).double(), batch(1, 1, 11, 11, seed=1).double()
    w = np.exp(-((np.arange(11) - 5) ** 2) / 4.5)
    w = np.outer(w, w) / w.sum() ** 2
    x, y = a[0, 0].numpy(), b[0, 0].numpy()
    mx, my = (w * x).sum(), (w * y).sum()
    vx, vy = (w * (x - mx) ** 2).sum(), (w * (y - my) ** 2).sum()
    cov = (w * (x - mx) * (y - my)).sum()
    wanted = (2 * mx * my + 1e-4) * (2 * cov + 9e-4)
    wanted /= (mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4)
    assert ssim(a, b, border="inside").item() == pytest.approx(wanted, rel=1e-9)
    assert ssim(a, a).item() == pytest.approx(1)
    for options, says in (({"border": "inside"}, "11 pixels"), ({"size": 25}, "13 pixels")):
        with pytest.raises(ValueError, match=says):
            ssim(a[..., 1:], b[..., 1:], **options)
    with pytest.raises(ValueError, match="10 pixels"):
        ssim(a, b, size=10)


def test_the_form_is_said():
    said = fwv_form((0.15, 0.3), kernel="squared")
    assert said == (
        "mean over inputs i, samples j of exp(-d(y_ij, y_i)^2 / (2 sigma^2)) "
        "d(y_ij, mean_j y_ij), sigma 0.15, 0.3"
    )
    assert "sum over" in fwv_form([1], reduction="sum") and "^2 / (2" not in fwv_form([1])


def test_best_of_k_is_the_minimum_and_ignores_nan():
    d = torch.tensor([[3.0, 1.0, 2.0], [float("nan"), 5.0, 7.0]])
    assert best_of_k(d).tolist() == [1.0, 5.0]
    for bad in (torch.zeros(3), torch.zeros(3, 0)):
        with pytest.raises(ValueError, match="best_of_k"):
            best_of_k(bad)


def test_distance_to_target_pairs_every_sample_with_its_own_target():
    s, y = batch(2, 3, 3, 4, 4), batch(2, 3, 4, 4, seed=1)
    got = distance_to_target(s, y, mse)
    for i in range(2):
        for j in range(3):
            want = ((s[i, j].double() - y[i].double()) ** 2).mean()
            assert got[i, j].item() == pytest.approx(want.item(), rel=1e-5)


@pytest.mark.parametrize("k", [2, 5])
def test_pairwise_diversity_equals_a_double_loop(k):
    s = batch(3, k, 3, 4, 4).double()
    got = pairwise_diversity(s, mse)
    for i in range(3):
        pairs = [
            ((s[i, a] - s[i, b]) ** 2).mean().item() for a in range(k) for b in range(k) if a != b
        ]
        assert got[i].item() == pytest.approx(sum(pairs) / len(pairs), rel=1e-12)


def test_pairwise_diversity_of_one_sample_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        pairwise_diversity(batch(3, 1, 4), mse)


def test_faithfulness_weighted_variance_equals_its_definition():
    s, y, sigmas = batch(3, 4, 3, 4, 4).double(), batch(3, 3, 4, 4, seed=1).double(), (0.15, 0.3)
    got = faithfulness_weighted_variance(s, y, mse, sigmas)
    assert got.shape == (2,)
    for n, sigma in enumerate(sigmas):
        total = 0.0
        for i in range(3):
            centre = s[i].mean(0)
            for j in range(4):
                w = math.exp(-((s[i, j] - y[i]) ** 2).mean().item() / (2 * sigma**2))
                total += w * ((s[i, j] - centre) ** 2).mean().item()
        assert got[n].item() == pytest.approx(total / 12, rel=1e-12)


def test_faithfulness_weighted_variance_punishes_both_collapse_and_unfaithfulness():
    y = torch.full((1, 1, 4, 4), 0.5)
    near = (y[:, None] + 0.05 * torch.tensor([1.0, -1.0]).view(1, 2, 1, 1, 1)).clone()
    collapsed, far = y[:, None].expand(1, 2, 1, 4, 4), near + 10.0
    value = lambda s: faithfulness_weighted_variance(s, y, mse, [0.2]).item()  # noqa: E731
    assert value(collapsed) == 0.0
    assert value(near) > 100 * value(far)


def test_a_distance_that_squeezes_its_only_row_is_named():
    with pytest.raises(ValueError, match="one value a row"):
        pairwise_diversity(batch(1, 2, 4), lambda a, b: mse(a, b).squeeze())
    with pytest.raises(ValueError, match="do not fit"):
        distance_to_target(batch(2, 3, 4), batch(3, 4), mse)
    with pytest.raises(ValueError, match="positive"):
        faithfulness_weighted_variance(batch(2, 3, 4), batch(2, 4), mse, [0.0])


def test_bicubic_agrees_with_pillow_and_stays_in_range():
    x = batch(1, 3, 16, 16)
    x[:, :, 4:9, 5:9] = 1.0
    for size in (8, 64):
        got = bicubic(x, size)
        assert got.shape == (1, 3, size, size)
        assert 0.0 <= got.min() and got.max() <= 1.0
        for c in range(3):
            want = Image.fromarray(x[0, c].numpy()).resize((size, size), Image.BICUBIC)
            assert np.abs(np.asarray(want).clip(0, 1) - got[0, c].numpy()).max() < 1e-4
    assert bicubic(x, (8, 4)).shape == (1, 3, 8, 4)
