"""The layout of the original SimCLR code, rebuilt here: Sequential indices, each key twice."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from models import SimCLR, load_original, original_config
from storage.errors import CheckpointError
from storage.torchfile import load_foreign

BACKBONES = {"resnet18": 512, "resnet34": 512, "resnet50": 2048}


class Wrapped(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model


class Head(nn.Module):
    def __init__(self, d, hidden, out):
        super().__init__()
        self.fc1, self.bn1 = nn.Linear(d, hidden, bias=False), nn.BatchNorm1d(hidden)
        self.relu = nn.ReLU()
        self.fc2, self.bn2 = nn.Linear(hidden, out, bias=False), nn.BatchNorm1d(out)

    def forward(self, x):
        return self.bn2(self.fc2(self.relu(self.bn1(self.fc1(x)))))


class Headed(nn.Module):
    """Built the way the spec's facts say; not the original code."""

    def __init__(self, backbone, small, head=True, hidden=2048, out=128):
        super().__init__()
        net = getattr(torchvision.models, backbone)(weights=None)
        if small:
            net.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        dropped = ("fc", "maxpool") if small else ("fc",)
        body = nn.Sequential(*[m for n, m in net.named_children() if n not in dropped])
        inner = nn.Module()
        inner.backbone = Wrapped(body)
        if head:
            inner.projection = Wrapped(Head(BACKBONES[backbone], hidden, out))
        self.model, self.backbone = inner, inner.backbone
        if head:
            self.head = inner.projection

    def forward(self, x):
        h = self.backbone.model(x).flatten(1)
        return h, self.head.model(h)


def original(backbone="resnet18", small=True, **options):
    torch.manual_seed(0)
    model = Headed(backbone, small, **options)
    for m in model.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm):  # otherwise any mix-up would be equal
            nn.init.normal_(m.running_mean)
            nn.init.uniform_(m.running_var, 0.5, 2)
            nn.init.normal_(m.bias)
            nn.init.uniform_(m.weight, 0.5, 2)
    return model.eval()


@pytest.mark.parametrize(
    ("backbone", "small"),
    [("resnet18", True), ("resnet18", False), ("resnet34", True), ("resnet50", False)],
)
def test_old_weights_give_the_old_outputs(backbone, small):
    old = original(backbone, small, hidden=64, out=16)
    state = old.state_dict()
    config = original_config(state)
    assert config == {
        "backbone": backbone,
        "stem": "small" if small else "standard",
        "head": "original",
        "proj_hidden": 64,
        "proj_dim": 16,
    }
    model = SimCLR(**config).eval()
    model.load_state_dict(load_original(state), strict=True)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        h, z = old(x)
        assert torch.equal(model.features(x), h) and torch.equal(model(x), z)


def test_the_layout_is_the_one_of_the_spec():
    keys = original().state_dict().keys()
    assert len(keys) == 264  # 132 twice
    assert "model.backbone.model.3.0.conv1.weight" in keys and "head.model.bn2.bias" in keys
    assert "backbone.model.4.0.downsample.1.weight" in keys
    assert "backbone.model.7.0.conv1.weight" in original(small=False).state_dict()


def test_either_alias_alone_prefixes_and_a_headless_state():
    state = original().state_dict()
    want = load_original(state)
    outer = {k: v for k, v in state.items() if k.startswith(("backbone.", "head."))}
    inner = {k: v for k, v in state.items() if k.startswith("model.")}
    assert len(outer) == len(inner) == 132
    for form in (outer, inner, {"module." + k: v for k, v in state.items()}, {"model": state}):
        got = load_original(form)
        assert got.keys() == want.keys() and all(torch.equal(got[k], want[k]) for k in want)
    bare = original(head=False).state_dict()
    assert original_config(bare) == {"backbone": "resnet18", "stem": "small", "head": "none"}
    SimCLR(**original_config(bare)).load_state_dict(load_original(bare), strict=True)


def test_a_file_goes_through_the_restricted_reader(tmp_path):
    state = original(hidden=8, out=4).state_dict()
    torch.save({"model": state, "last_epoch": 3}, tmp_path / "3.pt")
    read = load_foreign(tmp_path / "3.pt")
    SimCLR(**original_config(read)).load_state_dict(load_original(read), strict=True)


class Touches:
    """A whole object in a pickle: what it would run, were it believed, is seen."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_pickled_object_is_refused_and_not_run(tmp_path):
    torch.save({"model": Touches(tmp_path / "ran"), "last_epoch": 3}, tmp_path / "3.pt")
    with pytest.raises(CheckpointError):
        load_foreign(tmp_path / "3.pt")
    assert not (tmp_path / "ran").exists()


def changed(state, **edits):
    return {**state, **{k: v for k, v in edits.items()}}


def test_what_does_not_fit_is_refused_in_one_line():
    state = dict(original().state_dict())
    wide = torch.zeros(64, 3, 7, 7)
    stems = ("model.backbone.model.0.weight", "backbone.model.0.weight")
    no_layer4 = {k: v for k, v in state.items() if ".model.6." not in k}
    cases = [
        (changed(state, **{stems[1]: state[stems[0]] + 1}), "copies"),
        (changed(state, **{k: wide for k in stems}), "first kernel"),
        (changed(state, **{"backbone.model.9.0.conv1.weight": wide}), "9.0.conv1"),
        (changed(state, **{"optimizer.weight": wide}), "optimizer.weight"),
        (changed(state, **{"head.model.fc1.bias": wide}), "fc1.bias"),
        ({k: v for k, v in state.items() if "fc2" not in k}, "fc2"),
        ({k: v for k, v in state.items() if k.startswith("head.")}, "backbone"),
        (no_layer4, "blocks"),
        ({"model": nn.Linear(1, 1)}, "Linear"),
        (changed(state, epoch=3), "epoch"),
        ({}, "backbone"),
        (nn.Linear(1, 1), "Linear"),
        (None, "NoneType"),
    ]
    for bad, word in cases:
        with pytest.raises(ValueError) as error:
            load_original(bad)
        assert word in str(error.value) and "\n" not in str(error.value), (word, error.value)
