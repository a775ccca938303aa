"""Checkpoints of omnigan: what the weights of its generator say, by golden vectors' key lists."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from generators.door import open_generator
from generators.foreign.contents import Asked
from generators.foreign.formats import identify, import_network
from generators.foreign.omnigan import omnigan_arguments
from generators.omnigan import Omnigan
from models.omnigan import OmniGenerator, our_names


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
        ours = our_names(state)
        assert snapshot.state_dict.keys() == ours.keys() and len(ours) == len(state)
        assert all(torch.equal(v, ours[k]) for k, v in snapshot.state_dict.items())
        assert found.notes == ("left out: D, g_opt",)
    net = snapshot.config["net"]
    assert net["tasks"] == "adhs" and net["condition_on"] == "raw"
    assert net["encoder"] == {
        "input_dim": 3, "dim": 4, "n_downsample": 2, "n_res": 2, "norm": "spectral",
        "architecture": "munit",
    }  # fmt: skip
    assert net["s"] == {"n_res": 2, "n_upsample": 2, "output_dim": 19, "activation": "tanh"}
    assert net["a"]["output_dim"] == 3


@pytest.mark.parametrize("name", ["model", "later"])
def test_a_checkpoint_draws(name, tmp_path):
    """One of our own networks, written as the original would have: every name comes back."""
    torch.manual_seed(0)
    small = {"n_res": 1, "activation": "tanh"}
    net = OmniGenerator(
        "adst", encoder={"dim": 4, "n_downsample": 2, "n_res": 1}, a=small, d=small,
        s={**small, "output_dim": 5}, condition_on="raw",
    ).eval()  # fmt: skip
    state = {theirs(k, spring=name == "later"): v for k, v in net.state_dict().items()}
    state |= {f"decoders.t._model.{bit}": torch.zeros(2) for bit in ("f_bit", "n_bit")}
    torch.save({"epoch": 1, "step": 2, "G": state, "D": {}}, tmp_path / "a.pth")
    drawn = open_generator(tmp_path / "a.pth", say=lambda line: None)
    assert isinstance(drawn, Omnigan) and drawn.snapshot.config["net"]["t"]["spectral_norm"]
    x = torch.rand(1, 3, 16, 16)
    assert torch.equal(drawn.net(x), net(x))
    assert drawn.draw(1, inputs=x).shape == (1, 3, 16, 16)
    found = identify(tmp_path / "a.pth", Asked(res=(64,), config={"encoder": {"activ": "relu"}}))
    assert found.config["resolution"] == [64, 64]
    assert found.config["net"]["encoder"]["activ"] == "relu"
    assert found.config["net"]["encoder"]["dim"] == 4


def theirs(name: str, spring: bool) -> str:
    """A parameter of ours as the original calls it."""
    part = re.fullmatch(r"(.*)\.parametrizations\.weight\.(original|0\._u|0\._v)", name)
    of_spade = name.startswith("decoders.t.")
    if part is not None:
        ending = {"original": "weight_orig" if of_spade else "weight_bar"}.get(
            part[2], f"weight_{part[2][-1]}"
        )
        name = f"{part[1]}.{ending}" if of_spade else f"{part[1]}.module.{ending}"
    elif re.fullmatch(r"encoder\.model\.[012]\.conv\.bias", name):
        name = name.replace(".conv.bias", ".conv.module.bias")
    if spring:
        name = name.replace("encoder.model.0.", "encoder.conv2d_init.")
        name = re.sub(
            r"^encoder\.model\.([12])\.", lambda m: f"encoder.conv2d_{int(m[1]) - 1}.", name
        )
        name = name.replace("encoder.model.3.", "encoder.resblock.")
    return name.replace("decoders.t.shared.", "decoders.t._model.")


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
    assert told["tasks"] == "".join(sorted(said["tasks"]))
    for part in ("encoder", "a", "d", "h", "s", "w"):
        known = said["gen"][part]
        for name in told[part].keys() & known.keys() - {"norm"}:
            if part != "encoder" or name in ("input_dim", "dim", "n_downsample", "n_res"):
                assert told[part][name] == known[name], (part, name)
    translation, known = told["t"], said["gen"]["t"]
    assert translation["form"] == "spade" and translation["bits"] == "flood"
    for name, theirs_is in (
        ("kernel_size", "spade_kernel_size"), ("spectral_norm", "spade_use_spectral_norm"),
        ("n_upsample", "spade_n_up"),
    ):  # fmt: skip
        assert translation[name] == known[theirs_is], name
    # what the weights cannot show is said, and the network takes them
    encoder = {"norm": said["gen"]["encoder"]["norm"]}
    net = OmniGenerator(**{**told, "encoder": {**told["encoder"], **encoder}})
    net.load_state_dict(our_names(state))
