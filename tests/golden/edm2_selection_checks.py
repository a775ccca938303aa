"""Checks of the EDM2 golden vectors that concern selection: `jest` and `rng`.

Tolerances of the vectors' README: probabilities 1e-12 absolute, sizes exact, indices exact with
NumPy's legacy choice, random numbers and orders exact.
"""

from __future__ import annotations

import re
from fractions import Fraction
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from selection import (
    chunk_sizes,
    jointly_sample_batch,
    random_baseline,
    reference_size,
    selection_logits,
    selection_size,
)
from tests.data.reference_order import reference_order, reference_seed
from tests.golden.support import Check, Vectors, assert_close

PROBABILITY = dict(atol=1e-12, rtol=0)
# logits of a few units: as exact as the probabilities made of them
LOGIT = dict(atol=1e-12, rtol=1e-12)


def check_jest(v: Vectors) -> None:
    cases = int(v.number("n_cases"))
    assert cases > 0
    for k in range(cases):
        _check_case(v, f"c{k}")
    _check_sizes(v)
    _check_random(v)


def _softmax_of_rest(logits: Tensor, sampled: Tensor) -> Tensor:
    """Softmax over entries not in `sampled`, by float64 of the file's own logits."""
    return logits.index_fill(0, sampled, -torch.inf).softmax(0)


def _check_case(v: Vectors, case: str) -> None:
    cfg = v.json(f"{case}/cfg")
    B, N, ratio = cfg["B"], cfg["N"], cfg["filter_ratio"]
    kind = dict(learnability=cfg["learnability"], inverted=cfg["inverted"])
    learner, ref = v[f"{case}/l"], v[f"{case}/r"]
    expected, probs = v[f"{case}/indices"], v[f"{case}/probs"]
    by_formula = {name: v[f"{case}/logits_{name}"] for name in ("source", "intended")}
    assert learner.shape == ref.shape == (B,)

    sizes = chunk_sizes(B, ratio, N, "reference")
    assert sizes == [len(expected) // N] * N, f"{case}: chunk sizes"
    drawn = jointly_sample_batch(learner, ref, N, ratio, **kind, rounding="reference")
    assert len(drawn) == len(drawn.unique()) == len(expected), f"{case}: rows drawn"
    assert probs.shape == (N - 1, B)

    # what the reference did: first chunk uniform, then NumPy's choice, here fed by our numbers
    legacy = np.random.RandomState(cfg["numpy_seed"])
    chosen = [torch.from_numpy(legacy.choice(B, sizes[0], replace=False))]
    for i, c in enumerate(sizes[1:]):
        sampled = torch.cat(chosen)
        what = f"{case}, chunk {i + 2}"
        rest = torch.ones(B, dtype=torch.bool).index_fill(0, sampled, False)
        for name, logits in by_formula.items():
            easy = name if not cfg["learnability"] else "intended"
            ours = selection_logits(learner, ref, sampled, **kind, easy_reference=easy)
            assert torch.isneginf(ours[sampled]).all(), f"{what}: a sampled row may come again"
            assert_close(ours[rest], logits[i][rest], f"{what}, logits_{name}", **LOGIT)
            ours = ours.softmax(0)
            file = _softmax_of_rest(logits[i], sampled)
            assert_close(ours, file, f"{what}, softmax of logits_{name}", **PROBABILITY)
            if name == "source":
                assert_close(ours, probs[i], f"{what}, probs", **PROBABILITY)
                p = ours.numpy()
        chosen.append(torch.from_numpy(legacy.choice(B, c, replace=False, p=p)))
    assert torch.equal(torch.cat(chosen), expected), f"{case}: indices"


def _check_sizes(v: Vectors) -> None:
    """size_jest_N8_f08: sizes of 8 chunks at filter ratio 0.8; size_random_f08: of the baseline."""
    super_batches = v.array("size_B").tolist()
    names = [key for key in v.keys("size_*") if key != "size_B"]
    assert names, f"{v.name}: no sizes"
    for name in names:
        match = re.fullmatch(r"size_(?:jest_N(\d+)|random)_f(\d)(\d+)", name)
        assert match, f"{v.name}: cannot read the setting in the name {name}"
        N, ratio = int(match[1] or 1), float(f"{match[2]}.{match[3]}")
        for B, size in zip(super_batches, v.array(name).tolist(), strict=True):
            what = f"{name}, super-batch {B}"
            assert reference_size(B, ratio, N) == size, what
            if size == 0:
                with np.testing.assert_raises(ValueError):
                    selection_size(B, ratio, N, "reference")
                continue
            assert selection_size(B, ratio, N, "reference") == size, what
            loss = torch.zeros(B)
            if match[1]:
                rows = jointly_sample_batch(loss, loss, N, ratio, rounding="reference")
            else:
                rows = random_baseline(loss, ratio, rounding="reference")
            assert len(rows) == size, what


def _check_random(v: Vectors) -> None:
    """The Autoguided code's baseline is NumPy's legacy choice of our number of rows."""
    B, seed, expected = v.number("random_l_len"), v.number("random_seed"), v.array("random_idx")
    rows = random_baseline(torch.zeros(B), Fraction(B - len(expected), B))
    assert len(rows) == len(rows.unique()) == len(expected)
    legacy = np.random.RandomState(seed).choice(B, len(rows), replace=False)
    np.testing.assert_array_equal(legacy, expected, err_msg="random_idx")


def check_rng(v: Vectors) -> None:
    orders = v.keys("s*_idx")
    assert orders, f"{v.name}: no order"
    for key in orders:
        name = key.removesuffix("_idx")
        n, seed, rank, replicas, start = v.array(f"{name}_cfg").tolist()
        expected = v.array(key)
        order = reference_order(n, seed=seed, rank=rank, replicas=replicas, start=start)
        ours = list(islice(order, len(expected)))
        np.testing.assert_array_equal(ours, expected, err_msg=key)
    rows = v.array("seed_args").tolist()
    np.testing.assert_array_equal([reference_seed(*row) for row in rows], v.array("seed_hash"))
    drawn = v.keys("seed*_torch") + v.keys("seed*_numpy")
    assert drawn, f"{v.name}: nothing drawn from a seed"
    for key in drawn:
        row, library = key.removeprefix("seed").split("_")
        expected = v.array(key)
        seed = reference_seed(*rows[int(row)])
        if library == "torch":
            ours = torch.randn(expected.shape, generator=torch.Generator().manual_seed(seed))
            np.testing.assert_array_equal(ours.numpy(), expected, err_msg=key)
        else:
            ours = np.random.RandomState(seed).rand(expected.size)
            np.testing.assert_array_equal(ours, expected, err_msg=key)


FAMILIES: dict[str, Check] = {"jest*": check_jest, "rng*": check_rng}
