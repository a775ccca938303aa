"""FLD against autograd on the published objective, and what it is for."""

import math

import pytest
import torch

from evaluation import likelihood
from evaluation.likelihood import Mixture, fld


def features(n, seed, dim=6):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)).double()


def log_normal(x, centre, log_var):
    d = x.shape[-1]
    square = (x[:, None] - centre).square().sum(2)
    return -0.5 * (square / log_var.exp() + d * log_var + d * math.log(2 * math.pi))


def by_autograd(centres, x, batch, passes=50):
    """The paper's fit: torch's gradients, batches in order, one Gaussian near the mean."""
    d, m = x.shape[1], len(centres)
    start = (x[:, None] - centres).square().sum(2).amin(0)
    log_var = ((start + 1e-3) / d).log().requires_grad_()
    floor = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    middle = x.mean(0)
    adam = torch.optim.Adam([log_var, floor], lr=0.5)
    for _ in range(passes):
        for part in x.split(batch):
            near = log_normal(part, centres, log_var) - math.log(m)
            # 0.81 times the squared distance to the mean
            far = log_normal(0.9 * (part - middle), torch.zeros(1, d).double(), floor)
            loss = -torch.cat((near, far), 1).logsumexp(1).mean() / d
            adam.zero_grad()
            loss.backward()
            adam.step()
            log_var.data.clamp_(-40, 20)
    return log_var.detach()


@pytest.mark.parametrize("batch", [10000, 16])
def test_the_fit_is_that_of_autograd(batch, monkeypatch):
    centres, x = features(20, 0), features(40, 1)
    wanted = by_autograd(centres, x, batch)
    monkeypatch.setattr(likelihood, "_BATCH", batch)
    for kept in (likelihood._KEPT, 0):  # distances kept, or made anew in every pass
        monkeypatch.setattr(likelihood, "_KEPT", kept)
        monkeypatch.setattr("evaluation.distances._BLOCK", 20 * 6)
        fitted = Mixture(centres)
        fitted.fit(x)
        torch.testing.assert_close(fitted.log_var, wanted, rtol=1e-5, atol=1e-5)
    nll = -(log_normal(x, centres, fitted.log_var) - math.log(20)).logsumexp(1).mean() / 6
    assert fitted.nll(x) == pytest.approx(float(nll), rel=1e-10)


def test_columns_are_scaled_by_the_test_set():
    parts = [features(60, i) for i in range(3)]
    scale, shift = features(1, 4).exp(), features(1, 5)
    found, again = fld(*parts), fld(*(part * scale + shift for part in parts))
    assert again == pytest.approx(found, rel=1e-5)
    dead = [torch.cat((part, torch.ones(60, 1).double()), 1) for part in parts]
    assert all(map(math.isfinite, fld(*dead)))


def test_copies_are_told_from_samples():
    train, test = features(300, 0), features(300, 1)
    real, wrong = fld(features(150, 2), train, test), fld(features(150, 2) * 2 + 1, train, test)
    copies = fld(train[:150] + 1e-6, train, test)
    assert abs(real.fld) < 5 and real.gap > -30  # fresh samples of the same distribution
    assert wrong.fld > real.fld + 20
    assert copies.fld > real.fld + 20 and copies.gap < real.gap - 20
    assert real.centres == 150 and fld(features(50, 2), train, test, most=20).centres == 20
    assert real.gap == pytest.approx(100 * (real.nll_train - real.nll_test))
    assert real.fld == pytest.approx(100 * (real.nll_test - real.nll_baseline))


def test_too_few():
    with pytest.raises(ValueError, match="3 of train"):
        fld(features(9, 0), features(3, 1), features(9, 2))
