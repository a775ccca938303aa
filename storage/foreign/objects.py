"""Whole objects in files of `torch.save`, read as data: nothing of a file is imported or called.

Old checkpoints hold pickled networks and optimizers. Here containers, plain values and tensors come
in as themselves and every other object as an `Inert`: the name of its class and its state. Names of
Python's own modules are refused but for a few containers, so that a file which wants to run
something is not read at all.
"""

from __future__ import annotations

import sys
import zipfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import torch
from torch import Tensor

from storage.errors import CheckpointError
from storage.foreign.modules import StoredTensor, stored_tensor
from storage.foreign.pickles import Global, Inert, PickleError, Refused
from storage.foreign.saved import read_saved

# What may occur of Python's own modules: nothing of it is called, and none of it could do harm.
_OWN = frozenset(
    "collections.OrderedDict collections.defaultdict collections.Counter collections.deque "
    "argparse.Namespace builtins.dict builtins.list builtins.set builtins.frozenset builtins.tuple "
    "builtins.int builtins.float builtins.bool builtins.str builtins.bytearray builtins.complex "
    "builtins.range builtins.slice builtins.object __builtin__.dict __builtin__.list "
    "__builtin__.set __builtin__.frozenset __builtin__.tuple __builtin__.int __builtin__.float "
    "__builtin__.bool __builtin__.str __builtin__.bytearray __builtin__.complex __builtin__.xrange "
    "__builtin__.range __builtin__.slice __builtin__.object __builtin__.unicode "
    "__builtin__.long copyreg._reconstructor copy_reg._reconstructor "
    "_codecs.encode pathlib.PosixPath pathlib.Path typing.Any".split()
)
_MAX_MODULES = 100_000
_MAX_VALUES = 1_000_000  # of arguments and results


class Optimizer(NamedTuple):
    """What a pickled optimizer says. kind: its class, "Adam". groups: as they are, with "params" a
    list of tensors. state: (parameter, its state) pairs. wrapped: whether another object held it.
    """

    kind: str
    groups: list[dict[str, Any]]
    state: list[tuple[Tensor, dict[str, Any]]]
    wrapped: bool


