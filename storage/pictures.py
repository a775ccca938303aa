"""Pictures of many images: sheets that are looked at, enlarged and with captions. Figures.

Pillow draws sheets with its own font, matplotlib draws figures. For single images there is
`runtime.gallery.save_png`.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from storage.errors import RunError, UsageError, first_line
from storage.files import writing

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 128  # pixels that the shorter side of an image has in a sheet, at least
MOST = 4096  # pixels of a sheet's side that enlarging does not go beyond
GAP = 4  # pixels between images, white


class Captions(NamedTuple):
    """What stands on a sheet. title: above all. columns, rows: their names, in order, as many as
    one likes. each: of every image, above it."""

    title: str = ""
    columns: Sequence[str] = ()
    rows: Sequence[str] = ()
    each: Sequence[str] = ()


class Sheet(NamedTuple):
    """picture: the whole, RGB. corners: of each cell that has an image, (left, top) in pixels."""

    picture: Image
    corners: list[tuple[int, int]]


def magnification(height: int, width: int, nrow: int = 1, ncol: int = 1) -> int:
    """The whole number, at least 1, by which a sheet of nrow x ncol images enlarges them.

    The smallest that gives the shorter side SIDE pixels, or less, where the sheet would have more
    than MOST along a side. Large images stay as they are.
    """
    wanted = -(-SIDE // min(height, width))
    room = MOST // max(nrow * height, ncol * width)
    return max(1, min(wanted, room))


def save_sheet(path: Path, images: Tensor, ncol: int, captions: Captions | None = None) -> Path:
    """Write images [N, 3 or 1, H, W] in [0, 1] to a PNG, row by row, `ncol` a row, atomically.

    Every pixel becomes a square of `magnification` pixels of its colour. Errors: UsageError for
    images or captions that make no sheet.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3) or images.shape[0] < 1 or ncol < 1:
        raise UsageError(
            f"sample grid {path.name}: images of shape {tuple(images.shape)} in {ncol} columns; "
            "need [N, 3 or 1, H, W] and at least one of each"
        )
    n, _, height, width = images.shape
    nrow, captions = -(-n // ncol), captions or Captions()
    if len(captions.columns) > ncol or len(captions.rows) > nrow or len(captions.each) > n:
        raise UsageError(
            f"sample grid {path.name}: {len(captions.columns)}, {len(captions.rows)} and "
            f"{len(captions.each)} captions of columns, rows and images, for {n} images in "
            f"{nrow} rows of {ncol}"
        )
    pixels = images.detach().float().cpu().nan_to_num(0.0).clamp(0, 1).mul(255).round().byte()
    scale = magnification(height, width, nrow, min(n, ncol))
    large = pixels.expand(n, 3, height, width).permute(0, 2, 3, 1)
    large = large.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    cells = [[as_image(x) for x in row] for row in large.split(ncol)]
    sheet = compose(cells, captions)
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path, durable=False) as file:  # drawn again more easily than flushed
        sheet.picture.save(file, "PNG")
    return path


def as_image(pixels: Tensor) -> Image:
    """A Pillow image of uint8 [H, W, 3] on the CPU."""
    from PIL import Image

    return Image.fromarray(pixels.contiguous().numpy())


