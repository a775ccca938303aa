"""Muon: for the weights of hidden layers, momentum whose singular values are all made about 1.

    m = mu m + (1 - mu) g;  u = mu m + (1 - mu) g
    w -= lr (0.2 sqrt(max(rows, columns)) O(u) + wd w)

O(u) = U V^T of the singular value decomposition u = U S V^T, by five steps of a Newton-Schulz
iteration which leave singular values between 0.68 and 1.21. A convolution `[out, in, k, k]` is the
matrix `[out, in k k]`. All else (biases, gains, first and last layers) takes AdamW's step.

Sources: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; the factor,
with which an entry moves by 0.2 lr in the root mean square, as by AdamW: Liu et al. 2025, "Muon is
Scalable for LLM Training", eq. 4. `torch.optim.Muon` is the same for matrices alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.adamw import adamw

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # a X + b X X^T X + c (X X^T)^2 X
STEPS = 5
_LIKE_ADAMW = 0.2


def orthogonalised(matrices: Tensor, *, dtype: torch.dtype | None = None) -> Tensor:
    """`[.., rows, columns]` -> the same shape and dtype, with singular values of 0.68 to 1.21.

    Those that are below two thousandths of the matrix's norm stay smaller; 0 stays 0. dtype: in
    which it is computed (default: bfloat16 on a GPU that has it, else float32, which a CPU is as
    fast in).
    """
    if dtype is None:
        low = matrices.is_cuda and torch.cuda.is_bf16_supported(including_emulation=False)
        dtype = torch.bfloat16 if low else torch.float32
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = (matrices.mT if tall else matrices).to(dtype)
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1e-7)
    a, b, c = NEWTON_SCHULZ
    for _ in range(STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Muon in groups with `muon` above 0, AdamW (fused) in the others.

    params: parameters, or groups with their own lr, weight_decay, betas, eps, momentum and `muon`,
    which is Muon's learning rate over `lr`. Where its state is cleared a group may go on by AdamW,
    `muon` being set to 0. Matrices of one shape are orthogonalised together. dtype: of
    `orthogonalised`.
    Errors: ValueError for numbers out of range and for a parameter of Muon's that is no matrix.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.dtype = dtype
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        # `fused`: so that torch restores AdamW's count of steps to the device of its parameter.
        super().__init__(params, {**defaults, "momentum": momentum, "muon": 0.0, "fused": True})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """A further group. Errors: ValueError."""
        super().add_param_group(param_group)
        try:
            _check(self.param_groups[-1])
        except ValueError:
            self.param_groups.pop()
            raise

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "dtype": self.dtype}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update; returns the closure's value, if there is one."""
        value = None
        if closure is not None:
            with torch.enable_grad():
                value = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                (self._muon if group["muon"] else self._adamw)(group, params)
        return value

    def _muon(self, group: dict[str, Any], params: list[Tensor]) -> None:
        grads = [cast(Tensor, p.grad) for p in params]
        lr = group["lr"] * group["muon"]
        for p in params:
            if not self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        momenta, mu = [self.state[p]["momentum"] for p in params], group["momentum"]
        torch._foreach_lerp_(momenta, grads, 1 - mu)
        updates = torch._foreach_lerp(grads, momenta, mu)
        if group["weight_decay"]:
            torch._foreach_mul_(params, 1 - lr * group["weight_decay"])
        alike: dict[tuple[Any, ...], list[int]] = {}
        for at, p in enumerate(params):
            alike.setdefault((len(p), p[0].numel(), p.device, p.dtype), []).append(at)
        for (rows, columns, _, _), places in alike.items():
            together = torch.stack([updates[at].flatten(1) for at in places])
            made = orthogonalised(together, dtype=self.dtype)
            size = lr * _LIKE_ADAMW * math.sqrt(max(rows, columns))
            for at, update in zip(places, made, strict=True):
                params[at].add_(update.view(params[at].shape), alpha=-size)

    def _adamw(self, group: dict[str, Any], params: list[Tensor]) -> None:
        for p in params:
            if not self.state[p]:
                step = torch.zeros((), dtype=torch.float32, device=p.device)
                first, second = torch.zeros_like(p), torch.zeros_like(p)
                self.state[p].update(step=step, exp_avg=first, exp_avg_sq=second)
        states = [self.state[p] for p in params]
        adamw(
            params,
            [cast(Tensor, p.grad) for p in params],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def _check(group: dict[str, Any]) -> None:
    for name in ("lr", "weight_decay", "muon", "eps", "momentum"):
        below = 1.0 if name == "momentum" else math.inf
        if not (isinstance(group[name], int | float) and 0 <= group[name] < below):
            upper = "finite" if below == math.inf else f"below {below:g}"
            raise ValueError(f"{name}={group[name]!r}: it must be at least 0 and {upper}")
    if not (len(group["betas"]) == 2 and all(0 <= beta < 1 for beta in group["betas"])):
        raise ValueError(f"betas={group['betas']!r}: they must be two numbers from 0 to below 1")
    if group["muon"]:
        for p in group["params"]:
            if p.ndim < 2:
                raise ValueError(
                    f"a parameter of shape {tuple(p.shape)} is no matrix: it belongs into a group "
                    "without muon"
                )
