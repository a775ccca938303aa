"""The 2-D tree against slow, plain forms of the same."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from diffusion import toy


@pytest.fixture(scope="module")
def tree() -> toy.Mixture:
    return toy.tree("A")


def oracle(tree: toy.Mixture, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Log density and score in float64 by inverses, determinants and autograd."""
    mu, phi = tree.mu.double(), tree.phi.double()
    x = x.double().requires_grad_()
    eye = torch.eye(2, dtype=torch.float64)
    C = tree.Sigma.double() + sigma.double().square()[:, None, None, None] * eye
    d = x[:, None] - mu
    q = torch.einsum("nmi,nmij,nmj->nm", d, torch.linalg.inv(C), d)
    logp = torch.logsumexp(phi.log() - 0.5 * (q + C.logdet()) - math.log(2 * math.pi), 1)
    score = torch.autograd.grad(logp.sum(), x)[0]
    return logp.detach(), score


@pytest.mark.parametrize("classes", ["A", "B", "AB"])
def test_density_and_score(classes):
    tree = toy.tree(classes)
    g = torch.Generator().manual_seed(0)
    near = tree.sample(40, generator=g)
    x = torch.cat([near, 1.5 * torch.randn(20, 2, generator=g), torch.full((1, 2), 40.0)])
    sigma = torch.exp(2 * torch.randn(len(x), generator=g) - 2)
    sigma[:10] = 0
    logp, score = oracle(tree, x, sigma)
    exact = tree.logp_and_score(x.double(), sigma.double())
    assert torch.allclose(exact[0], logp, rtol=1e-12, atol=1e-10)
    assert torch.allclose(exact[1], score, rtol=1e-10, atol=1e-9)
    fast = tree.logp_and_score(x, sigma)
    assert fast[0].dtype == fast[1].dtype == torch.float32
    assert all(t.isfinite().all() for t in fast)
    close = logp.abs() < 1e3
    assert (fast[0] - logp).abs()[close].max() < 1e-3
    width = sigma.clamp_min(0.004)[:, None]  # a score is a length over the square of a width
    assert ((fast[1] - score) * width)[close].abs().max() < 1e-3


def test_float32_is_accurate_where_training_looks(tree):
    g = torch.Generator().manual_seed(1)
    sigma = toy.sigmas(2000, generator=g)
    x = tree.sample(2000, sigma, generator=g)
    fast, exact = tree.score(x, sigma), tree.score(x.double(), sigma.double())
    assert ((fast - exact) * sigma[:, None]).abs().max() < 2e-5


def test_one_sigma_is_that_sigma_for_all(tree):
    x = tree.sample(300, 0.1, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.float32, torch.float64):
        y = x.to(dtype)
        one = tree.logp_and_score(y, 0.25)
        each = tree.logp_and_score(y, torch.full((300,), 0.25, dtype=dtype))
        assert torch.allclose(one[0], each[0], atol=1e-5) and torch.allclose(one[1], each[1])


def test_rows_do_not_depend_on_the_chunks(tree):
    g = torch.Generator().manual_seed(2)
    x, sigma = torch.randn(1000, 2, generator=g), torch.rand(1000, generator=g)
    whole = tree.score(x, sigma)
    parts = torch.cat([tree.score(a, s) for a, s in zip(x.split(7), sigma.split(7), strict=True)])
    assert torch.allclose(whole, parts, rtol=1e-4, atol=1e-4)


def test_far_away_and_without_noise_it_stays_finite(tree):
    x = torch.tensor([[1e3, -1e3], [0.0, 30.0]])
    logp, score = tree.logp_and_score(x)
    assert logp.isfinite().all() and score.isfinite().all()
    assert (logp < -1e5).all()


