"""A folder of images of one setting, that can be filled in several goes; grids and sheets of it.

Every file is written under another name and renamed, so an image that is there is whole. The
folder's `provenance.json` says under which settings its images were made: a later launch with the
same settings draws what is missing, and one with others is refused instead of mixing the two.
`files.jsonl` lists what was written, each name before its file: overwriting takes these alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from runtime import distributed
from storage.errors import UsageError, first_line, not_made
from storage.files import (
    append_line,
    read_bytes,
    read_lines,
    read_object,
    sweep_dead,
    write_text,
    writing,
)
from storage.pictures import Captions, as_image, compose, save_sheet

if TYPE_CHECKING:
    from PIL.Image import Image

FACTS = "provenance.json"
FILES = "files.jsonl"
_AT_ONCE = 100  # names in a line of FILES: short lines of several processes do not mix
_LARGEST = 1 << 30  # bytes of a picture's file
# Settings that are of an option (its name among the arguments) of another name.
_ARGUMENTS = {"guide": "gnet", "inputs": "data"}


class Gallery:
    """Pictures of one setting in `folder`, which is created.

    settings: JSON values that decide what the picture of a name shows. asked: the options as
    they were typed, by which a difference is told where settings are checksums. option: the name of
    the folder in messages. overwrite: what this list of files has of other settings goes when
    `start` is called, and pictures that are there are drawn anew. Files that are not in the list
    are never replaced or removed. older: a folder without facts is nevertheless known, and done,
    from a version before. All ranks make one together, with a shared folder.
    Errors: UsageError for a folder of other settings or without a list that could be trusted, or
    one that cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        *,
        overwrite: bool = False,
        option: str = "--outdir",
        asked: Mapping[str, Any] | None = None,
        older: bool = False,
    ) -> None:
        self.folder, self.overwrite, self.option = Path(folder), overwrite, option
        self.settings = json.loads(json.dumps(settings))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise not_made(f"{option} {folder}: {error.strerror}", error) from error
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise UsageError(f"{option} {folder}: no permission to write there")
        old = read_facts(self.folder)
        if old is None and older:
            old = {"settings": self.settings, "done": _digest([])}
        before = (old or {}).get("settings")
        self.known = old is not None and before == self.settings
        listed, self._sheets, older, there = _read_files(self.folder, before)
        self._done = old.get("done") if old is not None and self.known else None
        self._new: tuple[list[str], dict[str, str]] = ([], {})  # to be listed
        # A version before kept no list: what has the name of a picture is taken as one, to go on
        # with, but never removed.
        self._older = self.known and (older or not there)
        self._marked = older
        self._goes: set[str] = set()
        self._before = before
        if old is not None and not self.known:
            if not isinstance(before, dict):
                raise UsageError(
                    f"{option} {folder} has a {FACTS} that does not say what is in there: choose "
                    "another folder"
                )
            if not overwrite:
                raise UsageError(
                    f"{option} {folder} holds pictures of other settings: "
                    f"{difference(old, self.settings, asked or {})}; choose another folder, or "
                    "--overwrite"
                )
            if not there:
                raise UsageError(
                    f"{option} {folder} holds pictures of other settings and no list of its files "
                    f"({FILES}), so --overwrite takes nothing away: choose another folder"
                )
            self._goes, listed, self._sheets = listed, set(), {}
        self._listed = listed
        if distributed.is_main() and (self.known or self._goes):
            sweep_dead(self.folder, below=True)
        distributed.barrier()  # nobody writes before everybody has looked

    def finished(self, names: Sequence[str]) -> bool:
        """Whether the last launch had the same settings and names, and came to its end."""
        return self._done is not None and self._done == _digest(names)

    def has(self, names: Iterable[str]) -> bool:
        """Whether all of these files are there, known, and not to be made anew."""
        return not self.overwrite and self.known and all(self._own(name) for name in names)

    def _own(self, name: str) -> bool:
        return (name in self._listed or self._older) and (self.folder / name).exists()

    def sheet(self, stem: str, shown: Sequence[str], words: str, wanted: Sequence[str]) -> str:
        """The name of the PNG that shows the pictures `shown`: STEM.png for the first of a folder,
        then STEM-WORDS.png, so that none is replaced by one that shows something else.

        wanted: the names of all that is drawn beside it.
        """
        content = _digest(shown)
        words = re.sub(r"[^0-9A-Za-z.,_-]+", "_", words)
        first = f"{stem}.png"
        taken = dict(self._sheets)
        if self._older and not self.finished(wanted) and (self.folder / first).exists():
            taken.setdefault(first, "")  # of a version before, and not known of what
        names = [first, *([f"{stem}-{words}.png"] if len(words) <= 40 else [])]
        free = (name for name in names if taken.get(name, content) == content)
        name = next(free, f"{stem}-{content[:8]}.png")
        self._new[1][name] = content
        return name

    def start(self, names: Sequence[str], first: Callable[[], object] | None = None) -> set[str]:
        """Those of `names` that need no drawing. Files of other settings go here, if they shall.

        first: what the main rank does before they go, while they can still be read.
        Errors: UsageError for a file in the way that is not in the list.
        """
        there = {n for n in names if (self.folder / n).exists()}
        foreign = {n for n in there if not self._own(n) and n not in self._goes}
        if foreign:
            raise UsageError(
                f"{self.option} {self.folder} has a {min(foreign)} that this command did not "
                "write: choose another folder"
            )
        distributed.barrier()  # nobody writes before everybody has looked
        if self._goes and distributed.is_main():
            # The old facts stand until all is gone, so that a kill in between leaves a folder that
            # is known, of the old settings.
            if first is not None:
                first()
            _remove(self.folder, self._goes)
            gone = {"settings": settings_digest(self._before or {}), "gone": True}
            append_line(self.folder / FILES, json.dumps(gone))
        distributed.barrier()
        self._new[0].extend(n for n in names if n not in self._listed)
        return set() if self.overwrite else there

    def describe(self, facts: Mapping[str, Any], finished: Sequence[str] | None = None) -> None:
        """Write `provenance.json`: settings and facts (JSON values, the main rank's count).

        finished: the names, when all of them are there. Every rank calls it, and none goes on
        before it is written. The files that will be are listed first.
        """
        distributed.barrier()
        if distributed.is_main():
            self._list()
            done = None if finished is None else _digest(finished)
            whole = {"settings": self.settings, "done": done, **facts}
            write_text(self.folder / FACTS, json.dumps(whole, indent=1))
        distributed.barrier()

    def _list(self) -> None:
        names, sheets = self._new
        self._new = ([], {})
        of = settings_digest(self.settings)
        if self._older and not self._marked:
            append_line(self.folder / FILES, json.dumps({"settings": of, "older": True}))
            self._marked = True
        for first in range(0, len(names), _AT_ONCE):
            line = {"settings": of, "files": names[first : first + _AT_ONCE]}
            append_line(self.folder / FILES, json.dumps(line))
        new = {name: shows for name, shows in sheets.items() if self._sheets.get(name) != shows}
        if new:
            append_line(self.folder / FILES, json.dumps({"settings": of, "sheets": new}))

    def add(self, name: str, image: Tensor) -> None:
        """Write one image, uint8 [3 or 1, H, W]; `name` may have folders in it."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save_png(path, image)

    def drop(self, names: Iterable[str]) -> None:
        """Remove pictures that were of use for a while only."""
        _remove(self.folder, names)


def sheet_of(folder: Path, shown: Sequence[str]) -> Path | None:
    """The finished grid of the pictures `shown` in a folder, None if there is none."""
    facts = read_facts(folder) or {}
    _, sheets, older, _ = _read_files(folder, facts.get("settings"))
    names = [name for name, content in sheets.items() if content == _digest(shown)]
    if older or not sheets and facts.get("done"):
        names.append("grid.png")
    return next((folder / name for name in names if (folder / name).exists()), None)


def clear(folder: Path) -> None:
    """Remove from a folder what its list of files has, the list, and the folder if it is empty."""
    facts = read_facts(folder)
    listed = _read_files(folder, (facts or {}).get("settings")).names
    if listed:
        _remove(folder, listed)
        _remove(folder, [FACTS, FILES])
        with contextlib.suppress(OSError):
            folder.rmdir()


def _remove(folder: Path, names: Iterable[str]) -> None:
    """Remove files, and the folders below `folder` that are empty then."""
    for name in sorted(names):
        (folder / name).unlink(missing_ok=True)
    below = {parent for name in names for parent in Path(name).parents} - {Path()}
    for parent in sorted(below, key=lambda p: -len(p.parts)):
        with contextlib.suppress(OSError):
            (folder / parent).rmdir()


def _digest(names: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(sorted(names)).encode(errors="surrogateescape")).hexdigest()


def settings_digest(settings: Mapping[str, Any]) -> str:
    """Eight hex digits of settings (JSON values)."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]


