"""Whether memory holds what the options ask for, asked before it is taken.

A network is built without memory first, which counts its weights; of a batch the pictures and the
first layer's features count, which is less than it takes. What cannot be is one line that names the
options that are larger than usual.
"""

from __future__ import annotations

import contextlib
from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import nn

from runtime.memory import room
from runtime.options import Table, enlarged
from storage.errors import UsageError

Net = TypeVar("Net", bound=nn.Module)
COPIES = 4  # of the weights in training: themselves, gradients, the two moments of Adam


def network(
    make: Callable[[], Net],
    device: torch.device,
    args: Namespace,
    table: Table,
    names: Sequence[str],
    *,
    copies: int = COPIES,
) -> Net:
    """make(), once it is known that the device's memory holds `copies` of its weights.

    names: the options that say how large it is. Errors: UsageError; those of `make`.
    """
    weigh(make, device, args, table, names, copies=copies)
    return make()


def weigh(
    make: Callable[[], nn.Module],
    device: torch.device,
    args: Namespace,
    table: Table,
    names: Sequence[str],
    *,
    copies: int = COPIES,
) -> None:
    """That the device's memory holds `copies` of the weights of make(). Errors: as of `network`."""
    # The shapes alone, and no random number of the process is drawn for them.
    weights = 0
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        with contextlib.suppress(NotImplementedError):  # a layer that cannot be without memory
            weights = sum(p.numel() * p.element_size() for p in make().parameters())
    require(
        weights * copies, device, "the network with what its training needs", args, table, names
    )


def batch(
    rows: int,
    values: int,
    device: torch.device,
    args: Namespace,
    table: Table,
    names: Sequence[str],
) -> None:
    """That memory holds `rows` at once of so many float32 `values` each. Errors: UsageError."""
    require(4 * rows * values, device, f"{rows} rows at once", args, table, names)


def require(
    size: int, device: torch.device, what: str, args: Namespace, table: Table, names: Sequence[str]
) -> None:
    """That memory holds `size` bytes. Errors: UsageError."""
    there = room(device)
    if there is not None and size > there:
        raise UsageError(
            f"{what}: {size / 1e9:,.1f} GB at least, and {device} has {there / 1e9:,.1f} GB in "
            f"all; lower {enlarged(args, table, names)}"
        )
