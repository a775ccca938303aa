"""SimCLR's network: sizes of the spec's table, stems, heads, keys, export."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import torchvision
from torch import nn

from models import NTXent, SimCLR, export_torchvision, lars_groups, two_views
from models.norm import SyncBatchNorm, convert_sync_bn
from models.simclr import HEADS, build_backbone, parameter_counts
from runtime import distributed
from tests import gloo


@pytest.mark.parametrize(
    ("backbone", "stem", "body", "head", "total"),
    [
        ("resnet18", "small", 11_168_832, 1_315_072, 12_483_904),
        ("resnet18", "standard", 11_176_512, 1_315_072, 12_491_584),
        ("resnet50", "small", 23_500_352, 4_460_800, 27_961_152),
        ("resnet50", "standard", 23_508_032, 4_460_800, 27_968_832),
    ],
)
def test_sizes_of_the_original(backbone, stem, body, head, total):
    with torch.device("meta"):
        n = parameter_counts(SimCLR(backbone, stem=stem))
    assert (n["backbone"], n["projector"], n["total"]) == (body, head, total)
    assert n["trainable"] == total - 128  # the last BN's bias is frozen


def test_a_head_by_its_former_name_is_the_same():
    with torch.device("meta"):
        former, now = SimCLR(head="seed"), SimCLR(head="original")
    assert str(former) == str(now) and former.describe() == now.describe()
    assert former.config == now.config | {"head": "seed"}  # a run's files keep the word they had


@pytest.mark.parametrize(
    ("head", "backbone", "count", "frozen"),
    [
        ("original", "resnet18", 1_315_072, 128),
        ("paper", "resnet18", 328_960, 128),
        # d*d + 2d, twice, then d*128 + 2*128
        ("v2", "resnet18", 2 * (512 * 512 + 2 * 512) + 512 * 128 + 256, 128),
        ("lightly", "resnet18", 328_960, 0),
        ("lightly", "resnet50", 2048 * 2048 + 2 * 2048 + 2048 * 128 + 256, 0),
        ("solo", "resnet18", 1_575_168, 0),
        ("leftthomas", "resnet50", 1_115_264, 0),
        ("dkobak", "resnet18", 512 * 1024 + 1024 + 1024 * 128 + 128, 0),
        ("none", "resnet18", 0, 0),
    ],
)
def test_sizes_of_the_heads(head, backbone, count, frozen):
    with torch.device("meta"):
        model = SimCLR(backbone, head=head)
    n = parameter_counts(model)
    assert n["projector"] == count and n["total"] - n["trainable"] == frozen


def test_every_head_has_its_layers():
    d = 512
    layers = {
        head: [type(m).__name__.removesuffix("1d") for m in SimCLR(head=head).projector]
        for head in (*HEADS, "none")
    }
    two_bn = ["Linear", "BatchNorm", "ReLU", "Linear", "BatchNorm"]
    assert layers["original"] == layers["paper"] == layers["lightly"] == two_bn
    assert layers["v2"] == ["Linear", "BatchNorm", "ReLU", *two_bn]
    assert layers["solo"] == layers["dkobak"] == ["Linear", "ReLU", "Linear"]
    assert layers["leftthomas"] == two_bn[:-1] and layers["none"] == []
    wide = SimCLR(head="original", proj_hidden=64, proj_dim=7).projector
    assert (wide.fc1.weight.shape, wide.fc2.weight.shape) == ((64, d), (7, 64))
    assert wide.fc1.bias is None and not wide.bn2.bias.requires_grad and not wide.bn2.bias.any()
    assert wide.bn1.bias.requires_grad


def test_features_are_before_the_head():
    model = SimCLR(head="v2", proj_dim=16).eval()
    x = torch.randn(2, 3, 32, 32)
    h = model.features(x)
    assert h.shape == (2, 512) and model(x).shape == (2, 16)
    assert torch.equal(model.projector(h), model(x))
    kept = model.features(x, kept=True)
    p = model.projector
    assert torch.equal(kept, p.relu1(p.bn1(p.fc1(h)))) and kept.shape == (2, 512)
    bare = SimCLR(head="none").eval()
    assert torch.equal(bare(x), bare.features(x)) and bare.config["proj_dim"] == 512


@pytest.mark.parametrize(
    ("resolution", "stem"), [(32, "small"), (64, "small"), (65, "standard"), (224, "standard")]
)
def test_the_stem_follows_the_resolution_and_is_said(resolution, stem):
    model = SimCLR(resolution=resolution)
    assert model.config["stem"] == stem
    assert model.stem_said.startswith(f"stem {stem}") and f"{resolution} px" in model.stem_said
    assert model.stem_said in model.describe() and "\n" not in model.describe()
    net = model.backbone
    small = stem == "small"
    assert net.conv1.kernel_size == ((3, 3) if small else (7, 7))
    assert net.conv1.stride == ((1, 1) if small else (2, 2)) and net.conv1.bias is None
    assert isinstance(net.maxpool, nn.Identity if small else nn.MaxPool2d)
    asked = SimCLR(resolution=resolution, stem="standard")
    assert asked.stem_said == "stem standard (7x7 stride 2, max-pool)"
    assert asked.config["stem"] == "standard"


def test_maps_are_as_large_as_the_stem_leaves_them():
    sizes = {}
    for stem in ("small", "standard"):
        net = build_backbone("resnet18", stem).eval()
        net.layer1.register_forward_hook(lambda m, i, o, s=stem: sizes.update({s: o.shape[-1]}))
        net(torch.zeros(1, 3, 32, 32))
    assert sizes == {"small": 32, "standard": 8}


def test_config_rebuilds_and_keys_are_torchvisions():
    model = SimCLR("resnet34", resolution=96, head="solo", proj_dim=32, sync_bn=True)
    other = SimCLR(**model.config)
    other.load_state_dict(model.state_dict())
    assert other.config == model.config and other.config["stem"] == "standard"
    assert any(isinstance(m, SyncBatchNorm) for m in other.modules())
    plain = torchvision.models.resnet34(weights=None).state_dict()
    body = [k for k in model.state_dict() if k.startswith("backbone.")]
    assert body == ["backbone." + k for k in plain if not k.startswith("fc.")]
    assert {k.split(".")[0] for k in model.state_dict()} == {"backbone", "projector"}
    synced, alone = SimCLR(sync_bn=True).state_dict(), SimCLR().state_dict()
    assert list(synced) == list(alone)


@pytest.mark.parametrize(
    ("name", "stem"), [("resnet18", "small"), ("resnet34", "standard"), ("resnet50", "standard")]
)
def test_export_loads_strictly_into_torchvision(name, stem):
    model = SimCLR(name, stem=stem).eval()
    state = export_torchvision(model)
    net = getattr(torchvision.models, name)(weights=None)
    if stem == "small":
        assert state["conv1.weight"].shape == (64, 3, 3, 3)
        net.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        net.maxpool = nn.Identity()
    missing = net.load_state_dict(state, strict=False)
    assert missing.missing_keys == ["fc.weight", "fc.bias"] and not missing.unexpected_keys
    net.fc = nn.Identity()
    net.load_state_dict(state, strict=True)
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(net.eval()(x), model.features(x))
    state["conv1.weight"].zero_()
    assert model.backbone.conv1.weight.any()


def test_two_views_go_through_one_forward():
    torch.manual_seed(0)
    model = SimCLR(proj_dim=8, proj_hidden=16)
    a, b = torch.randn(3, 3, 16, 16), torch.randn(3, 3, 16, 16) + 1
    calls = []
    model.register_forward_pre_hook(lambda m, args: calls.append(len(args[0])))
    z0, z1 = two_views(model, a, b)
    assert calls == [6] and z0.shape == z1.shape == (3, 8)
    # Together the two views have BN's mean 0; each alone, told apart by its own mean, has not.
    assert torch.allclose(torch.cat([z0, z1]).mean(0), torch.zeros(8), atol=1e-5)
    assert z0.mean(0).abs().max() > 1e-2
    swapped = two_views(model, b, a)
    assert torch.allclose(swapped[0], z1, atol=1e-4) and torch.allclose(swapped[1], z0, atol=1e-4)


def test_bfloat16_channels_last_trains():
    model = SimCLR(proj_dim=8, proj_hidden=16).to(memory_format=torch.channels_last)
    x = torch.randn(4, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        z0, z1 = two_views(model, x[:2], x[2:])
    (z0.float() * z1.float()).sum().backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"backbone": "resnet101"}, "resnet101"),
        ({"stem": "tiny"}, "tiny"),
        ({"head": "lightning"}, "lightning"),
        ({"head": ["seed"]}, "seed"),
        ({"resolution": 0}, "resolution"),
        ({"resolution": 32.0}, "resolution"),
        ({"proj_dim": -1}, "proj_dim"),
        ({"proj_hidden": True}, "proj_hidden"),
        ({"head": "none", "proj_dim": 128}, "128"),
        ({"head": "none", "proj_hidden": 9}, "proj_hidden"),
    ],
)
def test_bad_arguments_are_one_line(options, word):
    with pytest.raises(ValueError) as error:
        SimCLR(**options)
    assert word in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(2, 3, 32, 32, dtype=torch.uint8),
        torch.zeros(2, 1, 32, 32),
        torch.zeros(3, 32, 32),
    ],
)
def test_bad_images_are_refused(x):
    model = SimCLR(proj_hidden=8).eval()
    with pytest.raises(ValueError, match="float images"):
        model(x)
    with pytest.raises(ValueError, match="keeps no layer"):
        model.features(torch.zeros(1, 3, 32, 32), kept=True)
    with pytest.raises(ValueError, match="differ in shape"):
        two_views(model, torch.zeros(1, 3, 8, 8), torch.zeros(2, 3, 8, 8))


def encoder(kind, dtype):
    torch.manual_seed(0)
    if kind == "resnet18":
        return SimCLR(proj_dim=16, proj_hidden=32, sync_bn=True).to(dtype)
    layers = [nn.Conv2d(3, 16, 3, 2, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    layers += [nn.Flatten(), nn.Linear(144, 16, bias=False), nn.BatchNorm1d(16)]
    if kind == "no BN":
        layers = [m for m in layers if not isinstance(m, nn.modules.batchnorm._BatchNorm)]
    return convert_sync_bn(nn.Sequential(*layers)).to(dtype)


def train_step(kind, dtype, n=8):
    """Loss, gradients, buffers of one SimCLR step on this rank's share of n images."""
    model = encoder(kind, dtype)
    g = torch.Generator().manual_seed(1)
    a = torch.randn(n, 3, 8, 8, generator=g)
    b = a + 0.5 * torch.randn(n, 3, 8, 8, generator=g)
    mine = gloo.shard(n)
    rows = slice(mine.start, mine.stop)
    loss = NTXent(0.5)(*two_views(model, a[rows].to(dtype), b[rows].to(dtype)))
    loss.backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    distributed.average_gradients(trained)
    return distributed.mean(loss), [p.grad for p in trained], list(model.buffers())


