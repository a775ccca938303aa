"""Networks by published name and by address: fetched once, compared afterwards, never another."""

import pytest
import torch

from data.prepare.digests import record_of
from data.prepare.networks import place
from data.prepare.published import PUBLISHED, ROOT, TOY_NET
from diffusion.original import convert
from generators.door import open_generator
from generators.published import locate
from storage.errors import CheckpointError, DataError, UsageError
from storage.snapshot import save_snapshot
from tests import gloo
from tests.diffusion.edm2_pickles import edm2_pickle, put_modules, toy_pickle
from tests.server import serving

NAME = "edm2-img512-xs-2147483-0.135"
AT = f"posthoc-reconstructions/{NAME}.pkl"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty models directory, and another to work in."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("MODELS_HOME", str(tmp_path / "models"))
    (tmp_path / "models").mkdir()
    put_modules(monkeypatch)
    return tmp_path / "models"


@pytest.fixture
def release(home, monkeypatch):
    """NVIDIA's release as this machine serves it, with two networks."""
    with serving(files={AT: edm2_pickle(1), TOY_NET: toy_pickle(2)}) as server:
        monkeypatch.setenv("IMLE_LAB_NETWORKS", f"{server.url}/")
        yield server


def test_a_published_name_is_fetched_once(release, home, capsys):
    net = open_generator(NAME)
    said = capsys.readouterr()
    file = home / "edm2" / f"{NAME}.pkl"
    assert net.kind == "edm2" and net.file == file and file.read_bytes() == release.files[AT]
    assert "CC BY-NC-SA 4.0" in said.err and "kB" in said.err and str(file) in said.err
    assert "is not pinned" in said.err and record_of(file).is_file()
    assert f"imported {NAME}.pkl" in said.out
    again = open_generator(f"{NAME}.pkl")
    assert len(release.hits) == 1 and again.content == net.content
    assert capsys.readouterr().err == ""
    assert torch.equal(net.draw(2, seed=3), again.draw(2, seed=3))


def test_a_file_that_changed_after_it_was_fetched(release, home):
    file = locate(NAME)
    file.write_bytes(edm2_pickle(5))
    with pytest.raises(DataError, match=r"is not what it was when it was fetched") as error:
        locate(NAME)
    assert str(file) in str(error.value)
    file.unlink()
    release.files[AT] = edm2_pickle(5)  # nor is another one taken from there
    with pytest.raises(DataError, match=r"expected sha256 .* of the first download"):
        locate(NAME)


def test_placed_by_hand_no_network_is_needed(home, capsys):
    with pytest.raises(DataError) as error:
        locate(NAME)
    assert error.value.exit_code == 6 and "\n" not in str(error.value)
    place = str(error.value).rpartition("Place the file at ")[2]
    with open(place, "wb") as file:
        file.write(edm2_pickle(1))
    capsys.readouterr()
    assert str(locate(NAME)) == place and capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "other",
    [
        "edm2-img512-xs-2147483-0.200.pkl",  # another EMA length
        "edm2-img512-xs-0134217-0.135.pkl",  # trained for less
        "edm2-img512-xs-uncond-2147483-0.135.pkl",
        "edm2-img512-s-2147483-0.135.pkl",
        f"{NAME}.pkl.part",
        f"x{NAME}.pkl",
        f"{NAME}.safetensors.pkl",
    ],
)
def test_no_other_file_is_taken(home, other):
    (home / "edm2").mkdir()
    for folder in (home, home / "edm2", home.parent / "work"):
        (folder / other).write_bytes(edm2_pickle(1))
    with pytest.raises(DataError, match=f"Place the file at .*{NAME}.pkl"):
        locate(NAME)


def test_a_snapshot_must_say_that_it_is_the_file(home):
    (home / "nvidia").mkdir()
    ours = home / "nvidia" / f"{NAME}.safetensors"
    (home / "nvidia" / f"{NAME}.pkl").write_bytes(edm2_pickle(1))
    assert convert(home / "nvidia" / f"{NAME}.pkl", say=str) == ours
    (home / "nvidia" / f"{NAME}.pkl").unlink()
    assert locate(NAME) == ours  # imported from the file of that name
    for origin in ({"run": "mine"}, {"imported": "x", "file": f"{NAME[:-3]}200.pkl"}):
        ours.unlink()
        save_snapshot(ours, {"w": torch.zeros(1)}, "edm2", {}, origin)
        with pytest.raises(UsageError, match=f"does not say that it was imported from {NAME}"):
            locate(NAME)
    (home / "nvidia" / f"{NAME}.pkl").write_bytes(edm2_pickle(1))
    with pytest.raises(UsageError, match="rename it"):
        locate(NAME)


