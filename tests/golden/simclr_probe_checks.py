"""Checks of the SimCLR golden vectors that concern probes: `knn` and `linear_probe`.

Tolerances of the vectors' README: kNN scores F64 rel 1e-10, F32 rel 1e-4 per row; where the k-th
and the next neighbour are as near as the number format can tell, one may stand for the other.
Objective 1e-9, weights 1e-5, logits 1e-4.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from evaluation.accuracy import correct
from evaluation.knn import knn
from evaluation.linear_probe import linear_probe
from tests.golden.support import Check, Vectors, assert_close

# scores; and how near, relative to the squared lengths, two neighbours may change places
_TOLERANCE = {torch.float64: (1e-10, 1e-14), torch.float32: (1e-4, 1e-5)}


def check_knn(v: Vectors) -> None:
    cases = {key.split("/")[0] for key in v.keys("*/bank")}
    assert cases, f"{v.name}: no case"
    if "cases" in v:
        assert set(v.strings("cases")) == cases
    for case in sorted(cases):
        _check_case(v, case)


def _check_case(v: Vectors, case: str) -> None:
    bank, query = v[f"{case}/bank"], v[f"{case}/query"]
    labels, truth = v[f"{case}/bank_labels"], v[f"{case}/query_labels"]
    k, T, C = (v.number(f"{case}/{name}") for name in ("k", "T", "num_classes"))
    scores, margin = v[f"{case}/scores"], v[f"{case}/rel_margin"]
    expected = {name: v[f"{case}/{name}"] for name in ("scores_euclidean_inv", "votes_unweighted")}
    clear = margin > 1e-3
    best = scores.sort(1, descending=True).values
    assert_close((best[:, 0] - best[:, 1]) / best[:, 0], margin, f"{case}: margin", atol=1e-9)
    x, y = query.double(), bank.double()
    cosine = torch.nn.functional.normalize(x) @ torch.nn.functional.normalize(y).T
    near, gap = _boundary(cosine, k)
    distance = (x[:, None] - y).norm(dim=2)
    far, apart = _boundary(-distance, k)
    # of squares, because that is what distances are found by
    apart = apart * -2 * far / (x.square().sum(1) + y.square().sum(1).amax())
    if k < len(bank):
        known = pytest.approx(v.number(f"{case}/min_gap_k_vs_kplus1"), rel=1e-6, abs=1e-12)
        assert float(gap.min()) == known, f"{case}: gap"
    else:
        v.number(f"{case}/min_gap_k_vs_kplus1")  # of nothing
    for dtype, (rel, tie) in _TOLERANCE.items():
        what = f"{case}, {dtype}"
        args = bank.to(dtype), labels, query.to(dtype), k, T, C
        ours = knn(*args)
        swap = gap < tie
        _rows_close(ours.votes, scores, f"{what}: scores", rel, swap, (near / T).exp())
        assert torch.equal(ours.top1[clear], v[f"{case}/top1"][clear]), f"{what}: top1"
        for top in (1, 5):
            low, high = _accuracy(scores, truth, top, rel)
            for hit in (
                v.number(f"{case}/acc{top}"),
                correct(ours.votes, truth, top).double().mean().item(),
            ):
                assert low - 1e-12 <= hit <= high + 1e-12, f"{what}: acc{top} {hit}"
        got = knn(*args, metric="euclidean").votes
        of = f"{what}: euclidean"
        _rows_close(got, expected["scores_euclidean_inv"], of, rel, apart < tie, 1 / (1e-5 - far))
        got = knn(*args, weighted=False).votes
        one = torch.ones_like(near)
        _rows_close(got, expected["votes_unweighted"], f"{what}: votes", rel, swap, one)
        if dtype == torch.float64:
            theirs = v[f"{case}/neighbours"]
            same = (ours.neighbours == theirs) | (
                (cosine.gather(1, ours.neighbours) - cosine.gather(1, theirs)).abs() < tie
            )
            assert same.all(), f"{what}: neighbours"


def _boundary(closeness: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Closeness of the k-th neighbour, and by how much the next is further; [Q] each."""
    ordered = closeness.sort(1, descending=True).values
    last = ordered[:, k - 1]
    rest = ordered[:, k] if k < ordered.shape[1] else torch.full_like(last, -torch.inf)
    return last, last - rest


def _accuracy(scores: Tensor, truth: Tensor, top: int, rel: float) -> tuple[float, float]:
    """Lowest and highest share of labels among the `top`, as ties of scores may be broken.

    Few neighbours leave most classes at 0, and then which of them is fifth says nothing.
    """
    own = scores.gather(1, truth[:, None])
    slack = rel * scores.amax(1, keepdim=True)
    above, level = (scores > own + slack).sum(1), (scores >= own - slack).sum(1)
    return (level <= top).double().mean().item(), (above < top).double().mean().item()


def _rows_close(
    ours: Tensor, expected: Tensor, what: str, rel: float, swap: Tensor, weight: Tensor
) -> None:
    """Largest difference of a row against its largest value: at most rel.

    swap: rows where the boundary neighbour may be another one of the same weight.
    """
    assert ours.shape == expected.shape, what
    largest = expected.abs().amax(1)
    error = (ours - expected).abs().amax(1) / largest
    bound = torch.where(swap, rel + weight / largest, rel)
    worst = int((error / bound).argmax())
    assert (error <= bound).all(), f"{what}: rel {error[worst]:.3g} in row {worst}"


def check_linear_probe(v: Vectors) -> None:
    X, y, W = v["X"], v["y"], v["W"]
    probe = linear_probe(X, y, v.number("l2"), len(W))
    assert probe.converged, probe.gradient_norm
    assert_close(probe.objective, v.number("objective"), "objective", atol=1e-9, rtol=0)
    assert_close(probe.weight, W, "W", atol=1e-5, rtol=0)
    assert_close(probe.bias, v["b"], "b", atol=1e-5, rtol=0)
    assert_close(probe.logits(v["X_test"]), v["logits_test"], "logits_test", atol=1e-4, rtol=0)
    accuracy = correct(probe.logits(X), y).double().mean().item()
    assert accuracy == pytest.approx(v.number("train_acc"), abs=1e-12)


FAMILIES: dict[str, Check] = {"knn*": check_knn, "linear_probe*": check_linear_probe}
