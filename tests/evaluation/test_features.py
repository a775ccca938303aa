"""The frozen context, extraction, files of features."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from evaluation.features import extract, fingerprint, frozen, load_features, save_features


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Flatten(), nn.Dropout(0.5))


def batches(sizes=(4, 4, 3)):
    g = torch.Generator().manual_seed(1)
    return [(torch.rand(n, 3, 6, 6, generator=g), torch.arange(n) % 3) for n in sizes]


def test_extract_is_a_loop_in_eval_mode():
    model = net()
    with frozen(model):
        h, y = extract(model, batches(), "cpu")
    model.eval()
    one = torch.cat([model(x[None]) for images, _ in batches() for x in images])
    torch.testing.assert_close(h, one)
    assert h.dtype == torch.float32 and h.shape == (11, 80) and not h.requires_grad
    assert torch.equal(y, torch.cat([labels for _, labels in batches()]))


def test_extract_makes_float32():
    h, y = extract(lambda x: x.flatten(1).bfloat16(), ((x, y.int()) for x, y in batches()))
    assert h.dtype == torch.float32 and y.dtype == torch.int64


@pytest.mark.parametrize(
    ("function", "data", "word"),
    [
        (lambda x: x, batches(), r"\[4, 3, 6, 6\] instead of floats \[4, d\]"),
        (lambda x: x.flatten(1)[1:], batches(), "4 images gave"),
        (lambda x: x.flatten(1).long(), batches(), "torch.int64"),
        (lambda x: x.flatten(1), [(torch.rand(4, 3), torch.zeros(3))], "4 images came with"),
        (lambda x: x, [], "no batch came"),
    ],
)
def test_extract_refuses(function, data, word):
    with pytest.raises(ValueError, match=word):
        extract(function, data)


def test_frozen_gives_modes_back():
    model = net()
    model[1].eval()
    with frozen(model):
        assert not any(m.training for m in model.modules())
        assert not torch.is_grad_enabled()
    assert [m.training for m in model] == [True, False, True, True] and model.training
    assert torch.is_grad_enabled()


def test_frozen_sees_statistics_of_batchnorm_change():
    model = net()
    with pytest.raises(RuntimeError, match="changed"), frozen(model):
        model[1].train()
        model(batches()[0][0])
        model[1].eval()


def test_frozen_sees_one_weight_change():
    model = net()
    with pytest.raises(RuntimeError, match="changed"), frozen(model):
        model[0].weight[0, 0, 0, 0] += 1e-6


def test_frozen_sees_train_mode():
    model = net()
    with pytest.raises(RuntimeError, match="3 is in train mode"), frozen(model):
        model[3].train()
    assert model[3].training and model.training  # as before


def test_frozen_sees_what_ignores_eval():
    class Stubborn(nn.Dropout):
        def train(self, mode: bool = True):
            return super().train(True)

    with pytest.raises(RuntimeError, match="in spite of eval"), frozen(nn.Sequential(Stubborn())):
        raise AssertionError("entered")


def test_an_error_from_inside_goes_first():
    model = net()
    with pytest.raises(KeyError), frozen(model):
        model[0].weight.zero_()
        raise KeyError("own")
    assert model.training


def test_fingerprint_sees_everything():
    model = net()
    seen = {fingerprint(model)}
    assert fingerprint(net()) in seen
    model.register_buffer("hidden", torch.zeros(3), persistent=False)
    for change in (
        lambda: None,
        lambda: model.hidden.add_(1),
        lambda: model[1].num_batches_tracked.add_(1),
        lambda: model[0].bias.data.neg_(),
        lambda: model.double(),
    ):
        change()
        seen.add(fingerprint(model))
    assert len(seen) == 6
    fingerprint(net().bfloat16())  # a type that NumPy lacks


def test_features_come_back(tmp_path):
    h, y = torch.randn(5, 3), torch.arange(5)
    facts = dict(layer="h", snapshot="ab12", dataset="cifar10 train")
    path = save_features(tmp_path / "a.safetensors", h.T.contiguous().T, y.int(), **facts)
    back = load_features(path)
    assert torch.equal(back.features, h) and torch.equal(back.labels, y)
    assert back[2:] == ("h", "ab12", "cifar10 train")
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_bad_files(tmp_path):
    from safetensors.torch import save_file

    facts = dict(layer="h", snapshot="ab12", dataset="x")
    path = save_features(tmp_path / "a.safetensors", torch.ones(5, 3), torch.arange(5), **facts)
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[-1] ^= 1
    bad = {
        "damaged": bytes(flipped),
        "cut": content[:-9],
        "empty": b"",
        "text": b"hello, this is no safetensors file",
    }
    for name, data in bad.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=f"features .*{name}: ") as error:
            load_features(tmp_path / name)
        assert "\n" not in str(error.value)
    save_file({"features": torch.ones(1, 1)}, tmp_path / "foreign")
    for name in ("foreign", "missing"):
        with pytest.raises(ValueError, match=f"features .*{name}: "):
            load_features(tmp_path / name)
    with pytest.raises(ValueError, match="layer=''"):
        save_features(path, torch.ones(5, 3), torch.arange(5), **(facts | {"layer": ""}))
    with pytest.raises(ValueError, match=r"labels \[4\]"):
        save_features(path, torch.ones(5, 3), torch.arange(4), **facts)
    assert path.read_bytes() == content
