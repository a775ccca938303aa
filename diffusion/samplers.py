"""Sampling: Heun's method of EDM, and the random numbers of an image seed.

A sampler meets any model through `denoise(x, sigma, **cond)`: x [N, ...], sigma a 0-d tensor on
x's device, result the expected clean image, of x's shape. A denoiser that takes another form at
some noise levels (`diffusion.guidance`) may have a method `at(sigma: float) -> denoise`: levels are
known on the host, so the choice costs no wait for the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

Denoise = Callable[..., Tensor]


def sigma_levels(
    steps: int = 32, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
) -> list[float]:
    """The steps + 1 noise levels from sigma_max down to sigma_min, and 0.

    Equation 5 of Karras et al. 2022 (arXiv:2206.00364); one step: sigma_max, 0. Errors: ValueError.
    """
    if steps < 1:
        raise ValueError(f"sampling takes at least 1 step, not {steps}")
    if not 0 < sigma_min <= sigma_max < math.inf:
        raise ValueError(f"sigma_min {sigma_min} and sigma_max {sigma_max}: 0 < min <= max needed")
    if not 0 < rho < math.inf:
        raise ValueError(f"rho {rho} is not a positive number")
    ramp = [i / max(steps - 1, 1) for i in range(steps)]
    try:
        top, bottom = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
        levels = [(top + r * (bottom - top)) ** rho for r in ramp]
    except OverflowError:
        levels = [math.inf]
    if not 1e-18 < min(levels) <= max(levels) < 1e18:
        raise ValueError(
            f"sigma_min {sigma_min}, sigma_max {sigma_max} and rho {rho}: fp32 cannot hold the "
            "squares of such noise levels"
        )
    return [*levels, 0.0]


class HeunState(NamedTuple):
    """After a step: the noise level, x [N, ...] there, and what was denoised at its beginning."""

    sigma: float
    x: Tensor
    denoised: Tensor


@torch.no_grad()
def heun(
    denoise: Denoise,
    noise: Tensor,
    *,
    cond: Mapping[str, Any] | None = None,
    steps: int = 32,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
    S_churn: float = 0.0,
    S_min: float = 0.0,
    S_max: float = math.inf,
    S_noise: float = 1.0,
    randn: Callable[[Tensor], Tensor] | None = None,
    trajectory: bool = False,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Samples by Heun's second-order method in 2 * steps - 1 evaluations of `denoise`.

    noise: [N, ...] unit normal, scaled here by sigma_max; its device and type are what `denoise`
    gets. cond: keyword arguments of `denoise`. S_*: stochasticity, at levels in [S_min, S_max];
    its noise is `randn(x)` (default torch.randn_like), called once a step that adds noise.
    dtype: of the state between evaluations; by default the noise's, half types widened to fp32:
    a step shrinks the rounding errors before it as it shrinks sigma, so fp64 gains next to nothing.
    Returns [N, ...] of that type; with `trajectory` [steps + 1, N, ...], from noise * sigma_max to
    the samples. No gradients. Errors: ValueError for settings, or a denoiser that changes shapes.
    Algorithm 2 of Karras et al. 2022 (arXiv:2206.00364), in its deterministic form for S_churn 0.
    """
    levels = sigma_levels(steps, sigma_min, sigma_max, rho)
    states = heun_states(
        denoise, noise, levels, cond=cond, S_churn=S_churn, S_min=S_min, S_max=S_max,
        S_noise=S_noise, randn=randn, dtype=dtype,
    )  # fmt: skip
    if not trajectory:
        for state in states:
            x = state.x
        return x
    first = noise.to(dtype or torch.promote_types(noise.dtype, torch.float32)) * levels[0]
    return torch.stack([first, *(state.x for state in states)])


