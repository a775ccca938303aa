"""KID against torch-fidelity on the same features, and against sums over pairs."""

import numpy as np
import pytest
import torch
from torch_fidelity.metric_kid import kid_features_to_metric

from evaluation.features import gather_rows
from evaluation.kernel_distance import kid, kid_blocks, kid_groups, kid_subsets
from evaluation.replicates import groups_of
from runtime import distributed
from tests import gloo


def features(n, seed=0, dim=24):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)).double() + 0.1 * seed


def by_pairs(x, y):
    def k(a, b):
        return (float(a @ b) / len(a) + 1) ** 3

    xx = np.mean([k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j])
    yy = np.mean([k(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j])
    return xx + yy - 2 * np.mean([k(a, b) for a in x for b in y])


def test_subsets_are_torch_fidelitys():
    x, y = features(130), features(90, 1)
    for options in ({}, {"degree": 2, "gamma": 0.5, "coef0": 3.0}):
        found = kid_subsets(x, y, subsets=7, subset_size=50, **options)
        names = {f"kid_kernel_poly_{name}": value for name, value in options.items()}
        oracle = kid_features_to_metric(
            x, y, kid_subsets=7, kid_subset_size=50, rng_seed=2020, verbose=False, **names
        )
        assert found.mean == pytest.approx(oracle["kernel_inception_distance_mean"], rel=1e-9)
        assert found.std == pytest.approx(oracle["kernel_inception_distance_std"], rel=1e-9)


def test_all_rows_and_blocks(monkeypatch):
    x, y = features(23), features(31, 1)
    assert kid(x, y) == pytest.approx(by_pairs(x.numpy(), y.numpy()), rel=1e-10)
    monkeypatch.setattr("evaluation.distances._BLOCK", 64)  # two rows at a time
    assert kid(x, y) == pytest.approx(by_pairs(x.numpy(), y.numpy()), rel=1e-10)


def test_blocks_share_no_row_and_are_those_of_their_rows(monkeypatch):
    monkeypatch.setattr("evaluation.kernel_distance.permutation", lambda n, *_: torch.arange(n))
    x, y = features(35), features(31, 1)
    parts = [by_pairs(x[i : i + 10].numpy(), y[i : i + 10].numpy()) for i in (0, 10, 20)]
    found = kid_blocks(x, y, block=10)
    assert found.method == "means" and found.values.tolist() == pytest.approx(parts, rel=1e-9)


@pytest.mark.parametrize("n", [3, 7, 43])
def test_without_each_group_of_the_samples(n, monkeypatch):
    monkeypatch.setattr("evaluation.distances._BLOCK", 64)
    x, y = features(n), features(31, 1)
    group = groups_of(n)
    left = [by_pairs(x[group != g].numpy(), y.numpy()) for g in range(int(group.max()) + 1)]
    found = kid_groups(x, y)
    # but for the mean over pairs of the reference
    apart = found.values.numpy() - left
    assert found.method == "jackknife" and apart == pytest.approx([apart[0]] * len(left), rel=1e-8)
    assert -apart[0] == pytest.approx(by_pairs(x.numpy(), y.numpy()) - by_pairs_of_x(x, y))


def by_pairs_of_x(x, y):
    """The part of `by_pairs` that is of x."""
    k = lambda a, b: (a.double() @ b.double().T / x.shape[1] + 1) ** 3  # noqa: E731
    n, inner = len(x), k(x, x)
    return float((inner.sum() - inner.trace()) / (n * (n - 1)) - 2 * k(x, y).mean())


def test_too_few():
    x = features(30)
    for call, says in [
        (lambda: kid_subsets(x, x, subset_size=31), "31"),
        (lambda: kid_blocks(x, x, block=16), "16"),
        (lambda: kid(x[:1], x), "1 samples"),
        (lambda: kid_groups(x[:2], x), "2 samples"),
        (lambda: kid(x, features(5, dim=3)), "24 features"),
        (lambda: kid(x, x, degree=0), "degree 0"),
    ]:
        with pytest.raises(ValueError, match=says):
            call()


def on_a_rank():
    ids = torch.arange(distributed.rank(), 41, distributed.world_size()).flip(0)
    rows = gather_rows(features(41)[ids], ids)
    try:
        gather_rows(rows[:1], torch.zeros(1, dtype=torch.int64))
        twice = ""
    except ValueError as error:
        twice = str(error)
    nobody = gather_rows(rows[: distributed.rank()], ids[: distributed.rank()])
    kid_of_all = kid_subsets(rows, features(40, 1), subsets=3, subset_size=20)
    return rows.tolist(), tuple(kid_of_all), len(nobody), twice


def test_ranks_together_are_one():
    alone = kid_subsets(features(41), features(40, 1), subsets=3, subset_size=20)
    for rows, found, nobody, twice in gloo.run(2, on_a_rank):
        assert rows == features(41).tolist() and found == tuple(alone)
        assert nobody == 1 and twice == "row 0 came twice"
    with pytest.raises(ValueError, match="numbers"):
        gather_rows(torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64))
