"""SetupDataset.py fetch-networks: NVIDIA's networks of a preset, and what else has a name."""

import pytest

from data.prepare.networks import place, roots
from data.prepare.published import PUBLISHED, ROOT
from data.SetupDataset import main
from storage.errors import UsageError
from tests.server import serving

PICKLE = b"\x80\x04N."


def test_the_list_needs_no_network(capsys):
    assert main(["fetch-networks"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(PUBLISHED) + 1 == 37
    assert "edm2-img512-s-autog-dino" in "\n".join(lines) and "with weight 2.45" in "\n".join(lines)


def test_both_networks_of_a_preset(tmp_path, monkeypatch, capsys):
    names = ("edm2-img512-s-2147483-0.120", "edm2-img512-xs-0134217-0.165")
    files = {f"posthoc-reconstructions/{name}.pkl": PICKLE for name in names}
    files["toy-example/clsA-layers04-dim64/iter4096.pkl"] = PICKLE
    files["toy-example/clsA-layers04-dim32/iter0512.pkl"] = PICKLE[:-1]
    command = ["fetch-networks", "edm2-img512-s-autog-dino", "--models_path", str(tmp_path)]
    with serving(files=files) as server:
        monkeypatch.setenv("IMLE_LAB_NETWORKS", f"http://127.0.0.1:9 {server.url}")
        assert main(command) == main(command) == 0
        assert [path.rpartition("/")[2] for path, _ in server.hits] == [f"{n}.pkl" for n in names]
        said = capsys.readouterr().err
        assert said.count("CC BY-NC-SA 4.0") == 2 and said.count("ready: ") == 4
        assert main(["fetch-networks", "toy", "--models_path", str(tmp_path)]) == 6
        assert "is no pickle, or one cut short" in capsys.readouterr().err
        assert (
            main(["fetch-networks", f"{server.url}/none.pkl", "--models_path", str(tmp_path)]) == 6
        )
    there = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("[!.]*.pkl"))
    assert there == [f"edm2/{n}.pkl" for n in names] + [
        "edm2/toy-example/clsA-layers04-dim64/iter4096.pkl"
    ]
    (tmp_path / "edm2" / f"{names[0]}.pkl").write_bytes(PICKLE * 2)
    assert main(command) == 6 and "not what it was" in capsys.readouterr().err


def test_a_name_that_there_is_not(capsys):
    assert main(["fetch-networks", "edm2-img512-s-autog-dono"]) == 2
    said = capsys.readouterr().err
    assert "did you mean edm2-img512-s-autog-dino" in said and said.count("\n") == 1


@pytest.mark.parametrize(("value", "want"), [("", [ROOT]), ("http://a/ http://b", 2)])
def test_roots(value, want, monkeypatch):
    monkeypatch.setenv("IMLE_LAB_NETWORKS", value)
    assert roots() == want if isinstance(want, list) else roots() == ["http://a", "http://b"]


@pytest.mark.parametrize(
    "address",
    ["http://../x.pkl", "http://./x.pkl", "http://h/%2e%2e/x.pkl", "http://h/a%2f..%2fx.pkl",
     f"{ROOT}/posthoc-reconstructions/../x.pkl"],
)  # fmt: skip
def test_no_address_leads_out_of_its_folder(address, tmp_path):
    with pytest.raises(UsageError, match="no path of a file"):
        place(address, tmp_path)
