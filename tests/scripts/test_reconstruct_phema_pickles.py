"""reconstruct_phema of the files of NVIDIA's EDM2 and of Autoguided: pickles, converted or not."""

import shutil
import sys
import types

import numpy as np
import pytest
import torch

from diffusion.original import convert, counted, import_pickle
from recipes.phema.options import get_args
from storage.errors import CheckpointError, UsageError
from storage.snapshot import load_snapshot, save_snapshot
from tests.diffusion import edm2_pickles
from tests.diffusion.edm2_pickles import edm2_pickle, put_modules
from tests.scripts.support import load

SCRIPT = load("reconstruct_phema")
KIMG = (8388, 16777, 25165)  # every 8 Mi images, rounded down to thousands
STDS = (0.05, 0.10)
NAME = "edm2-img64-xs"


@pytest.fixture(autouse=True)
def _modules(monkeypatch):
    put_modules(monkeypatch)


@pytest.fixture(scope="module")
def pickles():
    """{(number of the snapshot, width): bytes}, made once."""
    with pytest.MonkeyPatch.context() as patch:
        put_modules(patch)
        return {(k, s): edm2_pickle(10 * k + int(100 * s)) for k in range(3) for s in STDS}


@pytest.fixture
def raw(tmp_path, pickles):
    """Raw snapshots as NVIDIA names them."""
    folder = tmp_path / "raw"
    folder.mkdir()
    for (k, std), data in pickles.items():
        (folder / f"{NAME}-{KIMG[k]:07d}-{std:.3f}.pkl").write_bytes(data)
    return folder


def reconstruct(*words):
    SCRIPT.main(get_args(None, [str(w) for w in words]))


def gamma(std):
    """The exponent of a width: the largest root of g^3 + 7 g^2 + (16 - w) g + 12 - w."""
    w = std**-2
    return np.roots([1, 7, 16 - w, 12 - w]).real.max()


def oracle(times, stds, out_time, out_std):
    """Coefficients by section 3.2 of arXiv:2312.02696, written anew: A X = B, columns to 1."""

    def dot(a, ga, b, gb):
        q = gb if a < b else -ga
        return (ga + 1) * (gb + 1) * (a / b) ** q / ((ga + gb + 1) * max(a, b))

    ins = [(t, gamma(s)) for t, s in zip(times, stds, strict=True)]
    a = np.array([[dot(*i, *j) for j in ins] for i in ins])
    b = np.array([dot(*i, out_time, gamma(out_std)) for i in ins])
    x = np.linalg.solve(a, b)
    return x / x.sum()


def assert_is_the_average(found, files, times, stds, out_time, std):
    weights = oracle(times, stds, out_time, std)
    states = [import_pickle(f).state_dict for f in files]
    for name, value in found.items():
        want = sum(w * s[name].double() for w, s in zip(weights, states, strict=True))
        if name.endswith(("freqs", "phases")):  # buffers are the last one's
            want = states[-1][name].double()
        assert value.dtype == torch.float32
        assert torch.allclose(value.double(), want, rtol=1e-5, atol=1e-5), name


def test_raw_pickles_of_the_release(raw, tmp_path, capsys):
    reconstruct("--indir", raw, "--outdir", tmp_path / "out", "--outstd", "0.07,0.10")
    said = capsys.readouterr().out
    assert "6 snapshots up to 25165824 images" in said and "passed over" not in said
    found = load_snapshot(tmp_path / "out" / "phema-0025165-0.070.safetensors")
    files = sorted(raw.iterdir())
    nimgs = [8 << 20, 8 << 20, 16 << 20, 16 << 20, 24 << 20, 24 << 20]
    assert_is_the_average(found.state_dict, files, nimgs, STDS * 3, 24 << 20, 0.07)
    assert (found.config["nimg"], found.config["step"]) == (24 << 20, None)
    assert found.config["ema_std"] == 0.07
    inputs = found.provenance["reconstructed"]["inputs"]
    assert [i["nimg"] for i in inputs] == nimgs
    exact = load_snapshot(tmp_path / "out" / "phema-0025165-0.100.safetensors").state_dict
    last = import_pickle(raw / f"{NAME}-0025165-0.100.pkl").state_dict
    assert all(torch.equal(exact[k], last[k]) for k in last)


