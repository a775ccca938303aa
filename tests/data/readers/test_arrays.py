import gzip
import os
import pickle
import tarfile

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from data.labelled import LabelledImages
from data.prepare.acquire import acquire
from data.readers.arrays import CIFAR_CLASSES, ArraySource, parse_batch, parse_names, read_cifar
from data.registry import open_source, train_val_sources
from storage.errors import DataError


def batch(seed, n):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 3072), dtype=np.uint8), rng.integers(0, 10, n).tolist()


def python_2(data, labels):
    """The batch as Python 2's numpy pickled it: protocol 2, byte strings, numpy.core."""
    s = lambda b: b"T" + len(b).to_bytes(4, "little") + b  # noqa: E731 - BINSTRING
    rows = len(labels).to_bytes(4, "little")
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
        b"(K\x01(J" + rows + b"J" + (3072).to_bytes(4, "little") + b"t"
        b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89" + s(data.tobytes()) + b"tb"
    )
    pickled_labels = b"](" + b"".join(b"K" + bytes([v]) for v in labels) + b"e"
    return (
        b"\x80\x02}q\x01(" + s(b"data") + array + s(b"labels") + pickled_labels
        + s(b"batch_label") + s(b"training batch 1 of 5") + s(b"filenames") + b"](" + s(b"x.png")
        + b"eu."
    )  # fmt: skip


def python_3(data, labels, protocol):
    return pickle.dumps({b"data": data, b"labels": labels, b"filenames": [b"x.png"]}, protocol)


def official(folder, n=3, form=python_2):
    folder.mkdir(parents=True)
    names = [f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]
    for seed, name in enumerate(names):
        (folder / name).write_bytes(form(*batch(seed, n)))
    meta = {"label_names": CIFAR_CLASSES, "num_vis": 3072, "num_cases_per_batch": n}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, 2))
    return folder


def tarred(folder, file):
    with tarfile.open(file, "w:gz") as out:
        out.add(folder, "cifar-10-batches-py")
    return file


@pytest.mark.parametrize("form", [2, 3, 4, "py2"])
def test_batches_as_python_2_and_3_pickle_them(form):
    data, labels = batch(7, 5)
    raw = python_2(data, labels) if form == "py2" else python_3(data, labels, form)
    if form == "py2":  # the stand-in is what numpy itself takes for such a batch
        same = pickle.loads(raw, encoding="bytes")
        assert (same[b"data"] == data).all() and same[b"labels"] == labels
    images, found = parse_batch(raw, "x")
    assert found.tolist() == labels and images.shape == (5, 32, 32, 3)
    assert images[3, 10, 20, 2] == data[3, 2 * 1024 + 10 * 32 + 20]
    assert (images.transpose(0, 3, 1, 2).reshape(5, -1) == data).all()


@pytest.mark.parametrize("as_tar", [False, True])
def test_official_files_as_a_data_set(tmp_path, as_tar):
    path = official(tmp_path / "cifar-10-batches-py")
    if as_tar:
        path = tarred(path, tmp_path / "cifar-10-python.tar.gz")
    train, val = train_val_sources(str(path), None, tmp_path)
    assert len(train) + len(val) == 15 and len(val) > 0  # cut off: there is no val
    assert len(open_source(f"{path}/test", tmp_path)) == 3
    whole = open_source(str(path), tmp_path)
    assert isinstance(whole, ArraySource) and whole.classes == CIFAR_CLASSES
    data, labels = batch(1, 3)  # the second batch
    assert [whole.label(k) for k in (3, 4, 5)] == labels
    assert (whole.image(4) == data[1].reshape(3, 32, 32).transpose(1, 2, 0)).all()
    images = LabelledImages(whole)
    assert (images.resolution, images.label_dim) == (32, 10)
    with pytest.raises(DataError, match="has no split val; it has train, test"):
        open_source(str(path), tmp_path, split="val")


def test_folder_around_the_batches(tmp_path):
    official(tmp_path / "there" / "cifar-10-batches-py")
    assert len(open_source("there", tmp_path)) == 15


