"""Checkpoints of omnigan: what the weights of its generator say, by golden vectors' key lists."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from generators.door import UnknownKind, open_generator
from generators.foreign.formats import identify, import_network
from generators.foreign.omnigan import omnigan_arguments


def block(at: str, a: int, b: int, k: int, spectral: bool = False) -> dict[str, tuple[int, ...]]:
    name = f"{at}.conv.module.weight_bar" if spectral else f"{at}.conv.weight"
    return {name: (b, a, k, k)}


def generator(dim=4, downs=2, n_res=2, spectral=True, tasks="adhs") -> dict[str, tuple[int, ...]]:
    """Shapes of omnigan's generator, written from its description."""
    shapes, c = block("encoder.model.0", 3, dim, 7, spectral), dim
    for i in range(downs):
        shapes |= block(f"encoder.model.{1 + i}", c, 2 * c, 4, spectral)
        c *= 2
    for i in range(n_res):
        for j in (0, 1):
            shapes |= block(f"encoder.model.{1 + downs}.model.{i}.model.{j}", c, c, 3)
    for task in tasks:
        for domain in ("r.", "s.") if task == "a" else ("",):
            at, width = f"decoders.{task}.{domain}model", c
            for i in range(n_res):
                for j in (0, 1):
                    shapes |= block(f"{at}.0.model.{i}.model.{j}", width, width, 3)
            for i in range(downs):
                shapes |= block(f"{at}.{2 + 2 * i}", width, width // 2, 5)
                width //= 2
            shapes |= block(f"{at}.{1 + 2 * downs}", width, {"a": 3, "s": 19}.get(task, 1), 7)
    return shapes


def test_a_checkpoint(tmp_path):
    shapes = generator()
    state = {name: torch.randn(shape) for name, shape in shapes.items()}
    value = {"epoch": 3, "step": 120, "G": state, "g_opt": {}, "D": {"a.r": torch.zeros(1)}}
    for legacy in (False, True):  # those of 2020 are of the older format
        file = tmp_path / f"cpkt_epoch_3{legacy}.pth"
        torch.save(value, file, _use_new_zipfile_serialization=not legacy)
        snapshot, found = import_network(file)
        assert (found.format, found.kind, snapshot.config["step"]) == ("omnigan", "omnigan", 120)
        assert all(torch.equal(v, state[k]) for k, v in snapshot.state_dict.items())
        assert snapshot.state_dict.keys() == state.keys()
        assert found.notes == ("left out: D, g_opt",)
    net = snapshot.config["net"]
    assert net["tasks"] == ["a", "d", "h", "s"]
    assert net["encoder"] == {
        "input_dim": 3, "dim": 4, "n_downsample": 2, "n_res": 2, "norm": "spectral",
        "architecture": "base",
    }  # fmt: skip
    assert net["s"] == {"res_dim": 16, "n_res": 2, "n_upsample": 2, "output_dim": 19}
    assert net["a"]["domains"] == ["r", "s"] and net["a"]["output_dim"] == 3
    with pytest.raises(UnknownKind, match="an omnigan generator, which does not draw"):
        open_generator(file, say=lambda line: None)


def test_climategan_is_another_kind(tmp_path):
    state = {"encoder.backbone.conv1.weight": torch.zeros(2, 3, 3, 3)}
    state |= {"decoders.m.x": torch.zeros(1), "painter.fc.weight": torch.zeros(2, 3, 3, 3)}
    torch.save({"G": state, "epoch": 1, "step": 2}, tmp_path / "latest_ckpt.pth")
    found = identify(tmp_path / "latest_ckpt.pth")
    assert (found.format, found.kind) == ("climategan", "climategan")
    assert found.config["net"] == {"tasks": ["m", "p"], "parts": ["decoders", "encoder", "painter"]}


def test_the_golden_key_list(golden_dir: Path):
    file = golden_dir / "omnigan" / "train_step.npz"
    if not file.is_file():
        pytest.skip("no golden vectors of omnigan beside the tests: --golden-dir DIR")
    with np.load(file) as arrays:
        said = json.loads(str(arrays["meta"]))["opts"]
        state = {k[5:]: torch.from_numpy(arrays[k]) for k in arrays.files if k.startswith("G/sd/")}
    told = omnigan_arguments(state)
    assert told["tasks"] == sorted(said["tasks"])
    for part in ("encoder", "a", "d", "h", "s", "w"):
        known = said["gen"][part]
        for name in told[part].keys() & known.keys() - {"norm"}:
            if part != "encoder" or name in ("input_dim", "dim", "n_downsample", "n_res"):
                assert told[part][name] == known[name], (part, name)
    translation, known = told["t"], said["gen"]["t"]
    assert translation["use_bit_conditioning"] and translation["use_spade"]
    for name in ("spade_kernel_size", "spade_use_spectral_norm", "spade_n_up"):
        assert translation[name] == known[name], name
    assert translation["cond_nc"] == 2 + 1 + 1 + 3 + 1  # the bit, d, h, s, w
