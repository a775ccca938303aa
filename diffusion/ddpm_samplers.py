"""Samplers of networks of DDPM: from noise x_T to an image, step by step.

    steps = timesteps_of("trailing:20", gaussian.T)
    x = last(dpmpp_2m(model, x_T, gaussian.respaced(steps), cond={"y": labels}, x0_fn=clip_unit))
    for state in ddim(model, x_T, gaussian.respaced(steps), eta=0.5, randn=random.randn_like): ...

A sampler meets any `model(x, t, **cond) -> output`, with t [B] as `Gaussian.model_time` says, and
visits every step of the Gaussian it is given, from the last to the first; `heun_edm` alone chooses
noise levels of its own between them. A model that is another at some steps (`ddpm_guidance`) has a
method `at(step: float) -> model`: steps are known on the host, so the choice waits for no device.

All take: cond, keyword arguments of the model; x0_fn, applied to every predicted clean image
(`clip_unit` for pixels, `dynamic_threshold`, None for latents); cond_fn(x, t, **cond), the gradient
of log p(y | x_t) of classifier guidance; randn(x), the noise of one step. Coefficients are host
floats from float64 tables. The state is the noise's type, half types widened; no gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from diffusion.ddpm_heun import Denoiser, heun_edm
from diffusion.ddpm_solvers import dpmpp_2m, unipc
from diffusion.ddpm_steps import Cond, Model, Net, Randn, State, last
from diffusion.gaussian import Gaussian, X0Fn

__all__ = [
    "SAMPLERS",
    "Denoiser",
    "Net",
    "State",
    "ancestral",
    "ddim",
    "ddim_reverse",
    "dpmpp_2m",
    "heun_edm",
    "last",
    "plms",
    "unipc",
]


@torch.no_grad()
def ancestral(
    model: Model,
    x_T: Tensor,
    gaussian: Gaussian,
    *,
    cond: Cond | None = None,
    x0_fn: X0Fn | None = None,
    cond_fn: Model | None = None,
    randn: Randn = torch.randn_like,
) -> Iterator[State]:
    """DDPM: draws each x_t-1 of p(x_t-1 | x_t), the last one its mean.

    Algorithm 2 of Ho et al. 2020 (arXiv:2006.11239); a classifier's gradient moves the mean by
    variance * gradient (arXiv:2105.05233, algorithm 1). `randn` is not called at the last step.
    """
    net = Net(model, x_T, gaussian, cond, x0_fn, cond_fn)
    x = net.start
    for i in net.down():
        p = gaussian.p_mean_variance(net.output(x, i), x, i, x0_fn)
        g = net.gradient(x, i)
        x = p.mean if g is None else p.mean + p.variance * g
        if i > 0:
            x = x + torch.exp(0.5 * p.log_variance) * randn(x)
        yield State(gaussian.timesteps[i], x, p.x0)


def _levels_below(gaussian: Gaussian, last_alpha: float) -> list[float]:
    """alphas_cumprod one step down from each; `last_alpha` below the first."""
    if not gaussian.alphas_cumprod[0] < last_alpha <= 1:
        raise ValueError(
            f"last_alpha {last_alpha} must be less noisy than the first step "
            f"({float(gaussian.alphas_cumprod[0]):g}), and at most 1"
        )
    return [last_alpha, *gaussian.alphas_cumprod[:-1].tolist()]


@torch.no_grad()
def ddim(
    model: Model,
    x_T: Tensor,
    gaussian: Gaussian,
    *,
    eta: float = 0.0,
    last_alpha: float = 1.0,
    cond: Cond | None = None,
    x0_fn: X0Fn | None = None,
    cond_fn: Model | None = None,
    randn: Randn = torch.randn_like,
) -> Iterator[State]:
    """DDIM: eta 0 is deterministic, 1 as noisy as DDPM.

    Song et al. 2020 (arXiv:2010.02502), equation 12.
    last_alpha: alphas_cumprod of the result; 1, or, as latent-diffusion has it, that of the
    network's step 0, whose noise the result then keeps. `randn` is called at steps that add noise.
    Errors: ValueError.
    """
    if not 0 <= eta < math.inf:
        raise ValueError(f"eta {eta} is not a number from 0 on")
    below = _levels_below(gaussian, last_alpha)
    net = Net(model, x_T, gaussian, cond, x0_fn, cond_fn)
    x = net.start
    for i in net.down():
        x0, eps = net.predict(x, i)
        A, A_next = float(gaussian.alphas_cumprod[i]), below[i]
        sigma = eta * math.sqrt((1 - A_next) / (1 - A) * (1 - A / A_next))
        if sigma**2 > 1 - A_next:
            raise ValueError(f"eta {eta} adds more noise than there is at step {i}")
        noise = randn(x) if sigma > 0 else None
        x = math.sqrt(A_next) * x0 + math.sqrt(1 - A_next - sigma**2) * eps
        x = x if noise is None else x + sigma * noise
        yield State(gaussian.timesteps[i], x, x0)


@torch.no_grad()
def ddim_reverse(
    model: Model,
    x: Tensor,
    gaussian: Gaussian,
    *,
    cond: Cond | None = None,
    x0_fn: X0Fn | None = None,
    cond_fn: Model | None = None,
) -> Iterator[State]:
    """DDIM's flow (eta 0) backwards: from images to the noise they come from."""
    above = [*gaussian.alphas_cumprod[1:].tolist(), 0.0]
    net = Net(model, x, gaussian, cond, x0_fn, cond_fn)
    x = net.start
    for i in range(gaussian.T):
        x0, eps = net.predict(x, i)
        x = math.sqrt(above[i]) * x0 + math.sqrt(1 - above[i]) * eps
        yield State(gaussian.timesteps[i], x, x0)


