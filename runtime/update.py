"""One optimizer update: accumulate, average over ranks, check, clip, apply.

The guard: a loss or gradient that is NaN or infinite on any rank skips the update on every rank.
It costs one number fetched from the device an update, the norm of the gradients; a bad loss shows
in it because `backward` keeps loss * 0, which is NaN for a bad loss, and adds it to a gradient.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch

from runtime import distributed
from runtime.precision import LossScaler
from storage.errors import NonFiniteError, UsageError

LIMIT = 3
_SHOWN = 32  # sample ids in a message

Ids = torch.Tensor | Iterable[int | str] | None


class Updater:
    """Gradients from `backward` to the optimizer, under the non-finite guard.

    `streak` counts turns in a row in which an update was skipped; LIMIT of them are an error.
    `idle` counts those in which none was made, be it for an overflow of fp16.
    `grad_norm` is that of the last update, before clipping. `log` gets the figures of each one.
    """

    def __init__(
        self,
        scaler: LossScaler | None,
        say: Callable[[str], None],
        log: Callable[[dict[str, torch.Tensor | float]], None],
    ) -> None:
        self.scaler = scaler
        self.streak = 0
        self.idle = 0
        self.grad_norm = 0.0
        self.applied = False
        self.attempted = False
        self._say, self._log = say, log
        self._pending: list[tuple[torch.Tensor, Ids]] = []
        self._used = False
        self._complete = True
        self._turn_bad = False
        self._overflow = False
        self._spoils: list[tuple[torch.Tensor, str, str]] = []

    def begin_turn(self) -> None:
        """Forget what the last turn left, gradients apart."""
        self._pending, self._used, self._complete = [], False, True
        self._turn_bad = self._overflow = self.applied = self.attempted = False
        self._spoils = []

    def end_turn(self) -> None:
        """Count the turn for the streak and the loss scale."""
        if not self._turn_bad:
            self.streak = 0
        self.idle = self.idle + 1 if self.attempted and not self.applied else 0
        if self.scaler is not None and (self.applied or self._overflow):
            self.scaler.update(self._overflow)

    def backward(self, loss: torch.Tensor, ids: Ids, last: bool) -> None:
        """Add the gradients of the scalar `loss`; see Run.backward."""
        if loss.ndim:
            raise UsageError(f"run.backward wants a scalar loss, not shape {tuple(loss.shape)}")
        self._begin_set()
        self._pending.append((loss.detach() * 0, ids))
        self._complete = last
        (loss if self.scaler is None else loss * self.scaler.scale).backward()

    def spoil(self, bad: torch.Tensor, what: str, hint: str) -> None:
        """Skip the next update if `bad`; see Run.spoil."""
        self._begin_set()
        self._spoils.append((torch.where(bad, float("nan"), 0.0), what, hint))

    def _begin_set(self) -> None:
        if self._used:  # the first after an update: a new set of gradients
            self._pending, self._spoils, self._used = [], [], False

    def step(
        self,
        optimizer: torch.optim.Optimizer,
        clip: float | None,
        step: int,
        force_finite: bool = False,
    ) -> bool:
        """Update unless something is not finite; `step` is for the message.

        force_finite: NaN and infinite gradients of this rank become 0 before the average.
        """
        if not self._complete:
            raise UsageError(
                "run.step after run.backward(..., last=False): the last part is missing"
            )
        params = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        self._used = self.attempted = True
        if force_finite:
            for p in params:
                if p.grad is not None:
                    torch.nan_to_num_(p.grad, nan=0.0, posinf=0.0, neginf=0.0)
        poison = self._poison(params)
        several = distributed.world_size() > 1
        own_norm = _norm(params) if several else None  # before the average
        distributed.average_gradients(params)
        norm = _norm(params)
        scale = 1.0 if self.scaler is None else self.scaler.scale
        self.grad_norm = (norm + poison.to(norm)).item() / scale
        good = abs(self.grad_norm) < float("inf")  # False for NaN too
        self._log({"health/skipped": float(not good)})  # their share, as all figures are means
        if good:
            factor = 1.0 / scale
            if clip is not None and self.grad_norm > clip:
                factor *= clip / self.grad_norm
            if factor != 1.0:
                torch._foreach_mul_([p.grad for p in params if p.grad is not None], factor)
            optimizer.step()
            self.applied = True
            self._log({"health/grad_norm": self.grad_norm})
        else:
            self._skip(norm if own_norm is None else own_norm, step)
        optimizer.zero_grad(set_to_none=True)
        return good

    def _poison(self, params: list[torch.nn.Parameter]) -> torch.Tensor:
        """0 if all pending losses are finite and nothing is spoilt, else NaN; also added to one
        gradient.

        Through the gradient it reaches the other ranks with the average, for nothing.
        """
        zeros = [zero.float() for zero, _ in self._pending]
        zeros += [zero for zero, _, _ in self._spoils]
        if not zeros:
            return torch.zeros(())
        poison = torch.stack([zero.to(zeros[0].device) for zero in zeros]).sum()
        if distributed.world_size() > 1:
            filled = [p for p in params if p.numel()]
            # One that has a gradient already, so that no unused parameter gets one.
            filled.sort(key=lambda p: p.grad is None)
            target = filled[0] if filled else None
            if target is not None:
                if target.grad is None:
                    target.grad = torch.zeros_like(target)
                target.grad[(0,) * target.ndim].add_(poison.to(target.grad))
        return poison

    def _skip(self, own_norm: torch.Tensor, step: int) -> None:
        """Count, report and possibly give up; every rank comes here together."""
        bad_losses = [not bool(zero == 0) for zero, _ in self._pending]
        bad_grad = not bool(torch.isfinite(own_norm))
        wanted = bad_losses if any(bad_losses) else [bad_grad] * len(self._pending)
        ids = [
            i
            for (_, ids), bad in zip(self._pending, wanted, strict=True)
            if bad
            for i in _listed(ids)
        ]
        spoilt = next(((what, hint) for zero, what, hint in self._spoils if zero != 0), None)
        reports = distributed.gather_object(
            (any(bad_losses) or spoilt is not None, bad_grad, ids, spoilt)
        )
        loss_is_bad = any(report[0] for report in reports)
        if self.scaler is not None and not loss_is_bad and not self.scaler.exhausted:
            self._overflow = True  # fp16: the scale was too high, which is how it is found
            return
        self._overflow = True
        if not self._turn_bad:
            self._turn_bad = True
            self.streak += 1
        culprits = [(r, rep[2]) for r, rep in enumerate(reports) if rep[0] or rep[1]]
        where = "; ".join(_culprit(r, ids) for r, ids in culprits) or "sum over ranks"
        what = "loss" if loss_is_bad else "grad"
        hint = "look at these samples, or lower the learning rate or clip gradients"
        what, hint = next((report[3] for report in reports if report[3]), (what, hint))
        text = f"non-finite {what} ({where}, step {step}); skipped {self.streak}/{LIMIT}"
        self._say(text)
        if self.streak >= LIMIT:
            raise NonFiniteError(
                f"{text}: giving up after {LIMIT} in a row, nothing was saved since; {hint} and "
                "resume"
            )


def largest(tensors: list[torch.Tensor]) -> torch.Tensor:
    """Largest magnitude in non-empty lists of tensors, as a scalar; NaN if there is one."""
    norms = torch._foreach_norm([t.detach() for t in tensors], float("inf"))
    return torch.stack([n.to(norms[0].device) for n in norms]).max()


def _norm(params: list[torch.nn.Parameter]) -> torch.Tensor:
    grads = [p.grad for p in params if p.grad is not None]
    return torch.nn.utils.get_total_norm(grads) if grads else torch.zeros(())


def _listed(ids: Ids) -> list[Any]:
    if ids is None:
        return []
    return ids.reshape(-1).tolist() if isinstance(ids, torch.Tensor) else list(ids)


def _culprit(rank: int, ids: list[Any]) -> str:
    if not ids:
        return f"rank {rank}"
    more = f",... {len(ids)} in all" if len(ids) > _SHOWN else ""
    return f"rank {rank}, samples {','.join(str(i) for i in ids[:_SHOWN])}{more}"
