"""What a run trains on, in a line or two for its log."""

from __future__ import annotations

from pathlib import Path

from data import formats
from data.readers.tree import FolderTree, understand
from data.sources import Source, Subset, channels_of, is_drawn, is_labelled, left_out_of, place_of


def told(train: Source, held: Source | None = None) -> str:
    """What is trained on and, if anything, held out: names, pictures and classes; the splits of the
    set, and where it lies; then what of it is no split, which nothing reads.
    """
    if is_drawn(train):
        said = f"data: {train.name}, built in ({len(train)} pictures); --data DIR takes your own"
    else:
        said = f"data: {train.name}, {_counted(train)}, {_classes(train)}"
        if held is not None:
            said += f"; validation: {held.name}, {_counted(held)}"
            if held.name == train.name and _place(held) == _place(train):
                said += ", the same that are trained on"
        if len(train) == 1:
            said += "; one picture is all that can be learnt: give a folder of some hundred"
    place, other = place_of(train), place_of(held) if held is not None else None
    if place is not None:
        said += f"; {_splits(place.splits)}; read from {place.where}"
        if other is not None and other.where != place.where:
            said += f", validation from {other.where}"
    if place is not None and place.unused:
        said += f"\n{_unused(place.unused)}"
    for source in {id(s): s for s in (_whole(train), _whole(held or train))}.values():
        if unread := not_read(source):
            said += f"\n{unread}"
    return said


def not_read(source: Source) -> str:
    """`set/train: left out: 6 .heic (formats that are not read)`; "" if nothing is."""
    unread = formats.said(left_out_of(source))
    return f"{_whole(source).name}: {unread}" if unread else ""


def not_used(root: Path) -> str:
    """`not used: trainannot, valannot (no split's name)`, of a folder of splits; "" for none."""
    return _unused(understand(FolderTree(root)).unused)


def _unused(what: tuple[str, ...]) -> str:
    return f"not used: {'; '.join(what)}" if what else ""


def _splits(splits: tuple[str, ...]) -> str:
    return f"splits {', '.join(splits)}" if splits else "no splits"


def _place(source: Source) -> tuple[str, int]:
    place = place_of(source)
    return place.where if place is not None else "", len(source)


def _whole(source: Source) -> Source:
    """The set that a source is a part of."""
    while isinstance(source, Subset):
        source = source.source
    return source


def _counted(source: Source) -> str:
    word = "picture" if channels_of(source) == 3 else "latent"
    return f"{len(source)} {word}{'' if len(source) == 1 else 's'}"


def _classes(source: Source) -> str:
    count = len(source.classes) if is_labelled(source) else 0
    return f"{count} classes" if count > 1 else "no classes"
