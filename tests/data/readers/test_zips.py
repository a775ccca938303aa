import os
import pickle
import zipfile

import pytest

from data.readers.folders import FolderSource
from data.readers.zips import ZipSource, zip_splits
from storage.errors import DataError
from tests.data.pictures import encoded, make_set, zip_folder


@pytest.fixture
def folder(tmp_path):
    return make_set(tmp_path / "set", {"train": {"b": 3, "a": 2}, "val": {"a": 1, "b": 1}})


@pytest.mark.parametrize("prefix", ["", "wrapped-200/"])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_same_as_the_folder(folder, tmp_path, prefix, method):
    file = zip_folder(folder, tmp_path / "set.zip", prefix, method)
    assert zip_splits(file) == ["train", "val"]
    ours, want = ZipSource(file, split="train"), FolderSource(folder / "train")
    assert ours.classes == want.classes and len(ours) == len(want) == 5
    for i in range(5):
        assert ours.relative(i) == want.relative(i) and ours.label(i) == want.label(i)
        assert (ours.image(i) == want.image(i)).all()


def test_forked_and_pickled_readers(folder, tmp_path):
    source = ZipSource(zip_folder(folder, tmp_path / "set.zip"), split="train")
    source.image(0)
    copy = pickle.loads(pickle.dumps(source))
    assert (copy.image(1) == source.image(1)).all()
    pid = os.fork()
    if pid == 0:
        os._exit(0 if all(len(source.raw(i)) for i in range(5)) else 1)
    assert os.waitpid(pid, 0)[1] == 0


def test_zip_of_classes_is_one_split(folder, tmp_path):
    file = zip_folder(folder / "train", tmp_path / "flat.zip")
    assert zip_splits(file) == []
    assert ZipSource(file).classes == ["a", "b"]


def test_refusals(folder, tmp_path):
    file = zip_folder(folder, tmp_path / "set.zip", method=zipfile.ZIP_STORED)
    with pytest.raises(DataError, match="no split test; it has train, val"):
        ZipSource(file, split="test")
    with pytest.raises(DataError, match="does not exist"):
        ZipSource(tmp_path / "no.zip")
    (tmp_path / "html.zip").write_text("<html>quota</html>")
    with pytest.raises(DataError, match="not a readable zip"):
        ZipSource(tmp_path / "html.zip")
    with zipfile.ZipFile(tmp_path / "l.zip", "w", zipfile.ZIP_LZMA) as out:
        out.writestr("train/a/x.png", encoded(1))
    with pytest.raises(DataError, match="uses compression"):
        ZipSource(tmp_path / "l.zip")


def test_flipped_byte_is_noticed(folder, tmp_path):
    file = zip_folder(folder, tmp_path / "set.zip", method=zipfile.ZIP_STORED)
    source = ZipSource(file, split="train")
    data = bytearray(file.read_bytes())
    at = data.index(source.raw(2)) + 60
    data[at] ^= 1
    file.write_bytes(data)
    fresh = ZipSource(file, split="train")
    with pytest.raises(DataError, match=r"set.zip/train/b/000.png \(.*CRC"):
        fresh.image(2)
    fresh.image(3)
