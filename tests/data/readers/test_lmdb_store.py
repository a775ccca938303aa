import os

import numpy as np
import pytest
from torch.utils.data import DataLoader

from data.pyramids import Pyramid
from data.readers.lmdb_store import LmdbSource, LmdbWriter, close_all, finished_plan, unique_keys
from data.registry import open_source
from storage.errors import DataError
from tests.data.pictures import noise


def build(folder, n=6, size=8, plan="p", **options):
    keys = [f"img{k}" for k in range(n)]
    with LmdbWriter(folder, plan=plan, **options) as writer:
        writer.put([(k, noise(i, size, size)) for i, k in enumerate(keys)])
        writer.finish(keys, [i % 2 for i in range(n)], ["a", "b"])
    return keys


def test_layout_is_the_originals(tmp_path):
    import lmdb

    build(tmp_path / "x.lmdb")
    env = lmdb.open(str(tmp_path / "x.lmdb"), readonly=True, lock=False)
    with env.begin() as txn:
        assert txn.get(b"img3.meta") == b"8, 8, 3"
        raw = np.frombuffer(txn.get(b"img3"), np.uint8).reshape(8, 8, 3)
    env.close()
    assert (raw[..., ::-1] == noise(3, 8, 8)).all()


def test_reads_back_and_foreign_environment(tmp_path):
    build(tmp_path / "s_train_8.lmdb")
    build(tmp_path / "s_train_16.lmdb", size=16)
    source = open_source(str(tmp_path / "s_train_16.lmdb"), tmp_path)
    assert len(source) == 6 and source.label(3) == 1 and source.classes == ["a", "b"]
    assert (source.image(2) == noise(2, 16, 16)).all()
    assert source.has_native(8) and (source.native(2, 8) == noise(2, 8, 8)).all()
    assert not source.has_native(8, "center") and not source.has_native(4)
    whole = open_source(str(tmp_path), tmp_path)
    assert (whole.image(5) == noise(5, 16, 16)).all()
    (tmp_path / "s_train_8.lmdb/manifest.json").unlink()  # as CAM-Net's tool leaves it
    old = LmdbSource({8: tmp_path / "s_train_8.lmdb"}, name="old")
    assert len(old) == 6 and (old.image(4) == noise(4, 8, 8)).all()


def test_workers_while_the_parent_has_it_open(tmp_path):
    build(tmp_path / "s_train_8.lmdb")
    source = LmdbSource({8: tmp_path / "s_train_8.lmdb"}, name="s")
    pyramid = Pyramid(source, [4, 8])
    here = [pyramid[i][1][0] for i in range(6)]  # opens it in this process
    twin = LmdbSource({8: tmp_path / "s_train_8.lmdb"}, name="s")
    assert (twin.image(1) == source.image(1)).all()  # a second reader of the same file
    there = [b[1][0][0] for b in DataLoader(pyramid, num_workers=2)]
    assert all((a == b).all() for a, b in zip(here, there, strict=True))
    assert (source.image(0) == noise(0, 8, 8)).all()  # and the parent still reads
    cached = Pyramid(source, [4, 8], cache="memory")
    spawned = DataLoader(cached, num_workers=1, multiprocessing_context="spawn")
    assert (next(iter(spawned))[1][0][0] == here[0]).all()


def test_map_grows_and_says_so(tmp_path):
    said = []
    build(tmp_path / "x.lmdb", n=40, size=128, map_size=1 << 20, say=said.append)
    assert said == ["x.lmdb: map grown to 2 MiB", "x.lmdb: map grown to 4 MiB"]
    source = LmdbSource({128: tmp_path / "x.lmdb"}, name="x")
    assert (source.image(39) == noise(39, 128, 128)).all()


def test_killed_builder_goes_on(tmp_path):
    folder = tmp_path / "x.lmdb"
    pid = os.fork()
    if pid == 0:
        writer = LmdbWriter(folder, plan="p")
        writer.put([("img0", noise(0)), ("img1", noise(1))])
        os.kill(os.getpid(), 9)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == 9
    assert finished_plan(folder) is None
    with pytest.raises(DataError, match="unfinished"):
        LmdbSource({0: folder}, name="x")
    with pytest.raises(DataError, match="begun from other"):
        LmdbWriter(folder, plan="q")
    with LmdbWriter(folder, plan="p") as writer:
        assert writer.has("img1") and not writer.has("img2")
        with pytest.raises(DataError, match="img2 was not written"):
            writer.finish(["img0", "img1", "img2"], [0, 0, 0], ["a"])
        writer.put([("img2", noise(2))])
        writer.finish(["img0", "img1", "img2"], [0, 0, 0], ["a"])
    assert finished_plan(folder) == "p"
    assert (LmdbSource({0: folder}, name="x").image(0) == noise(0)).all()


def test_missing_key_and_damaged_manifest(tmp_path):
    import lmdb

    folder = tmp_path / "x.lmdb"
    build(folder)
    close_all()
    env = lmdb.open(str(folder))
    with env.begin(write=True) as txn:
        txn.delete(b"img2")
        txn.put(b"img3.meta", b"9, 9, 3")
    env.close()
    source = LmdbSource({8: folder}, name="x")
    with pytest.raises(DataError, match=r"x.lmdb:img2 \(missing key\)"):
        source.image(2)
    with pytest.raises(DataError, match="do not fit meta"):
        source.image(3)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(DataError, match="damaged"):
        LmdbSource({8: folder}, name="x")


def test_colliding_names_keep_their_pictures():
    paths = ["a/1.png", "b/1.png", "b/2.png", "a/3.jpg", "a/3.png"]
    assert unique_keys(paths) == ["a/1.png", "b/1.png", "2", "a/3.jpg", "a/3.png"]
    assert len(set(unique_keys(["x.png", "a/x.meta.png"]))) == 2
    assert "x.meta" not in unique_keys(["x.png", "a/x.meta.png"])