def test_spawned_worker_reads_the_files_again(tmp_path):
    source = open_source(str(official(tmp_path / "cifar-10-batches-py")), tmp_path)
    assert len(pickle.dumps(source)) < 1000
    loader = DataLoader(
        LabelledImages(source), batch_size=15, num_workers=1, multiprocessing_context="spawn"
    )
    index, images, labels = next(iter(loader))
    want = np.stack([source.image(k) for k in range(15)]).transpose(0, 3, 1, 2)
    assert torch.equal(images, torch.from_numpy(want.copy())) and index[-1] == 14
    source.image(0)[:] = 0  # a caller's copy
    assert source.image(0).any()


def test_setup_makes_folders_in_official_order(tmp_path):
    tar = tarred(official(tmp_path / "src"), tmp_path / "cifar-10-python.tar.gz")
    for name, path in (("cifar10", tar), ("again", tmp_path / "src")):
        root = acquire(name, tmp_path / "data", path)
        data, labels = batch(5, 3)
        for k, label in enumerate(labels):
            assert (root / "test" / CIFAR_CLASSES[label] / f"{k:05d}.png").is_file()
    source = open_source("cifar10/test", tmp_path / "data")
    assert len(source) == 3 and set(source.classes) <= set(CIFAR_CLASSES)
    k = sorted(range(3), key=lambda k: (CIFAR_CLASSES[labels[k]], k))[0]
    assert (source.image(0) == data[k].reshape(3, 32, 32).transpose(1, 2, 0)).all()


def test_jpegs_get_their_official_numbers(tmp_path):
    """The layout of the JPEG version: a tar of class folders, the order in index.csv.gz."""
    from tests.data.pictures import make_set

    folder = make_set(tmp_path / "src", {"train": {"cat": 3, "dog": 2}, "test": {"cat": 1}}, "jpg")
    path = tmp_path / "place"
    path.mkdir()
    with tarfile.open(path / "c.tar.xz", "w:xz") as out:
        out.add(folder / "train", "train")
        out.add(folder / "test", "test")
    rows = ["split,official_index,label,jpeg_path"]
    order = ["train/dog/001", "train/cat/002", "train/cat/000", "train/dog/000", "train/cat/001"]
    rows += [f"train,{k},0,{p}.jpg" for k, p in enumerate(order)] + ["test,0,3,test/cat/000.jpg"]
    (path / "index.csv.gz").write_bytes(gzip.compress("\n".join(rows).encode()))
    for as_name, source in (("a", path), ("b", path / "c.tar.xz")):
        root = acquire(as_name, tmp_path / "data", source)
        for k, name in enumerate(order):
            renamed = (root / name).with_name(f"{k:05d}.jpg")
            assert renamed.read_bytes() == (folder / f"{name}.jpg").read_bytes()
        assert len(list(root.rglob("*.jpg"))) == 6
    (path / "index.csv.gz").write_bytes(gzip.compress("\n".join(rows[:-2]).encode()))
    with pytest.raises(DataError, match="has no number for"):
        acquire("c", tmp_path / "data", path)
    (path / "index.csv.gz").write_bytes(b"no gzip")
    with pytest.raises(DataError, match="index.csv.gz cannot be read"):
        acquire("c", tmp_path / "data", path)
    assert not (tmp_path / "data" / "c").exists()


class Bad:
    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return (os.system, (f"touch {self.canary}",))


def test_poisoned_batches_run_nothing(tmp_path):
    data, labels = batch(0, 2)
    bad = Bad(tmp_path / "canary")
    for value in (
        bad,
        {"data": bad, "labels": labels},
        {"data": data, "labels": labels, "more": bad},
    ):
        with pytest.raises(DataError, match="not a batch of CIFAR-10: global posix.system"):
            parse_batch(pickle.dumps(value), "data_batch_1")
    folder = official(tmp_path / "cifar-10-batches-py")
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": bad}))
    with pytest.raises(DataError, match="batches.meta is not a batch of CIFAR-10: global"):
        open_source(str(folder), tmp_path)
    assert not (tmp_path / "canary").exists()