@torch.no_grad()
def heun_states(
    denoise: Denoise,
    noise: Tensor,
    levels: Sequence[float],
    *,
    cond: Mapping[str, Any] | None = None,
    S_churn: float = 0.0,
    S_min: float = 0.0,
    S_max: float = math.inf,
    S_noise: float = 1.0,
    randn: Callable[[Tensor], Tensor] | None = None,
    dtype: torch.dtype | None = None,
) -> Iterator[HeunState]:
    """`heun` step by step, down the noise levels given: falling, the last one 0."""
    if not noise.is_floating_point():
        raise ValueError(f"noise must be floating-point, not {noise.dtype}")
    if not 0 <= S_churn < math.inf or not 0 <= S_noise < math.inf:
        raise ValueError(f"S_churn {S_churn} and S_noise {S_noise} must be finite and not negative")
    steps = len(levels) - 1
    gammas = [
        min(S_churn / steps, math.sqrt(2) - 1) if S_min <= t <= S_max else 0.0 for t in levels[:-1]
    ]
    raised = [t * (1 + gamma) for t, gamma in zip(levels, gammas, strict=False)]
    # Both lists once on the device; everything else about levels stays in host floats.
    sigmas = torch.tensor([raised, levels[:-1]], dtype=noise.dtype, device=noise.device)
    cond = dict(cond or {})
    state_type = dtype or torch.promote_types(noise.dtype, torch.float32)

    def denoised(x: Tensor, sigma: float, on_device: Tensor) -> Tensor:
        f = denoise.at(sigma) if hasattr(denoise, "at") else denoise
        d = f(x.to(noise.dtype), on_device, **cond)
        if d.shape != x.shape:
            raise ValueError(f"denoise made {list(d.shape)} of x {list(x.shape)}")
        return d.to(state_type)

    x = noise.to(state_type) * levels[0]
    for i, (t, t_hat, t_next) in enumerate(zip(levels, raised, levels[1:], strict=False)):
        if t_hat > t:  # raise the noise level before the step
            eps = (randn or torch.randn_like)(x.to(noise.dtype)).to(state_type)
            x = x + (math.sqrt(t_hat**2 - t**2) * S_noise) * eps
        found = denoised(x, t_hat, sigmas[0, i])
        slope = (x - found) / t_hat  # dx/dsigma
        x_next = x + (t_next - t_hat) * slope
        if t_next > 0:  # trapezoidal rule; at sigma 0 the slope is undefined
            slope_next = (x_next - denoised(x_next, t_next, sigmas[1, i + 1])) / t_next
            x_next = x + (t_next - t_hat) * 0.5 * (slope + slope_next)
        x = x_next
        yield HeunState(t_next, x, found)


class SeedStack:
    """Random numbers for a batch of image seeds: row i depends on seeds[i] and the order of calls.

    So an image is the same whatever batch it is drawn in. One torch generator per seed (modulo
    2^32). Images of EDM2 are drawn as `randn(C, H, W)`, then `randint(classes)`, then `randn_like`
    for each step of `heun` with churn.

    device: where results go. draw_on: where numbers are made; the CPU (default) gives the same
    images on every machine, "cuda" those that the originals drew on a GPU.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        device: torch.device | str = "cpu",
        *,
        draw_on: torch.device | str = "cpu",
    ) -> None:
        self.device, self.draw_on = torch.device(device), torch.device(draw_on)
        self.generators = [
            torch.Generator(self.draw_on).manual_seed(int(seed) % (1 << 32)) for seed in seeds
        ]

    def randn(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Unit normals [seeds, *shape]."""
        return self._stack(
            [
                torch.randn(shape, generator=g, dtype=dtype, device=self.draw_on)
                for g in self.generators
            ],
            shape,
            dtype,
        )

    def randn_like(self, x: Tensor) -> Tensor:
        """Unit normals of x's shape and type, one row a seed. Errors: ValueError."""
        if x.ndim == 0 or len(x) != len(self.generators):
            raise ValueError(f"{len(self.generators)} seeds do not fit a batch {list(x.shape)}")
        return self.randn(*x.shape[1:], dtype=x.dtype)

    def randint(self, high: int) -> Tensor:
        """Integers int64 [seeds] in [0, high)."""
        if high < 1:
            raise ValueError(f"no integer in [0, {high})")
        drawn = [torch.randint(high, (), generator=g, device=self.draw_on) for g in self.generators]
        return self._stack(drawn, (), torch.int64)

    def _stack(self, rows: list[Tensor], shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        if not rows:
            return torch.empty(0, *shape, dtype=dtype, device=self.device)
        return torch.stack(rows).to(self.device, non_blocking=True)