def test_a_mixture_without_branches_is_the_same(tree):
    plain = toy.Mixture(tree._weights, tree.mu, tree.Sigma, tree.depth)
    x = tree.sample(50, 0.1, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(plain.score(x, 0.1), tree.score(x, 0.1), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="not in a row"):
        order = torch.randperm(len(tree.phi), generator=torch.Generator().manual_seed(0))
        toy.Mixture(
            tree._weights[order], tree.mu[order], tree.Sigma[order], tree.depth[order], branch=8
        )


def test_denoiser_is_the_posterior_mean():
    """One Gaussian: E[clean | x] = x - sigma^2 (Sigma + sigma^2)^-1 (x - mu)."""
    mu, Sigma = torch.tensor([[0.3, -0.2]]), torch.tensor([[[0.5, 0.2], [0.2, 0.3]]])
    one = toy.Mixture(torch.ones(1), mu, Sigma, torch.zeros(1, dtype=torch.long))
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    inverse = torch.linalg.inv(Sigma[0] + 0.49 * torch.eye(2))
    expected = x - 0.49 * (x - mu) @ inverse
    assert torch.allclose(one.denoise(x, 0.7), expected, atol=1e-5)


def test_samples_have_the_mixture_s_moments(tree):
    n = 40000
    x = tree.sample(n, 0.5, generator=torch.Generator().manual_seed(3))
    mean = tree.phi @ tree.mu
    d = tree.mu - mean
    cov = torch.einsum("m,mij->ij", tree.phi, tree.Sigma + d[:, :, None] * d[:, None])
    cov = cov + 0.25 * torch.eye(2)
    assert ((x.mean(0) - mean).abs() < 4 * x.std(0) / math.sqrt(n)).all()
    assert (x.T.cov() - cov).abs().max() < 4 * 0.4 * math.sqrt(2 / n)


def test_outer_is_the_deep_part(tree):
    outer = toy.outer(tree)
    assert len(outer.phi) == 768 and int(outer.depth.min()) == 5
    assert torch.allclose(outer.phi.sum(), torch.tensor(1.0))
    deep = tree.depth >= 5
    assert torch.allclose(outer.phi / outer.phi[0], tree.phi[deep] / tree.phi[deep][0], rtol=1e-5)


def test_b_takes_its_random_numbers_after_a():
    both, a, b = toy.tree("AB"), toy.tree("A"), toy.tree("B")
    assert torch.equal(both.mu, torch.cat([a.mu, b.mu]))
    assert torch.equal(both.Sigma, torch.cat([a.Sigma, b.Sigma]))


@pytest.mark.parametrize("classes", ["", "C", "BA"])
def test_unknown_classes(classes):
    with pytest.raises(ValueError, match="has A, B and AB"):
        toy.tree(classes)


def test_bad_shapes(tree):
    with pytest.raises(ValueError, match="neither one number"):
        tree.score(torch.zeros(3, 2), torch.zeros(2))
    with pytest.raises(ValueError, match="mixture of phi"):
        toy.Mixture(torch.ones(2), torch.zeros(3, 2), torch.eye(2)[None], torch.zeros(2))


# ---------------------------------------------------------------------------------------- network


def net_and_data(layers: int, dim: int, n: int = 700) -> tuple[toy.ToyModel, Tensor, Tensor]:
    torch.manual_seed(0)
    net = toy.ToyModel(2, layers, dim)
    net.gain.data.fill_(0.7)
    return net, torch.randn(n, 2), toy.sigmas(n)


def autograd_score(net: toy.ToyModel, x: Tensor, sigma: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(net.logp(x, sigma).sum(), x, create_graph=True)[0]


@pytest.mark.parametrize("layers, dim", [(4, 64), (4, 32), (2, 16), (1, 5)])
def test_hand_written_gradients_are_autograd_s(layers, dim):
    net, x, sigma = net_and_data(layers, dim)
    net.forced_weight_norm = False
    target = torch.randn(len(x), 2)
    gradients = []
    for score in (net.score(x, sigma), autograd_score(net, x, sigma)):
        loss = toy.loss(score, target, sigma).mean()
        gradients.append([score.detach(), *torch.autograd.grad(loss, list(net.parameters()))])
    for ours, theirs in zip(*gradients, strict=True):
        assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()


def test_training_is_that_of_autograd():
    """Ten steps with forced weight normalisation inside forward, or once a step outside."""
    trained = []
    for kind in ("hand", "outside", "autograd"):
        net, x, sigma = net_and_data(2, 16)
        net.forced_weight_norm = kind != "outside"
        target = toy.tree("A").score(x, sigma)
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-2, betas=(0.9, 0.99))
        for _ in range(10):
            if kind == "outside":
                net.normalize_weights()
            score = autograd_score(net, x, sigma) if kind == "autograd" else net.score(x, sigma)
            optimizer.zero_grad()
            toy.loss(score, target, sigma).mean().backward()
            optimizer.step()
        trained.append([p.detach().clone() for p in net.parameters()])
    for ours, outside, theirs in zip(*trained, strict=True):
        assert torch.equal(ours, outside)
        assert (ours - theirs).abs().max() < 1e-4


def test_forced_weight_norm_is_for_training():
    net, x, sigma = net_and_data(2, 16)
    with torch.no_grad():
        net.linears()[1].weight.mul_(3)
    before = [p.clone() for p in net.parameters()]
    score = net.eval().score(x, sigma)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    change = net.train().score(x, sigma) - score  # of the second 1e-4 added to a norm
    assert 0 < change.abs().max() < 1e-3 * score.abs().max()
    rms = net.linears()[1].weight.square().mean(1).sqrt()
    assert torch.allclose(rms, torch.ones(16), atol=2e-4)


def test_denoise_takes_one_sigma_or_many():
    net, x, _ = net_and_data(1, 8, 6)
    net.eval()
    one, many = net.denoise(x, torch.tensor(0.4)), net.denoise(x, torch.full((6,), 0.4))
    assert torch.equal(one, many)
    assert torch.allclose(one, x + 0.16 * net.score(x, 0.4))


def test_state_names_are_the_reference_s():
    names = {"gain", *(f"layers.{2 * k}.weight" for k in range(5))}
    net = toy.ToyModel()
    assert set(net.state_dict()) == names
    assert sum(p.numel() for p in net.parameters()) == 16641
    assert sum(p.numel() for p in toy.ToyModel(2, 4, 32).parameters()) == 4225
    assert set(toy.ToyModel(**net.config).state_dict()) == names


@pytest.mark.parametrize("sizes", [(3, 4, 64), (2, 0, 64), (2, 4, 0)])
def test_bad_sizes(sizes):
    with pytest.raises(ValueError, match="ToyModel"):
        toy.ToyModel(*sizes)


def test_lr_schedule():
    assert toy.lr(0) == toy.lr(512) == 1e-2
    assert toy.lr(2048) == pytest.approx(5e-3)


# ---------------------------------------------------------------------------------------- metrics


def brute_mandala(x: Tensor, hit: Tensor) -> tuple[float, float]:
    hits, misses, inside_hits = set(), set(), 0
    for (px, py), h in zip(x.tolist(), hit.tolist(), strict=True):
        cell = tuple(
            math.floor((p - o + 1.5) / 0.03 + 0.5)
            for p, o in zip((px, py), toy.ORIGIN, strict=True)
        )
        if min(cell) < 0 or max(cell) > 100:
            continue
        (hits if h else misses).add(cell)
        inside_hits += h
    return len(hits) / len(hits | misses), inside_hits / len(x)


def test_mandala_against_sets(tree):
    x = tree.sample(3000, 0.2, generator=torch.Generator().manual_seed(0))
    x[:50] += 5
    logp = tree.logp(x)
    cells, hits = toy.mandala(x, logp)
    expected = brute_mandala(x.double(), logp >= toy.LEVEL)
    assert (float(cells), float(hits)) == pytest.approx(expected)
    assert 0.1 < cells < 0.9


def test_mandala_of_nothing_inside():
    cells, hits = toy.mandala(torch.full((4, 2), 50.0), torch.zeros(4))
    assert float(cells) == float(hits) == 0
    with pytest.raises(ValueError, match="mandala"):
        toy.mandala(torch.zeros(0, 2), torch.zeros(0))
