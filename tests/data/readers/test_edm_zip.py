import io
import json
import pickle
import struct
import zipfile
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from data.labelled import LabelledImages
from data.prepare.acquire import acquire
from data.pyramids import Pyramid
from data.readers.edm_zip import EdmSource, is_edm, read_npy
from data.readers.folders import FolderSource
from data.readers.zips import ZipSource
from data.registry import open_source, train_val_sources
from storage.errors import DataError
from tests.data.pictures import make_set, zip_folder


def png(pixels):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", compress_level=0)
    return out.getvalue()


def npy(array):
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def pixels(n, size=8):
    return np.random.default_rng(n).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def latents(n, size=4):
    return np.random.default_rng(n).standard_normal((n, 8, size, size)).astype(np.float32)


def write(path, files, labels="default", **more):
    """A set as NVIDIA's tool writes it: a stored zip, or a folder."""
    files = dict(files)
    if labels == "default":
        labels = [[name, k % 3] for k, name in enumerate(files)]
    if labels != "none":
        files["dataset.json"] = json.dumps({"labels": labels, **more}).encode()
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as out:
            for name, data in files.items():
                out.writestr(name, data)
    else:
        for name, data in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
    return path


def image_files(n, size=8):
    return {f"{k // 3:05d}/img{k:08d}.png": png(p) for k, p in enumerate(pixels(n, size))}


def latent_files(n, size=4):
    return {f"00000/img-mean-std-{k:08d}.npy": npy(p) for k, p in enumerate(latents(n, size))}


@pytest.mark.parametrize("kind", ["set.zip", "set"])
@pytest.mark.parametrize("by", ["path", "name"])
def test_pictures_and_labels(tmp_path, kind, by):
    path = write(tmp_path / kind, image_files(7))
    source = open_source(str(path) if by == "path" else "set", tmp_path)
    assert isinstance(source, EdmSource) and source.labelled and len(source) == 7
    assert source.classes == ["0", "1", "2"] and source.channels == 3
    for k, p in enumerate(pixels(7)):
        assert (source.image(k) == p).all() and source.label(k) == k % 3
        assert source.relative(k) == f"{k // 3:05d}/img{k:08d}.png"
        assert source.path(k) == f"{path}/{source.relative(k)}"
    images = LabelledImages(source, xflip=True, cache="memory")
    assert (images.resolution, images.label_dim, len(images)) == (8, 3, 14)
    want = torch.from_numpy(pixels(7)[4].transpose(2, 0, 1).copy())
    assert torch.equal(images[4][1], want) and torch.equal(images[11][1], want.flip(2))
    assert LabelledImages(source, 4)[2][1].shape == (3, 4, 4)
    assert (pickle.loads(pickle.dumps(source)).image(3) == source.image(3)).all()


@pytest.mark.parametrize("kind", ["set.zip", "set"])
@pytest.mark.parametrize("labels", ["default", None, "none"])
def test_latents(tmp_path, kind, labels):
    path = write(tmp_path / kind, latent_files(5), labels)
    source = open_source(str(path), tmp_path)
    assert source.channels == 8 and source.labelled == (labels == "default")
    images = LabelledImages(source)
    assert (images.channels, images.resolution) == (8, 4)
    assert images.label_dim == (3 if labels == "default" else 0)
    for k, p in enumerate(latents(5)):
        index, raw, label = images[k]
        assert torch.equal(raw, torch.from_numpy(p)) and (index, label) == (k, source.label(k))
    with pytest.raises(DataError, match="holds latents, not pictures; .*dataset_tool.py decode"):
        source.image(0)
    with pytest.raises(DataError, match="latents of 8 channels, not pictures"):
        Pyramid(source, [4])


def test_sorted_by_name_whatever_the_order_in_the_zip(tmp_path):
    files = dict(reversed(image_files(4).items()))
    source = EdmSource(write(tmp_path / "s.zip", files))
    assert [source.relative(k)[-5] for k in range(4)] == list("0123")
    assert [source.label(k) for k in range(4)] == [0, 2, 1, 0]


def test_names_of_classes_and_backslashes(tmp_path):
    labels = [[name.replace("/", "\\"), 1] for name in image_files(2)]
    source = EdmSource(write(tmp_path / "s.zip", image_files(2), labels, classes=["a", "b", "c"]))
    assert source.classes == ["a", "b", "c"] and source.label(1) == 1
    with pytest.raises(DataError, match="names 1 classes, its labels go to 1"):
        EdmSource(write(tmp_path / "t.zip", image_files(2), labels, classes=["a"]))


