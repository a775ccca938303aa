"""Sheets of samples, small enough for a page: as they are where they fit, else as WebP, smaller and
coarser until they do, and at last fewer."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from recipes.report.reading import Sheet
from storage.errors import first_line
from storage.files import read_bytes

# (longest side in pixels, quality of WebP), the best first; None: the PNG as it is.
LEVELS = (None, (2048, 90), (1600, 85), (1200, 80), (800, 75), (560, 65), (400, 55), (280, 45))
LEAST = 18_000  # bytes that a sheet should have in a page: where that is too much, there are fewer
_PIXELS = 1 << 27  # a picture of more is left out: one of a few bytes may claim any size
_BASE64 = 4 / 3


class Unusable(Exception):
    """A file that is no picture; in a few words."""


class Shown(NamedTuple):
    """A sheet as a page has it. level: of LEVELS. data: a data URI."""

    sheet: Sheet
    level: int
    size: tuple[int, int]
    data: str


class Fitted(NamedTuple):
    """shown: a list of sheets a run. said: sentences on what is left out or made smaller. problems:
    sentences on what cannot be read, a list a run."""

    shown: list[list[Shown]]
    said: list[str]
    problems: list[list[str]]


class Encoder:
    """Makes data URIs of sheets, and remembers them while the files stay as they are."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], tuple[str, tuple[int, int]] | Unusable] = {}

    def encode(self, file: Path, level: int) -> tuple[str, tuple[int, int]]:
        """A data URI of a PNG at a level of LEVELS, and its size there. Errors: Unusable."""
        try:
            state = file.stat()
        except OSError as error:
            raise Unusable(error.strerror or str(error)) from None
        key = (str(file), state.st_mtime_ns, state.st_size, level)
        if key not in self._known:
            try:
                self._known[key] = _encoded(file, level)
            except Unusable as error:
                self._known[key] = error
        found = self._known[key]
        if isinstance(found, Unusable):
            raise found
        return found


def _encoded(file: Path, level: int) -> tuple[str, tuple[int, int]]:
    from PIL import Image

    try:
        data = read_bytes(file)
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if image.width * image.height > _PIXELS:
                raise Unusable(f"{image.width} x {image.height} pixels are too many")
            image.load()
            wanted = LEVELS[level]
            if wanted is None:
                return _uri("png", data), image.size
            side, quality = wanted
            small = image.convert("RGB")
            small.thumbnail((side, side), Image.Resampling.LANCZOS)
            out = io.BytesIO()
            small.save(out, "WEBP", quality=quality, method=4)
            return _uri("webp", out.getvalue()), small.size
    except Unusable:
        raise
    except Exception as error:  # Pillow raises what it likes for a damaged file
        raise Unusable(first_line(error, 120)) from None


def _uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def chosen(sheets: Sequence[Sheet], most: int) -> list[Sheet]:
    """At most `most` of a run's sheets (at least one of each name), evenly over their steps."""
    names = list(dict.fromkeys(sheet.name for sheet in sheets))
    kept: list[Sheet] = []
    for k, name in enumerate(names):
        own = [sheet for sheet in sheets if sheet.name == name]
        count = max(1, (most - len(kept)) // (len(names) - k))
        kept += evenly(own, count)
    return kept


def evenly(things: Sequence[Sheet], count: int) -> list[Sheet]:
    """`count` things of a list, the last and, where there are two, the first among them."""
    if len(things) <= count:
        return list(things)
    if count == 1:
        return [things[-1]]
    return [things[round(k * (len(things) - 1) / (count - 1))] for k in range(count)]


def fit(
    runs: Sequence[tuple[str, Sequence[Sheet]]],
    room: int,
    encoder: Encoder,
    done: Callable[[], object] = lambda: None,
) -> Fitted:
    """Sheets of runs (name, sheets) as data URIs of at most `room` characters together.

    done: called after each sheet.
    """
    most = int(room / (LEAST * _BASE64))
    total = sum(len(sheets) for _, sheets in runs)
    wanted = [list(sheets) for _, sheets in runs]
    said: list[str] = []
    if total > most:
        wanted = [chosen(sheets, max(1, most * len(sheets) // total)) for sheets in wanted]
        for (name, sheets), kept in zip(runs, wanted, strict=True):
            if len(kept) < len(sheets):
                said.append(f"{name}: {len(kept)} of {len(sheets)} sheets, evenly over the steps.")
    left, to_do = room, sum(map(len, wanted))
    shown: list[list[Shown]] = [[] for _ in runs]
    problems: list[list[str]] = [[] for _ in runs]
    missing = smaller = 0
    for k, sheets in enumerate(wanted):
        at: dict[str, int] = {}  # where to begin: sheets of one name are much alike
        for sheet in sheets:
            try:
                found = _fitted(sheet, at.get(sheet.name, 0), left // to_do, encoder)
            except Unusable as error:
                problems[k].append(f"samples/{sheet.file.name} cannot be shown: {error}.")
                found = None
            else:
                missing += found is None
            if found is not None:
                shown[k].append(found)
                at[sheet.name] = max(0, found.level - 1)
                left -= len(found.data)
                smaller += found.level > 0
            to_do -= 1
            done()
    if smaller:
        all_ = sum(map(len, shown))
        said.append(f"{smaller} of {all_} sheets are recompressed, so that the page stays small.")
    if missing:
        said.append(f"{missing} sheets do not fit at all and are left out.")
    return Fitted(shown, said, problems)


def _fitted(sheet: Sheet, first: int, room: int, encoder: Encoder) -> Shown | None:
    for level in range(first, len(LEVELS)):
        data, size = encoder.encode(sheet.file, level)
        if len(data) <= room:
            return Shown(sheet, level, size, data)
    return None
