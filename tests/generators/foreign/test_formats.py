"""Whose file it is, by what is in it; and what wants to run something is never read."""

from __future__ import annotations

import functools
import io
import os
import pickle
import zipfile

import pytest
import torch

from diffusion.edm2 import Block, Precond, UNet
from diffusion.mp import MPConv, MPFourier
from generators.door import UnknownKind, open_generator
from generators.files import open_network
from generators.foreign.formats import identify
from recipes.initial import read_weights
from storage.errors import CheckpointError
from storage.foreign.saved import LEGACY_START
from tests.diffusion.edm2_pickles import TINY, dumps, put_modules, snapshot_dict


class Runs:
    """Unpickled, it would make a file."""

    def __init__(self, *what):
        self.what = what

    def __reduce__(self):
        return self.what


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize("name", ["system", "eval", "getattr", "partial"])
def test_what_would_run_is_refused_and_does_not(tmp_path, form, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bad = {
        "system": Runs(os.system, ("touch ran",)),
        "eval": Runs(eval, ("open('ran', 'w')",)),
        "getattr": Runs(getattr, ("x", "upper")),
        "partial": functools.partial(os.system, "touch ran"),
    }[name]
    value = {"levels.0.mapping_net.model.0.weight": torch.zeros(2, 2), "args": bad}
    file = tmp_path / "x.pt"
    if form == "pickle":
        file = tmp_path / "x.pkl"
        file.write_bytes(pickle.dumps({"ema": bad}))
    else:
        torch.save(value, file, _use_new_zipfile_serialization=form == "zip")
    for read in (identify, lambda f: open_network(f, print), read_weights, open_generator):
        with pytest.raises(CheckpointError, match="refused: global"):
            read(file)
    assert not (tmp_path / "ran").exists()


def test_files_that_are_none(tmp_path):
    (tmp_path / "text.pt").write_text("no weights")
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "cut.pt").write_bytes(LEGACY_START + b"\x80\x02")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pt")
    with zipfile.ZipFile(tmp_path / "zip.ckpt", "w") as archive:
        archive.writestr("a/b.txt", "x")
    for name, message in (
        ("text.pt", "no weights in a form"), ("empty.pth", "no weights in a form"),
        ("cut.pt", "cut.pt"), ("zip.ckpt", "not a file of torch.save"), ("gone.pt", "no such file"),
        ("list.pt", "no network of a format"), ("other.pt", "no network of a format"),
    ):  # fmt: skip
        with pytest.raises(CheckpointError, match=message) as error:
            open_network(tmp_path / name)
        assert "\n" not in str(error.value) and name in str(error.value)
    with pytest.raises(CheckpointError):
        open_network(tmp_path)  # a folder


def test_lying_files_of_the_older_format(tmp_path):
    """Storages that claim more than the file has, or that are not there, take no memory."""
    out = io.BytesIO()
    torch.save({"a": torch.zeros(4)}, out, _use_new_zipfile_serialization=False)
    good = out.getvalue()
    count = good.rindex((4).to_bytes(8, "little"))
    for bad in (
        good[:count] + (5).to_bytes(8, "little") + good[count + 8 :],
        good[:-1],
        good[:count],
        good.replace(b"K\x04", b"K\x7f"),
    ):
        (tmp_path / "x.pth").write_bytes(bad)
        with pytest.raises(CheckpointError):
            identify(tmp_path / "x.pth")


def test_pickles_of_edm_are_told_from_those_of_edm2(tmp_path, monkeypatch):
    put_modules(monkeypatch)
    torch.manual_seed(0)
    classes = (Precond, UNet, Block, MPConv, MPFourier)
    file = tmp_path / "edm2-img64-s-1073741-0.075.pkl"
    file.write_bytes(dumps(snapshot_dict(Precond(**TINY), TINY), classes=classes))
    found = identify(file)
    assert (found.format, found.kind, found.config["ema_std"]) == ("edm2", "edm2", 0.075)
    assert found.config["nimg"] // 1000 == 1073741 and found.config["step"] is None

    class EDMPrecond(Precond):
        """EDM's class of that name has other parts, which does not matter here."""

    said = {**TINY, "model_type": "SongUNet", "sigma_min": 0.0}
    net = EDMPrecond(**TINY)
    data = dumps(snapshot_dict(net, said), classes=(EDMPrecond, *classes))
    (tmp_path / "edm.pkl").write_bytes(data)
    snapshot = open_network(tmp_path / "edm.pkl", lambda line: None)
    assert snapshot.kind == "edm" and snapshot.config["net"]["model_type"] == "SongUNet"
    assert snapshot.config["net"]["channel_mult"] == [1, 2]
    assert snapshot.state_dict.keys() == net.state_dict().keys()
    with pytest.raises(UnknownKind, match="a network of EDM, which does not draw"):
        open_generator(tmp_path / "edm.pkl", say=lambda line: None)
