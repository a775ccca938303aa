"""What `--resume` means: which checkpoint a process goes on from.

    auto (default)  the newest good one of the run's directory, if any
    N               the end of loop N-1, i.e. the milestone of step N * milestone_every; 0: scratch
    PATH            that checkpoint directory, or a run directory (its newest good one)

N and PATH rewind: later checkpoints and snapshots are renamed `*.superseded`, once it is certain
that the launch goes on (`choose` looks, `settle` renames).  But a command that is simply run
again after a preemption must go on rather than rewind, so every checkpoint remembers the `--resume`
it was made under, and if the newest good one was made under the same, it is taken.
"""

import os
import re
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from runtime import inputs as known_inputs
from runtime.inputs import Inputs, refuse_changed
from runtime.tracker import forget_later
from storage import checkpoint, listing, snapshot
from storage.errors import CheckpointError, UsageError
from storage.files import expanded, read_json, read_object
from storage.listing import Listing, has_listing, write_listing

Say = Callable[[str], None]


class Resume:
    """Parsed `--resume` and `--run-dir`.

    run_dir: the directory they name, None if it follows from the flags.
    lineage: what checkpoints of this process remember.
    data: what is trained on, None where that is always the same; a changed one is refused.
    inputs: what it and other things that are read are known by.
    Errors: CheckpointError for a path that is no checkpoint, UsageError for N without milestones.
    """

    def __init__(
        self, value: str | None, run_dir: str | Path | None, milestone_every: int | None
    ) -> None:
        self.run_dir = None if run_dir is None else _absolute(run_dir)
        self.lineage = "auto"
        self.data: Listing | None = None
        self.inputs: Inputs = {}
        self._loop: int | None = None
        self._loop_step = 0
        self._rewind_to: int | None = None  # later steps are set aside; -1: all
        self._source: Path | None = None  # checkpoint directory
        self._source_run: Path | None = None  # run directory other than this one
        value = "auto" if value is None else str(value)
        if value == "auto":
            return
        if re.fullmatch(r"[0-9]+", value):
            if milestone_every is None and int(value) != 0:
                raise UsageError(
                    f"--resume {value}: this script has no loops; give a path, auto or 0"
                )
            self._loop, self.lineage = int(value), str(int(value))
            self._loop_step = self._loop * (milestone_every or 0)
            return
        self._parse_path(value)

    def _parse_path(self, value: str) -> None:
        path = _absolute(value)
        if not path.exists():
            raise CheckpointError(f"--resume {value}: no such file or directory")
        if set_aside := re.fullmatch(r"(step-\d+)\.(bad|superseded)\d*", path.name):
            raise CheckpointError(
                f"--resume {value}: set aside as {set_aside[2]}; rename it {set_aside[1]} to use it"
            )
        if re.fullmatch(r"step-\d+", path.name) and path.is_dir():
            self._source, self.lineage = path, f"path {path}"
            if self.run_dir is None and path.parent.name == "checkpoints":
                self.run_dir = path.parent.parent
        elif (path / "checkpoints").is_dir():
            if self.run_dir in (None, path):
                self.run_dir = path
            else:
                self._source_run, self.lineage = path, f"path {path}"
        else:
            raise CheckpointError(
                f"--resume {value}: neither a checkpoint (step-...) nor a run directory"
            )

    def is_rewind(self) -> bool:
        """Whether something that was saved is asked for by its number: N, but 0."""
        return bool(self._loop)

    def choose(self, checkpoints: Path, say: Say) -> Path | None:
        """Verified checkpoint to load, None for a fresh start; `settle` it when it is loaded.

        Errors: CheckpointError; DataError where it was trained on other `data`.
        """
        path = self._chosen(checkpoints, say)
        if path is not None:
            folder, meta = path.parent.parent, read_object(path / "meta.json")
            before = known_inputs.read(folder, meta)
            if self.data is not None:
                refuse_changed(folder, self.data, before, self.inputs)
            known_inputs.tell_changed(before, self.inputs, say)
        return path

    def settle(self, run_dir: Path, completed: int, say: Say, *, fresh: bool) -> bool:
        """After `choose` and loading, when nothing is refused any more: rename what is rewound
        over, forget its figures, and write down what is trained on. Whether it was a rewind.

        completed: the step that was loaded. fresh: nothing was.
        """
        after = self._rewind_to
        if after is not None:  # snapshots first: after a kill in between all of it is done again
            snapshot.supersede(run_dir, after, say)
            checkpoint.supersede(run_dir / "checkpoints", after, say)
            forget_later(run_dir / "metrics.jsonl", completed)
        self._note_data(run_dir, say, fresh)
        return after is not None

    def tell_lost(self, reached: int, completed: int, args: Namespace) -> str:
        """What is said where an earlier launch `reached` more than the `completed` steps that this
        one begins with; "" for nothing: a rewind is asked for."""
        if self.lineage != "auto" or reached <= completed:
            return ""
        begins = f"goes on from step {completed}" if completed else "begins at step 0"
        return (
            f"an earlier launch got to step {reached}, but no later checkpoint is there: this one "
            f"{begins} (--save_every {args.save_every}, --save_minutes {args.save_minutes:g})"
        )

    def _note_data(self, run_dir: Path, say: Say, fresh: bool) -> None:
        """Write down what is trained on, where the run is `fresh` or does not know it yet."""
        try:
            digest = known_inputs.digest_of(self.inputs)
            if self.data is not None and (fresh or not has_listing(run_dir, digest)):
                _say_damaged(run_dir / listing.RECORD, say, fresh)
                write_listing(run_dir, self.data)
            if self.inputs and (fresh or not known_inputs.is_whole(run_dir, self.inputs)):
                _say_damaged(run_dir / known_inputs.RECORD, say, fresh)
                known_inputs.write(run_dir, self.inputs)
        except OSError as error:  # a full disk; saving will tell
            say(f"the list of the data set is not written: {error}")

    def _chosen(self, checkpoints: Path, say: Say) -> Path | None:
        if self.lineage == "auto":
            return checkpoint.newest_good(checkpoints, say)
        try:
            newest = checkpoint.newest_good(checkpoints, say)
        except CheckpointError:
            if self._loop != 0 and self._source is None and self._source_run is None:
                raise
            newest = None  # all damaged, but scratch or another source was asked for
        if newest is not None and _lineage_of(newest) == self.lineage:
            return newest
        if self._loop is not None:
            return self._end_of_loop(self._loop, checkpoints)
        source = self._source
        if self._source_run is not None:
            source = _newest_elsewhere(self._source_run / "checkpoints")
        assert source is not None  # one of the three follows from any --resume but auto
        step = checkpoint.verify(source)["step"]
        self._rewind_to = step if source.parent == checkpoints else -1
        return source

    def _end_of_loop(self, loop: int, checkpoints: Path) -> Path | None:
        if loop == 0:
            self._rewind_to = -1
            return None
        path = checkpoints / f"step-{self._loop_step:09d}"
        if not path.is_dir():
            there = ", ".join(map(str, checkpoint.steps_of(checkpoints))) or "none"
            raise CheckpointError(
                f"--resume {loop}: no checkpoint of the end of loop {loop - 1} "
                f"(step {self._loop_step}) in {checkpoints} (steps there: {there})"
            )
        checkpoint.verify(path)
        self._rewind_to = self._loop_step
        return path


def _absolute(path: str | Path) -> Path:
    return Path(os.path.realpath(expanded(path)))


def _say_damaged(file: Path, say: Say, fresh: bool) -> None:
    if not fresh and file.exists():
        say(f"{file.name} is damaged or of an earlier version: written anew, of what is read now")


def _lineage_of(path: Path) -> str:
    return read_json(path / "meta.json")["lineage"]


def _newest_elsewhere(checkpoints: Path) -> Path:
    """Newest good checkpoint of a run that is not ours, so nothing is renamed there."""
    for step in reversed(checkpoint.steps_of(checkpoints)):
        path = checkpoints / f"step-{step:09d}"
        try:
            checkpoint.verify(path)
        except CheckpointError:
            continue
        return path
    raise CheckpointError(f"no intact checkpoint in {checkpoints}")
