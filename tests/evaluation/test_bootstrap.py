"""Weighted moments against rows drawn anew; intervals against many independent samples."""

import numpy as np
import pytest
import torch

from evaluation.bootstrap import (
    _Weighted,
    frechet_interval,
    frechet_paired,
    frechet_replicates,
)
from evaluation.frechet import FeatureStats, frechet_distance


def features(n, seed=0, dim=6, shift=0.0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, dim, generator=g).double() * torch.linspace(0.5, 2, dim).double() + shift


def moments(x):
    stats = FeatureStats(x.shape[1])
    stats.update(x)
    return stats.moments()


@pytest.mark.parametrize(("n", "dim"), [(60, 6), (15, 40)])  # also fewer rows than dimensions
def test_weights_are_rows_drawn_anew(n, dim):
    x, reference = features(n, 1, dim, 0.3), moments(features(200, 2, dim))
    weighted = _Weighted(x, reference)
    rows = torch.randint(n, (n,), generator=torch.Generator().manual_seed(3))
    for drawn in (rows, torch.arange(n)):
        wanted = frechet_distance(moments(x[drawn]), reference)
        found = weighted.distance(torch.bincount(drawn, minlength=n))
        assert found == pytest.approx(wanted, rel=1e-6)
    generator = torch.Generator().manual_seed(4)
    draws = [torch.randint(n, (n,), generator=generator) for _ in range(20)]
    slow = [frechet_distance(moments(x[rows]), reference) for rows in draws]
    found = frechet_replicates(x, reference, resamples=20, seed=4)
    assert found.values.tolist() == pytest.approx(slow, rel=1e-6)


def test_the_interval_is_as_wide_as_independent_samples_differ():
    reference = moments(features(20000, 99))
    values, found = [], []
    for seed in range(80):
        x = features(200, seed, shift=0.2)
        values.append(frechet_distance(moments(x), reference))
        found.append(frechet_interval(x, reference, resamples=30, seed=seed))
    width = np.mean([f.high - f.low for f in found]) / (2 * 1.96)
    assert width == pytest.approx(np.std(values), rel=0.25)
    middle = np.mean(values)
    assert 0.85 < np.mean([f.low < middle < f.high for f in found])
    # and what so few samples add to the distance is what the bias says
    true = frechet_distance(moments(features(50000, 100, shift=0.2)), reference)
    assert np.mean([f.bias for f in found]) == pytest.approx(middle - true, rel=0.35)


def test_pairs_cancel_what_they_share():
    x, noise = features(300, 1, shift=0.2), features(300, 2) * 0.02
    reference = moments(features(5000, 3))
    paired = frechet_paired(x, x * 1.05 + noise, reference, resamples=50)
    apart = [frechet_distance(moments(y), reference) for y in (x, x * 1.05 + noise)]
    assert paired.value == pytest.approx(apart[0] - apart[1], rel=1e-9)
    alone = frechet_interval(x, reference, resamples=50)
    assert paired.high - paired.low < 0.5 * (alone.high - alone.low)
    with pytest.raises(ValueError, match="in pairs"):
        frechet_paired(x, x[:9], reference)


def test_what_cannot_be():
    x = features(50)
    with pytest.raises(ValueError, match="at least 20"):
        frechet_interval(x, moments(x), resamples=3)
    with pytest.raises(ValueError, match="6 features"):
        frechet_interval(x, moments(features(50, dim=4)))
