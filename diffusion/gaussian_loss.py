"""Losses of DDPM and improved DDPM, and bits a dimension.

L_simple, the squared error of the prediction; L_vlb, the variational bound; and their hybrid, in
which the bound reaches the variance alone (Nichol and Dhariwal 2021, arXiv:2102.09672, section 3).
All per image: the mean over everything but the rows. The bound is in bits a dimension.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from diffusion.gaussian import Gaussian, Step, X0Fn

LOSSES = ("mse", "rescaled_mse", "kl", "rescaled_kl")


def clip_unit(x0: Tensor) -> Tensor:
    """Predicted pixels clamped to [-1, 1]."""
    return x0.clamp(-1, 1)


def dynamic_threshold(quantile: float = 0.9) -> X0Fn:
    """x0 clamped to [-s, s] and divided by s, with s >= 1 that quantile of |x0| of each image.

    Saharia et al. 2022 (arXiv:2205.11487), section 2.3. Errors: ValueError.
    """
    if not 0 < quantile <= 1:
        raise ValueError(f"quantile {quantile} is not in (0, 1]")

    def threshold(x0: Tensor) -> Tensor:
        flat = x0.float().flatten(1).abs()
        s = torch.quantile(flat, quantile, dim=1).clamp_min(1)
        s = s.reshape(-1, *[1] * (x0.ndim - 1))
        return (torch.clamp(x0, -s, s) / s).to(x0.dtype)

    return threshold


def rows_mean(x: Tensor) -> Tensor:
    """The mean of each row [B]."""
    return x.flatten(1).mean(1)


def normal_kl(mean1: Tensor, logvar1: Tensor, mean2: Tensor, logvar2: Tensor) -> Tensor:
    """KL(N(mean1, e^logvar1) || N(mean2, e^logvar2)) in nats, elementwise."""
    spread = logvar2 - logvar1
    distance = (mean1 - mean2).square() * torch.exp(-logvar2)
    return 0.5 * (-1 + spread + torch.exp(-spread) + distance)


def normal_cdf(x: Tensor) -> Tensor:
    """The distribution function of N(0, 1) by the tanh approximation of DDPM's code."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x.pow(3))))


def discretized_log_likelihood(x: Tensor, means: Tensor, log_scales: Tensor) -> Tensor:
    """log of N(means, e^(2 log_scales)) over the bin of a pixel of 256 values, in nats.

    x: pixels in [-1, 1], bins of half-width 1/255; those at -1 and 1 reach to infinity. Ho et al.
    2020 (arXiv:2006.11239), equation 13. Probabilities are at least 1e-12.
    """
    scale = torch.exp(-log_scales)
    above = normal_cdf(scale * (x - means + 1 / 255))
    below = normal_cdf(scale * (x - means - 1 / 255))
    inside = torch.where(x < -0.999, above, torch.where(x > 0.999, 1 - below, above - below))
    return inside.clamp_min(1e-12).log()


def vb_terms(
    gaussian: Gaussian, output: Tensor, x0: Tensor, x_t: Tensor, t: Step, x0_fn: X0Fn | None = None
) -> Tensor:
    """The term of the variational bound at t, bits a dimension [B].

    KL(q(x_t-1 | x_t, x_0) || p(x_t-1 | x_t)), at step 0 -log p(x_0 | x_1) of 256 values.
    """
    true = gaussian.q_posterior(x0, x_t, t)
    p = gaussian.p_mean_variance(output, x_t, t, x0_fn)

    def divergence() -> Tensor:
        return rows_mean(normal_kl(true.mean, true.log_variance, p.mean, p.log_variance))

    def decoder() -> Tensor:
        return -rows_mean(discretized_log_likelihood(x0, p.mean, 0.5 * p.log_variance))

    if isinstance(t, int):
        return (divergence() if t else decoder()) / math.log(2)
    return torch.where(t == 0, decoder(), divergence()) / math.log(2)


def snr_weight(gaussian: Gaussian, gamma: float) -> Tensor:
    """Weight of the squared error at every step, float64 [T]: min-SNR of Hang et al. 2023.

    min(SNR, gamma) over what the error of this prediction is of that of x0: 1 for x0, SNR for eps,
    SNR + 1 for v (arXiv:2303.09556, section 3.4). Errors: ValueError.
    """
    if not gamma > 0:
        raise ValueError(f"gamma {gamma} of min-SNR weights is not a positive number")
    snr = gaussian.snr
    if gaussian.prediction_type == "x0":
        return snr.clamp_max(gamma)
    if gaussian.prediction_type == "v":
        return snr.clamp_max(gamma) / (snr + 1)
    if gaussian.prediction_type == "eps":
        return (gamma / snr).clamp_max(1)
    raise ValueError("min-SNR weights are for eps, x0 and v, not for x_prev")


