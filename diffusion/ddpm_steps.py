"""What samplers of DDPM share: a network asked at steps of a `Gaussian`, and a step's result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from diffusion.gaussian import Gaussian, X0Fn

Model: TypeAlias = Callable[..., Tensor]
Randn: TypeAlias = Callable[[Tensor], Tensor]
Cond: TypeAlias = Mapping[str, Any]


class State(NamedTuple):
    """After a step: the network's step it began at, x [B, ...], and the clean image x0 it took."""

    step: float
    x: Tensor
    x0: Tensor


def last(states: Iterable[State]) -> Tensor:
    """The sample: x after the last step. Errors: ValueError if there was no step."""
    x = None
    for state in states:
        x = state.x
    if x is None:
        raise ValueError("a sampler without a step makes no sample")
    return x


class Net:
    """A model asked at steps of a Gaussian: its output, x0 and eps at step i, a whole number."""

    def __init__(
        self,
        model: Model,
        x_T: Tensor,
        gaussian: Gaussian,
        cond: Cond | None,
        x0_fn: X0Fn | None,
        cond_fn: Model | None,
    ) -> None:
        if not x_T.is_floating_point():
            raise ValueError(f"noise must be floating-point, not {x_T.dtype}")
        self.model, self.gaussian, self.cond = model, gaussian, dict(cond or {})
        self.x0_fn, self.cond_fn, self.dtype = x0_fn, cond_fn, x_T.dtype
        self.start = x_T.to(torch.promote_types(x_T.dtype, torch.float32))

    def output(self, x: Tensor, i: int) -> Tensor:
        """What the model makes of x at step i, in the type of the state."""
        step = float(self.gaussian.timesteps[i])
        model = self.model.at(step) if hasattr(self.model, "at") else self.model
        given = x.to(self.dtype)
        return model(given, self.gaussian.model_time(i, given), **self.cond).to(x.dtype)

    def gradient(self, x: Tensor, i: int) -> Tensor | None:
        """The classifier's, None without one."""
        if self.cond_fn is None:
            return None
        given = x.to(self.dtype)
        t = self.gaussian.model_time(i, given)
        return self.cond_fn(given, t, **self.cond).to(x.dtype)

    def predict(self, x: Tensor, i: int) -> tuple[Tensor, Tensor]:
        """x0 and eps, which fit each other and x: eps is that of x0 after `x0_fn`.

        A classifier's gradient g moves the score: eps - sqrt(1 - A) g (Dhariwal and Nichol 2021,
        arXiv:2105.05233, algorithm 2). In pure noise no class shows and g counts for 0.
        """
        gaussian = self.gaussian
        x0 = gaussian.x0_of(self.output(x, i), x, i)
        x0 = x0 if self.x0_fn is None else self.x0_fn(x0)
        eps = gaussian.eps_from_x0(x, i, x0)
        if gaussian.alphas_cumprod[i] > 0 and (g := self.gradient(x, i)) is not None:
            eps = eps - float(gaussian.sqrt_one_minus_alphas_cumprod[i]) * g
            x0 = gaussian.x0_from_eps(x, i, eps)
        return x0, eps

    def down(self) -> Iterator[int]:
        """The steps from the last to the first."""
        return iter(range(self.gaussian.T - 1, -1, -1))
