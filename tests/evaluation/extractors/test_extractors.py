"""Extractors against the networks and resizers of others, and what they refuse."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from evaluation.extractors import Request, open_extractor, resizing
from evaluation.extractors.dinov2 import DINOv2
from evaluation.extractors.inception import InceptionV3
from storage.errors import CheckpointError, UsageError


def pictures(count, side=20):
    generator = torch.Generator().manual_seed(side)
    size = (count, 3, side, side + 6)
    return list(torch.randint(0, 256, size, generator=generator, dtype=torch.uint8))


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory):
    """Random weights in the layout of the published file, with lively statistics."""
    torch.manual_seed(0)
    net = InceptionV3()
    for name, value in net.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.2, 0.7)
        if name.endswith("running_mean"):
            value.normal_(0, 0.1)
    path = tmp_path_factory.mktemp("weights") / "pt_inception.pth"
    torch.save(net.state_dict(), path)
    return path


def test_inception_is_torch_fidelitys(inception_file):
    fidelity = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    other = fidelity.FeatureExtractorInceptionV3(
        "fid", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(inception_file)
    )
    ours = open_extractor("inception", Request(weights=inception_file, resize="tf1"))
    images = pictures(2)
    found = ours(images)
    with torch.no_grad():
        features, logits = other(torch.stack(images))
    for one, two in ((found.features, features), (found.logits, logits)):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-6 * two.abs().max().item())
    assert ours.about["resize"] == "tf1" and len(ours.about["sha256"]) == 64


def test_features_do_not_depend_on_the_batch(tmp_path):
    """Batches of 1, 7 and 64, the last one filled up; pictures of two sizes among them."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 5, 2), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.Flatten())
    torch.jit.trace(net, torch.zeros(1, 3, 16, 16)).save(tmp_path / "net.pt")
    own = open_extractor(f"file:{tmp_path}/net.pt,side=16,input=unit")
    images = pictures(45) + pictures(25, side=11)
    whole = own(images, batch=1).features
    for batch in (7, 64):
        found = torch.cat([own(images[i : i + 30], batch).features for i in range(0, 70, 30)])
        torch.testing.assert_close(found, whole, rtol=0, atol=1e-6 * whole.abs().max().item())
    alone = own([images[50]]).features[0]
    torch.testing.assert_close(whole[50], alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [7, 64])
def test_clean_is_pillows_kernel_on_floats(size):
    image = pictures(1, side=30)[0]
    wanted = [
        np.asarray(
            Image.fromarray(channel.numpy().astype(np.float32), mode="F").resize(
                (size, size), Image.Resampling.BICUBIC
            )
        ).clip(0, 255)
        for channel in image
    ]
    found = resizing.clean(image[None], size)[0]
    np.testing.assert_allclose(found, np.stack(wanted), atol=2e-3)


@pytest.mark.parametrize("size", [7, 64])
def test_tf1_is_bilinear_at_i_in_over_out(size):
    fidelity = pytest.importorskip("torch_fidelity.interpolate_compat_tensorflow")
    images = torch.stack(pictures(2))
    wanted = fidelity.interpolate_bilinear_2d_like_tensorflow1x(
        images.float(), size=(size, size), align_corners=False
    )
    torch.testing.assert_close(resizing.tf1(images, size), wanted, rtol=0, atol=2e-4)


def lively(net):
    torch.manual_seed(1)
    state = {k: torch.randn_like(v) * 0.2 + k.endswith("norm.weight") for k, v in
             net.state_dict().items()}  # fmt: skip
    net.load_state_dict(state)
    return state


