"""Where the processes of a run meet: the store they share, and what is said while some are missing.

A shell that SLURM or a job before left its variables in looks like one of several tasks; whoever
types a command there must be told at once what it waits for, and how to do without.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta

import torch.distributed as dist

from runtime.place import STORE, Place, slurm_meeting_point
from storage.console import tell
from storage.errors import WaitError

_AT_ONCE_S, _LATER_S = 1.0, 10.0  # until it is said that somebody is missing
_KEY = "imle-lab/here"


class Meeting:
    """The meeting of the processes that `here` is one of; they have `limit` seconds.

    Errors: UsageError where the variables name no meeting point.
    """

    def __init__(self, here: Place, limit: float) -> None:
        self.here, self.limit = here, limit
        self.came: int | None = None  # how many are there, as far as is known
        env = os.environ
        self._address: tuple[str, int] | None = None
        # torchrun has a store of its own, which `env://` finds.
        self._agent = env.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        if here.source == "spawn":
            self.where = env[STORE]
        elif here.source == "slurm":
            self._address = slurm_meeting_point(env)
            self.where = f"{self._address[0]}:{self._address[1]}"
        else:
            host, port = env.get("MASTER_ADDR"), env.get("MASTER_PORT", "")
            self.where = f"{host}:{port or None}"
            if host and port.isdigit() and not self._agent:
                self._address = host, int(port)

    def store(self) -> dist.Store | None:
        """What they share, once all are there; None: torch finds it by the variables.

        Errors: WaitError, and torch's own where the meeting point does not answer.
        """
        span = timedelta(seconds=self.limit)
        if self.here.source == "spawn":
            # One machine: a file needs no port that somebody else could take meanwhile.
            file = dist.FileStore(self.where, self.here.world)
            file.set_timeout(span)
            return file
        if self._address is None:
            return None
        host, port = self._address
        end = time.monotonic() + self.limit
        first = self.here.rank == 0
        store = dist.TCPStore(host, port, self.here.world, first, span, wait_for_workers=False)
        store.add(_KEY, 1)
        while (came := store.add(_KEY, 0)) < self.here.world:
            self.came = came
            if time.monotonic() > end:
                raise WaitError(f"{self.failed()} in {self.limit:g} s; {self.advice()}")
            time.sleep(0.05)
        return store

    def wait(self, join: Callable[[], None]) -> None:
        """`join()` in a thread, so that Ctrl-C ends the waiting, and a line says whom it is for."""
        failed: list[BaseException] = []

        def work() -> None:
            try:
                join()
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=work, name="meeting", daemon=True)
        thread.start()
        launched = self.here.source == "spawn" or self._agent or self.here.rank != 0
        thread.join(_LATER_S if launched else _AT_ONCE_S)
        if thread.is_alive():
            came = "" if self.came is None else f" ({self.came} of {self.here.world} are there)"
            tell(
                f"{self._known_by()} say that this is process {self.here.rank} of "
                f"{self.here.world}: waiting for the others at {self.where}{came}, at most "
                f"{self.limit:g} s; {self.advice()}",
                sys.stderr,
            )
        while thread.is_alive():
            thread.join(0.2)
        if failed:
            raise failed[0]

    def failed(self) -> str:
        """The beginning of what is said when they did not meet."""
        came = "" if self.came is None else f" ({self.came} came)"
        return (
            f"rank {self.here.rank} of {self.here.world} could not meet the others at "
            f"{self.where}{came}"
        )

    def advice(self) -> str:
        """How to start alone, and how to start all."""
        program = os.path.basename(sys.argv[0]) or "SCRIPT"
        if self.here.source == "slurm":
            return (
                f"to run alone: env -u SLURM_PROCID python {program} ...; to start one process a "
                f"task: srun python {program} ..."
            )
        if self.here.source == "torchrun":
            return (
                f"to run alone: env -u RANK -u WORLD_SIZE python {program} ...; to start all: "
                f"torchrun --nproc-per-node {self.here.world} {program} ..."
            )
        return "one of them may have failed to start"

    def _known_by(self) -> str:
        return {
            "slurm": "SLURM's variables (SLURM_PROCID, SLURM_NTASKS)",
            "torchrun": "RANK and WORLD_SIZE",
        }.get(self.here.source, "The launcher's variables")
