"""A set is the same however it is packed and whoever reads it: archives drawn at random, each read
in place as a folder and as a zip, set up from folder, zip and tar, and given to dataset_tool.
"""

from __future__ import annotations

import io
import json
import random
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data import dataset_tool
from data.dataset_tool import open_input
from data.InvertDirStructure import invert
from data.prepare.acquire import acquire
from data.prepare.sizes import prepare_folders
from data.registry import find, open_source
from storage.errors import DataError
from tests.data.layouts import environment, idx_files
from tests.data.readers.test_edm_zip import image_files, write

SPELLINGS = {
    "train": ("train", "Train", "TRAIN", "training", "Training"),
    "val": ("val", "Val", "VAL", "valid", "Valid", "validation", "VALIDATION"),
    "test": ("test", "Test", "testing", "TESTING"),
}
WRAPS = ((), (), ("set",), ("my data",), ("outer", "inner"), ("a.b", "v1"))
RUBBISH = (
    *("__MACOSX/._0.png", ".DS_Store", "Thumbs.db", ".hidden/x/0.png", ".ipynb_checkpoints/0.png"),
)
Picture = tuple[str, str, bytes]  # name inside its split, class, bytes


def png(number: int) -> bytes:
    out = io.BytesIO()
    colour = (number % 251, number // 251, 77)
    Image.fromarray(np.full((2, 2, 3), colour, np.uint8)).save(out, "PNG")
    return out.getvalue()


@dataclass
class Drawn:
    """A set: its files by name, and what every reader should say of it, by split ("" for none)."""

    files: dict[str, bytes]
    expected: dict[str, list[Picture]]
    noted: bool
    folders: list[str]


def draw(rng: random.Random) -> Drawn:
    """A set of any layout, wrapping, spelling and litter; it is called `mine`."""
    wraps = rng.choice(WRAPS)
    above = "".join(f"{w}/" for w in wraps)
    splits = rng.choice([(), (), ("train",), ("val",), ("train", "val"), ("train", "test"),
                         ("val", "test"), ("train", "val", "test")])  # fmt: skip
    layout = rng.choice(("classes", "classes", "deep", "flat", "noted"))
    files: dict[str, bytes] = {}
    expected: dict[str, list[Picture]] = {}
    count = rng.randrange(1 << 12)
    for split in splits or ("",):
        at = above + (f"{rng.choice(SPELLINGS[split])}/" if split else "")
        pictures: list[Picture] = []
        labels = []
        classes = rng.sample(["cat", "dog", "a class", "n01", "bird.x", "träd"], rng.choice((2, 3)))
        for k, name in enumerate(classes):
            for _ in range(rng.randint(1, 3)):
                count += 1
                inside = {
                    "classes": f"{name}/{count}.png",
                    "deep": f"{name}/sub{count % 2}/{count}.png",
                    "flat": f"{count}.png",
                    "noted": f"{count % 3:05d}/img{count:08d}.png",
                }[layout]
                files[at + inside] = png(count)
                alone = wraps[-1] if wraps and not splits else "mine"
                said = {"flat": alone, "noted": str(k)}.get(layout, name)
                pictures.append((inside, said, png(count)))
                labels.append([inside.replace("/", rng.choice(("/", "\\"))), k])
        if layout == "flat" and wraps and not splits:  # a class alone, of its folder's name
            pictures = [(f"{wraps[-1]}/{n}", c, b) for n, c, b in pictures]
        if layout == "noted":
            rng.shuffle(labels)
            files[f"{at}dataset.json"] = json.dumps({"labels": labels}).encode()
        expected[split] = sorted(pictures)
    for name in rng.sample(RUBBISH, rng.randint(0, 3)):
        files[rng.choice((above, "")) + name] = b"litter"
    if rng.random() < 0.3:
        files["README.txt" if rng.random() < 0.5 else f"{above}README.txt"] = b"read me"
    folders = sorted({f.rpartition("/")[0] for f in files if "/" in f})
    return Drawn(files, expected, layout == "noted", folders if rng.random() < 0.5 else [])


def as_folder(drawn: Drawn, folder: Path) -> Path:
    for name, data in drawn.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def odd(name: str, rng: random.Random, style: str) -> str:
    """A member's name as some tool writes it."""
    name = {"./": "./", ".\\": "./", ".//": ".//"}.get(style, "") + name
    if style in ("\\", ".\\"):
        return name.replace("/", "\\")
    if style == "//":
        return name.replace("/", rng.choice(("//", "/./", "/")))
    return name


def as_zip(drawn: Drawn, file: Path, rng: random.Random) -> Path:
    style = rng.choice(("", "", "./", "\\", ".\\", "//", ".//"))
    names = list(drawn.files)
    rng.shuffle(names)
    with zipfile.ZipFile(file, "w") as out:
        for folder in drawn.folders:
            slash = "\\" if "\\" in style else "/"
            out.writestr(odd(folder, rng, style) + slash, b"")
        for name in names:
            out.writestr(odd(name, rng, style), drawn.files[name])
    return file


def as_tar(drawn: Drawn, file: Path, rng: random.Random) -> Path:
    style = rng.choice(("", "./"))
    with tarfile.open(file, f"w:{rng.choice(('', 'gz'))}") as out:
        for name, data in drawn.files.items():
            info = tarfile.TarInfo(style + name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
    return file


def read(spec: str, home: Path) -> dict[str, list[Picture]]:
    """What a reader says of a set, by split."""
    splits = find(spec, home).splits
    return {split: told(open_source(spec, home, split=split or "val")) for split in splits or ("",)}


def told(source) -> list[Picture]:
    return sorted(
        (source.relative(i), source.classes[source.label(i)], source.raw(i))
        for i in range(len(source))
    )


@pytest.mark.parametrize("part", range(4))
def test_every_way_to_a_set_gives_the_same(tmp_path, part):
    for case in range(30):
        rng = random.Random(1000 * part + case)
        drawn = draw(rng)
        here = tmp_path / str(case)
        folder = as_folder(drawn, here / "f" / "mine")
        packed = as_zip(drawn, here / "mine.zip", rng)
        for where in (folder, packed):
            assert read(str(where), here / "none") == drawn.expected, (part, case, where)
        tar = as_tar(drawn, here / "mine.tar", rng)
        for number, where in enumerate((folder, packed, tar)):
            home = here / str(number)
            if drawn.noted:  # it would lose its labels
                with pytest.raises(DataError, match=r"dataset_tool"):
                    acquire("mine", home, where)
                continue
            acquire("mine", home, where)
            wanted = {split or "train": p for split, p in drawn.expected.items()}
            assert read("mine", home) == wanted, (part, case, where)
        for where in (folder, packed):
            for split, pictures in drawn.expected.items():
                source = open_input(str(where), split or "train", here / "none")
                assert told(source) == pictures, (part, case, where)


def packed(file: Path, names: dict[str, bytes]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(file, "w") as out:
        for name, data in names.items():
            out.writestr(name, data)
    return file


@pytest.mark.parametrize("name", ["../x.png", "/a/x.png", "a/../../x.png", "C:\\a\\x.png", "..\\x"])
def test_names_that_lead_outside_are_refused_by_every_reader(tmp_path, name):
    file = packed(tmp_path / "s.zip", {"a/0.png": png(1), name: png(2)})
    for read_it in (
        lambda: open_source(str(file), tmp_path),
        lambda: acquire("mine", tmp_path / "d", file),
        lambda: open_input(str(file), "train", tmp_path),
    ):
        with pytest.raises(DataError, match="unsafe member"):
            read_it()


def test_two_folders_of_one_split_are_named(tmp_path):
    names = {f"{top}/a/{k}.png": png(k) for k, top in enumerate(("train", "Train", "val"))}
    file = packed(tmp_path / "s.zip", names)
    folder = as_folder(Drawn(names, {}, False, []), tmp_path / "f")
    for where in (file, folder):
        assert find(str(where), tmp_path).splits == ("train", "val")
        assert len(open_source(f"{where}", tmp_path, split="val")) == 1
        with pytest.raises(DataError, match="more than one folder for the split train: Train and"):
            open_source(str(where), tmp_path)
        with pytest.raises(DataError, match="more than one folder for the split train"):
            acquire("mine", tmp_path / "d", where)


@pytest.mark.parametrize(
    "tops",
    [("train_images", "val_images"), ("trainA", "testA"), ("seg_train", "seg_test"),
     ("train", "dev"), ("training set", "test set"), ("train2017", "val2017"),
     ("Traindata", "Testdata"), ("trainval", "test"), ("1_train", "2_val")],
)  # fmt: skip
def test_folders_that_look_like_splits_never_become_classes(tmp_path, tops):
    names = {f"{top}/{k}.png": png(k) for k, top in enumerate(tops)}
    where = packed(tmp_path / "s.zip", names)
    folder = as_folder(Drawn(names, {}, False, []), tmp_path / "f")
    for place in (where, folder):
        with pytest.raises(DataError, match=f"look like splits.*: .*{tops[1]}"):
            open_source(str(place), tmp_path)
        with pytest.raises(DataError, match="look like splits"):
            acquire("mine", tmp_path / "d", place)
    assert len(open_source(str(folder / tops[0]), tmp_path)) == 1


def test_classes_of_such_names_beside_others_stay_classes(tmp_path):
    names = {f"{top}/0.png": png(k) for k, top in enumerate(("train", "test_tube", "bird"))}
    assert open_source(str(packed(tmp_path / "s.zip", names)), tmp_path).classes == [
        *("bird", "test_tube", "train"),
    ]


def test_labels_where_they_are_not_looked_for_are_an_error(tmp_path):
    note = json.dumps({"labels": [["0.png", 1]]}).encode()
    names = {"a/0.png": png(1), "a/dataset.json": note, "b/0.png": png(2)}
    folder = as_folder(Drawn(names, {}, False, []), tmp_path / "f")
    for where in (packed(tmp_path / "s.zip", names), folder):
        with pytest.raises(DataError, match=r"a/dataset.json has labels, which are read only"):
            open_source(str(where), tmp_path)
        with pytest.raises(DataError, match=r"a/dataset.json has labels"):
            acquire("mine", tmp_path / "d", where)


def test_one_note_for_all_splits(tmp_path):
    names = {f"{split}/00000/{k}.png": png(k) for k, split in enumerate(("Train", "Val"))}
    labels = [[name, k + 3] for k, name in enumerate(names)]
    names["dataset.json"] = json.dumps({"labels": labels}).encode()
    folder = as_folder(Drawn(names, {}, False, []), tmp_path / "f")
    for where in (packed(tmp_path / "s.zip", names), folder):
        assert [open_source(str(where), tmp_path, split=s).label(0) for s in ("train", "val")] == [
            *(3, 4),
        ]


@pytest.mark.parametrize(
    ("labels", "found"),
    [([0, 2], [0, 2]), ([1.0, 0.0], [1, 0]), ([[0, 0, 1], [1, 0, 0]], [2, 0]),
     ([[0.0, 1.0], [1.0, 0.0]], [1, 0]), ([0.5, 1], None), ([[0.3, 0.7], [1, 0]], None),
     (["a", "b"], None), ([[1, 1], [1, 0]], None), ([True, False], None), ([-1, 0], None)],
)  # fmt: skip
def test_labels_of_every_form(tmp_path, labels, found):
    pairs = [[f"w/00000/{k}.png", label] for k, label in enumerate(labels)]
    names = {name: png(k) for k, (name, _) in enumerate(pairs)}
    names["w/dataset.json"] = json.dumps({"labels": pairs}).encode()  # as seen from the top
    where = str(packed(tmp_path / "s.zip", names))
    if found is None:
        with pytest.raises(DataError, match=r"w/dataset.json has (a label that is no pair|class)"):
            open_source(where, tmp_path)
    else:
        source = open_source(where, tmp_path)
        assert [source.label(k) for k in range(2)] == found


def test_notes_in_another_encoding(tmp_path):
    note = json.dumps({"labels": [["00000/0.png", 1]]})
    for name, code in (("a", "utf-16"), ("b", "utf-8-sig"), ("c", "utf-16-le")):
        names = {"00000/0.png": png(1), "dataset.json": note.encode(code)}
        assert open_source(str(packed(tmp_path / f"{name}.zip", names)), tmp_path).label(0) == 1


def test_spaces_and_slashes_around_a_spec_change_nothing(tmp_path):
    names = {f"{s}/a/{k}.png": png(k) for k, s in enumerate(("train", "val"))}
    as_folder(Drawn(names, {}, False, []), tmp_path / "mine")
    for spec in (" mine", "mine ", "mine/", " mine// "):
        assert find(spec, tmp_path).splits == ("train", "val")
    for spec in ("mine/val", "mine/val/", " mine/Val"):
        assert find(spec, tmp_path).splits is None


def test_files_with_backslashes_are_an_archive_unpacked_without_its_folders(tmp_path):
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "train\\a\\x.png").write_bytes(png(1))
    with pytest.raises(DataError, match="give the archive itself"):
        open_source(str(tmp_path / "f"), tmp_path)


def test_splits_inside_other_folders_are_not_mixed(tmp_path):
    names = {f"{c}/{s}/{k}.png": png(k) for k, s in enumerate(("train", "Val")) for c in "ab"}
    folder = as_folder(Drawn(names, {}, False, []), tmp_path / "f")
    for where in (packed(tmp_path / "s.zip", names), folder):
        with pytest.raises(
            DataError, match=r"the splits \(train, val\) inside its folders \(a, b\)"
        ):
            open_source(str(where), tmp_path)
    invert(folder, tmp_path / "turned", reverse=True)
    assert find("turned", tmp_path).splits == ("train", "val")
    yolo = {f"images/{s}/{k}.png": png(k) for k, s in enumerate(("train", "val"))}
    yolo |= {f"labels/{s}/0.txt": b"0" for s in ("train", "val")}
    assert find(str(packed(tmp_path / "y.zip", yolo)), tmp_path).splits == ("train", "val")


def test_arrays_and_archives_in_folders_around_them(tmp_path):
    idx_files(tmp_path / "w" / "v")
    (tmp_path / "w" / ".DS_Store").write_bytes(b"x")
    assert find("w", tmp_path).splits == ("train", "test")
    packed(tmp_path / "x" / "y" / "photos.zip", {"a/0.png": png(1)})
    with pytest.raises(DataError, match="no images under .*x; it holds photos.zip, give that"):
        open_source("x", tmp_path)


def test_two_environments_of_one_split_and_size_are_named(tmp_path):
    environment(tmp_path / "s" / "x_train_8.lmdb")
    environment(tmp_path / "s" / "x_training_8.lmdb")
    environment(tmp_path / "s" / "x_Val_8.lmdb")
    assert find("s", tmp_path).splits == ("train", "val")
    assert len(open_source("s", tmp_path, split="val")) == 3
    with pytest.raises(DataError, match="x_train_8.lmdb, x_training_8.lmdb; give one"):
        open_source("s", tmp_path)


def test_a_split_is_checked_by_every_reader(tmp_path):
    environment(tmp_path / "l.lmdb")
    write(tmp_path / "e.zip", image_files(2))
    for spec in ("l.lmdb", "e.zip"):
        with pytest.raises(DataError, match="split 'weird' is none of train, val, test"):
            open_source(spec, tmp_path, split="weird")


def test_a_wrapped_set_in_the_data_directory_is_prepared_and_inverted(tmp_path):
    names = {f"w/{s}/{c}/{k}.png": png(k) for k, s in enumerate(("Train", "VAL")) for c in "ab"}
    as_folder(Drawn(names, {}, False, []), tmp_path / "mine")
    prepare_folders(acquire("mine", tmp_path), [2])
    source = open_source("mine", tmp_path)
    assert source.name == "mine/train" and source.has_native(2) and source.classes == ["a", "b"]
    assert (tmp_path / "mine_2x2" / "val" / "a" / "1.png").exists()
    made, _ = invert(tmp_path / "mine", tmp_path / "out")
    assert made == 4 and (tmp_path / "out" / "b" / "VAL" / "1.png").exists()


def test_labels_of_a_part_are_dropped_by_dataset_tool_with_a_word(tmp_path, capsys):
    write(tmp_path / "s.zip", image_files(4), [["00000/img00000000.png", 1]])
    args = ["convert", "--source", str(tmp_path / "s.zip"), "--dest", str(tmp_path / "o.zip")]
    assert dataset_tool.main([*args, "--resolution", "8x8"]) == 0
    said = capsys.readouterr().err
    assert "no labels (dataset.json has no label of 00000/img00000001.png and 2 others)" in said


def test_an_archive_in_an_archive(tmp_path):
    inner = packed(tmp_path / "inner.zip", {f"{c}/0.png": png(k) for k, c in enumerate("ab")})
    outer = packed(tmp_path / "outer.zip", {"x/inner.zip": inner.read_bytes()})
    with pytest.raises(DataError, match=r"no images in .*outer.zip; it holds x/inner.zip"):
        open_source(str(outer), tmp_path)
    acquire("mine", tmp_path / "d", outer)
    assert open_source("mine", tmp_path / "d").classes == ["a", "b"]


def test_a_class_folder_without_pictures(tmp_path):
    names = {"a/0.png": png(1), "b/0.png": png(2), "docs/about.txt": b"x"}
    folder = as_folder(Drawn(names, {}, False, []), tmp_path / "f")
    for where in (packed(tmp_path / "s.zip", names), folder):  # notes are no class
        assert open_source(str(where), tmp_path).classes == ["a", "b"]
        acquire(where.stem, tmp_path / "d", where)
        assert open_source(where.stem, tmp_path / "d").classes == ["a", "b"]
    for number, empty in enumerate(("c/0.xyz", "c/note.txt", "c/.DS_Store", "docs/0.xyz")):
        names = {"a/0.png": png(1), "b/0.png": png(2), empty: b"?"}  # may be pictures
        folder = as_folder(Drawn(names, {}, False, []), tmp_path / f"g{number}")
        for where in (packed(tmp_path / f"t{number}.zip", names), folder):
            with pytest.raises(DataError, match=f"{empty[0]}.* has no images"):
                open_source(str(where), tmp_path)
            with pytest.raises(DataError, match=f"{empty[0]}.* has no images"):
                acquire("mine", tmp_path / "d", where)
