"""Sets as people find them: layouts of well-known downloads, and what systems leave in folders."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from data.prepare.acquire import acquire
from data.registry import find, open_source
from data.told import told
from storage.errors import DataError
from tests.data.test_one_set import png


def both(room: Path, files: dict[str, bytes]) -> list[Path]:
    """A set as a folder and as a zip, both called `mine`."""
    folder = room / "f" / "mine"
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    with zipfile.ZipFile(room / "mine.zip", "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return [folder, room / "mine.zip"]


def pictures(*names: str) -> dict[str, bytes]:
    return {name: png(k) for k, name in enumerate(names)}


@pytest.mark.parametrize(
    "tops",
    [("seg_train", "seg_test", "seg_pred"), ("train2017", "val2017", "annotations"),
     ("trainA", "testA", "masks"), ("train", "dev", "extra")],
)  # fmt: skip
def test_splits_of_one_spelling_are_no_classes_whatever_is_beside_them(tmp_path, tops):
    for place in both(tmp_path, pictures(*(f"{top}/0.png" for top in tops))):
        with pytest.raises(DataError, match=f"look like splits.*: .*{tops[0]}"):
            open_source(str(place), tmp_path)


def test_classes_that_have_both_words_in_other_names_stay_classes(tmp_path):
    names = ("bullet_train/0.png", "test_tube/0.png", "bird/0.png")
    for place in both(tmp_path, pictures(*names)):
        assert open_source(str(place), tmp_path).classes == ["bird", "bullet_train", "test_tube"]


def test_a_split_with_classes_beside_a_folder_of_pictures(tmp_path):
    files = pictures("train/a/0.png", "train/b/0.png", "unlabeled/0.png")
    for place in both(tmp_path, files):
        source = open_source(str(place), tmp_path)
        assert (source.classes, len(source)) == (["a", "b"], 2)
        assert "not used: unlabeled (no split's name)" in told(source)
        assert find(str(place), tmp_path).splits == ("train",)
    files = pictures("train/0.png", "unlabeled/0.png")  # of locomotives
    for place in both(tmp_path / "flat", files):
        assert open_source(str(place), tmp_path).classes == ["train", "unlabeled"]


@pytest.mark.parametrize(
    ("names", "classes"),
    [(("00000/00999.png", "01000/01000.png"), 1),
     (("00000/img00000999.png", "00001/img00001000.png"), 1),
     (("train/00000/img00000999.png", "train/00001/img00001000.png", "val/00000/img00000000.png"),
      1),
     (("00000/00999.png", "00001/00001.png"), 2), (("00000/a.png", "00001/b.png"), 2)],
)  # fmt: skip
def test_shards_by_number_are_no_classes(tmp_path, names, classes):
    for k, place in enumerate(both(tmp_path, pictures(*names))):
        acquire("mine", tmp_path / f"d{k}", place)
        for spec, room in ((str(place), tmp_path), ("mine", tmp_path / f"d{k}")):
            source = open_source(spec, room)
            assert (len(source.classes), len(source)) == (classes, 2)


def test_what_systems_leave_in_folders_is_no_class(tmp_path):
    files = pictures("a/0.png", "b/0.png", "@eaDir/0.png", "a/@eaDir/0.jpg/x.png", "#recycle/0.png",
                     "$RECYCLE.BIN/0.png") | {"lost+found/x": b""}  # fmt: skip
    for k, place in enumerate(both(tmp_path, files)):
        acquire("mine", tmp_path / f"d{k}", place)
        for spec, room in ((str(place), tmp_path), ("mine", tmp_path / f"d{k}")):
            source = open_source(spec, room)
            assert (source.classes, len(source)) == (["a", "b"], 2)


def test_a_class_of_unread_pictures_says_so(tmp_path):
    for place in both(tmp_path, {**pictures("a/0.png"), "b/0.heic": b"?", "b/1.heic": b"?"}):
        with pytest.raises(DataError, match=r"b has no images; .*left out: 2 \.heic"):
            open_source(str(place), tmp_path)
