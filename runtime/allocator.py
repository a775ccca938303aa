"""How the C library keeps memory."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h of glibc


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
