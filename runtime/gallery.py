"""A folder of images of one setting, that can be filled in several goes; grids and sheets of it.

Every file is written under another name and renamed, so an image that is there is whole. The
folder's `provenance.json` says under which settings its images were made: a later launch with the
same settings draws what is missing, and one with others is refused instead of mixing the two.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from runtime import distributed
from storage.errors import UsageError
from storage.files import read_object, write_text, writing
from storage.pictures import Captions, as_image, compose, save_sheet

if TYPE_CHECKING:
    from PIL.Image import Image

FACTS = "provenance.json"
_OURS = re.compile(r"((\d{6,}|\.parts)/)?\d{6,}(_\d{5})?(_trajectory)?\.png|grid\.png")


class Gallery:
    """Images of one setting in `folder`, which is created.

    settings: JSON values that decide what the images show. option: the name of the folder in
    messages. overwrite: what was made under other settings goes (files of our names only), and
    images that are there are drawn anew. All ranks make one together, with a shared folder.
    Errors: UsageError for a folder of other settings, or one that cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        *,
        overwrite: bool = False,
        option: str = "--outdir",
    ) -> None:
        self.folder, self.overwrite, self.option = Path(folder), overwrite, option
        self.settings = json.loads(json.dumps(settings))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{option} {folder}: {error.strerror}") from error
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise UsageError(f"{option} {folder}: no permission to write there")
        old = read_facts(self.folder)
        same = old is not None and old.get("settings") == self.settings
        if old is not None and not same and not overwrite:
            raise UsageError(
                f"{option} {folder} holds images of other settings "
                f"({_difference(old.get('settings'), self.settings)}): "
                "choose another one, or --overwrite"
            )
        self.known = same and not overwrite
        self._done = old.get("done") if old is not None and self.known else None
        distributed.barrier()  # nobody writes before everybody has looked
        if old is not None and not same and distributed.is_main():
            for path in [*self.folder.glob("*.png"), *self.folder.glob("*/*.png")]:
                if _OURS.fullmatch(path.relative_to(self.folder).as_posix()):
                    path.unlink(missing_ok=True)

    def finished(self, names: Sequence[str]) -> bool:
        """Whether the last launch had the same settings and names, and came to its end."""
        return self._done is not None and self._done == _digest(names)

    def start(self, names: Sequence[str]) -> set[str]:
        """Those of `names` that need no drawing. Nothing is written yet.

        Errors: UsageError for a file that is in the way.
        """
        there = {n for n in names if (self.folder / n).exists()}
        if there and not self.known and not self.overwrite:
            raise UsageError(
                f"{self.option} {self.folder} has a {min(there)} of unknown settings: "
                "choose another folder, or --overwrite"
            )
        distributed.barrier()  # nobody writes before everybody has looked
        return set() if self.overwrite else there

    def describe(self, facts: Mapping[str, Any], finished: Sequence[str] | None = None) -> None:
        """Write `provenance.json`: settings and facts (JSON values, the main rank's count).

        finished: the names, when all of them are there. Every rank calls it, and none goes on
        before it is written.
        """
        distributed.barrier()
        if distributed.is_main():
            done = None if finished is None else _digest(finished)
            whole = {"settings": self.settings, "done": done, **facts}
            write_text(self.folder / FACTS, json.dumps(whole, indent=1))
        distributed.barrier()

    def add(self, name: str, image: Tensor) -> None:
        """Write one image, uint8 [3 or 1, H, W]; `name` may have folders in it."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save_png(path, image)


def _digest(names: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()


def read_facts(folder: Path) -> dict[str, Any] | None:
    """The folder's `provenance.json`, {} if it cannot be read, None if there is none."""
    file = Path(folder) / FACTS
    if not file.exists():
        return None
    return read_object(file) or {}


def _difference(old: Any, new: Mapping[str, Any]) -> str:
    """The first setting that differs, for a message."""
    if not isinstance(old, dict):
        return "unreadable provenance.json"
    for key in [*new, *old]:
        if old.get(key) != new.get(key):
            return f"{key} {json.dumps(old.get(key))}, now {json.dumps(new.get(key))}"
    return "none"


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
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
    except OSError as error:
        raise UsageError(f"{path} is not a readable image ({error}); remove it") from error
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
