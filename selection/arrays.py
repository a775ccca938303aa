"""What callers may hand to a selection function: losses of other shapes, arrays, keywords."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

Losses = Tensor | np.ndarray
"""Losses as callers have them: of torch or of NumPy, [B], [B, 1, ..] or [B, B]."""

Given = TypeVar("Given", Tensor, np.ndarray)
"""Such losses, and the rows that are returned for them: both tensors or both arrays."""


class UnknownKeyword(TypeError, ValueError):
    """A keyword that a selection method does not have: TypeError, as Python says it, and
    ValueError, as of every other wrong argument here."""


def as_tensor(name: str, loss: Losses) -> Tensor:
    """Losses as a detached tensor, [B, 1, ..] as [B]; the dtype of tensors stays, arrays become
    float64 on the CPU. Errors: ValueError unless they are floating-point numbers."""
    if isinstance(loss, np.ndarray):
        if loss.dtype.kind != "f":
            raise ValueError(f"{name} must be a floating-point tensor or array, got {loss.dtype}")
        # A copy: arrays may be read-only, of another byte order, or strided backwards.
        loss = torch.from_numpy(loss.astype(np.float64, order="C", copy=True))
    if not isinstance(loss, Tensor) or not loss.is_floating_point():
        what = f"{loss.dtype}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f"{name} must be a floating-point tensor, got {what} (or a NumPy array)")
    loss = loss.detach()
    if loss.dim() > 1 and all(size == 1 for size in loss.shape[1:]):
        loss = loss.reshape(len(loss))
    return loss


def as_given(rows: Tensor, loss: Given, device: torch.device | str | int | None = None) -> Given:
    """Rows as the losses came: an array for an array, else a tensor, on `device` if one is named.

    Errors: ValueError for what is no device.
    """
    if isinstance(loss, np.ndarray):
        return rows.cpu().numpy()
    if device is None:
        return rows
    try:
        return rows.to(torch.device(device))
    except (RuntimeError, TypeError) as error:
        said = str(error).splitlines()[0]
        raise ValueError(f"device {device!r} is none that rows can be on ({said})") from None


def refuse(method: Callable[..., Any], unknown: Mapping[str, Any] | Iterable[str]) -> None:
    """Nothing, or UnknownKeyword that names the keywords `unknown`, what they are close to, and
    all those that `method` takes."""
    unknown = list(unknown)
    if not unknown:
        return
    takes = [
        name
        for name, parameter in inspect.signature(method).parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD
    ]
    near = [found for word in unknown for found in difflib.get_close_matches(word, takes, 1)]
    hint = f" (did you mean {', '.join(near)}?)" if near else ""
    raise UnknownKeyword(
        f"{method.__name__} has no keyword {', '.join(unknown)}{hint}; it takes {', '.join(takes)}"
    )
