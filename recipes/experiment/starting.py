"""Runs are started: as jobs of SLURM by `sbatch`, or here, one after the other."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recipes.experiment.folders import Job
from recipes.experiment.params import exported
from storage.errors import Preempted, RunError, UsageError

_FORWARDED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


def require_sbatch() -> None:
    """UsageError where there is no sbatch."""
    if shutil.which("sbatch") is None:
        raise UsageError(
            "there is no sbatch here to submit with; --local runs them here, --dry-run shows them"
        )


def submit(file: Path) -> str:
    """Submit a batch script; the job's number. Errors: RunError with what sbatch said."""
    try:
        done = subprocess.run(
            ["sbatch", str(file)], capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
    except OSError as error:
        raise RunError(f"sbatch {file}: {error.strerror}") from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "no word").splitlines()[-1]
        raise RunError(f"sbatch {file} failed with {done.returncode}: {said}")
    numbers = re.findall(r"\d+", done.stdout)
    return numbers[0] if numbers else "of unknown number"


def run_here(
    jobs: list[Job], about: dict[str, Any], say: Callable[[str], object]
) -> list[tuple[Job, int]]:
    """Run them one after the other; (job, exit code) of those that failed.

    Signals go to the run that is going on. One that was preempted ends them all: Preempted.
    """
    failed = []
    for k, job in enumerate(jobs, 1):
        say(f"{job.folder.name} ({k} of {len(jobs)}): {' '.join(job.run.script)}")
        code = _run(job, about)
        if code in (Preempted.exit_code, -signal.SIGINT, 128 + signal.SIGINT):
            raise Preempted(
                f"{job.folder.name} was told to stop, and {len(jobs) - k} more were not begun; "
                f"goes on by: {command_line(job)}"
            )
        if code:
            say(f"{job.folder.name} failed with {code}; again by: {command_line(job)}")
            failed.append((job, code))
    return failed


def command_line(job: Job) -> str:
    """What runs a run here, as one types it."""
    return shlex.join([sys.executable, *job.run.command])


def _run(job: Job, about: dict[str, Any]) -> int:
    env = os.environ | exported(about, job.run.asked)
    process = subprocess.Popen([sys.executable, *job.run.command], env=env)
    with _forwarding(process):
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:  # the terminal has sent it to the run too
                continue


@contextmanager
def _forwarding(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Signals to this process go to that one."""
    before = {
        number: signal.signal(number, lambda number, frame: process.send_signal(number))
        for number in _FORWARDED
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
