"""The Gaussian diffusion against Bayes' rule worked out in float64, and at its ends."""

import math

import pytest
import torch

from diffusion.gaussian import Gaussian
from diffusion.respace import timesteps_of
from diffusion.schedules import guided_betas, latent_betas, zero_terminal_snr

BETAS = latent_betas("sqrt_linear", 40, 1e-3, 0.3)


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_marginals_and_posterior_are_those_of_the_chain():
    g = Gaussian(BETAS)
    x0, x_t = 0.7, -0.4
    mean, variance = x0, 0.0
    for t, beta in enumerate(BETAS.tolist()):
        before = mean, variance
        mean, variance = math.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
        q = g.q_mean_variance(torch.full((1, 1), x0, dtype=torch.float64), t)
        assert q.mean.item() == pytest.approx(mean, rel=1e-12)
        assert q.variance.item() == pytest.approx(variance, rel=1e-12)
        assert q.log_variance.item() == pytest.approx(math.log(variance), rel=1e-12)
        # N(x_prev; before) N(x_t; sqrt(a) x_prev, beta), normalised
        found = g.q_posterior(
            torch.full((1, 1), x0, dtype=torch.float64),
            torch.full((1, 1), x_t, dtype=torch.float64),
            t,
        )
        if t == 0:
            assert found.mean.item() == pytest.approx(x0) and found.variance.item() == 0
            assert found.log_variance.item() == pytest.approx(g.posterior_variance[1].log().item())
            continue
        precision = 1 / before[1] + (1 - beta) / beta
        center = (before[0] / before[1] + math.sqrt(1 - beta) * x_t / beta) / precision
        assert found.variance.item() == pytest.approx(1 / precision, rel=1e-10)
        assert found.mean.item() == pytest.approx(center, rel=1e-10)


@pytest.mark.parametrize("prediction", ["eps", "x0", "v", "x_prev"])
def test_every_prediction_leads_back_to_what_was_noised(prediction):
    g = Gaussian(BETAS, prediction_type=prediction)
    x0, eps, t = numbers(5, 2, 3, 3), numbers(5, 2, 3, 3, seed=1), torch.tensor([0, 1, 17, 38, 39])
    x_t = g.q_sample(x0, t, eps)
    target = g.target(x0, x_t, t, eps)
    assert torch.allclose(g.x0_of(target, x_t, t), x0, atol=1e-9)
    if prediction != "x_prev":  # of which step 0 says nothing about eps
        assert torch.allclose(g.eps_of(target, x_t, t), eps, atol=1e-9)
    p = g.p_mean_variance(target, x_t, t)
    assert torch.allclose(p.mean, g.q_posterior_mean(x0, x_t, t), atol=1e-9)


def test_a_number_and_rows_of_numbers_are_the_same():
    g = Gaussian(BETAS, variance_type="learned_range", prediction_type="v")
    x, output = numbers(3, 2, 4, 4), numbers(3, 4, 4, 4, seed=1)
    rows = g.p_mean_variance(output, x, torch.full((3,), 7), lambda x: x.clamp(-1, 1))
    for a, b in zip(g.p_mean_variance(output, x, 7, lambda x: x.clamp(-1, 1)), rows, strict=True):
        assert torch.allclose(a, b, rtol=1e-12)
    half = g.q_sample(x.bfloat16(), torch.tensor([0, 1, 2]), x.bfloat16())
    assert half.dtype == torch.float32


def test_learned_variance_lies_between_the_fixed_ones():
    x, t = torch.zeros(3, 1, 1, 1, dtype=torch.float64), torch.tensor([0, 5, 39])
    g = Gaussian(BETAS, variance_type="learned_range")

    def log_variance(said, variance="learned_range"):
        output = torch.cat([x, torch.full_like(x, said)], 1)
        return Gaussian(BETAS, variance_type=variance).p_mean_variance(output, x, t).log_variance

    assert torch.allclose(log_variance(1.0).flatten(), BETAS[t].log())
    assert torch.allclose(log_variance(-1.0).flatten(), g.posterior_log_variance_clipped[t])
    assert torch.equal(log_variance(-3.5, "learned"), torch.full_like(x, -3.5))
    small = Gaussian(BETAS, variance_type="fixed_small").p_mean_variance(x, x, t)
    large = Gaussian(BETAS, variance_type="fixed_large").p_mean_variance(x, x, t)
    assert small.variance[0] == 0 and torch.equal(large.variance[1:].flatten(), BETAS[t[1:]])
    assert large.log_variance[0].item() == small.log_variance[0].item()
    floored = Gaussian(BETAS, variance_type="fixed_small", log_variance_floor=1e-20)
    found = floored.p_mean_variance(x, x, t).log_variance
    assert found[0].item() == pytest.approx(math.log(1e-20))
    assert torch.equal(found[1:], small.log_variance[1:])


