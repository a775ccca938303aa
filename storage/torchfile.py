"""Files of torch.save: what may be in them, written whole, read without running anything.

Tensors and plain values only go in and come out (`weights_only=True`); what is wrong with a file is
one line.
"""

from __future__ import annotations

import io
import pickletools
import re
import warnings
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from storage.errors import CheckpointError, one_line, shortened
from storage.files import open_plain, writing
from storage.foreign.programs import check_exported

_PLAIN = (int, float, complex, str, bytes, bytearray, bool, type(None))
_BOILERPLATE = ("Weights only load failed", "Please file an issue", "Check the documentation")


def check_portable(value: Any, where: str) -> Any:
    """Copy of `value` with nothing in it that `weights_only=True` would refuse to load.

    Tensors are detached, and cut out of the larger storage they may be a view of.
    Anything but tensors, plain values and their containers is a CheckpointError naming `where`:
    better now than at the first resume.
    """
    if isinstance(value, torch.Tensor):
        value = value.detach()
        whole = value.untyped_storage().nbytes() if value.layout == torch.strided else 0
        return value.clone() if whole > value.numel() * value.element_size() else value
    if isinstance(value, (Counter, torch.Size)):
        return value
    if type(value) in _PLAIN or isinstance(value, (torch.dtype, torch.device)):
        return value
    if isinstance(value, dict):
        kind = OrderedDict if isinstance(value, OrderedDict) else dict
        for key in value:
            if type(key) not in (str, int, float, bool, tuple, type(None)):
                raise CheckpointError(
                    f"{where} has a key of type {type(key).__name__} ({key!r}): use str or int"
                )
        return kind((k, check_portable(v, f"{where}[{k!r}]")) for k, v in value.items())
    if type(value) in (list, tuple):
        return type(value)(check_portable(v, f"{where}[{i}]") for i, v in enumerate(value))
    if type(value) is set:
        return {check_portable(v, f"{where}{{}}") for v in value}
    raise CheckpointError(
        f"{where} is a {type(value).__module__}.{type(value).__qualname__}: a state may hold only "
        "tensors, numbers, strings, None and lists, tuples, sets or dicts of them"
    )


def write_torch(path: Path, value: Any) -> None:
    """torch.save so that readers see the old file or the new one.

    Errors: OSError, and torch's own RuntimeError where a file cannot be written.
    """
    with writing(path) as file:
        torch.save(value, file)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever the content of a file makes its readers raise, as CheckpointError of one line."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # the content comes from outside: anything can be wrong with it
        said = one_line(error, 300)
        named = isinstance(error, CheckpointError) and str(path) in str(error)
        raise CheckpointError(str(error) if named else f"{path}: {said}") from None


def load_foreign(path: Path) -> dict[str, Any]:
    """Read a `.pt`, `.pth` or `.safetensors` file of another program, onto the CPU.

    Only tensors and plain containers come in; a file that would need anything else is refused
    ("refused: global X in FILE") and nothing of it runs.  Raises CheckpointError.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error
    value = load_torch(path)
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds a {type(value).__name__}, not a dict of weights")
    return value


def load_torch(path: Path) -> Any:
    """`torch.load` with weights only, onto the CPU, with errors of one line (CheckpointError)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old formats; the result is what counts
            return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # any parser error there is: the bytes come from outside
        text = re.sub(r"\x1b\[\d*m", "", str(error))
        culprit = re.search(r"GLOBAL (\w[\w.]*)", text)
        name = culprit[1] if culprit else _first_global(path)
        if name:
            raise CheckpointError(f"refused: global {name} in {path}") from None
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        lines = [line for line in lines if not line.startswith(_BOILERPLATE)]
        said = lines[0] if lines else type(error).__name__
        if "PytorchStreamReader" in said or isinstance(error, EOFError):
            size = path.stat().st_size
            said = f"cut off or damaged, {size} bytes are there: fetch or copy it again"
        raise CheckpointError(f"{path}: not a readable weights file ({said})") from None


def load_script(path: Path) -> Any:
    """A TorchScript program (`torch.jit.save`) on the CPU, in evaluation mode.

    TorchScript is a language of its own that knows tensors and no Python. Errors: CheckpointError.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is no longer developed
            return torch.jit.load(str(path), map_location="cpu").eval()
    except (RuntimeError, ValueError, OSError) as error:
        raise CheckpointError(
            f"{path}: neither a TorchScript program nor a .pt2 ({shortened(one_line(error), 120)})"
        ) from None


def load_exported(path: Path) -> Any:
    """A program of torch.export (.pt2), looked through before it is loaded: what would run anything
    but operators of torch is refused (`storage.foreign.programs`). Errors: CheckpointError."""
    check_exported(path, _check_plain)
    try:
        return torch.export.load(path)
    except Exception as error:  # of whatever version wrote it
        raise CheckpointError(f"{path}: not a readable program ({one_line(error, 120)})") from None


def _check_plain(data: bytes) -> None:
    """That bytes of torch.save are tensors and plain values. Errors: whatever a parser raises."""
    torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _first_global(path: Path) -> str | None:
    """First thing that a plain pickle (no zip) would import, found without running it."""
    words: list[str] = []
    try:
        with open_plain(path) as fh:
            for code, value, _ in pickletools.genops(fh):
                if code.name == "GLOBAL":
                    return str(value).replace(" ", ".")
                if code.name == "STACK_GLOBAL" and len(words) >= 2:
                    return ".".join(words[-2:])
                if isinstance(value, str):
                    words.append(value)
    except Exception:  # not a pickle
        return None
    return None
