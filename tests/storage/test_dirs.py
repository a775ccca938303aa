"""Where things live: environment, dirs.json, defaults."""

import json
import os
import socket
import subprocess
import sys
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


# ------------------------------------------------------------------------------ PyVDirs' dirs.json


def entry(folder: Path, **changed) -> dict[str, str]:
    """An entry as Autoguided's README prints it."""
    kinds = {f"{kind}_home": str(folder / kind) for kind in dirs.KINDS}
    return {"system_name": "LAB", "system_home": str(folder), **kinds, **changed}


@pytest.fixture
def here(home, monkeypatch):
    (home / "code").mkdir()
    monkeypatch.chdir(home / "code")
    monkeypatch.setattr(socket, "gethostname", lambda: "gpu03.cluster")
    return home / "code"


def pyvdirs(here: Path, hosts) -> Path:
    (here / "dirs.json").write_text(json.dumps(hosts))
    return here / "dirs.json"


@pytest.mark.parametrize("host", ["gpu03.cluster", "gpu03", "else", "*"])
def test_pyvdirs_form_is_read_from_the_working_directory(here, home, host):
    file = pyvdirs(here, {host: entry(home / "x"), "pc": entry(Path("C:\\work"))})
    assert dirs.dirs_file() == file
    assert dirs.data_home() == home / "x" / "data"
    assert dirs.models_home() == home / "x" / "models"
    assert dirs.results_home() == home / "x" / "results"
    assert not (home / ".config").exists() and (home / "x" / "data").is_dir()


def test_the_homes_are_attributes_too(here, home, monkeypatch):
    pyvdirs(here, {"gpu03": entry(home / "x")})
    assert dirs.DATA_HOME == home / "x" / "data"
    from storage.dirs import MODELS_HOME, RESULTS_HOME

    assert (MODELS_HOME, RESULTS_HOME) == (home / "x" / "models", home / "x" / "results")
    monkeypatch.setenv("DATA_HOME", str(home / "env"))  # the environment wins, at each look
    assert dirs.DATA_HOME == home / "env"
    for wrong in ("data_HOME", "CODE_HOME", "MODELS"):
        with pytest.raises(AttributeError, match=wrong):
            getattr(dirs, wrong)


def test_importing_makes_no_folder_and_no_file(here, home):
    code = "import storage.dirs, selection, storage.files"
    root = Path(__file__).resolve().parents[2]
    pyvdirs(here, {"pc": entry(home / "x")})
    before = (here / "dirs.json").read_bytes()
    subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(root)}, check=True)
    assert sorted(os.listdir(home)) == ["code"] and os.listdir(here) == ["dirs.json"]
    assert (here / "dirs.json").read_bytes() == before


@pytest.mark.parametrize("other", ["pc", "else"])
def test_a_new_host_gets_its_entry(here, home, other, capsys):
    file = pyvdirs(here, {other: entry(home / "x")})
    file.chmod(0o640)
    expected = home / "x" if other == "else" else home / "imle-lab"
    assert dirs.data_home() == expected / "data"
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    assert f"{file}: new entry for the host gpu03.cluster" in said.err
    hosts = json.loads(file.read_text())
    assert list(hosts) == [other, "gpu03.cluster"] and hosts[other] == entry(home / "x")
    new = {f"{kind}_home": str(expected / kind) for kind in dirs.KINDS}
    assert hosts["gpu03.cluster"] == {"system_name": "UKN", "system_home": str(here), **new}
    assert os.listdir(here) == ["dirs.json"] and file.stat().st_mode & 0o777 == 0o640
    before = file.read_bytes()
    assert dirs.results_home() == expected / "results" and file.read_bytes() == before
    assert capsys.readouterr().err == ""


def test_a_file_that_is_a_link_stays_one(here, home):
    (home / "shared.json").write_text(json.dumps({"pc": entry(home / "x")}))
    (here / "dirs.json").symlink_to("../shared.json")
    dirs.data_home()
    assert (here / "dirs.json").is_symlink()
    assert "gpu03.cluster" in json.loads((home / "shared.json").read_text())


@pytest.mark.parametrize("why", ["star", "own form", "read-only", "failed"])
def test_no_entry_where_none_is_wanted_or_allowed(here, home, why, capsys, monkeypatch):
    hosts = {"pc": entry(home / "x")}
    if why == "star":
        hosts["*"] = entry(home / "x")
    if why == "own form":
        hosts = {"pc": {"data": str(home / "x")}}
    file = pyvdirs(here, hosts)
    if why == "read-only":
        monkeypatch.setattr(os, "access", lambda path, mode: False)
    if why == "failed":
        monkeypatch.setenv("IMLE_LAB_FAILPOINT", "file-flushed=ENOSPC")
    before = file.read_bytes()
    assert dirs.data_home().is_dir()
    assert file.read_bytes() == before and os.listdir(here) == ["dirs.json"]
    assert capsys.readouterr().err == ""


def test_relative_paths_of_pyvdirs_are_from_its_file(here):
    pyvdirs(here, {"gpu03": {"data_home": "data", "models_home": "../m"}})
    assert dirs.data_home() == here / "data"
    assert dirs.models_home() == here.parent / "m"


def test_which_file_counts(here, home, monkeypatch):
    write(home, {"*": {"data": str(home / "user"), "models": str(home / "user")}})
    assert dirs.data_home() == home / "user"
    pyvdirs(here, {"gpu03": {"data_home": str(home / "x")}})
    assert dirs.data_home() == home / "x"
    assert dirs.models_home() == home / "imle-lab" / "models"  # one file counts, not both
    (home / "mine.json").write_text(json.dumps({"*": {"data": str(home / "mine")}}))
    monkeypatch.setenv("IMLE_LAB_DIRS", str(home / "mine.json"))
    assert dirs.data_home() == home / "mine"
    monkeypatch.setenv("DATA_HOME", str(home / "env"))
    assert dirs.data_home() == home / "env"


@pytest.mark.parametrize(
    ("hosts", "said"),
    [
        ({"gpu03": {"data_home": 3}}, "'data_home' of host 'gpu03' is not an absolute path: 3"),
        ({"gpu03": {"data_home": ""}}, "'data_home'"),
        ({"gpu03": {"data_hom": "/x"}}, "'data_hom'; known: data, models, results, or of PyVDirs"),
        ({"gpu03": {"data": "/x", "data_home": "/y"}}, "has 'data' and 'data_home': keep one"),
        ("{", "not JSON"),
        ("[" * 100000, "not JSON"),
    ],
)
def test_a_file_of_the_working_directory_that_is_wrong_is_one_line(here, hosts, said):
    file = here / "dirs.json"
    file.write_text(hosts if isinstance(hosts, str) else json.dumps(hosts))
    before = file.read_bytes()
    with pytest.raises(UsageError, match=said) as error:
        dirs.data_home()
    assert str(file) in str(error.value) and "\n" not in str(error.value)
    assert file.read_bytes() == before


def test_a_foreign_file_of_the_working_directory_says_why_it_was_taken(tmp_path, monkeypatch):
    for kind in dirs.KINDS:
        monkeypatch.delenv(f"{kind.upper()}_HOME", raising=False)
    monkeypatch.delenv("IMLE_LAB_DIRS", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dirs.json").write_text('{"paths": 1}')
    with pytest.raises(UsageError, match="working directory, IMLE_LAB_DIRS names another"):
        dirs.data_home()
    monkeypatch.setenv("IMLE_LAB_DIRS", str(tmp_path / "dirs.json"))
    with pytest.raises(UsageError, match="must be an object$"):
        dirs.data_home()
