"""Folders of images of one setting, grids and sheets."""

import pytest
import torch

from runtime.gallery import Gallery, grid_of_files, labelled_sheet, read_facts, read_png, save_png
from storage.errors import UsageError
from storage.pictures import Captions
from tests.sheets import places


def image(value, size=4):
    return torch.full((3, size, size), value, dtype=torch.uint8)


def fill(folder, settings, names, **options):
    """What a script does; returns the names that it drew."""
    gallery = Gallery(folder, settings, **options)
    there = gallery.start(names)
    gallery.describe({"note": 1})
    todo = [n for n in names if n not in there]
    for name in todo:
        gallery.add(name, image(settings["w"]))
    gallery.describe({"note": 1}, finished=names)
    return todo


NAMES = ["000001.png", "000002.png"]


def test_what_is_there_is_kept(tmp_path):
    assert not Gallery(tmp_path / "a", {"w": 1}).finished(NAMES)
    assert fill(tmp_path, {"w": 1}, NAMES) == NAMES
    assert fill(tmp_path, {"w": 1}, [*NAMES, "000000/000003_00001.png"]) == [
        "000000/000003_00001.png"
    ]
    assert read_facts(tmp_path)["note"] == 1
    gallery = Gallery(tmp_path, {"w": 1})
    assert gallery.finished([*reversed(NAMES), "000000/000003_00001.png"])
    assert not gallery.finished(NAMES)
    gallery.describe({})
    assert not Gallery(tmp_path, {"w": 1}).finished(NAMES)


def test_settings_are_not_mixed(tmp_path):
    fill(tmp_path, {"w": 1, "x": None}, NAMES)
    with pytest.raises(UsageError, match="--out .*w 1, now 2.*--overwrite"):
        Gallery(tmp_path, {"w": 2, "x": None}, option="--out")
    with pytest.raises(UsageError, match="w 1, now null"):
        Gallery(tmp_path, {"x": None})
    assert read_png(tmp_path / NAMES[0]).unique().tolist() == [1]
    (tmp_path / "provenance.json").write_text("{")
    with pytest.raises(UsageError, match="unreadable"):
        Gallery(tmp_path, {"w": 1, "x": None})


def test_overwriting_takes_only_what_is_ours(tmp_path):
    ours = [*NAMES, "001000/001001_00002.png", "000001_trajectory.png", "grid.png"]
    others = ["cat.png", "sub/000001.png", "guidance1/000001.png", "001000/cat.png"]
    fill(tmp_path, {"w": 1}, ours)
    for name in others:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        save_png(tmp_path / name, image(9))
    assert fill(tmp_path, {"w": 2}, ["000007.png"], overwrite=True) == ["000007.png"]
    left = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.png")}
    assert left == {"000007.png", *others}
    assert fill(tmp_path, {"w": 2}, ["000007.png"], overwrite=True) == ["000007.png"]


def test_pictures_of_others_are_in_the_way(tmp_path):
    save_png(tmp_path / NAMES[0], image(9))
    with pytest.raises(UsageError, match="000001.png of unknown settings"):
        fill(tmp_path, {"w": 1}, NAMES)
    assert [p.name for p in tmp_path.iterdir()] == [NAMES[0]]
    assert fill(tmp_path, {"w": 1}, ["000005.png"]) == ["000005.png"]  # another name is free


def test_no_half_image_is_ever_seen(tmp_path, monkeypatch):
    from PIL import Image

    def fail(self, file, *args, **kwargs):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="No space"):
        save_png(tmp_path / "a.png", image(1))
    assert list(tmp_path.iterdir()) == []


def test_images_come_back(tmp_path):
    x = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8)
    assert torch.equal(read_png(save_png(tmp_path / "a.png", x)), x)
    gray = read_png(save_png(tmp_path / "b.png", x[:1]))
    assert torch.equal(gray, x[:1].expand(3, -1, -1))
    (tmp_path / "c.png").write_bytes(b"no picture")
    with pytest.raises(UsageError, match="c.png is not a readable image"):
        read_png(tmp_path / "c.png")


def test_grid_of_files(tmp_path):
    files = [save_png(tmp_path / f"{i}.png", image(40 * i)) for i in range(5)]
    grid = read_png(grid_of_files(tmp_path / "grid.png", files, ncol=3))
    assert grid.shape == (3, 2 * 128 + 4, 3 * 128 + 8)  # every pixel 32 x 32
    assert torch.equal(grid[:, 132:, 132:260], image(160, 128))
    words = Captions(columns=["a", "b", "c"])
    named = read_png(grid_of_files(tmp_path / "grid.png", files, 3, words))
    assert named.shape[1] > grid.shape[1]
    assert places(named.permute(1, 2, 0), image(160).permute(1, 2, 0))


def test_labelled_sheet(tmp_path):
    files = [save_png(tmp_path / f"{i}.png", image(60 * i, 64)) for i in range(3)]
    path = tmp_path / "sheet.png"
    one = read_png(labelled_sheet(path, [[files[0], files[1]]], ["EMA 0.050"], ["w 1", "w 2"]))
    two = read_png(
        labelled_sheet(path, [[files[0], files[1]], [files[2], None]], ["a", "b"], ["w 1", "w 2"])
    )
    for value, sheet in ((0, one), (60, one), (120, two)):
        assert (sheet == value).all(0).sum() >= 64 * 64  # the whole cell is there
    assert two.shape[1] > one.shape[1] and two.shape[2] < one.shape[2]  # a row more, labels less
    large = save_png(tmp_path / "large.png", image(7, 1000))
    sheet = read_png(labelled_sheet(path, [[large]], [""], ["w 1"]))
    assert 512 <= min(sheet.shape[1:]) and max(sheet.shape[1:]) < 620
