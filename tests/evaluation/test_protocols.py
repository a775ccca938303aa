"""Held-out judging and folds against the plain probes, called by hand."""

from __future__ import annotations

import pytest
import torch

from evaluation.accuracy import correct
from evaluation.intervals import proportion_interval
from evaluation.knn import knn
from evaluation.linear_probe import l2_sweep, linear_probe
from evaluation.probes import stable_lr
from evaluation.protocols import judge, knn_method, linear_method, smallest_bank
from evaluation.splits import stratified_folds


def blobs(n: int, seed: int, classes: int = 6, d: int = 5, noise: float = 1.5):
    """Classes that overlap, so that nobody is always right."""
    g = torch.Generator().manual_seed(seed)
    centres = 2 * torch.randn(classes, d, generator=torch.Generator().manual_seed(99))
    y = torch.arange(n) % classes
    return centres[y] + noise * torch.randn(n, d, generator=g), y


def test_held_out_figures_are_those_of_the_probes_themselves():
    (h, y), (held, truth) = blobs(120, 0), blobs(70, 1)
    methods = [knn_method(h, y, 6), linear_method(h, y, 6, seed=3)]
    judged = judge(h, y, methods, held=(held, truth))
    direct = knn(h, y, held, 20, 0.07, 6)
    for name, value in direct.figures(truth).items():
        assert judged.figures[name] == value
    assert torch.equal(judged.right[direct.name()], direct.top1 == truth)
    name = "linear(l2 swept, standardised, h)"
    probe = l2_sweep(h, y, 6, standardise=True, seed=3).probe
    assert torch.equal(judged.right[name], correct(probe.logits(held), truth))
    assert list(judged.right) == ["knn(k=20, T=0.07, h)", "knn(k=120, T=0.1, h)", name]
    assert 0.3 < judged.figures[f"{name} acc1"] < judged.figures[f"{name} acc5"] <= 1


def test_folds_are_a_loop_by_hand():
    h, y = blobs(90, 2)
    judged = judge(h, y, [knn_method(h, y, 6, folds=3)], folds=3, seed=5)
    fold = stratified_folds(y, 3, 5)
    right = torch.zeros(90, dtype=torch.bool)
    each = []
    for f in range(3):
        test = fold == f
        right[test] = knn(h[~test], y[~test], h[test], 20, 0.07, 6).top1 == y[test]
        each.append(float(right[test].double().mean()))
    name = "knn(k=20, T=0.07, h), 3 folds"
    assert torch.equal(judged.right[name], right) and len(judged.right) == 2
    assert judged.figures[f"{name} acc1"] == pytest.approx(sum(each) / 3, abs=1e-12)
    low, high = judged.figures[f"{name} low"], judged.figures[f"{name} high"]
    assert (low, high) == proportion_interval(int(right.sum()), 90)[1:3]  # each row once


@pytest.mark.parametrize("right", [False, True])
def test_intervals_under_folds_stay_within_0_and_1(right):
    y = torch.arange(12) % 2

    def method(rows, query):  # all right, or all wrong: features are labels
        return {"m": torch.eye(2)[query[:, 0].long() if right else 1 - query[:, 0].long()]}

    figures = judge(y[:, None].float(), y, [method], folds=3).figures
    low, high = figures["m, 3 folds low"], figures["m, 3 folds high"]
    assert (low, high) == proportion_interval(12 * right, 12)[1:3]
    assert 0 <= low < high <= 1 and figures["m, 3 folds acc1"] == right


def test_no_label_of_a_judged_row_is_seen():
    h, y = blobs(60, 3)
    held = torch.zeros(60, dtype=torch.bool)

    def method(rows, query):
        held[:] = True
        held[rows] = False
        assert torch.equal(query, h[held]) and len(rows) == 40
        return {"m": torch.eye(6)[torch.zeros(len(query), dtype=torch.int64)]}

    figures = judge(h, y, [method], folds=3).figures
    assert figures["m, 3 folds acc1"] == pytest.approx(1 / 6, abs=1e-3)


def test_k_is_cut_to_what_every_fold_has():
    for n in (31, 50, 47):
        h, y = blobs(n, 4, classes=3)
        judged = judge(h, y, [knn_method(h, y, 3, folds=4)], folds=4)
        assert f"knn(k={smallest_bank(n, 4)}, T=0.1, h), 4 folds" in judged.right
        fold = stratified_folds(y, 4)
        assert smallest_bank(n, 4) == n - int(fold.bincount().max())


def test_bad_input():
    h, y = blobs(30, 5)
    with pytest.raises(ValueError, match="too few for 6 folds"):
        judge(h, y, [], folds=6)
    with pytest.raises(ValueError, match="row 3 is not finite"):
        judge(h.index_fill(0, torch.tensor(3), torch.nan), y, [])
    with pytest.raises(ValueError, match=r"outside of 0\.\.4"):
        knn_method(h, y, 5)


def test_a_stable_rate_is_stable_and_four_times_it_may_not_be():
    """Gradient descent on the worst case, two classes along the largest direction."""
    h = torch.randn(200, 4, generator=torch.Generator().manual_seed(6)) * torch.tensor([9, 1, 1, 1])
    lr = stable_lr(h)
    x = torch.cat((h, torch.ones(200, 1)), 1).double()
    largest = float(torch.linalg.eigvalsh(x.T @ x / 200)[-1])
    assert lr == pytest.approx(2 / largest, rel=1e-9)
    y = (torch.arange(200) % 2).long()  # no signal: the optimum is where the curvature is greatest
    best = linear_probe(h, y, 1e-9, 2).objective

    def last(rate: float) -> float:
        w = torch.zeros(2, 5, dtype=torch.float64, requires_grad=True)
        for _ in range(400):
            loss = torch.nn.functional.cross_entropy(x @ w.T, y)
            (grad,) = torch.autograd.grad(loss, w)
            w = (w - rate * grad).detach().requires_grad_()
        return float(loss.detach()) - best

    assert last(lr) < 1e-4 and last(8 * lr) > 0.01
