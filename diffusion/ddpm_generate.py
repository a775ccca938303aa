"""A diffusion from JSON values, and drawing with a sampler that is chosen by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffusion.ddpm_guidance import classifier_free
from diffusion.ddpm_samplers import SAMPLERS, State
from diffusion.ddpm_steps import Cond, Model, Randn
from diffusion.gaussian import Gaussian, X0Fn
from diffusion.gaussian_loss import clip_unit, dynamic_threshold
from diffusion.respace import SPACINGS, timesteps_of
from diffusion.schedules import guided_betas, latent_betas, zero_terminal_snr

# As an option names schedules: guided-diffusion's and, with ldm- in front, latent-diffusion's.
SCHEDULES = ("linear", "cosine", "ldm-linear", "ldm-sqrt_linear", "ldm-sqrt", "ldm-cosine")
CLIPS = ("unit", "dynamic", "none")
DRAWS_NOISE = ("ddpm", "ddim")  # samplers that may add noise on the way


def make_betas(
    schedule: str,
    T: int,
    *,
    beta_start: float = 1e-4,
    beta_end: float = 2e-2,
    cosine_s: float = 8e-3,
    zero_snr: bool = False,
) -> Tensor:
    """float64 [T] of one of SCHEDULES. beta_start .. cosine_s: of latent-diffusion's.

    Errors: ValueError.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule {schedule!r} is none of {', '.join(SCHEDULES)}")
    name = schedule.removeprefix("ldm-")
    if name == schedule:
        betas = guided_betas(name, T)
    else:
        betas = latent_betas(name, T, beta_start, beta_end, cosine_s)
    return zero_terminal_snr(betas) if zero_snr else betas


MAX_T = 1 << 17  # steps of a diffusion; published ones have up to 4,000


def make_gaussian(config: Mapping[str, Any]) -> Gaussian:
    """The diffusion of JSON values: schedule, T, prediction_type, variance_type, time_input, and
    what else `make_betas` takes. Errors: ValueError, KeyError, TypeError."""
    given = dict(config)
    if type(given["T"]) is not int or not 1 <= given["T"] <= MAX_T:
        raise ValueError(f"T {str(given['T'])[:40]} is not a number of steps from 1 to {MAX_T}")
    kinds = {k: given.pop(k) for k in ("prediction_type", "variance_type", "time_input")}
    return Gaussian(make_betas(given.pop("schedule"), given.pop("T"), **given), **kinds)


@dataclass(frozen=True)
class Drawing:
    """How images are drawn.

    sampler: of `SAMPLERS`. steps: that it visits, by the rule `spacing` of `respace` (heun: its own
    levels, 2 * steps - 1 evaluations); more than the diffusion has are all. eta: of ddim. guidance:
    weight of classifier-free guidance, 1 for none; interval: only where LO < sigma <= HI; rescale:
    as `ddpm_guidance.rescaled`. clip: of predicted clean images, "unit" to [-1, 1], "dynamic" by
    their 0.9 quantile, "none".
    """

    sampler: str = "ddim"
    steps: int = 50
    spacing: str = "trailing"
    eta: float = 0.0
    guidance: float = 1.0
    interval: tuple[float, float] | None = None
    rescale: float = 0.0
    clip: str = "unit"

    def check(self) -> None:
        """Errors: ValueError."""
        for value, known in (
            (self.sampler, tuple(SAMPLERS)),
            (self.spacing, SPACINGS),
            (self.clip, CLIPS),
        ):
            if value not in known:
                raise ValueError(f"{value!r} is none of {', '.join(known)}")
        least = 2 if self.sampler == "heun" else 1
        if self.steps < least:
            raise ValueError(f"{self.steps} steps of {self.sampler}, which takes at least {least}")


def x0_function(clip: str) -> X0Fn | None:
    """What is applied to predicted clean images; see `Drawing`."""
    return {"unit": clip_unit, "dynamic": dynamic_threshold(), "none": None}[clip]


def draw_states(
    net: Model,
    x_T: Tensor,
    gaussian: Gaussian,
    how: Drawing,
    *,
    cond: Cond | None = None,
    uncond: Cond | None = None,
    cond_fn: Model | None = None,
    randn: Randn = torch.randn_like,
) -> tuple[int, Iterator[State]]:
    """From noise x_T [B, C, H, W] to images: how many states there will be, and the states.

    uncond: the conditions that guidance leads away from, entries of cond. cond_fn: a classifier's
    gradient (`ddpm_guidance.classifier_gradient`). Errors: ValueError.
    """
    how.check()
    if how.guidance != 1:
        if not uncond:
            raise ValueError(
                f"guidance {how.guidance:g}: the network has no condition to leave out"
            )
        interval = gaussian.interval(*how.interval) if how.interval else None
        net = classifier_free(net, uncond, how.guidance, interval=interval, rescale=how.rescale)
    given: dict[str, Any] = {
        "cond": cond, "x0_fn": x0_function(how.clip), "cond_fn": cond_fn
    }  # fmt: skip
    if how.sampler == "heun":
        states = SAMPLERS["heun"](net, x_T, gaussian, steps=how.steps, randn=randn, **given)
        return how.steps, states
    steps = min(how.steps, gaussian.T)
    if steps < gaussian.T:
        spec = f"{how.spacing}:{steps}"
        gaussian = gaussian.respaced(timesteps_of(spec, gaussian.T, gaussian.alphas_cumprod))
    if how.sampler in DRAWS_NOISE:
        given["randn"] = randn
    if how.sampler == "ddim":
        given["eta"] = how.eta
    return gaussian.T, SAMPLERS[how.sampler](net, x_T, gaussian, **given)
