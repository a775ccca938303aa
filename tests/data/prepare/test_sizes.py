import gzip
import json
import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.prepare.acquire import acquire
from data.prepare.sizes import prepare_folders
from data.pyramids import Pyramid
from data.readers.arrays import read_idx
from data.readers.folders import FolderSource
from data.readers.layout import list_files
from data.registry import open_source
from storage.errors import DataError
from storage.files import temporary
from tests.data.pictures import encoded, make_set, truncate, zip_folder


def snapshot(root):
    return {
        p: (os.stat(root / p).st_mtime_ns, os.stat(root / p).st_ino)
        for p in list_files(root, keep=lambda n: True)
    }


@pytest.fixture
def data(tmp_path):
    make_set(tmp_path / "s", {"train": {"a": 3, "b": 2}, "val": {"a": 1, "b": 1}}, "jpg")
    return tmp_path


def write_idx(folder, n=12):
    folder.mkdir()
    rng = np.random.default_rng(0)
    arrays = {}
    for stem, count in (("train", n), ("t10k", 4)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 3).astype(np.uint8)
        arrays[stem] = images
        for kind, values in (("images-idx3", images), ("labels-idx1", labels)):
            head = struct.pack(">HBB", 0, 8, values.ndim) + struct.pack(
                f">{values.ndim}I", *values.shape
            )
            file = folder / f"{stem}-{kind}-ubyte.gz"
            file.write_bytes(gzip.compress(head + values.tobytes()))
    return arrays


def test_prebuilt_pictures_equal_those_resized_on_the_fly(data):
    plain = Pyramid(open_source("s", data), [8, 16])
    assert not any(plain._native.values())
    prepare_folders(data / "s", [8, 16])
    assert (data / "s_8x8/val/b/000.png").exists()
    built = Pyramid(open_source("s", data), [8, 16])
    assert all(built._native.values())
    for i in range(5):
        (x, (y,)), (bx, (by,)) = plain[i], built[i]
        assert (x == bx).all() and (y == by).all()


def test_folders_that_are_no_split_are_told_of(data, capsys):
    shutil.copytree(data / "s" / "train", data / "s" / "trainannot")
    prepare_folders(data / "s", [])
    acquire("linked", data, data / "s")
    zip_folder(data / "s", data / "s.zip")
    acquire("unpacked", data, data / "s.zip")
    assert capsys.readouterr().err.count("not used: trainannot") == 3


def test_idempotent_and_sizes_can_be_added(data):
    prepare_folders(data / "s", [8])
    before = snapshot(data)
    prepare_folders(data / "s", [8])
    assert snapshot(data) == before
    prepare_folders(data / "s", [8, 4])
    assert {k: v for k, v in snapshot(data).items() if k.startswith("s_8x8")} == {
        k: v for k, v in before.items() if k.startswith("s_8x8")
    }
    assert len(list_files(data / "s_4x4/train")) == 5