class _Listed(NamedTuple):
    """A folder's list under some settings. names: files; sheets: what they show; older: there are
    also pictures of a version that kept no list; there: there is a list, be it empty."""

    names: set[str]
    sheets: dict[str, str]
    older: bool = False
    there: bool = False


def _read_files(folder: Path, settings: Any) -> _Listed:
    found = _Listed(set(), {})
    if not isinstance(settings, dict):
        return found
    of = settings_digest(settings)
    try:
        lines = read_lines(folder / FILES)
    except OSError as error:
        raise UsageError(
            f"{folder / FILES}, the list of what was written there, cannot be read "
            f"({error.strerror}): choose another folder"
        ) from None
    for line in lines:
        if line.get("settings") != of:
            continue
        if line.get("gone"):
            found = _Listed(set(), {})
        found = found._replace(older=found.older or bool(line.get("older")), there=True)
        files, sheets = line.get("files"), line.get("sheets")
        if isinstance(files, list):
            found.names.update(name for name in files if _is_below(name))
        if isinstance(sheets, dict):
            found.sheets.update({k: v for k, v in sheets.items() if isinstance(v, str)})
    return found


def _is_below(name: Any) -> bool:
    # A list that somebody has edited removes nothing elsewhere.
    return isinstance(name, str) and not Path(name).is_absolute() and ".." not in Path(name).parts


