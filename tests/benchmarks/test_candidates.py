"""How candidates are shared among levels: what the benchmark searches with, and what it refuses."""

import pytest
import torch

from benchmarks import candidates
from imle import CAMNet, Corruption
from imle.search import search
from storage.snapshot import save_snapshot


def kept(folder, kind="camnet"):
    """The file of a tiny network for masked grey inputs, and how these are made."""
    corruption = {"grayscale": 1, "mask_res": 4, "mask_frac": 0.25, "fill": "zero"}
    net = CAMNet([8, 16], resid_nc=[6], dense_nc=[4], n_blocks=1, map_nc=4, latent_nc=8)
    config = {"net": net.config, "codes": {}, "corruption": corruption, "crop": "squash"}
    save_snapshot(folder / "net.safetensors", net.state_dict(), kind, config, {})
    return str(folder / "net.safetensors"), Corruption(**corruption)


def test_a_network_is_shown_what_it_was_trained_to_see(tmp_path, monkeypatch, capsys):
    file, corruption = kept(tmp_path)
    seen = []

    def searched(model, loss, z, cx, *more, **options):
        seen.append(cx)
        return search(model, loss, z, cx, *more, **options)

    monkeypatch.setattr(candidates, "search", searched)
    words = "--data scenes --images 2 --loops 1 --repeats 1 --device cpu --ns 1"
    candidates.main(["--snapshot", file, *words.split()])
    x, _ = candidates._pictures("scenes", [8, 16], 2, torch.device("cpu"))
    expected = corruption.keyed(x, 0, torch.arange(2))
    assert seen and all(torch.equal(cx, expected) for cx in seen)
    assert capsys.readouterr().out.splitlines()[-1].startswith("| `1` | 1 |")


def test_what_cannot_be_searched_is_one_line(tmp_path, capsys):
    file, _ = kept(tmp_path, "imle-unconditional")
    for words, said in (
        (["--snapshot", file], "a CAM-Net is needed, not of imle-unconditional"),
        (["--ns", "2 2"], "--ns: lists of 3 numbers are needed"),
    ):
        with pytest.raises(SystemExit, match="2"):
            candidates.main([*words, "--device", "cpu"])
        assert said in capsys.readouterr().err
