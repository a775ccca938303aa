"""Caches of views: what is written is what is read, in every layout, whole or after a stop."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from data.registry import open_source
from data.sources import Subset
from data.views.naming import group_views, picture_names, root_ids
from data.views.stored import PreAugmentedDataset, open_views
from data.views.writing import FORMATS, ViewWriter
from storage.errors import DataBusyError, DataError
from tests.data.pictures import make_set, noise, zip_folder

K, S = 3, 8
SETTINGS = {"seed": 0, "temperature": 1.0}


@pytest.fixture
def source(tmp_path):
    make_set(tmp_path / "set", {"train": {"cat": 4, "dog": 3}})
    return open_source("set", tmp_path)


def views_of(n=7, k=K, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, k, 3, S, S), dtype=torch.uint8, generator=generator)


def write(folder, source, format, views=None, parts=(2, 4, 7), **options):
    views = views_of(len(source)) if views is None else views
    options = {"settings": SETTINGS, "k": K, "size": S, "format": format, **options}
    with ViewWriter(folder, source, **options) as writer:
        for stop in parts:
            if stop > writer.done:
                writer.put(views[writer.done : stop])
        writer.finish(ms_per_view=1.5)
    return views


@pytest.mark.parametrize("place", ["memory", "memmap"])
@pytest.mark.parametrize("format", FORMATS)
def test_what_is_written_is_read(tmp_path, source, format, place):
    views = write(tmp_path / "out", source, format)
    cache = open_views(tmp_path / "out", source, S, place=place, verify=True, quiet=True)
    assert cache.images.dtype == torch.uint8 and cache.k == K
    assert torch.equal(cache.images[cache.rows], views)
    assert cache.settings["temperature"] == 1.0
    part = Subset(source, [6, 0, 3])
    cache = open_views(tmp_path / "out", part, S, place=place, quiet=True)
    assert torch.equal(cache.images[cache.rows], views[[6, 0, 3]])
    if place == "memory":
        assert len(cache.images) == 3  # no more than is needed


@pytest.mark.parametrize("format", FORMATS)
def test_a_stopped_writer_goes_on(tmp_path, source, format):
    views, out = views_of(), tmp_path / "out"
    options = {"k": K, "size": S, "format": format, "settings": SETTINGS}
    with ViewWriter(out, source, **options) as writer:
        writer.put(views[:2])
        writer.put(views[2:5])
    with pytest.raises(DataError, match="unfinished"):
        open_views(out, source, S)
    with ViewWriter(out, source, **options) as writer:
        assert writer.done == 5 and not writer.finished
        with pytest.raises(DataError, match="5 of 7"):
            writer.finish()
        writer.put(views[5:])
        writer.finish()
    with ViewWriter(out, source, **options) as writer:
        assert writer.finished and writer.done == 7
        assert writer.finish() > 7 * K  # bytes
    cache = open_views(out, source, S, verify=True, quiet=True)
    assert torch.equal(cache.images[cache.rows], views)
    assert not list(out.glob("building-*"))


@pytest.mark.parametrize("format", FORMATS)
def test_a_killed_writer_loses_what_it_did_not_note(tmp_path, source, monkeypatch, format):
    views, out = views_of(), tmp_path / "out"
    options = {"k": K, "size": S, "format": format, "settings": SETTINGS}
    child = os.fork()
    if child == 0:
        try:
            writer = ViewWriter(out, source, **options)
            monkeypatch.setattr("data.views.writing.NOTE_EVERY_S", 0.0)
            writer.put(views[:2])
            monkeypatch.setattr("data.views.writing.NOTE_EVERY_S", 1e9)
            writer.put(views[2:5])
        finally:
            os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    with ViewWriter(out, source, **options) as writer:
        assert writer.done == 2
    write(out, source, format, views, parts=(4, 7))
    cache = open_views(out, source, S, verify=True, quiet=True)
    assert torch.equal(cache.images[cache.rows], views)


def test_an_lmdb_that_lacks_only_the_note_is_finished(tmp_path, source):
    views = write(tmp_path / "out", source, "lmdb")
    note = tmp_path / "out" / "views-train.json"
    plan = json.loads(note.read_text())["plan"]
    note.unlink()
    progress = {"plan": plan, "done": 7, "sums": []}
    (tmp_path / "out" / "building-views-train.json").write_text(json.dumps(progress))
    write(tmp_path / "out", source, "lmdb")
    cache = open_views(tmp_path / "out", source, S, quiet=True)
    assert torch.equal(cache.images[cache.rows], views)


def test_files_that_went_are_written_again(tmp_path, source):
    views, out = views_of(), tmp_path / "out"
    options = {"k": K, "size": S, "settings": SETTINGS}
    with ViewWriter(out, source, **options) as writer:
        writer.put(views[:6])
    next(out.glob("train/cat/002_aug1.png")).unlink()
    with ViewWriter(out, source, **options) as writer:
        assert writer.done == 2
    write(out, source, "folder", views)
    cache = open_views(out, source, S, quiet=True)
    assert torch.equal(cache.images[cache.rows], views)


def test_a_folder_of_views_is_an_image_folder(tmp_path, source):
    views = write(tmp_path / "out", source, "folder", first=5)
    again = open_source("out", tmp_path)
    assert again.classes == ["cat", "dog"] and len(again) == 7 * K
    with Image.open(tmp_path / "out/train/dog/001_aug6.png") as image:
        assert np.array_equal(np.asarray(image), views[5, 1].permute(1, 2, 0))
    cache = open_views(tmp_path / "out", source, S, quiet=True)
    assert torch.equal(cache.images[cache.rows], views)


@pytest.mark.parametrize("format", FORMATS)
def test_two_splits_share_a_folder(tmp_path, format):
    make_set(tmp_path / "set", {"train": {"a": 2}, "val": {"a": 3}})
    both = {s: open_source("set", tmp_path, split=s) for s in ("train", "val")}
    views = {
        s: write(tmp_path / "out", both[s], format, views_of(len(both[s]), seed=n), split=s)
        for n, s in enumerate(both)
    }
    for split, source in both.items():
        cache = open_views(tmp_path / "out", source, S, split=split, quiet=True)
        assert torch.equal(cache.images[cache.rows], views[split])


def test_names_do_not_depend_on_storage_or_parts(tmp_path, source):
    names = picture_names(source)
    assert names[:5] == ["cat/000", "cat/001", "cat/002", "cat/003", "dog/000"]
    zipped = zip_folder(tmp_path / "set", tmp_path / "packed.zip")
    assert picture_names(open_source(str(zipped), tmp_path)) == names
    part = Subset(Subset(source, [6, 4, 2, 0]), [3, 0])
    assert picture_names(part) == [names[0], names[6]]
    assert root_ids(part).tolist() == [0, 6] and root_ids(source).tolist() == list(range(7))


def test_pictures_of_one_name_are_told_apart(tmp_path):
    for folder in ("a/x", "a/y"):
        make_set(tmp_path / "set", {"train": {folder: 2}})
    source = open_source("set", tmp_path)
    assert picture_names(source) == ["a/000~0", "a/001~1", "a/000~2", "a/001~3"]
    for format in FORMATS:
        views = write(tmp_path / format, source, format, views_of(4), parts=(4,))
        cache = open_views(tmp_path / format, Subset(source, [3, 1]), S, quiet=True)
        assert torch.equal(cache.images[cache.rows], views[[3, 1]])


def test_scenes_have_views_too(tmp_path):
    source = Subset(open_source("scenes", tmp_path), range(3))
    views = write(tmp_path / "out", source, "folder", views_of(3), parts=(3,))
    cache = open_views(tmp_path / "out", source, S, quiet=True)
    assert torch.equal(cache.images[cache.rows], views)


@pytest.mark.parametrize(
    "change, says",
    [
        ({"settings": {**SETTINGS, "temperature": 2.0}}, "temperature 1.0 before, 2.0 now"),
        ({"k": 2}, "k 3 before, 2 now"),
        ({"first": 3}, "first 0 before, 3 now"),
    ],
)
@pytest.mark.parametrize("stopped", [False, True])
def test_views_of_other_settings_are_not_mixed(tmp_path, source, change, says, stopped):
    options = {"k": K, "size": S, "settings": SETTINGS}
    with ViewWriter(tmp_path / "out", source, **options) as writer:
        writer.put(views_of()[: 2 if stopped else 7])
        if not stopped:
            writer.finish()
    with pytest.raises(DataError, match=says):
        ViewWriter(tmp_path / "out", source, **{**options, **change})
    with ViewWriter(tmp_path / "out", source, **options) as writer:  # the lock was let go
        assert writer.done == (2 if stopped else 7)


def test_two_writers_exclude_each_other(tmp_path, source):
    options = {"k": K, "size": S}
    with ViewWriter(tmp_path / "out", source, **options):
        with pytest.raises(DataBusyError, match="being written"):
            ViewWriter(tmp_path / "out", source, **options)


def test_a_foreign_file_is_not_overwritten(tmp_path, source):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train.views.u8").write_bytes(b"mine")
    with pytest.raises(DataError, match="not ours"):
        ViewWriter(tmp_path / "out", source, k=K, size=S, format="memmap")
    assert (tmp_path / "out" / "train.views.u8").read_bytes() == b"mine"


def test_too_little_space_is_said_first(tmp_path, source, monkeypatch):
    free = shutil._ntuple_diskusage(10, 10, 10)
    monkeypatch.setattr("data.views.writing.shutil.disk_usage", lambda _: free)
    with pytest.raises(DataError, match="GiB .* free"):
        ViewWriter(tmp_path / "out", source, k=K, size=S, format="memmap")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "views", [views_of().float(), views_of(k=2), views_of(8), views_of()[..., :4]]
)
def test_wrong_views_are_refused(tmp_path, source, views):
    with ViewWriter(tmp_path / "out", source, k=K, size=S) as writer:
        with pytest.raises(DataError):
            writer.put(views)
        assert writer.done == 0


def spoil(out, what):
    file = out / "train.views.u8"
    if what == "byte":
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    elif what == "size":
        file.write_bytes(file.read_bytes()[:-1])
    elif what == "note":
        (out / "views-train.json").write_text("{")
    elif what == "gone":
        shutil.rmtree(out)
        out.mkdir()


@pytest.mark.parametrize(
    "what, says", [("byte", "differ"), ("size", "size"), ("note", "is damaged")]
)
def test_damage_is_named(tmp_path, source, what, says):
    write(tmp_path / "out", source, "memmap")
    spoil(tmp_path / "out", what)
    with pytest.raises(DataError, match=says):
        open_views(tmp_path / "out", source, S, verify=True)


def test_what_is_missing_is_named(tmp_path, source):
    out = tmp_path / "out"
    write(out, source, "memmap")
    with pytest.raises(DataError, match="8 px, 16 are asked"):
        open_views(out, source, 16)
    spoil(out, "gone")
    with pytest.raises(DataError):
        open_views(out, source, S)
    with pytest.raises(DataError):
        open_views(tmp_path / "nowhere", source, S)
    with pytest.raises(DataError, match="_aug"):
        open_views(tmp_path / "set", source, S)
    write(tmp_path / "part", Subset(source, [0, 1]), "memmap", views_of(2), parts=(2,))
    with pytest.raises(DataError, match="no views of 5 of 7 pictures, cat/002"):
        open_views(tmp_path / "part", source, S)
    for format in ("folder", "memmap"):
        with ViewWriter(tmp_path / format, source, k=K, size=S, format=format, split="val") as w:
            w.put(views_of())
            w.finish()
        with pytest.raises(DataError, match="views of val, not of train"):
            open_views(tmp_path / format, source, S)
    write(tmp_path / "files", source, "folder")
    (tmp_path / "files/train/cat/001_aug1.png").unlink()
    with pytest.raises(DataError, match="cat/001_aug1"):
        open_views(tmp_path / "files", source, S)


# ------------------------------------------------------------------ JPEG, with gaps in the numbers


@pytest.fixture
def foreign(tmp_path):
    """Views that another tool wrote: JPEG, numbers with gaps, one original beside its views."""
    for name, count in {"cat/a": 3, "cat/b_aug1": 2, "dog/a": 4}.items():
        file = tmp_path / "gen" / "train" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        for j in range(count):
            image = Image.fromarray(noise(len(name) + 10 * j, 12, 12))
            image.save(file.with_name(f"{file.name}_aug{10 - j}.jpg"))
    Image.fromarray(noise(99, 12, 12)).save(tmp_path / "gen/train/dog/a.jpg")
    return tmp_path / "gen"


def test_groups_are_files_that_differ_by_the_number(foreign):
    source = open_source(str(foreign), foreign.parent)
    groups = group_views(source)
    assert {name: len(v) for name, v in groups.items()} == {"cat/a": 3, "cat/b_aug1": 2, "dog/a": 4}
    numbers = [source.path(i).rsplit("_aug", 1)[1] for i in groups["cat/a"]]
    assert numbers == ["8.jpg", "9.jpg", "10.jpg"]  # as numbers, not as words
    assert len(group_views(source, plain=True)["dog/a"]) == 5


def test_a_cache_of_unequal_numbers(tmp_path, foreign, capsys):
    make_set(tmp_path / "set", {"train": {"cat": 0, "dog": 0}})
    for name in ("cat/a", "cat/b_aug1", "dog/a"):
        Image.fromarray(noise(1, 12, 12)).save(tmp_path / "set/train" / f"{name}.png")
    source = open_source("set", tmp_path)
    cache = open_views(foreign, source, 6)
    assert cache.images.shape == (3, 2, 3, 6, 6) and cache.settings == {}
    assert "2 to 4 views" in capsys.readouterr().err


def test_xy_gives_one_view_and_the_label(foreign):
    items = PreAugmentedDataset(foreign, "xy")
    assert len(items) == 3 and items.names == ["cat/a", "cat/b_aug1", "dog/a"]
    own = {tuple(np.asarray(Image.open(f)).ravel()) for f in (foreign / "train/cat").glob("a_*")}
    seen = set()
    for epoch in range(20):
        items.set_epoch(epoch)
        view, label = items[0]
        assert view.dtype == torch.uint8 and view.shape == (3, 12, 12) and label == 0
        seen.add(tuple(view.permute(1, 2, 0).flatten().tolist()))
        assert torch.equal(view, items[0][0])  # a function of the epoch
    assert seen == {tuple(int(v) for v in pixels) for pixels in own}  # all of them, in time
    assert items[2][1] == 1 and torch.equal(items[-1][0], items[2][0])
    with pytest.raises(IndexError):
        items[3]


def test_cl_gives_distinct_views(foreign):
    items = PreAugmentedDataset(foreign, "cl")
    for epoch in range(10):
        items.set_epoch(epoch)
        for i in range(3):
            views, _ = items[i]
            assert views.shape == (2, 3, 12, 12) and not torch.equal(views[0], views[1])
    with pytest.raises(DataError, match="cat/b_aug1 .* has 2 views, num_augs is 3"):
        PreAugmentedDataset(foreign, "cl", num_augs=3)
    half = PreAugmentedDataset(foreign, "cl", size=6, transform=lambda view: view.float() / 255)
    assert half[0][0].shape == (2, 3, 6, 6) and half[0][0].dtype == torch.float32


def test_workers_see_the_epoch(foreign):
    items = PreAugmentedDataset(foreign, "xy")
    loader = torch.utils.data.DataLoader(
        items, batch_size=3, num_workers=1, persistent_workers=True, multiprocessing_context="fork"
    )
    for epoch in range(3):
        items.set_epoch(epoch)
        views, labels = next(iter(loader))
        assert labels.tolist() == [0, 0, 1]
        assert torch.equal(views, torch.stack([items[i][0] for i in range(3)]))


def test_our_caches_are_such_folders(tmp_path, source):
    views = write(tmp_path / "out", source, "folder")
    write(tmp_path / "base", source, "lmdb", views)
    for folder in ("out", "base"):
        items = PreAugmentedDataset(tmp_path / folder, "cl", num_augs=K)
        for i in range(len(items)):
            got, _ = items[i]
            key = lambda v: v.flatten().tolist()  # noqa: E731
            assert sorted(map(key, got)) == sorted(map(key, views[i]))
    write(tmp_path / "array", source, "memmap", views)
    with pytest.raises(DataError, match="open_views"):
        PreAugmentedDataset(tmp_path / "array")
    for mode, num in (("yx", 2), ("cl", 0)):
        with pytest.raises(DataError):
            PreAugmentedDataset(tmp_path / "out", mode, num_augs=num)