def read_facts(folder: Path) -> dict[str, Any] | None:
    """The folder's `provenance.json`, {} if it cannot be read, None if there is none."""
    file = Path(folder) / FACTS
    if not file.exists():
        return None
    return read_object(file) or {}


def difference(
    facts: Mapping[str, Any], settings: Mapping[str, Any], asked: Mapping[str, Any]
) -> str:
    """What differs from facts (`settings`, and `args` as typed), in words of the command line.

    asked: the options as typed now. At most three options are told.
    """
    old, told = facts["settings"], facts.get("args")
    typed = told if isinstance(told, dict) else {}
    said: dict[str, str] = {}
    changed: dict[str, str] = {}  # options that are what they were, of things that are not
    for key in dict.fromkeys([*settings, *old]):
        before, now = old.get(key), settings.get(key)
        if before == now:
            continue
        option, argument = {"inputs": "data"}.get(key, key), _ARGUMENTS.get(key, key)
        if _is_checksum(before) or _is_checksum(now):
            before, now = typed.get(argument), asked.get(argument)
            if before == now:
                changed[option] = f"what --{option} {_shown(now)} names has changed since"
                continue
        said.setdefault(option, f"--{option} {_shown(before)} before, {_shown(now)} now")
    listed = list((said or changed).values())
    more = [f"and {len(listed) - 3} more"] if len(listed) > 3 else []
    return ", ".join([*listed[:3], *more])


def _is_checksum(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{32,}", value) is not None


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def save_png(path: Path, image: Tensor) -> Path:
    """Write an image uint8 [3 or 1, H, W], atomically."""
    from PIL import Image

    pixels = image.expand(3, -1, -1).permute(1, 2, 0).contiguous().cpu().numpy()
    with writing(path, durable=False) as file:  # thousands, each drawn again from its seed
        Image.fromarray(pixels).save(file, "PNG")
    return path


def grid_of_files(
    path: Path, files: Sequence[Path], ncol: int, captions: Captions | None = None
) -> Path:
    """A sheet of images of one size, row by row. Errors: UsageError for one that cannot be read."""
    return save_sheet(path, torch.stack([read_png(f) for f in files]) / 255, ncol, captions)


def read_png(path: Path) -> Tensor:
    """uint8 [3, H, W]. Errors: UsageError."""
    import numpy as np
    from PIL import Image

    try:
        with Image.open(io.BytesIO(read_bytes(path, _LARGEST))) as image:
            pixels = np.asarray(image.convert("RGB"))
    except MemoryError:
        raise
    except Exception as error:  # decoders raise nearly everything on damaged bytes
        said = first_line(error)
        raise UsageError(f"{path} is not a readable image ({said}); remove it") from error
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def labelled_sheet(
    path: Path, cells: Sequence[Sequence[Path | None]], rows: Sequence[str], columns: Sequence[str]
) -> Path:
    """One picture of many: cells[row][column] with the names of rows and columns around them.

    A cell is shrunk to 512 pixels if it is larger; None leaves it empty.
    """
    import numpy as np

    loaded = [[None if file is None else _shrunk(file) for file in row] for row in cells]
    sheet = np.array(compose(loaded, Captions(rows=rows, columns=columns)).picture)
    return save_png(path, torch.from_numpy(sheet).permute(2, 0, 1))


def _shrunk(file: Path) -> Image:
    picture = as_image(read_png(file).permute(1, 2, 0))
    picture.thumbnail((512, 512))
    return picture
