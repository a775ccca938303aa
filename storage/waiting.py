"""How long one process waits for another, and what the system says that the other one does."""

from __future__ import annotations

import os
import re

from storage.errors import UsageError

WAIT = "IMLE_LAB_WAIT_S"
WAIT_S = 1800.0  # seconds after which a wait for another process is given up
STATES = {"T": "stopped", "t": "stopped by a debugger", "D": "in a read of the disk or network"}


def wait_limit() -> float:
    """Seconds to wait for a worker or another rank: IMLE_LAB_WAIT_S, else 1800.

    Errors: as of `seconds_in`.
    """
    return seconds_in(WAIT, WAIT_S)


def seconds_in(variable: str, default: float) -> float:
    """Seconds that an environment variable says, else the default.

    Errors: UsageError for a value that is no positive number.
    """
    said = os.environ.get(variable, "").strip()
    try:
        limit = float(said) if said else default
    except ValueError:
        limit = 0.0
    if not 0 < limit < 1e9:
        raise UsageError(f"{variable}={said!r} is not a number of seconds above 0")
    return limit


def state_of(pid: int) -> str:
    """The letter that the system has for what a process does (T: stopped); "" if it has none."""
    try:
        with open(f"/proc/{pid}/stat") as table:
            return table.read().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


def doing(holder: str) -> str:
    """How a `process PID on HOST` of this machine is stopped; "" if it is not, or far away."""
    known = re.match(r"process (\d+) on (\S+)", holder)
    if known is None or known[2] != os.uname().nodename:
        return ""
    state = state_of(int(known[1]))
    return STATES[state] if state in ("T", "t") else ""
