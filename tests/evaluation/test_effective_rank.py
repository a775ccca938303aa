"""RankMe against the singular values of numpy."""

import numpy as np
import pytest
import torch

from evaluation.effective_rank import effective_rank


def oracle(Z):
    s = np.linalg.svd(Z.double().numpy(), compute_uv=False)
    p = s / np.abs(s).sum() + 1e-7
    return float(np.exp(-(p * np.log(p)).sum()))


@pytest.mark.parametrize(("n", "d"), [(200, 16), (12, 40), (9000, 8)])
def test_it_is_the_formula(n, d):
    random = torch.Generator().manual_seed(n)
    Z = torch.randn(n, d, generator=random) * torch.logspace(0, -3, d) + 0.1
    assert effective_rank(Z) == pytest.approx(oracle(Z), rel=1e-12)


def test_known_ranks():
    assert effective_rank(torch.eye(32)) == pytest.approx(32, rel=1e-4)
    line = torch.rand(100, 1).double() * torch.randn(1, 64).double()
    assert effective_rank(line) == pytest.approx(oracle(line), rel=1e-12)
    assert effective_rank(line) < 1.001
    assert effective_rank(torch.full((50, 64), 3.0) + 1e-9 * torch.randn(50, 64)) < 1.001
    assert effective_rank(torch.zeros(5, 4)) == 1


def test_scale_and_number_of_rows():
    Z = torch.randn(3000, 12, generator=torch.Generator().manual_seed(0))
    assert effective_rank(1000 * Z) == pytest.approx(effective_rank(Z), rel=1e-9)
    assert effective_rank(Z, most=1500) == effective_rank(Z[::2])
    with pytest.raises(ValueError, match="not finite"):
        effective_rank(torch.tensor([[float("nan"), 1.0]]))
