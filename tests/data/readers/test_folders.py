import errno
import os

import numpy as np
import pytest
from PIL import Image

from data.readers.folders import FolderSource, splits_in
from data.readers.layout import list_files
from storage.errors import DataError
from tests.data.pictures import encoded, make_set


def test_numbering_is_that_of_torchvision(tmp_path):
    from torchvision.datasets import ImageFolder

    make_set(tmp_path, {"train": {"b": 3, "a": 2, "10": 1, "9": 1}})
    (tmp_path / "train/a/sub").mkdir()
    (tmp_path / "train/a/sub/z.PNG").write_bytes(encoded(9))
    (tmp_path / "train/a/.hidden.png").write_bytes(b"")
    (tmp_path / "train/a/notes.txt").write_text("x")
    (tmp_path / "train/__MACOSX").mkdir()
    ours = FolderSource(tmp_path / "train")
    os.remove(tmp_path / "train/a/.hidden.png")
    (tmp_path / "train/__MACOSX").rmdir()
    theirs = ImageFolder(tmp_path / "train")
    assert ours.classes == theirs.classes
    assert sorted(ours.path(i) for i in range(len(ours))) == sorted(p for p, _ in theirs.samples)
    assert {ours.path(i): ours.label(i) for i in range(len(ours))} == dict(theirs.samples)
    image, label = theirs[4]
    (i,) = [i for i in range(len(ours)) if ours.path(i) == theirs.samples[4][0]]
    assert (ours.image(i) == np.asarray(image)).all() and ours.label(i) == label


def test_flat_folder_is_one_class_and_links_are_followed(tmp_path):
    make_set(tmp_path / "real", {"x": {"y": 3}})
    (tmp_path / "flat").symlink_to(tmp_path / "real/x/y")
    source = FolderSource(tmp_path / "flat")
    assert len(source) == 3 and source.classes == ["flat"] and source.label(2) == 0
    (tmp_path / "real/x/y/loop").symlink_to(tmp_path / "real")  # a circle ends
    assert len(list_files(tmp_path / "real")) == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "does not exist"),
        (lambda p: p.write_text("x"), "is a file"),
        (lambda p: p.mkdir(), "no images under"),
        (
            lambda p: (make_set(p, {"a": {"b": 1}}), (p / "e").mkdir()),
            "class folder .*e has no images",
        ),
        (
            lambda p: (make_set(p, {"a": {"b": 1}}), (p / "l.png").write_bytes(encoded(1))),
            "loose images",
        ),
    ],
)
def test_bad_folders(tmp_path, make, message):
    make(tmp_path / "set")
    with pytest.raises(DataError, match=message) as caught:
        FolderSource(tmp_path / "set")
    assert "\n" not in str(caught.value)


def test_splits_are_not_classes_called_train(tmp_path):
    make_set(tmp_path / "set", {"train": {"a": 1}, "validation": {"a": 1}})
    assert list(splits_in(tmp_path / "set")) == ["train", "val"]
    classes = tmp_path / "classes"
    for name in ("train", "boat"):
        make_set(classes / name, {"": {"": 1}})
    assert splits_in(classes) == {}
    make_set(classes / "val", {"": {"": 1}})  # as CamVid: train, val and folders of annotations
    assert list(splits_in(classes)) == ["train", "val"]


def test_foreign_resolution_folders(tmp_path):
    make_set(tmp_path / "s", {"train": {"a": 3}}, "jpg")
    source = FolderSource(tmp_path / "s/train", base=tmp_path / "s", split="train")
    assert not source.has_native(8)
    small = tmp_path / "s_8x8/train/a"
    small.mkdir(parents=True)
    for k in range(3):
        Image.fromarray(np.full((8, 8, 3), 40 * k, np.uint8)).save(small / f"{k:03d}.png")
    assert source.has_native(8) and source.native(2, 8)[0, 0, 0] == 80
    assert not source.has_native(8, "center")
    (small / "001.png").unlink()
    with pytest.raises(DataError, match="1 of 3 missing|3 of 3 missing"):
        source.has_native(8)
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(small / "001.png")
    fresh = FolderSource(tmp_path / "s/train", base=tmp_path / "s", split="train")
    with pytest.raises(DataError, match="9x9 in a folder of 8x8"):
        fresh.native(1, 8)


def test_folders_one_may_not_enter(tmp_path, monkeypatch):
    make_set(tmp_path, {"train": {"a": 1}})
    (tmp_path / "private").mkdir()
    scandir = os.scandir

    def guarded(folder):
        if "private" in str(folder):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", guarded)  # root, as in a container, may look anywhere
    for look in (list_files, splits_in):
        with pytest.raises(DataError, match="cannot list .*private: Permission denied"):
            look(tmp_path)
