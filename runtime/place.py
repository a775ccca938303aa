"""Where this process is: its rank by the launcher's variables, its meeting point, its device.

Only the environment is read, nothing is initialised:
- `torchrun` sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT; `runtime.launch` the
  first three, and a file to meet at.
- `srun`, one task per GPU, sets SLURM_PROCID, SLURM_NTASKS and SLURM_LOCALID; the meeting point is
  the first host of the node list, port 10000 + job id % 20000 (below the ephemeral range);
  MASTER_ADDR and MASTER_PORT win when set.
- Otherwise there is one process.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch

from storage.console import tell
from storage.errors import UsageError

CPU_RANKS = "IMLE_LAB_CPU_RANKS"
_SHELLS = ("sh", "bash", "dash", "zsh", "ksh", "csh", "tcsh", "fish")
STORE = "IMLE_LAB_STORE"  # a file; set by the launcher for its own ranks only


class Place(NamedTuple):
    """This process among the others, as the environment says, before anything is initialised."""

    rank: int
    world: int
    local_rank: int
    source: str  # "one" | "spawn" | "torchrun" | "slurm"


def env_int(env: Mapping[str, str], name: str) -> int:
    """A variable as a whole number. Errors: UsageError if it is missing or none."""
    try:
        return int(env[name])
    except KeyError:
        raise UsageError(
            f"{name} is not set, but the other variables of its launcher are"
        ) from None
    except ValueError:
        raise UsageError(f"{name}={env[name]!r} is not a whole number") from None


def place(env: Mapping[str, str] | None = None) -> Place:
    """Read rank and world size from the launcher's variables. Errors: UsageError if they clash."""
    env = os.environ if env is None else env
    if "RANK" in env and "WORLD_SIZE" in env:
        source = "spawn" if STORE in env else "torchrun"
        local = env_int(env, "LOCAL_RANK") if "LOCAL_RANK" in env else 0
        found = Place(env_int(env, "RANK"), env_int(env, "WORLD_SIZE"), local, source)
    elif "SLURM_PROCID" in env and not _slurm_shell(env):
        tasks = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in env else "SLURM_NTASKS"
        world = env_int(env, tasks) if tasks in env else 1
        local = env_int(env, "SLURM_LOCALID") if "SLURM_LOCALID" in env else 0
        found = Place(env_int(env, "SLURM_PROCID"), world, local, "slurm")
    else:
        return Place(0, 1, 0, "one")
    if found.world == 1 and found.rank == 0 and found.source == "slurm":
        return Place(0, 1, 0, "one")  # one task may still use several GPUs: let the launcher spawn
    if not 0 <= found.rank < found.world or found.local_rank < 0:
        raise UsageError(f"rank {found.rank} of {found.world} processes makes no sense")
    return found


def _slurm_shell(env: Mapping[str, str]) -> bool:
    # In a batch script, outside srun, SLURM sets PROCID=0 and NTASKS to the whole job's: believing
    # them would mean waiting for tasks that nobody started. Only srun sets a step id; those of the
    # batch script and of salloc's shell are names, or numbers from 2**32 - 16 on.
    step = env.get("SLURM_STEP_ID", env.get("SLURM_STEPID"))
    if step is None:
        return "SLURM_TASK_PID" in env
    if not step.isdigit() or int(step) >= 2**32 - 16:
        return True
    # `srun --pty bash`: one types into the shell of task 0, and the others have no terminal.
    return "SLURM_PTY_PORT" in env and _is_bare_shell(env.get("SLURM_TASK_PID", ""))


def _is_bare_shell(pid: str) -> bool:
    """Whether a process is a shell that reads commands from its terminal, and not a script."""
    try:
        with open(f"/proc/{int(pid)}/cmdline", "rb") as file:
            words_ = file.read().decode(errors="replace").rstrip("\0").split("\0")
    except (OSError, ValueError):
        return False
    name = os.path.basename(words_[0]).lstrip("-")
    options = words_[1:]
    return name in _SHELLS and all(o.startswith("-") and o != "-c" for o in options)


def shell_of_several(env: Mapping[str, str] | None = None) -> int:
    """Tasks of the SLURM step or job in whose shell this process was started alone; else 0."""
    env = os.environ if env is None else env
    if "SLURM_PROCID" not in env or "WORLD_SIZE" in env or not _slurm_shell(env):
        return 0
    count = env.get("SLURM_STEP_NUM_TASKS") or env.get("SLURM_NTASKS") or "1"
    return int(count) if count.isdigit() and int(count) > 1 else 0


