"""Checks of the SimCLR golden vectors that concern probes: `knn` and `linear_probe`.

Tolerances of the vectors' README: kNN scores F64 rel 1e-10, F32 rel 1e-4 per row (where the
boundary neighbour swaps, rel 1e-2 in at most 2 rows of a case whose gap is of float32's size);
objective 1e-9, weights 1e-5, logits 1e-4.
"""

from __future__ import annotations

import pytest
import torch

from models.knn import knn
from models.linear_probe import linear_probe
from models.scoring import correct
from tests.golden.support import Check, Vectors, assert_close

_SWAPS = 2  # rows
_FLOAT32_GAP = 1e-5  # cosines closer than this may change places in float32


def check_knn(v: Vectors) -> None:
    cases = {key.split("/")[0] for key in v.keys("*/bank")}
    assert cases, f"{v.name}: no case"
    for case in sorted(cases):
        _check_case(v, case)


def _check_case(v: Vectors, case: str) -> None:
    bank, query = v[f"{case}/bank"], v[f"{case}/query"]
    labels, truth = v[f"{case}/bank_labels"], v[f"{case}/query_labels"]
    k, T, C = (v.number(f"{case}/{name}") for name in ("k", "T", "num_classes"))
    scores, margin = v[f"{case}/scores"], v[f"{case}/rel_margin"]
    clear = margin > 1e-3
    best = scores.sort(1, descending=True).values
    assert_close((best[:, 0] - best[:, 1]) / best[:, 0], margin, f"{case}: margin", atol=1e-9)
    gap = v.number(f"{case}/min_gap_k_vs_kplus1")
    other = {
        "scores_euclidean_inv": dict(metric="euclidean"),
        "votes_unweighted": dict(weighted=False),
    }
    for dtype in (torch.float64, torch.float32):
        exact = dtype == torch.float64
        rel, swaps = (1e-10, 0) if exact else (1e-4, _SWAPS if gap < _FLOAT32_GAP else 0)
        what = f"{case}, {dtype}"
        args = bank.to(dtype), labels, query.to(dtype), k, T, C
        ours = knn(*args)
        _rows_close(ours.scores, scores, f"{what}: scores", rel, swaps)
        assert torch.equal(ours.top1[clear], v[f"{case}/top1"][clear]), f"{what}: top1"
        for top in (1, 5):
            hit = correct(ours.scores, truth, top).double().mean()
            assert hit.item() == pytest.approx(v.number(f"{case}/acc{top}"), abs=1e-12), what
        for name, kind in other.items():
            got = knn(*args, **kind).scores
            if not exact and name == "votes_unweighted" and swaps:
                bad = (got != v[f"{case}/{name}"]).any(1).sum()  # a swap moves a whole vote
                assert bad <= swaps, f"{what}: {name}"
                continue
            _rows_close(got, v[f"{case}/{name}"], f"{what}: {name}", rel, swaps)
        if exact:
            assert torch.equal(ours.neighbours, v[f"{case}/neighbours"]), f"{what}: neighbours"
            near, rest = _gap(bank.double(), query.double(), k)
            assert float((near - rest).min()) == pytest.approx(gap, rel=1e-6), f"{what}: gap"


def _gap(bank: torch.Tensor, query: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines of the k-th and of the next neighbour, by brute force."""
    unit = torch.nn.functional.normalize
    cos = (unit(query) @ unit(bank).T).sort(1, descending=True).values
    return cos[:, k - 1], cos[:, k]


def _rows_close(
    ours: torch.Tensor, expected: torch.Tensor, what: str, rel: float, swaps: int
) -> None:
    """Largest difference of a row against its largest value; `swaps` rows may reach 1e-2."""
    assert ours.shape == expected.shape, what
    error = (ours - expected).abs().amax(1) / expected.abs().amax(1)
    assert int((error > rel).sum()) <= swaps and float(error.max()) <= max(
        rel, 1e-2 * bool(swaps)
    ), f"{what}: rel {error.max():.3g}, {int((error > rel).sum())} rows above {rel}"


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