def training_losses(
    gaussian: Gaussian,
    output: Tensor,
    x0: Tensor,
    x_t: Tensor,
    t: Step,
    target: Tensor,
    *,
    loss_type: str = "mse",
    snr_gamma: float | None = None,
) -> dict[str, Tensor]:
    """Losses of a network's output at x_t = q_sample(x0, t, eps): {"loss", "mse", "vb"}, each [B].

    target: `gaussian.target(x0, x_t, t, eps)`. "mse": L_simple, and where the variance is learned
    the bound on top, in which the prediction is a constant, so that the bound teaches the variance
    alone. "rescaled_mse": the bound times T / 1000, the hybrid loss of improved DDPM. "kl": the
    bound alone, "rescaled_kl": times T. What a loss does not use is left out of the result.
    snr_gamma: weight of the squared error, see `snr_weight`; "mse" is without it.
    Errors: ValueError.
    """
    if loss_type not in LOSSES:
        raise ValueError(f"loss {loss_type!r} is none of {', '.join(LOSSES)}")
    T = gaussian.T
    if loss_type.endswith("kl"):
        if snr_gamma is not None:
            raise ValueError(f"loss {loss_type} has no squared error that snr_gamma could weight")
        vb = vb_terms(gaussian, output, x0, x_t, t)
        return {"loss": vb * T if loss_type == "rescaled_kl" else vb, "vb": vb}

    prediction, said = gaussian.split(output, x0.shape[1])
    mse = rows_mean((target - prediction).square())
    loss = mse
    if snr_gamma is not None:
        weight = gaussian.at(snr_weight(gaussian, snr_gamma), t, mse)
        loss = weight * mse
    if said is None:
        return {"loss": loss, "mse": mse}
    vb = vb_terms(gaussian, torch.cat([prediction.detach(), said], 1), x0, x_t, t)
    return {"loss": loss + (vb * (T / 1000) if loss_type == "rescaled_mse" else vb),
            "mse": mse, "vb": vb}  # fmt: skip


def elbo_weight(gaussian: Gaussian) -> Tensor:
    """latent-diffusion's weight of the squared error in its bound, at every step, float64 [T].

    eps: beta^2 / (2 v a (1 - A)) with v the posterior's variance; x0: sqrt(A) / (4 (1 - A)), whose
    released code reads 2 - A for 2 (1 - A); v: 1. Step 0 has the weight of step 1.
    Errors: ValueError.
    """
    b, A = gaussian.betas, gaussian.alphas_cumprod
    if gaussian.prediction_type == "v":
        return torch.ones_like(b)
    if gaussian.prediction_type == "x0":
        weight = 0.5 * A.sqrt() / (2 * (1 - A))
    elif gaussian.prediction_type == "eps":
        variance = gaussian.posterior_variance.clone()
        variance[0] = variance[1] if gaussian.T > 1 else b[0]  # step 0's weight is replaced
        weight = b.square() / (2 * variance * (1 - b) * (1 - A))
    else:
        raise ValueError("latent-diffusion's bound is of eps, x0 and v, not of x_prev")
    return torch.cat([weight[1:2], weight[1:]]) if gaussian.T > 1 else weight


def ldm_losses(
    gaussian: Gaussian,
    prediction: Tensor,
    t: Tensor,
    target: Tensor,
    *,
    simple_weight: float = 1.0,
    vlb_weight: float = 0.0,
    logvar: Tensor | None = None,
    error: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> dict[str, Tensor]:
    """latent-diffusion's loss: {"loss", "simple", "vlb"}, each [B].

    simple = m / e^u + u, vlb = w m, loss their weighted sum, with m the error of the prediction
    (`error(prediction, target)` elementwise, by default squared), u = logvar[t] (a learned [T], or
    0) and w = `elbo_weight`. Rombach et al. 2021 (arXiv:2112.10752). Errors: ValueError.
    """
    m = rows_mean((prediction - target).square() if error is None else error(prediction, target))
    simple = m
    if logvar is not None:
        u = logvar[t]
        simple = m / u.exp() + u
    vlb = gaussian.at(elbo_weight(gaussian), t, m) * m
    return {"loss": simple_weight * simple + vlb_weight * vlb, "simple": simple, "vlb": vlb}


def prior_bpd(gaussian: Gaussian, x0: Tensor) -> Tensor:
    """KL(q(x_T | x_0) || N(0, 1)), bits a dimension [B]: what no network can change."""
    q = gaussian.q_mean_variance(x0, gaussian.T - 1)
    zero = torch.zeros_like(x0)
    return rows_mean(normal_kl(q.mean, q.log_variance, zero, zero)) / math.log(2)


@torch.no_grad()
def bits_per_dim(
    model: Callable[..., Tensor],
    gaussian: Gaussian,
    x0: Tensor,
    *,
    cond: Mapping[str, Any] | None = None,
    x0_fn: X0Fn | None = clip_unit,
    randn: Callable[[Tensor], Tensor] = torch.randn_like,
) -> dict[str, Tensor]:
    """The variational bound on -log2 p(x0) a dimension, by one evaluation at each of the T steps.

    x0: pixels of 256 values, scaled to [-1, 1]. model(x, t, **cond) -> output. randn(x): the noise,
    called once a step from T - 1 down. Returns {"total", "prior": [B], "vb", "mse", "x0_mse":
    [B, T]} with column t for step t; total = prior + the sum of vb, mse that of eps.
    """
    cond = dict(cond or {})
    columns: dict[str, list[Tensor]] = {"vb": [], "mse": [], "x0_mse": []}
    for t in reversed(range(gaussian.T)):
        eps = randn(x0)
        x_t = gaussian.q_sample(x0, t, eps)
        output = model(x_t, gaussian.model_time(t, x_t), **cond)
        columns["vb"].append(vb_terms(gaussian, output, x0, x_t, t, x0_fn))
        found = gaussian.x0_of(output, x_t, t)
        found = found if x0_fn is None else x0_fn(found)
        columns["x0_mse"].append(rows_mean((found - x0).square()))
        columns["mse"].append(rows_mean((gaussian.eps_from_x0(x_t, t, found) - eps).square()))
    parts = {name: torch.stack(column[::-1], 1) for name, column in columns.items()}
    prior = prior_bpd(gaussian, x0)
    return {"total": prior + parts["vb"].sum(1), "prior": prior, **parts}
