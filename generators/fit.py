"""Whether a configuration is one and belongs to its weights, asked before memory is taken.

A snapshot comes from anywhere. What its configuration says is checked against the bounds in the
constructor's own signature (`storage.arguments`); then the network is built without memory, and has
to be one of just these weights. The same for every kind and every script.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from storage.arguments import given_arguments
from storage.errors import CheckpointError, one_line

Net = TypeVar("Net", bound=nn.Module)
MAX_SIDE = 8192  # of images, as in `storage.arguments.Side`
_SHOWN = 200  # characters of what is wrong


class Unfit(CheckpointError):
    """A snapshot whose weights and configuration do not belong together, or are none."""


@contextmanager
def fitting(what: str) -> Iterator[None]:
    """Whatever a configuration makes its readers raise, as Unfit, which says `what` it is of.

    Errors that are told already (with an `exit_code`) pass, and so does a want of memory.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # the configuration comes from outside: anything can be wrong
        if hasattr(error, "exit_code"):
            raise
        said = one_line(error, _SHOWN)
        if isinstance(error, KeyError):
            said = f"{said} is missing"
        raise Unfit(f"{what} does not fit itself: {said}") from None


def configuration(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The object `name` in a snapshot's configuration; {} if it has none. Errors: Unfit."""
    part = config.get(name, {})
    if not isinstance(part, dict):
        raise Unfit(f"its {name} is a {type(part).__name__}, not an object of settings")
    return part


def names_in(config: Mapping[str, Any], key: str) -> list[str]:
    """Names, as of classes, in a configuration; [] for none. Errors: ValueError."""
    names = config.get(key) or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"its {key} are no list of names")
    return names


def check_settings(make: Callable[..., Any], *args: Any, **given: Any) -> None:
    """That a constructor may be given these arguments, by its signature. Errors: ValueError."""
    given_arguments(make, args, given)


def fitted(
    make: Callable[..., Net],
    config: Any,
    state: Mapping[str, Tensor],
    *,
    known: bool = True,
) -> Net:
    """make(**config) with the weights `state`, on the CPU.

    known: the class is one of ours, with bounds in its signature, and can be built without memory;
    of a user's own nothing is known before. Errors: whatever is wrong raises what it raises
    (`fitting`), of a class that is known before any memory is taken for it.
    """
    if not isinstance(config, dict) or not all(isinstance(key, str) for key in config):
        raise ValueError("its net is no object of a constructor's arguments")
    if known:
        check_settings(make, **config)
        with torch.device("meta"):
            bare = make(**config)
        own = bare.state_dict()
        for name, value in state.items():
            if name in own and own[name].is_floating_point() != value.is_floating_point():
                kind = str(value.dtype).removeprefix("torch.")
                raise ValueError(f"{name} holds {kind} where the network has {own[name].dtype}")
        bare.load_state_dict(state, assign=True)
    net = make(**config)
    net.load_state_dict(state)
    return net
