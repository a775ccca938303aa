"""Where a run came from: command, code, packages, machine."""

import contextlib
import hashlib
import os
import platform
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from storage.files import write_bytes

_DIFF_LIMIT = 20_000_000  # bytes; a larger diff is data, not code


def collect(run_dir: Path) -> dict[str, Any]:
    """Describe this launch; uncommitted changes are saved to `run_dir/provenance/*.patch`."""
    return {
        "command": shlex.join([sys.executable, *sys.argv]),
        "cwd": _working_directory(),
        "git": _git(run_dir),
        "python": platform.python_version(),
        "packages": _packages(),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "pid": os.getpid(),
        "slurm": {k: v for k, v in sorted(os.environ.items()) if _is_slurm_id(k)},
    }


def _working_directory() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return ""


def job() -> str | None:
    """SLURM's name for this job (`array_task` form for arrays), None outside SLURM."""
    env = os.environ
    if "SLURM_ARRAY_JOB_ID" in env:
        return f"{env['SLURM_ARRAY_JOB_ID']}_{env.get('SLURM_ARRAY_TASK_ID', '')}"
    return env.get("SLURM_JOB_ID")


def _is_slurm_id(name: str) -> bool:
    return name in {
        "SLURM_JOB_ID",
        "SLURM_JOB_NAME",
        "SLURM_ARRAY_JOB_ID",
        "SLURM_ARRAY_TASK_ID",
        "SLURM_RESTART_COUNT",
        "SLURM_NODELIST",
        "SLURM_JOB_NODELIST",
        "SLURM_NNODES",
        "SLURM_NTASKS",
        "SLURM_JOB_PARTITION",
    }


def _packages() -> dict[str, str]:
    """Installed distributions, from the names of their folders: reading them all takes 0.1 s."""
    found: dict[str, str] = {}
    for entry in sys.path:
        with contextlib.suppress(OSError):  # a zip; a folder that may not be looked into
            for name in os.listdir(entry):
                if name.endswith(".dist-info"):
                    package, _, version = name.removesuffix(".dist-info").rpartition("-")
                    found.setdefault(package, version)
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def commit() -> str | None:
    """The commit of the checkout this file is in; None without git or a checkout."""
    said = _ask_git("rev-parse", "HEAD")
    return None if said is None else said.decode().strip()


def _git(run_dir: Path) -> dict[str, Any] | None:
    """Commit and state of the checkout this file is in; None without git or a checkout."""
    head = commit()
    if head is None:
        return None
    status = _ask_git("status", "--porcelain", "--untracked-files=normal") or b""
    diff = _ask_git("diff", "HEAD", "--binary") or b""
    name = None
    if diff and len(diff) <= _DIFF_LIMIT:
        file = run_dir / "provenance" / f"{head[:8]}-{hashlib.sha256(diff).hexdigest()[:8]}.patch"
        with contextlib.suppress(OSError):  # a full disk; the run itself will tell
            file.parent.mkdir(parents=True, exist_ok=True)
            if not file.exists():
                write_bytes(file, diff)
            name = f"provenance/{file.name}"
    return {
        "commit": head,
        "dirty": bool(diff),
        "diff": name,
        "untracked": sum(line.startswith(b"??") for line in status.splitlines()),
    }


def _ask_git(*words: str) -> bytes | None:
    root = Path(__file__).resolve().parent.parent
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *words],
            capture_output=True,
            timeout=20,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
