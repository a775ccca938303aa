"""Copies of data on a node's own disk: whole, used again, made anew when the source changes."""

import os
import tarfile
import zipfile

import pytest

from recipes.experiment import stage
from storage import files
from storage.errors import DataDiskError, DataError


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "my data"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "x.txt").write_text("xx")
    (folder / "y.txt").write_text("y")
    os.symlink(folder / "y.txt", folder / "a" / "link.txt")
    os.symlink(folder, folder / "a" / "circle")
    return folder


def made(copy):
    return sorted(str(p.relative_to(copy)) for p in copy.rglob("*") if p.is_file())


def test_a_copy_is_whole_and_used_again(source, tmp_path, monkeypatch):
    local = tmp_path / "local"
    copy = stage.stage(source, local)
    assert copy == stage.place(source, local) and copy.name == "my data"
    assert made(copy) == ["a/link.txt", "a/x.txt", "y.txt"]
    assert not (copy / "a" / "link.txt").is_symlink()
    with monkeypatch.context() as patched:
        patched.setattr(stage, "_make", lambda *_: pytest.fail("copied again"))
        assert stage.stage(source, local) == copy
    (copy / "y.txt").unlink()  # by what clears old files away
    assert stage.stage(source, local) == copy and (copy / "y.txt").read_text() == "y"
    (source / "y.txt").write_text("yy")
    other = stage.stage(source, local)
    assert other != copy and (other / "y.txt").read_text() == "yy"
    assert (copy / "y.txt").read_text() == "y"  # for jobs that read it


def test_archives(source, tmp_path, capsys):
    local = tmp_path / "local"
    with tarfile.open(tmp_path / "set.tar.gz", "w:gz") as packed:
        packed.add(source / "y.txt", "in/y.txt")
    copy = stage.stage(tmp_path / "set.tar.gz", local)
    assert copy.name == "set" and made(copy) == ["in/y.txt"]
    assert stage.stage(tmp_path / "set.tar.gz", local) == copy
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as packed:
        packed.writestr("y.txt", "y" * 100)
    assert stage.main([str(tmp_path / "set.zip"), str(local)]) == 0
    copy = stage.place(tmp_path / "set.zip", local)
    assert capsys.readouterr().out == f"{copy}\n" and zipfile.is_zipfile(copy)
    data = bytearray((tmp_path / "set.zip").read_bytes())
    data[60] ^= 1
    (tmp_path / "bad.zip").write_bytes(data)
    assert stage.main([str(tmp_path / "bad.zip"), str(local)]) == DataError.exit_code
    assert "bad.zip is damaged: y.txt" in capsys.readouterr().err


def test_nothing_is_left_of_what_fails(source, tmp_path, monkeypatch):
    local = tmp_path / "local"
    with pytest.raises(DataError, match="no: No such file"):
        stage.stage(tmp_path / "no", local)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="is an empty folder"):
        stage.stage(tmp_path / "empty", local)
    copied = stage.shutil.copyfile

    def cut(one, other):
        copied(one, other)
        files.write_bytes(other, b"", durable=False)

    monkeypatch.setattr(stage.shutil, "copyfile", cut)
    with pytest.raises(DataError, match="has not the source's files"):
        stage.stage(source, local)
    monkeypatch.setattr(stage.shutil, "copyfile", copied)
    monkeypatch.setattr(stage.shutil, "disk_usage", lambda _: (
        type("Usage", (), {"free": 1})()))  # fmt: skip
    with pytest.raises(DataDiskError, match="has 4 bytes, and .* 1 free"):
        stage.stage(source, local)
    assert not [p for p in local.rglob("*") if p.is_file() and p.suffix != ".lock"]


def test_a_source_that_changes_meanwhile_is_a_line(source, tmp_path, monkeypatch):
    copied = stage.shutil.copyfile

    def touched(one, other):
        copied(one, other)
        (source / "new.txt").write_text("n")

    monkeypatch.setattr(stage.shutil, "copyfile", touched)
    with pytest.raises(DataError, match="changed while it was copied"):
        stage.stage(source, tmp_path / "local")
    assert not list((tmp_path / "local").rglob("y.txt"))
