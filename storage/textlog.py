"""A log of figures for people to read: one `DATE | LEVEL    | NAME = VALUE` a line.

The form is that of the originals' toy example; `read_figures` reads theirs too. metrics.jsonl of a
run is the better source; this one is for those who have scripts for it.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

from storage.errors import UsageError
from storage.files import LOGS, append_line, expanded, read_text, write_text

_NUMBER = r"[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|nan|inf)"
_FIGURE = re.compile(rf"^(?P<name>.*?[^\s=:])\s*[=:]?\s*(?P<value>{_NUMBER})\s*$")
_STEP = "Iteration"


class TextLog:
    """Appends lines to `path` (None: does nothing). Errors: UsageError if it cannot be written."""

    def __init__(self, path: str | Path | None) -> None:
        self.path = None if path is None else expanded(path)

    def begin(self, run: str, step: int) -> None:
        """A header for `run` at step 0; at a later one, as it resumes, forget what is after `step`.

        Only the last run of the file can be resumed in it; others' lines are never touched.
        """
        if self.path is None:
            return
        header = f"Run {run} begins."
        lines = []
        if self.path.is_file():
            try:
                lines = read_text(self.path, LOGS).splitlines(True)
            except OSError as error:
                raise UsageError(f"cannot read the log {self.path}: {error.strerror}") from error
        starts = [i for i, line in enumerate(lines) if line.rstrip().endswith(" begins.")]
        mine = bool(starts) and lines[starts[-1]].rstrip().endswith(f"| {header}")
        if step == 0 or not mine:
            self.say(header)
            return
        for i in range(starts[-1], len(lines)):
            figure = _figure(lines[i])
            if figure is not None and figure[0] == _STEP and figure[1] > step:
                write_text(self.path, "".join(lines[:i]))
                break

    def say(self, message: str, level: str = "INFO") -> None:
        """Append one line."""
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            when = time.strftime("%Y-%m-%d %H:%M")
            append_line(self.path, f"{when} | {level:<8} | {message}")
        except OSError as error:
            raise UsageError(f"cannot write the log {self.path}: {error.strerror}") from error

    def figures(self, step: int, values: dict[str, float]) -> None:
        """A block of lines: the iteration, then each figure."""
        self.say(f"{_STEP} = {step}")
        for name, value in values.items():
            self.say(f"{name} = {value:.6g}")


def read_figures(path: str | Path) -> dict[str, dict[int, float]]:
    """{name: {iteration: value}} of a text log; lines that are no figure are passed over.

    A figure before the first iteration belongs to iteration 0. Errors: UsageError if it is missing.
    """
    path = expanded(path)
    try:
        text = read_text(path, LOGS)
    except OSError as error:
        raise UsageError(f"cannot read the log {path}: {error.strerror}") from error
    found: dict[str, dict[int, float]] = {}
    step = 0
    for line in text.splitlines():
        figure = _figure(line)
        if figure is None:
            continue
        name, value = figure
        if name == _STEP:
            step = int(value)
        else:
            found.setdefault(name, {})[step] = value
    return found


def _figure(line: str) -> tuple[str, float] | None:
    """Name and last number of a line."""
    match = _FIGURE.match(line.rsplit("|", 1)[-1].strip())
    return None if match is None else (match["name"].strip(), float(match["value"]))
