"""Losses and bits against torch.distributions, the exact normal, and one another."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from diffusion.gaussian import Gaussian
from diffusion.gaussian_loss import (
    bits_per_dim,
    clip_unit,
    discretized_log_likelihood,
    dynamic_threshold,
    elbo_weight,
    ldm_losses,
    normal_kl,
    snr_weight,
    training_losses,
    vb_terms,
)
from diffusion.schedules import latent_betas, zero_terminal_snr

BETAS = latent_betas("sqrt_linear", 30, 1e-3, 0.3)


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_divergence():
    m1, l1, m2, l2 = numbers(4, 50)
    expected = kl_divergence(Normal(m1, (l1 / 2).exp()), Normal(m2, (l2 / 2).exp()))
    assert torch.allclose(normal_kl(m1, l1, m2, l2), expected, rtol=1e-9)


def test_pixels_have_the_mass_of_their_bins():
    values = torch.linspace(-1, 1, 256, dtype=torch.float64)
    for mean, scale in ((0.2, 0.1), (-1.0, 0.3), (0.9, 0.05)):
        found = discretized_log_likelihood(
            values, torch.full_like(values, mean), torch.full_like(values, math.log(scale))
        ).exp()
        normal = Normal(torch.tensor(mean, dtype=torch.float64), scale)
        edges = torch.cat([values[:1] * math.inf, values[1:] - 1 / 255, values[-1:] * math.inf])
        exact = normal.cdf(edges).diff()
        assert found.sum().item() == pytest.approx(1, abs=1e-6)
        assert (found - exact).abs().max() < 4e-4  # the tanh formula is that near


def test_the_bound_of_a_network_that_knows_the_posterior_is_zero():
    g = Gaussian(BETAS, variance_type="learned", prediction_type="x0")
    x0, eps = numbers(4, 1, 2, 2).clamp(-1, 1), numbers(4, 1, 2, 2, seed=1)
    t = torch.tensor([1, 5, 20, 29])
    x_t = g.q_sample(x0, t, eps)
    true = g.q_posterior(x0, x_t, t)
    output = torch.cat([x0, true.log_variance], 1)
    assert vb_terms(g, output, x0, x_t, t).abs().max() < 1e-10
    worse = vb_terms(g, torch.cat([x0 + 0.1, true.log_variance], 1), x0, x_t, t)
    c1 = g.posterior_mean_coef1[t]
    expected = (0.1 * c1) ** 2 / (2 * g.posterior_variance[t]) / math.log(2)
    assert torch.allclose(worse, expected, rtol=1e-9)
    for row, step in enumerate(t.tolist()):  # a number is a row of numbers
        one = slice(row, row + 1)
        alone = vb_terms(g, output[one] + 0.1, x0[one], x_t[one], step)
        assert torch.allclose(alone, vb_terms(g, output + 0.1, x0, x_t, t)[one], rtol=1e-9)


def test_the_bound_teaches_the_variance_alone():
    g = Gaussian(BETAS, variance_type="learned_range")
    x0, eps = numbers(4, 1, 2, 2).clamp(-1, 1), numbers(4, 1, 2, 2, seed=1)
    t = torch.tensor([0, 5, 20, 29])
    x_t = g.q_sample(x0, t, eps)
    output = numbers(4, 2, 2, 2, seed=2)

    def gradient(part, loss_type):
        leaf = output.clone().requires_grad_()
        losses = training_losses(g, leaf, x0, x_t, t, eps, loss_type=loss_type)
        losses[part].sum().backward()
        return leaf.grad[:, :1], leaf.grad[:, 1:], losses

    mean, variance, losses = gradient("loss", "rescaled_mse")
    alone = gradient("mse", "mse")[0]
    assert torch.equal(mean, alone)
    assert torch.allclose(mean, 2 * (output[:, :1] - eps) / 4)
    assert variance.abs().min() > 0
    assert torch.allclose(losses["loss"], losses["mse"] + losses["vb"] * 30 / 1000)
    both = gradient("loss", "kl")
    assert both[0].abs().max() > 0 and torch.equal(both[2]["loss"], both[2]["vb"])
    assert torch.allclose(gradient("loss", "rescaled_kl")[2]["loss"], both[2]["vb"] * 30)
    assert torch.allclose(gradient("loss", "mse")[2]["loss"], losses["mse"] + losses["vb"])


def test_min_snr_weighs_the_same_error_alike_in_every_prediction():
    x0, eps, t = numbers(5, 1, 2, 2), numbers(5, 1, 2, 2, seed=1), torch.tensor([0, 3, 9, 20, 29])
    wrong = x0 + 0.3 * numbers(5, 1, 2, 2, seed=2)
    found = {}
    for prediction in ("eps", "x0", "v"):
        g = Gaussian(BETAS, prediction_type=prediction)
        x_t = g.q_sample(x0, t, eps)
        output = g.target(wrong, x_t, t, g.eps_from_x0(x_t, t, wrong))
        losses = training_losses(g, output, x0, x_t, t, g.target(x0, x_t, t, eps), snr_gamma=5.0)
        found[prediction] = losses["loss"]
        # the error of x0 under min(SNR, gamma), where neither is more exact than float64
        expected = g.snr[t].clamp_max(5) * (wrong - x0).square().mean((1, 2, 3))
        assert torch.allclose(losses["loss"], expected, rtol=1e-6)
        assert "vb" not in losses
    g = Gaussian(zero_terminal_snr(BETAS), prediction_type="v")
    assert snr_weight(g, 5)[-1] == 0 and snr_weight(g, 5).isfinite().all()
    with pytest.raises(ValueError, match="x_prev"):
        snr_weight(Gaussian(BETAS, prediction_type="x_prev"), 5)
    with pytest.raises(ValueError, match="no squared error"):
        training_losses(g, x0, x0, x0, t, x0, loss_type="kl", snr_gamma=5.0)
    with pytest.raises(ValueError, match="'huber'"):
        training_losses(g, x0, x0, x0, t, x0, loss_type="huber")


def test_weights_of_latent_diffusion():
    g = Gaussian(latent_betas("linear", 1000, 0.00085, 0.012))
    w = elbo_weight(g)
    steps = [0, 1, 2, 10, 100, 500, 999]
    expected = [0.503, 0.503, 0.252, 0.0518, 0.0066, 0.0033, 0.0061]
    assert w[steps].tolist() == pytest.approx(expected, rel=2e-2)
    assert w.mean().item() == pytest.approx(0.0070, abs=1e-4)
    t, m = torch.tensor([3, 500]), torch.tensor([[0.5], [2.0]], dtype=torch.float64)
    logvar = torch.linspace(0, 1, 1000, dtype=torch.float64)
    losses = ldm_losses(
        g, m, t, torch.zeros_like(m), simple_weight=2.0, vlb_weight=3.0, logvar=logvar
    )
    mse, u = m[:, 0] ** 2, logvar[t]
    assert torch.allclose(losses["simple"], mse / u.exp() + u)
    assert torch.allclose(losses["vlb"], w[t] * mse)
    assert torch.allclose(losses["loss"], 2 * losses["simple"] + 3 * losses["vlb"])


def test_bits_of_a_dimension_are_the_sum_of_their_terms():
    g = Gaussian(BETAS, variance_type="fixed_small")
    x0 = (numbers(3, 1, 2, 2) * 0.3).clamp(-1, 1)
    seen, draws = [], []

    def randn(x):
        draws.append(numbers(*x.shape, seed=len(draws)))
        return draws[-1]

    def net(x, t, shift):
        seen.append(t.tolist())
        return 0.1 * x + shift

    found = bits_per_dim(net, g, x0, cond={"shift": 0.05}, randn=randn)
    assert seen == [[t] * 3 for t in reversed(range(30))]
    assert found["vb"].shape == found["mse"].shape == (3, 30)
    assert torch.allclose(found["total"], found["prior"] + found["vb"].sum(1))
    for t in (0, 4, 29):
        x_t = g.q_sample(x0, t, draws[29 - t])
        output = 0.1 * x_t + 0.05
        assert torch.equal(found["vb"][:, t], vb_terms(g, output, x0, x_t, t, clip_unit))
        x0_hat = clip_unit(g.x0_from_eps(x_t, t, output))
        assert torch.allclose(found["x0_mse"][:, t], (x0_hat - x0).square().mean((1, 2, 3)))
    # 8 bits a pixel is what someone says who knows nothing: a net that knows nothing is worse
    assert (found["total"] > 8).all()


def test_thresholds():
    x = torch.tensor([[0.5, -0.2, 0.1, 0.3], [3.0, -2.0, 1.0, 0.0]])
    assert clip_unit(x)[1].tolist() == [1, -1, 1, 0]
    found = dynamic_threshold(1.0)(x)
    assert torch.equal(found[0], x[0]) and torch.allclose(found[1], x[1] / 3)
    found = dynamic_threshold(0.5)(x)  # the median of |x| is 1.5
    assert torch.allclose(found[1], torch.tensor([1.0, -1.0, 2 / 3, 0.0]))
    with pytest.raises(ValueError, match="quantile 0"):
        dynamic_threshold(0)
