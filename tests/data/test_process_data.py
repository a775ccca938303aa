"""data/process_data.py: folders to lists."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.omni.lists import read_list
from data.process_data import main
from tests.data.omni.folders import make_folder


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "set")


def test_one_list_of_all(folder, capsys):
    (folder / "Depth/b.png").write_bytes(b"left over")
    assert main(["--path", f"{folder}/"]) == 0
    listed = json.loads((folder / "data.json").read_text())
    assert [s["x"] for s in listed] == [f"Data/a{i}.png" for i in range(6)]
    assert listed[0] == {
        "x": "Data/a0.png", "d": "Depth/a0.png", "h": "Height/a0.png", "s": "Segmentation/a0.npy",
    }  # fmt: skip
    assert "h" not in listed[5]
    said = capsys.readouterr().out
    assert "Depth: 1 without a picture, left out: b\n" in said and "1 of 6 without h: a5\n" in said
    assert said.endswith("data.json: 6 samples\n")
    samples = read_list(folder / "data.json")
    assert samples[5]["d"] == str(folder / "Depth/a5.png")


def test_a_split_is_drawn_by_the_seed_and_sorted(folder, tmp_path):
    def split(out, *more):
        assert main(["--path", str(folder), "--train_size", "50", "--out", str(out), *more]) == 0
        return [
            [Path(s["x"]).name for s in read_list(out / f"{part}.json")]
            for part in ("train", "val")
        ]

    train, val = split(tmp_path / "new/one")
    assert len(train) == len(val) == 3 and sorted(train + val) == [f"a{i}.png" for i in range(6)]
    assert train == sorted(train) and val == sorted(val)
    assert split(tmp_path / "two") == [train, val]
    assert split(tmp_path / "three", "--seed", "2") != [train, val]


def test_lists_move_with_their_data_and_others_do_not_need_to(folder, tmp_path):
    main(["--path", str(folder), "--out", str(folder / "lists")])
    main(["--path", str(folder), "--out", str(tmp_path / "far/away")])
    listed = json.loads((folder / "lists/data.json").read_text())
    assert listed[0]["x"] == "../Data/a0.png"
    assert json.loads((tmp_path / "far/away/data.json").read_text())[0]["x"].startswith("/")
    folder.rename(tmp_path / "moved")
    assert len(read_list(tmp_path / "moved/lists/data.json")) == 6


def test_a_mapping_of_ones_own_and_folders_in_folders(tmp_path, capsys):
    for name in ("Photos/town/a.jpg", "Flood/town/a.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / name)
    assert main(["--path", str(tmp_path), "--mapping", "Photos=x", "Flood=w"]) == 0
    assert json.loads((tmp_path / "data.json").read_text()) == [
        {"x": "Photos/town/a.jpg", "w": "Flood/town/a.png"}
    ]


def test_water_is_taken_where_it_is(folder):
    (folder / "Water").mkdir()
    np.save(folder / "Water/a1.npy", np.ones((20, 30)))
    assert main(["--path", str(folder)]) == 0
    assert ["w" in s for s in read_list(folder / "data.json")] == [False, True, *[False] * 4]


def _twice(folder):
    np.save(folder / "Depth/a0.npy", np.zeros((2, 2)))


def _no_pictures(folder):
    for file in (folder / "Data").iterdir():
        file.unlink()


@pytest.mark.parametrize(
    "change, words, code, says",
    [
        (None, ["--path", "{}/none"], 6, "none is not a folder"),
        (lambda f: (f / "Height").rename(f / "H"), [], 6,
         "no folder Height; there are Data, Depth, H, Segmentation: add it, or say which are what: "
         "--mapping Segmentation=s Depth=d Data=x"),
        (None, ["--mapping", "Dat=x"], 6, "has no folder Dat; there are Data, Depth, Height, "
         "Segmentation; did you mean Data?"),
        (None, ["--mapping", "Data=y"], 2, "'Data=y' is not DIR=KEY"),
        (None, ["--mapping", "Data=d"], 2, "x among them"),
        (None, ["--mapping", "Data=x", "Depth=x"], 2, "each kind once"),
        (_twice, [], 6, "a0.png have one name: which is sample a0?"),
        (_no_pictures, [], 6, "Data has no pictures"),
        (None, ["--train_size", "10"], 6, "--train_size 10 of 6 samples leaves nothing to train"),
        (None, ["--train_size", "100"], 2, "out of range"),
        (None, ["--out", "{}/Data/a0.png"], 7, "a file of that name is there"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_a_line_and_writes_nothing(folder, capsys, change, words, code, says):
    if change:
        change(folder)
    words = [w.format(folder) for w in words]
    try:
        found = main(words if "--path" in words else ["--path", str(folder), *words])
    except SystemExit as error:
        found = error.code
    shown = capsys.readouterr()
    assert found == code and says in shown.err and shown.err.count("\n") == 1
    assert not shown.out and not list(folder.glob("*.json"))
