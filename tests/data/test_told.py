"""The line that says what a run trains on."""

import numpy as np
from PIL import Image

from data.registry import open_source, train_val_sources
from data.told import told


def pictures(folder, count):
    folder.mkdir(parents=True)
    for k in range(count):
        Image.fromarray(np.full((8, 8, 3), 9 * k, np.uint8)).save(folder / f"{k}.png")


def test_built_in_scenes_are_called_so():
    said = told(*train_val_sources("scenes", None, "."))
    assert said == "data: scenes, built in (4096 pictures); --data DIR takes your own"


def test_pictures_classes_and_what_is_held_out(tmp_path):
    for name in ("cats", "dogs"):
        pictures(tmp_path / "pets" / name, 10)
    said = told(*train_val_sources("pets", None, tmp_path))
    assert said == (
        "data: pets (train part), 18 pictures, 2 classes; validation: pets (val part), 2 pictures; "
        f"no splits; read from the folder {tmp_path / 'pets'}"
    )


def test_folders_that_are_no_split_are_named(tmp_path):
    for name in ("train", "trainannot", "val", "valannot"):
        pictures(tmp_path / "camvid" / name, 3)
    pictures(tmp_path / "camvid" / "masks" / "day", 1)
    (tmp_path / "camvid" / "notes").mkdir()
    said = told(open_source("camvid", tmp_path)).splitlines()
    assert said[0] == (
        "data: camvid/train, 3 pictures, no classes; splits train, val; "
        f"read from the folder {tmp_path / 'camvid'}"
    )
    assert said[1] == "not used: masks, trainannot, valannot (no split's name)"


def test_one_picture_is_said(tmp_path):
    pictures(tmp_path / "one", 1)
    said = told(open_source(str(tmp_path / "one" / "0.png"), tmp_path))
    assert "1 picture, no classes; one picture is all that can be learnt" in said
