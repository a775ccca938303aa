"""The objects that `run.restore` is given: checked, loaded, saved by all ranks together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from runtime import distributed
from runtime.update import largest
from storage import checkpoint
from storage.errors import (
    CheckpointError,
    DataError,
    DiskError,
    NonFiniteError,
    UsageError,
    one_line,
)
from storage.torchfile import check_portable

SAVE_FAILURES = 3  # in a row, after which a full disk ends the run
_OWN = "_run"  # name of the run's own state among the checkpoint's objects


@runtime_checkable
class Stateful(Protocol):
    """What can be saved and go on: networks, optimizers, loaders, EMAs."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values, all that a new object needs to become this one."""

    def load_state_dict(self, state: Any, /) -> Any:
        """Take over what `state_dict` returned."""


class Saver:
    """Checkpoints in `directory`, of named objects and of the run's own state.

    keep: checkpoints that stay besides milestones, 0 for all; see `checkpoint.prune`. check: raises
    where the folder is not this process's any more: asked before each save, and of one that failed.
    objects: None until `accept`. saved_step: the newest step on the disk, -1 for none yet.
    """

    def __init__(
        self,
        directory: Path,
        say: Callable[[str], None],
        *,
        keep: int = 1,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.directory, self.keep, self._check = directory, keep, check
        self.objects: dict[str, Any] | None = None
        self.saved_step = -1
        self._say = say
        self._failures = 0
        self._told = False  # that milestones go

    def load(self, path: Path, admit: Callable[[dict[str, Any]], None]) -> checkpoint.Loaded:
        """Read the checkpoint `path`, verified already by rank 0, into the objects.

        admit: is shown the checkpoint's `meta` before anything is loaded, and may raise. Returns
        it with the run's own state only. Errors: CheckpointError.
        """
        loaded = checkpoint.load_path(path, verified=distributed.is_main())
        own = loaded.state.pop(_OWN)
        admit(loaded.meta)
        load(self.objects or {}, loaded.state, path.name)
        self.saved_step = loaded.step
        return loaded._replace(state=own)

    def save(
        self,
        step: int,
        own: Mapping[str, Any],
        meta: Mapping[str, Any],
        *,
        milestone: bool = False,
        last: bool = False,
    ) -> bool:
        """Checkpoint of the completed `step` (all ranks call this together); whether it is there.

        A full disk is said and survived SAVE_FAILURES - 1 times in a row, but not at the last step:
        a run whose result is not there must not count as done. Errors: DiskError; NonFiniteError
        for weights that are lost already; what `check` raises.
        """
        objects = self.objects or {}

        def write() -> str | None:
            saved = {name: obj.state_dict() for name, obj in objects.items()}
            saved[_OWN] = dict(own)
            try:
                keep = max(self.keep, checkpoint.KEEP) if self.keep else 0
                checkpoint.save_state(
                    self.directory, step, saved, dict(meta), milestone, self._say,
                    keep=keep, told=self._tell,
                )  # fmt: skip
            except DiskError as error:
                self._check()
                return str(error)
            return None

        def admit() -> None:
            self._check()
            refuse_bad_weights(objects, step, checkpoint.steps_of(self.directory))

        distributed.from_main(admit)
        failure = distributed.from_main(write)
        self._failures = self._failures + 1 if failure else 0
        if failure:
            text = f"{failure} ({self._failures}/{SAVE_FAILURES})"
            self._say(text)
            if last or self._failures >= SAVE_FAILURES:
                raise DiskError(text)
            return False
        self.saved_step = step
        return True

    def finish(self) -> None:
        """Keep no more than is asked for, once the run is done and its last checkpoint there."""
        if distributed.is_main():
            checkpoint.prune(self.directory, self.keep, self._say, told=self._tell)

    def _tell(self, gone: list[int]) -> None:
        """Say, once a launch, that checkpoints of ends of loops are deleted, and why."""
        if not self._told:
            limit = checkpoint.MILESTONE_BYTES / 1e9
            self._say(
                f"deleted the checkpoints of ends of loops at {_steps(gone)}: the newest stay, as "
                f"many as fit into {limit:g} GB, and older ones go from here on without a word; "
                "--keep 0 keeps all"
            )
        self._told = True


def _steps(steps: Sequence[int]) -> str:
    """step 5; steps 5, 10; 30 steps from 5 to 150."""
    if len(steps) > 4:
        return f"{len(steps)} steps from {steps[0]} to {steps[-1]}"
    return f"step{'s' * (len(steps) > 1)} {', '.join(map(str, steps))}"


def accept(objects: Mapping[str, Any]) -> dict[str, Any]:
    """The objects with compiled modules unwrapped, so that names are the plain module's.

    Errors: UsageError for one without state_dict and load_state_dict.
    """
    for name, obj in objects.items():
        if not isinstance(obj, Stateful):
            raise UsageError(f"run.restore({name}=...): {type(obj).__name__} has no state_dict")
    return {name: getattr(obj, "_orig_mod", obj) for name, obj in objects.items()}


def check(objects: Mapping[str, Any]) -> None:
    """CheckpointError if a state holds something that could not be loaded again."""
    for name, obj in objects.items():
        check_portable(obj.state_dict(), name)


def load(objects: Mapping[str, Any], saved: Mapping[str, Any], where: str) -> None:
    """Give every object its saved state; `where` names the checkpoint in errors.

    Errors: CheckpointError if the names are not the same ones or a state does not fit; DataError if
    it was saved for other data.
    """
    missing = sorted(saved.keys() - objects.keys())
    extra = sorted(objects.keys() - saved.keys())
    if missing or extra:
        raise CheckpointError(
            f"{where} and run.restore differ: only in the checkpoint: "
            f"{', '.join(missing) or '-'}; only in run.restore: {', '.join(extra) or '-'}"
        )
    for name, obj in objects.items():
        try:
            obj.load_state_dict(saved[name])
        except DataError:
            raise  # says what of the data has changed
        except (RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{where}: cannot load {name!r}: {one_line(error, 300)}"
            ) from error


def refuse_bad_weights(objects: Mapping[str, Any], step: int, kept: Sequence[int]) -> None:
    """NonFiniteError rather than a checkpoint of weights that are already lost.

    step: completed steps; kept: steps of the checkpoints there are.
    """
    for name, obj in objects.items():
        if not isinstance(obj, torch.nn.Module):
            continue
        named = [(n, p) for n, p in obj.named_parameters() if p.is_floating_point()]
        if not named or torch.isfinite(largest([p for _, p in named])):
            continue
        worst = next((n for n, p in named if not torch.isfinite(p).all()), "?")
        raise NonFiniteError(
            f"weights of {name} are not finite after step {step} ({worst}); "
            f"not saved, the last checkpoint is of step {kept[-1] if kept else 0}; "
            "lower the learning rate"
        )
