import io
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.formats import LEFT_OUT, PICTURES, by_suffix, is_image_name, kind_of_bytes, said, takes
from data.readers import recognise, zip_index
from data.readers.layout import list_files
from data.registry import open_source
from data.SetupDataset import main
from data.told import told
from storage.errors import DataError
from storage.files import temporary
from tests.data.pictures import encoded, zip_folder

KINDS = {
    "a.avif": "AVIF",
    "b.apng": "PNG",
    "c.JPE": "JPEG",
    "d.jfif": "JPEG",
    "e.jp2": "JPEG2000",
    "f.tga": "TGA",
    "g": "PNG",
    "h.jpg_large": "JPEG",
    "i.ppm": "PPM",
    "j": "WEBP",
    "k.0001": "TIFF",
    "l": "BMP",
    "m": "GIF",
    "n.dat": "PNG",
}
OTHERS = {"x.heic": b"?", "y.psd": b"?", "z.PSD": b"?", "v.dcm": b"?", "w": b"8BPS\0\1" + bytes(40)}
NOTES = {"README": b"P is a letter", "notes.txt": b"GIF89a", "list": b"", "BMW": b"BMW and more"}


@pytest.fixture
def mixed(tmp_path):
    for name in ("cat", "dog"):
        folder = tmp_path / "mixed" / "train" / name
        folder.mkdir(parents=True)
        for k, (file, kind) in enumerate(KINDS.items()):
            (folder / file).write_bytes(encoded(k, kind))
    for file, data in {**OTHERS, **NOTES}.items():
        (folder / file).write_bytes(data)
    return tmp_path / "mixed"


SAID = "left out: 1 without a suffix, 1 .dcm, 1 .heic, 2 .psd (formats that are not read)"


def test_folder_and_zip_agree(mixed, tmp_path):
    archive = zip_folder(mixed, tmp_path / "in_place.zip")
    folder, packed = open_source(str(mixed), tmp_path), open_source(str(archive), tmp_path)
    assert len(folder) == len(packed) == 2 * len(KINDS)
    assert [folder.relative(i) for i in range(len(folder))] == [
        packed.relative(i) for i in range(len(packed))
    ]
    for i in range(len(folder)):
        assert (folder.image(i) == packed.image(i)).all()
    assert told(folder).splitlines()[1] == f"mixed/train: {SAID}"
    assert told(packed).splitlines()[1] == f"in_place/train: {SAID}"


@pytest.mark.parametrize("lmdb", [False, True])
def test_setup_takes_them_and_names_the_others(mixed, tmp_path, capsys, lmdb):
    archive = tmp_path / "set.tar.gz"
    with tarfile.open(archive, "w:gz") as out:
        out.add(mixed, "set")
    command = ["--data", "mine", "--source", str(archive), "--sizes", "8", "--num_workers", "1"]
    home = tmp_path / "home"
    assert main([*command, "--data_path", str(home), *(["--lmdb"] if lmdb else [])]) == 0
    assert f"mine/train: {SAID}" in capsys.readouterr().err
    made = open_source("mine_lmdb" if lmdb else "mine_8x8", home)
    assert len(made) == 28
    if not lmdb:
        assert len(list_files(home / "mine_8x8")) == 28


def test_dataset_tool_names_what_it_leaves_out(mixed, tmp_path, capsys):
    from data.dataset_tool import main as tool

    place = tmp_path / "made.zip"
    size = ["--resolution", "8x8", "--transform", "center-crop", "--num_workers", "1"]
    assert tool(["convert", "--source", str(mixed), "--dest", str(place), *size]) == 0
    said_there = capsys.readouterr().err
    assert SAID in said_there and "28 from" in said_there


def test_a_set_of_nothing_that_is_read_says_what_is_there(tmp_path):
    (tmp_path / "phone").mkdir()
    for k in range(3):
        (tmp_path / "phone" / f"{k}.HEIC").write_bytes(b"?")
    with pytest.raises(ValueError, match=r"no images under .* left out: 3 \.heic"):
        open_source(str(tmp_path / "phone"), tmp_path)
    archive = zip_folder(tmp_path / "phone", tmp_path / "phone.zip")
    with pytest.raises(ValueError, match=r"no images in .* left out: 3 \.heic"):
        open_source(str(archive), tmp_path)


