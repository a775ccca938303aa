"""Networks whose weights are NaN or infinite: refused when they are read, whatever they are for."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from generators.autoencoder import open_autoencoder
from generators.classifier import open_classifier
from generators.files import open_network
from generators.toy import Toy
from models.ddpm.autoencoder import Autoencoder
from models.ddpm.classifier import Classifier
from recipes.initial import start
from recipes.omnigan import parts as omnigan
from recipes.toy import parts
from storage.errors import CheckpointError
from storage.snapshot import refuse_not_finite, save_snapshot


def harmed(path, value, name="weights"):
    net = parts.untrained(0, "cpu")
    state = net.state_dict()
    name = next(n for n, v in state.items() if v.is_floating_point() and v.numel() > 1)
    state[name].view(-1)[0] = value
    return save_snapshot(path, state, Toy.kind, {"net": net.config}, {}), name


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    file, name = harmed(tmp_path / "guide.safetensors", value)
    with pytest.raises(CheckpointError, match="its weights are not finite") as caught:
        open_network(file)
    assert name in str(caught.value) and str(file) in str(caught.value)
    assert caught.value.exit_code == 3


def start_with(file):
    run = SimpleNamespace(
        args=SimpleNamespace(results_path=None), resumed=False, dir=file.parent, facts={},
        say=lambda line: None,
    )  # fmt: skip
    net = nn.Sequential(nn.Linear(2, 2))
    start(run, net, str(file), "toy")


def ours(file, kind, net):
    return save_snapshot(file.with_suffix(".safetensors"), net.state_dict(), kind, {"net": {}}, {})


def plain(file, kind, net):
    torch.save(net.state_dict(), file)
    return file


# What is read beside the networks that draw, and how it lies in a file.
BESIDE = {
    "classifier": (
        lambda: Classifier(64, 3, 5, model_channels=64, num_res_blocks=1),
        lambda file: open_classifier(str(file), 3, 64, "cpu"),
        (ours, plain),
    ),
    "autoencoder": (
        lambda: Autoencoder(
            channels=32, channel_mult=(1, 2), num_res_blocks=1, z_channels=4, embed_dim=4
        ),
        open_autoencoder,
        (ours, plain),
    ),
    "--init_from": (lambda: nn.Sequential(nn.Linear(2, 2)), start_with, (plain,)),
    "omnigan": (
        lambda: nn.Linear(2, 2),
        lambda file: omnigan._take_weights(nn.Linear(2, 2), file),
        (ours,),
    ),
}
CASES = [(name, form) for name, case in BESIDE.items() for form in case[2]]


@pytest.mark.parametrize("name, form", CASES, ids=lambda v: v if isinstance(v, str) else v.__name__)
def test_what_is_read_beside_networks_is_refused_too(tmp_path, name, form):
    make, opens, _ = BESIDE[name]
    net = make()
    with torch.no_grad():
        next(p for p in net.parameters() if p.ndim > 1).view(-1)[1] = float("nan")
    file = form(tmp_path / "x.pt", name, net)
    with pytest.raises(CheckpointError, match="its weights are not finite") as caught:
        opens(file)
    assert str(file) in str(caught.value)


def test_weights_that_are_large_are_finite():
    """A sum of them overflows; none of them is infinite."""
    refuse_not_finite({"w": torch.full((10,), 3e38), "n": torch.tensor([2**62])}, "x")
