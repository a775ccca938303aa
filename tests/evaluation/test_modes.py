"""Proportions of modes against scipy; clusters against scikit-learn."""

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.cluster import KMeans

from evaluation.modes import cluster_centres, count_modes, mode_proportions, nearest_centre


def test_the_test_is_scipys():
    a, b = torch.tensor([30, 12, 0, 8, 0]), torch.tensor([200, 120, 30, 40, 0])
    found = mode_proportions(a, b)
    oracle = stats.chi2_contingency(torch.stack((a, b))[:, :4].numpy(), correction=False)
    assert (found.chi2, found.p) == pytest.approx((oracle.statistic, oracle.pvalue), rel=1e-10)
    assert found.df == oracle.dof == 3 and found.missing == 1
    assert found.tv == pytest.approx(float((a / 50 - b / 390).abs().sum()) / 2)
    assert found.shares.sum() == pytest.approx(1) and "1 missing" in str(found)


def test_by_chance_is_what_chance_does():
    rng = np.random.default_rng(0)
    p = np.array([0.5, 0.3, 0.15, 0.05])
    draws = [
        mode_proportions(*(torch.from_numpy(rng.multinomial(n, p)) for n in (200, 900)))
        for _ in range(400)
    ]
    assert np.mean([d.tv for d in draws]) == pytest.approx(draws[0].tv_by_chance, rel=0.1)
    assert 0.02 < np.mean([d.p < 0.05 for d in draws]) < 0.09
    assert 0.02 < np.mean([d.different for d in draws]) / 4 < 0.08


def test_what_is_no_count():
    one = torch.ones(3, dtype=torch.int64)
    for a, b, says in (
        (one, one[:2], "3 modes"), (one * 0, one, "samples"), (one, one.double(), "data"),
        (one, one - 2, "data"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=says):
            mode_proportions(a, b)
    assert count_modes(torch.tensor([2, 0, 2]), 4).tolist() == [1, 0, 2, 0]
    assert mode_proportions(one[:1], one[:1]).p == 1


def test_clusters():
    g = torch.Generator().manual_seed(0)
    middles = torch.randn(5, 3, generator=g).double() * 20
    x = torch.cat([m + torch.randn(40, 3, generator=g).double() for m in middles])
    centres = cluster_centres(x, 5, seed=1)
    own = nearest_centre(x, centres)
    assert own.view(5, 40).unique(dim=1).shape == (5, 1)  # every group whole, and by itself
    oracle = KMeans(5, init=centres.numpy(), n_init=1).fit(x.numpy())
    np.testing.assert_allclose(centres, oracle.cluster_centers_, rtol=1e-9)  # nothing left to do
    assert torch.equal(centres, cluster_centres(x, 5, seed=1))
    assert count_modes(own, 5).tolist() == [40] * 5
    with pytest.raises(ValueError, match="only 2 different"):
        cluster_centres(torch.tensor([[0.0], [1.0]]).repeat(5, 1), 3)