def test_one_picture_without_a_suffix(tmp_path):
    (tmp_path / "picture").write_bytes(encoded(1))
    found = recognise(tmp_path / "picture")
    assert found is not None and len(found.open("train")) == 1


def test_every_suffix_of_pillow_is_decided():
    not_alone = {".bufr", ".grib", ".h5", ".hdf", ".iim", ".mpeg", ".mpg", ".pdf", ".ps"}
    Image.init()
    every = {s for s, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    assert every - not_alone <= {*PICTURES, *LEFT_OUT}
    assert not set(PICTURES) & set(LEFT_OUT)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "JPEG2000"])
def test_first_bytes(kind):
    assert kind_of_bytes(encoded(1, kind)[:32]) == "read"


@pytest.mark.parametrize("kind", ["QOI", "DDS", "PPM"])
def test_first_bytes_of_others(kind):
    out = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(out, kind)
    assert kind_of_bytes(out.getvalue()[:32]) == "read"


@pytest.mark.parametrize(
    "head", [b"", b"BM", b"P3 is here", b"P", b"\xff\xd8", b"%PDF-1.4", b"RIFF"]
)
def test_first_bytes_of_no_picture(head):
    assert kind_of_bytes(head) == ""


def test_only_what_has_no_known_suffix_is_opened(tmp_path):
    def never() -> bytes:
        raise AssertionError("opened")

    unread: list[str] = []
    for name in ("a.png", "a/b.JPG", ".hidden", "x.txt", "y.xml", "z.json", "q.heic", "v.npy"):
        takes(name, never, unread)
    assert unread == ["q.heic"] and said(by_suffix(unread)).startswith("left out: 1 .heic")
    assert takes("x.image", lambda: encoded(1)) and not takes("x.image", lambda: b"text")
    for k in range(400):  # 20 us each where they lie in memory; 5 ms would be a lot
        (tmp_path / f"{k}").write_bytes(b"note")
    start = time.perf_counter()
    assert list_files(tmp_path) == []
    assert time.perf_counter() - start < 2


def test_pipes_are_not_waited_for(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe")
    Path(tmp_path, "a.png").write_bytes(encoded(1))
    assert list_files(tmp_path) == ["a.png"]


def test_members_that_cannot_be_read_are_no_pictures(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as out:
        out.writestr("a.png", encoded(1))
        out.writestr("b", encoded(2))
    data = bytearray((tmp_path / "x.zip").read_bytes())
    data[data.find(b"b\x89PNG") - 4] = 77  # the name's length in its own header
    (tmp_path / "x.zip").write_bytes(data)
    assert len(open_source(str(tmp_path / "x.zip"), tmp_path)) == 1


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_first_bytes_in_a_zip_do_not_cost_its_directory_each(tmp_path, monkeypatch, method):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as out:
        for k in range(30):
            out.writestr(f"{k}.png", encoded(k))
            out.writestr(f"{k}.png.cat", b"9 1 2 3", compress_type=method)
        out.writestr("none", encoded(30), compress_type=method)
    read, opened = [], zip_index.opened_zip
    monkeypatch.setattr(zip_index, "opened_zip", lambda file: read.append(file) or opened(file))
    if method == zipfile.ZIP_BZIP2:  # seen to be a picture, which is not read in place
        with pytest.raises(DataError, match="compression 12"):
            open_source(str(tmp_path / "x.zip"), tmp_path)
    else:
        assert len(open_source(str(tmp_path / "x.zip"), tmp_path)) == 31
        assert len(read) < 5


def test_a_half_written_picture_is_none_for_torchvision(tmp_path):
    """generate_views.py --format folder promises what ImageFolder reads, kills or not."""
    from torchvision.datasets.folder import IMG_EXTENSIONS, has_file_allowed_extension

    for name in ("a_aug0.png", "b" * 250 + ".png", ".jpeg"):
        half = temporary(tmp_path / name).name
        assert not has_file_allowed_extension(half, IMG_EXTENSIONS) and not is_image_name(half)
