import os
from pathlib import Path

import pytest

from data import InvertDirStructure
from data.InvertDirStructure import default_out, main
from data.readers.layout import list_files
from tests.data.pictures import make_set


@pytest.fixture
def folder(tmp_path):
    make_set(tmp_path / "set", {"train": {"a": 2, "b": 1}, "val": {"a": 1}})
    (tmp_path / "set/stray.txt").write_text("x")
    (tmp_path / "set/extra").mkdir()
    return tmp_path / "set"


@pytest.mark.parametrize("links", ["hard", "soft"])
def test_there_and_back_by_links(folder, tmp_path, capsys, monkeypatch, links):
    if links == "soft":

        def refuse(*names):
            raise OSError(18, "cross-device")

        monkeypatch.setattr(InvertDirStructure.os, "link", refuse)
    assert main(["--folder", str(folder)]) == 0
    out = tmp_path / "camnet_data/set"
    assert list_files(out) == [
        "a/train/000.png",
        "a/train/001.png",
        "a/val/000.png",
        "b/train/000.png",
    ]
    assert os.path.samefile(out / "a/val/000.png", folder / "val/a/000.png")
    assert (out / "a/val/000.png").is_symlink() == (links == "soft")
    assert main(["--folder", str(folder)]) == 0
    assert "0 links made, 4 there already" in capsys.readouterr().out
    again = tmp_path / "again"
    assert main(["--folder", str(out), "--reverse", "--out", str(again)]) == 0
    assert list_files(again) == list_files(folder)
    assert main(["--folder", str(out), "--reverse"]) == 0  # onto the original: all there
    assert "0 links made, 4 there" in capsys.readouterr().out.splitlines()[-1]


def test_new_files_are_added(folder, tmp_path):
    main(["--folder", str(folder)])
    os.link(folder / "train/a/000.png", folder / "train/a/new.png")
    assert main(["--folder", str(folder)]) == 0
    assert (tmp_path / "camnet_data/set/a/train/new.png").exists()


def test_collision_changes_nothing(folder, tmp_path, capsys):
    place = tmp_path / "camnet_data/set/b/train/000.png"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"someone's")
    assert main(["--folder", str(folder)]) == 6
    assert "is another file than" in capsys.readouterr().err
    assert list_files(tmp_path / "camnet_data/set") == ["b/train/000.png"]
    assert place.read_bytes() == b"someone's"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--folder", "{}/none"], "is not a folder"),
        (["--folder", "{}/set", "--reverse"], "splits first"),
        (["--folder", "{}/set/train"], "no split folders"),
        (["--folder", "{}/set", "--out", "{}/set/inner"], "lies inside"),
    ],
)
def test_refusals(folder, tmp_path, capsys, arguments, message):
    assert main([a.format(tmp_path) for a in arguments]) == 6
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_flat_split_is_refused(tmp_path, capsys):
    make_set(tmp_path / "s", {"train": {"": 0, "a": 1}})
    (tmp_path / "s/train/loose.png").write_bytes(b"x")
    assert main(["--folder", str(tmp_path / "s")]) == 6
    assert "not in split/class/picture" in capsys.readouterr().err


def test_default_place_of_a_relative_folder(tmp_path, monkeypatch):
    (tmp_path / "d/set/deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "d/set/deep")
    assert default_out(Path(".."), False) == tmp_path / "d/camnet_data/set"


def test_a_folder_may_be_a_data_sets_name(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("DATA_HOME", str(tmp_path))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert main(["--folder", "set"]) == 0
    assert f"{tmp_path / 'camnet_data/set'}: 4 links made" in capsys.readouterr().out
    assert main(["--folder", "set", "--data_path", str(tmp_path)]) == 0
    make_set(tmp_path / "here/set", {"train": {"c": 1}})  # what is here is meant first
    assert main(["--folder", "set"]) == 0
    assert list_files(tmp_path / "here/camnet_data/set") == ["c/train/000.png"]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("miniImagenet", "run `python data/SetupDataset.py --data miniImagenet --sizes 16 32 64`"),
        ("tiny", "tinyImagenet is not prepared in"),
        ("sett", "did you mean set?"),
        ("no/such", "no/such is not a folder"),
    ],
)
def test_a_name_that_is_not_there(folder, tmp_path, capsys, monkeypatch, word, said):
    monkeypatch.setenv("DATA_HOME", str(tmp_path))
    assert main(["--folder", word]) == 6
    assert said in capsys.readouterr().err
