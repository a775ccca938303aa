"""Memory: how the C library keeps it, and a lack of it recognised in its many disguises."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Mapping
from typing import Any

import torch

from storage.errors import OutOfMemory
from storage.files import read_bytes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
_SIGNS = (
    "DefaultCPUAllocator: can't allocate",
    "DefaultCPUAllocator: not enough memory",
    "CUDA out of memory",
    "Cannot allocate memory",
)
_KILLED_WORKER = ("is killed by signal: Killed", "exited unexpectedly")
_SIZES = ("bs", "batch", "batch_size", "mini_bs", "batch_gpu", "sp", "code_bs", "spi")


# What else takes memory, and is named first where it is larger than what most networks have.
_WIDTHS = (
    "channels", "dim", "layers", "num_blocks", "n_blocks", "res", "crop_size", "picture_size",
    "proj_dim", "proj_hidden", "label_dim", "latent_nc", "map_nc", "code_nc", "resid_nc",
    "dense_nc", "max_nc", "sample_images", "test_samples", "val_samples", "views", "view_batch",
)  # fmt: skip
_WIDE = 1024


def _largest(value: Any) -> float:
    numbers = value if isinstance(value, list | tuple) else [value]
    return max((n for n in numbers if isinstance(n, int | float)), default=0)


def keep_freed_memory(limit: int = 1 << 30) -> bool:
    """Let this process keep memory it has freed, instead of giving it back to the system at once.

    Arrays up to `limit` bytes come from the heap, of whose top up to `limit` free bytes are kept;
    what is free below memory in use stays too.  Arrays made and freed again in every step otherwise
    cost a page fault for each 4 kB: training the toy network on a CPU then takes 1.5 to 2 times as
    long, a step of SimCLR 1.1 times.  True if it could be set (glibc), else nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    # Older ones refuse more than 32 MiB. Setting either ends the threshold's own adaption, so the
    # second is set only where the first was taken.
    if not (mallopt(_MMAP_THRESHOLD, limit) or mallopt(_MMAP_THRESHOLD, min(limit, 32 << 20))):
        return False
    return bool(mallopt(_TRIM_THRESHOLD, limit))


def room(device: torch.device) -> int | None:
    """Bytes that a device has in all, be they free or not: of the host no more than its control
    group allows. None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    found = []
    with contextlib.suppress(ValueError, OSError):
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(ValueError, OSError):
            found.append(int(read_bytes(f"/sys/fs/cgroup/{name}", 1 << 12)))
    return min(found, default=None)


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
    wide = [k for k in _WIDTHS if _largest(flags.get(k)) > _WIDE]
    named = [*wide, *(k for k in _SIZES if flags.get(k) is not None)]
    sizes = ", ".join(f"--{k} ({flags[k]})" for k in named)
    peak = ""
    if device.type == "cuda":
        peak = f"; peak {torch.cuda.max_memory_allocated(device) / 1e9:.1f} GB"
    return OutOfMemory(
        f"out of memory on {device} in step {step}{peak}; lower {sizes or 'the batch size'}"
    )
