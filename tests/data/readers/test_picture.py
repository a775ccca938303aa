"""A single picture as a data set."""

import numpy as np
import pytest
from PIL import Image

from data.registry import find, open_source
from data.sources import is_labelled
from data.views.naming import picture_names
from storage.errors import DataError
from tests.data.pictures import encoded, noise


@pytest.mark.parametrize("name", ["cat.png", "dog.JPG", "a b.webp"])
def test_a_picture_is_a_set_of_one(tmp_path, name):
    Image.fromarray(noise(1)).save(tmp_path / name)
    for split in ("train", "val", "test"):
        source = open_source(str(tmp_path / name), tmp_path / "data", split=split)
        assert len(source) == 1 and source.image(0).shape == (24, 30, 3)
    assert source.path(0) == str(tmp_path / name) and source.label(0) == 0
    stem = name.rsplit(".", 1)[0]
    assert source.name == name and source.classes == [stem] and not is_labelled(source)
    assert picture_names(source) == [f"{stem}/{stem}"]
    assert find(str(tmp_path / name), tmp_path).splits == ()


def test_a_picture_in_the_data_directory(tmp_path):
    (tmp_path / "cat.png").write_bytes(encoded(3))
    assert np.array_equal(open_source("cat.png", tmp_path).image(0), noise(3))


def test_what_is_no_picture(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"x")
    with pytest.raises(DataError, match="bad image .*bad.png"):
        open_source(str(tmp_path / "bad.png"), tmp_path).image(0)
    (tmp_path / "notes.txt").write_bytes(b"x")
    with pytest.raises(DataError, match="neither a folder nor a zip"):
        open_source(str(tmp_path / "notes.txt"), tmp_path)
    with pytest.raises(DataError, match="none of train, val, test"):
        open_source(str(tmp_path / "bad.png"), tmp_path, split="weird")
