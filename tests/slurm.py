"""A SLURM of three small programs, to be first in PATH: jobs are started by the test itself.

sbatch writes down what was submitted, srun runs its command once for each node and hands signals
on, scontrol knows one host, which all nodes are, and writes down what is to be requeued.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = {
    "sbatch": """
[ -e "$FAKE_SLURM/full" ] && { echo "sbatch: error: beyond the quota" >&2; exit 1; }
echo "$@" >> "$FAKE_SLURM/submitted"
echo "Submitted batch job $((700 + $(wc -l < "$FAKE_SLURM/submitted")))"
""",
    "srun": """
while [[ $1 == --* ]]; do shift; done
[ "$SLURM_NNODES" = 1 ] && exec "$@"
pids=()
trap 'kill -USR1 "${pids[@]}"' USR1
trap 'kill -TERM "${pids[@]}"' TERM
for ((k = 0; k < SLURM_NNODES; k++)); do "$@" & pids+=($!); done
worst=0
for pid in "${pids[@]}"; do
  while :; do wait $pid; code=$?; kill -0 $pid 2> /dev/null || break; done
  [ $code -gt $worst ] && worst=$code
done
exit $worst
""",
    "scontrol": """
case $1 in
show) [ -e "$FAKE_SLURM/lost" ] && exit 1; echo 127.0.0.1 ;;
requeue) echo "$2" >> "$FAKE_SLURM/requeued" ;;
esac
""",
}


@dataclass
class Cluster:
    """folder: of what is written down, and of the programs. env: for whoever uses them."""

    folder: Path
    env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        programs = self.folder / "bin"
        programs.mkdir(parents=True)
        for name, text in PROGRAMS.items():
            (programs / name).write_text(f"#!/bin/bash\n{text}")
            (programs / name).chmod(0o755)
        path = f"{programs}:{os.environ['PATH']}"
        self.env = {**os.environ, "PATH": path, "FAKE_SLURM": str(self.folder)}
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_TMPDIR"):
            self.env.pop(name, None)

    def written(self, name: str) -> list[str]:
        """Lines of `submitted` or `requeued`."""
        file = self.folder / name
        return file.read_text().splitlines() if file.exists() else []

    def start(
        self, script: str | Path, job: int = 701, restart: int = 0, **env: str
    ) -> subprocess.Popen[bytes]:
        """Start a job's batch script; the shell, which is what SLURM signals."""
        told = {"SLURM_JOB_ID": str(job), "SLURM_JOB_NODELIST": "here", "SLURM_NNODES": "1"}
        told |= {"SLURM_RESTART_COUNT": str(restart)} if restart else {}
        return subprocess.Popen(["bash", str(script)], env={**self.env, **told, **env})
