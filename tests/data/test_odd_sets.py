"""Sets as people find them: layouts of well-known downloads, and what systems leave in folders."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest

from data.prepare.acquire import acquire
from data.prepare.sizes import prepare_folders
from data.registry import find, open_source, train_val_sources
from data.told import told
from storage.errors import DataError
from tests.data.layouts import idx_files
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


def test_a_note_in_capitals_is_an_error(tmp_path):
    note = b'{"labels": [["00000/img00000000.png", 1]]}'
    for k, place in enumerate(
        both(tmp_path, pictures("00000/img00000000.png") | {"DATASET.JSON": note})
    ):
        with pytest.raises(DataError, match=r"read only of a dataset.json \(not DATASET.JSON\)"):
            open_source(str(place), tmp_path)
        with pytest.raises(DataError, match=r"not DATASET.JSON"):
            acquire("mine", tmp_path / f"d{k}", place)


def test_two_labels_of_one_picture_are_an_error(tmp_path):
    pairs = [["0.png", 1], ["1.png", 0], ["./0.png", 2]]
    for same in (False, True):
        note = json.dumps(
            {"labels": pairs[:2] + ([["./0.png", 1]] if same else pairs[2:])}
        ).encode()
        files = pictures("0.png", "1.png") | {"dataset.json": note}
        for place in both(tmp_path / str(same), files):
            if same:
                assert open_source(str(place), tmp_path).label(0) == 1
                continue
            with pytest.raises(DataError, match="0.png that it is of class 1 and of 2"):
                open_source(str(place), tmp_path)


def test_a_test_split_without_pictures_stands_in_nobodys_way(tmp_path, capsys):
    files = pictures("train/a/0.png", "train/b/0.png") | {"test/a/0.heic": b"?", "test/x.txt": b""}
    for k, place in enumerate(both(tmp_path, files)):
        assert told(open_source(str(place), tmp_path)).endswith("not used: test (no pictures)")
        root = acquire("mine", tmp_path / f"d{k}", place)
        prepare_folders(root, [4])
        assert "not used: test (no pictures)" in capsys.readouterr().err
        assert open_source("mine", tmp_path / f"d{k}").classes == ["a", "b"]
        for spec, room in ((str(place), tmp_path), ("mine", tmp_path / f"d{k}")):
            with pytest.raises(DataError, match=r"no images.*1 \.heic"):
                open_source(spec, room, split="test")


def test_mnist_as_kaggle_has_it(tmp_path):
    folder = idx_files(tmp_path / "mnist")
    want = [open_source(str(folder), tmp_path, split="test").image(i) for i in range(2)]
    for file in sorted(folder.iterdir()):
        data, name = file.read_bytes(), file.name
        file.unlink()
        (folder / name).mkdir()
        (folder / name / name).write_bytes(data)
    for k in range(2):
        found = open_source(str(folder), tmp_path, split="test")
        assert all((found.image(i) == want[i]).all() for i in range(2))
        acquire("mine", tmp_path / f"d{k}", folder)
        for file in sorted(folder.glob("*/*")):
            file.rename(folder / file.name.replace("-idx", ".idx"))


def test_an_error_of_an_archive_names_it_and_no_folder_that_is_gone(tmp_path):
    file = tmp_path / "s.tar"
    with tarfile.open(file, "w") as archive:
        for name, data in pictures("1_train/0.png", "2_val/0.png").items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    with pytest.raises(DataError, match=r"^\S*/s.tar has folders that look like splits"):
        acquire("mine", tmp_path / "d", file)


def test_archives_and_arrays_in_a_set_are_named(tmp_path):
    for place in both(tmp_path, {"train.zip": b"?", "val.zip": b"?"}):
        with pytest.raises(DataError, match=r"holds archives \(train.zip, val.zip\): give one"):
            open_source(str(place), tmp_path)
    arrays = both(tmp_path / "arrays", {"x/cifar-10-batches-py/data_batch_1": b"?"})[1]
    with pytest.raises(DataError, match=f"SetupDataset.py --data NAME --source {arrays}"):
        open_source(str(arrays), tmp_path)


def test_nothing_is_validated_on_what_is_trained_on_without_a_word(tmp_path):
    folder, packed = both(
        tmp_path, pictures(*(f"{s}/a/{k}.png" for s in ("train", "val") for k in range(4)))
    )
    for spec in (f"{folder}/val", f"{packed}/validation"):
        train, held = train_val_sources(spec, None, tmp_path)
        assert (len(train), len(held)) == (3, 1)
        assert {train.path(i) for i in range(3)}.isdisjoint({held.path(0)})
    for spec in (f"{folder}/train", f"{packed}/train"):
        assert "; validation: mine/train, 4 pictures, the same that are trained on;" in told(
            *train_val_sources(spec, spec, tmp_path)
        )


def test_a_home_that_nobody_has_is_a_name_like_any_other(tmp_path, capsys):
    with pytest.raises(DataError, match="no data set '~nobody-here/x'"):
        open_source("~nobody-here/x", tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        acquire("mine", tmp_path, Path("~nobody-here/x"))
