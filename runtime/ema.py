"""Moving averages of a network's weights, with three ways to say how long the memory is.

    average = ema.EMA(net, ema.half_life(500_000))
    ...
    if run.step(optimizer):
        average.update(net, nimg, batch_size)  # nimg: images seen, this batch included
    sample(average.module)

A profile is a function (nimg, batch_size) -> beta, the weight the old average keeps:
- `constant(decay)`: decay, whatever the batch;
- `warmed(decay)`: the same, but less during the first updates, as latent-diffusion has it;
- `half_life(images, ramp)`: 0.5^(batch_size / min(images, ramp * nimg)), EDM (Karras et al. 2022,
  arXiv:2206.00364; from StyleGAN3): early on the half-life is a fraction of what was seen so far;
- `power(std)`: (1 - batch_size / nimg)^(gamma + 1), EDM2 (Karras et al. 2023, arXiv:2312.02696,
  section 3.1): the profile t^gamma whose relative width is `std`, whatever the length of training.
The last two count images, not steps, so the batch size does not change what they mean.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

import numpy as np
import torch

Net = TypeVar("Net", bound=torch.nn.Module)
Profile = Callable[[float, float], float]


def constant(decay: float) -> Profile:
    """The same `decay` in [0, 1) at every update. Errors: ValueError."""
    if not 0 <= decay < 1:
        raise ValueError(f"EMA decay {decay} is not in [0, 1)")
    return lambda nimg, batch_size: decay


def warmed(decay: float) -> Profile:
    """min(`decay`, (1 + n) / (10 + n)) after n updates: constant, but not in the beginning, when
    the average would be of the first weights. n is taken from the images and the batch.
    Errors: ValueError as `constant`."""
    constant(decay)
    return lambda nimg, batch_size: min(decay, (1 + nimg / batch_size) / (10 + nimg / batch_size))


def half_life(images: float, ramp: float | None = 0.05) -> Profile:
    """Half of the memory is gone after `images` images, or `ramp` of all seen if that is less.

    `ramp` None: no ramp-up; then `images` is finite. Errors: ValueError.
    """
    if not images > 0 or (math.isinf(images) and ramp is None):
        raise ValueError(f"EMA half-life {images} is not a positive number of images")
    if ramp is not None and not (ramp > 0 and math.isfinite(ramp)):
        raise ValueError(f"EMA ramp {ramp} is not a positive number or None")

    def beta(nimg: float, batch_size: float) -> float:
        half = images if ramp is None else min(images, ramp * nimg)
        return 0.5 ** (batch_size / max(half, 1e-8))

    return beta


def power(std: float) -> Profile:
    """Power-function profile of relative width `std`, 0 < std < 0.2887. Errors: ValueError."""
    exponent = power_exponent(std) + 1
    # At the first update batch_size == nimg: beta is 0 and the average is the network itself.
    return lambda nimg, batch_size: (1 - batch_size / nimg) ** exponent


def power_exponent(std: float) -> float:
    """gamma > 0 of the profile t^gamma with relative width `std`. Errors: ValueError.

    The largest root of gamma^3 + 7 gamma^2 + (16 - std^-2) gamma + (12 - std^-2) = 0, which is
    `power_std` solved for gamma. std 0.05 -> 16.97, 0.10 -> 6.94, the two of the EDM2 paper.
    """
    # At 1/sqrt(12) = 0.2887 the profile is flat (gamma 0): a plain mean over all of training.
    if not 0 < std < 12**-0.5:
        raise ValueError(f"EMA std {std} is not in (0, {12**-0.5:.4f})")
    t = float(std) ** -2
    return float(np.roots([1.0, 7.0, 16.0 - t, 12.0 - t]).real.max())


def power_std(gamma: float) -> float:
    """Standard deviation of the density ~ t^gamma on [0, 1]. The inverse of `power_exponent`."""
    return math.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3)))


class EMA(Generic[Net]):
    """Running average of a module's floating-point parameters; buffers are copied as they are.

    `module`: an evaluation copy (no gradients, eval mode) whose half-precision parameters are
    widened to fp32, because small updates vanish in half precision. `profile`: see the file; a
    number is a constant decay.
    """

    def __init__(self, module: Net, profile: Profile | float) -> None:
        self.profile = constant(profile) if isinstance(profile, int | float) else profile
        self.module: Net = copy.deepcopy(module).eval().requires_grad_(False)
        for p in self.module.parameters():
            if p.dtype in (torch.float16, torch.bfloat16):
                p.data = p.data.float()
        self.updates = 0

    @torch.no_grad()
    def update(self, module: torch.nn.Module, nimg: float, batch_size: float) -> float:
        """Move towards `module` after a step on `batch_size` images, `nimg` in all including these.

        Returns the beta used. Errors: ValueError for impossible counts or another module's layout.
        """
        if not 0 < batch_size <= nimg:
            raise ValueError(
                f"EMA.update: {nimg} images in all cannot include a batch of {batch_size}"
            )
        beta = self.profile(nimg, batch_size)
        groups: dict[tuple[torch.device, torch.dtype], list[tuple[torch.Tensor, ...]]] = {}
        for a, b in _pairs(self.module.named_parameters(), module.named_parameters()):
            if a.is_floating_point() or a.is_complex():
                groups.setdefault((a.device, a.dtype), []).append((a, b))
            else:
                a.copy_(b)
        for (device, dtype), pairs in groups.items():
            new = [b.detach().to(device=device, dtype=dtype) for _, b in pairs]
            # lerp, not a * beta + b * (1 - beta): exact when the two are equal, and for beta 0.
            torch._foreach_lerp_([a for a, _ in pairs], new, 1 - beta)
        for a, b in _pairs(self.module.named_buffers(), module.named_buffers()):
            a.copy_(b)
        self.updates += 1
        return beta

    def state_dict(self) -> dict[str, Any]:
        """{"module": the averaged weights, "updates": their number}."""
        return {"module": self.module.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`. Errors: KeyError, RuntimeError for a state of another module."""
        self.module.load_state_dict(state["module"])
        self.updates = int(state["updates"])


def _pairs(
    ours: Iterable[tuple[str, torch.Tensor]], theirs: Iterable[tuple[str, torch.Tensor]]
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    a, b = dict(ours), dict(theirs)
    if a.keys() != b.keys():
        names = ", ".join(sorted(a.keys() ^ b.keys())[:3])
        raise ValueError(f"EMA.update: not the module this average is of; in one only: {names}")
    return [(a[k], b[k]) for k in a]