def test_unlabelled(tmp_path):
    source = EdmSource(write(tmp_path / "faces.zip", image_files(2), None))
    assert source.classes == ["faces"] and not source.labelled and source.label(1) == 0


def test_part_of_a_set_and_splits(tmp_path):
    write(tmp_path / "set" / "train", image_files(6))
    write(tmp_path / "set" / "val", image_files(3))
    train, val = train_val_sources("set", None, tmp_path)
    assert isinstance(train, EdmSource) and (len(train), len(val)) == (6, 3)
    write(tmp_path / "one.zip", image_files(30))
    train, val = train_val_sources("one", None, tmp_path)
    assert (len(train), len(val)) == (27, 3) and len(open_source("one_deci", tmp_path)) == 3
    write(tmp_path / "l.zip", latent_files(30))
    part = LabelledImages(train_val_sources("l", "cv", tmp_path)[1])
    assert (len(part), part.channels, part.label_dim) == (3, 8, 3)


def test_other_folders_and_zips_are_what_they_were(tmp_path):
    folder = make_set(tmp_path / "plain", {"train": {"a": 2, "b": 1}})
    assert isinstance(open_source("plain", tmp_path), FolderSource)
    archive = zip_folder(folder, tmp_path / "z.zip")
    assert not is_edm(archive) and isinstance(open_source("z", tmp_path), ZipSource)
    (folder / "train" / "dataset.json").write_text('{"info": "somebody else\'s"}')
    assert isinstance(open_source("plain", tmp_path), FolderSource)


def test_setup_says_there_is_nothing_to_do(tmp_path):
    for kind in ("set.zip", "set"):
        path = write(tmp_path / kind, image_files(2))
        with pytest.raises(DataError, match="nothing to prepare, give its path"):
            acquire("mine", tmp_path / "data", path)
        assert not (tmp_path / "data" / "mine").exists()


# ---------------------------------------------------------------------------------- wrong and worse


def test_other_sizes_are_an_error(tmp_path):
    files = image_files(30)
    odd = sorted(files)[5]
    files[odd] = png(pixels(1, 9)[0])
    source = EdmSource(write(tmp_path / "s.zip", files))
    with pytest.raises(
        DataError, match=r"00000005.png has the shape \[9, 9, 3\], others"
    ) as caught:
        LabelledImages(source)[5]
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="one size"):
        LabelledImages(source, 4)[5]
    files = latent_files(6)
    files[sorted(files)[3]] = npy(latents(1, 5)[0])
    with pytest.raises(DataError, match=r"has the shape \[8, 5, 5\]"):
        LabelledImages(EdmSource(write(tmp_path / "l.zip", files)))


def test_a_damaged_picture_is_substituted(tmp_path, capfd):
    files = image_files(20)
    files[sorted(files)[4]] = b"no picture"
    files[sorted(files)[0]] = b""
    images = LabelledImages(EdmSource(write(tmp_path / "s.zip", files)))
    assert images[4][1].shape == (3, 8, 8) and images.bad_count >= 1
    assert "00000004.png (not an image" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([["00000/img00000000.png", 1]], "no label of 00000/img00000001.png"),
        ("text", "labels that are no list"),
        ({"00000/img00000000.png": 1}, "labels that are no list"),
        ([["00000/img00000000.png"]], "no pair"),
        ([["00000/img00000000.png", "1"]], "no pair"),
        ([["00000/img00000000.png", True]], "no pair"),
        ([["00000/img00000000.png", [0.1, 0.2]]], "no pair"),
        ([["00000/img00000000.png", 0], ["00000/img00000001.png", -1]], "class -1"),
        ([["00000/img00000000.png", 0], ["00000/img00000001.png", 10**12]], "class 0..10000000"),
    ],
)
def test_wrong_labels(tmp_path, labels, message):
    for kind in ("s.zip", "s"):
        with pytest.raises(DataError, match=message) as caught:
            open_source(str(write(tmp_path / kind, image_files(2), labels)), tmp_path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"labels": [', "is damaged"),
        (b'{"labels": ' + b"[" * 100_000, "is damaged"),
        (b'["labels"]', "no JSON object"),
        (b'{"labels": \xff}', "is damaged"),
        (b'{"labels": ' + b" " * (2 << 20) + b"null}", "larger than 1 MiB"),
    ],
)
def test_damaged_dataset_json(tmp_path, text, message):
    for kind in ("s.zip", "s"):
        files = {**image_files(2), "dataset.json": text}
        with pytest.raises(DataError, match=message):
            open_source(str(write(tmp_path / kind, files, "none")), tmp_path)


