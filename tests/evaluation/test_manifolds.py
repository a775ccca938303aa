"""Precision, recall, density, coverage against prdc, torch-fidelity and loops over pairs."""

import numpy as np
import pytest
import torch
from torch_fidelity.metric_prc import prc_features_to_metric

from evaluation.manifolds import prdc


def features(n, seed=0, dim=8):
    x = torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)).double()
    return x * (1 + 0.3 * seed) + 0.5 * seed


def by_loops(samples, reference, k):
    def edge(points, i):
        return sorted(np.linalg.norm(points[i] - p) for p in points)[k]

    x, y = samples.numpy(), reference.numpy()
    ex, ey = [[edge(points, i) for i in range(len(points))] for points in (x, y)]
    d = np.array([[np.linalg.norm(a - b) for b in y] for a in x])
    return (
        np.mean([any(d[i] <= ey) for i in range(len(x))]),
        np.mean([any(d[:, j] <= ex) for j in range(len(y))]),
        sum((d[i] <= ey).sum() for i in range(len(x))) / (k * len(x)),
        np.mean([d[:, j].min() <= ey[j] for j in range(len(y))]),
    )


@pytest.mark.parametrize("k", [1, 3, 5])
def test_all_four(k, monkeypatch):
    samples, reference = features(70, 1), features(50)
    found = prdc(samples, reference, k=k)
    assert 0 < found.precision < 1 and 0 < found.recall and 0 < found.coverage < 1
    assert found[:4] == pytest.approx(by_loops(samples, reference, k), rel=1e-12)
    oracle = prc_features_to_metric(
        samples, reference, prc_neighborhood=k, save_cpu_ram=False, verbose=False
    )
    assert found[:2] == pytest.approx((oracle["precision"], oracle["recall"]), rel=1e-6)
    monkeypatch.setattr("evaluation.distances._BLOCK", 120)
    assert prdc(samples, reference, k=k) == found


def test_prdc_package():
    oracle = pytest.importorskip("prdc")
    samples, reference = features(70, 1), features(50)
    theirs = oracle.compute_prdc(reference.numpy(), samples.numpy(), nearest_k=5)
    found = prdc(samples, reference, k=5)
    assert found._asdict() == pytest.approx({**theirs, "k": 5}, rel=1e-6)


def test_the_edge_of_a_ball_is_in_it_whatever_rounding_says():
    # samples that are the reference, far from the origin: each ball has its centre and k others
    reference = features(40) + 1e3
    same = prdc(reference.clone(), reference, k=5)
    assert same == (1, 1, pytest.approx(6 / 5), 1, 5)
    assert prdc(reference.float(), reference.float(), k=5) == same


def test_what_cannot_be():
    for k in (0, 30):
        with pytest.raises(ValueError, match=f"k={k}"):
            prdc(features(30), features(40), k=k)
    with pytest.raises(ValueError, match="8 features"):
        prdc(features(30), features(30, dim=3))