def test_lies_in_a_batch():
    data, labels = batch(0, 2)
    for pixels, numbers, message in (
        (data, [1, 10], "numbers 0..9"),
        (data, [1, True], "numbers 0..9"),
        (data, [1], "32x32"),
        (data[:, :100], labels, "32x32"),
        (data.astype(np.int64), labels, "32x32"),
        (None, labels, "32x32"),
        (data, "12", "numbers 0..9"),
        (data[:0], [], "32x32|bytes"),
    ):
        with pytest.raises(DataError, match=message):
            parse_batch(pickle.dumps({"data": pixels, "labels": numbers}, 2), "x")
    with pytest.raises(DataError, match="not a batch"):
        parse_batch(b"<html>", "x")
    with pytest.raises(DataError, match="ten classes"):
        parse_names(pickle.dumps({"label_names": ["../x"] * 10}), "x")
    names = [f"c{k}" for k in range(9)] + ["../up"]
    with pytest.raises(DataError, match="ten classes"):
        parse_names(pickle.dumps({"label_names": names}), "x")
    assert parse_names(None, "x") == CIFAR_CLASSES


def test_broken_tars_and_missing_batches(tmp_path):
    folder = official(tmp_path / "src")
    (folder / "data_batch_3").unlink()
    tar = tarred(folder, tmp_path / "cifar-10-python.tar.gz")
    with pytest.raises(DataError, match="has no data_batch_3"):
        open_source(str(tar), tmp_path)
    tar.write_bytes(tar.read_bytes()[:500])
    with pytest.raises(DataError, match="is damaged"):
        open_source(str(tar), tmp_path)
    with pytest.raises(DataError, match="has no data_batch_3"):
        read_cifar(folder, "train")


def test_a_tar_of_the_wrong_kind_is_not_read_to_its_end(tmp_path):
    info = tarfile.TarInfo("cifar-10-batches-py/big")
    info.size = 1 << 40
    with open(tmp_path / "cifar-10-python.tar", "wb") as out:
        out.write(info.tobuf())
        out.write(bytes(1024))
    with pytest.raises(DataError, match="larger than CIFAR-10|damaged"):
        open_source(str(tmp_path / "cifar-10-python.tar"), tmp_path)


def idx(array):
    head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return head + array.tobytes()


def mnist(folder, n=20):
    folder.mkdir()
    rng = np.random.default_rng(0)
    for stem in ("train", "t10k"):
        images = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        labels = (np.arange(n) % 10).astype(np.uint8)
        (folder / f"{stem}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (folder / f"{stem}-labels-idx1-ubyte").write_bytes(idx(labels))
    return folder


def test_mnist_as_it_is_and_prepared(tmp_path):
    folder = mnist(tmp_path / "raw")
    source = open_source(str(folder), tmp_path)
    assert source.image(3).shape == (28, 28, 3) and source.classes == [str(k) for k in range(10)]
    acquire("mnist", tmp_path / "data", folder)
    prepared = open_source("mnist", tmp_path / "data")
    for size, want in ((None, 28), (32, 32)):
        a, b = LabelledImages(source, size), LabelledImages(prepared, size)
        assert a.resolution == b.resolution == want and a.label_dim == b.label_dim == 10
        first = [i for i in range(20) if a[i][2] == 0][0]
        assert torch.equal(a[first][1], b[0][1]) and b[0][2] == 0  # prepared: sorted by class
    with pytest.raises(DataError, match="has no split val; it has train, test"):
        open_source(str(folder), tmp_path, split="val")


def test_idx_that_unpacks_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr("data.readers.arrays._MAX_IDX", 1000)
    with pytest.raises(DataError, match="cannot be read .more than"):
        open_source(str(mnist(tmp_path / "raw")), tmp_path)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_tar_s_own_headers_are_not_believed(tmp_path, kind):
    info = tarfile.TarInfo("header")
    info.type, info.size = kind, 3 << 30
    with gzip.open(tmp_path / "cifar-10-python.tar.gz", "wb") as out:
        out.write(info.tobuf(tarfile.USTAR_FORMAT) + bytes(1 << 20))
    with pytest.raises(DataError, match="a header of 3221225472 bytes"):
        open_source(str(tmp_path / "cifar-10-python.tar.gz"), tmp_path)
