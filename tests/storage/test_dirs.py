"""Where things live: environment, dirs.json, defaults."""

import json
import os
import socket
from pathlib import Path

import pytest

from storage import dirs
from storage.errors import UsageError


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    for name in ("DATA_HOME", "MODELS_HOME", "RESULTS_HOME", "IMLE_LAB_DIRS", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def write(home, content):
    file = home / ".config" / "imle-lab" / "dirs.json"
    file.parent.mkdir(parents=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def test_defaults_are_outside_the_repository_and_created(home):
    assert dirs.data_home() == home / "imle-lab" / "data"
    assert dirs.models_home() == home / "imle-lab" / "models"
    assert dirs.results_home() == home / "imle-lab" / "results"
    assert all((home / "imle-lab" / kind).is_dir() for kind in dirs.KINDS)


def test_dirs_json_is_created_and_then_obeyed(home):
    dirs.data_home()
    file = home / ".config" / "imle-lab" / "dirs.json"
    content = json.loads(file.read_text())
    assert set(content[socket.gethostname()]) == set(dirs.KINDS)
    content[socket.gethostname()]["data"] = str(home / "elsewhere")
    file.write_text(json.dumps(content))
    assert dirs.data_home() == home / "elsewhere"
    assert os.listdir(file.parent) == ["dirs.json"]


def test_the_environment_wins(home, monkeypatch):
    write(home, {socket.gethostname(): {"data": str(home / "file")}})
    monkeypatch.setenv("DATA_HOME", str(home / "env" / "deep"))
    assert dirs.data_home() == home / "env" / "deep"
    assert dirs.data_home().is_dir() and not (home / "file").exists()


def test_hosts_have_entries_of_their_own(home, monkeypatch):
    write(home, {"gpu03": {"data": str(home / "g")}, "*": {"data": "~/any", "models": "~/m"}})
    monkeypatch.setattr(socket, "gethostname", lambda: "gpu03.cluster")
    assert dirs.data_home() == home / "g"
    assert dirs.models_home() == home / "m"
    assert dirs.results_home() == home / "imle-lab" / "results"
    monkeypatch.setattr(socket, "gethostname", lambda: "laptop")
    assert dirs.data_home() == home / "any"


def test_where_the_file_lies(home, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "xdg"))
    assert dirs.dirs_file() == home / "xdg" / "imle-lab" / "dirs.json"
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    assert dirs.dirs_file() == home / ".config" / "imle-lab" / "dirs.json"
    monkeypatch.setenv("IMLE_LAB_DIRS", "~/mine.json")
    assert dirs.dirs_file() == home / "mine.json"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"a": ', "not JSON"),
        ("", "not JSON"),
        ("[]", "keyed by host"),
        ('{"a": 3}', "'a'"),
        ('{"a": {"date": "/x"}}', "'date'"),
        ('{"a": {"data": 3}}', "not an absolute path"),
        ('{"a": {"data": "here"}}', "'here'"),
    ],
)
def test_a_corrupt_file_is_an_error_and_stays(home, content, said):
    file = write(home, content)
    with pytest.raises(UsageError, match=said) as error:
        dirs.data_home()
    assert str(file) in str(error.value) and "\n" not in str(error.value)
    assert file.read_text() == content
    assert not (home / "imle-lab").exists()


def test_bytes_that_are_no_text_are_an_error(home):
    file = write(home, "")
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="cannot read"):
        dirs.data_home()


def test_a_folder_that_cannot_be_made_names_the_remedy(home, monkeypatch):
    (home / "file").write_text("")
    monkeypatch.setenv("DATA_HOME", str(home / "file" / "data"))
    with pytest.raises(UsageError, match=r"DATA_HOME.*folder you may write"):
        dirs.data_home()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_parent(home, monkeypatch):
    (home / "ro").mkdir(mode=0o500)
    monkeypatch.setenv("RESULTS_HOME", str(home / "ro" / "results"))
    with pytest.raises(UsageError, match="Permission denied"):
        dirs.results_home()


def test_a_read_only_config_folder_does_no_harm(home, monkeypatch):
    monkeypatch.setattr(dirs, "write_new", lambda *a, **k: (_ for _ in ()).throw(OSError(30, "ro")))
    assert dirs.data_home() == home / "imle-lab" / "data"
    assert not dirs.dirs_file().exists()


# ------------------------------------------------------------------------------ what --outdir means


@pytest.mark.parametrize(
    ("word", "where"),
    [
        ("a", "results/script/a"),
        ("a/b", "results/script/a/b"),
        (".hidden", "results/script/.hidden"),
        ("./a", "here/a"),
        (".", "here"),
        ("../a", "a"),
        ("~/a", "home/a"),
    ],
)
def test_an_output_folder_lies_in_the_scripts_results_unless_it_says_where(
    word, where, tmp_path, monkeypatch
):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RESULTS_HOME", str(tmp_path / "results"))
    said: list[str] = []
    found = dirs.output_folder(word, "script", say=said.append)
    assert found.absolute().resolve() == tmp_path / where and said == []
    other = dirs.output_folder(word, "script", tmp_path / "other", say=said.append)
    assert (other != found) == where.startswith("results")
    whole = str(tmp_path / "x")
    assert str(dirs.output_folder(whole, "script")) == whole


def test_a_folder_of_that_name_here_is_told_of_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RESULTS_HOME", str(tmp_path / "results"))
    (tmp_path / "out").mkdir()
    said: list[str] = []
    found = dirs.output_folder("out", "script", say=said.append)
    assert len(said) == 1 and str(found) in said[0] and said[0].endswith("./out")
    found.mkdir(parents=True)
    assert dirs.output_folder("out", "script", say=said.append) == found and len(said) == 1


def test_what_was_written_is_found_here_first_and_then_in_the_results(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RESULTS_HOME", str(tmp_path / "results"))
    assert dirs.find_output("views", "script") == Path("views")  # nowhere: as it is
    below = dirs.output_folder("views", "script")
    below.mkdir(parents=True)
    assert dirs.find_output("views", "script") == below
    (tmp_path / "views").mkdir()
    assert dirs.find_output("views", "script") == Path("views")
