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
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import torch
from torch import Tensor

from storage.errors import CheckpointError
from storage.foreign.modules import STORAGES
from storage.foreign.pickles import Global, Inert, PickleError, Refused, read_pickle

_OWN = frozenset(
    "collections.OrderedDict collections.defaultdict argparse.Namespace builtins.dict "
    "builtins.list builtins.set builtins.tuple builtins.int builtins.float builtins.str "
    "builtins.object __builtin__.dict __builtin__.set __builtin__.object copyreg._reconstructor "
    "_codecs.encode pathlib.PosixPath pathlib.Path".split()
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


def read_objects(path: str | Path) -> Any:
    """The value in a file of torch.save (its zip format, torch 1.6 and later).

    Tensors lie on the CPU; those that are one object in the file are one object here. Argument
    namespaces become Namespace. Raises CheckpointError, for what is refused or damaged too.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            names = {info.filename: info for info in archive.infolist()}
            found = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
            if len(found) != 1:
                raise PickleError("has no data.pkl: not a file of torch.save")
            if any(i.compress_type != zipfile.ZIP_STORED for i in names.values()):
                raise PickleError("is compressed, which torch.save does not do")
            stem = found[0].removesuffix("data.pkl")
            with archive.open(found[0]) as file:
                return read_pickle(
                    file,
                    allowed=_allowed,
                    call=_call,
                    persistent=_Storages(archive, names, stem, path.stat().st_size),
                )
    except Refused as error:
        raise CheckpointError(f"refused: global {error.name} in {path}") from None
    except (PickleError, zipfile.BadZipFile, OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{path}: {said}") from None


def _allowed(name: str) -> bool:
    return name in _OWN or name.split(".")[0] not in sys.stdlib_module_names | {"__builtin__"}


class _Storages:
    """Persistent ids -> flat tensors over the file's bytes, one for each storage."""

    def __init__(
        self, archive: zipfile.ZipFile, names: dict[str, zipfile.ZipInfo], stem: str, size: int
    ) -> None:
        self.archive, self.names, self.stem, self.left = archive, names, stem, size
        self.made: dict[str, Tensor] = {}

    def __call__(self, key: Any) -> Tensor:
        kind = key[1] if isinstance(key, tuple) and len(key) == 5 and key[0] == "storage" else None
        if not isinstance(kind, Global) or kind.name not in STORAGES:
            raise PickleError("has a tensor storage of an unknown form")
        name = f"{self.stem}data/{key[2]}"
        if name not in self.made:
            dtype, info = STORAGES[kind.name], self.names.get(name)
            if info is None or info.file_size != key[4] * dtype.itemsize:
                raise PickleError(f"has not the {key[4]} numbers of its storage {key[2]}")
            data = bytearray(self.archive.read(info))
            self.made[name] = (
                torch.frombuffer(data, dtype=dtype) if data else torch.empty(0).to(dtype)
            )
        return self.made[name]


def _call(name: str, args: tuple) -> Any:
    last = name.rsplit(".", 1)[-1]
    if name in ("collections.OrderedDict", "builtins.dict", "__builtin__.dict"):
        return _pairs(args)
    if last in ("_rebuild_tensor", "_rebuild_tensor_v2") and name.startswith("torch."):
        return _tensor(*args[:4])
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
    shaped = isinstance(size, tuple) and isinstance(stride, tuple) and len(size) == len(stride) <= 8
    numbers = (offset, *size, *stride) if shaped else (None,)
    if not isinstance(storage, Tensor) or not all(type(v) is int and v >= 0 for v in numbers):
        raise PickleError("has a tensor of an unknown form")
    count = 1
    for n in size:
        count *= n
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if count and (last >= len(storage) or count > len(storage)):
        raise PickleError(f"has a tensor of shape {list(size)} in {len(storage)} numbers")
    return torch.as_strided(storage, size, stride, offset) if count else storage.new_empty(size)


# --------------------------------------------------------------------------- what objects stand for


def module_state(module: Any) -> dict[str, Tensor]:
    """A pickled network's parameters and buffers by the names of its state dict, not copied.

    Raises CheckpointError if it is no network.
    """
    out: dict[str, Tensor] = {}
    pending, visited = [(module, "")], 0
    while pending:
        module, prefix = pending.pop()
        visited += 1
        state = module.state if isinstance(module, Inert) else None
        if not isinstance(state, dict) or not isinstance(state.get("_modules"), dict):
            raise CheckpointError(f"no network at {prefix[:80] or 'the top'!r} of this file")
        if visited > _MAX_MODULES or len(prefix) > 1000:
            raise CheckpointError("a network in this file holds itself, or too many others")
        for table in ("_parameters", "_buffers"):
            entries = state.get(table)
            for name, value in entries.items() if isinstance(entries, dict) else ():
                if isinstance(value, Tensor):
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
    level, seen = [value], set()
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
        if isinstance(value, dict):
            return {k: plain(v, depth + 1) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)([plain(v, depth + 1) for v in value])
        if isinstance(value, Global):
            return value.name
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
