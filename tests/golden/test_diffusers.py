"""A UNet of guided-diffusion under diffusers' names computes what guided-diffusion computed.

Vectors: `<golden-dir>/ddpm/unet_*.npz`, made by running guided-diffusion; weights are float16.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffusion.unet_diffusers import to_diffusers
from tests.golden.support import Vectors

pytestmark = pytest.mark.golden


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    folder = metafunc.config.getoption("--golden-dir") / "ddpm"
    files = sorted(folder.glob("unet_*.npz"))
    metafunc.parametrize("path", files, ids=[file.stem for file in files])


def test_outputs_are_the_originals(path):
    diffusers = pytest.importorskip("diffusers")
    vectors = Vectors(path)
    state = {
        key.removeprefix("sd__"): torch.from_numpy(vectors.array(key).astype(np.float32))
        for key in vectors.keys("sd__*")
    }
    mapped = to_diffusers(state, vectors.json("config"))
    net = diffusers.UNet2DModel(**mapped.config).eval()
    net.load_state_dict(mapped.state)
    label = {"class_labels": vectors["y"]} if "y" in vectors else {}
    with torch.no_grad():
        out = net(vectors["x"], vectors["t"], **label).sample
    assert (out - vectors["out"]).abs().max() <= 2e-5
    # what the weights do not show decides: the other order of q, k and v is another network
    config = vectors.json("config")
    other = to_diffusers(
        state, config | {"use_new_attention_order": not config.get("use_new_attention_order")}
    )
    net.load_state_dict(other.state)
    with torch.no_grad():
        assert (net(vectors["x"], vectors["t"], **label).sample - out).abs().max() > 1e-3
