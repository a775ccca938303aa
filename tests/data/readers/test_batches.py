import pickle
import tarfile

import numpy as np
import pytest

from data.dataset_tool import main as tool
from data.readers import batches
from data.readers.arrays import array_splits
from data.readers.batches import CIFAR100_CLASSES, CIFAR_CLASSES, STL_CLASSES
from data.registry import KNOWN, open_source
from data.SetupDataset import main
from storage.errors import DataError

COUNT = {"train": 6, "test": 4, "unlabeled": 3}


def rows(part: str, side: int) -> np.ndarray:
    """uint8 [N, 3 side side]."""
    draw = np.random.default_rng(len(part))
    return draw.integers(0, 256, (COUNT[part], 3 * side * side), dtype=np.uint8)


def labels(part: str, count: int) -> list[int]:
    return [(7 * k + len(part)) % count for k in range(COUNT[part])]


def pictures(part: str, side: int, *, columns: bool = False) -> np.ndarray:
    """uint8 [N, side, side, 3], by loops."""
    flat, out = rows(part, side), np.zeros((COUNT[part], side, side, 3), np.uint8)
    for colour in range(3):
        for a in range(side):
            line = flat[:, (colour * side + a) * side :][:, :side]
            if columns:
                out[:, :, a, colour] = line
            else:
                out[:, a, :, colour] = line
    return out


def cifar_100_python(folder):
    for part in ("train", "test"):
        fine = labels(part, 100)
        batch = {b"data": rows(part, 32), b"fine_labels": fine, b"coarse_labels": [1] * len(fine)}
        (folder / part).write_bytes(pickle.dumps({**batch, b"filenames": [b"x"]}, 2))
    names = {"fine_label_names": CIFAR100_CLASSES, "coarse_label_names": ["fish"]}
    (folder / "meta").write_bytes(pickle.dumps(names, 2))


def cifar_100_binary(folder):
    for part in ("train", "test"):
        fine = np.asarray(labels(part, 100), np.uint8)[:, None]
        data = np.concatenate([fine * 0 + 3, fine, rows(part, 32)], axis=1)
        (folder / f"{part}.bin").write_bytes(data.tobytes())
    (folder / "fine_label_names.txt").write_text("\n".join(CIFAR100_CLASSES) + "\n")


def cifar_10_batches_bin(folder):
    for part, files in (("train", 3), ("test", 1)):
        kind = np.asarray(labels(part, 10), np.uint8)[:, None]
        data = np.concatenate([kind, rows(part, 32)], axis=1)
        for k, some in enumerate(np.array_split(data, 5 if files > 1 else 1)):
            name = f"data_batch_{k + 1}.bin" if files > 1 else "test_batch.bin"
            (folder / name).write_bytes(some.tobytes())
    (folder / "batches.meta.txt").write_text("\n".join(CIFAR_CLASSES) + "\n\n")


def stl10_binary(folder):
    for part in ("train", "test", "unlabeled"):
        (folder / f"{part}_X.bin").write_bytes(rows(part, 96).tobytes())
        if part != "unlabeled":
            kind = np.asarray(labels(part, 10), np.uint8) + 1
            (folder / f"{part}_y.bin").write_bytes(kind.tobytes())
    (folder / "class_names.txt").write_text("\n".join(STL_CLASSES) + "\n")


SETS = {
    "cifar-100-python": (cifar_100_python, "cifar-100-python.tar.gz", CIFAR100_CLASSES, 32),
    "cifar-100-binary": (cifar_100_binary, "cifar-100-binary.tar.gz", CIFAR100_CLASSES, 32),
    "cifar-10-batches-bin": (cifar_10_batches_bin, "cifar-10-binary.tar.gz", CIFAR_CLASSES, 32),
    "stl10_binary": (stl10_binary, "stl10_binary.tar.gz", STL_CLASSES, 96),
}


def made(tmp_path, name):
    """(folder, tar) of a set as it is distributed, small."""
    folder = tmp_path / name
    folder.mkdir()
    SETS[name][0](folder)
    archive = tmp_path / SETS[name][1]
    with tarfile.open(archive, "w:gz") as out:
        out.add(folder, name)
    return folder, archive


