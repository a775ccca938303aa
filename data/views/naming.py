"""Which picture is which, however a set is stored or cut: by number in the whole, or by name."""

from __future__ import annotations

import os
import re

import numpy as np
import torch
from torch import Tensor

from data.formats import is_image_name
from data.sources import Source, Subset

_AUG = re.compile(r"(.*)_aug(\d+)", re.DOTALL)


def root_of(source: Source) -> tuple[Source, np.ndarray]:
    """The whole set that subsets were cut from, and the indices int64 [N] in it of the pictures."""
    indices = np.arange(len(source))
    while isinstance(source, Subset):
        indices, source = source.indices[indices], source.source
    return source, indices


def set_name(source: Source) -> str:
    """The name of a set with that of its split, where there are splits."""
    split = getattr(root_of(source)[0], "split", None)
    return f"{source.name}/{split}" if split and "/" not in source.name else source.name


def root_ids(source: Source) -> Tensor:
    """Indices int64 [N] of pictures in the whole set: the keys of their views."""
    return torch.from_numpy(root_of(source)[1].astype(np.int64))


def picture_names(source: Source) -> list[str]:
    """`class/picture` of every picture, the same however the set is stored or cut, and unique.

    Pictures that share it (in folders below a class) have their number in the whole set behind it.
    """
    root, indices = root_of(source)
    stems = [_stem(root.path(i)) for i in range(len(root))]
    names = [f"{root.classes[root.label(i)]}/{stem}" for i, stem in enumerate(stems)]
    seen: dict[str, int] = {}
    for name in names:
        seen[name] = seen.get(name, 0) + 1
    names = [n if seen[n] == 1 else f"{n}~{i}" for i, n in enumerate(names)]
    return [names[i] for i in indices]


def _stem(path: str) -> str:
    """The name of a picture without folders and suffix, as part of a file's name."""
    base = path.replace(":", "/").rstrip("/").rsplit("/", 1)[-1]
    return os.path.splitext(base)[0] if is_image_name(base) else base


def group_views(source: Source, *, plain: bool = False) -> dict[str, list[int]]:
    """`class/picture` -> indices in a source of its views, by the number behind `_aug`.

    plain: a picture without that ending is the first of its group; else it is left out.
    """
    found: dict[str, list[tuple[int, int]]] = {}
    for i, name in enumerate(plain_names(source)):
        match = _AUG.fullmatch(name)
        if match or plain:
            stem, number = (match[1], int(match[2])) if match else (name, -1)
            found.setdefault(stem, []).append((number, i))
    return {stem: [i for _, i in sorted(views)] for stem, views in sorted(found.items())}


def plain_names(source: Source) -> list[str]:
    """Names as they are on disk: what makes groups must not be changed to be unique."""
    return [
        f"{source.classes[source.label(i)]}/{_stem(source.path(i))}" for i in range(len(source))
    ]
