"""How the C library keeps memory."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h of glibc


def keep_freed_memory(limit: int = 1 << 30) -> bool:
    """Let this process keep up to `limit` bytes it has freed, instead of giving them back at once.

    Arrays of 100 kB to 30 MB, made and freed again in every step, otherwise cost a page fault for
    each 4 kB; training the toy network on a CPU then takes 1.5 to 2 times as long.  True if it
    could be set (glibc), else nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(_TRIM_THRESHOLD, limit) and mallopt(_MMAP_THRESHOLD, limit))
