"""Which of a network's T training steps a sampler visits.

`timesteps_of` reads one word for all rules. Those of guided-diffusion may refuse a count; the named
ones take any from 1 to T:

    ddim50          the smallest whole stride that gives exactly 50 steps from 0 on
    250             one section of 250 evenly spaced steps; 10,15,20: sections of their own counts
    trailing:20     round(T k / 20) - 1: from the last step T - 1 on, where sampling begins in noise
    leading:20      k (T // 20), as DDPM pipelines have it; never visits the last steps
    linspace:20     evenly from 0 to T - 1, both included
    quad:20         evenly in sqrt(t), denser near 0
    logsnr:20       evenly in log SNR, for DPM-Solver++ and UniPC
    ldm:20          every (T // 20)-th step, shifted by 1, as latent-diffusion samples
"""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

SPACINGS = ("trailing", "leading", "linspace", "quad", "logsnr", "ldm")


def timesteps_of(spec: str | int, T: int, alphas_cumprod: Tensor | None = None) -> list[int]:
    """The visited steps of 0 .. T - 1, ascending and without repetition; see the file.

    alphas_cumprod [T]: needed by "logsnr". Errors: ValueError.
    """
    if T < 1:
        raise ValueError(f"a network of {T} steps has none to visit")
    word = str(spec).strip()
    name, colon, count = word.partition(":")
    if colon:
        if name not in SPACINGS:
            raise ValueError(f"spacing {name!r} is none of {', '.join(SPACINGS)}")
        return _spaced(name, T, _whole(count, word), alphas_cumprod)
    if word.startswith("ddim"):
        return _strided(T, _whole(word.removeprefix("ddim"), word))
    return _sections(T, [_whole(part, word) for part in word.split(",")])


def ldm_steps(T: int, S: int, method: str = "uniform") -> list[int]:
    """The steps that latent-diffusion's samplers take of T when asked for S, as released.

    "uniform" may give more than S of them and reach T, which is no step: that crashed there
    (S = 300, 501 of 1000). "quad": quadratic. `timesteps_of("ldm:S")` is the rule without that.
    Errors: ValueError.
    """
    if not 1 <= S <= T:
        raise ValueError(f"{S} steps of {T}: 1 to {T} needed")
    if method == "uniform":
        return [t + 1 for t in range(0, T, T // S)]
    if method != "quad":
        raise ValueError(f"method {method!r} is neither uniform nor quad")
    return [int(root**2) + 1 for root in np.linspace(0, math.sqrt(0.8 * T), S)]


def _whole(text: str, spec: str) -> int:
    if not text.strip().isdecimal():
        raise ValueError(f"steps {spec!r}: {text.strip()!r} is not a whole number")
    return int(text)


def _strided(T: int, count: int) -> list[int]:
    """The rule of "ddimN": what DDIM's paper uses (Song et al. 2020, arXiv:2010.02502)."""
    for stride in range(1, T):
        if len(range(0, T, stride)) == count:
            return list(range(0, T, stride))
    raise ValueError(
        f"no whole stride gives {count} of {T} steps (ddim{count}): take trailing:{count}, or a "
        "divisor of the number of steps"
    )


def _sections(T: int, counts: list[int]) -> list[int]:
    """Equal sections of the steps, the first ones longer by 1, evenly filled by their counts."""
    size, longer = divmod(T, len(counts))
    steps: set[int] = set()
    start = 0
    for i, count in enumerate(counts):
        length = size + (i < longer)
        if count > length:
            raise ValueError(f"a section of {length} of the {T} steps does not have {count} steps")
        stride = (length - 1) / (count - 1) if count > 1 else 1.0
        place = 0.0
        for _ in range(count):
            # A running sum and round() to even are part of the published rule.
            steps.add(start + round(place))
            place += stride
        start += length
    if not steps:
        raise ValueError(f"steps {','.join(map(str, counts))} name none to visit")
    return sorted(steps)


def _spaced(name: str, T: int, S: int, alphas_cumprod: Tensor | None) -> list[int]:
    if not 1 <= S <= T:
        raise ValueError(f"{name}:{S} of {T} steps: 1 to {T} needed")
    if name == "trailing":
        return [round(T * (k + 1) / S) - 1 for k in range(S)]
    if name == "leading":
        return [k * (T // S) for k in range(S)]
    if name == "ldm":
        return _apart([k * (T // S) + 1 for k in range(S)], T)
    even = np.linspace(0, 1, S) if S > 1 else np.ones(1)  # a single step begins in noise
    if name == "linspace":
        places = even * (T - 1)
    elif name == "quad":
        places = even**2 * (T - 1)
    else:
        if alphas_cumprod is None or len(alphas_cumprod) != T:
            raise ValueError(f"{name}:{S} needs the alphas_cumprod of the {T} steps")
        A = alphas_cumprod.double().numpy()
        level = np.log((1 - A) / np.maximum(A, 1e-12))  # A of the last step may be 0
        places = np.interp(level[0] + even * (level[-1] - level[0]), level, np.arange(T))
    return _apart([round(place) for place in places.tolist()], T)


def _apart(steps: list[int], T: int) -> list[int]:
    """Steps in order, those that are equal moved to the next free ones, all below T."""
    S = len(steps)
    for k in range(1, S):
        steps[k] = max(steps[k], steps[k - 1] + 1)
    return [min(step, T - S + k) for k, step in enumerate(steps)]