@pytest.mark.parametrize("name", SETS)
def test_in_place(tmp_path, name):
    folder, archive = made(tmp_path, name)
    _, _, classes, side = SETS[name]
    for place in (folder, archive, tmp_path / "above"):
        if place.name == "above":  # the folder that it was unpacked into
            place.mkdir()
            folder.rename(place / name)
        for part in ("train", "test"):
            source = open_source(f"{place}/{part}", tmp_path)
            assert source.classes == classes and len(source) == COUNT[part]
            assert [source.label(i) for i in range(len(source))] == labels(part, len(classes))
            want = pictures(part, side, columns=side == 96)
            assert all((source.image(i) == want[i]).all() for i in range(len(source)))


@pytest.mark.parametrize("name", SETS)
def test_set_up_and_converted(tmp_path, name):
    _, archive = made(tmp_path, name)
    _, _, classes, side = SETS[name]
    renamed = archive.rename(tmp_path / "mine.tar.gz")  # known by what is in it
    home = tmp_path / "home"
    command = ["--data", "mine", "--source", str(renamed), "--sizes", "0", "--num_workers", "1"]
    assert main([*command, "--data_path", str(home)]) == 0
    source = open_source("mine", home)
    found = {(source.classes[source.label(i)], source.image(i).tobytes()) for i in range(6)}
    want = pictures("train", side, columns=side == 96)
    names = [classes[k] for k in labels("train", len(classes))]
    assert found == {(n, p.tobytes()) for n, p in zip(names, want, strict=True)}
    if side == 96:
        assert len(open_source("mine/unlabeled", home)) == 3
    renamed.rename(archive)
    size = ["--resolution", "32x32", "--num_workers", "1"]
    dest = tmp_path / "x.zip"
    assert tool(["convert", "--source", str(archive), "--dest", str(dest), *size]) == 0
    again = open_source(str(dest), home)
    assert [again.label(i) for i in range(6)] == labels("train", len(classes))
    assert again.classes == classes


@pytest.mark.parametrize("place", ["stl10_binary", "stl10_binary.tar.gz"])
def test_the_part_of_stl_without_labels(tmp_path, place):
    made(tmp_path, "stl10_binary")
    source = open_source(f"{tmp_path / place}/unlabeled", tmp_path)
    want = pictures("unlabeled", 96, columns=True)
    assert len(source) == 3 and not source.labelled and source.classes == ["unlabeled"]
    assert (pickle.loads(pickle.dumps(source)).image(2) == want[2]).all()
    assert list(array_splits(tmp_path / place)) == ["train", "test"]


def test_what_is_wrong_is_one_line(tmp_path):
    folder, _ = made(tmp_path, "stl10_binary")
    (folder / "train_y.bin").write_bytes(bytes(6))
    with pytest.raises(DataError, match=r"train_y\.bin is no list of labels 1\.\.10"):
        open_source(str(folder), tmp_path)
    (folder / "train_X.bin").write_bytes(bytes(100))
    with pytest.raises(DataError, match="whole pictures of 96x96"):
        open_source(str(folder), tmp_path)
    folder, _ = made(tmp_path, "cifar-100-python")
    (folder / "train").write_bytes(pickle.dumps({b"data": 1, b"fine_labels": [100]}))
    with pytest.raises(DataError, match=r"labels that are not numbers 0\.\.99"):
        open_source(str(folder), tmp_path)
    folder, _ = made(tmp_path, "cifar-100-binary")
    (folder / "train.bin").write_bytes(bytes(3075))
    with pytest.raises(DataError, match="whole pictures of 32x32"):
        open_source(str(folder), tmp_path)
    (folder / "train.bin").write_bytes(b"\0\xff" + bytes(3072))
    with pytest.raises(DataError, match=r"labels that are not numbers 0\.\.99"):
        open_source(str(folder), tmp_path)


def test_folders_of_pictures_called_train_are_no_cifar(tmp_path):
    (tmp_path / "train").mkdir()
    assert not array_splits(tmp_path)
    assert len(CIFAR100_CLASSES) == 100 and sorted(CIFAR100_CLASSES) == CIFAR100_CLASSES
    assert len(batches.KINDS) == 4 and {"cifar100", "stl10"} <= set(KNOWN)
