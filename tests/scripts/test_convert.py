"""convert.py: what a file is, bringing it in, and what the commands make of it either way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from recipes.convert.options import get_args
from storage.errors import CheckpointError, UsageError
from storage.find import identity
from storage.snapshot import load_snapshot, save_snapshot
from tests.diffusion.edm2_pickles import edm2_pickle, put_modules
from tests.generators import tiny
from tests.generators.foreign.test_camnet import original
from tests.generators.foreign.test_simclr import lightly_named, solo
from tests.generators.foreign.test_unet import unet
from tests.golden.support import Vectors
from tests.scripts.support import ROOT, load
from tests.scripts.support import get_args as get_args_of_script

CIMLE = ROOT / "tests/golden/vectors/foreign/cimle_checkpoint_a.pt"


def convert(*words: object) -> None:
    load("convert").main(get_args(None, [str(word) for word in words]))


def test_a_file_alone_says_what_it_is(tmp_path, capsys):
    before = sorted(tmp_path.iterdir())
    convert(CIMLE)
    said = capsys.readouterr().out
    for words in ("a checkpoint of the CIMLE refactoring", "camnet (a CAM-Net)", "21,398 in 78",
                  "generate_images.py --net", "res [8, 16]", "outer_loop 3"):  # fmt: skip
        assert words in said, words
    file = save_snapshot(tmp_path / "ours.safetensors", *tiny.snapshot())
    convert(file)
    assert "a snapshot of this toolkit" in capsys.readouterr().out
    torch.save({name: torch.zeros(size) for name, size in unet().items()}, tmp_path / "m.pt")
    convert(tmp_path / "m.pt")
    said = capsys.readouterr().out
    assert "generate_images.py --net" in said and "--config" in said
    assert sorted(tmp_path.iterdir()) == sorted([*before, file, tmp_path / "m.pt"])


def test_brought_in_beside_the_file_and_never_over_another(tmp_path, capsys):
    file = tmp_path / "3.pt"
    file.write_bytes(CIMLE.read_bytes())
    convert(file, "--to", "snapshot")
    made = tmp_path / "3.safetensors"
    assert f"wrote {made}" in capsys.readouterr().out
    snapshot, vectors = load_snapshot(made), Vectors(CIMLE.with_suffix(".npz"))
    assert snapshot.kind == "camnet" and len(snapshot.provenance["sha256"]) == 64
    assert snapshot.provenance["args"]["res"] == [8, 16]
    assert vectors["x"].shape[-1] == snapshot.config["net"]["res"][0]
    data = made.read_bytes()
    with pytest.raises(UsageError, match="exists already"):
        convert(file, "--to", "snapshot")
    with pytest.raises(UsageError, match="is FILE itself"):
        convert(file, "--to", "snapshot", "--out", file, "--overwrite")
    assert made.read_bytes() == data
    convert(file, "--to", "snapshot", "--overwrite")
    with pytest.raises(UsageError, match="--normalise: 3.pt is a checkpoint of the CIMLE"):
        convert(file, "--to", "snapshot", "--overwrite", "--normalise", "imagenet")
    with pytest.raises(UsageError, match="--task: 3.safetensors is a snapshot"):
        convert(made, "--task", "colorization")
    with pytest.raises(UsageError, match="ends in .safetensors, by which it is known"):
        convert(file, "--to", "snapshot", "--out", tmp_path / "x.png")  # nothing would take it
    convert(file, "--to", "snapshot", "--out", tmp_path / "there" / "x.safetensors")
    there = tmp_path / "there" / "x.safetensors"
    assert identity(there) == identity(made) and len(there.read_bytes()) == len(data)


def test_what_a_file_does_not_say_can_be_said(tmp_path, capsys):
    weights, _ = original(tmp_path, "super_resolution")
    torch.save(weights, tmp_path / "G.pth")
    out = tmp_path / "out.safetensors"
    convert(tmp_path / "G.pth", "--to", "snapshot", "--out", out, "--task", "decompression",
            "--res", 4, 8, 16, 16)  # fmt: skip
    net = load_snapshot(out).config["net"]
    assert (net["res"], net["feedback"], net["rgb_from"]) == ([4, 8, 16, 16], "none", "trunk")

    torch.save(lightly_named()[2], tmp_path / "l.ckpt")
    convert(tmp_path / "l.ckpt", "--to", "snapshot", "--out", out, "--overwrite", "--res", 96,
            "--normalise", "none")  # fmt: skip
    config = load_snapshot(out).config
    assert config["recipe"]["mean"] is None and config["recipe"]["size"] == 96
    assert "--normalise" not in capsys.readouterr().out.splitlines()[-1]

    state = {name: torch.randn(size) for name, size in unet(context=48).items()}
    named = {f"model.diffusion_model.{name}": value for name, value in state.items()}
    named |= {f"model_ema.diffusion_model{n.replace('.', '')}": v + 1 for n, v in state.items()}
    torch.save({"state_dict": named | {"model_ema.decay": torch.tensor(0.5)}}, tmp_path / "d.ckpt")
    (tmp_path / "said.json").write_text(json.dumps({"num_heads": 8}))
    convert(tmp_path / "d.ckpt", "--to", "snapshot", "--out", out, "--overwrite", "--weights",
            "last", "--config", tmp_path / "said.json")  # fmt: skip
    snapshot = load_snapshot(out)
    assert snapshot.config["net"]["num_heads"] == 8
    assert all(torch.equal(value, state[name]) for name, value in snapshot.state_dict.items())


def test_wrong_words_are_one_line(tmp_path, capsys):
    for words, message in (
        ([CIMLE, "--out", "x"], "--out x needs --to"),
        ([CIMLE, "--overwrite"], "--overwrite is of --to"),
        ([CIMLE, "--to", "jpeg"], "invalid choice"),
        ([CIMLE, "--config", tmp_path / "no.json"], "no JSON object"),
        ([CIMLE, "--res", "0"], "--res"),
        ([], "FILE"),
    ):
        with pytest.raises(SystemExit) as end:
            get_args(None, [str(word) for word in words])
        assert end.value.code == 2 and message in capsys.readouterr().err
    with pytest.raises(CheckpointError, match="no such file"):
        convert(tmp_path / "gone.pt")


def test_images_are_drawn_from_a_file_as_from_what_became_of_it(tmp_path, capsys):
    script, folders = load("generate_images"), []
    convert(CIMLE, "--to", "snapshot", "--out", tmp_path / "c.safetensors")
    for file, out in ((CIMLE, "a"), (tmp_path / "c.safetensors", "b")):
        words = ["--preset", "smoke", "--net", str(file), "--outdir", str(tmp_path / out)]
        script.main(get_args_of_script(script, words))
        folders.append(sorted((tmp_path / out).glob("0*_[0-9].png")))
    assert len(folders[0]) == 6
    for a, b in zip(*folders, strict=True):
        assert a.name == b.name and a.read_bytes() == b.read_bytes()


def test_an_average_is_made_of_pickles_converted_or_not(tmp_path, monkeypatch):
    """Numbers are kimg in NVIDIA's files, by their modules; a mix of both forms is one run."""
    put_modules(monkeypatch)
    for folder in ("pickles", "mixed"):
        (tmp_path / folder).mkdir()
        for k, (kimg, std) in enumerate([(1048, 0.05), (1048, 0.1), (2097, 0.05), (2097, 0.1)]):
            name = f"edm2-img64-s-{kimg:07d}-{std:.3f}.pkl"
            (tmp_path / folder / name).write_bytes(edm2_pickle(seed=k, scale=0.5))
    for name in ("edm2-img64-s-0001048-0.050", "edm2-img64-s-0002097-0.100"):
        file = tmp_path / "mixed" / f"{name}.pkl"
        convert(file, "--to", "snapshot")
        file.unlink()
    config = load_snapshot(tmp_path / "mixed" / "edm2-img64-s-0002097-0.100.safetensors").config
    assert config["nimg"] // 1000 == 2097 and config["step"] is None and config["ema_std"] == 0.1
    script = load("reconstruct_phema")
    for folder in ("pickles", "mixed"):
        words = ["--indir", str(tmp_path / folder), "--outdir", str(tmp_path / f"{folder}-out"),
                 "--outstd", "0.07"]  # fmt: skip
        script.main(get_args_of_script(script, words))
    a, b = (
        load_snapshot(tmp_path / f"{folder}-out" / "phema-0002097-0.070.safetensors").state_dict
        for folder in ("pickles", "mixed")
    )
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_encoders_of_others_are_taken_by_the_door_for_python(tmp_path):
    import imle_lab

    torch.manual_seed(0)
    net, _, value, _ = solo()
    torch.save(value, tmp_path / "s.ckpt")
    encoder = imle_lab.load_encoder(tmp_path / "s.ckpt")
    pictures = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        expected = net(encoder.prepare(pictures))
    assert torch.allclose(encoder(pictures), expected, atol=1e-5)
    with pytest.raises(CheckpointError, match="load_encoder is for it"):
        imle_lab.load_generator(tmp_path / "s.ckpt")


def test_a_run_is_found_and_goes_below_the_results(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RESULTS_HOME", str(tmp_path))
    run = tmp_path / "TrainGeneratorWandB" / "camnet-12345678"
    save_snapshot(run / "snapshots" / "network-latest.safetensors", *tiny.snapshot())
    convert("camnet-12345678", "--to", "snapshot")
    made = tmp_path / "convert" / "camnet-12345678-network-latest.safetensors"
    assert load_snapshot(made).kind == "camnet" and Path(made).is_file()
