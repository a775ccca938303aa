"""Noise schedules of DDPM: how much noise each of T steps adds, `betas` float64 [T].

Two projects gave the same names to different curves, so each has a function of its own:

| curve                              | `guided_betas` | `latent_betas`  | diffusers              |
|------------------------------------|----------------|-----------------|------------------------|
| beta straight, ends scaled by 1/T  | linear         |                 |                        |
| beta straight, ends given          |                | sqrt_linear     | linear                 |
| sqrt(beta) straight, ends given    |                | linear          | scaled_linear          |
| root of a straight line            |                | sqrt            |                        |
| alphas_cumprod a squared cosine    | cosine         | cosine          | squaredcos_cap_v2      |
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

GUIDED = ("linear", "cosine")
LATENT = ("linear", "sqrt_linear", "sqrt", "cosine")


def guided_betas(schedule: str, T: int) -> Tensor:
    """Schedules under the names of guided-diffusion: "linear" and "cosine".

    linear: from 1e-4 to 0.02 for T = 1000 (Ho et al. 2020, arXiv:2006.11239), scaled by 1000 / T;
    T = 20 ends in pure noise, below that it would be more than noise. cosine: Nichol and Dhariwal
    2021 (arXiv:2102.09672), equation 17. Errors: ValueError.
    """
    _check_length(T)
    if schedule == "cosine":
        return _cosine(T, 0.008)
    if schedule != "linear":
        raise ValueError(f"schedule {schedule!r} is none of {', '.join(GUIDED)}")
    if T < 20:
        raise ValueError(
            f"the linear schedule of {T} steps ends at beta {20 / T:g}, more than 1: take at least "
            "20 steps (21 for eps prediction), the cosine schedule, or respace one of 1000 steps"
        )
    return torch.linspace(0.1 / T, 20 / T, T, dtype=torch.float64)


def latent_betas(
    schedule: str,
    T: int,
    linear_start: float = 1e-4,
    linear_end: float = 2e-2,
    cosine_s: float = 8e-3,
) -> Tensor:
    """Schedules under the names of latent-diffusion, see the table above.

    linear_start, linear_end: the first and the last beta (for "sqrt": their squares), in (0, 1).
    cosine_s: the offset of "cosine". Errors: ValueError.
    """
    _check_length(T)
    if schedule == "cosine":
        if not 0 < cosine_s < math.inf:
            raise ValueError(f"cosine_s {cosine_s} is not a positive number")
        return _cosine(T, cosine_s)
    if schedule not in LATENT:
        raise ValueError(f"schedule {schedule!r} is none of {', '.join(LATENT)}")
    if not 0 < linear_start <= linear_end < 1:
        raise ValueError(
            f"linear_start {linear_start} and linear_end {linear_end}: 0 < start <= end < 1 needed"
        )
    if schedule == "linear":
        roots = math.sqrt(linear_start), math.sqrt(linear_end)
        return torch.linspace(*roots, T, dtype=torch.float64).square()
    straight = torch.linspace(linear_start, linear_end, T, dtype=torch.float64)
    return straight.sqrt() if schedule == "sqrt" else straight


def _check_length(T: int) -> None:
    if T < 1:
        raise ValueError(f"a schedule has at least 1 step, not {T}")


def _cosine(T: int, s: float) -> Tensor:
    def f(u: float) -> float:
        return math.cos((u + s) / (1 + s) * math.pi / 2) ** 2

    betas = [min(1 - f((i + 1) / T) / f(i / T), 0.999) for i in range(T)]
    return torch.tensor(betas, dtype=torch.float64)


def zero_terminal_snr(betas: Tensor) -> Tensor:
    """The schedule [T] stretched so that the last step is pure noise, float64 [T]; the last is 1.

    sqrt(alphas_cumprod) is shifted to end at 0 and scaled to keep its first value: Lin et al. 2023
    (arXiv:2305.08891), algorithm 1. A network then predicts v or x0, since noise alone says
    nothing at the last step, and samples from the last step on ("trailing"). Errors: ValueError.
    """
    if betas.ndim != 1 or len(betas) < 2:
        raise ValueError(f"zero terminal SNR takes a schedule of at least 2 steps, not {betas}")
    root = torch.cumprod(1 - betas.double(), 0).sqrt()
    root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
    cumprod = root.square()
    alphas = torch.cat([cumprod[:1], cumprod[1:] / cumprod[:-1]])
    return 1 - alphas
