"""What a reader is: a function that says of a path whether its kind lies there, and what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from data.sources import Source
from storage.errors import DataError


@dataclass(frozen=True)
class Found:
    """What lies at a path.

    splits: those there are to choose from; empty where everything is one set, which then serves as
    whichever is asked for; None where the name asked for says its split itself (`NAME/val`).
    open: a split's name -> its pictures. DataError: no such split, or what is there cannot be read.
    """

    splits: tuple[str, ...] | None
    open: Callable[[str], Source]


class Reader(Protocol):
    """`reader(path)` is None unless something of its kind lies there. It looks, and reads little:
    pictures and their lists are read by `Found.open`. DataError: its kind, but damaged.
    """

    def __call__(self, path: Path) -> Found | None: ...


def refused(why: str) -> Found:
    """Something that cannot be opened; who only asks for splits does not hear why."""

    def refuse(split: str) -> Source:
        raise DataError(why)

    return Found((), refuse)
