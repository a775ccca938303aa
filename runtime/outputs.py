"""What a run leaves to look at and to use: lines, figures, pictures, snapshots.

The part of `runtime.run.Run` that a method calls for what it shows; and what of it has to be there
before a run counts as finished.
"""

from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from runtime import distributed, points, rundir
from runtime.logs import Logs
from runtime.update import Updater
from storage import checkpoint
from storage.errors import CheckpointError, DiskError
from storage.pictures import Captions
from storage.snapshot import SnapshotFile, save_snapshot


class Outputs:
    """What `Run` inherits: see there for the attributes."""

    args: Namespace
    script: str
    config_hash: str
    dir: Path
    is_main: bool
    completed: int
    nimg: int
    facts: dict[str, Any]
    _logs: Logs
    _lock: rundir.RunDir | None
    _updater: Updater
    _provenance: dict[str, Any]
    _in_body: bool
    _images_per_step: int
    _unwritten: DiskError | None  # a snapshot of this turn that the disk refused
    _shots: list[Path]  # snapshots of this turn

    def say(self, text: str) -> None:
        """Print a line (rank 0), beside the bar, and keep it in log.txt; "" is no line."""
        self._logs.say(text)

    def log(self, **scalars: torch.Tensor | float) -> None:
        """Note scalars of this step; means over `--log_every` steps and ranks are written. Tensors
        stay on their device until then."""
        self._logs.meters.add(scalars)

    def log_sums(self, **sums: tuple[torch.Tensor | float, torch.Tensor | float]) -> None:
        """Note (sum, count) pairs, for means over a number of values that differs by step."""
        self._logs.meters.add_sums(sums)

    @property
    def _stamp(self) -> int:
        """Steps that the weights of this moment have seen."""
        return self.completed + int(self._in_body and self._updater.attempted)

    def log_now(self, **scalars: torch.Tensor | float) -> None:
        """Write figures of validation at once, under the steps that the weights have seen."""
        if self.is_main:
            values = {k: float(v) for k, v in scalars.items()}
            self._logs.figure(values, self._stamp, completed=self.completed)

    def sample_grid(
        self, name: str, images: torch.Tensor, ncol: int, captions: Captions | None = None
    ) -> Path:
        """Save images [N, 3 or 1, H, W] in [0, 1] as one PNG, `ncol` a row; returns its path.

        Small ones are enlarged (`storage.pictures.save_sheet`). The file is
        `samples/{name}-{steps the weights have seen}.png`; the path is printed, W&B gets it too.
        """
        return self._logs.grid(
            name, images, ncol, stamp=self._stamp, completed=self.completed, captions=captions
        )

    def picture(self, name: str, draw: Callable[[Path], Any]) -> Any:
        """`draw(path)` a PNG, named and shown as `sample_grid`'s; returns what that returns, None
        on other ranks than 0 and where it fails, which is said and ends nothing."""
        return self._logs.picture(name, draw, stamp=self._stamp, completed=self.completed)

    def provenance(self) -> dict[str, Any]:
        """Where weights of this moment come from: command, commit, host, flags, step."""
        origin = distributed.from_main(lambda: self._provenance)
        return origin | {
            **self.facts,
            **self._known(),
            "run": self.dir.name,
            "step": self._stamp,
            "nimg": self.nimg + self._images_per_step * (self._stamp - self.completed),
            "torch": torch.__version__,
            "time": rundir.timestamp(),
        }

    def snapshot(
        self, name: str, module: torch.nn.Module, kind: str, config: dict[str, Any],
        **extra_provenance: Any,
    ) -> Path:  # fmt: skip
        """Write `snapshots/{name}.safetensors`: weights, constructor arguments, provenance.

        Pass the EMA's module or the raw one, as you mean it.  Rank 0 writes, all ranks call it.
        A full disk is said and training goes on, but a run cannot finish without the snapshots of
        its last step: DiskError at its end, and at once outside the loop. LockError where the
        folder is not this run's any more.
        """
        path = self.dir / "snapshots" / f"{name}.safetensors"
        origin = self.provenance() | rundir.plain(extra_provenance)
        weights = getattr(module, "_orig_mod", module).state_dict()

        def write() -> Path:
            self.check_folder()
            return save_snapshot(path, weights, kind, config, origin)

        try:
            distributed.from_main(write)
            self._shots.append(path)
            return path
        except DiskError as error:
            if not self._in_body:
                raise
            self._unwritten = error
            self.say(str(error))
            return path

    def compile(self, module: torch.nn.Module) -> torch.nn.Module:
        """torch.compile(module) under `--compile`, else the module itself.

        Checkpoints and snapshots have the plain module's names either way.
        """
        return torch.compile(module) if self.args.compile else module  # type: ignore[return-value]

    # ------------------------------------------------------------------------- whether it is there

    def _known(self) -> dict[str, Any]:
        """What args.json, checkpoints and snapshots say of the launch."""
        args = rundir.plain(vars(self.args))
        return {"script": self.script, "config_hash": self.config_hash, "args": args}

    def is_mine(self) -> bool:
        """Whether the folder is this run's still, so that it may be written to."""
        return self._lock is None or self._lock.mine

    def check_folder(self) -> None:
        """Before something is written: LockError where the folder is not this run's any more (rank
        0)."""
        if self._lock is not None:
            self._lock.check()

    def _check_snapshots(self) -> None:
        """DiskError for a snapshot of this turn that the disk refused, or that cannot be read."""
        if self._unwritten is not None:
            raise self._unwritten
        if self.is_main:
            self.check_folder()
            check_snapshots(self._shots)

    def _check_finished(self) -> None:
        """That what a finished run promises is there (rank 0). Errors: LockError, DiskError."""
        if self._lock is not None:
            self._lock.check()
            check_saved(self.dir / "checkpoints", self.completed)
            check_figures(self.dir / "metrics.jsonl", self._logs.lines)
            try:
                self._lock.keep_args(self.say)
            except OSError as error:
                raise DiskError(f"cannot write {self.dir / 'args.json'}: {error}") from error


def check_snapshots(paths: Sequence[Path]) -> None:
    """That snapshots which were just written can be read, every byte. Errors: DiskError."""
    for path in dict.fromkeys(paths):
        try:
            for _ in SnapshotFile(path).tensors():
                pass
        except CheckpointError as error:
            raise DiskError(
                f"{error}, though it was written in this step: the run is not finished without it; "
                "the same command does this step again"
            ) from None


def check_saved(checkpoints: Path, step: int) -> None:
    """That the checkpoint of the last `step` is there and can be read. Errors: DiskError."""
    path = checkpoints / f"step-{step:09d}"
    try:
        checkpoint.read_meta(path)
    except CheckpointError as error:
        raise DiskError(
            f"the checkpoint of the last step {step} is not there any more ({error}): the run is "
            "not finished; the same command goes on from an earlier one, if there is one"
        ) from None


def check_figures(metrics: Path, lines: int | None) -> None:
    """That metrics.jsonl has its `lines` (None: not known). Errors: DiskError."""
    there = points.count(metrics).get("lines") if lines is not None else None
    if lines is not None and there is not None and there < lines:
        raise DiskError(
            f"metrics.jsonl lacks {lines - there} of {lines} points: it was cut or removed while "
            "the run went on, and they are lost; the training is done and saved, and the same "
            "command says so"
        )