# Adams and Bashforth's weights of the newest eps and those before it
_ADAMS = {
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


@torch.no_grad()
def plms(
    model: Model,
    x_T: Tensor,
    gaussian: Gaussian,
    *,
    last_alpha: float = 1.0,
    cond: Cond | None = None,
    x0_fn: X0Fn | None = None,
    cond_fn: Model | None = None,
) -> Iterator[State]:
    """Pseudo linear multi-steps, order 4: Liu et al. 2022 (arXiv:2202.09778), as released for LDM.

    One evaluation a step and one more in the first, where eps is averaged with that at the point
    DDIM goes to. last_alpha: as `ddim`. x0_fn acts on the network's prediction, not on what the
    average of predictions says. Errors: ValueError.
    """
    below = _levels_below(gaussian, last_alpha)
    net = Net(model, x_T, gaussian, cond, x0_fn, cond_fn)
    x = net.start
    past: list[Tensor] = []  # the newest first
    for i in net.down():
        x0, eps = net.predict(x, i)
        past = [eps, *past][:4]
        if len(past) == 1:
            ahead = math.sqrt(below[i]) * x0 + math.sqrt(1 - below[i]) * eps
            eps = (eps + net.predict(ahead, max(i - 1, 0))[1]) / 2
        else:
            eps = torch.zeros_like(x)
            for weight, one in zip(_ADAMS[len(past)], past, strict=True):
                eps = eps + weight * one
        if gaussian.alphas_cumprod[i] > 0:  # in pure noise no eps says what x0 is
            x0 = gaussian.x0_from_eps(x, i, eps)
        x = math.sqrt(below[i]) * x0 + math.sqrt(1 - below[i]) * eps
        yield State(gaussian.timesteps[i], x, x0)


# What an option names a sampler; each called as f(model, x_T, gaussian, cond=, x0_fn=, cond_fn=),
# those that draw noise with randn= too.
SAMPLERS: dict[str, Callable[..., Iterator[State]]] = {
    "ddpm": ancestral,
    "ddim": ddim,
    "plms": plms,
    "dpmpp": dpmpp_2m,
    "unipc": unipc,
    "heun": heun_edm,
}
