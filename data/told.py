"""What a run trains on, in a line or two for its log."""

from __future__ import annotations

from pathlib import Path

from data import formats
from data.readers.folders import FolderSource, left_out
from data.sources import Source, Subset, channels_of, is_drawn, is_labelled, left_out_of


def told(train: Source, held: Source | None = None) -> str:
    """What is trained on and, if anything, held out: names, pictures and classes; then the folders
    of the set that have pictures and are no split, which nothing reads.
    """
    if is_drawn(train):
        said = f"data: {train.name}, built in ({len(train)} pictures); --data DIR takes your own"
    else:
        said = f"data: {train.name}, {_counted(train)}, {_classes(train)}"
        if held is not None:
            said += f"; validation: {held.name}, {_counted(held)}"
        if len(train) == 1:
            said += "; one picture is all that can be learnt: give a folder of some hundred"
    whole = _whole(train)
    for source in {id(s): s for s in (whole, _whole(held or train))}.values():
        if unread := not_read(source):
            said += f"\n{unread}"
    unused = not_used(whole.base) if isinstance(whole, FolderSource) and whole.split else ""
    return f"{said}\n{unused}" if unused else said


def not_read(source: Source) -> str:
    """`set/train: left out: 6 .heic (formats that are not read)`; "" if nothing is."""
    unread = formats.said(left_out_of(source))
    return f"{_whole(source).name}: {unread}" if unread else ""


def not_used(root: Path) -> str:
    """`not used: trainannot, valannot (no split's name)`, of a folder of splits; "" for none."""
    names = left_out(root)
    return f"not used: {', '.join(names)} (no split's name)" if names else ""


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
