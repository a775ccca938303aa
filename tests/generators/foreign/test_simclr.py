"""Encoders of lightly, solo-learn and the original SimCLR code, built here as their code does it:
the features of each are those of the network that its own code would have run."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from generators.foreign.contents import Asked
from generators.foreign.formats import identify
from recipes.simclr.encoder import Encoder
from recipes.simclr.files import open_encoder, read_encoder
from storage.errors import CheckpointError
from storage.snapshot import save_snapshot
from tests.models.test_original import original

LINEAR = dict(bias=False)


class Block(nn.Module):
    """lightly's own basic block: its shortcut is called so."""

    def __init__(self, a, b, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(a, b, 3, stride, 1, **LINEAR), nn.BatchNorm2d(b)
        self.conv2, self.bn2 = nn.Conv2d(b, b, 3, 1, 1, **LINEAR), nn.BatchNorm2d(b)
        self.shortcut = nn.Sequential()
        if stride != 1 or a != b:
            self.shortcut = nn.Sequential(nn.Conv2d(a, b, 1, stride, **LINEAR), nn.BatchNorm2d(b))

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.shortcut(x))


class LightlyResNet(nn.Module):
    """lightly's ResNet-18 for small pictures, as a Sequential of its children."""

    def __init__(self):
        super().__init__()
        layers, a = [], 64
        for b, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            layers.append(nn.Sequential(Block(a, b, stride), Block(b, b, 1)))
            a = b
        self.children_ = nn.Sequential(
            nn.Conv2d(3, 64, 3, 1, 1, **LINEAR), nn.BatchNorm2d(64), *layers
        )

    def forward(self, x):
        conv, norm, *layers = self.children_
        x = torch.relu(norm(conv(x)))
        for layer in layers:
            x = layer(x)
        return x.mean((2, 3))


def head(*layers):
    return nn.Sequential(*layers)


def normed(d, hidden, out):
    return head(
        nn.Linear(d, hidden, **LINEAR), nn.BatchNorm1d(hidden), nn.ReLU(),
        nn.Linear(hidden, out, **LINEAR), nn.BatchNorm1d(out),
    )  # fmt: skip


def plain(d, hidden, out):
    return head(nn.Linear(d, hidden), nn.ReLU(), nn.Linear(hidden, out))


def resnet(border=None):
    net = torchvision.models.resnet18(weights=None)
    net.fc = nn.Identity()
    if border is not None:
        net.conv1 = nn.Conv2d(3, 64, 3, 1, border, **LINEAR)
        net.maxpool = nn.Identity()
    return net


def shaken(net):
    """Statistics that are not those of the start, in evaluation mode."""
    for m in net.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(m.running_mean, 0, 0.1)
            nn.init.uniform_(m.running_var, 0.5, 2)
    return net.eval()


def names(prefix, module):
    return {f"{prefix}{name}": value for name, value in module.state_dict().items()}


def checkpoint(state, **more):
    return {"state_dict": state, "epoch": 4, "global_step": 50, "optimizer_states": [], **more}


def lightly_named():
    net, top = shaken(resnet()), shaken(normed(512, 512, 128))
    state = names("backbone.", net) | names("projection_head.layers.", top)
    state |= names("online_classifier.linear.", nn.Linear(512, 10))
    return net, top, checkpoint(state), ("lightly", "standard", "lightly")


def lightly_sequential():
    whole, top = shaken(resnet()), shaken(normed(512, 512, 128))
    body = nn.Sequential(*list(whole.children())[:-1])
    state = names("backbone.", body) | names("projection_head.layers.", top)
    return whole, top, checkpoint(state), ("lightly", "standard", "lightly")


def lightly_own():
    net, top = shaken(LightlyResNet()), shaken(plain(512, 512, 128))
    state = names("backbone.", net.children_) | names("projection_head.layers.", top)
    return net, top, checkpoint(state), ("lightly", "small", "solo")


def solo(prefix="backbone.", border=2):
    net, top = shaken(resnet(border)), shaken(plain(512, 2048, 256))
    state = names(prefix, net) | names("projector.", top)
    state |= names("classifier.", nn.Linear(512, 10))
    settings = {"dataset": "cifar10"} if border else {"data": {"dataset": "imagenet100"}}
    stem = "solo" if border else "standard"
    return net, top, checkpoint(state, hyper_parameters=settings), ("solo-learn", stem, "solo")


def solo_first():
    return solo("encoder.")


def solo_imagenet():
    return solo(border=None)


@pytest.mark.parametrize(
    "make",
    [lightly_named, lightly_sequential, lightly_own, solo, solo_first, solo_imagenet],
)
def test_features_are_the_originals(tmp_path, make):
    torch.manual_seed(0)
    net, top, value, (form, stem, kind) = make()
    file = tmp_path / "epoch=4-step=50.ckpt"
    torch.save(value, file)
    found = identify(file, Asked(res=(32,)))
    assert (found.format, found.kind) == (form, "simclr")
    config = found.config["net"]
    assert (config["stem"], config["head"], config["backbone"]) == (stem, kind, "resnet18")
    cifar = form == "solo-learn" and stem == "solo"
    assert found.config["recipe"]["mean"][0] == (0.4914 if cifar else 0.485)
    assert found.provenance["epoch"] == 4 and found.provenance["step"] == 50
    ours, _, _ = open_encoder(file)
    ours.eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        h = net(x)
        assert torch.allclose(ours.features(x), h, atol=1e-5)
        assert torch.allclose(ours(x), top(h), atol=1e-5)


def test_an_encoder_of_the_original_code_stays_what_it_was(tmp_path):
    model = original("resnet18", small=True)
    torch.save({"model": model.state_dict(), "last_epoch": 3}, tmp_path / "3.pt")
    snapshot = identify(tmp_path / "3.pt").snapshot(tmp_path / "3.pt")
    save_snapshot(tmp_path / "converted.safetensors", *snapshot)
    x = torch.rand(2, 3, 32, 32)
    for file in ("3.pt", "converted.safetensors"):
        encoder = Encoder.open(tmp_path / file)
        assert encoder.plain.mean is None and encoder.size == 32
        assert torch.allclose(encoder.net.features(x), model(x)[0], atol=1e-5)
    assert read_encoder(tmp_path / "3.pt").kind == "simclr"


def test_what_is_no_encoder_is_refused_in_a_line(tmp_path):
    _, _, value, _ = lightly_named()
    del value["state_dict"]["projection_head.layers.3.weight"]
    torch.save(value, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match="projection head of lightly's SimCLR"):
        open_encoder(tmp_path / "a.ckpt")
    _, _, value, _ = solo_first()
    value["state_dict"]["encoder.layer1.2.conv1.weight"] = torch.zeros(1)
    torch.save(value, tmp_path / "b.ckpt")
    with pytest.raises(CheckpointError, match=r"no ResNet-18, -34 or -50.*\[3, 2, 2, 2\]"):
        open_encoder(tmp_path / "b.ckpt")
