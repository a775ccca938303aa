"""Options of the data commands that no other test shows the effect of."""

import pytest
import torch

from data import SetupDataset
from data.scenes.sheet import main as scenes
from tests.data.test_dataset_tool import FakeVae, StabilityVAEEncoder, run
from tests.effects import pictures, pixels


@pytest.fixture(scope="module")
def sheets(tmp_path_factory):
    """Words -> the sheet of scenes that they make, as size and digest."""
    home, known = tmp_path_factory.mktemp("sheets"), {}

    def sheet(words):
        if words not in known:
            out = home / f"{len(known)}.png"
            scenes(["--size", "16", *words.split(), "--out", str(out)])
            known[words] = pixels(out)
        return known[words]

    return sheet


@pytest.mark.parametrize(
    "words",
    ["--size 24", "--count 8", "--count 8 --first 3", "--seed 1", "--split val", "--style sim"],
)
def test_an_option_changes_the_sheet_of_scenes(words, sheets):
    assert sheets(words.removesuffix(" --first 3") if "--first" in words else "") != sheets(words)


def test_the_first_scene_is_of_a_plain_sheet(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        scenes(["--first", "3", "--out", str(tmp_path / "a.png")])
    assert "--first 3 is of --count" in capsys.readouterr().err


def test_the_networks_that_are_named_are_fetched(monkeypatch):
    """--nets of fetch-weights."""
    fetched = []
    monkeypatch.setattr(SetupDataset, "_fetch_weights", lambda nets, *more: fetched.append(nets))
    SetupDataset.main(["fetch-weights"])
    SetupDataset.main(["fetch-weights", "--nets", "alex", "vgg"])
    assert fetched == [["vgg"], ["alex", "vgg"]]


@pytest.fixture
def prepared(tmp_path):
    """Words -> the folder of 16 px that SetupDataset.py makes of four pictures of 20 x 30."""
    pictures(tmp_path / "source" / "a", 4)
    made = iter(range(9))

    def prepare(*words):
        home = tmp_path / f"home{next(made)}"
        common = ["--data", "mine", "--sizes", "16", "--num_workers", "0", "--data_path", home]
        assert SetupDataset.main([str(w) for w in (*common, *words)]) == 0
        return home / "mine_16x16"

    return prepare


def files(folder):
    return {
        str(p.relative_to(folder)): pixels(p) for p in folder.rglob("*.*") if p.suffix != ".json"
    }


def test_pictures_are_cropped_and_written_as_they_should(prepared, tmp_path):
    """--source, --use_existing, --crop, --format."""
    source = tmp_path / "source"
    plain = files(prepared("--source", source))
    assert plain == files(prepared("--use_existing", source))
    central = files(prepared("--source", source, "--crop", "center"))
    assert central.keys() == plain.keys() and all(central[k] != plain[k] for k in plain)
    (source / "a" / "00.png").rename(source / "a" / "00.jpg")
    kept = files(prepared("--source", source, "--format", "keep"))
    assert {name.rsplit(".", 1)[1] for name in kept} == {"jpg", "png"} and len(kept) == 4
    assert {name.rsplit(".", 1)[1] for name in plain} == {"png"}


def test_weights_are_fetched_too(prepared, tmp_path, monkeypatch):
    """--fetch-weights."""
    fetched = []
    monkeypatch.setattr(SetupDataset, "_fetch_weights", lambda *args: fetched.append(args))
    prepared("--source", tmp_path / "source")
    assert not fetched
    prepared("--source", tmp_path / "source", "--fetch-weights")
    assert len(fetched) == 1


def test_so_many_pictures_are_encoded_at_once(tmp_path, monkeypatch):
    """--batch, --gpus of dataset_tool.py encode and decode."""
    sizes, places = [], []

    class Noting(FakeVae):
        def encode(self, x):
            sizes.append(len(x))
            return super().encode(x)

        def decode(self, z):
            sizes.append(len(z))
            return super().decode(z)

    def load(self, device):
        places.append(torch.device(device).type)
        return Noting()

    monkeypatch.setattr(StabilityVAEEncoder, "_load", load)
    pictures(tmp_path / "source", 7, size=(16, 16))
    a, b, c = (tmp_path / name for name in ("a.zip", "b.zip", "c.zip"))
    run("convert", "--source", tmp_path / "source", "--dest", a)
    run("encode", "--source", a, "--dest", b, "--batch", 3, "--gpus", "cpu")
    run("decode", "--source", b, "--dest", c, "--batch", 4, "--gpus", "cpu")
    assert sizes == [3, 3, 1, 4, 3] and set(places) == {"cpu"}
