"""Networks of DDPM as denoisers of EDM, so that Heun's sampler and EDM's guidance meet them.

EDM's image is x / sqrt(A) and its noise level sigma = sqrt((1 - A) / A) (Karras et al. 2022,
arXiv:2206.00364, appendix C.3). A network of T steps is asked between them by a fractional step,
which networks that embed their step by sines and cosines understand.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusion.ddpm_steps import Cond, Model, Randn, State
from diffusion.gaussian import Gaussian, X0Fn
from diffusion.samplers import heun_states, sigma_levels


class Denoiser:
    """`denoise(x, sigma, **cond)` of a network of DDPM: x = image + sigma * noise -> clean image.

    sigma has one value, in 0-d or more; levels beyond the Gaussian's are asked at its first or last
    step. Called directly it waits for the device to know sigma; `at(sigma)` does not.
    quantize: ask at the nearest step instead, for networks that know whole steps alone.
    x0_fn, cond_fn: as in `diffusion.ddpm_samplers`. Errors: ValueError.
    """

    def __init__(
        self,
        model: Model,
        gaussian: Gaussian,
        *,
        x0_fn: X0Fn | None = None,
        cond_fn: Model | None = None,
        quantize: bool = False,
    ) -> None:
        if gaussian.prediction_type == "x_prev":
            raise ValueError("a network that predicts x_prev knows no noise levels between steps")
        self.model, self.gaussian = model, gaussian
        self.x0_fn, self.cond_fn, self.quantize = x0_fn, cond_fn, quantize

    def __call__(self, x: Tensor, sigma: Tensor, **cond: Any) -> Tensor:
        if sigma.numel() != 1:
            raise ValueError(f"one sigma for all rows, not {list(sigma.shape)}")
        return self.at(float(sigma))(x, sigma, **cond)

    def at(self, level: float) -> Model:
        """The denoiser at this sigma > 0."""
        gaussian = self.gaussian
        step = gaussian.t_of_sigma(level)
        asked: int | float = step
        if self.quantize:
            distance = gaussian.sqrt_recipm1_alphas_cumprod.log() - math.log(level)
            asked = int(np.abs(distance.numpy()).argmin())
            step = float(gaussian.timesteps[asked])
        model = self.model.at(step) if hasattr(self.model, "at") else self.model
        alpha = 1 / math.sqrt(1 + level**2)

        def denoise(x: Tensor, sigma: Tensor, **cond: Any) -> Tensor:
            x_t = x * alpha
            t = gaussian.model_time(asked, x_t)
            prediction, _ = gaussian.split(model(x_t, t, **cond), x.shape[1])
            if gaussian.prediction_type == "eps":
                x0 = x - level * prediction
            elif gaussian.prediction_type == "v":
                x0 = alpha * x_t - (level * alpha) * prediction
            else:
                x0 = prediction
            x0 = x0 if self.x0_fn is None else self.x0_fn(x0)
            if self.cond_fn is not None:
                x0 = x0 + (level**2 * alpha) * self.cond_fn(x_t, t, **cond)
            return x0

        return denoise


@torch.no_grad()
def heun_edm(
    model: Model,
    x_T: Tensor,
    gaussian: Gaussian,
    *,
    steps: int = 18,
    rho: float = 7.0,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    S_churn: float = 0.0,
    S_min: float = 0.0,
    S_max: float = math.inf,
    S_noise: float = 1.0,
    quantize: bool = False,
    cond: Cond | None = None,
    x0_fn: X0Fn | None = None,
    cond_fn: Model | None = None,
    randn: Randn | None = None,
) -> Iterator[State]:
    """EDM's sampler in 2 * steps - 1 evaluations: `diffusion.samplers.heun` on a network of DDPM.

    Its levels lie between sigma_min and sigma_max, by default the Gaussian's first and last; so it
    takes the whole Gaussian, not a respaced one. x_T and the states are as those of the other
    samplers, unit normal in pure noise. Errors: ValueError, as for a last step of pure noise.
    """
    low = gaussian.sigma(0) if sigma_min is None else sigma_min
    high = gaussian.sigma(gaussian.T - 1) if sigma_max is None else sigma_max
    if math.isinf(high):
        raise ValueError(
            "the schedule ends in pure noise, an infinite sigma: give sigma_max, or another sampler"
        )
    levels = sigma_levels(steps, low, high, rho)
    denoise = Denoiser(model, gaussian, x0_fn=x0_fn, cond_fn=cond_fn, quantize=quantize)
    noise = x_T * math.sqrt(1 + 1 / high**2)  # x_T / sqrt(A) once it is scaled by sigma_max
    states = heun_states(
        denoise, noise, levels, cond=cond, S_churn=S_churn, S_min=S_min, S_max=S_max,
        S_noise=S_noise, randn=randn,
    )  # fmt: skip
    for level, state in zip(levels, states, strict=False):
        x = state.x / math.sqrt(1 + state.sigma**2)
        yield State(gaussian.t_of_sigma(level), x, state.denoised)
