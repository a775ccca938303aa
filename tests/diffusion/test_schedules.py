"""Schedules of DDPM against their formulas and against diffusers'."""

import math

import pytest
import torch

from diffusion.gaussian import Gaussian
from diffusion.schedules import guided_betas, latent_betas, zero_terminal_snr


def terminal(betas):
    return torch.cumprod(1 - betas, 0)[-1].item()


@pytest.mark.parametrize(
    ("betas", "expected"),
    [
        (guided_betas("linear", 1000), 4.036e-5),
        (guided_betas("cosine", 1000), 2.43e-9),
        (latent_betas("linear", 1000, 0.00085, 0.012), 4.660e-3),
        (latent_betas("linear", 1000, 0.0015, 0.0195), 1.423e-4),
    ],
)
def test_what_is_left_of_the_image_at_the_end(betas, expected):
    assert betas.dtype == torch.float64 and len(betas) == 1000
    assert terminal(betas) == pytest.approx(expected, rel=1e-2)


def test_the_names_of_the_two_projects_mean_different_curves():
    assert torch.allclose(
        latent_betas("sqrt_linear", 1000), guided_betas("linear", 1000), rtol=1e-12
    )
    assert not torch.allclose(latent_betas("linear", 1000), guided_betas("linear", 1000), rtol=0.1)
    assert torch.allclose(latent_betas("cosine", 50), guided_betas("cosine", 50), rtol=1e-12)
    assert torch.allclose(latent_betas("sqrt", 9) ** 2, latent_betas("sqrt_linear", 9), rtol=1e-12)


def test_the_table_of_names_is_that_of_diffusers():
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    for curve, theirs in (
        ("sqrt_linear", "linear"),
        ("linear", "scaled_linear"),
        ("cosine", "squaredcos_cap_v2"),
    ):
        other = diffusers.DDPMScheduler(
            200, beta_start=1e-4, beta_end=2e-2, beta_schedule=theirs
        ).betas
        assert torch.allclose(latent_betas(curve, 200).float(), other, rtol=2e-5), curve
    rescaled = diffusers.DDIMScheduler(
        200, beta_start=1e-4, beta_end=2e-2, beta_schedule="linear", rescale_betas_zero_snr=True
    ).betas
    ours = zero_terminal_snr(latent_betas("sqrt_linear", 200))
    assert torch.allclose(ours.float(), rescaled, rtol=1e-3, atol=1e-6)


def test_zero_terminal_snr_keeps_the_first_level_and_ends_in_pure_noise():
    before = latent_betas("linear", 1000, 0.00085, 0.012)
    betas = zero_terminal_snr(before)
    assert betas[-1] == 1 and terminal(betas) == 0
    assert betas[0] == pytest.approx(before[0].item(), rel=1e-12)
    root, old = torch.cumprod(1 - betas, 0).sqrt(), torch.cumprod(1 - before, 0).sqrt()
    line = (root[0] - root) / (old[0] - old)  # the same factor everywhere
    assert torch.allclose(line[1:], line[1], rtol=1e-9)
    assert terminal(before) ** 0.5 == pytest.approx(0.0683, abs=1e-4)


def test_a_linear_schedule_of_20_steps_ends_in_noise_and_fewer_would_be_more_than_noise():
    assert guided_betas("linear", 20)[-1] == 1
    with pytest.raises(ValueError, match="predict"):
        Gaussian(guided_betas("linear", 20))
    Gaussian(guided_betas("linear", 20), prediction_type="v")
    Gaussian(guided_betas("linear", 21))
    with pytest.raises(ValueError, match="at least 20 steps"):
        guided_betas("linear", 19)
    for T in (1, 2, 3, 19):
        Gaussian(guided_betas("cosine", T))
        Gaussian(latent_betas("linear", T))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: guided_betas("scaled", 100), "scaled"),
        (lambda: latent_betas("squared", 100), "squared"),
        (lambda: guided_betas("cosine", 0), "not 0"),
        (lambda: latent_betas("linear", 10, 0.5, 0.1), "0.5"),
        (lambda: latent_betas("linear", 10, 0.0, 0.1), "0.0"),
        (lambda: latent_betas("linear", 10, 0.1, 1.5), "1.5"),
        (lambda: latent_betas("cosine", 10, cosine_s=math.nan), "nan"),
        (lambda: zero_terminal_snr(torch.tensor([0.1])), "2 steps"),
        (lambda: Gaussian(torch.tensor([0.1, 0.0])), "0, 1"),
        (lambda: Gaussian(torch.tensor([1.0, 0.5])), "0, 1"),
        (lambda: Gaussian(torch.tensor([0.1, math.nan])), "0, 1"),
    ],
)
def test_schedules_that_cannot_be(make, says):
    with pytest.raises(ValueError, match=says):
        make()
