"""Pickles of NumPy arrays in dicts and lists, read as data: nothing is imported or called.

So are NVIDIA's reference statistics: dict(num_images=..., fid=dict(mu=..., sigma=...), ...).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from storage.errors import CheckpointError
from storage.files import open_plain
from storage.foreign.pickles import Global, Inert, PickleError, Refused, read_pickle

_ROOTS = ("numpy.core", "numpy._core")
_GLOBALS = frozenset(
    [
        "numpy.dtype", "numpy.ndarray", "_codecs.encode", "collections.OrderedDict",
        *(f"{root}.multiarray.{name}" for root in _ROOTS for name in ("_reconstruct", "scalar")),
        *(f"{root}.numeric._frombuffer" for root in _ROOTS),
    ]
)  # fmt: skip
_KINDS = "fiub"  # of numbers: floating, whole, unsigned, bool


def read_arrays(path: Path) -> Any:
    """The value of a pickle: containers and plain values as they are, arrays as np.ndarray.

    Errors: CheckpointError of one line for what is refused, damaged or no pickle; OSError.
    """
    path = Path(path)
    try:
        with open_plain(path) as file:
            found = read_pickle(file, allowed=_GLOBALS.__contains__, call=_call)
        return _plain(found)
    except Refused as error:
        raise CheckpointError(f"refused: global {error.name} in {path}") from None
    except (PickleError, TypeError, ValueError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a pickle of arrays: {error}") from None


def _call(name: str, args: tuple) -> Any:
    last = name.rsplit(".", 1)[-1]
    if last == "encode":
        text, code = (*args, None, None)[:2]
        if not isinstance(text, str) or code not in ("latin1", "latin-1"):
            raise PickleError("encodes a string in an unknown way")
        return text.encode("latin-1")
    if last == "OrderedDict":
        return {}
    return Inert(last, args)


def _plain(value: Any) -> Any:
    """Descriptions of arrays as arrays, in containers of any depth that Python can follow."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)([_plain(inner) for inner in value])
    if not isinstance(value, Inert):
        return value.name if isinstance(value, Global) else value
    if value.cls == "_reconstruct" and isinstance(value.state, tuple) and len(value.state) == 5:
        _, shape, kind, by_columns, data = value.state
        return _array(data, kind, shape, "F" if by_columns else "C")
    if value.cls == "_frombuffer" and len(value.args) == 4:
        data, kind, shape, order = value.args
        return _array(data, kind, shape, order)
    if value.cls == "scalar" and len(value.args) == 2:
        return _array(value.args[1], value.args[0], (), "C")[()]
    raise PickleError(f"has a {value.cls} that is no array")


def _array(data: Any, kind: Any, shape: Any, order: Any) -> np.ndarray:
    dtype = _dtype(kind)
    if not isinstance(data, (bytes, bytearray)) or order not in ("C", "F"):
        raise PickleError("has an array that is not made of bytes")
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise PickleError("has an array without a shape")
    return np.frombuffer(data, dtype).reshape(shape, order=order)


def _dtype(kind: Any) -> np.dtype:
    """The type that a description of a np.dtype stands for: of numbers alone."""
    if not isinstance(kind, Inert) or kind.cls != "dtype" or not kind.args:
        raise PickleError("has an array of an unknown type")
    word = kind.args[0]
    if not isinstance(word, str) or len(word) > 3 or word[:1] not in _KINDS:
        raise PickleError(f"has an array of type {str(word)[:20]!r}, not of numbers")
    order = kind.state[1] if isinstance(kind.state, tuple) and len(kind.state) > 1 else "="
    return np.dtype(f"{order if order in ('<', '>') else '='}{word}")