def test_respacing_keeps_the_marginals_and_names_the_steps_of_training():
    g = Gaussian(BETAS, time_input="step1000")
    steps = timesteps_of("trailing:7", g.T)
    spaced = g.respaced(steps)
    assert torch.allclose(spaced.alphas_cumprod, g.alphas_cumprod[steps], rtol=1e-12)
    assert spaced.timesteps == steps
    x = torch.zeros(2, 1)
    assert spaced.model_time(3, x).tolist() == pytest.approx([steps[3] * 1000 / 40] * 2)
    assert spaced.model_time(torch.tensor([0, 6]), x).tolist() == [steps[0] * 25.0, 975.0]
    again = spaced.respaced([0, 6])
    assert again.timesteps == [steps[0], steps[6]]
    assert torch.allclose(again.alphas_cumprod, g.alphas_cumprod[again.timesteps], rtol=1e-12)
    plain = Gaussian(BETAS).respaced(steps)
    assert plain.model_time(2, x).tolist() == [steps[2]] * 2
    assert plain.model_time(2, x).dtype == torch.int64
    assert plain.model_time(12.25, x).tolist() == [12.25] * 2
    level = Gaussian(BETAS, time_input="noise_level")
    expected = level.sqrt_alphas_cumprod[5].item()
    assert level.model_time(5, x).tolist() == pytest.approx([expected] * 2)
    assert level.model_time(5.0, x).tolist() == pytest.approx([expected] * 2)
    assert level.model_time(torch.tensor([5, 5]), x).tolist() == pytest.approx([expected] * 2)


def test_noise_levels_of_edm():
    g = Gaussian(BETAS)
    for t in (0, 7, 39):
        assert g.t_of_sigma(g.sigma(t)) == pytest.approx(t, abs=1e-9)
    between = math.sqrt(g.sigma(7) * g.sigma(8))
    assert g.t_of_sigma(between) == pytest.approx(7.5) and g.sigma(7.5) == pytest.approx(between)
    assert g.t_of_sigma(1e9) == 39 and g.t_of_sigma(0) == 0
    assert g.interval(0, math.inf) == (-math.inf, math.inf)
    low, high = g.interval(g.sigma(3), g.sigma(20))
    assert (low, high) == pytest.approx((3, 20))
    # sigma(0) itself is not above the lower end, so that step 0 is outside
    assert g.interval(g.sigma(0), 1)[0] == pytest.approx(0)


def test_one_step_and_pure_noise():
    one = Gaussian(torch.tensor([0.5]), variance_type="fixed_small")
    x = numbers(2, 1, 1, 1)
    p = one.p_mean_variance(one.target(x, x, 0, x), one.q_sample(x, 0, x), 0)
    assert torch.allclose(p.mean, x) and p.log_variance.isfinite().all()
    lone = Gaussian(guided_betas("cosine", 1000)).respaced([999])
    assert lone.T == 1 and lone.fixed_large_log_variance.isfinite().all()

    for prediction in ("v", "x0"):
        g = Gaussian(zero_terminal_snr(BETAS), prediction_type=prediction)
        eps = numbers(2, 1, 1, 1, seed=2)
        x_T = g.q_sample(x, 39, eps)
        assert torch.equal(x_T, eps)
        target = g.target(x, x_T, 39, eps)
        assert torch.allclose(g.x0_of(target, x_T, 39), x)
        assert torch.allclose(g.eps_of(target, x_T, 39), eps)
        p = g.p_mean_variance(target, x_T, 39)
        assert all(part.isfinite().all() for part in p)
        assert g.sigma(39) == math.inf and g.t_of_sigma(1e12) == 38
    with pytest.raises(ValueError, match="pure noise"):
        Gaussian(zero_terminal_snr(BETAS))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Gaussian(BETAS, prediction_type="epsilon"), "epsilon"),
        (lambda: Gaussian(BETAS, variance_type="fixed"), "'fixed'"),
        (lambda: Gaussian(BETAS, time_input="t"), "'t'"),
        (lambda: Gaussian(BETAS, timesteps=[1, 2]), "40 different"),
        (lambda: Gaussian(BETAS).respaced([]), "different"),
        (lambda: Gaussian(BETAS).respaced([3, 3]), "different"),
        (lambda: Gaussian(BETAS).respaced([3, 40]), "0 .. 39"),
        (lambda: Gaussian(BETAS).interval(2, 1), "lo < hi"),
        (lambda: Gaussian(BETAS).split(torch.zeros(1, 4, 2), 2), "needs 2"),
        (lambda: Gaussian(BETAS, variance_type="learned").split(torch.zeros(1, 2, 2), 2), "4"),
        (
            lambda: Gaussian(BETAS).q_sample(torch.zeros(2, 1), torch.tensor([1]), torch.zeros(2)),
            "do not fit",
        ),
    ],
)
def test_wrong_uses(make, says):
    with pytest.raises(ValueError, match=says):
        make()
