"""Cross-validation, episodes and the augmented probe."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from evaluation.features import frozen
from evaluation.intervals import proportion_interval
from evaluation.knn import knn
from evaluation.linear_probe import linear_probe, moments
from evaluation.probes import augmented_probe, draw_episodes, few_shot
from evaluation.protocols import judge, knn_method
from evaluation.splits import stratified_folds


def data(n=120, d=6, C=4, seed=0, spread=1.0):
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % C
    return torch.randn(C, d, generator=g)[y] + spread * torch.randn(n, d, generator=g), y


def test_cross_validation_is_a_loop_over_folds():
    X, y = data(spread=2.0)
    seen = []

    def method(rows, query):
        seen.append((len(rows), len(query)))
        return {"linear": linear_probe(X[rows], y[rows], 0.1, 4).logits(query)}

    got = judge(X, y, [method], folds=5, seed=3)
    fold, each = stratified_folds(y, 5, 3), []
    for f in range(5):
        probe = linear_probe(X[fold != f], y[fold != f], 0.1, 4)
        hit = probe.logits(X[fold == f]).argmax(1) == y[fold == f]
        each.append(hit.double().mean().item())
        assert torch.equal(got.right["linear, 5 folds"][fold == f], hit)
    # train on k - 1 folds, test on one: not the other way round
    assert seen == [(96, 24)] * 5
    mean, low, high = (got.figures[f"linear, 5 folds {word}"] for word in ("acc1", "low", "high"))
    assert mean == pytest.approx(sum(each) / 5) and low < mean < high
    hits = int(got.right["linear, 5 folds"].sum())
    assert (low, high) == proportion_interval(hits, len(X))[1:3]


def test_cross_validation_takes_any_predictions():
    X, y = data(spread=0.01)
    method = lambda rows, query: {"m": knn(X[rows], y[rows], query, 5, 0.1, 4).votes}  # noqa: E731
    got = judge(X, y, [method])
    assert got.figures["m, 5 folds acc1"] == 1 and got.right["m, 5 folds"].all()
    assert 0.9 < got.figures["m, 5 folds low"] < got.figures["m, 5 folds high"] == 1


def test_cross_validation_refuses():
    X, y = data(n=12)
    with pytest.raises(ValueError, match="class 0 has 3 rows, too few for 5 folds"):
        judge(X, y, [])
    with pytest.raises(ValueError, match="class 4 has 0 rows"):
        stratified_folds(y, 2, num_classes=5)
    with pytest.raises(ValueError, match="3 is outside of 0..2"):
        knn_method(X, y, 3, folds=2)


def uneven():
    return torch.cat([torch.full((n,), c) for c, n in ((3, 20), (5, 33), (9, 21), (4, 40))])[
        torch.randperm(114, generator=torch.Generator().manual_seed(0))
    ]


def test_episodes_are_draws_without_replacement():
    y = uneven()
    rows = draw_episodes(y, 3, 5, 15, first=0, count=200, seed=1)
    assert rows.shape == (200, 3, 20)
    of = y[rows]
    assert (of == of[:, :, :1]).all()  # one class a way
    for e in range(200):
        assert len(rows[e].unique()) == 60 and len(of[e, :, 0].unique()) == 3
    # classes are as often drawn as each other: 150 of 200, standard deviation 6
    often = of[:, :, 0].unique(return_counts=True)[1]
    assert ((often - 150).abs() < 25).all()
    # and so are the rows of one: chi-square of 39 degrees of freedom, 99.9 % below 73
    of_4 = rows[of == 4].bincount(minlength=114)[y == 4].double()
    mean = of_4.mean()
    # a draw without replacement of half the rows has half the variance
    assert ((of_4 - mean) ** 2 / (mean / 2)).sum() < 73


def test_an_episode_is_a_function_of_seed_and_number():
    y = uneven()
    whole = draw_episodes(y, 3, 5, 15, first=0, count=20, seed=1)
    assert torch.equal(whole[7:12], draw_episodes(y, 3, 5, 15, first=7, count=5, seed=1))
    assert not torch.equal(whole, draw_episodes(y, 3, 5, 15, first=0, count=20, seed=2))
    assert torch.equal(whole[:, :, :4], draw_episodes(y, 3, 1, 3, first=0, count=20, seed=1))


@pytest.mark.parametrize("method", ["prototypes", "logistic"])
@pytest.mark.parametrize("shots", [1, 5])
def test_few_shot_is_a_loop(method, shots):
    X, y = data(n=150, d=9, C=5, spread=1.5)
    got = few_shot(X, y, ways=3, shots=shots, queries=7, episodes=12, seed=4, method=method)
    rows = draw_episodes(y, 3, shots, 7, first=0, count=12, seed=4)
    unit = F.normalize(X.double())
    for e in range(12):
        query = unit[rows[e, :, shots:].flatten()]
        if method == "prototypes":
            means = torch.stack([unit[r[:shots]].mean(0) for r in rows[e]])
            likeness = torch.stack([F.cosine_similarity(query, m[None]) for m in means], 1)
        else:
            own = unit[rows[e, :, :shots].flatten()]
            labels = torch.arange(3).repeat_interleave(shots)
            likeness = linear_probe(own, labels, 1 / (3 * shots)).logits(query)
        hit = likeness.argmax(1) == torch.arange(3).repeat_interleave(7)
        assert got.accuracies[e].item() == pytest.approx(hit.double().mean().item())
    assert got.interval.n == 12 and got.interval.mean == pytest.approx(got.accuracies.mean().item())
    assert got.name() == f"3-way {shots}-shot({method}, 7 queries, h)"


def test_few_shot_without_signal_is_chance():
    g = torch.Generator().manual_seed(0)
    X, y = torch.randn(4000, 8, generator=g), torch.arange(4000) % 20
    got = few_shot(X, y, episodes=400)
    assert got.interval.low < 0.2 < got.interval.high
    assert got.interval.high - got.interval.low < 0.02


def test_chunks_of_episodes_change_nothing(monkeypatch):
    X, y = data(n=150, d=9, C=5, spread=1.5)
    whole = few_shot(X, y, ways=3, queries=7, episodes=12)
    monkeypatch.setattr("evaluation.probes._AT_ONCE", 1)
    assert torch.equal(few_shot(X, y, ways=3, queries=7, episodes=12).accuracies, whole.accuracies)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (dict(ways=5), "5 ways of 4 classes"),
        (dict(ways=1), "1 ways"),
        (dict(shots=0), "0 shots"),
        (dict(queries=30), "class 0 has 30 rows, an episode takes 31"),
        (dict(episodes=1), "1 episodes"),
        (dict(method="mean"), "'mean' is not one of"),
        (dict(X=torch.full((120, 6), math.nan)), "row 0 is not finite"),
    ],
)
def test_few_shot_refuses(change, word):
    X, y = data()
    with pytest.raises(ValueError, match=word):
        few_shot(**(dict(X=X, y=y, ways=4) | change))


def loader(X, y, size=20):
    def batches(epoch):
        order = torch.randperm(len(X), generator=torch.Generator().manual_seed(epoch))
        return ((X[i], y[i]) for i in order.split(size))

    return batches


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_augmented_probe_is_torchs_own_loop(optimizer):
    X, y = data()
    got = augmented_probe(
        lambda x: x, loader(X, y), 4, epochs=3, steps_per_epoch=6, lr=0.2, optimizer=optimizer
    )
    head = nn.Linear(6, 4)
    nn.init.zeros_(head.weight), nn.init.zeros_(head.bias)
    if optimizer == "sgd":
        opt = torch.optim.SGD(head.parameters(), 0.2, momentum=0.9, nesterov=True)
    else:
        opt = torch.optim.Adam(head.parameters(), 0.2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 18)
    losses = []
    for epoch in range(3):
        for x, labels in loader(X, y)(epoch):
            loss = F.cross_entropy(head(x), labels)
            opt.zero_grad()
            loss.backward()
            opt.step()
            schedule.step()
            losses.append(loss.item())
    torch.testing.assert_close(got.weight.float(), head.weight.detach(), rtol=0, atol=1e-5)
    torch.testing.assert_close(got.bias.float(), head.bias.detach(), rtol=0, atol=1e-5)
    assert got.losses == pytest.approx(torch.tensor(losses).view(3, 6).mean(1).tolist(), abs=1e-5)
    assert got.name() == f"augmented({optimizer}, lr=0.2, 3 epochs, h)"
    assert list(got.figures(X, y)) == [f"{got.name()} acc1", f"{got.name()} acc5"]


def test_augmented_probe_trains_on_a_frozen_backbone():
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU())
    X, y = data(spread=0.3)
    with frozen(backbone):
        got = augmented_probe(backbone, loader(X, y), 4, epochs=5, steps_per_epoch=6)
        h = backbone(X)
    assert got.losses[-1] < 0.5 * got.losses[0]
    assert got.figures(h, y)[f"{got.name()} acc1"] > 0.9
    assert not got.weight.requires_grad


def test_standardised_head_is_folded():
    X, y = data(spread=0.5)
    far = X * 1e-3 + 2  # a fixed rate does nothing here
    plain = augmented_probe(lambda x: x, loader(far, y), 4, epochs=5, steps_per_epoch=6)
    mean, std = moments(far)
    got = augmented_probe(
        lambda x: x, loader(far, y), 4, epochs=5, steps_per_epoch=6, standardise=(mean, std)
    )
    inside = augmented_probe(
        lambda x: x, loader((far - mean.float()) / std.float(), y), 4, epochs=5, steps_per_epoch=6
    )
    expected = inside.logits((far - mean) / std)
    torch.testing.assert_close(got.logits(far), expected, rtol=0, atol=1e-3)
    accuracy = [h.figures(far, y)[f"{h.name()} acc1"] for h in (plain, got)]
    assert accuracy[1] > accuracy[0] + 0.1


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (dict(num_classes=3), "30 labels are outside of 0..2"),
        (dict(num_classes=1), "at least 2"),
        (dict(steps_per_epoch=5), "more than 5 batches"),
        (dict(epochs=0), "0 epochs"),
        (dict(lr=0.0), "lr=0.0"),
        (dict(optimizer="lars"), "'lars' is not one of"),
        (dict(batches=lambda epoch: []), "epoch 0 has no batch"),
        (dict(function=lambda x: x / 0), "not finite"),
        (dict(function=lambda x: x[1:]), r"came with labels \[20\]"),
        (dict(standardise=(torch.zeros(2), torch.ones(2))), r"shape \[6\]"),
    ],
)
def test_augmented_probe_refuses(change, word):
    X, y = data()
    args = dict(function=lambda x: x, batches=loader(X, y), num_classes=4, steps_per_epoch=6)
    with pytest.raises(ValueError, match=word) as error:
        augmented_probe(**(args | change))
    assert "\n" not in str(error.value)
