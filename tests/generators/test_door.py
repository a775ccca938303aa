"""The door: a path goes in, something that draws comes out, whatever the kind."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from diffusion import Precond
from diffusion.toy import MPLinear, MPSiLU, ToyModel
from generators import ddpm, edm2, imle, omnigan
from generators.base import Loaded, Setup, WrongKind, build
from generators.door import KINDS, kinds_with_views, make_generator, open_generator
from imle import UnconditionalGenerator
from recipes.isicle.generator import opened as joint_generator
from recipes.toy.parts import load_net
from recipes.views import parts
from recipes.views.options import get_args
from recipes.views.parts import opened as view_generator
from storage.errors import CheckpointError, UsageError
from storage.snapshot import Snapshot, save_snapshot
from tests.diffusion.edm2_pickles import EasyDict, dumps, put_modules
from tests.generators.tiny import LAST, RES, snapshot


def unconditional():
    torch.manual_seed(0)
    net = UnconditionalGenerator(8, z_nc=4, latent_nc=8, channels=[8, 8])
    config = {"net": net.config, "codes": {}, "corruption": {}, "crop": "squash"}
    return Snapshot(net.state_dict(), "imle-unconditional", config, {})


def toy():
    torch.manual_seed(0)
    net = ToyModel(2, 2, 16)
    return Snapshot(net.state_dict(), "edm2-toy", {"net": net.config}, {})


SNAPSHOTS = {
    "camnet": snapshot, "imle-unconditional": unconditional, "edm2": edm2.untrained,
    "edm2-toy": toy, "ddpm": ddpm.untrained, "omnigan": omnigan.untrained,
}  # fmt: skip


def test_every_kind_is_tried_here():
    assert SNAPSHOTS.keys() == KINDS.keys()


@pytest.mark.parametrize("kind", SNAPSHOTS)
def test_what_a_path_says_and_draws(kind, tmp_path):
    file = save_snapshot(tmp_path / "net.safetensors", *SNAPSHOTS[kind]())
    net = open_generator(file)
    assert net.kind == kind and net.file == file and len(net.content) == 64
    assert not net.net.training and not any(p.requires_grad for p in net.net.parameters())
    inputs = {}
    if net.input_size is not None:
        pictures = torch.rand(2, 3, net.input_size, net.input_size)
        inputs = {"inputs": pictures[:1]}
        two = net.draw(3, inputs=pictures)
        assert two.shape == (6, 3, net.resolution, net.resolution)
        other = net.draw(3, inputs=pictures[1:], ids=torch.tensor([1]))
        apart = (two.int() - torch.cat([net.draw(3, **inputs), other]).int()).abs().max()
        assert apart <= (kind == "omnigan")  # which draws inputs together: another batch
    images = net.draw(3, **inputs)
    assert images.dtype == torch.uint8 and images.shape == (3, 3, net.resolution, net.resolution)
    assert torch.equal(images, net.draw(3, seed=0, batch=3, **inputs))
    by_chance = kind != "omnigan"  # a translation is a function of its picture
    assert torch.equal(images, net.draw(3, seed=7, **inputs)) != by_chance
    assert torch.equal(images[:2], net.draw(2, batch=2, **inputs)) or kind == "edm2"


def test_what_each_kind_needs():
    camnet, diffusion = make_generator(snapshot()), make_generator(edm2.untrained())
    assert (camnet.input_size, camnet.resolution) == (RES[0], LAST) and camnet.classes == []
    assert len(camnet.code_sizes) == len(RES) - 1
    assert make_generator(unconditional()).input_size is None
    assert diffusion.classes == list("abcd") and diffusion.code_sizes == []
    assert diffusion.content == "untrained"
    with pytest.raises(UsageError, match="inputs are missing"):
        camnet.draw(1)


def test_omnigan_translates_and_sees():
    net = make_generator(omnigan.untrained())
    assert isinstance(net, omnigan.Omnigan) and net.segments == list("abcde")
    pictures = torch.rand(3, 3, 16, 24)
    flooded, dry = (net.draw(1, inputs=pictures, to=to, batch=2) for to in "fn")
    assert flooded.shape == (3, 3, 16, 24) and not torch.equal(flooded, dry)
    made = net.net(pictures * 2 - 1, "f")
    assert torch.equal(flooded, ((made + 1) / 2).clamp(0, 1).mul(255).round().byte())
    seen = net.see(pictures)
    assert seen["s"].shape == (3, 16, 24) and seen["s"].max() < 5
    assert 0 <= seen["w"].min() and seen["w"].max() <= 1 and seen["d"].shape == (3, 1, 16, 24)
    for wrong, said in ((pictures * 255, "divide them"), (pictures[..., :9], "multiples of 4"),
                        (pictures[0], "are needed"), (None, "inputs are missing")):  # fmt: skip
        with pytest.raises(UsageError, match=said):
            net.draw(1, inputs=wrong)
    with pytest.raises(UsageError, match="it is one of rf, rn, sf, sn"):
        net.draw(1, inputs=pictures, to="x")


def test_labels_and_guides_of_edm2():
    net, weak = edm2.EDM2(edm2.untrained()), edm2.EDM2(edm2.untrained())
    with torch.no_grad():
        weak.net.unet.out_gain.fill_(0.5)
    alone = net.draw(2, seed=5)
    drawn = net.seed_classes([5, 6])
    assert torch.equal(alone, net.draw(2, seed=5, labels=drawn))
    assert torch.equal(alone, net.draw(2, seed=5, guide=weak, guidance=1.0))
    assert not torch.equal(alone, net.draw(2, seed=5, guide=weak, guidance=2.0))
    with pytest.raises(ValueError, match="1 labels for 2 images"):
        net.draw(2, labels=[0])
    with pytest.raises(ValueError, match="class 4"):
        net.draw(1, labels=[4])


def test_grey_images_have_three_channels_too():
    net = Precond(8, 1, 0, model_channels=8, channel_mult=[1], num_blocks=1, channels_per_head=8)
    config = {"net": net.config, "encoder": {"name": "rgb"}}
    grey = edm2.EDM2(Snapshot(net.state_dict(), "edm2", config, {}))
    images = grey.draw(2)
    assert images.shape == (2, 3, 8, 8) and torch.equal(images[:, 0], images[:, 2])
    colour = edm2.EDM2(edm2.untrained())
    with pytest.raises(ValueError, match="8 pixels"):
        colour.draw(1, guide=grey, guidance=2.0)


def test_a_run_s_folder_means_its_newest_snapshot(tmp_path, monkeypatch):
    monkeypatch.setenv("RESULTS_HOME", str(tmp_path / "results"))
    run = tmp_path / "results" / "train_edm2" / "run"
    for name in ("network-snapshot-0000008-0.050", "network-snapshot-0000016-0.050",
                 "network-snapshot-0000016-0.100"):  # fmt: skip
        save_snapshot(run / "snapshots" / f"{name}.safetensors", *edm2.untrained())
    want = run / "snapshots" / "network-snapshot-0000016-0.100.safetensors"
    assert open_generator(run).file == open_generator("run").file == want
    said = []
    open_generator("run", say=said.append)
    open_generator(want, say=said.append)
    assert said == [f"run: taking {want}"]
    latest = save_snapshot(run / "snapshots" / "network-latest.safetensors", *edm2.untrained())
    assert open_generator(run).file == latest
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        open_generator(tmp_path / "empty")


def test_a_file_of_others(tmp_path, monkeypatch):
    put_modules(monkeypatch)
    net = ToyModel(hidden_dim=16, num_layers=2)
    net.__dict__["_init_kwargs"] = EasyDict(hidden_dim=16, num_layers=2)
    path = tmp_path / "iter0512.pkl"
    path.write_bytes(dumps({"ema": net}, classes=(ToyModel, MPLinear, MPSiLU)))
    said = []
    assert open_generator(path, say=said.append).kind == "edm2-toy"
    assert len(said) == 1 and "imported" in said[0]


def test_kinds_that_are_not_known(tmp_path):
    file = save_snapshot(tmp_path / "net.safetensors", {}, "simclr", {}, {})
    with pytest.raises(CheckpointError, match="holds a SimCLR encoder"):
        open_generator(file)


def test_a_kind_that_is_not_wanted(tmp_path):
    file = save_snapshot(tmp_path / "net.safetensors", {}, "simclr", {}, {})
    with pytest.raises(WrongKind, match="net.* holds a 'simclr' network, not edm2") as error:
        open_generator(file.with_suffix(""), kinds=["edm2"])
    assert (error.value.file, error.value.kind, error.value.exit_code) == (file, "simclr", 2)
    with pytest.raises(CheckpointError, match="kind simclr, not of the toy"):
        load_net(str(file), "cpu")
    broken = save_snapshot(tmp_path / "toy.safetensors", {}, "edm2-toy", {}, {})
    with pytest.raises(CheckpointError, match="toy.safetensors is no toy network: .* fit itself"):
        load_net(str(broken), "cpu")
    with pytest.raises(UsageError, match="trains a CAM-Net, .*net.* is a SimCLR encoder"):
        joint_generator(str(file), "", print)


def test_kinds_are_called_what_they_are(tmp_path):
    encoder = save_snapshot(tmp_path / "e.safetensors", {}, "simclr", {}, {})
    says = "e.safetensors holds a SimCLR encoder, which does not draw images; TrainSimCLR.py"
    with pytest.raises(CheckpointError, match=says):
        open_generator(encoder)
    other = save_snapshot(tmp_path / "n.safetensors", {}, "new", {}, {})
    with pytest.raises(CheckpointError, match="kind 'new', .* of the kinds camnet, ddpm, edm2, "):
        open_generator(other)
    network = save_snapshot(tmp_path / "d.safetensors", {}, "edm2", {}, {})
    with pytest.raises(CheckpointError, match="is an EDM2 network, which gives no views"):
        view_generator(str(network))


@pytest.mark.parametrize("kind", SNAPSHOTS)
def test_numbers_and_seeds_that_cannot_be(kind):
    net = make_generator(SNAPSHOTS[kind]())
    inputs = {} if net.input_size is None else {"inputs": torch.rand(1, 3, *[net.input_size] * 2)}
    with pytest.raises(UsageError, match="n 0: at least one image"):
        net.draw(0, **inputs)
    with pytest.raises(UsageError, match="seed -1"):
        net.draw(1, seed=-1, **inputs)


def test_guides_of_another_kind():
    diffusion, points = make_generator(edm2.untrained()), make_generator(toy())
    with pytest.raises(UsageError, match="the guide is a 'edm2-toy' network, not edm2$"):
        diffusion.draw(1, guide=points, guidance=2.0)
    with pytest.raises(UsageError, match="the guide is a 'edm2' network, not edm2-toy"):
        points.draw(1, guide=diffusion, guidance=2.0)


@pytest.mark.parametrize(
    "inputs, says",
    [
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), r"uint8 \[1, 3, 8, 8\]: float"),
        (torch.full((1, 3, 8, 8), 255.0), "to 255"),
        (torch.full((1, 3, 8, 8), -0.5), "from -0.5"),
        (torch.full((1, 3, 8, 8), torch.nan), "nan"),
        (torch.rand(1, 3, 4, 4), r"\[1, 3, 4, 4\]"),
        (torch.rand(0, 3, 8, 8), r"\[0, 3, 8, 8\]"),
    ],
)
def test_inputs_that_are_no_pictures(inputs, says):
    with pytest.raises(UsageError, match=says) as error:
        make_generator(snapshot()).draw(1, inputs=inputs)
    assert "\n" not in str(error.value)


def test_image_k_of_a_diffusion_network_is_of_seed_plus_k():
    net = make_generator(toy())
    assert torch.equal(net.draw(3, seed=2)[1:], net.draw(2, seed=3))


class Mirror(nn.Module):
    def __init__(self, side: int) -> None:
        super().__init__()
        self.config = {"side": side}
        self.weight = nn.Parameter(torch.zeros(side))


class MirrorGenerator(Loaded):
    """All that another kind takes: a class that keeps the protocol, and an entry of KINDS."""

    kind = "mirror"

    def __init__(
        self, snapshot: Snapshot, setup: Setup | None = None, file: Path | None = None
    ) -> None:
        super().__init__(snapshot, setup, file)
        self.net = build(Mirror, snapshot).to(self.device)
        self.resolution = self.input_size = self.snapshot.config["net"]["side"]
        self.classes: list[str] = []
        self.code_sizes: list[int] = []

    def draw(self, n: int, *, seed: int = 0, batch: int = 32, inputs: Tensor | None = None):
        return (inputs.flip(3).repeat_interleave(n, 0) * 255).byte()

    def view_sampler(self, size: int | None, **options: object):
        return MirrorSampler(self.resolution)


class MirrorSampler:
    def __init__(self, size: int) -> None:
        self.size = self.image_size = self.input_size = size

    def sample(self, inputs: Tensor, ids: Tensor, draw: Tensor) -> Tensor:
        return inputs

    def corrupt(self, inputs: Tensor, ids: Tensor) -> Tensor:
        return inputs

    def update(self, net: nn.Module) -> None:
        pass


def test_another_kind_is_one_class_and_one_entry(monkeypatch, tmp_path):
    monkeypatch.setitem(KINDS, "mirror", MirrorGenerator)
    net = Mirror(4)
    file = save_snapshot(
        tmp_path / "m.safetensors", net.state_dict(), "mirror", {"net": net.config}, {}
    )
    mirror = open_generator(file)
    pictures = torch.randint(0, 256, (5, 3, 4, 4), dtype=torch.uint8)
    assert torch.equal(mirror.draw(1, inputs=pictures / 255), pictures.flip(3))
    assert kinds_with_views() == ["camnet", "mirror"]
    sampler = parts.opened(str(file)).view_sampler(4)
    source = parts.source(get_args(None, ["--preset", "smoke"]), sampler, pictures)
    assert torch.equal(source(torch.arange(5), 0), pictures)


def test_untrained_ones_are_the_same_every_time():
    for make in (imle.untrained, edm2.untrained):
        a, b = make().state_dict, make().state_dict
        assert all(torch.equal(a[name], b[name]) for name in a)
