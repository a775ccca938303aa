"""Adam with extrapolation (ExtraAdam), for games of several players."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn

_SAVED = "saved"


class ExtraAdam(torch.optim.Optimizer):
    """Adam whose step is taken from where it was, by the gradient at an extrapolated point.

    `extrapolation` keeps a copy of the parameters and moves them by Adam's update; `step` moves the
    copy by the update at the point where they then are, and takes that. Moments and the count of
    updates go on in both. alternating: `step` itself does one and the other in turn, for a loop
    that knows steps only. The copy is in the state, so that a checkpoint between the two halves
    resumes exactly; parameters without a gradient are where they were before the extrapolation.
    Source: Gidel et al. 2019, "A Variational Inequality Perspective on GANs", algorithm 4; update
    -lr sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + eps). Errors: ValueError.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 5e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        alternating: bool = False,
    ) -> None:
        if lr < 0 or eps < 0 or weight_decay < 0:
            raise ValueError(f"lr {lr}, eps {eps}, weight_decay {weight_decay}: all at least 0")
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas {betas}: both at least 0 and below 1")
        self.alternating = alternating
        super().__init__(
            params,
            dict(lr=lr, betas=tuple(betas), eps=eps, weight_decay=weight_decay, amsgrad=amsgrad),
        )

    @property
    def extrapolated(self) -> bool:
        """Whether the parameters are at an extrapolated point, between the two halves."""
        return any(_SAVED in state for state in self.state.values())

    @torch.no_grad()
    def extrapolation(self) -> None:
        """The first half. One that follows another goes on from where it is, to the same copy."""
        begun = self.extrapolated
        for group in self.param_groups:
            if not begun:
                for p in group["params"]:
                    if p.requires_grad:
                        self.state[p][_SAVED] = p.detach().clone()
            params, updates = self._updates(group)
            if params:
                torch._foreach_add_(params, updates)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """The second half; with `alternating` the half that is next.

        Errors: RuntimeError without an extrapolation before it.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if not self.extrapolated:
            if not self.alternating:
                raise RuntimeError("step() needs an extrapolation() before it")
            self.extrapolation()
            return loss
        for group in self.param_groups:
            params, updates = self._updates(group)
            restore(self, group["params"])
            if params:
                torch._foreach_add_(params, updates)
        return loss

    def _updates(self, group: dict[str, Any]) -> tuple[Any, Any]:
        """The parameters that have a gradient, and Adam's update of each; moments go on."""
        params = [p for p in group["params"] if p.grad is not None]
        if not params:
            return [], []
        b1, b2 = group["betas"]
        grads = [p.grad for p in params if p.grad is not None]
        if group["weight_decay"]:
            grads = list(torch._foreach_add(grads, params, alpha=group["weight_decay"]))
        for p in params:
            state = self.state[p]
            if "step" not in state:
                state["step"] = 0
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
                if group["amsgrad"]:
                    state["max_exp_avg_sq"] = torch.zeros_like(p)
            state["step"] += 1
        states = [self.state[p] for p in params]
        m, v = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq"))
        torch._foreach_lerp_(m, grads, 1 - b1)
        torch._foreach_mul_(v, b2)
        torch._foreach_addcmul_(v, grads, grads, 1 - b2)
        if group["amsgrad"]:
            highest = [state["max_exp_avg_sq"] for state in states]
            torch._foreach_maximum_(highest, v)
            v = highest
        below = torch._foreach_sqrt(v)
        torch._foreach_add_(below, group["eps"])
        updates = list(torch._foreach_div(m, below))
        sizes = [
            -group["lr"] * (1 - b2 ** state["step"]) ** 0.5 / (1 - b1 ** state["step"])
            for state in states
        ]
        torch._foreach_mul_(updates, sizes)
        return params, updates


@torch.no_grad()
def restore(optimizer: torch.optim.Optimizer, params: Iterable[nn.Parameter]) -> None:
    """Parameters that an extrapolation moved, back to where they were; the copy is forgotten."""
    for p in params:
        saved = optimizer.state[p].pop(_SAVED, None) if p in optimizer.state else None
        if saved is not None:
            p.copy_(saved)


@contextlib.contextmanager
def settled(*optimizers: torch.optim.Optimizer) -> Iterator[None]:
    """Parameters as the last whole update left them: those that an extrapolation has moved are put
    back for as long as this is open. Nothing inside may change them."""
    moved = [
        (p, state)
        for optimizer in optimizers
        for p, state in optimizer.state.items()
        if _SAVED in state
    ]
    there = [p.detach().clone() for p, _ in moved]
    with torch.no_grad():
        for p, state in moved:
            p.copy_(state[_SAVED])
    try:
        yield
    finally:
        with torch.no_grad():
            for (p, _), value in zip(moved, there, strict=True):
                p.copy_(value)
