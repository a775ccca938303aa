"""Folders of images of one setting, grids and sheets."""

import json
import os
import re

import pytest
import torch

from runtime.gallery import (
    Gallery,
    clear,
    difference,
    grid_of_files,
    labelled_sheet,
    read_facts,
    read_png,
    save_png,
    sheet_of,
)
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
    with pytest.raises(UsageError, match="--out .*--w 1 before, 2 now; .*--overwrite"):
        Gallery(tmp_path, {"w": 2, "x": None}, option="--out")
    with pytest.raises(UsageError, match="--w 1 before, none now"):
        Gallery(tmp_path, {"x": None})
    assert read_png(tmp_path / NAMES[0]).unique().tolist() == [1]
    (tmp_path / "provenance.json").write_text("{")
    with pytest.raises(UsageError, match="provenance.json that does not say"):
        Gallery(tmp_path, {"w": 1, "x": None})


def test_overwriting_takes_only_what_is_listed(tmp_path):
    ours = [*NAMES, "001000/001001_00002.png", "000001_trajectory.png", "grid.png"]
    others = ["cat.png", "sub/000001.png", "guidance1/000001.png", "001000/cat.png", "000003.png"]
    fill(tmp_path, {"w": 1}, ours)
    for name in others:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        save_png(tmp_path / name, image(9))
    assert fill(tmp_path, {"w": 2}, ["000007.png"], overwrite=True) == ["000007.png"]
    left = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.png")}
    assert left == {"000007.png", *others}
    assert fill(tmp_path, {"w": 2}, ["000007.png"], overwrite=True) == ["000007.png"]
    with pytest.raises(UsageError, match="000003.png that this command did not write"):
        fill(tmp_path, {"w": 3}, ["000003.png"], overwrite=True)
    assert read_png(tmp_path / "000007.png").unique().tolist() == [2]


def test_a_list_with_paths_elsewhere_removes_nothing_there(tmp_path):
    fill(tmp_path / "a", {"w": 1}, NAMES)
    save_png(tmp_path / "mine.png", image(9))
    file = tmp_path / "a" / "files.jsonl"
    lines = file.read_text()
    for name in ("../mine.png", str(tmp_path / "mine.png"), 7):
        file.write_text(lines.replace('"000001.png"', json.dumps(name)))
        Gallery(tmp_path / "a", {"w": 2}, overwrite=True).start([])
    assert (tmp_path / "mine.png").exists() and (tmp_path / "a" / NAMES[0]).exists()


def test_what_is_gone_is_listed_no_more(tmp_path):
    for value in (1, 2, 1):
        fill(tmp_path, {"w": value}, [f"00000{value}.png"], overwrite=True)
    fill(tmp_path, {"w": 2}, ["000003.png"], overwrite=True)
    save_png(tmp_path / "000002.png", image(9))  # of one's own, where a picture of w 2 has been
    with pytest.raises(UsageError, match="000002.png that this command did not write"):
        fill(tmp_path, {"w": 2}, ["000002.png"])


def test_two_processes_list_their_files_together(tmp_path):
    one, two = (Gallery(tmp_path, {"w": 1}) for _ in range(2))
    for gallery, name in ((one, "000001.png"), (two, "000002.png")):
        gallery.start([name])
    for gallery, name in ((one, "000001.png"), (two, "000002.png")):
        gallery.describe({})
        gallery.add(name, image(1))
        gallery.describe({}, finished=[name])
    assert Gallery(tmp_path, {"w": 1}).start(NAMES) == set(NAMES)