def first_host(nodelist: str) -> str:
    """First host of a SLURM node list: `gpu[03-05,07],node1` -> `gpu03`. Errors: UsageError."""
    if shutil.which("scontrol"):
        try:
            done = subprocess.run(
                ["scontrol", "show", "hostnames", nodelist],
                capture_output=True,
                text=True,
                timeout=30,
            )
            if done.returncode == 0 and done.stdout.split():
                return done.stdout.split()[0]
        except (OSError, subprocess.TimeoutExpired):
            pass  # containers often carry a scontrol that cannot reach the controller
    first = re.match(r"((?:[^,\[\]]|\[[^\[\]]*\])+)(?:,|$)", nodelist.strip())
    host = re.sub(r"\[([^\[\],-]+)[^\[\]]*\]", r"\1", first[1]) if first else ""
    if not re.fullmatch(r"(?!\d+$)[A-Za-z0-9][A-Za-z0-9._-]*", host):
        raise UsageError(f"no host name in the SLURM node list {nodelist!r}; set MASTER_ADDR")
    return host


def slurm_meeting_point(env: Mapping[str, str]) -> tuple[str, int]:
    """(host, port) where the tasks of a SLURM step meet. Never guesses localhost: UsageError."""
    nodelist = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST") or ""
    nodes = env.get("SLURM_STEP_NUM_NODES") or env.get("SLURM_NNODES") or ""
    one_node = nodes == "1" or (not nodes and re.fullmatch(r"[^,\[\]]+", nodelist) is not None)
    host = env.get("MASTER_ADDR")
    if not host and one_node:
        host = "127.0.0.1"
    if not host and not nodelist:
        raise UsageError("several SLURM tasks but no SLURM_JOB_NODELIST: set MASTER_ADDR")
    if not host:
        host = first_host(nodelist)
    if env.get("MASTER_PORT"):
        return host, env_int(env, "MASTER_PORT")
    if "SLURM_JOB_ID" not in env:
        raise UsageError("several SLURM tasks but no SLURM_JOB_ID: set MASTER_PORT")
    step = env.get("SLURM_STEP_ID", "0")
    # Steps of one job may run side by side, so each gets a port of its own.
    return host, 10000 + (
        env_int(env, "SLURM_JOB_ID") + (int(step) if step.isdigit() else 0)
    ) % 20000


def choose_device(gpus: Sequence[int] | None = None) -> torch.device:
    """The device of this rank.

    `gpus`: numbers to use, one per local rank; [] = CPU; None = what is there, and without a GPU
    that is the CPU, said once. Errors: UsageError for a GPU that was named and is missing.
    """
    here = place()
    if gpus is not None and not len(gpus):
        return torch.device("cpu")
    if os.environ.get(CPU_RANKS):
        if gpus:
            raise UsageError(f"--gpus {words(gpus)} and {CPU_RANKS} exclude each other")
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpus is None and count == 0:
        if here.rank == 0:
            tell("no GPU found: running on the CPU")
        return torch.device("cpu")
    check_gpus(gpus, count)
    listed = list(range(count)) if gpus is None else list(gpus)
    if len(listed) == 1 and here.source == "slurm":
        index = listed[0]  # SLURM usually shows every task its own GPU only, as number 0
    elif here.local_rank < len(listed):
        index = listed[here.local_rank]
    else:
        raise UsageError(
            f"process {here.local_rank + 1} on this machine has no GPU: there are {len(listed)} "
            f"({words(listed)}); start fewer processes or use --gpus cpu"
        )
    device = torch.device("cuda", index)
    torch.cuda.set_device(device)
    return device


def check_gpus(gpus: Sequence[int] | None, count: int) -> None:
    """UsageError unless every one of `gpus` is among the `count` that torch can use."""
    missing = [g for g in gpus or () if not 0 <= g < count]
    if missing:
        there = f"GPUs 0 to {count - 1}" if count else "no GPU"
        raise UsageError(f"--gpus {words(missing)}: this machine has {there} that torch can use")


def words(values: Iterable[object]) -> str:
    """The values in a row, as one types them."""
    return " ".join(str(v) for v in values)
