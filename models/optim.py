"""LARS as three codes publish it, and learning rates as pure functions of the step.

w weights, g gradient, d = g + wd w, v momentum buffer, mu momentum, and |.| norms of one tensor:

    google classic   t = eta |w| / |d|;                  v = mu v + lr t d;  w -= v
    google popular   v = mu v + d;  t = eta |w| / |v|;   w -= lr t v
    bolts            t = eta |w| / (|g| + wd |w| + 1e-8);  v = mu v + t d;   w -= lr v
    larc             t = eta |w| / |d|;                  v = mu v + t d;     w -= lr v

With nesterov the step is mu v + (what was just added to v) in place of v; in google's "popular"
form t is of that step. t is 1 for excluded tensors (biases and norms) and where a norm is zero;
bolts then adds no decay either. They differ whenever the rate changes: in "classic" a buffer
keeps the rates of its time.

Sources: You et al. 2017, "Large Batch Training of Convolutional Networks"; google: SimCLR's
lars_optimizer; bolts: Lightning Bolts and lightly; larc: the wrapper of NVIDIA apex, as in the
original SimCLR code (`models.original`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

SEMANTICS = ("google", "google_popular", "bolts", "larc")
BOLTS_EPS = 1e-8

_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


def lars_groups(module: nn.Module, weight_decay: float = 1e-6) -> list[dict[str, Any]]:
    """Two parameter groups: weights with decay and adaptation, then biases and norms with neither.

    Norms are found by the type of module, biases by the end of their name in it. Parameters without
    gradient are left out, shared ones listed once. An empty group is left out.
    Errors: ValueError if there is nothing to train.
    """
    weights: dict[int, nn.Parameter] = {}
    excluded: dict[int, nn.Parameter] = {}
    for part in module.modules():
        for name, p in part.named_parameters(recurse=False):
            if p.requires_grad:
                plain = isinstance(part, _NORMS) or name.endswith("bias")
                (excluded if plain else weights).setdefault(id(p), p)
    groups = [
        {"params": list(weights.values()), "weight_decay": weight_decay, "adapt": True},
        {
            "params": [p for i, p in excluded.items() if i not in weights],
            "weight_decay": 0.0,
            "adapt": False,
        },
    ]
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise ValueError(f"{type(module).__name__} has no parameter that needs a gradient")
    return groups


def _number(name: str, value: Any, least: float, below: float = math.inf) -> float:
    if not (isinstance(value, int | float) and least <= value < below):
        upper = "" if below == math.inf else f" and below {below:g}"
        raise ValueError(f"{name}={value!r}: it must be a number of at least {least:g}{upper}")
    return float(value)


class LARS(torch.optim.Optimizer):
    """SGD with momentum whose step is scaled, tensor by tensor, by trust x |w| / |gradient|.

    params: parameters, or groups with their own lr, weight_decay, momentum, trust, nesterov and
    `adapt` (False: t = 1), as `lars_groups` makes them. semantics: one of SEMANTICS, see the head
    of this file. Norms of all tensors are taken at once and never leave the device.
    In "bolts" groups without decay are not adapted, as published; a group that asks for both is
    refused. Errors: ValueError; sparse gradients when stepping.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        *,
        momentum: float = 0.9,
        weight_decay: float = 1e-6,
        trust: float = 1e-3,
        nesterov: bool = False,
        semantics: str = "google",
    ) -> None:
        if semantics not in SEMANTICS:
            raise ValueError(f"semantics={semantics!r}: choose {', '.join(SEMANTICS)}")
        self.semantics = semantics
        super().__init__(
            params,
            dict(
                lr=lr,
                momentum=momentum,
                weight_decay=weight_decay,
                trust=trust,
                nesterov=nesterov,
                adapt=True,
            ),
        )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """A further group. Errors: ValueError."""
        super().add_param_group(param_group)
        try:
            self._check(self.param_groups[-1])
        except ValueError:
            self.param_groups.pop()
            raise

    def _check(self, group: dict[str, Any]) -> None:
        _number("lr", group["lr"], 0)
        _number("momentum", group["momentum"], 0, 1)
        _number("weight_decay", group["weight_decay"], 0)
        _number("trust", group["trust"], 0)
        if group["nesterov"] and not group["momentum"]:
            raise ValueError("nesterov needs momentum above 0")
        if self.semantics == "bolts" and group["adapt"] and not group["weight_decay"]:
            raise ValueError(
                "semantics 'bolts' adapts no group with weight_decay 0: "
                "set adapt=False there, give it a decay, or choose other semantics"
            )

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "semantics": self.semantics}

    def state_dict(self) -> dict[str, Any]:
        """torch's, and the semantics in every group: buffers of one mean nothing to another."""
        state = super().state_dict()
        for group in state["param_groups"]:
            group["semantics"] = self.semantics
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Errors: ValueError if the state is of other semantics or does not fit."""
        groups = [dict(group) for group in state_dict["param_groups"]]
        for group in groups:
            saved = group.pop("semantics", self.semantics)
            if saved != self.semantics:
                raise ValueError(f"the state is of LARS {saved!r}, this one is {self.semantics!r}")
        super().load_state_dict({**state_dict, "param_groups": groups})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of all parameters that have a gradient; gradients stay as they are."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._update(group, params)
        return loss

    def _update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        lr, mu, nesterov = group["lr"], group["momentum"], group["nesterov"]
        classic, popular = self.semantics == "google", self.semantics == "google_popular"
        grads = [p.grad for p in params if p.grad is not None]
        if any(g.is_sparse for g in grads):
            raise ValueError("LARS takes no sparse gradients")
        d, ratio = _decayed(group, params, grads, self.semantics)
        if ratio is not None and not popular:
            torch._foreach_mul_(d, ratio)
        if classic:
            torch._foreach_mul_(d, lr)
        step = d
        if mu:
            buffers = [self._buffer(p) for p in params]
            torch._foreach_mul_(buffers, mu)
            torch._foreach_add_(buffers, d)
            step = buffers
            if nesterov:
                torch._foreach_add_(d, buffers, alpha=mu)
                step = d
        if popular and group["adapt"]:
            scale = _ratio(torch._foreach_norm(params), torch._foreach_norm(step), group["trust"])
            step = list(torch._foreach_mul(step, scale))
        torch._foreach_add_(params, step, alpha=-1 if classic else -lr)

    def _buffer(self, p: Tensor) -> Tensor:
        state = self.state[p]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(p)
        return state["momentum_buffer"]


def _ratio(
    weights: Iterable[Tensor], steps: Iterable[Tensor], trust: float, *, added: float | None = None
) -> list[Tensor]:
    """eta |w| / |d| of every tensor, 1 where a norm is zero; `added`: bolts' decay in the divisor.

    Norms in, 0-dimensional tensors out: no value is read on the host.
    """
    w, d = torch.stack(list(weights)), torch.stack(list(steps))
    divisor = d if added is None else d + added * w + BOLTS_EPS
    return list(torch.where((w > 0) & (d > 0), trust * w / divisor, 1).unbind())


def _decayed(
    group: dict[str, Any], params: list[Tensor], grads: list[Any], semantics: str
) -> tuple[list[Tensor], list[Tensor] | None]:
    """(d, t) of every tensor; t is None for an excluded group and in the popular form."""
    decay, trust = group["weight_decay"], group["trust"]
    if semantics == "bolts" and group["adapt"]:
        weights, norms = torch._foreach_norm(params), torch._foreach_norm(grads)
        ratio = _ratio(weights, norms, trust, added=decay)
        # a tensor without gradient does not even decay
        rates = decay * torch.stack(list(norms)).sign()
        d = torch._foreach_mul(params, list(rates.unbind()))
        torch._foreach_add_(d, grads)
        return list(d), ratio
    d = torch._foreach_add(grads, params, alpha=decay)
    if not group["adapt"] or semantics == "google_popular":
        return list(d), None
    return list(d), _ratio(torch._foreach_norm(params), torch._foreach_norm(d), trust)


class LARC(torch.optim.Optimizer):
    """Any optimizer, fed with t (g + wd w) and made to decay nothing itself.

    It is how the original SimCLR code adapts Adam and SGD.

    optimizer: its groups' weight_decay is taken over by the wrapper, groups with adapt=False get
    t = 1. Gradients are overwritten in `step`. State, groups and state dict are the optimizer's.
    Over Adam nearly nothing of t is left, because Adam is indifferent to the gradient's scale.
    Errors: ValueError.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, *, trust: float = 1e-3) -> None:
        if isinstance(optimizer, LARS | LARC):
            raise ValueError(f"{type(optimizer).__name__} is adapted already")
        self.optimizer, self.trust = optimizer, _number("trust", trust, 0)
        super().__init__([{"params": list(g["params"])} for g in optimizer.param_groups], {})
        self._share()

    def _share(self) -> None:
        self.param_groups, self.state = self.optimizer.param_groups, self.optimizer.state

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """A further group of the wrapped optimizer."""
        if getattr(self, "param_groups", None) is self.optimizer.param_groups:
            self.optimizer.add_param_group(param_group)
        else:
            super().add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """The wrapped optimizer's."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Into the wrapped optimizer."""
        self.optimizer.load_state_dict(state_dict)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of the wrapped optimizer on the adapted gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        decays = [group.get("weight_decay", 0.0) for group in self.param_groups]
        for group, decay in zip(self.param_groups, decays, strict=True):
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            grads = [p.grad for p in params]
            if decay:
                torch._foreach_add_(grads, params, alpha=decay)
            if group.get("adapt", True):
                norms = torch._foreach_norm(params), torch._foreach_norm(grads)
                torch._foreach_mul_(grads, _ratio(*norms, self.trust))
        try:
            for group in self.param_groups:
                group["weight_decay"] = 0.0
            self.optimizer.step()
        finally:
            for group, decay in zip(self.param_groups, decays, strict=True):
                group["weight_decay"] = decay
        return loss