def test_a_sheet_has_its_name_for_itself(tmp_path):
    def sheet(shown, words, wanted=()):
        gallery = Gallery(tmp_path, {"w": 1})
        name = gallery.sheet("grid", shown, words, wanted)
        gallery.start([name])
        gallery.describe({})
        save_png(tmp_path / name, image(1))
        return name

    assert sheet(["a", "b"], "0-1") == "grid.png" == sheet(["b", "a"], "0-1")
    assert sheet(["a"], "0/0") == "grid-0_0.png"
    assert re.fullmatch(r"grid-[0-9a-f]{8}\.png", sheet(["b"], "0/0"))  # words that are taken
    assert re.fullmatch(r"grid-[0-9a-f]{8}\.png", sheet(["c"], "0-1," * 30))
    assert sheet_of(tmp_path, ["a"]) == tmp_path / "grid-0_0.png"
    assert sheet_of(tmp_path, ["z"]) is None


def test_clearing_leaves_what_is_not_listed(tmp_path):
    fill(tmp_path / "a", {"w": 1}, NAMES)
    fill(tmp_path / "b", {"w": 1}, NAMES)
    (tmp_path / "b" / "mine.txt").write_text("")
    for name in ("a", "b", "nowhere"):
        clear(tmp_path / name)
    assert not (tmp_path / "a").exists()
    assert [p.name for p in (tmp_path / "b").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    "old, new, says",
    [
        ({"steps": 3}, {"steps": 4}, "--steps 3 before, 4 now"),
        ({"net": "a" * 64}, {"net": "b" * 64}, "--net x before, y now"),
        ({"guide": None}, {"guide": "b" * 64}, "--guide none before, g now"),
        ({"inputs": "a" * 64}, {"inputs": "b" * 64}, "what --data d names has changed since"),
        ({"data": "p", "inputs": "a" * 64}, {"data": "q", "inputs": "b" * 64},
         "--data p before, q now"),
        (dict.fromkeys("abcde", 1), dict.fromkeys("abcde", 2),
         "--a 1 before, 2 now, --b 1 before, 2 now, --c 1 before, 2 now, and 2 more"),
    ],
)  # fmt: skip
def test_a_difference_in_words(old, new, says):
    facts = {"settings": old, "args": {"net": "x", "gnet": None, "data": "d"}}
    assert difference(facts, new, {"net": "y", "gnet": "g", "data": "d"}) == says


def test_pictures_of_others_are_in_the_way(tmp_path):
    save_png(tmp_path / NAMES[0], image(9))
    with pytest.raises(UsageError, match="000001.png that this command did not write"):
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


@pytest.mark.parametrize("key", ["files", "sheets", "older", "gone"])
@pytest.mark.parametrize("value", [3, None, "x", [1], [[]], {"a": 1}, {"a": {}}, True])
def test_a_list_of_another_shape_is_no_traceback(tmp_path, key, value):
    fill(tmp_path, {"w": 1}, NAMES)
    lines = (tmp_path / "files.jsonl").read_text().splitlines()
    (tmp_path / "files.jsonl").write_text(
        "".join(json.dumps(json.loads(line) | {key: value}) + "\n" for line in lines)
    )
    for settings in ({"w": 1}, {"w": 2}):
        try:
            fill(tmp_path, settings, NAMES)
            sheet_of(tmp_path, NAMES)
        except UsageError as error:
            assert "\n" not in str(error)


def test_a_list_or_facts_that_are_no_files(tmp_path):
    fill(tmp_path, {"w": 1}, NAMES)
    facts = json.loads((tmp_path / "provenance.json").read_text())
    (tmp_path / "provenance.json").write_text(json.dumps(facts | {"args": [1]}))
    with pytest.raises(UsageError, match="--w 1 before, 2 now"):
        fill(tmp_path, {"w": 2}, NAMES)
    (tmp_path / "files.jsonl").unlink()
    for make in (os.mkdir, os.mkfifo):
        make(tmp_path / "files.jsonl")
        with pytest.raises(UsageError, match="files.jsonl, .*cannot be read"):
            fill(tmp_path, {"w": 1}, NAMES)
        os.rmdir(tmp_path / "files.jsonl") if make is os.mkdir else None


def test_a_picture_that_is_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / NAMES[0])
    with pytest.raises(UsageError, match="a pipe, not a file.*; remove it"):
        read_png(tmp_path / NAMES[0])