@pytest.mark.parametrize(
    ("kind", "dtype", "tolerance"),
    [
        ("resnet18", torch.float64, 1e-9),
        # Shallow in float32: a unit of ResNet-18 near 0 may round to the other side of its ReLU.
        ("one BN", torch.float32, 1e-6),
        ("no BN", torch.float32, 1e-6),
    ],
)
@pytest.mark.parametrize("world", [2, 4])
def test_a_step_of_several_ranks_is_that_of_one(kind, dtype, tolerance, world):
    ranks = gloo.run(world, train_step, kind, dtype, timeout=300.0)
    loss, grads, buffers = train_step(kind, torch.float64)
    size = max(g.abs().max() for g in grads)
    for got in ranks:
        assert abs(got[0] - loss) <= tolerance * loss
        for mine, want in zip(got[1], grads, strict=True):
            assert (mine.double() - want).abs().max() <= tolerance * size
        for mine, want in zip(got[2], buffers, strict=True):
            assert (mine.double() - want).abs().max() <= tolerance * want.abs().max()
    # The ranks stay one model: bit for bit.
    for first, other in zip(ranks[0][2], ranks[-1][2], strict=True):
        assert torch.equal(first, other)


def test_synchronised_norms_are_norms_to_lars():
    sizes = []
    for sync_bn in (False, True):
        with torch.device("meta"):
            groups = lars_groups(SimCLR(sync_bn=sync_bn, resolution=96))
        sizes.append([sum(p.numel() for p in group["params"]) for group in groups])
    assert sizes[0] == sizes[1] and len(sizes[0]) == 2


def test_importing_models_does_not_import_torchvision():
    code = "import sys, models; assert 'torchvision' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
