"""A run's folder as values for Python: arrays of figures, options, paths."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np

from recipes.runs import about, figures, reading
from storage.errors import UsageError


class OpenedRun:
    """A run's folder as values, read when it is opened: `open_run` again for what came since.

    path, name, script: of its folder. method, task, data: in words. state: running, preempted,
    stopped, finished, failed, died (without a word) or new. step: steps done. nimg: images seen.
    options: {name: value}. status: status.json. Errors: UsageError.
    """

    def __init__(self, path: Path) -> None:
        self._run = run = reading.read_run(path)
        self.path, self.name, self.script = run.path, run.name, run.script
        self.method, self.task, self.data = about.method(run), about.task(run), about.data(run)
        self.state, self.step, self.nimg = run.state, run.step, run.nimg
        self.options: dict[str, Any] = run.options
        self.status: dict[str, Any] = run.status

    def __repr__(self) -> str:
        return f"<run {self.name}: {self.method}, {self.state}, step {self.step}>"

    @functools.cached_property
    def metrics(self) -> dict[str, np.ndarray]:
        """All lines of metrics.jsonl: {"step": int64 [n], name: float64 [n]}, nan where a line does
        not have the figure. `pandas.DataFrame(run.metrics)` is a table of it."""
        rows = self._run.rows()
        found = {"step": np.array([row["step"] for row in rows], dtype=np.int64)}
        for name in ("time", *figures.names(rows)):
            values = [figures.number(row.get(name)) for row in rows]
            found[name] = np.array([np.nan if v is None else v for v in values], dtype=np.float64)
        return found

    def series(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps int64 [m] and values float64 [m] of a figure, where it has one. Errors: UsageError
        for a figure that is not there."""
        if name not in self.metrics:
            raise UsageError(f"{self.name} has no figure {name!r}; there are {list(self.metrics)}")
        there = ~np.isnan(self.metrics[name])
        return self.metrics["step"][there], self.metrics[name][there]

    @property
    def figures(self) -> dict[str, float]:
        """The newest value of every figure."""
        return {name: point.value for name, point in figures.newest(self._run.rows()).items()}

    @property
    def snapshot(self) -> Path | None:
        """The newest snapshot, for `load_generator` or `load_encoder`; None if there is none."""
        return about.network(self._run)

    @property
    def snapshots(self) -> list[Path]:
        """All snapshots, by name."""
        return sorted((self.path / "snapshots").glob("*.safetensors"))

    @property
    def samples(self) -> list[Path]:
        """All pictures that the run drew, by name."""
        return sorted((self.path / "samples").glob("*.png"))