def read_objects(path: str | Path, *, unread: bool = False, names: set[str] | None = None) -> Any:
    """The value in a file of torch.save, of either of its formats (`storage.foreign.saved`).

    Tensors lie on the CPU; those that are one object in the file are one object here. unread: they
    come as `StoredTensor`, and their numbers stay in the file until they are made. Argument
    namespaces become Namespace. names: gets the globals that occur, which tell whose code wrote the
    file. Raises CheckpointError, for what is refused or damaged too.
    """
    path = Path(path)

    def allowed(name: str) -> bool:
        if names is not None:
            names.add(name)
        return _allowed(name)

    def call(name: str, args: tuple) -> Any:
        return _call(name, args, stored_tensor if unread else _tensor)

    try:
        return read_saved(path, allowed=allowed, call=call)
    except Refused as error:
        raise CheckpointError(f"refused: global {error.name} in {path}") from None
    except (PickleError, zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        said = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{path}: {said}") from None


def _allowed(name: str) -> bool:
    return name in _OWN or name.split(".")[0] not in sys.stdlib_module_names | {"__builtin__"}


def _call(name: str, args: tuple, tensor: Callable[[Any, Any, Any, Any], Any]) -> Any:
    last = name.rsplit(".", 1)[-1]
    if name in ("collections.OrderedDict", "builtins.dict", "__builtin__.dict"):
        return _pairs(args)
    if last in ("_rebuild_tensor", "_rebuild_tensor_v2") and name.startswith("torch."):
        return tensor(*(*args, None, None, None, None)[:4])
    if last in ("_rebuild_parameter", "_rebuild_parameter_with_state", "Parameter") and args:
        return args[0]
    if name == "torch.Size":
        return tuple(args[0]) if args and isinstance(args[0], (list, tuple)) else ()
    if name in ("builtins.set", "__builtin__.set"):
        return list(args[0]) if args and isinstance(args[0], list) else []
    if name == "argparse.Namespace":
        return Inert(name)
    if last == "_reconstructor" and args and isinstance(args[0], Global):
        return Inert(args[0].name)
    return Inert(name, args)


def _pairs(args: tuple) -> dict[Any, Any]:
    pairs = args[0] if args else []
    out = {}
    for pair in pairs.items() if isinstance(pairs, dict) else pairs:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not isinstance(pair[0], str):
            raise PickleError("has a dict that is not made of names and values")
        out[pair[0]] = pair[1]
    return out


def _tensor(storage: Any, offset: Any, size: Any, stride: Any) -> Tensor:
    stored = stored_tensor(storage, offset, size, stride)
    flat = stored.storage.part(0, stored.storage.numel, keep=True)
    if not stored.numel():
        return flat.new_empty(stored.size)
    return torch.as_strided(flat, stored.size, stored.stride, stored.offset)


# --------------------------------------------------------------------------- what objects stand for


def module_state(module: Any) -> dict[str, Any]:
    """A pickled network's parameters and buffers by the names of its state dict, not copied:
    tensors or, of a file whose numbers are unread, `StoredTensor`.

    Raises CheckpointError if it is no network.
    """
    out: dict[str, Any] = {}
    pending, visited = [(module, "")], 0
    while pending:
        module, prefix = pending.pop()
        visited += 1
        state = module.state if isinstance(module, Inert) else None
        if not isinstance(state, dict) or not isinstance(state.get("_modules"), dict):
            raise CheckpointError(f"no network at {prefix[:80] or 'the top'!r} of this file")
        if visited > _MAX_MODULES or len(prefix) > 1000:
            raise CheckpointError("a network in this file holds itself, or too many others")
        passing = state.get("_non_persistent_buffers_set")
        skipped = [n for n in passing if isinstance(n, str)] if isinstance(passing, list) else []
        for table in ("_parameters", "_buffers"):
            entries = state.get(table)
            for name, value in entries.items() if isinstance(entries, dict) else ():
                if isinstance(value, (Tensor, StoredTensor)) and name not in skipped:
                    out[f"{prefix}{name}"] = value
        inner = [(m, f"{prefix}{name}.") for name, m in state["_modules"].items() if m is not None]
        pending += reversed(inner)
    return out


def optimizer_state(value: Any) -> Optimizer | None:
    """What a pickled optimizer says, also one inside a wrapper; None if there is none."""
    for depth, item in _inside(value):
        state = item.state
        groups = state.get("param_groups")
        listed = isinstance(groups, list) and all(isinstance(g, dict) for g in groups)
        if item.cls.startswith("torch.optim.") and listed:
            found = state.get("state")
            pairs = found.items if isinstance(found, Inert) else []
            pairs = [(p, s) for p, s in pairs if isinstance(p, Tensor) and isinstance(s, dict)]
            return Optimizer(item.cls.rsplit(".", 1)[-1], groups, pairs, depth > 0)
    return None


def _inside(value: Any) -> Iterator[tuple[int, Inert]]:
    """Objects with a state dict from the outermost inwards, through attributes."""
    level = [value]
    seen: set[int] = set()
    for depth in range(4):
        level = [v for v in level if isinstance(v, Inert) and isinstance(v.state, dict)]
        level = [v for v in level if id(v) not in seen]
        seen.update(map(id, level))
        yield from ((depth, v) for v in level)
        level = [inner for v in level for inner in v.state.values()]


def plain_value(value: Any) -> Any:
    """Containers and plain values as they are, namespaces as Namespace, other objects as their
    state or, without one, the name of their class. Raises CheckpointError for what has no end.
    """
    left = _MAX_VALUES

    def plain(value: Any, depth: int) -> Any:
        nonlocal left
        left -= 1
        if left < 0 or depth > 100:
            raise CheckpointError("a value in this file holds itself, or too many others")
        if isinstance(value, Global):
            return value.name
        if isinstance(value, StoredTensor):
            return value.load() if value.numel() <= _MAX_VALUES else "a tensor"
        if isinstance(value, dict):
            return {plain(k, depth + 1): plain(v, depth + 1) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)([plain(v, depth + 1) for v in value])
        if not isinstance(value, Inert):
            return value
        if value.cls == "argparse.Namespace":
            state = value.state if isinstance(value.state, dict) else {}
            return Namespace(**{str(k): plain(v, depth + 1) for k, v in state.items()})
        if value.cls.startswith("pathlib."):
            return str(PurePosixPath(*[str(a) for a in value.args]))
        pairs = [i for i in value.items if isinstance(i, tuple) and isinstance(i[0], str)]
        if pairs:
            return {k: plain(v, depth + 1) for k, v in pairs}
        return plain(value.state, depth + 1) if isinstance(value.state, dict) else value.cls

    return plain(value, 0)