def test_dinov2_is_timms():
    timm = pytest.importorskip("timm.models.vision_transformer")
    other = timm.VisionTransformer(
        img_size=56, patch_size=14, embed_dim=32, depth=2, num_heads=2, init_values=0.1,
        num_classes=0,
    ).eval()  # fmt: skip
    own = DINOv2(32, 2, 2, trained_at=56)
    state = lively(own)
    assert state.pop("mask_token").shape == (1, 32)  # of the training alone
    other.load_state_dict(state)
    x = torch.randn(2, 3, 56, 56)
    with torch.no_grad():
        torch.testing.assert_close(own(x), other(x), rtol=1e-5, atol=1e-5)
    names = set(DINOv2(768, 1, 12).state_dict())
    assert {"blocks.0.attn.qkv.weight", "blocks.0.ls1.gamma", "patch_embed.proj.bias"} <= names


def test_positions_are_sampled_at_a_scale_a_little_too_large():
    """By cubic convolution (a = -0.75) in float64, at (i + 0.5) / ((n + 0.1) / grid) - 0.5."""
    net = DINOv2(6, 1, 2, trained_at=98)  # 7 x 7 patches
    found = net.positions(4, 4)[0, 1:].detach().numpy().reshape(4, 4, 6)
    grid = net.pos_embed[0, 1:].detach().double().numpy().reshape(7, 7, 6)

    def cubic(t, a=-0.75):
        t = abs(t)
        if t < 1:
            return (a + 2) * t**3 - (a + 3) * t**2 + 1
        return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0

    weights = np.zeros((4, 7))
    for i in range(4):
        at = (i + 0.5) / (4.1 / 7) - 0.5
        for k in range(int(np.floor(at)) - 1, int(np.floor(at)) + 3):
            weights[i, min(max(k, 0), 6)] += cubic(at - k)
    wanted = np.einsum("ik,jl,klc->ijc", weights, weights, grid)
    np.testing.assert_allclose(found, wanted, atol=1e-6)