def test_pictures_and_latents_together(tmp_path):
    with pytest.raises(DataError, match="pictures and latents"):
        EdmSource(write(tmp_path / "s.zip", {**image_files(2), **latent_files(2)}))
    with pytest.raises(DataError, match="no images or latents"):
        EdmSource(write(tmp_path / "t.zip", {"a.txt": b""}))


def header(text, version=(1, 0)):
    text = text.encode()
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H", len(text)) + text


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not an npy file"),
        (b"\x93NUMPY\x01\x00", "not an npy file"),
        (
            header("{'descr': '<f4', 'fortran_order': False, 'shape': (8, 1000000, 1000000)}"),
            "in 0",
        ),
        (header("{'descr': '<f4', 'fortran_order': False, 'shape': (0, 4, 4)}"), "in 0"),
        (header("{'descr': '<f4', 'fortran_order': False, 'shape': (8, -4, -4)}"), "shape|not an"),
        (header("{'descr': '|O', 'fortran_order': False, 'shape': (8, 4, 4)}"), "object"),
        (header("__import__('os').system('true')"), "not an npy file"),
        (npy(np.zeros((8, 4, 4), np.float32))[:-1], "in 511 bytes"),
        (npy(np.zeros((8, 4, 4), np.float32)) + b"x", "in 513 bytes"),
        (npy(np.zeros((8, 4), np.float32)), "instead of channels"),
        (npy(np.zeros((2, 8, 4, 4), np.float32)), "instead of channels"),
        (npy(np.zeros((8, 4, 4), np.int64)), "int64 instead of floats"),
        (npy(np.full((8, 4, 4), np.nan, np.float32)), "non-finite"),
    ],
)
def test_npy_that_lie(data, reason):
    with pytest.raises(DataError, match=f"bad image x .*{reason}") as caught:
        read_npy(data, "x")
    assert "\n" not in str(caught.value)


def test_npy_objects_are_never_unpickled(tmp_path):
    class Bad:
        def __reduce__(self):
            return (open, (str(tmp_path / "canary"), "w"))

    data = io.BytesIO()
    np.save(data, np.array([Bad()], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="object instead of floats"):
        read_npy(data.getvalue(), "x")
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f2", "<f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_forms(dtype, order):
    want = latents(1)[0].astype(np.float16)
    data = npy(np.asarray(want.astype(dtype), order=order))
    got = read_npy(data, "x")
    assert got.dtype == np.float32 and got.flags.c_contiguous
    assert (got == want.astype(np.float32)).all()
    assert (read_npy(npy(want[None].astype(dtype)), "x") == got).all()


def test_wrong_number_of_channels(tmp_path):
    files = {"00000/img-mean-std-00000000.npy": npy(np.zeros((4, 8, 8), np.float32))}
    with pytest.raises(DataError, match="4 channels, latents have 8"):
        EdmSource(write(tmp_path / "s.zip", files))


def patched_sizes(file, size):
    """The zip with all sizes in its directory set to `size`."""
    data = bytearray(file.read_bytes())
    at = data.find(b"PK\x01\x02")
    while at >= 0:
        if b".png" in data[at + 46 : at + 80]:
            data[at + 20 : at + 28] = struct.pack("<II", size, size)
        at = data.find(b"PK\x01\x02", at + 1)
    file.write_bytes(data)


def test_members_that_lie_about_their_size(tmp_path):
    file = write(tmp_path / "s.zip", image_files(3))
    patched_sizes(file, 0xFFFFFFF0)
    with pytest.raises(DataError, match="too large"):
        EdmSource(file)
    bomb = zlib.compress(bytes(50 << 20))
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("00000/img00000000.png", bytes(50 << 20))
        out.writestr("dataset.json", json.dumps({"labels": None}))
    assert len(bomb) < 1 << 20
    with pytest.raises(DataError, match="bad image"):
        EdmSource(tmp_path / "b.zip")
    (tmp_path / "n.zip").write_bytes(b"<html>no</html>")
    with pytest.raises(DataError, match="not a readable zip"):
        open_source(str(tmp_path / "n.zip"), tmp_path)


def test_names_only_name(tmp_path):
    files = {"../../evil.png": png(pixels(1)[0]), "/etc/x.png": png(pixels(1)[0])}
    with pytest.raises(DataError, match="unsafe member '../../evil.png'"):  # as when it is unpacked
        EdmSource(write(tmp_path / "s.zip", files))
    assert not (tmp_path.parent.parent / "evil.png").exists()
