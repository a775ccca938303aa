"""Inception score, accuracies, confusion: against torch-fidelity, sklearn and counting."""

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, top_k_accuracy_score
from torch_fidelity.metric_isc import isc_features_to_metric

from evaluation.classes import classification, inception_score, reorder_classes


def logits(n, classes=7, seed=0):
    return torch.randn(n, classes, generator=torch.Generator().manual_seed(seed)).double() * 3


@pytest.mark.parametrize("splits", [1, 4, 10])
def test_inception_score_is_torch_fidelitys(splits):
    x = logits(103)
    for seed in (2020, None):
        oracle = isc_features_to_metric(x, splits, shuffle=seed is not None, rng_seed=2020)
        found = inception_score(x, splits=splits, seed=seed)
        assert found.mean == pytest.approx(oracle["inception_score_mean"], rel=1e-12)
        assert found.std == pytest.approx(oracle["inception_score_std"], rel=1e-9, abs=1e-12)
        assert found.n == splits


def test_certain_answers_have_the_score_of_their_classes():
    sure = torch.eye(5).repeat(4, 1) * 1e4  # softmax is 0 and 1 exactly
    assert inception_score(sure, splits=1).mean == pytest.approx(5)
    with pytest.raises(ValueError, match="21 splits"):
        inception_score(sure, splits=21)


def test_classification_is_sklearns():
    x, y = logits(200), torch.randint(7, (200,), generator=torch.Generator().manual_seed(1))
    found = classification(x, y, top=(1, 3))
    for k in (1, 3):
        share = top_k_accuracy_score(y, x, k=k)
        assert found.accuracy[k].mean == pytest.approx(share)
        assert found.accuracy[k].low < share < found.accuracy[k].high
        for c in range(7):
            own = top_k_accuracy_score(y[y == c], x[y == c], k=k, labels=np.arange(7))
            assert float(found.per_class[k][c]) == pytest.approx(own)
    assert np.array_equal(found.confusion, confusion_matrix(y, x.argmax(1)))
    assert torch.equal(found.counts, torch.bincount(y, minlength=7))


def test_ties_and_classes_that_were_not_drawn():
    found = classification(torch.zeros(2, 3), torch.tensor([0, 1]), top=[1])
    assert found.confusion.tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 0]]
    assert found.accuracy[1].mean == 0.5 and found.per_class[1][2].isnan()
    for bad, says in ((torch.tensor([0, 3]), "3 is outside"), (torch.zeros(2), "integers")):
        with pytest.raises(ValueError, match=says):
            classification(torch.zeros(2, 3), bad)


def test_reorder():
    x = logits(4, 3)
    assert torch.equal(reorder_classes(x, [2, 0, 1])[:, 0], x[:, 2])
    with pytest.raises(ValueError, match="each column once"):
        reorder_classes(x, [0, 0, 1])
