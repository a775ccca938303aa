import json

import numpy as np
import pytest
import torch

from data import uint8_cache
from data.labelled import LabelledImages
from data.registry import open_source
from data.uint8_cache import UInt8Cache, source_digest
from storage.errors import DataError
from tests.data.pictures import make_set, truncate

COUNTS = {"train": {"a": 70, "b": 90}}


@pytest.fixture
def source(tmp_path):
    return open_source(str(make_set(tmp_path / "mine", COUNTS)), tmp_path)


def same(cache, source):
    items = LabelledImages(source, cache.resolution)
    images, labels = cache.batch(torch.arange(len(items)))
    assert torch.equal(images, torch.stack([items[i][1] for i in range(len(items))]))
    assert labels.tolist() == [items[i][2] for i in range(len(items))]


def test_in_memory(source):
    cache = UInt8Cache(source, 12, quiet=True)
    assert cache.images.dtype == torch.uint8 and len(cache) == 160
    same(cache, source)
    images, labels = cache.batch(torch.tensor([150, 3, 150]))
    assert torch.equal(images[0], images[2]) and labels.tolist() == [1, 0, 1]
    with pytest.raises(IndexError):
        cache.batch(torch.tensor([160]))


def test_the_global_random_numbers_do_not_depend_on_what_was_read(source, tmp_path):
    """Initial weights are drawn after the pictures are there, built just now or long ago."""
    found = set()
    for _ in range(2):
        torch.manual_seed(0)
        UInt8Cache(source, 12, "memmap", folder=tmp_path / "uint8", quiet=True)
        found.add(torch.rand(()).item())
    torch.manual_seed(0)
    assert found == {torch.rand(()).item()}


def test_workers_change_nothing(source):
    assert torch.equal(
        UInt8Cache(source, 12, quiet=True).images,
        UInt8Cache(source, 12, workers=2, quiet=True).images,
    )


def test_memmap_is_made_once(source, tmp_path, monkeypatch):
    cache = UInt8Cache(source, 12, "memmap", folder=tmp_path / "c", verify=True, quiet=True)
    same(cache, source)

    def refuse(*_):
        raise AssertionError("built again")

    monkeypatch.setattr(UInt8Cache, "_build", refuse)
    again = UInt8Cache(source, 12, "memmap", folder=tmp_path / "c", verify=True, quiet=True)
    assert torch.equal(again.images, cache.images) and torch.equal(again.labels, cache.labels)
    again.images[0] = 0  # a private copy: the file stays
    same(UInt8Cache(source, 12, "memmap", folder=tmp_path / "c", quiet=True), source)


def test_an_interrupted_build_goes_on(source, tmp_path, monkeypatch):
    monkeypatch.setattr(uint8_cache, "_CHUNK", 64)
    read = LabelledImages.__getitem__
    seen = []

    def stop(self, i):
        seen.append(i)
        if i == 130 and len(seen) < 140:
            raise KeyboardInterrupt
        return read(self, i)

    monkeypatch.setattr(LabelledImages, "__getitem__", stop)
    with pytest.raises(KeyboardInterrupt):
        UInt8Cache(source, 12, "memmap", folder=tmp_path / "c", quiet=True)
    (folder,) = [f for f in (tmp_path / "c").iterdir() if f.is_dir()]
    assert json.loads((folder / "building.json").read_text())["done"] == 128
    assert not (folder / "cache.json").exists()
    seen[:] = [None] * 200
    cache = UInt8Cache(source, 12, "memmap", folder=tmp_path / "c", verify=True, quiet=True)
    assert [i for i in seen if i is not None] == list(range(128, 160))
    assert not (folder / "building.json").exists()
    monkeypatch.undo()
    same(cache, source)


@pytest.mark.parametrize("where", [0, 100, 159])
def test_damage_is_seen(source, tmp_path, monkeypatch, where):
    monkeypatch.setattr(uint8_cache, "_CHUNK", 64)
    cache = UInt8Cache(source, 12, "memmap", folder=tmp_path / "c", quiet=True)
    pixels = np.memmap(cache.folder / "pixels.u8", np.uint8, "r+", shape=cache.shape)
    pixels[where] ^= 1
    pixels.flush()
    with pytest.raises(DataError, match="damaged; remove"):
        UInt8Cache(source, 12, "memmap", folder=tmp_path / "c", verify=True, quiet=True)
    if where != 100:  # in the first or last stretch: always looked at
        with pytest.raises(DataError, match="damaged; remove"):
            UInt8Cache(source, 12, "memmap", folder=tmp_path / "c", quiet=True)
    truncate(cache.folder / "pixels.u8")
    with pytest.raises(DataError, match="has not the 69120 bytes"):
        UInt8Cache(source, 12, "memmap", folder=tmp_path / "c", quiet=True)


def test_the_list_of_the_source_names_the_cache(tmp_path):
    make_set(tmp_path / "one", COUNTS)
    make_set(tmp_path / "two", COUNTS)
    first = open_source(str(tmp_path / "one"), tmp_path)
    moved = open_source(str(tmp_path / "two"), tmp_path)
    digest = source_digest(first, 12, "center")
    assert digest == source_digest(moved, 12, "center")
    assert digest != source_digest(first, 16, "center")
    assert digest != source_digest(first, 12, "squash")
    (tmp_path / "two/train/a/003.png").unlink()
    changed = open_source(str(tmp_path / "two"), tmp_path)
    assert digest != source_digest(changed, 12, "center")


def test_what_does_not_fit_is_refused(source, tmp_path, monkeypatch):
    monkeypatch.setattr(uint8_cache, "free_memory", lambda: 1000)
    with pytest.raises(DataError, match='are free; place="memmap", or take smaller pictures'):
        UInt8Cache(source, 12)
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(uint8_cache.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DataError, match="another folder, or smaller pictures"):
        UInt8Cache(source, 12, "memmap", folder=tmp_path / "c")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(place="disk"), "none of memory, memmap"),
        (dict(place="memmap"), "needs a folder"),
        (dict(folder="x"), "needs a folder"),
    ],
)
def test_bad_options(source, options, message):
    with pytest.raises(DataError, match=message):
        UInt8Cache(source, 12, **options)
