"""Folders of runs as a training script leaves them, made in no time."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

IMLE = {"data_tr": "photos", "res": [8, 16, 32], "lr": 0.003, "bs": 8, "spi": 4, "outdir": None}


def make_run(
    home: Path,
    name: str = "camnet-photos-0a1b2c3d",
    *,
    script: str = "TrainGeneratorWandB",
    options: dict[str, Any] | None = None,
    execution: tuple[str, ...] = ("spi",),
    state: str | None = "finished",
    rows: list[dict[str, Any]] | None = None,
    age: float = 0.0,
) -> Path:
    """A run's folder RESULTS/SCRIPT/NAME with small files of every kind, `age` seconds old."""
    folder = home / script / name
    (folder / "snapshots").mkdir(parents=True)
    (folder / "checkpoints" / "step-000000020").mkdir(parents=True)
    (folder / "checkpoints" / "step-000000020" / "net.pt").write_bytes(b"x" * 3000)
    (folder / "snapshots" / "network-latest.safetensors").write_bytes(b"y" * 2000)
    told = IMLE if options is None else options
    shaping = {k: v for k, v in told.items() if k not in execution and v is not None}
    when = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(time.time() - age))
    origin = {
        "command": f"/env/bin/python {script}.py --data_tr 'my photos'",
        "cwd": "/some where",
        "host": "here",
        "python": "3.11.1",
        "git": {"commit": "abc123" * 5, "dirty": True},
    }
    write(folder / "args.json", {
        "script": script, "name": name[:-9], "config_hash": name[-8:], "args": told,
        "shaping": shaping, "provenance": origin,
    })  # fmt: skip
    launch = {"time": when, "from_step": 0, "args": told, "provenance": origin}
    (folder / "launches.jsonl").write_text(json.dumps(launch) + "\n")
    (folder / "log.txt").write_text("a line\n")
    (folder / "lock").write_text("")
    if rows is None:
        rows = [{"step": 10, "val/psnr": 15.0, "val/best_psnr": 17.0, "batch loss": 0.5},
                {"step": 15, "batch loss": 0.2},
                {"step": 20, "val/psnr": 14.0, "val/best_psnr": 18.0, "batch loss": 0.4,
                 "nimg": 160}]  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if state is not None:
        write(folder / "status.json", {
            "state": state, "step": 20, "nimg": 160, "exit_code": 0, "message": "", "time": when,
        })  # fmt: skip
    for file in folder.rglob("*"):
        os.utime(file, (time.time() - age,) * 2)
    return folder


def write(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value))


def leave_lock(folder: Path, host: str | None = None) -> None:
    """What a killed process leaves in the lock: its name, and nobody holding it."""
    note = {"host": host or socket.gethostname(), "pid": 1, "job": None}
    write(folder / "lock", note)
