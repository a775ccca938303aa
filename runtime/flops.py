"""How much a step computes: its FLOPs, and what the device could do at most.

FLOPs are those of matrix products, convolutions and attention, two for a multiplication and its
addition, by the formulas of torch.utils.flop_counter. One step of each kind is counted while it
runs, and all steps of its kind are taken to compute as much. What is put beside them is a peak
measured here, by square matrix products in the format that training uses: no figure of a data
sheet, and on a busy machine a low one.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections import Counter
from collections.abc import Hashable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

_ENOUGH_S = 0.01  # a product that takes longer is large enough
_LARGEST = {"cpu": 1024, "cuda": 8192}  # rows of a square matrix
_REPEATS = 3


class FlopCounter(TorchDispatchMode):
    """Adds up the FLOPs of all operators run inside: `flops`. Their results are as without it.

    torch's own FlopCounterMode follows modules too, by hooks on every one of them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Compiled code stays compiled; what is seen of it are the library calls that it makes."""
        return True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        packet = getattr(func, "_overloadpacket", None)
        if packet not in flop_registry and _made_of_others(func):
            with self:  # without autograd a linear layer comes as one operator, not as its product
                return func.decompose(*args, **kwargs)
        out = func(*args, **kwargs)
        if packet in flop_registry:
            self.flops += flop_registry[packet](*args, **kwargs, out_val=out)
        return out


@functools.cache
def _made_of_others(func: Any) -> bool:
    """Whether an operator is nothing but calls of others, on every device.

    One that has code of its own beside, such as the gradient of SiLU, rounds differently in parts.
    """
    if not isinstance(func, torch._ops.OpOverload):
        return False
    has = functools.partial(torch._C._dispatch_has_kernel_for_dispatch_key, func.name())
    return has("CompositeImplicitAutograd") and not (has("CPU") or has("CUDA"))


class StepFlops:
    """FLOPs of the steps of a launch, each kind counted once.

    `begin(kind)`, in the step `updated()` after each update, `end()`; `pop()` gives the FLOPs since
    the last `pop`. Steps of one kind compute the same. A step of kind None also does something that
    those which follow it do not, such as a search: it is taken for one of theirs, and not the one
    to be counted. Neither is the first of a kind, in which a launch warms up. What a step does
    after its last update, such as an evaluation, is not counted.
    """

    def __init__(self) -> None:
        self._known: dict[Hashable, int] = {}
        self._seen: set[Hashable] = set()
        self._turns: Counter[Hashable] = Counter()  # since the last pop
        self._counter: FlopCounter | None = None
        self._kind: Hashable = None  # of the step that is counted
        self._counted = 0

    def begin(self, kind: Hashable) -> None:
        """A step begins."""
        self._turns[kind] += 1
        if kind is None:
            return
        self._turns[kind] += self._turns.pop(None, 0)
        if kind in self._seen and kind not in self._known:
            self._counter, self._kind, self._counted = FlopCounter(), kind, 0
            self._counter.__enter__()
        self._seen.add(kind)

    def updated(self) -> None:
        """An update of this step is done."""
        if self._counter is not None:
            self._counted = self._counter.flops

    def end(self) -> None:
        """The step is over."""
        if self._counter is not None:
            self.close()
            self._known[self._kind] = self._counted

    def close(self) -> None:
        """Count no further, wherever a step has ended."""
        counter, self._counter = self._counter, None
        if counter is not None:
            counter.__exit__(None, None, None)

    def pop(self) -> int | None:
        """FLOPs of the steps since the last call; None as long as those of one are not known."""
        turns, self._turns = self._turns, Counter()
        if not turns or not turns.keys() <= self._known.keys():
            return None
        return sum(self._known[kind] * count for kind, count in turns.items())


@functools.cache
def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the fastest square matrix product of `dtype`, as torch multiplies at the moment
    (TF32 or not, so many threads): measured once a process, on a CPU in a fraction of a second.
    """
    largest = _LARGEST.get(device.type, _LARGEST["cpu"])
    random = torch.Generator(device).manual_seed(0)  # a GPU multiplies zeros faster
    best, size = 0.0, 256
    while True:
        a, b = (torch.randn(size, size, device=device, generator=random).to(dtype) for _ in "ab")
        seconds = min(_seconds(a, b) for _ in range(_REPEATS))
        best = max(best, 2.0 * size**3 / seconds)
        if size >= largest or seconds > _ENOUGH_S:
            return best
        size *= 2


def _seconds(a: torch.Tensor, b: torch.Tensor) -> float:
    with torch.no_grad(), contextlib.ExitStack() as stack:
        for kind in {"cpu", a.device.type}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        (a @ b)[0, 0].item()  # the first product of a size looks for its algorithm
        begun = time.perf_counter()
        (a @ b)[0, 0].item()  # which waits for the device
        return time.perf_counter() - begun
