"""generate_images.py with networks of train_ddpm.py: by class, by layout, guided, by every sampler,
and with blocks of one's own."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion.ddpm_generate import Drawing
from diffusion.ddpm_samplers import SAMPLERS
from generators import ddpm
from generators.base import Setup
from generators.door import make_generator, open_generator
from models.ddpm import UNet
from recipes.ddpm import options
from storage.errors import CheckpointError, UsageError
from storage.snapshot import Snapshot, load_snapshot, save_snapshot
from tests.scripts.support import get_args, load

PLAIN = {"T": 20, "schedule": "cosine", "prediction_type": "v", "variance_type": "learned_range",
         "time_input": "step"}  # fmt: skip


def network(folder, **config):
    """A snapshot with random weights, which draws something: 8 px, boxes of three classes."""
    torch.manual_seed(1)
    net = UNet(
        3, 6, model_channels=16, channel_mult=(1, 2), num_res_blocks=1, dropout=0.1,
        layout_attn_type="layout_partial_v2", layout_attn_resolutions=(1,), layout_classes=3,
    )  # fmt: skip
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.1)
    made = {"net": net.config, "gaussian": PLAIN, "encoder": {"name": "rgb"}, "resolution": 8,
            "classes": [], "layout": "boxes", "objects": ["sea", "tree", "hut"],
            **config}  # fmt: skip
    file = Path(folder) / "network-snapshot-0000001.safetensors"
    return save_snapshot(file, net.state_dict(), "ddpm", made, {})


def generate(*words):
    script = load("generate_images")
    script.main(get_args(script, [*words, "--gpus", "cpu"]))


def pixels(file):
    return torch.from_numpy(np.array(Image.open(file).convert("RGB")))


@pytest.fixture(scope="module")
def boxed(tmp_path_factory):
    return network(tmp_path_factory.mktemp("boxed"))


def test_layouts_from_a_list_are_drawn_beside_their_samples(boxed, tmp_path, capsys):
    room = tmp_path / "room.txt"
    room.write_text("# mine\n0.1,0.1,0.5,0.5,tree\n0,0,0,0.5,hut\n")
    words = ["--net", str(boxed), "--layout", str(room), "--steps", "3", "--trajectory"]
    generate(*words, "--seeds", "0-1", "--outdir", str(tmp_path / "a"), "--guidance", "3")
    names = {p.name for p in (tmp_path / "a").iterdir()}
    for seed in ("000000", "000001"):
        assert {f"{seed}.png", f"{seed}_layout.png", f"{seed}_trajectory.png"} <= names
    assert "empty" in capsys.readouterr().out
    beside = Image.open(tmp_path / "a" / "000000_layout.png")
    assert beside.size[0] == 2 * beside.size[1]
    sample = Image.open(tmp_path / "a" / "000000.png")
    assert sample.size == (8, 8)
    # Several layouts of a JSON take turns by the seed, and the one of a seed decides its image.
    both = tmp_path / "both.json"
    box = {"x": 0.1, "y": 0.1, "w": 0.5, "h": 0.5, "class": "tree"}
    both.write_text(json.dumps([[box], [box | {"class": "hut"}]]))
    words[3] = str(both)
    generate(*words, "--seeds", "0-1", "--outdir", str(tmp_path / "b"), "--guidance", "3")
    same = [torch.equal(pixels(tmp_path / "a" / f), pixels(tmp_path / "b" / f))
            for f in ("000000.png", "000001.png")]  # fmt: skip
    assert same == [True, False]


def test_an_image_is_its_seed_whatever_is_drawn_beside_it(boxed):
    net = open_generator(boxed, say=lambda line: None)
    layout = net.layouts([torch.tensor([[0.1, 0.1, 0.5, 0.5, 1.0]])])
    how = Drawing("ddpm", 4, guidance=2.0)
    all_ = net.draw(3, seed=5, drawing=how, layout=layout)
    alone = net.draw(1, seed=6, drawing=how, layout=layout, batch=1)
    assert all_.shape == (3, 3, 8, 8)
    assert (all_[1].int() - alone[0].int()).abs().max() <= 1
    assert not torch.equal(all_[0], all_[1])
    unguided = net.draw(3, seed=5, drawing=Drawing("ddpm", 4), layout=layout)
    assert not torch.equal(all_, unguided)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_draws(sampler, boxed):
    net = open_generator(boxed, say=lambda line: None)
    images = net.draw(2, drawing=Drawing(sampler, 3))
    assert images.shape == (2, 3, 8, 8) and images.float().std() > 0


def test_classes_and_a_guide(tmp_path):
    made = ddpm.untrained()
    net = make_generator(made, Setup())
    by_class = [net.draw(1, labels=[k], drawing=Drawing(steps=4)) for k in range(2)]
    assert not torch.equal(*by_class)
    weak = made._replace(state_dict={k: v * 0.5 for k, v in made.state_dict.items()})
    guide = make_generator(weak, Setup())
    how = Drawing(steps=4, guidance=2.0)
    guided = net.draw(1, labels=[0], drawing=how, guide=guide)
    assert not torch.equal(guided, net.draw(1, labels=[0], drawing=how))
    other = make_generator(Snapshot(made.state_dict, "ddpm", {**made.config, "resolution": 8}, {}))
    with pytest.raises(ValueError, match="resolution"):
        net.draw(1, guide=other, drawing=how)
    generate("--preset", "smoke-ddpm", "--class", "all", "--seeds", "0", "--outdir", str(tmp_path))
    assert {f"000000_0000{k}.png" for k in range(4)} <= {p.name for p in tmp_path.iterdir()}


def test_what_cannot_be_drawn_is_one_line(boxed, tmp_path):
    for words, says in (
        (["--net", str(boxed), "--guidance_interval", "0.1", "1"], "there is no --guidance"),
        (["--net", str(boxed), "--noise_device", "cpu", "--S_churn", "1"], "no use for it"),
        (["--net", str(boxed), "--class", "a"], "no classes"),
        (["--net", str(boxed), "--vae", "nowhere"], "makes pixels, no latents"),
        (["--net", str(boxed), "--sampler", "heun", "--steps", "1"], "at least 2"),
    ):
        with pytest.raises(UsageError, match=says):
            generate(*words, "--outdir", str(tmp_path / "x"))
    with pytest.raises(CheckpointError, match="a folder; a file is wanted"):
        generate("--net", str(boxed), "--classifier", str(tmp_path))


@pytest.mark.parametrize(
    "words",
    ["--sampler dpmpp --eta 1", "--sampler heun --spacing quad", "--rescale 0.5"],
)
def test_an_option_without_effect_is_refused(words, capsys):
    with pytest.raises(SystemExit):
        get_args(load("generate_images"), ["--net", "x", *words.split()])
    assert "it has no effect here" in capsys.readouterr().err


def test_what_a_request_does_not_do_is_said(boxed, tmp_path, capsys):
    empty = tmp_path / "empty.txt"
    empty.write_text("# to come\n0.5,0.5,-0.1,0.1,tree\n")
    words = ["--net", str(boxed), "--layout", str(empty), "--seeds", "0", "--guide", str(boxed)]
    generate(*words, "--steps", "21", "--outdir", str(tmp_path / "a"))
    out = capsys.readouterr().out
    assert "empty.txt has no usable box: nothing but background is asked for" in out
    assert "guidance 1: --guide has no influence" in out
    assert "--steps 21: the network has 20, all are visited" in out


OWN = """
import torch
from torch import nn
from models.ddpm import ResBlock