def test_converted_and_not_are_the_same(raw, tmp_path):
    words = ["--indir", raw, "--outstd", "0.07", "--outkimg", 16777]
    reconstruct(*words, "--outdir", tmp_path / "a")
    files = sorted(raw.glob("*.pkl"))
    for n, file in enumerate(files[:3]):
        convert(file, say=lambda line: None)
        if n:
            file.unlink()
    older = files[0].with_suffix(".safetensors")  # as they were imported before
    state, kind, config, origin = load_snapshot(older)
    save_snapshot(older, state, kind, {**config, "nimg": None, "step": None}, origin)
    reconstruct(*words, "--outdir", tmp_path / "b")
    one, other = (
        load_snapshot(tmp_path / d / "phema-0016777-0.070.safetensors").state_dict for d in "ab"
    )
    assert all(torch.equal(one[k], other[k]) for k in one)


def test_widths_as_a_list_and_prefixes(raw, tmp_path, capsys):
    other = raw / "edm2-img64-xs-uncond-0008388-0.050.pkl"
    other.write_bytes(edm2_pickle(7, label_dim=0))
    words = ["--indir", raw, "--outdir", tmp_path / "out", "--outstd", "0.07"]
    with pytest.raises(CheckpointError, match="not of one run: their net differ"):
        reconstruct(*words)
    words += ["--inprefix", NAME]
    for widths, count in (("0.050", 3), ("0.050,0.100", 6), ("0.050 0.100", 6), (None, 6)):
        only = ["--instd", *widths.split()] if widths else []
        reconstruct(*words, *only, "--overwrite")
        assert f"{count} snapshots up to" in capsys.readouterr().out
    with pytest.raises(UsageError, match=r"of EMA width 0\.060 or 0\.090 in"):
        reconstruct(*words, "--instd", "0.060,0.090")
    with pytest.raises(SystemExit):
        get_args(None, ["--indir", "x", "--outstd", "0.1", "--instd", "0.05,...,0.1"])
    assert "--instd 0.05,...,0.1: `...` stands between" in capsys.readouterr().err


def test_numbers_of_autoguided_are_steps(tmp_path, pickles, monkeypatch, capsys):
    monkeypatch.setattr(
        edm2_pickles._reconstruct_persistent_obj, "__module__", "karras.torch_utils.persistence"
    )
    for name in ("karras", "karras.torch_utils", "karras.torch_utils.persistence"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    function = edm2_pickles._reconstruct_persistent_obj
    sys.modules["karras.torch_utils.persistence"]._reconstruct_persistent_obj = function
    for k, step in enumerate((0, 4096, 8192)):
        for std in STDS:
            file = tmp_path / f"network-snapshot-{step:07d}-{std:.3f}.pkl"
            file.write_bytes(edm2_pickle(10 * k + int(100 * std)))
    config = import_pickle(file).config
    assert (config["nimg"], config["step"], config["ema_std"]) == (None, 8192, 0.1)
    reconstruct("--indir", tmp_path, "--outstd", "0.07", "--out-epoch", 8192)
    assert "4 snapshots up to step 8192 (images not known)" in capsys.readouterr().out
    found = load_snapshot(tmp_path / "phema-0008192-0.070.safetensors")
    files = sorted(tmp_path.glob("network*"))[2:]
    times = [4096, 4096, 8192, 8192]
    assert_is_the_average(found.state_dict, files, times, STDS * 2, 8192, 0.07)
    with pytest.raises(UsageError, match="--outkimg 8: these files do not tell their images"):
        reconstruct("--indir", tmp_path, "--outstd", "0.07", "--outkimg", 8)
    shutil.copy(files[-1], tmp_path / "edm2-img64-xs-0008388-0.100.pkl")
    (tmp_path / "network-snapshot-0008388-0.050.pkl").write_bytes(pickles[1, 0.05])
    with pytest.raises(CheckpointError, match="images are known of one, steps of the other"):
        reconstruct("--indir", tmp_path, "--outstd", "0.07")


def test_what_numbers_in_names_count():
    assert counted("edm2-img512-xs-2147483-0.135", autoguided=False) == (2 << 30, None)
    assert counted("edm2-img512-xs-uncond-0134217-0.110", autoguided=False) == (128 << 20, None)
    assert counted("network-snapshot-0008388-0.050", autoguided=False) == (8 << 20, None)
    assert counted("network-snapshot-0020000-0.050", autoguided=True) == (None, 20000)
    assert counted("net-0.050", autoguided=False) == counted("x", autoguided=True) == (None, None)


def test_a_pickle_that_is_damaged_or_something_else(raw, tmp_path):
    file = raw / f"{NAME}-0025165-0.100.pkl"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="0025165-0.100.pkl: not a usable EDM2 pickle"):
        reconstruct("--indir", raw, "--outdir", tmp_path / "out", "--outstd", 0.2)
    file.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(CheckpointError, match=r"refused: global os.system in"):
        reconstruct("--indir", raw, "--outdir", tmp_path / "out", "--outstd", 0.2)
