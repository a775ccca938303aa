"""Which steps a sampler visits: any count works, and diffusers' rules are met."""

import pytest
import torch

from diffusion.respace import SPACINGS, ldm_steps, timesteps_of
from diffusion.schedules import guided_betas, latent_betas, zero_terminal_snr

A1000 = torch.cumprod(1 - guided_betas("cosine", 1000), 0)


@pytest.mark.parametrize("name", SPACINGS)
@pytest.mark.parametrize("S", [1, 2, 3, 7, 30, 300, 501, 999, 1000])
def test_any_count_gives_as_many_different_steps(name, S):
    steps = timesteps_of(f"{name}:{S}", 1000, A1000)
    assert len(steps) == S and steps == sorted(set(steps))
    assert 0 <= steps[0] and steps[-1] <= 999


@pytest.mark.parametrize("name", SPACINGS)
def test_any_count_of_any_length(name):
    for T in (1, 2, 3, 5, 21):
        A = torch.cumprod(1 - latent_betas("linear", T), 0)
        for S in range(1, T + 1):
            steps = timesteps_of(f"{name}:{S}", T, A)
            assert len(set(steps)) == S and set(steps) <= set(range(T)), (T, S)


def test_the_rules():
    assert timesteps_of("ddim4", 10) == [0, 3, 6, 9]
    assert timesteps_of("5", 10) == [0, 2, 4, 7, 9] and timesteps_of(5, 10) == timesteps_of("5", 10)
    assert timesteps_of("3,1", 10) == [0, 2, 4, 5]
    assert timesteps_of("trailing:4", 10) == [1, 4, 7, 9]
    assert timesteps_of("leading:4", 10) == [0, 2, 4, 6]
    assert timesteps_of("linspace:4", 10) == [0, 3, 6, 9]
    assert timesteps_of("ldm:5", 10) == [1, 3, 5, 7, 9]
    for one in ("trailing", "linspace", "quad", "logsnr"):
        assert timesteps_of(f"{one}:1", 1000, A1000) == [999]  # a lone step begins in noise


def test_as_diffusers():
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    for spacing in ("leading", "trailing", "linspace"):
        for S in (1, 7, 30, 50):
            scheduler = diffusers.DDIMScheduler(1000, timestep_spacing=spacing)
            scheduler.set_timesteps(S)
            theirs = scheduler.timesteps.tolist()[::-1]
            if (spacing, S) == ("linspace", 1):  # theirs is the step without noise
                continue
            assert timesteps_of(f"{spacing}:{S}", 1000) == theirs, (spacing, S)


def test_logsnr_is_even_in_log_snr_also_where_it_ends_in_pure_noise():
    steps = timesteps_of("logsnr:12", 1000, A1000)
    level = (A1000 / (1 - A1000)).log()[steps]
    # a step of 1000 is coarse where the cosine schedule falls most, at its end
    assert (level.diff()[:6] - level.diff()[:6].mean()).abs().max() < 0.5
    A = torch.cumprod(1 - zero_terminal_snr(latent_betas("linear", 1000)), 0)
    steps = timesteps_of("logsnr:12", 1000, A)
    assert len(set(steps)) == 12 and steps[-1] == 999


def test_released_steps_of_latent_diffusion():
    assert len(ldm_steps(1000, 30)) == 31
    assert ldm_steps(1000, 300)[-1] == 1000  # no step of 0 .. 999: it crashed
    assert timesteps_of("ldm:50", 1000) == ldm_steps(1000, 50)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("ddim1", "no whole stride"),
        ("ddim300", "300 of 1000"),
        ("ddim7x", "'7x'"),
        ("ddim", "whole number"),
        ("1001", "1000"),
        ("-5", "'-5'"),
        ("0", "none"),
        ("", "whole number"),
        ("10,,10", "whole number"),
        ("400,300,300", "334"),
        ("trailing:0", "1 to 1000"),
        ("trailing:1001", "1 to 1000"),
        ("even:10", "'even'"),
        ("logsnr:10", "alphas_cumprod"),
    ],
)
def test_steps_that_cannot_be(spec, says):
    with pytest.raises(ValueError, match=says):
        timesteps_of(spec, 1000)
