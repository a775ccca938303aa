"""Nearest-train distances against brute force; the test against scipy; copies are found."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.distance import cdist

from evaluation.memorisation import _mann_whitney, memorisation


def features(n, seed, dim=10):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_distances_are_brute_forces(metric):
    samples, train, held_out = features(30, 0), features(50, 1), features(40, 2)
    found = memorisation(samples, train, held_out, metric=metric, low=0.2)
    d, real = (cdist(x, train, metric) for x in (samples, held_out))
    np.testing.assert_allclose(found.samples, d.min(1), rtol=1e-9)
    np.testing.assert_allclose(found.held_out, real.min(1), rtol=1e-9)
    assert np.array_equal(found.nearest, d.argmin(1))
    assert found.ratio == pytest.approx(np.median(d.min(1)) / np.median(real.min(1)))
    assert found.share_below == np.mean(d.min(1) < np.quantile(real.min(1), 0.2))
    two = np.sort(d, 1)
    assert found.copied == np.mean(two[:, 0] < two[:, 1] / 3)
    p = stats.mannwhitneyu(d.min(1), real.min(1), method="asymptotic", use_continuity=False).pvalue
    assert 2 * stats.norm.sf(abs(found.z)) == pytest.approx(p, rel=1e-9)


def test_ties():
    a, b = (torch.tensor(x).double() for x in ([1, 1, 2, 5], [1, 2, 2, 9, 9]))
    p = stats.mannwhitneyu(a, b, method="asymptotic", use_continuity=False).pvalue
    assert 2 * stats.norm.cdf(_mann_whitney(a, b)) == pytest.approx(p, rel=1e-9)
    assert _mann_whitney(a * 0, b * 0) == 0


def test_a_generator_that_copies_is_told():
    train, held_out = features(300, 0), features(200, 1)
    fresh = memorisation(features(200, 2), train, held_out)
    copies = memorisation(train[:200] + 0.01 * features(200, 3), train, held_out)
    assert 0.9 < fresh.ratio < 1.1 and abs(fresh.z) < 3 and fresh.copied == 0
    assert copies.ratio < 0.1 and copies.z < -10 and copies.copied == 1 and copies.share_below == 1
    assert copies.nearest.tolist() == list(range(200)) and "100.0% copies" in str(copies)


def test_what_cannot_be():
    x = features(5, 0)
    with pytest.raises(ValueError, match="1 training"):
        memorisation(x, x[:1], x)
    with pytest.raises(ValueError, match="low 1"):
        memorisation(x, x, x, low=1)
