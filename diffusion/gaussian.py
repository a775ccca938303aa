"""The Gaussian diffusion of DDPM: tables, the forward process q and the model's reverse process p.

Ho et al. 2020 (arXiv:2006.11239), Nichol and Dhariwal 2021 (arXiv:2102.09672), v of Salimans and Ho
2022 (arXiv:2202.00512). With a = 1 - beta, A = cumprod(a) and A' = A of the step before (1 at 0):

    q(x_t | x_0)          = N(sqrt(A) x_0, 1 - A)
    q(x_t-1 | x_t, x_0)   = N(c1 x_0 + c2 x_t, beta (1 - A') / (1 - A))
    c1 = beta sqrt(A') / (1 - A),   c2 = (1 - A') sqrt(a) / (1 - A)

Steps are t = 0 .. T - 1. Every function takes t either as a whole number, for which coefficients
stay on the host in float64, or as int64 [B], one step a row. Nothing here has a device, calls a
network or draws a number. A network's output is [B, C, ...], or [B, 2C, ...] where it says the
variance too: first the C channels of the prediction, then C of the variance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

PREDICTIONS = ("eps", "x0", "v", "x_prev")
VARIANCES = ("fixed_small", "fixed_large", "learned", "learned_range")
TIME_INPUTS = ("step", "step1000", "noise_level")

Step: TypeAlias = int | Tensor
X0Fn: TypeAlias = Callable[[Tensor], Tensor]


class Moments(NamedTuple):
    """Mean, variance and log variance of a Gaussian, each broadcastable to the images."""

    mean: Tensor
    variance: Tensor
    log_variance: Tensor


class Reverse(NamedTuple):
    """p(x_t-1 | x_t), all of x_t's shape, and the clean image x0 that it goes towards."""

    mean: Tensor
    variance: Tensor
    log_variance: Tensor
    x0: Tensor


