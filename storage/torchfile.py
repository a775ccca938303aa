"""Files of torch.save: written whole or not at all; what is wrong with one is one line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from storage.errors import CheckpointError


def write_torch(path: Path, value: Any) -> None:
    """torch.save so that readers see the old file or the new one.

    For one writer at a time: what a kill leaves half written the next call replaces. Errors:
    OSError, and torch's own RuntimeError where a file cannot be written.
    """
    tmp = path.with_name(f".{path.name}.tmp")
    try:
        with open(tmp, "wb") as fh:
            torch.save(value, fh)
            fh.flush()
            os.fsync(fh.fileno())
        os.replace(tmp, path)
    finally:
        tmp.unlink(missing_ok=True)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever the content of a file makes its readers raise, as CheckpointError of one line."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # the content comes from outside: anything can be wrong with it
        said = " ".join(str(error).split())[:300] or type(error).__name__
        named = isinstance(error, CheckpointError) and str(path) in str(error)
        raise CheckpointError(str(error) if named else f"{path}: {said}") from None