def test_manifest_holds_every_picture(data):
    import hashlib

    prepare_folders(data / "s", [])
    lines = (data / "s/manifest-train.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [r["path"] for r in records] == list_files(data / "s/train")
    file = (data / "s/train" / records[3]["path"]).read_bytes()
    assert records[3]["sha256"] == hashlib.sha256(file).hexdigest()
    assert (records[3]["width"], records[3]["height"]) == (30, 24)


def test_killed_at_any_moment_it_goes_on(data, monkeypatch):
    from data.prepare import sizes as prepare

    real, seen = prepare._save, []

    def dying(pixels, file, form):
        if len(seen) == 4:
            temporary(Path(file)).touch()  # what a kill inside a write leaves
            raise KeyboardInterrupt
        seen.append(file)
        real(pixels, file, form)

    monkeypatch.setattr(prepare, "_save", dying)
    with pytest.raises(KeyboardInterrupt):
        prepare_folders(data / "s", [8, 16])
    with open(data / "s/manifest-train.jsonl", "a") as log:
        log.write('{"path": "b/00')  # and a line cut off
    with pytest.raises(DataError, match="unfinished"):
        Pyramid(open_source("s", data), [8])
    first = list(seen)
    monkeypatch.setattr(prepare, "_save", lambda *a: (seen.append(a[1]), real(*a)))
    prepare_folders(data / "s", [8, 16])
    assert sorted(first) == sorted(set(first)) and not set(first[:4]) & set(seen[4:])
    assert len(list_files(data / "s_16x16/train")) == 5
    assert not list((data / "s_8x8").rglob(".tmp-*"))
    Pyramid(open_source("s", data), [8, 16])[4]


def test_changed_and_removed_originals(data):
    prepare_folders(data / "s", [8])
    (data / "s/train/a/000.jpg").write_bytes(encoded(77, "JPEG"))
    os.unlink(data / "s/train/b/001.jpg")
    with pytest.raises(DataError, match="made from 5 files.* run `python data/SetupDataset.py"):
        Pyramid(open_source("s", data), [8])
    prepare_folders(data / "s", [8])
    assert len(list_files(data / "s_8x8/train")) == 4
    original = open_source("s", data).image(0)
    want = np.asarray(Image.fromarray(original).resize((8, 8), Image.Resampling.BICUBIC))
    built = Pyramid(open_source("s", data), [8])
    assert (built[0][0].permute(1, 2, 0).numpy() == want).all()


def test_same_list_other_content_is_noticed(data):
    prepare_folders(data / "s", [4, 8])
    (data / "s/train/a/000.jpg").write_bytes(encoded(78, "JPEG"))
    prepare_folders(data / "s", [8])
    Pyramid(open_source("s", data), [8])
    with pytest.raises(DataError, match="4x4.* was made before .* changed"):
        Pyramid(open_source("s", data), [4])


def test_bad_pictures_are_named_and_left_out(data, capsys):
    truncate(data / "s/train/a/001.jpg")
    prepare_folders(data / "s", [8])
    assert "bad image s/train/a/001.jpg" in capsys.readouterr().err
    assert len(list_files(data / "s_8x8/train")) == 4
    pyramid = Pyramid(open_source("s", data), [8])
    assert len(pyramid) == 5
    pyramid[1]
    assert pyramid.bad_count == 1
    for k in (0, 2):
        truncate(data / f"s/train/a/{k:03d}.jpg")
    (data / "s/train/b/000.jpg").write_bytes(b"<html>")
    for _ in range(2):  # said again when nothing is left to do
        with pytest.raises(DataError, match="4 of 5 images are bad"):
            prepare_folders(data / "s", [8])
    records = (data / "s/manifest-train.jsonl").read_text()
    assert '"bad": "truncated"' in records and "a web page" in records


def test_keep_and_crop_and_their_mismatch(data):
    prepare_folders(data / "s", [8], form="keep", crop="center")
    assert list_files(data / "s_8x8/train") == list_files(data / "s/train")
    with Image.open(data / "s_8x8/train/a/000.jpg") as image:
        assert image.format == "JPEG" and image.size == (8, 8)
    source = open_source("s", data)
    assert source.has_native(8, "center") and not source.has_native(8)
    with pytest.raises(DataError, match="made with crop center, format keep"):
        prepare_folders(data / "s", [8])


def test_names_that_differ_by_suffix_alone(tmp_path):
    folder = tmp_path / "s/train/a"
    folder.mkdir(parents=True)
    (folder / "x.jpg").write_bytes(encoded(1, "JPEG"))
    (folder / "x.png").write_bytes(encoded(2))
    prepare_folders(tmp_path / "s", [8])
    assert list_files(tmp_path / "s_8x8") == ["train/a/x.jpg.png", "train/a/x.png.png"]
    Pyramid(open_source("s", tmp_path), [8])[1]


def test_many_workers_make_the_same(tmp_path):
    make_set(tmp_path / "s", {"train": {"a": 40}})
    make_set(tmp_path / "t", {"train": {"a": 40}})
    prepare_folders(tmp_path / "s", [8], workers=2)
    prepare_folders(tmp_path / "t", [8], workers=1)
    for name in list_files(tmp_path / "s_8x8"):
        assert (tmp_path / "s_8x8" / name).read_bytes() == (tmp_path / "t_8x8" / name).read_bytes()
    notes = [json.loads((tmp_path / n / "index-train.json").read_text()) for n in "st"]
    assert notes[0] == notes[1]


# ---------------------------------------------------------------- getting the originals


@pytest.mark.parametrize("kind", ["folder", "wrapped", "zip", "wrapped zip", "classes", "flat"])
def test_sources_of_every_shape(tmp_path, kind):
    root = make_set(tmp_path / "in/src", {"train": {"a": 2, "b": 1}, "validation": {"a": 1}})
    where = {
        "folder": root,
        "wrapped": tmp_path / "in",
        "classes": root / "train",
        "flat": root / "train/a",
    }.get(kind)
    if where is None:
        prefix = "deep/er/" if kind == "wrapped zip" else ""
        where = zip_folder(root, tmp_path / "x.zip", prefix)
    out = acquire("mine", tmp_path / "data", where)
    prepare_folders(out, [8])
    source = open_source("mine", tmp_path / "data")
    assert len(source) == (2 if kind == "flat" else 3)
    assert len(source.classes) == (1 if kind == "flat" else 2)
    if kind not in ("classes", "flat"):
        assert len(open_source("mine/val", tmp_path / "data")) == 1
    Pyramid(source, [8])[0]
    assert acquire("mine", tmp_path / "data", where) == out
    with pytest.raises(DataError, match="exists already, made from"):
        acquire("mine", tmp_path / "data", tmp_path)
    assert sorted(p.name for p in (tmp_path / "data").iterdir()) == ["mine", "mine_8x8"]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("fault", ["empty class", "loose", "none"])
def test_faulty_originals_leave_nothing_behind(tmp_path, fault, packed):
    root = make_set(tmp_path / "src", {"train": {"a": 2}, "val": {"a": 1}})
    if fault == "loose":
        shutil.copy(root / "val/a/000.png", root / "val")
    else:
        (root / "val/b").mkdir()
        (root / "val/b/note.txt").write_text("")
        if fault == "none":
            (root / "val/a/000.png").unlink()
    where = zip_folder(root, tmp_path / "src.zip") if packed else root
    said = {"empty class": "val/b has no images", "loose": "side by side", "none": "no images"}
    with pytest.raises(DataError, match=said[fault]) as caught:
        acquire("mine", tmp_path / "d", where)
    assert f"{where}/val" in str(caught.value)  # not the folder it was unpacked in
    assert list((tmp_path / "d").iterdir()) == []


def test_what_is_no_archive_is_said(tmp_path):
    for data, said in ((b"", "is empty"), (b"<html>quota", "HTML page"), (b"PK\3\4", "cut short")):
        (tmp_path / "x.zip").write_bytes(data)
        with pytest.raises(DataError, match=said):
            acquire("mine", tmp_path / "d", tmp_path / "x.zip")


@pytest.mark.parametrize("packed", [False, True])
def test_mnist(tmp_path, packed):
    arrays = write_idx(tmp_path / "idx")
    where = zip_folder(tmp_path / "idx", tmp_path / "idx.zip") if packed else tmp_path / "idx"
    out = acquire("digits", tmp_path / "data", where)
    source = FolderSource(out / "train")
    assert len(source) == 12 and source.classes == ["0", "1", "2"]
    assert source.relative(4) == "1/00001.png"
    assert (source.image(4) == arrays["train"][1][..., None]).all()
    assert len(FolderSource(out / "test")) == 4
    if not packed:
        (tmp_path / "idx/t10k-labels-idx1-ubyte.gz").write_bytes(b"junk")
        with pytest.raises(DataError, match="t10k-labels.* cannot be read"):
            acquire("again", tmp_path / "data", tmp_path / "idx")
        assert not (tmp_path / "data/again").exists()
        with pytest.raises(DataError, match="cannot be read"):
            read_idx(tmp_path / "idx/none")


def test_parts_are_links_into_the_whole(tmp_path):
    make_set(tmp_path / "camnet3", {"train": {"n01531178": 20, "x": 10}, "val": {"n01531178": 2}})
    bird = acquire("bird", tmp_path)
    assert len(list_files(bird / "train")) == 20 and (bird / "val/n01531178/000.png").is_symlink()
    acquire("camnet3_deci", tmp_path)
    assert len(open_source("camnet3_deci", tmp_path)) == 3
    registry_says = {os.path.realpath(p) for p in _paths(open_source("camnet3_deci", tmp_path))}
    os.rename(tmp_path / "camnet3_deci", tmp_path / "aside")
    lazily = {os.path.realpath(p) for p in _paths(open_source("camnet3_deci", tmp_path))}
    assert registry_says == lazily


def _paths(source):
    return [source.path(i) for i in range(len(source))]


def test_archive_placed_by_hand(tmp_path):
    make_set(tmp_path / "src", {"train": {"a": 1}})
    (tmp_path / "data/downloads").mkdir(parents=True)
    zip_folder(tmp_path / "src", tmp_path / "data/downloads/cifar10.zip", "cifar10/")
    acquire("cifar10", tmp_path / "data")
    assert len(open_source("cifar10", tmp_path / "data")) == 1
