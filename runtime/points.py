"""How many figures metrics.jsonl holds, so that a file which was cut is noticed at resume.

A checkpoint remembers the number of lines and the last one's step: {"lines": 12, "last": 120}.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from storage.files import LOGS, open_plain, read_last_lines, read_lines


def count(metrics: Path) -> dict[str, int]:
    """What a checkpoint remembers of metrics.jsonl; {} where it cannot be read."""
    if not metrics.exists():
        return {"lines": 0, "last": 0}
    try:
        if metrics.stat().st_size > LOGS:
            return {}
        with open_plain(metrics) as file:
            lines = sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
        last = (read_last_lines(metrics) or [{}])[-1].get("step", 0)
    except OSError:
        return {}
    return {"lines": lines, "last": last}


def lost(metrics: Path, meta: Mapping[str, Any], completed: int) -> str:
    """What is said where metrics.jsonl lacks lines that it had at a checkpoint; "" for nothing.

    meta: of the checkpoint of step `completed`. One of an earlier version does not tell the number:
    then only an end that is missing is noticed, by the steps between lines.
    """
    try:
        steps = [line["step"] for line in read_lines(metrics) if isinstance(line.get("step"), int)]
    except OSError as error:
        return f"metrics.jsonl cannot be read ({error.strerror}): its figures are not shown"
    steps = sorted(step for step in steps if step <= completed)
    every = meta.get("args", {}).get("log_every")
    every = every if isinstance(every, int) and every > 0 else completed + 1
    last_there = steps[-1] if steps else 0
    known = meta.get("points")
    if not isinstance(known, dict) or "lines" not in known:
        if last_there + every > completed:
            return ""
        gone = "metrics.jsonl lacks figures"
        last = completed
    else:
        missing, last = known["lines"] - len(steps), known["last"]
        if missing <= 0:
            return ""
        points = "point" if known["lines"] == 1 else "points"
        gone = f"metrics.jsonl lacks {missing} of {known['lines']} {points} up to step {completed}"
    if not steps:
        where = "the file is gone" if not metrics.exists() else "none is left in it"
    elif last_there < last:
        where = f"those after step {last_there}"
    else:
        there = set(steps)
        due = (step for step in range(every, last, every) if step not in there)
        where = f"from step {next(due, steps[0])} on"
    return f"{gone} ({where}): the file was cut, and they are lost; training goes on"
