"""The convex probe: its optimum, its certificate, its sweep; folds and slices."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from evaluation import linear_probe as module
from evaluation.linear_probe import l2_sweep, linear_probe, moments
from evaluation.splits import stratified_folds, stratified_slice


def data(n=120, d=6, C=4, seed=0, spread=1.0):
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % C
    centres = torch.randn(C, d, generator=g)
    return centres[y] + spread * torch.randn(n, d, generator=g), y


def objective(W, b, X, y, l2):
    loss = F.cross_entropy(X.double() @ W.T + b, y)
    return loss + l2 / 2 * (W.square().sum() + b.square().sum())


def gradient(probe, X, y):
    W, b = probe.weight.clone().requires_grad_(), probe.bias.clone().requires_grad_()
    return torch.cat(
        [g.flatten() for g in torch.autograd.grad(objective(W, b, X, y, probe.l2), (W, b))]
    )


@pytest.mark.parametrize("l2", [10.0, 1e-2, 1e-6])
def test_the_gradient_of_the_objective_is_zero(l2):
    X, y = data()
    probe = linear_probe(X, y, l2)
    assert probe.converged
    assert gradient(probe, X, y).norm() < 1e-8
    assert abs(gradient(probe, X, y).norm() - probe.gradient_norm) < 1e-12
    assert objective(probe.weight, probe.bias, X, y, l2).item() == pytest.approx(
        probe.objective, abs=1e-12
    )


def test_separable_data_and_scales():
    """Where first-order probes stop early: small features, tiny l2, perfectly separable."""
    X, y = data(spread=0.01)
    for scale in (1e-3, 1.0, 1e3):
        probe = linear_probe(X * scale, y, 1e-8)
        assert probe.converged, (scale, probe.gradient_norm)
        assert (probe.logits(X * scale).argmax(1) == y).all()


def test_fewer_rows_than_features():
    X, y = data(n=12, d=40, C=3)
    probe = linear_probe(X, y, 1e-3)
    assert probe.converged and gradient(probe, X, y).norm() < 1e-9
    X[1:] = X[0]  # rank one
    probe = linear_probe(X, y, 1e-3, standardise=False)
    assert probe.converged and gradient(probe, X, y).norm() < 1e-9


def test_little_memory_gives_the_same(monkeypatch):
    X, y = data(n=301)
    whole = linear_probe(X, y, 1e-3, standardise=True)
    monkeypatch.setattr(module, "_KEEP", 0)
    monkeypatch.setattr(module, "_ROWS", 17)
    parts = linear_probe(X, y, 1e-3, standardise=True)
    torch.testing.assert_close(parts.weight, whole.weight, rtol=0, atol=1e-7)
    torch.testing.assert_close(parts.logits(X), whole.logits(X), rtol=0, atol=1e-7)


def test_standardised_is_a_fit_of_standardised_features():
    X, y = data()
    X = X * torch.logspace(-3, 3, X.shape[1]) + 5
    X[:, 2] = 0.1  # constant
    mean, std = moments(X)
    inside = linear_probe(X, y, 0.01, standardise=True)
    outside = linear_probe((X.double() - mean) / std, y, 0.01)
    expected = outside.logits((X.double() - mean) / std)
    torch.testing.assert_close(inside.logits(X), expected, rtol=0, atol=1e-7)
    assert std[2] == 1 and inside.name() == "linear(l2=0.01, standardised, h)"
    torch.testing.assert_close(std[0], X[:, 0].double().std(correction=0))


def test_a_start_changes_the_way_not_the_end():
    X, y = data()
    for standardise in (False, True):
        near = linear_probe(X, y, 0.02, standardise=standardise)
        cold = linear_probe(X, y, 0.01, standardise=standardise)
        warm = linear_probe(X, y, 0.01, standardise=standardise, start=near)
        torch.testing.assert_close(cold.weight, warm.weight, rtol=0, atol=1e-7)


def test_a_class_without_rows_has_an_optimum_too():
    X, y = data()
    probe = linear_probe(X, y, 0.01, num_classes=6)
    assert probe.converged and probe.weight.shape == (6, 6)
    torch.testing.assert_close(probe.weight[4], probe.weight[5])


def test_sweep_chooses_on_the_slice_and_refits():
    X, y = data(n=200, d=30, spread=3.0)
    grid = (1e-6, 1e-3, 1e-1, 1e2)
    for standardise in (False, True):
        kind = dict(standardise=standardise)
        sweep = l2_sweep(X, y, grid=grid, seed=3, patience=None, **kind)
        held = stratified_slice(y, 0.1, 3)
        assert [row[0] for row in sweep.table] == [1e2, 1e-1, 1e-3, 1e-6]
        for l2, accuracy, loss in sweep.table:
            logits = linear_probe(X[~held], y[~held], l2, **kind).logits(X[held])
            hit = (logits.argmax(1) == y[held]).double().mean().item()
            assert hit == pytest.approx(accuracy)
            assert F.cross_entropy(logits, y[held]).item() == pytest.approx(loss, rel=1e-2)
        assert sweep.l2 == min(sweep.table, key=lambda r: (-r[1], r[2], -r[0]))[0]
        whole = linear_probe(X, y, sweep.l2, **kind)
        torch.testing.assert_close(sweep.probe.weight, whole.weight, rtol=0, atol=1e-6)
        assert sweep.probe.converged
        assert sweep.at_edge == (sweep.l2 in (1e2, 1e-6))
        assert l2_sweep(X, y, grid=grid, seed=3, patience=None, **kind).table == sweep.table


def test_sweep_ends_when_it_only_gets_worse():
    X, y = data(n=400, d=40, spread=3.0)
    kind = dict(grid=[10.0**e for e in range(-5, 3)], holdout=0.25)
    short, whole = l2_sweep(X, y, **kind), l2_sweep(X, y, patience=None, **kind)
    assert len(short.table) < len(whole.table) == 8
    assert short.table == whole.table[: len(short.table)]
    top, low = max(row[1] for row in short.table), min(row[2] for row in short.table)
    worse = [row[1] < top and row[2] > low for row in short.table]
    assert worse[-2:] == [True, True] and not worse[-3]
    assert short.l2 == whole.l2 and not short.at_edge
    with pytest.raises(ValueError, match="patience=0"):
        l2_sweep(X, y, patience=0)
    with pytest.raises(ValueError, match="grid"):
        l2_sweep(X, y, grid=[])


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (dict(l2=0.0), "l2=0.0"),
        (dict(l2=float("inf")), "l2=inf"),
        (dict(num_classes=3), "3 is outside of 0..2"),
        (dict(num_classes=1), "at least 2"),
        (dict(y=torch.zeros(120, dtype=torch.long) - 1, num_classes=2), "-1 is outside"),
        (dict(y=torch.zeros(119, dtype=torch.long), num_classes=2), "119"),
        (dict(X=torch.full((120, 6), float("nan"))), "row 0 is not finite"),
        (dict(tolerance=0), "tolerance=0"),
    ],
)
def test_bad_arguments(change, word):
    X, y = data()
    with pytest.raises(ValueError, match=word) as error:
        linear_probe(**(dict(X=X, y=y, l2=0.1) | change))
    assert "\n" not in str(error.value)


def test_slice_is_stratified_and_keyed():
    y = torch.cat([torch.full((n,), c) for c, n in enumerate((2, 10, 55))])
    held = stratified_slice(y, 0.2, 7)
    assert [int(held[y == c].sum()) for c in range(3)] == [1, 2, 11]
    assert torch.equal(held, stratified_slice(y, 0.2, 7))
    assert not torch.equal(held, stratified_slice(y, 0.2, 8))
    with pytest.raises(ValueError, match="class 3 has 1 row"):
        stratified_slice(torch.cat((y, torch.tensor([3]))), 0.2)
    with pytest.raises(ValueError, match="share 1"):
        stratified_slice(y, 1)


def test_folds_are_stratified_and_keyed():
    y = torch.cat([torch.full((n,), c) for c, n in enumerate((5, 6, 7, 33))])
    fold = stratified_folds(y, 5, 7)
    table = torch.stack([torch.bincount(fold[y == c], minlength=5) for c in range(4)])
    assert (table.amax(1) - table.amin(1) <= 1).all() and (table.amin(1) >= 1).all()
    sizes = torch.bincount(fold, minlength=5)
    assert sizes.max() - sizes.min() <= 1
    assert torch.equal(fold, stratified_folds(y, 5, 7))
    assert not torch.equal(fold, stratified_folds(y, 5, 8))
    with pytest.raises(ValueError, match="class 0 has 5 rows, too few for 6 folds"):
        stratified_folds(y, 6)
    with pytest.raises(ValueError, match="class 4 has 0 rows"):
        stratified_folds(y, 5, num_classes=5)
    with pytest.raises(ValueError, match="1 folds"):
        stratified_folds(y, 1)