def compose(cells: Sequence[Sequence[Image | None]], captions: Captions) -> Sheet:
    """One picture of cells[row][column], as large as they are, with captions on white around them.

    A cell may be None: it stays empty. The caption of one image is cut if it is wider than its
    column; a column is at least as wide as its own caption.
    """
    from PIL import Image, ImageDraw

    there = [image for row in cells for image in row if image is not None]
    ncol = max(map(len, cells), default=0)
    size = max(11, min(28, max([image.width for image in there], default=64) // 9))
    font, written = default_font(size)
    title = written(captions.title)
    columns, rows, each = ([written(text) for text in texts] for texts in captions[1:])
    line, pad = size + size // 2, size // 2  # of text, around text

    def wide(*texts: str) -> int:
        return max([math.ceil(font.getlength(text)) for text in texts if text], default=0)

    widths = [wide(name) for name in columns] + [0] * (ncol - len(columns))
    heights, above = [0] * len(cells), [0] * len(cells)
    for i, row in enumerate(cells):
        if any(each[i * ncol : (i + 1) * ncol]):
            above[i] = line
        for j, image in enumerate(row):
            if image is not None:
                widths[j] = max(widths[j], image.width)
                heights[i] = max(heights[i], image.height)
    left = wide(*rows) + 2 * pad if any(rows) else 0
    top = (line + pad if title else 0) + (line if any(columns) else 0)
    lefts = [left + sum(widths[:j]) + j * GAP for j in range(ncol)]
    tops = [top + sum(heights[:i]) + sum(above[: i + 1]) + i * GAP for i in range(len(cells))]
    across = left + sum(widths) + max(0, ncol - 1) * GAP
    down = top + sum(heights) + sum(above) + max(0, len(cells) - 1) * GAP
    across = max(across, wide(title) + 2 * pad if title else 1)
    picture = Image.new("RGB", (across, max(down, 1)), "white")
    draw = ImageDraw.Draw(picture)

    def write(text: str, x: float, y: float, *, middle: bool = False) -> None:
        x -= font.getlength(text) / 2 if middle else 0
        draw.text((x, y), text, fill="black", font=font)

    write(title, pad, pad // 2)
    for j, name in enumerate(columns):
        write(name, lefts[j] + widths[j] / 2, top - line + pad // 3, middle=True)
    for i, name in enumerate(rows):
        write(name, pad, tops[i] + (heights[i] - size) / 2)
    corners = []
    for i, row in enumerate(cells):
        for j, image in enumerate(row):
            if image is None:
                continue
            corner = lefts[j] + (widths[j] - image.width) // 2, tops[i]
            picture.paste(image, corner)
            corners.append(corner)
            for name in each[i * ncol + j : i * ncol + j + 1]:
                short = shortened(name, font, widths[j])
                write(short, lefts[j] + widths[j] / 2, tops[i] - line + pad // 3, middle=True)
    return Sheet(picture, corners)


def default_font(size: int) -> tuple[Any, Callable[[str], str]]:
    """Pillow's own font, and what it can write of a text.

    That of a Pillow without FreeType has one size, and no letters but Latin ones.
    """
    from PIL import ImageFont

    try:
        return ImageFont.load_default(size), str
    except (TypeError, OSError):
        return ImageFont.load_default(), lambda text: text.encode("ascii", "replace").decode()


def shortened(text: str, font: Any, width: int) -> str:
    """The text, or so much of it that it is not wider than `width`, and "..."."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


@contextlib.contextmanager
def own_style() -> Iterator[None]:
    """Figures that are made and saved in here look as they do everywhere: a matplotlibrc of the
    user's, which may ask for LaTeX or for fonts that are not there, is not looked at.

    Errors: RunError without matplotlib.
    """
    try:
        with _without_backend():
            import matplotlib
    except (Exception, SystemExit) as error:  # not installed, or broken in any way
        said = first_line(error, 200)
        raise RunError(f"matplotlib, which draws figures, cannot be imported: {said}") from error
    default = {k: v for k, v in matplotlib.rcParamsDefault.items() if "backend" not in k}
    with matplotlib.rc_context(default):
        yield


@contextlib.contextmanager
def _without_backend() -> Iterator[None]:
    # MPLBACKEND may name anything, and is imported with matplotlib.
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        yield
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend


def new_figure(width: float, height: float) -> Any:
    """A matplotlib figure of so many inches that is drawn in memory, for its `savefig`.

    Not of pyplot, which keeps global state and wants a display; MPLBACKEND is not looked at. For
    use inside `own_style`.
    """
    with _without_backend():
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
