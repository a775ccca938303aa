"""Post-hoc EMA: averages of any width from a few stored ones (Karras et al. 2023).

The power-function average of exponent gamma at time t weighs training time s by the profile

    p(s; t, gamma) = (gamma + 1) / t * (s / t)^gamma   for s <= t, else 0

(arXiv:2312.02696, section 3.1). Times are counted in trained images. The average of a profile not
stored is approximated by the sum of stored ones whose profile is nearest in the L2 sense (section
3.2). Exponents come from relative widths by `runtime.ema.power_exponent`. Everything is float64.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

Array = np.ndarray


def response(times: ArrayLike, offset: ArrayLike, gamma: ArrayLike) -> Array:
    """Weights of the snapshots at `times` [T] in the average at `offset`, summing to 1 over them.

    offset and gamma broadcast to a shape S; returns [T, *S].
    """
    offset, gamma = np.broadcast_arrays(_float(offset), _float(gamma))
    t = _float(times).reshape(-1, *[1] * offset.ndim)
    weights = np.where(t <= offset, (np.minimum(t, offset) / offset) ** gamma / offset, 0.0)
    return weights / weights.sum(axis=0)


def correlation(
    a_time: ArrayLike, a_gamma: ArrayLike, b_time: ArrayLike, b_gamma: ArrayLike
) -> Array:
    """Inner product of two profiles, the integral of p(s; a) p(s; b) over s. Broadcasts.

    = (ga + 1)(gb + 1) / (ga + gb + 1) / later * (earlier / later)^(gamma of the later)
    """
    ta, ga, tb, gb = (_float(v) for v in (a_time, a_gamma, b_time, b_gamma))
    earlier, later = np.minimum(ta, tb), np.maximum(ta, tb)
    power = np.where(ta < tb, gb, ga)
    return (ga + 1) * (gb + 1) * (earlier / later) ** power / ((ga + gb + 1) * later)


def coefficients(
    in_times: ArrayLike, in_gammas: ArrayLike, out_times: ArrayLike, out_gammas: ArrayLike
) -> Array:
    """Weights [inputs, outputs] of stored averages in the wanted ones; each column sums to 1.

    in_times, in_gammas: [inputs]; out_times, out_gammas: [outputs] or scalars. An output that is
    one of the inputs takes that one alone. Errors: ValueError for an input named twice or a time
    that is not positive.
    """
    ti, gi = np.broadcast_arrays(_float(in_times), _float(in_gammas))
    to, go = np.broadcast_arrays(np.atleast_1d(_float(out_times)), _float(out_gammas))
    if ti.ndim != 1 or not len(ti) or to.ndim != 1:
        raise ValueError(f"one list of inputs [n >= 1] and outputs, not {ti.shape} and {to.shape}")
    if min(ti.min(), to.min()) <= 0 or min(gi.min(), go.min()) <= -0.5:
        raise ValueError("averages have times above 0 and exponents above -0.5")
    if len(set(zip(ti, gi, strict=True))) < len(ti):
        raise ValueError("two inputs are averages of the same time and width")
    a = correlation(ti[:, None], gi[:, None], ti[None], gi[None])
    b = correlation(ti[:, None], gi[:, None], to[None], go[None])
    # A is ill-conditioned when profiles are alike; unit diagonals leave the solution as it is.
    scale = 1 / np.sqrt(a.diagonal())[:, None]
    x = scale * np.linalg.solve(scale * a * scale.T, scale * b)
    x = x / x.sum(axis=0)
    same = (ti[:, None] == to) & (gi[:, None] == go)
    return np.where(same.any(axis=0), same.astype(np.float64), x)


def mismatch(
    weights: ArrayLike,
    in_times: ArrayLike,
    in_gammas: ArrayLike,
    out_times: ArrayLike,
    out_gammas: ArrayLike,
) -> Array:
    """How far the weighted profiles are from the wanted ones: relative L2 distance [outputs].

    0 is exact, 1 as bad as nothing; figures below 1e-6 are rounding. If a weight moved as white
    noise during training, this would be the error of its average relative to that average's own
    spread; real weights move more slowly, which helps.
    """
    x = _float(weights)
    ti, gi = np.broadcast_arrays(_float(in_times), _float(in_gammas))
    to, go = np.broadcast_arrays(np.atleast_1d(_float(out_times)), _float(out_gammas))
    a = correlation(ti[:, None], gi[:, None], ti[None], gi[None])
    b = correlation(ti[:, None], gi[:, None], to[None], go[None])
    norm = correlation(to, go, to, go)
    squared = norm - 2 * (x * b).sum(axis=0) + (x * (a @ x)).sum(axis=0)
    return np.sqrt(np.maximum(squared, 0) / norm)


def _float(values: ArrayLike) -> Array:
    return np.asarray(values, dtype=np.float64)
