"""Whether a program of torch.export (.pt2) is one that may be loaded.

`torch.export.load` trusts its file: it unpickles weights that are marked so and example inputs that
its safe reader refuses, evaluates expressions of sizes as Python, looks up any function below
`torch`, and opens machine code. Here the archive is read as data first, and what would do any of
that is refused; what is left are operators of torch on tensors.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from storage.errors import CheckpointError, first_line

_OPERATORS = re.compile(
    r"torch\.ops\.(aten|prims|higher_order)\.(?!from_file)[A-Za-z_]\w*(\.\w+)*|torch\.sym_\w+|torch\._check\w*"
    r"|_operator\.(add|sub|mul|truediv|floordiv|mod|neg|pow|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem)"
    r"|math\.(ceil|floor|trunc|sqrt)"
)
# Sizes as sympy prints them: Mul(Integer(2), Symbol('s77', positive=True, integer=True)).
_NAMES = frozenset(
    "Symbol Integer Float Rational Add Mul Pow Mod Max Min Eq Ne Lt Le Gt Ge And Or Not True "
    "False positive integer nonnegative zero negative FloorDiv CleanDiv CeilDiv PythonMod Where "
    "ModularIndexing Relational Unequality Equality StrictLessThan LessThan StrictGreaterThan "
    "GreaterThan evaluate true false oo int_oo Infinity NegativeInfinity IntInfinity "
    "NegativeIntInfinity".split()
)
_MAX_JSON = 1 << 28
_STAGES = "data/aotinductor/"


def check_exported(path: Path, check_plain: Callable[[bytes], object]) -> None:
    """CheckpointError unless a .pt2 holds a program of tensor operators and plain weights.

    check_plain: raises for bytes of torch.save that are more than tensors and plain values.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            stem = names[0].split("/", 1)[0] + "/" if names else ""
            for name in names:
                inner = name.removeprefix(stem)
                if inner.startswith(_STAGES) or inner.endswith((".so", ".py", ".pkl")):
                    raise CheckpointError(f"refused: {name} in {path} is code")
                if inner.endswith(".json") or "/weights_config" in inner:
                    if archive.getinfo(name).file_size > _MAX_JSON:
                        raise CheckpointError(f"refused: {name} in {path} is too large")
                    _check_json(json.loads(archive.read(name)), path)
                elif inner.startswith("data/") and archive.getinfo(name).file_size:
                    _check_bytes(archive, name, path, check_plain)
    except (zipfile.BadZipFile, OSError, ValueError, IndexError) as error:
        raise CheckpointError(f"{path}: not a .pt2 of torch.export ({first_line(error)})") from None


def _check_bytes(
    archive: zipfile.ZipFile, name: str, path: Path, check_plain: Callable[[bytes], object]
) -> None:
    """A member that is itself a file of torch.save, or a pickle, must be plain tensors."""
    with archive.open(name) as file:
        head = file.read(2)
    if head not in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        return  # numbers as they are; what says that they are a pickle is refused by _check_json
    try:
        check_plain(archive.read(name))
    except Exception as error:  # any parser error there is: the bytes come from outside
        raise CheckpointError(
            f"refused: {name} in {path} is no plain tensors ({first_line(error, 120)})"
        ) from None


def _check_json(value: Any, path: Path) -> None:
    for key, inner in _entries(value):
        if key == "use_pickle" and inner:
            raise CheckpointError(f"refused: {path} has pickled weights")
        if key == "target" and isinstance(inner, str) and "." in inner:
            if inner.startswith(("torch", "_operator", "math", "#")):
                if not _OPERATORS.fullmatch(inner):
                    raise CheckpointError(f"refused: {path} calls {inner[:80]}")
        if key == "expr_str" and isinstance(inner, str):
            words = re.findall(r"[A-Za-z_]\w*", inner)
            odd = [w for w in words if w not in _NAMES and not re.fullmatch(r"[suz]\d+", w)]
            if odd or re.search(r"[^\w\s(),'+*/<>=.-]", inner) or len(inner) > 10_000:
                raise CheckpointError(f"refused: {path} has the size {inner[:80]!r}")


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """All (key, value) pairs of dicts inside a JSON value."""
    pending = [value]
    while pending:
        now = pending.pop()
        if isinstance(now, dict):
            yield from now.items()
            pending += now.values()
        elif isinstance(now, list):
            pending += now