# ----------------------------------------------------------------------------------- learning rate


def scaled_lr(base: float, batch: int, rule: str = "linear") -> float:
    """Rate for a global batch: "linear" base x B / 256 (base 0.3), "sqrt" base x sqrt(B) (0.075).

    Both are 4.8 at 4096; "sqrt" is the better one for small batches and short runs.
    Errors: ValueError. Source: Chen et al. 2020, appendix B.1.
    """
    if batch < 1:
        raise ValueError(f"batch={batch}: it must be at least 1")
    if rule not in ("linear", "sqrt"):
        raise ValueError(f"rule={rule!r}: choose 'linear' or 'sqrt'")
    return base * batch / 256 if rule == "linear" else base * math.sqrt(batch)


def _cosine(fraction: float) -> float:
    """From 1 at 0 to 0 at 1."""
    return (1 + math.cos(math.pi * fraction)) / 2


def warmup_cosine(
    step: int, total: int, warmup: int, *, peak: float = 1.0, end: float = 0.0
) -> float:
    """Rate of step 0, 1, .., total - 1: (step + 1) / warmup of peak, then a half cosine to end.

    The first step after the warm-up is at `peak`, the last at `end`; later ones stay there.
    0 <= warmup <= total. Errors: ValueError. This is lightly's schedule.
    """
    if not 0 <= warmup <= total or total < 1:
        raise ValueError(f"{warmup} warm-up steps of {total} steps make no schedule")
    if step < 0:
        raise ValueError(f"step={step}: steps count from 0")
    if step < warmup:
        return peak * (step + 1) / warmup
    if step >= total - 1:
        return end
    return end + (peak - end) * _cosine((step - warmup) / (total - warmup - 1))


