"""kNN against a loop in float64."""

from __future__ import annotations

import math

import pytest
import torch

from evaluation.accuracy import correct
from evaluation.knn import knn, search, vote


def rows(n: int, d: int = 7, seed: int = 0, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=g), torch.randint(classes, (n,), generator=g)


def oracle(bank, labels, query, k, T, classes, metric="cosine", weighted=True):
    out = torch.zeros(len(query), classes, dtype=torch.float64)
    for q, x in enumerate(query.double()):
        near = []
        for i, b in enumerate(bank.double()):
            cos = (x @ b / (x.norm() * b.norm())).item()
            near.append((cos if metric == "cosine" else -(x - b).norm().item(), i))
        for close, i in sorted(near, reverse=True)[:k]:
            weight = math.exp(close / T) if metric == "cosine" else 1 / (1e-5 - close)
            out[q, labels[i]] += weight if weighted else 1
    return out


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("k", [1, 5, 43])
def test_votes_are_those_of_a_loop(metric, weighted, k):
    (bank, labels), (query, _) = rows(43), rows(11, seed=1)
    ours = knn(bank, labels, query, k, 0.2, 4, metric=metric, weighted=weighted)
    theirs = oracle(bank, labels, query, k, 0.2, 4, metric, weighted)
    torch.testing.assert_close(ours.votes, theirs, rtol=2e-5, atol=0)
    exact = knn(bank.double(), labels, query.double(), k, 0.2, 4, metric=metric, weighted=weighted)
    torch.testing.assert_close(exact.votes, theirs, rtol=1e-11, atol=0)
    assert torch.equal(exact.top1, theirs.argmax(1))


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_chunks_change_nothing(metric):
    (bank, _), (query, _) = rows(101), rows(23, seed=1)
    bank, query = bank.double(), query.double()
    whole = search(bank, query, 9, metric=metric)
    for query_chunk, bank_chunk in ((1, 5), (7, 8), (23, 100), (4, 1)):
        parts = search(
            bank, query, 9, metric=metric, query_chunk=query_chunk, bank_chunk=bank_chunk
        )
        assert torch.equal(parts.rows, whole.rows)
        torch.testing.assert_close(parts.closeness, whole.closeness, rtol=0, atol=1e-12)


def test_one_search_serves_smaller_k():
    (bank, labels), (query, truth) = rows(60), rows(9, seed=1)
    found, both = search(bank, query, 20), {}
    for k, T in ((3, 0.07), (20, 0.1)):
        both |= vote(found, labels, k, T, 4).figures(truth)
    alone = knn(bank, labels, query, 3, 0.07, 4).figures(truth)
    assert list(both) == [
        f"knn(k={k}, T={T}, h) acc{top}" for k, T in ((3, 0.07), (20, 0.1)) for top in (1, 5)
    ]
    assert {key: both[key] for key in alone} == alone


def test_a_figure_says_how_it_was_made():
    (bank, labels), (query, _) = rows(30), rows(3, seed=1)
    found = search(bank, query, 20)
    assert vote(found, labels, 20, 0.07).name() == "knn(k=20, T=0.07, h)"
    assert vote(found, labels, 5, weighted=False, layer="z").name() == "knn(k=5, votes, z)"
    far = knn(bank, labels, query, 2, metric="euclidean")
    assert far.name() == "knn(k=2, euclidean, h)" and far.T is None


def test_near_duplicates_keep_their_distance():
    """The expanded square would lose 1e-4 beside rows of length 1e3 in float32."""
    bank = torch.tensor([[1000.0, 0.0], [1000.0, 0.5]])
    query = torch.tensor([[1000.0, 0.0001]])
    votes = knn(bank, torch.tensor([0, 1]), query, 2, metric="euclidean").votes
    expected = torch.tensor([[1 / (0.0001 + 1e-5), 1 / (0.4999 + 1e-5)]], dtype=torch.float64)
    torch.testing.assert_close(votes, expected, rtol=1e-5, atol=0)


def test_extreme_rows_and_temperatures():
    bank = torch.tensor([[1e30, 1e30], [1e-30, -1e-30], [0.0, 0.0]])
    result = knn(bank, torch.tensor([0, 1, 1]), bank, 1, 0.002, 2)
    assert result.votes.isfinite().all()
    assert result.top1[:2].tolist() == [0, 1]


def test_half_precision_is_computed_in_float32():
    (bank, labels), (query, _) = rows(30), rows(3, seed=1)
    half = knn(bank.bfloat16(), labels, query.bfloat16(), 5, 0.1, 4).votes
    full = knn(bank.bfloat16().float(), labels, query.bfloat16().float(), 5, 0.1, 4).votes
    assert torch.equal(half, full)


def test_autocast_changes_nothing():
    (bank, labels), (query, _) = rows(30), rows(3, seed=1)
    expected = knn(bank.float(), labels, query.float(), 5, 0.1, 4).votes
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(knn(bank.float(), labels, query.float(), 5, 0.1, 4).votes, expected)


def test_correct_counts_ties_by_class():
    votes = torch.tensor([[1.0, 1.0, 0.0], [0.0, 2.0, 2.0]])
    assert correct(votes, torch.tensor([1, 1])).tolist() == [False, True]
    assert correct(votes, torch.tensor([1, 2]), 2).tolist() == [True, True]
    assert correct(votes, torch.tensor([2, 0]), 2).tolist() == [False, False]
    assert correct(votes, torch.tensor([2, 0]), 5).all()


def test_votes_that_are_not_numbers_are_wrong():
    votes = torch.tensor([[0.0, math.nan], [math.nan, 0.0], [0.0, 1.0], [0.0, math.inf]])
    for top, expected in ((1, [False, False, True, True]), (5, [False, False, True, True])):
        assert correct(votes, torch.tensor([1, 1, 1, 1]), top).tolist() == expected


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (dict(k=41), "k=41 is not in 1..40"),
        (dict(k=0), "k=0"),
        (dict(T=0.0), "T=0.0"),
        (dict(T=float("nan")), "T=nan"),
        (dict(num_classes=3), "3 is outside of 0..2"),
        (dict(num_classes=0), "num_classes=0"),
        (dict(metric="l1"), "'l1' is not one of: cosine, euclidean"),
        (dict(query=torch.zeros(2, 8)), "7 features, query 8"),
        (dict(query=torch.zeros(2, 7).long()), "query: torch.int64"),
        (dict(query=torch.zeros(0, 7)), "query:"),
        (dict(query=torch.full((2, 7), math.inf)), "row 0 is not finite"),
        (dict(bank_labels=torch.zeros(39).long()), r"\[39\] instead of integers \[40\]"),
        (dict(bank_labels=torch.zeros(40)), "torch.float32"),
    ],
)
def test_bad_arguments(change, word):
    bank, labels = rows(40)
    labels[0] = 3
    args = dict(bank=bank, bank_labels=labels, query=bank[:2], k=3, num_classes=4) | change
    with pytest.raises(ValueError, match=word) as error:
        knn(**args)
    assert "\n" not in str(error.value)