class Tiny(nn.Module):
    """Means of a convolution, of uint8 pictures."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2)

    def forward(self, x):
        return self.conv(x.float() / 255).mean((2, 3))


@pytest.fixture
def exported(tmp_path):
    torch.manual_seed(0)
    net = Tiny().eval()
    shape = {"x": {0: torch.export.Dim("batch")}}
    example = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    torch.export.save(
        torch.export.export(net, (example,), dynamic_shapes=shape), tmp_path / "a.pt2"
    )
    torch.export.save(torch.export.export(net, (example,)), tmp_path / "two.pt2")
    return net, tmp_path


def test_an_exported_program_says_what_it_takes(exported):
    net, folder = exported
    images = pictures(5)
    shown = resizing.clean(torch.stack(images), 16).round().byte()
    for name in ("a", "two"):  # any number of pictures at a time, and two alone
        own = open_extractor(f"file:{folder}/{name}.pt2")
        assert own.rows == (2 if name == "two" else None) and own.about["input"] == "uint8"
        torch.testing.assert_close(own(images).features, net(shown).detach(), rtol=1e-5, atol=1e-6)
    with pytest.raises(UsageError, match="takes pictures of 16 px, not 8"):
        open_extractor(f"file:{folder}/a.pt2,side=8")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text.replace("torch.ops.aten.conv2d.default", "torch.os.system"), "calls"),
        (lambda text: text.replace('"s', "\"__import__('os').getcwd() + s", 1), "size|not a"),
    ],
)
def test_a_program_that_would_run_more_is_refused(change, says, exported, tmp_path):
    _, folder = exported
    with zipfile.ZipFile(folder / "a.pt2") as old, zipfile.ZipFile(tmp_path / "b.pt2", "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("model.json"):
                text = data.decode()
                if says == "calls":
                    text = change(text)
                    assert "torch.os.system" in text
                else:
                    value = json.loads(text)
                    spoil(value)
                    text = json.dumps(value)
                data = text.encode()
            new.writestr(name, data)
    with pytest.raises(CheckpointError, match=f"refused.*({says})"):
        open_extractor(f"file:{tmp_path}/b.pt2")


def spoil(value):
    """Make every expression of a size call something."""
    if isinstance(value, dict):
        if "expr_str" in value:
            value["expr_str"] = "__import__('os').getpid()"
        for inner in value.values():
            spoil(inner)
    elif isinstance(value, list):
        for inner in value:
            spoil(inner)


def test_a_program_with_a_pickle_in_it_is_refused(exported, tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("evil",)

    _, folder = exported
    torch.save({"x": Evil()}, tmp_path / "evil.pt")
    with zipfile.ZipFile(folder / "a.pt2") as old, zipfile.ZipFile(tmp_path / "b.pt2", "w") as new:
        for name in old.namelist():
            evil = "sample_inputs" in name
            new.writestr(name, (tmp_path / "evil.pt").read_bytes() if evil else old.read(name))
    with pytest.raises(CheckpointError, match="refused: .*sample_inputs"):
        open_extractor(f"file:{tmp_path}/b.pt2")


def test_a_classifier_by_name_gives_features_and_classes_in_order(tmp_path):
    from torchvision.models import resnet18

    torch.manual_seed(0)
    net = resnet18(num_classes=5).eval()
    torch.save({"model_state_dict": net.state_dict(), "epoch": 3}, tmp_path / "net.pth")
    order = torch.tensor([4, 2, 0, 1, 3])
    request = Request(weights=tmp_path / "net.pth", order=order)
    own = open_extractor("torchvision:resnet18,side=32", request)
    images = pictures(3)
    found = own(images)
    x = resizing.bicubic(torch.stack(images), 32) / 255
    x = (x - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).view(3, 1, 1)
    with torch.no_grad():
        logits = net(x)
        net.fc = nn.Identity()
        features = net(x)
    torch.testing.assert_close(found.logits, logits[:, order], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.features, features, rtol=1e-5, atol=1e-5)


def test_weights_of_timms_earlier_names_are_taken(tmp_path):
    """As the Swin-L of tiny ImageNet was written: `layers.0.downsample`, `head.weight`."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    net = timm.create_model("swin_tiny_patch4_window7_224", num_classes=7).eval()
    state = {}
    for name, value in net.state_dict().items():
        if ".downsample." in name:
            number = int(name.split(".")[1])
            name = name.replace(f"layers.{number}.", f"layers.{number - 1}.")
        state[name.replace("head.fc.", "head.")] = value
    torch.save({"model_state_dict": state}, tmp_path / "swin.pth")
    own = open_extractor(
        "timm:swin_tiny_patch4_window7_224", Request(weights=tmp_path / "swin.pth")
    )
    found = own(pictures(1))
    assert own.about["classes"] == 7 and found.features.shape == (1, 768)
    with torch.no_grad():
        wanted = net(own.prepare(pictures(1)[0][None]))
    torch.testing.assert_close(found.logits, wanted, rtol=1e-4, atol=1e-5)


def test_random_weights_are_the_same_everywhere_and_say_so():
    state = torch.random.get_rng_state()
    one, two = (open_extractor("torchvision:resnet18", Request(random=3)) for _ in range(2))
    assert one.name == "random_resnet18" and one.about["weights"] == "random, seed 3"
    assert one.about["sha256"] == two.about["sha256"]
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("inception", "needs a weights file"),
        ("vgg", "there are inception"),
        ("torchvision:", "which one"),
        ("torchvision:nothing", "no classifier of that name"),
        ("timm:nothing", "no network of that name"),
        ("pixels,side=4", "has no settings"),
        ("torchvision:resnet18,side=1000000000", "side=1000000000: a number of pixels"),
        ("torchvision:resnet18,side=\u00b2", "a number of pixels"),
        ("file:gone.pt", "no such file"),
        ("inception:x", "takes no name"),
    ],
)
def test_a_word_that_is_none(word, says):
    with pytest.raises(UsageError, match=says):
        open_extractor(word)


def test_a_file_of_another_network(tmp_path):
    torch.save({"fc.weight": torch.zeros(3, 3)}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="is not of"):
        open_extractor("dinov2_vitb14", Request(weights=tmp_path / "x.pth"))
