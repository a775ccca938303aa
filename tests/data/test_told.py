"""The line that says what a run trains on."""

import numpy as np
import pytest
from PIL import Image

from data.registry import open_source, train_val_sources
from data.told import told
from tests.data.layouts import environment, idx_files
from tests.data.pictures import zip_folder
from tests.data.readers.test_arrays import official as cifar
from tests.data.readers.test_edm_zip import image_files, latent_files, write


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


def test_a_zip_names_what_nothing_reads_too(tmp_path):
    for name in ("Train", "trainannot", "VAL"):
        pictures(tmp_path / "c" / "camvid" / name, 3)
    file = zip_folder(tmp_path / "c", tmp_path / "z.zip")
    said = told(*train_val_sources(str(file), None, tmp_path)).splitlines()
    assert said == [
        "data: z/train, 3 pictures, no classes; validation: z/val, 3 pictures; splits train, val; "
        f"read from the zip {file}",
        "not used: trainannot (no split's name)",
    ]


def test_what_is_loose_or_empty_beside_splits_is_told(tmp_path):
    for name in ("train", "val"):
        pictures(tmp_path / "s" / name, 2)
    Image.new("RGB", (8, 8)).save(tmp_path / "s" / "preview.png")
    (tmp_path / "s" / "Val").mkdir()
    said = told(*train_val_sources("s", None, tmp_path)).splitlines()
    assert said[1] == "not used: Val (no pictures); 1 picture beside the splits"


@pytest.mark.parametrize(
    ("make", "end"),
    [
        (lambda d: environment(d / "s" / "s_train_8.lmdb"), "splits train; read from LMDB in {}/s"),
        (lambda d: write(d / "s.zip", image_files(4)), "no splits; read from the zip {}/s.zip"),
        (lambda d: write(d / "s", latent_files(4)), "no splits; read from the folder {}/s"),
        (lambda d: write(d / "s" / "Train", image_files(2)),
         "splits train; read from the folder {}/s"),
        (lambda d: idx_files(d / "s"), "splits train, test; read from the arrays of {}/s"),
        (lambda d: cifar(d / "s"), "splits train, test; read from the arrays of {}/s"),
    ],
)  # fmt: skip
def test_every_reader_says_where_it_reads(tmp_path, make, end):
    make(tmp_path)
    assert told(open_source("s", tmp_path)).endswith(end.format(tmp_path))


def test_validation_from_elsewhere_is_said(tmp_path):
    for name in ("a", "b"):
        pictures(tmp_path / name, 2)
    said = told(*train_val_sources("a", "b", tmp_path))
    assert said.endswith(f"the folder {tmp_path}/a, validation from the folder {tmp_path}/b")
