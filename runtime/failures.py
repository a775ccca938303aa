"""Recognise a lack of memory in its many disguises."""

from collections.abc import Mapping
from typing import Any

import torch

from storage.errors import OutOfMemory

_SIGNS = (
    "DefaultCPUAllocator: can't allocate",
    "DefaultCPUAllocator: not enough memory",
    "CUDA out of memory",
    "Cannot allocate memory",
)
_KILLED_WORKER = ("is killed by signal: Killed", "exited unexpectedly")
_SIZES = ("bs", "batch", "batch_size", "mini_bs", "batch_gpu", "sp", "code_bs", "spi")


def as_out_of_memory(
    error: BaseException, step: int, flags: Mapping[str, Any], device: torch.device
) -> OutOfMemory | None:
    """The OutOfMemory to raise instead of `error`, with advice; None if it is something else.

    A data worker that was killed counts: on Linux that is how a host out of memory looks.
    """
    text = str(error)
    if isinstance(error, RuntimeError) and "DataLoader worker" in text:
        if not any(sign in text for sign in _KILLED_WORKER):
            return None
        workers = flags.get("num_workers")
        return OutOfMemory(
            f"a data worker was killed in step {step}, most likely for lack of memory on the host; "
            f"lower --num_workers ({workers})"
        )
    memory = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    if not memory and not (
        isinstance(error, (RuntimeError, OSError)) and any(sign in text for sign in _SIGNS)
    ):
        return None
    sizes = ", ".join(f"--{k} ({flags[k]})" for k in _SIZES if flags.get(k) is not None)
    peak = ""
    if device.type == "cuda":
        peak = f"; peak {torch.cuda.max_memory_allocated(device) / 1e9:.1f} GB"
    return OutOfMemory(
        f"out of memory on {device} in step {step}{peak}; lower {sizes or 'the batch size'}"
    )
