"""Multi-step solvers of the probability flow in log SNR: DPM-Solver++(2M) and UniPC.

With alpha = sqrt(A), sigma = sqrt(1 - A) and lambda = log(alpha / sigma), a step that changes
lambda by h is exactly x' = (sigma' / sigma) x + alpha' I, where I is the integral over u = 0 .. h
of e^(u - h) x0(lambda + u); the solvers differ in what they take x0 to be in between. Noise levels
are host floats; their ends, the clean image and pure noise, have infinite lambda.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from diffusion.ddpm_steps import Cond, Model, Net, State
from diffusion.gaussian import Gaussian, X0Fn


def _half_log_snr(alpha: float, sigma: float) -> float:
    """lambda = log(alpha / sigma), with its infinite ends."""
    if sigma == 0:
        return math.inf
    return math.log(alpha / sigma) if alpha > 0 else -math.inf


def _signal_and_noise(gaussian: Gaussian) -> list[tuple[float, float]]:
    """(alpha, sigma) of the clean image and of every step, so that step i goes from i + 1 to i."""
    A = [1.0, *gaussian.alphas_cumprod.tolist()]
    return [(math.sqrt(a), math.sqrt(1 - a)) for a in A]


@torch.no_grad()
def dpmpp_2m(
    model: Model,
    x_T: Tensor,
    gaussian: Gaussian,
    *,
    cond: Cond | None = None,
    x0_fn: X0Fn | None = None,
    cond_fn: Model | None = None,
) -> Iterator[State]:
    """DPM-Solver++(2M): two-step method on x0, one evaluation a step.

    Lu et al. 2022 (arXiv:2211.01095), algorithm 2. The step into the clean image, and one out of
    pure noise, where log SNR is infinite, are of first order.
    """
    net = Net(model, x_T, gaussian, cond, x0_fn, cond_fn)
    points = _signal_and_noise(gaussian)
    levels = [_half_log_snr(*point) for point in points]
    x = net.start
    before: Tensor | None = None
    for i in net.down():
        x0, _ = net.predict(x, i)
        (alpha, sigma), h = points[i], levels[i] - levels[i + 1]
        slope = x0
        if before is not None and math.isfinite(h):
            h_before = levels[i + 1] - levels[i + 2]
            slope = x0 + (h / (2 * h_before)) * (x0 - before)  # 0 where that was infinite
        x = (sigma / points[i + 1][1]) * x + (alpha * -math.expm1(-h)) * slope
        before = x0
        yield State(gaussian.timesteps[i], x, x0)


@torch.no_grad()
def unipc(
    model: Model,
    x_T: Tensor,
    gaussian: Gaussian,
    *,
    order: int = 2,
    variant: str = "bh2",
    corrector: bool = True,
    cond: Cond | None = None,
    x0_fn: X0Fn | None = None,
    cond_fn: Model | None = None,
) -> Iterator[State]:
    """UniPC on x0: a predictor of `order`, corrected by the evaluation that the next step needs.

    Zhao et al. 2023 (arXiv:2302.04867), algorithms 5 to 8. order 1 to 3; variant "bh1", B(h) = h,
    or "bh2", B(h) = e^h - 1; the last steps are of lower order. The last state is not corrected,
    which would cost an evaluation. Errors: ValueError.
    """
    if order not in (1, 2, 3) or variant not in ("bh1", "bh2"):
        raise ValueError(f"UniPC has order 1, 2, 3 and variant bh1, bh2, not {order}, {variant!r}")
    net = Net(model, x_T, gaussian, cond, x0_fn, cond_fn)
    points = _signal_and_noise(gaussian)
    levels = [_half_log_snr(*point) for point in points]
    x = net.start
    origin, used = x, 0  # where the last step began, and its order
    known: list[tuple[float, Tensor]] = []  # level and x0 of the steps before, the newest first
    for i in net.down():
        x0, _ = net.predict(x, i)
        if corrector and used:
            x = _bh_step(
                origin, points[i + 2], points[i + 1], known[:used], variant, (levels[i + 1], x0)
            )
        known = [(levels[i + 1], x0), *known][:order]
        # Points of infinite log SNR bound no polynomial: neither the start in pure noise does, nor
        # the end in the clean image.
        finite = [pair for pair in known if math.isfinite(pair[0])]
        used = min(order, i + 1, len(finite))
        origin = x
        x = _bh_step(x, points[i + 1], points[i], known[: max(used, 1)], variant, None)
        yield State(gaussian.timesteps[i], x, x0)


def _bh_step(
    x: Tensor,
    start: tuple[float, float],
    end: tuple[float, float],
    known: list[tuple[float, Tensor]],
    variant: str,
    at_end: tuple[float, Tensor] | None,
) -> Tensor:
    """x from `start` to `end`, (alpha, sigma) each: UniP, or UniC where x0 at the end is given.

    known: level and x0 of the start and of points before it, the newest first.
    """
    level, x0 = known[0]
    h = _half_log_snr(*end) - level
    alpha, sigma = end
    shrink = -math.expm1(-h)  # 1 - e^-h
    first = (sigma / start[1]) * x + (alpha * shrink) * x0
    others = known[1:] if at_end is None else [*known[1:], at_end]
    if not others or not math.isfinite(h):
        return first
    ratios = [(other - level) / h for other, _ in others]
    B = h if variant == "bh1" else shrink
    # With I_k the integral of e^(u - h) (u / h)^k over u = 0 .. h, by parts I_k = 1 - k I_k-1 / h,
    # B sum_m w_m r_m^(k - 1) = I_k: what is a polynomial of log SNR is integrated exactly.
    integral, moments = shrink, []
    for k in range(1, len(ratios) + 1):
        integral = 1 - k * integral / h
        moments.append(integral / B)
    if len(ratios) == 1:
        weights = [0.5]  # as published: exact to its order for either B
    else:
        powers = torch.tensor(
            [[r**k for r in ratios] for k in range(len(ratios))], dtype=torch.float64
        )
        weights = torch.linalg.solve(powers, torch.tensor(moments, dtype=torch.float64)).tolist()
    for weight, ratio, (_, other) in zip(weights, ratios, others, strict=True):
        first = first + (alpha * B * weight / ratio) * (other - x0)
    return first