class Loud(ResBlock):
    def forward(self, x, emb, keys=None):
        return 2 * super().forward(x, emb, keys)


class Flat(nn.Module):
    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.all = nn.Conv2d(in_channels, out_channels, 3, padding=1)

    def forward(self, x, t, y=None):
        return self.all(x)
"""


@pytest.mark.parametrize("words", ["--blocks FILE --res_block Loud", "--denoiser FILE:Flat"])
def test_a_block_and_a_network_of_ones_own(words, tmp_path):
    """Trained by name, kept by name, and drawn when the file is named again."""
    file = tmp_path / "own.py"
    file.write_text(OWN)
    words = words.replace("FILE", str(file)).split()
    smoke = "--preset smoke --bs 4 --duration 8 --sample_images 0 --no-cond --class_dropout 0"
    run = ["--run-dir", str(tmp_path / "run"), *words]
    load("train_ddpm").main(options.get_args(None, [*smoke.split(), *run]))
    (made,) = (tmp_path / "run" / "snapshots").iterdir()
    assert str(file) not in json.dumps(load_snapshot(made).config)
    with pytest.raises(UsageError, match="--code FILE.py"):
        open_generator(made, say=lambda line: None)
    net = open_generator(made, say=lambda line: None, code=str(file))
    assert net.draw(2, drawing=Drawing(steps=2)).shape == (2, 3, 8, 8)
    generate(
        "--net", str(made), "--code", str(file), "--seeds", "0", "--outdir", str(tmp_path / "o")
    )
    assert (tmp_path / "o" / "000000.png").is_file()
