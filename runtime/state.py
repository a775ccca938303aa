"""What `run.restore` is given: named objects with state, checked, loaded, fit to be saved."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from runtime.update import largest
from storage.checkpoint import check_portable
from storage.errors import CheckpointError, NonFiniteError, UsageError


def accept(objects: Mapping[str, Any]) -> dict[str, Any]:
    """The objects with compiled modules unwrapped, so that names are the plain module's.

    Errors: UsageError for one without state_dict and load_state_dict.
    """
    for name, obj in objects.items():
        if not hasattr(obj, "state_dict") or not hasattr(obj, "load_state_dict"):
            raise UsageError(f"run.restore({name}=...): {type(obj).__name__} has no state_dict")
    return {name: getattr(obj, "_orig_mod", obj) for name, obj in objects.items()}


def check(objects: Mapping[str, Any]) -> None:
    """CheckpointError if a state holds something that could not be loaded again."""
    for name, obj in objects.items():
        check_portable(obj.state_dict(), name)


def load(objects: Mapping[str, Any], saved: Mapping[str, Any], where: str) -> None:
    """Give every object its saved state; `where` names the checkpoint in errors.

    Errors: CheckpointError if the names are not the same ones or a state does not fit.
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
        except (RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
            line = " ".join(str(error).split())[:300]
            raise CheckpointError(f"{where}: cannot load {name!r}: {line}") from error


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