def test_an_address(home, capsys):
    files = {"a/net.pkl": edm2_pickle(1), "b/net.pkl": edm2_pickle(2), "c.safetensors": b""}
    with serving(files=files) as server:
        one, two = (open_generator(f"{server.url}/{path}") for path in ("a/net.pkl", "b/net.pkl"))
        assert one.file != two.file and one.content != two.content
        assert "licence not known" in capsys.readouterr().err
        server.files["c.safetensors"] = convert(one.file, home / "c.safetensors").read_bytes()
        ours = open_generator(f"{server.url}/c.safetensors")
        assert torch.equal(ours.draw(1), one.draw(1))
        count = len(server.hits)
        assert locate(f"{server.url}/a/net.pkl") == one.file and len(server.hits) == count
        secret = f"http://me:word@{server.url[7:]}/a/net.pkl?key=sesame"
        capsys.readouterr()
        assert locate(secret) not in (one.file, two.file)
        assert server.keys[-1] == "Basic bWU6d29yZA=="  # me:word
        with pytest.raises(DataError, match="404") as error:
            locate(secret.replace("net.pkl", "nat.pkl"))
        said = str(error.value) + capsys.readouterr().err + "".join(map(str, home.rglob("*")))
        assert "word" not in said and "sesame" not in said


def test_the_release_s_addresses_are_the_published_files(release, home):
    assert locate(f"{ROOT}/{AT}") == locate(NAME) == home / "edm2" / f"{NAME}.pkl"
    assert locate(f"{ROOT}/{TOY_NET}") == home / "edm2" / TOY_NET
    assert [path for path, _ in release.hits] == [AT, TOY_NET]
    assert open_generator(f"{ROOT}/{TOY_NET}").kind == "edm2-toy"


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("none.pkl", "HTTP 404"),
        ("page.pkl", "got an HTML page"),
        ("empty.pkl", "empty file"),
        ("text.pkl", "not a usable EDM2 pickle"),
        ("other.pkl", "refused: global os.system"),
        ("half.pkl", "ended after 100 of"),
        ("text.safetensors", "damaged or foreign"),
    ],
)
def test_what_is_no_network_is_not_kept(home, path, says):
    files = {
        "page.pkl": b"<!DOCTYPE html><html>sign in</html>",
        "empty.pkl": b"",
        "text.pkl": b"hello",
        "other.pkl": b"cos\nsystem\n(S'true'\ntR.",
        "half.pkl": edm2_pickle(),
        "text.safetensors": b"hello",
    }
    with serving(files=files, cut={"half.pkl": 100}) as server:
        with pytest.raises(DataError, match=says) as error:
            open_generator(f"{server.url}/{path}")
    assert error.value.exit_code == 6 and "\n" not in str(error.value)
    assert "Place the file at" in str(error.value)
    assert not list(home.rglob("[!.]*.pkl*")) and not list(home.rglob("[!.]*.safetensors*"))


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("ftp://host/a.pkl", "begins with https"),
        ("file:///etc/a.pkl", "begins with https"),
        ("http:///a.pkl", "begins with https"),
        ("http://host:x/a.pkl", "[Pp]ort"),
        ("http://[::1/a.pkl", "IPv6"),
        ("https://host/", "ends in .pkl"),
        ("https://host/a.html", "ends in .pkl"),
        ("https://host/../../a.pkl", "no path"),
        (f"https://host/{'a' * 300}.pkl", "no path"),
    ],
)
def test_what_is_no_address_of_a_network(home, word, says):
    with pytest.raises(UsageError, match=says):
        open_generator(word)


def test_an_address_where_nobody_answers_is_a_line(home):
    with pytest.raises(DataError, match="Connection refused.*Place the file at"):
        open_generator("http://127.0.0.1:9/a.pkl")


def test_paths_are_looked_for_as_before(home):
    with pytest.raises(CheckpointError, match="--net nowhere: no such file"):
        locate("nowhere", option="--net")


def _everyone():
    try:
        return str(locate(NAME))
    except DataError as error:
        return f"DataError {error}"


def test_of_several_ranks_one_fetches(release, home):
    env = {"MODELS_HOME": str(home), "IMLE_LAB_NETWORKS": release.url}
    file = home / "edm2" / f"{NAME}.pkl"
    assert gloo.run(3, _everyone, env=env) == [str(file)] * 3
    assert len(release.hits) == 1
    file.unlink()
    record_of(file).unlink()
    del release.files[AT]
    first, *others = gloo.run(3, _everyone, env=env)
    assert "HTTP 404" in first and others == [first] * 2 and len(release.hits) == 2


def test_every_network_of_a_preset_has_a_place(home):
    names = {name for row in PUBLISHED for name in (row.net, row.gnet) if name}
    files = {place(name, home) for name in names}
    assert len(names) == len(files) == 51 and files == {home / "edm2" / f"{n}.pkl" for n in names}