def google_lr(
    step: int, *, examples: int, batch: int, epochs: int, warmup_epochs: float, peak: float
) -> float:
    """Rate of step 0, 1, .. in google's SimCLR code; peak from `scaled_lr`.

    Starts at 0, rises by peak / warmup a step, warmup = round(warmup_epochs x examples // batch),
    then a cosine to 0 at step `google_steps`. Errors: ValueError.
    """
    total = google_steps(examples, batch, epochs)
    warmup = int(round(warmup_epochs * examples // batch))
    if step < 0:
        raise ValueError(f"step={step}: steps count from 0")
    if step < warmup:
        return peak * step / warmup
    return peak * _cosine(min(1.0, (step - warmup) / max(1, total - warmup)))


def google_steps(examples: int, batch: int, epochs: int) -> int:
    """Number of steps of google's code: examples x epochs // batch + 1. Errors: ValueError."""
    if min(examples, batch, epochs) < 1:
        raise ValueError(f"{examples} examples, batch {batch}, {epochs} epochs: all at least 1")
    return examples * epochs // batch + 1


def original_lr(epoch: int, epochs: int, warmup: int, peak: float, least: float = 1e-6) -> float:
    """Rate of training epoch 1, 2, .., epochs in the original SimCLR code, to reproduce it.

    `least` in epoch 1, which is thus wasted, linear to `peak` at epoch warmup + 1, then a cosine
    that would be back at `least` in epoch epochs + 1. Errors: ValueError.
    """
    if not 1 <= epoch <= epochs:
        raise ValueError(f"epoch {epoch} of {epochs}: epochs count from 1")
    if not 0 <= warmup < epochs:
        raise ValueError(f"{warmup} warm-up epochs of {epochs} epochs make no schedule")
    done = epoch - 1
    if done < warmup:
        return least + (peak - least) * done / warmup
    return least + (peak - least) * _cosine((done - warmup) / (epochs - warmup))
