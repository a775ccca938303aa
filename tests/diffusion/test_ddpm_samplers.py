"""Samplers of DDPM against the flow's exact solution, the exact marginals and diffusers' steps."""

import math

import pytest
import torch

from diffusion.ddpm_rows import KeyedRandn
from diffusion.ddpm_samplers import (
    SAMPLERS,
    Denoiser,
    ancestral,
    ddim,
    ddim_reverse,
    dpmpp_2m,
    heun_edm,
    last,
    plms,
    unipc,
)
from diffusion.gaussian import Gaussian
from diffusion.gaussian_loss import clip_unit
from diffusion.respace import timesteps_of
from diffusion.rows import row_keys
from diffusion.samplers import heun
from diffusion.schedules import guided_betas, latent_betas, zero_terminal_snr

MEAN, SD = 0.3, 0.5
LDM = latent_betas("linear", 1000, 0.00085, 0.012)


def numbers(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def ideal(gaussian, seen=None):
    """The network that knows the data: N(MEAN, SD^2). Asked by level, so between steps too."""
    assert gaussian.time_input == "noise_level"

    def net(x, t):
        if seen is not None:
            seen.append(t[0].item())
        alpha = t.to(x).reshape(-1, *[1] * (x.ndim - 1))
        noise = (1 - alpha**2).sqrt()
        x0 = (SD**2 * alpha * x + noise**2 * MEAN) / (alpha**2 * SD**2 + noise**2)
        eps = (x - alpha * x0) / noise
        return {"x0": x0, "eps": eps, "v": alpha * eps - noise * x0}[gaussian.prediction_type]

    return net


def whole(betas=LDM, prediction="eps", **more):
    return Gaussian(betas, prediction_type=prediction, time_input="noise_level", **more)


def exact(x_T, gaussian):
    """Where the flow takes x_T, at step 0: all keep their place in N(alpha MEAN, ..)."""

    def level(i):
        A = gaussian.alphas_cumprod[i].item()
        return math.sqrt(A) * MEAN, math.sqrt(A * SD**2 + 1 - A)

    (here, wide), (there, narrow) = level(-1), level(0)
    return there + (x_T - here) * (narrow / wide)


def error(sampler, S, **options):
    """Of the state at step 0: the step into the clean image is of first order in all samplers."""
    g = whole()
    x = numbers(64, 3, 1, 1)
    steps = timesteps_of(f"logsnr:{S}", 1000, g.alphas_cumprod)
    of, options = (
        (g, {"steps": S, **options}) if sampler is heun_edm else (g.respaced(steps), options)
    )
    states = list(sampler(ideal(g), x, of, **options))
    return (states[-2].x - exact(x, g)).abs().max().item()


@pytest.mark.parametrize(
    ("sampler", "options", "order", "at_20"),
    [
        (ddim, {}, 1, 0.2),
        (plms, {}, 2, 0.01),
        (dpmpp_2m, {}, 2, 0.01),
        (unipc, {"corrector": False}, 2, 0.01),
        (unipc, {"order": 1}, 2, 0.04),  # a corrector adds an order
        (unipc, {}, 3, 0.005),
        (unipc, {"variant": "bh1"}, 3, 0.01),
        (unipc, {"order": 3}, 4, 0.0005),
        (heun_edm, {}, 2, 0.03),
    ],
)
def test_the_flow_is_followed_to_its_order(sampler, options, order, at_20):
    coarse, fine = error(sampler, 10, **options), error(sampler, 20, **options)
    assert fine < at_20
    assert coarse / fine > 0.8 * 2**order, (coarse, fine)


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_predictions_of_one_network_give_one_sample(name, prediction):
    x = numbers(8, 3, 2, 2)

    def draw(prediction):
        g = whole(prediction=prediction)
        spaced = g if name == "heun" else g.respaced(timesteps_of("trailing:12", 1000))
        options = {"randn": KeyedRandn(torch.arange(8))} if name == "ddpm" else {}
        return last(SAMPLERS[name](ideal(g), x, spaced, **options))

    assert torch.allclose(draw(prediction), draw("eps"), atol=1e-6)


@pytest.mark.parametrize("name", SAMPLERS)
def test_any_number_of_steps_and_pure_noise(name):
    for S in (1, 2, 3, 30, 300):
        for betas, prediction in ((LDM, "eps"), (zero_terminal_snr(LDM), "v")):
            g = whole(betas, prediction)
            if name == "heun":
                if prediction == "v" or S > 30:
                    continue
                states = list(heun_edm(ideal(g), numbers(2, 1, 1, 1), g, steps=S))
            else:
                spaced = g.respaced(timesteps_of(f"trailing:{S}", 1000))
                states = list(SAMPLERS[name](ideal(g), numbers(2, 1, 1, 1), spaced))
                assert states[0].step == 999
            assert len(states) == S
            assert all(s.x.isfinite().all() and s.x0.isfinite().all() for s in states), S
    with pytest.raises(ValueError, match="sigma_max"):
        last(
            heun_edm(
                ideal(whole(prediction="v")), numbers(1, 1), whole(zero_terminal_snr(LDM), "v")
            )
        )


def test_drawn_images_have_the_distribution_of_the_data():
    x = numbers(4000, 3)
    for sampler, variance, options in (
        (ancestral, "fixed_small", {}),
        (ancestral, "fixed_large", {}),
        (ddim, "fixed_large", {"eta": 1.0}),
        (ddim, "fixed_large", {"eta": 0.5}),
    ):
        g = whole(guided_betas("linear", 1000), variance_type=variance)
        spaced = g.respaced(timesteps_of("100", 1000))
        randn = KeyedRandn(torch.arange(4000))
        found = last(sampler(ideal(g), x, spaced, randn=randn, **options))
        # 12000 numbers: standard errors 0.005 and 0.003; the rest is of 100 steps
        assert found.mean().item() == pytest.approx(MEAN, abs=0.02), (sampler, variance)
        assert found.std().item() == pytest.approx(SD, abs=0.04), (sampler, variance)
        tie = torch.corrcoef(torch.stack([x.flatten(), found.flatten()]))[0, 1].item()
        assert tie < (0.6 if options.get("eta") == 0.5 else 0.2)


def test_reverse_goes_back_along_the_flow():
    g = whole().respaced(timesteps_of("leading:200", 1000))
    data = MEAN + SD * numbers(16, 2, 1, 1)
    noise = last(ddim_reverse(ideal(whole()), data, g))
    assert noise.std().item() == pytest.approx(1, abs=0.2)
    assert (last(ddim(ideal(whole()), noise, g)) - data).abs().max() < 0.05


def test_noise_is_of_the_row_alone():
    g = whole().respaced(timesteps_of("trailing:10", 1000))
    keys = row_keys(1, 2, 0, 1, 6, torch.device("cpu"))
    x = numbers(6, 2, 1, 1)

    def draw(rows):
        randn = KeyedRandn(keys[rows])
        return last(ancestral(ideal(whole()), x[rows], g, randn=randn))

    everyone = draw(slice(0, 6))
    assert torch.equal(torch.cat([draw(slice(0, 1)), draw(slice(1, 6))]), everyone)
    randn = KeyedRandn(keys)
    assert not torch.equal(randn(x), randn(x))
    with pytest.raises(ValueError, match="6 keys"):
        randn(x[:2])


def test_the_network_is_asked_as_it_was_trained():
    seen = []

    def net(x, t, y):
        assert y == "cat" and not torch.is_grad_enabled()
        seen.append((t.dtype, t.tolist(), x.dtype))
        return 0 * x

    g = Gaussian(LDM).respaced([3, 500])
    out = last(ddim(net, numbers(2, 1, 1, 1).bfloat16(), g, cond={"y": "cat"}))
    assert out.dtype == torch.float32
    assert seen == [(torch.int64, [t, t], torch.bfloat16) for t in (500, 3)]
    with pytest.raises(ValueError, match="floating"):
        last(ddim(net, torch.zeros(2, 1, dtype=torch.int64), g))
    calls = []
    model = lambda x, t: calls.append(1) or 0 * x  # noqa: E731
    for sampler, extra in ((ddim, 0), (plms, 1), (dpmpp_2m, 0), (unipc, 0), (ancestral, 0)):
        calls.clear()
        last(sampler(model, numbers(2, 1, 1, 1), Gaussian(LDM).respaced(range(0, 1000, 100))))
        assert len(calls) == 10 + extra
    calls.clear()
    last(heun_edm(model, numbers(2, 1, 1, 1), Gaussian(LDM), steps=10))
    assert len(calls) == 19


def test_clean_images_are_clamped_where_asked():
    g = Gaussian(LDM).respaced([100, 999])
    for sampler in (ancestral, ddim, dpmpp_2m, unipc):
        for state in sampler(lambda x, t: 9 + 0 * x, numbers(2, 1, 1, 1), g, x0_fn=clip_unit):
            assert state.x0.abs().max() <= 1


def test_edm_denoiser_is_the_network_at_its_own_levels():
    x0, eps = numbers(3, 2, 1, 1), numbers(3, 2, 1, 1, seed=1)
    for prediction in ("eps", "v", "x0"):
        g = Gaussian(LDM, prediction_type=prediction)
        asked = []

        def net(x, t, g=g, asked=asked):
            asked.append(t[0].item())
            return numbers(*x.shape, seed=5) + 0.1 * x

        denoise = Denoiser(net, g)
        for t in (0, 400, 999):
            sigma = torch.tensor(g.sigma(t), dtype=torch.float64)
            found = denoise(x0 + sigma * eps, sigma)
            x_t = g.q_sample(x0, t, eps)
            expected = g.x0_of(net(x_t, torch.tensor([t])), x_t, t)
            assert torch.allclose(found, expected, atol=1e-9)
            assert asked[-2] == pytest.approx(t, abs=1e-3)
        between = torch.tensor(math.sqrt(g.sigma(7) * g.sigma(8)) * 1.001)
        denoise(x0, between)
        assert 7.5 < asked[-1] < 8
        Denoiser(net, g, quantize=True)(x0, between)
        assert asked[-1] == 8 and isinstance(asked[-1], int)
    with pytest.raises(ValueError, match="one sigma"):
        denoise(x0, torch.ones(3))
    with pytest.raises(ValueError, match="x_prev"):
        Denoiser(net, Gaussian(LDM, prediction_type="x_prev"))


def test_heun_is_that_of_edm():
    g = whole()
    x = numbers(4, 1, 1, 1)
    low, high = g.sigma(0), g.sigma(999)
    scaled = x * math.sqrt(1 + high**2) / high
    expected = heun(Denoiser(ideal(g), g), scaled, steps=9, sigma_min=low, sigma_max=high)
    assert torch.equal(last(heun_edm(ideal(g), x, g, steps=9)), expected)


# --------------------------------------------------------------------------------------- diffusers


def network(x, t, **_):
    """Some network, the same for all."""
    shift = torch.as_tensor(t, dtype=x.dtype).reshape(-1, 1, 1, 1) / 1000
    return torch.tanh(0.7 * x.flip(1) + shift) + 0.1 * x


def theirs(scheduler, S, x, cut=None, **options):
    """diffusers' loop, on its own steps."""
    scheduler.set_timesteps(S)
    for t in scheduler.timesteps[:cut]:
        x = scheduler.step(network(x, t), t, x, **options).prev_sample
    return x


PREDICTIONS = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("clip", [False, True])
def test_ddim_and_ddpm_are_diffusers(prediction, clip):
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    settings = dict(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        prediction_type=PREDICTIONS[prediction], clip_sample=clip,
    )  # fmt: skip
    x0_fn = clip_unit if clip else None
    x = numbers(2, 3, 4, 4)
    g = Gaussian(LDM, prediction_type=prediction)
    # Theirs goes down by 1000 // S from any step: the same for an S that divides 1000.
    for spacing in ("trailing", "leading"):
        scheduler = diffusers.DDIMScheduler(timestep_spacing=spacing, **settings)
        ours = last(ddim(network, x, g.respaced(timesteps_of(f"{spacing}:10", 1000)), x0_fn=x0_fn))
        expected = theirs(scheduler, 10, x, use_clipped_model_output=True)
        assert torch.allclose(ours, expected, atol=2e-4), spacing

    draws = [numbers(2, 3, 4, 4, seed=9 + i) for i in range(10)]
    scheduler = diffusers.DDIMScheduler(timestep_spacing="trailing", **settings)
    scheduler.set_timesteps(10)
    other, left = x, iter(draws)
    for t in scheduler.timesteps:
        other = scheduler.step(
            network(other, t), t, other, eta=0.6, variance_noise=next(left),
            use_clipped_model_output=True,
        ).prev_sample  # fmt: skip
    left = iter(draws)
    spaced = g.respaced(timesteps_of("trailing:10", 1000))
    ours = last(ddim(network, x, spaced, eta=0.6, x0_fn=x0_fn, randn=lambda x: next(left)))
    assert torch.allclose(ours, other, atol=2e-4)

    for variance in ("fixed_small", "fixed_large"):
        scheduler = diffusers.DDPMScheduler(variance_type=variance, **settings)
        spaced = Gaussian(LDM, prediction_type=prediction, variance_type=variance)
        spaced = spaced.respaced(timesteps_of("leading:10", 1000))
        states = iter(ancestral(network, x, spaced, x0_fn=x0_fn, randn=torch.zeros_like))
        scheduler.set_timesteps(10)
        other = x
        for t in scheduler.timesteps[:-1]:
            # without its noise, the mean: the same generator draws it twice
            noisy = scheduler.step(
                network(other, t), t, other, generator=torch.Generator().manual_seed(3)
            ).prev_sample
            noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(3), dtype=x.dtype)
            index = spaced.timesteps.index(int(t))
            p = spaced.p_mean_variance(network(other, t), other, index, x0_fn)
            ours = p.mean + (0.5 * p.log_variance).exp() * noise
            assert torch.allclose(ours, noisy, atol=2e-4), (variance, int(t))
            other = p.mean
            assert torch.allclose(next(states).x, other, atol=1e-6)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_multistep_solvers_are_diffusers(prediction):
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    settings = dict(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        prediction_type=PREDICTIONS[prediction], final_sigmas_type="zero",
    )  # fmt: skip
    x = numbers(2, 3, 4, 4)
    g = Gaussian(LDM, prediction_type=prediction)
    for spacing in ("trailing", "linspace"):
        for S in (6, 20):
            scheduler = diffusers.DPMSolverMultistepScheduler(
                timestep_spacing=spacing, lower_order_final=True, **settings
            )
            expected = theirs(scheduler, S, x)
            steps = sorted(scheduler.timesteps.tolist())
            ours = last(dpmpp_2m(network, x, g.respaced(steps)))
            assert torch.allclose(ours, expected, atol=2e-4), (spacing, S)
            for order, variant in ((1, "bh2"), (2, "bh1"), (2, "bh2"), (3, "bh2")):
                scheduler = diffusers.UniPCMultistepScheduler(
                    solver_order=order, solver_type=variant, timestep_spacing=spacing, **settings
                )
                # With bh1 their last step is 0 times infinity: compare the one before.
                cut = -1 if variant == "bh1" else None
                expected = theirs(scheduler, S, x, cut=cut)
                steps = g.respaced(sorted(scheduler.timesteps.tolist()))
                states = list(unipc(network, x, steps, order=order, variant=variant))
                ours = states[-1 + (cut or 0)].x
                assert torch.allclose(ours, expected, atol=2e-4), (spacing, S, order, variant)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda g, x: ddim(network, x, g, eta=-1), "eta -1"),
        (lambda g, x: ddim(network, x, g, eta=math.nan), "nan"),
        (lambda g, x: ddim(network, x, g, eta=30), "more noise"),
        (lambda g, x: ddim(network, x, g, last_alpha=0.001), "last_alpha 0.001"),
        (lambda g, x: plms(network, x, g, last_alpha=1.5), "last_alpha 1.5"),
        (lambda g, x: unipc(network, x, g, order=4), "not 4"),
        (lambda g, x: unipc(network, x, g, variant="bh3"), "bh3"),
        (lambda g, x: heun_edm(network, x, g, steps=0), "at least 1"),
        (lambda g, x: iter(()), "without a step"),
    ],
)
def test_settings_that_cannot_be(make, says):
    with pytest.raises(ValueError, match=says):
        last(make(Gaussian(LDM).respaced([10, 500, 900]), numbers(1, 2, 1, 1)))
