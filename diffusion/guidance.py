"""Guidance: a denoiser pushed away from a weaker one.

strong = bind(net, labels)
guided(strong, bind(net, None), 1.5)                    # classifier-free guidance
guided(strong, bind(weak, labels), 2.1)                 # autoguidance
guided(strong, bind(weak, labels), 2.1, (0.2, 5.0))     # only at these noise levels
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Denoise = Callable[..., Tensor]


def guided(
    denoise: Denoise,
    guide: Denoise | None,
    weight: float = 1.0,
    interval: tuple[float, float] | None = None,
    *,
    two_streams: bool = False,
) -> Denoise:
    """The denoiser guide + weight * (denoise - guide): D = lerp(guide, main, weight).

    Weight 1 is `denoise` itself and 0 the guide; above 1 extrapolates. Classifier-free guidance
    (Ho & Salimans 2022, arXiv:2207.12598) when the guide has no labels, autoguidance (Karras et
    al. 2024, arXiv:2406.02507) when it is a weaker network with the same ones.
    interval: guide only where lo < sigma <= hi (Kynkaanniemi et al. 2024, arXiv:2404.07724);
    elsewhere `denoise` alone. Whatever has no influence is not evaluated, so `guide` may be None
    for weight 1. Both get the same x, sigma and cond; `bind` fixes what should differ.
    two_streams: on CUDA evaluate the two at the same time; for batches too small to fill the GPU.
    Errors: ValueError.
    """
    if not math.isfinite(weight):
        raise ValueError(f"guidance weight {weight} is not a finite number")
    lo, hi = (0.0, math.inf) if interval is None else (float(interval[0]), float(interval[1]))
    if not 0 <= lo < hi:
        raise ValueError(f"guidance interval ({lo}, {hi}]: 0 <= lo < hi needed")
    if weight == 1:
        return denoise
    if guide is None:
        raise ValueError(f"guidance weight {weight} needs a guide")
    return Guided(denoise, guide, float(weight), lo, hi, two_streams)


class Guided:
    """What `guided` makes. `at(sigma)` chooses by a host number, see `diffusion.samplers`.

    Called directly with a 0-d sigma on a GPU and an interval, it must wait for its value; with one
    sigma per row both networks see every row, and rows outside the interval keep the main one's.
    """

    def __init__(
        self,
        denoise: Denoise,
        guide: Denoise,
        weight: float,
        lo: float,
        hi: float,
        two_streams: bool = False,
    ) -> None:
        self.denoise, self.guide, self.weight = denoise, guide, weight
        self.lo, self.hi, self.two_streams = lo, hi, two_streams
        self._side: torch.cuda.Stream | None = None

    def at(self, sigma: float) -> Denoise:
        """The denoiser at this noise level: both networks inside the interval, else the main."""
        return self.both if self.lo < sigma <= self.hi else self.denoise

    def __call__(self, x: Tensor, sigma: Tensor, **cond: Any) -> Tensor:
        if self.lo == 0 and self.hi == math.inf:
            return self.both(x, sigma, **cond)
        if sigma.numel() == 1:
            return self.at(float(sigma))(x, sigma, **cond)
        main, guide = self.evaluate(x, sigma, cond)
        inside = ((sigma > self.lo) & (sigma <= self.hi)).reshape(-1, *[1] * (x.ndim - 1))
        return torch.where(inside, guide.lerp(main, self.weight), main)

    def both(self, x: Tensor, sigma: Tensor, **cond: Any) -> Tensor:
        """Guided, whatever the level."""
        main, guide = self.evaluate(x, sigma, cond)
        return guide.lerp(main, self.weight)

    def evaluate(self, x: Tensor, sigma: Tensor, cond: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """What the two networks say, in two streams where that was asked for."""
        if not (self.two_streams and x.is_cuda):
            return self.denoise(x, sigma, **cond), self.guide(x, sigma, **cond)
        here = torch.cuda.current_stream(x.device)
        self._side = self._side or torch.cuda.Stream(x.device)
        self._side.wait_stream(here)
        with torch.cuda.stream(self._side):
            guide = self.guide(x, sigma, **cond)
        main = self.denoise(x, sigma, **cond)
        here.wait_stream(self._side)
        # The allocator must not hand out their memory while the other stream still uses it. x and
        # sigma are safe: `here` has just waited for everything the side stream did with them.
        guide.record_stream(here)
        return main, guide


def bind(net: Denoise, labels: Tensor | None = None) -> Denoise:
    """`net` with its class labels fixed: the result is called as f(x, sigma).

    labels: [N or 1, label_dim] one-hot; None is the unconditional input. A network without labels
    (`label_dim` 0, as the unconditional guides of EDM2) gets none, whatever is passed, so one
    batch of labels serves both networks. Errors: ValueError for labels of another size.
    """
    label_dim = getattr(net, "label_dim", None)
    if label_dim == 0:
        labels = None
    if labels is not None and label_dim is not None:
        if labels.ndim != 2 or labels.shape[1] != label_dim:
            raise ValueError(f"labels {list(labels.shape)} do not fit a net of {label_dim} classes")
    return lambda x, sigma: net(x, sigma, labels)
