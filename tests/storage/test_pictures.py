"""Sheets: how large, which pixels, which captions."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont

from storage.errors import UsageError
from storage.pictures import Captions, compose, magnification, save_sheet
from tests.sheets import has_text, places


def pixels(path):
    with Image.open(path) as image:
        assert image.mode == "RGB"
        return np.asarray(image)


def pictures(n, height, width=None, channels=3):
    shape = (n, channels, height, width or height)
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)) / 255


def of_image(x):
    return x.mul(255).round().byte().expand(3, -1, -1).permute(1, 2, 0).numpy()


@pytest.mark.parametrize(
    ("size", "grid", "scale"),
    [
        ((8, 8), (3, 3), 16),
        ((32, 32), (6, 7), 4),
        ((28, 28), (1, 1), 5),
        ((100, 60), (2, 2), 3),
        ((128, 128), (2, 2), 1),
        ((512, 512), (10, 10), 1),  # larger than the cap as it is
        ((32, 32), (2, 40), 3),  # 4 times would be 5120 pixels wide
        ((64, 64), (100, 1), 1),
    ],
)
def test_small_pictures_are_enlarged_by_a_whole_number(size, grid, scale):
    assert magnification(*size, *grid) == scale


def test_without_captions_only_pictures_and_gaps(tmp_path):
    x = pictures(5, 8, 16)
    sheet = pixels(save_sheet(tmp_path / "a" / "b.png", x, ncol=3))
    assert sheet.shape == (2 * 128 + 4, 3 * 256 + 8, 3)
    for i in range(5):
        assert places(sheet, of_image(x[i])) == [(i // 3 * 132, i % 3 * 260)]
    assert (sheet[132:, 2 * 260 :] == 255).all() and (sheet[128:132] == 255).all()
    large = pictures(1, 200)
    assert (pixels(save_sheet(tmp_path / "c.png", large, ncol=4)) == of_image(large[0])).all()
    grey = pictures(2, 16, channels=1)
    assert places(pixels(save_sheet(tmp_path / "d.png", grey, 2)), of_image(grey[1])) == [(0, 132)]


def test_captions_stand_beside_pictures_and_never_on_them(tmp_path):
    x = pictures(6, 16)
    words = Captions(
        "PSNR against the target", ["target", "a column that is longer than its pictures are"],
        ["first", "2"], ["", "12.3 dB", "", "", "", "a name much too long to stand above one"],
    )  # fmt: skip
    sheet = pixels(save_sheet(tmp_path / "x.png", x, 3, words))
    at = [places(sheet, of_image(image)) for image in x]
    assert all(len(found) == 1 for found in at)  # each there, once, not a pixel altered
    (top, left), (top2, second), (_, third), (below, _), *_ = (found[0] for found in at)
    assert top == top2 and left > 0 and second - left > 132 and below > top + 132
    assert has_text(sheet, 0, 20, 0, 160)  # the title
    assert has_text(sheet, 20, top, left, left + 128)
    assert has_text(sheet, top, top + 128, 0, left - 4)
    assert has_text(sheet, below, below + 128, 0, left - 4)
    assert has_text(sheet, below - 20, below, third, third + 128)
    assert not has_text(sheet, below - 20, below, left, left + 128)  # no caption of its own
    bare = pixels(save_sheet(tmp_path / "y.png", x, 3))
    assert bare.shape[0] < sheet.shape[0] and bare.shape[1] < sheet.shape[1]


def test_a_font_without_letters_of_a_name_is_no_reason_to_stop(tmp_path, monkeypatch):
    bitmap = ImageFont.load_default_imagefont()

    def old(size=None):
        if size is not None:
            raise OSError("no FreeType")
        return bitmap

    monkeypatch.setattr(ImageFont, "load_default", old)
    x = pictures(1, 128)
    sheet = pixels(save_sheet(tmp_path / "x.png", x, 1, Captions("\u732b cat", each=["\u732b"])))
    assert len(places(sheet, of_image(x[0]))) == 1


def test_cells_of_several_sizes_and_none():
    cells = [[Image.new("RGB", (70, 40), "red"), None], [None, Image.new("RGB", (30, 90), "blue")]]
    sheet = compose(cells, Captions(columns=["a", "b"]))
    assert len(sheet.corners) == 2
    seen = np.asarray(sheet.picture)
    assert ((seen == (255, 0, 0)).all(-1)).sum() == 70 * 40
    assert ((seen == (0, 0, 255)).all(-1)).sum() == 30 * 90
    assert compose([[None]], Captions()).picture.size == (1, 1)


def test_what_makes_no_sheet_is_refused(tmp_path):
    x = pictures(3, 8)
    for images, ncol in ((x[0], 1), (x[:0], 1), (x[:, :2], 1), (x, 0)):
        with pytest.raises(UsageError, match=r"sample grid x\.png: images of shape"):
            save_sheet(tmp_path / "x.png", images, ncol)
    for words in (Captions(columns="abc"), Captions(rows="abc"), Captions(each="abcd")):
        with pytest.raises(UsageError, match="captions of columns, rows and images, for 3 images"):
            save_sheet(tmp_path / "x.png", x, 2, words)
    assert not (tmp_path / "x.png").exists()
