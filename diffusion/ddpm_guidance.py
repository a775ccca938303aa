"""Guidance of networks of DDPM: outputs pushed away from weaker ones, or along a classifier.

    model = classifier_free(net, {"y": null}, 3.0)                        # one doubled batch
    model = classifier_free(net, {"y": null}, 3.0, interval=gaussian.interval(0.3, 5), rescale=0.7)
    model = autoguided(net, weaker, 2.0)
    x = last(ddim(model, x_T, gaussian, cond={"y": labels}))
    x = last(ddim(net, x_T, gaussian, cond_fn=classifier_gradient(classifier, labels, 1.0)))

What `diffusion.guidance` does for denoisers of EDM, here for outputs eps, x0 or v, in which the
same combination is a combination of clean images. Of [B, 2C, ...] the C channels of the prediction
are guided; the variance is the network's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from diffusion.ddpm_steps import Model
from diffusion.guidance import Guided


class GuidedModel:
    """What this file makes: weak + weight * (strong - weak), of two outputs at the same x and t.

    pair(x, t, cond) -> (strong, weak). Inside (lo, hi] of the interval, steps of the network's
    training; elsewhere `strong` alone, known by `at(step)`. Errors: ValueError.
    """

    def __init__(
        self,
        strong: Model,
        pair: Callable[[Tensor, Tensor, dict[str, Any]], tuple[Tensor, Tensor]],
        weight: float,
        interval: tuple[float, float] | None,
        rescale: float,
    ) -> None:
        if not math.isfinite(weight):
            raise ValueError(f"guidance weight {weight} is not a finite number")
        if not 0 <= rescale <= 1:
            raise ValueError(f"rescale {rescale} is not in [0, 1]")
        if interval is not None and not interval[0] < interval[1]:
            raise ValueError(f"guidance interval ({interval[0]}, {interval[1]}]: lo < hi needed")
        self.strong, self.pair, self.weight = strong, pair, weight
        self.interval, self.rescale = interval, rescale

    def at(self, step: float) -> Model:
        """The model at this step: both inside the interval, else the strong one."""
        if self.interval is None or self.interval[0] < step <= self.interval[1]:
            return self._both
        return self.strong

    def __call__(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        if self.interval is not None:
            raise ValueError("guidance in an interval is asked by step: model.at(step)(x, t)")
        return self._both(x, t, **cond)

    def _both(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        strong, weak = self.pair(x, t, cond)
        channels = x.shape[1]
        main, rest = strong[:, :channels], strong[:, channels:]
        out = weak[:, :channels].lerp(main, self.weight)
        if self.rescale:
            out = rescaled(out, main, self.rescale)
        return torch.cat([out, rest], 1) if rest.shape[1] else out


def rescaled(guided: Tensor, main: Tensor, share: float) -> Tensor:
    """A share of `guided` brought to the standard deviation of `main`, image by image.

    Against the over-exposure of large weights: Lin et al. 2023 (arXiv:2305.08891), equations 14 to
    16.
    """
    shape = (-1, *[1] * (main.ndim - 1))
    ratio = main.flatten(1).std(1) / guided.flatten(1).std(1).clamp_min(1e-12)
    return guided * (1 + share * (ratio - 1)).reshape(shape)


def classifier_free(
    model: Model,
    uncond: Mapping[str, Any],
    weight: float,
    *,
    interval: tuple[float, float] | None = None,
    rescale: float = 0.0,
) -> Model:
    """uncond + weight * (cond - uncond), both in one doubled batch of `model`.

    Ho and Salimans 2022 (arXiv:2207.12598). The condition comes with the call, `uncond` replaces
    entries of it: tensors [B, ...] or [1, ...], mappings of such, what is the same in both, or
    tuples of tensors that know to `take(rows)` and `cat([one, other])`, as layouts do.
    weight 1 is `model` itself, evaluated once. interval: guide only at steps (lo, hi] (Kynkaanniemi
    et al. 2024, arXiv:2404.07724), see `Gaussian.interval`; rescale: see `rescaled`.
    Errors: ValueError, when called too, for entries that do not fit.
    """
    fixed = dict(uncond)

    def pair(x: Tensor, t: Tensor, cond: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        unknown = sorted(fixed.keys() - cond.keys())
        if unknown:
            raise ValueError(f"there is no condition {', '.join(unknown)} to leave out")
        both = {k: _doubled(v, fixed.get(k, v), len(x), k) for k, v in cond.items()}
        strong, weak = model(torch.cat([x, x]), torch.cat([t, t]), **both).chunk(2)
        return strong, weak

    guided = GuidedModel(model, pair, weight, interval, rescale)
    return model if weight == 1 else guided


def autoguided(
    model: Model,
    guide: Model,
    weight: float,
    *,
    interval: tuple[float, float] | None = None,
    rescale: float = 0.0,
    two_streams: bool = False,
) -> Model:
    """guide + weight * (model - guide), with a weaker network of the same prediction as guide.

    Karras et al. 2024 (arXiv:2406.02507). Both get the same condition. weight 1 is `model` itself;
    interval and rescale as `classifier_free`, two_streams as `diffusion.guidance.guided`.
    Errors: ValueError.
    """
    both = Guided(model, guide, weight, 0.0, math.inf, two_streams)
    guided = GuidedModel(model, both.evaluate, weight, interval, rescale)
    return model if weight == 1 else guided


def _doubled(given: Any, without: Any, n: int, name: str) -> Any:
    """The condition of n rows with it, then n without."""
    if isinstance(given, Mapping) and isinstance(without, Mapping):
        if given.keys() != without.keys():
            raise ValueError(f"condition {name} has entries {list(given)} and {list(without)}")
        return {k: _doubled(given[k], without[k], n, f"{name}.{k}") for k in given}
    if isinstance(given, Tensor) and isinstance(without, Tensor):
        without = without.to(given)
        if len(without) == 1:
            without = without.expand(n, *without.shape[1:])
        if len(given) == 1:
            given = given.expand(n, *given.shape[1:])
        if len(given) != n or given.shape != without.shape:
            raise ValueError(
                f"condition {name} {list(given.shape)} and without it {list(without.shape)} do not "
                f"fit {n} images"
            )
        return torch.cat([given, without])
    if type(given) is type(without) and hasattr(given, "cat") and hasattr(given, "take"):
        first = torch.zeros(n, dtype=torch.int64, device=given[0].device)
        return type(given).cat([x if len(x[0]) == n else x.take(first) for x in (given, without)])
    same = type(given) is type(without) and not isinstance(given, Mapping | Tensor)
    if not same or given != without:
        raise ValueError(
            f"condition {name}: {type(given).__name__} with and {type(without).__name__} without "
            "it cannot be one batch; give tensors"
        )
    return given


def classifier_gradient(classifier: Model, labels: Tensor, scale: float = 1.0) -> Model:
    """cond_fn(x, t, **cond) for the samplers: scale times the gradient of log p(labels | x).

    classifier(x, t) -> logits [B, K] of noised images; labels int64 [B]. Dhariwal and Nichol 2021
    (arXiv:2105.05233), section 4. Errors: ValueError.
    """
    if not math.isfinite(scale):
        raise ValueError(f"scale {scale} is not a finite number")

    def gradient(x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            log_p = classifier(leaf, t).float().log_softmax(1)
            chosen = log_p.gather(1, labels.to(x.device)[:, None]).sum()
            return scale * torch.autograd.grad(chosen, leaf)[0]

    return gradient
