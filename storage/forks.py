"""What an object does in children that are forked while it lives.

`os.register_at_fork` keeps what it is given for ever, and with it all that hangs on it: of a run
its network, its loss and its data. Here one function is registered, which knows objects weakly.
"""

from __future__ import annotations

import functools
import os
import weakref
from collections.abc import Callable

_WANTED: set[weakref.WeakMethod[Callable[[], None]]] = set()


def in_children(method: Callable[[], None]) -> None:
    """Call a bound method in every child that is forked from now on while its object lives."""
    _hear_of_forks()
    _WANTED.add(weakref.WeakMethod(method, _WANTED.discard))


@functools.cache
def _hear_of_forks() -> None:
    os.register_at_fork(after_in_child=_tell)


def _tell() -> None:
    for known in list(_WANTED):
        method = known()
        if method is not None:
            method()