class Gaussian:
    """Tables of one schedule, float64 [T] on the CPU, and what is computed from them.

    betas: [T] in (0, 1]; only the last may be 1 (zero terminal SNR).
    prediction_type: what the network is asked for: "eps", "x0", "v", or "x_prev", the posterior's
    mean. variance_type: "fixed_small" beta (1 - A') / (1 - A), "fixed_large" beta; "learned", the
    log variance as output; "learned_range", where output o in [-1, 1] goes from the small to beta
    in the logarithm. timesteps: steps of the network that these T are, for a respaced schedule;
    by default 0 .. T - 1.
    log_variance_floor: the small variance is 0 at step 0; its logarithm is there that of step 1
    (None, improved DDPM), or everywhere log max(variance, floor) (latent-diffusion: 1e-20).
    time_input: what the network is told: "step", the step of its training; "step1000", that scaled
    to 1000 steps, fractional; "noise_level", sqrt(A).
    Errors: ValueError.
    """

    def __init__(
        self,
        betas: Tensor,
        *,
        prediction_type: str = "eps",
        variance_type: str = "fixed_large",
        timesteps: Sequence[int] | None = None,
        trained_steps: int | None = None,
        log_variance_floor: float | None = None,
        time_input: str = "step",
    ) -> None:
        for value, known in (
            (prediction_type, PREDICTIONS),
            (variance_type, VARIANCES),
            (time_input, TIME_INPUTS),
        ):
            if value not in known:
                raise ValueError(f"{value!r} is none of {', '.join(known)}")
        b = torch.as_tensor(betas, dtype=torch.float64, device="cpu").clone()
        if b.ndim != 1 or not len(b) or not (b > 0).all() or (b > 1).any() or (b[:-1] == 1).any():
            raise ValueError("betas are a list of numbers in (0, 1), of which the last may be 1")
        T = len(b)
        self.T = T
        self.prediction_type, self.variance_type = prediction_type, variance_type
        self.log_variance_floor, self.time_input = log_variance_floor, time_input
        self.timesteps = list(range(T)) if timesteps is None else [int(t) for t in timesteps]
        self.trained_steps = self.timesteps[-1] + 1 if trained_steps is None else trained_steps
        if len(self.timesteps) != T or sorted(set(self.timesteps)) != self.timesteps:
            raise ValueError(f"timesteps must be {T} different steps in ascending order")

        A = torch.cumprod(1 - b, 0)
        if b[-1] == 1:
            A[-1] = 0.0
        if A[-1] == 0 and prediction_type in ("eps", "x_prev"):
            raise ValueError(
                f"the last step of the schedule is pure noise, from which {prediction_type} says "
                'nothing about the image: predict "v" or "x0"'
            )
        previous = torch.cat([torch.ones(1, dtype=torch.float64), A[:-1]])
        self.betas, self.alphas_cumprod, self.alphas_cumprod_prev = b, A, previous
        self.sqrt_alphas_cumprod, self.sqrt_one_minus_alphas_cumprod = A.sqrt(), (1 - A).sqrt()
        self.log_one_minus_alphas_cumprod = (1 - A).log()
        self.sqrt_recip_alphas_cumprod = A.reciprocal().sqrt()
        self.sqrt_recipm1_alphas_cumprod = (A.reciprocal() - 1).sqrt()
        self.snr = A / (1 - A)
        self.posterior_mean_coef1 = b * previous.sqrt() / (1 - A)
        self.posterior_mean_coef2 = (1 - previous) * (1 - b).sqrt() / (1 - A)

        small = b * (1 - previous) / (1 - A)
        self.posterior_variance = small
        # At step 0 the small variance is 0, and both kinds take step 1's; a lone step has beta.
        first = small[1:2] if T > 1 else b[:1]
        if log_variance_floor is None:
            self.posterior_log_variance_clipped = torch.cat([first, small[1:]]).log()
        else:
            self.posterior_log_variance_clipped = small.clamp_min(log_variance_floor).log()
        self.fixed_large_variance = torch.cat([first, b[1:]])
        self.fixed_large_log_variance = self.fixed_large_variance.log()

    @property
    def learned(self) -> bool:
        """Whether the network says the variance too, in a second half of its channels."""
        return self.variance_type in ("learned", "learned_range")

    def respaced(self, timesteps: Sequence[int]) -> Gaussian:
        """The diffusion that visits some of the steps only, ascending numbers of 0 .. T - 1.

        Same marginals at those steps: beta = 1 - A / (A of the one before). Respacing what is
        respaced already counts its own steps. Errors: ValueError.
        """
        steps = [int(t) for t in timesteps]
        if not steps or sorted(set(steps)) != steps or not 0 <= steps[0] <= steps[-1] < self.T:
            raise ValueError(f"steps must be different, ascending, of 0 .. {self.T - 1}: {steps}")
        A = self.alphas_cumprod[steps]
        betas = 1 - A / torch.cat([torch.ones(1, dtype=torch.float64), A[:-1]])
        return Gaussian(
            betas,
            prediction_type=self.prediction_type,
            variance_type=self.variance_type,
            timesteps=[self.timesteps[t] for t in steps],
            trained_steps=self.trained_steps,
            log_variance_floor=self.log_variance_floor,
            time_input=self.time_input,
        )

    # ------------------------------------------------------------------------------- coefficients

    def at(self, table: Tensor, t: Step, x: Tensor) -> Tensor | float:
        """table[t] to multiply x with: a float, or [B, 1, ...] of x's type, half types widened.

        Errors: ValueError for steps [B] that do not fit x.
        """
        if isinstance(t, int):
            return float(table[t])
        if t.ndim != 1 or len(t) != len(x):
            raise ValueError(f"steps {list(t.shape)} do not fit images {list(x.shape)}")
        # Rounded before it is copied, since not every device has float64.
        kind = torch.promote_types(x.dtype, torch.float32)
        return table.to(kind).to(x.device)[t].reshape(-1, *[1] * (x.ndim - 1))

    def model_time(self, t: Step | float, x: Tensor) -> Tensor:
        """What the network is told at step t, [B] on x's device; see `time_input`.

        A float is a step of the network's training, perhaps between two (as from `t_of_sigma`).
        """
        if isinstance(t, Tensor):
            if self.time_input == "noise_level":
                return self.sqrt_alphas_cumprod.float().to(x.device)[t]
            steps = torch.tensor(self.timesteps, device=x.device)[t]
            return steps * (1000 / self.trained_steps) if self.time_input == "step1000" else steps
        if self.time_input == "noise_level":
            level = 1 / math.sqrt(1 + self.sigma(t) ** 2)
            return torch.full((len(x),), level, device=x.device)
        step = self.timesteps[t] if isinstance(t, int) else t
        if self.time_input == "step1000":
            step = step * (1000 / self.trained_steps)
        return torch.full((len(x),), step, device=x.device)

    def sigma(self, t: int | float) -> float:
        """sqrt((1 - A) / A), the noise level that EDM names; infinite for pure noise.

        t: a step of these T, or, as a float, one of the network's training, perhaps between two;
        there interpolated in log sigma.
        """
        if isinstance(t, int):
            return float(self.sqrt_recipm1_alphas_cumprod[t])
        steps, levels = self._levels()
        return math.exp(np.interp(t, steps, levels))

    def t_of_sigma(self, sigma: float) -> float:
        """The step of the network's training with this noise level, perhaps between two steps.

        Interpolated in log sigma; the first or last step for what lies beyond them.
        """
        steps, levels = self._levels()
        return float(np.interp(math.log(max(sigma, 1e-300)), levels, steps))

    def interval(self, sigma_lo: float, sigma_hi: float) -> tuple[float, float]:
        """Noise levels (lo, hi] as steps (lo, hi] of the network's training, see `ddpm_guidance`.

        What reaches beyond the first or last level is infinite. Errors: ValueError.
        """
        if not 0 <= sigma_lo < sigma_hi:
            raise ValueError(f"noise levels ({sigma_lo}, {sigma_hi}]: 0 <= lo < hi needed")
        low = -math.inf if sigma_lo < self.sigma(0) else self.t_of_sigma(sigma_lo)
        return low, math.inf if sigma_hi >= self.sigma(self.T - 1) else self.t_of_sigma(sigma_hi)

    def _levels(self) -> tuple[list[int], np.ndarray]:
        """Steps of training and log sigma of those that are not pure noise."""
        finite = self.sqrt_recipm1_alphas_cumprod.isfinite()
        levels = self.sqrt_recipm1_alphas_cumprod[finite].log().numpy()
        return self.timesteps[: len(levels)], levels

    # ------------------------------------------------------------------------------------------ q

    def q_mean_variance(self, x0: Tensor, t: Step) -> Moments:
        """q(x_t | x_0)."""
        zero = torch.zeros_like(x0)
        return Moments(
            self.at(self.sqrt_alphas_cumprod, t, x0) * x0,
            zero + self.at(1 - self.alphas_cumprod, t, x0),
            zero + self.at(self.log_one_minus_alphas_cumprod, t, x0),
        )

    def q_sample(self, x0: Tensor, t: Step, eps: Tensor) -> Tensor:
        """x_t = sqrt(A) x0 + sqrt(1 - A) eps."""
        signal, noise = self.sqrt_alphas_cumprod, self.sqrt_one_minus_alphas_cumprod
        return self.at(signal, t, x0) * x0 + self.at(noise, t, x0) * eps

    def q_posterior_mean(self, x0: Tensor, x_t: Tensor, t: Step) -> Tensor:
        """The mean of q(x_t-1 | x_t, x_0)."""
        c1, c2 = self.posterior_mean_coef1, self.posterior_mean_coef2
        return self.at(c1, t, x_t) * x0 + self.at(c2, t, x_t) * x_t

    def q_posterior(self, x0: Tensor, x_t: Tensor, t: Step) -> Moments:
        """q(x_t-1 | x_t, x_0); the log variance at step 0 as `log_variance_floor` says."""
        zero = torch.zeros_like(x_t)
        return Moments(
            self.q_posterior_mean(x0, x_t, t),
            zero + self.at(self.posterior_variance, t, x_t),
            zero + self.at(self.posterior_log_variance_clipped, t, x_t),
        )

    # -------------------------------------------------------------------------- eps, x0, v, x_prev

    def _rotation(self, t: Step, x: Tensor) -> tuple[Tensor | float, Tensor | float]:
        signal, noise = self.sqrt_alphas_cumprod, self.sqrt_one_minus_alphas_cumprod
        return self.at(signal, t, x), self.at(noise, t, x)

    def x0_from_eps(self, x_t: Tensor, t: Step, eps: Tensor) -> Tensor:
        """(x_t - sqrt(1 - A) eps) / sqrt(A)."""
        signal, noise = self._rotation(t, x_t)
        return (x_t - noise * eps) / signal

    def eps_from_x0(self, x_t: Tensor, t: Step, x0: Tensor) -> Tensor:
        """(x_t - sqrt(A) x0) / sqrt(1 - A)."""
        signal, noise = self._rotation(t, x_t)
        return (x_t - signal * x0) / noise

    def v_from(self, x0: Tensor, t: Step, eps: Tensor) -> Tensor:
        """v = sqrt(A) eps - sqrt(1 - A) x0."""
        signal, noise = self._rotation(t, x0)
        return signal * eps - noise * x0

    def x0_from_v(self, x_t: Tensor, t: Step, v: Tensor) -> Tensor:
        """sqrt(A) x_t - sqrt(1 - A) v."""
        signal, noise = self._rotation(t, x_t)
        return signal * x_t - noise * v

    def eps_from_v(self, x_t: Tensor, t: Step, v: Tensor) -> Tensor:
        """sqrt(A) v + sqrt(1 - A) x_t."""
        signal, noise = self._rotation(t, x_t)
        return signal * v + noise * x_t

    def x0_from_x_prev(self, x_t: Tensor, t: Step, x_prev: Tensor) -> Tensor:
        """The x0 whose posterior mean is x_prev: (x_prev - c2 x_t) / c1."""
        c1, c2 = self.posterior_mean_coef1, self.posterior_mean_coef2
        return (x_prev - self.at(c2, t, x_t) * x_t) / self.at(c1, t, x_t)

    # ------------------------------------------------------------------------------- the network's

    def target(self, x0: Tensor, x_t: Tensor, t: Step, eps: Tensor) -> Tensor:
        """What the network is asked for at x_t = q_sample(x0, t, eps)."""
        if self.prediction_type == "eps":
            return eps
        if self.prediction_type == "x0":
            return x0
        if self.prediction_type == "v":
            return self.v_from(x0, t, eps)
        return self.q_posterior_mean(x0, x_t, t)

    def split(self, output: Tensor, channels: int) -> tuple[Tensor, Tensor | None]:
        """The prediction and what is said of the variance (None where it is fixed).

        Errors: ValueError for an output of another number of channels.
        """
        wanted = 2 * channels if self.learned else channels
        if output.ndim < 2 or output.shape[1] != wanted:
            raise ValueError(
                f"the network made {list(output.shape)} of images of {channels} channels; "
                f"variance {self.variance_type} needs {wanted}"
            )
        return (output[:, :channels], output[:, channels:]) if self.learned else (output, None)

    def x0_of(self, output: Tensor, x_t: Tensor, t: Step) -> Tensor:
        """The clean image that the network predicts, of x_t's shape."""
        prediction = self.split(output, x_t.shape[1])[0]
        if self.prediction_type == "eps":
            return self.x0_from_eps(x_t, t, prediction)
        if self.prediction_type == "v":
            return self.x0_from_v(x_t, t, prediction)
        if self.prediction_type == "x_prev":
            return self.x0_from_x_prev(x_t, t, prediction)
        return prediction

    def eps_of(self, output: Tensor, x_t: Tensor, t: Step) -> Tensor:
        """The noise that the network predicts, of x_t's shape."""
        prediction = self.split(output, x_t.shape[1])[0]
        if self.prediction_type == "eps":
            return prediction
        if self.prediction_type == "v":
            return self.eps_from_v(x_t, t, prediction)
        return self.eps_from_x0(x_t, t, self.x0_of(output, x_t, t))

    def p_mean_variance(
        self, output: Tensor, x_t: Tensor, t: Step, x0_fn: X0Fn | None = None
    ) -> Reverse:
        """p(x_t-1 | x_t) of a network's output at x_t.

        x0_fn: applied to the predicted clean image, from which the mean is then made (as clamping
        to [-1, 1]); with "x_prev" the mean stays the output. Errors: ValueError.
        """
        prediction, said = self.split(output, x_t.shape[1])
        x0 = self.x0_of(output, x_t, t)
        x0 = x0 if x0_fn is None else x0_fn(x0)
        mean = prediction
        if self.prediction_type != "x_prev":
            mean = self.q_posterior_mean(x0, x_t, t)
        variance, log_variance = self._variance(said, x_t, t)
        return Reverse(mean, variance, log_variance, x0)

    def _variance(self, said: Tensor | None, x: Tensor, t: Step) -> tuple[Tensor, Tensor]:
        if said is None:
            small = self.variance_type == "fixed_small"
            variance = self.posterior_variance if small else self.fixed_large_variance
            logarithm = (
                self.posterior_log_variance_clipped if small else self.fixed_large_log_variance
            )
            zero = torch.zeros_like(x)
            return zero + self.at(variance, t, x), zero + self.at(logarithm, t, x)
        if self.variance_type == "learned_range":  # arXiv:2102.09672, equation 15
            share = (said + 1) / 2
            low = self.at(self.posterior_log_variance_clipped, t, x)
            high = self.at(self.betas.log(), t, x)
            said = share * high + (1 - share) * low
        return said.exp(), said
