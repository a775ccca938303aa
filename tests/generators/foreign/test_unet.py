"""UNets of guided-diffusion and latent diffusion: what their weights say, by golden key lists."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from diffusion.ddpm_generate import Drawing
from diffusion.unet_names import unet_arguments
from generators.door import make_generator, open_generator
from generators.foreign.contents import Asked
from generators.foreign.formats import identify, import_network
from storage.errors import CheckpointError

UNET_A = Path(__file__).parents[2] / "golden/vectors/ddpm/unet_a.npz"
UNSEEN = dict.fromkeys(
    ("image_size", "num_heads", "num_head_channels", "use_new_attention_order", "dropout")
)


def block(shapes, at, a, b, emb, scale_shift=False):
    shapes |= {f"{at}.in_layers.0.weight": (a,), f"{at}.in_layers.2.weight": (b, a, 3, 3)}
    shapes |= {f"{at}.emb_layers.1.weight": (b * (1 + scale_shift), emb)}
    shapes |= {f"{at}.out_layers.0.weight": (b,), f"{at}.out_layers.3.weight": (b, b, 3, 3)}
    if a != b:
        shapes[f"{at}.skip_connection.weight"] = (b, a, 1, 1)


def attend(shapes, at, c, context):
    if context is None:
        shapes |= {f"{at}.norm.weight": (c,), f"{at}.qkv.weight": (3 * c, c, 1)}
        return
    shapes[f"{at}.proj_in.weight"] = (c, c, 1, 1)
    for name, keys in (("attn1", c), ("attn2", context)):
        inner = f"{at}.transformer_blocks.0.{name}"
        shapes |= {f"{inner}.to_q.weight": (c, c), f"{inner}.to_k.weight": (c, keys)}
    shapes[f"{at}.transformer_blocks.0.norm1.weight"] = (c,)


def unet(mc=32, mult=(1, 2, 4), blocks=2, attention=(2, 4), updown="convolution", context=None,
         scale_shift=False, classes=None, channels=(3, 6)):  # fmt: skip
    """Shapes of a UNet, written from the layout in the description of guided-diffusion."""
    emb, shapes = 4 * mc, {}
    shapes |= {"time_embed.0.weight": (emb, mc), "time_embed.2.weight": (emb, emb)}
    if classes:
        shapes["label_emb.weight"] = (classes, emb)
    shapes["input_blocks.0.0.weight"] = (int(mult[0] * mc), channels[0], 3, 3)
    skips, c, n = [int(mult[0] * mc)], int(mult[0] * mc), 1
    for level, m in enumerate(mult):
        for _ in range(blocks):
            block(shapes, f"input_blocks.{n}.0", c, int(m * mc), emb, scale_shift)
            c = int(m * mc)
            if 2**level in attention:
                attend(shapes, f"input_blocks.{n}.1", c, context)
            skips.append(c)
            n += 1
        if level < len(mult) - 1:
            if updown == "convolution":
                shapes[f"input_blocks.{n}.0.op.weight"] = (c, c, 3, 3)
            elif updown == "blocks":
                block(shapes, f"input_blocks.{n}.0", c, c, emb, scale_shift)
            skips.append(c)
            n += 1
    for k in (0, 2):
        block(shapes, f"middle_block.{k}", c, c, emb, scale_shift)
    attend(shapes, "middle_block.1", c, context)
    n = 0
    for level, m in reversed(list(enumerate(mult))):
        for k in range(blocks + 1):
            block(shapes, f"output_blocks.{n}.0", c + skips.pop(), int(m * mc), emb, scale_shift)
            c, at = int(m * mc), 1
            if 2**level in attention:
                attend(shapes, f"output_blocks.{n}.1", c, context)
                at = 2
            if level and k == blocks:
                if updown == "convolution":
                    shapes[f"output_blocks.{n}.{at}.conv.weight"] = (c, c, 3, 3)
                elif updown == "blocks":
                    block(shapes, f"output_blocks.{n}.{at}", c, c, emb, scale_shift)
            n += 1
    return shapes | {"out.0.weight": (c,), "out.2.weight": (channels[1], c, 3, 3)}


def test_arguments_of_many_unets():
    for updown in ("convolution", "blocks", "pooling"):
        for options in (
            {}, {"mult": (1, 1), "attention": (1, 2), "blocks": 1}, {"mult": (0.5, 1, 1, 2)},
            {"blocks": 3, "scale_shift": True, "classes": 10}, {"context": 48, "channels": (4, 4)},
        ):  # fmt: skip
            made = unet(updown=updown, **options)
            told = unet_arguments(made)
            assert told["num_res_blocks"] == options.get("blocks", 2)
            assert told["channel_mult"] == list(options.get("mult", (1, 2, 4)))
            assert told["attention_resolutions"] == list(options.get("attention", (2, 4)))
            assert told["resblock_updown"] == (updown == "blocks")
            assert told["conv_resample"] == (updown != "pooling")
            assert told["use_scale_shift_norm"] == options.get("scale_shift", False)
            assert told["num_classes"] == options.get("classes")
            assert told.get("context_dim") == options.get("context")
            assert (told["in_channels"], told["out_channels"]) == options.get("channels", (3, 6))


def test_the_golden_key_lists(golden_dir):
    """Names and shapes as guided-diffusion itself has written them down."""
    seen = 0
    for file in sorted((golden_dir / "ddpm").glob("unet_*.npz")):
        with np.load(file) as arrays:
            said = json.loads(str(arrays["config"]))
            shapes = {k[4:]: arrays[k].shape for k in arrays.files if k.startswith("sd__")}
        told, seen = unet_arguments(shapes), seen + 1
        for name in said.keys() - UNSEEN.keys():
            assert told[name] == said[name], (file.name, name)
    if not seen:
        pytest.skip("no golden vectors of ddpm beside the tests: --golden-dir DIR")


def test_files_of_guided_diffusion(tmp_path):
    state = {name: torch.randn(shape).half() for name, shape in unet(scale_shift=True).items()}
    torch.save(state, tmp_path / "ema_0.9999_010000.pt")
    snapshot, found = import_network(tmp_path / "ema_0.9999_010000.pt")
    assert (found.format, found.kind) == ("guided-diffusion", "ddpm")
    assert (snapshot.config["step"], snapshot.config["ema_rate"]) == (10000, 0.9999)
    assert snapshot.state_dict.keys() == state.keys()  # names stay
    assert all(torch.equal(v, state[k].float()) for k, v in snapshot.state_dict.items())
    assert snapshot.config["net"] | UNSEEN == snapshot.config["net"]
    assert "num_heads" in found.notes[0]
    with pytest.raises(CheckpointError, match="number of heads of its attentions is not known"):
        open_generator(tmp_path / "ema_0.9999_010000.pt", say=lambda line: None)
    asked = Asked(res=(64,), config={"num_heads": 4, "model_channels": 32})
    net = identify(tmp_path / "ema_0.9999_010000.pt", asked).config["net"]
    assert (net["num_heads"], net["image_size"]) == (4, 64)
    with pytest.raises(CheckpointError, match="model_channels 64 is said, the weights have 32"):
        identify(tmp_path / "ema_0.9999_010000.pt", Asked(config={"model_channels": 64}))
    torch.save(state, tmp_path / "64x64_diffusion.pt")  # one of the release, by its name
    net = identify(tmp_path / "64x64_diffusion.pt").config
    assert net["net"]["use_new_attention_order"] is True and net["schedule"] == "cosine"
    half = {name: value for name, value in state.items() if not name.startswith("output_")}
    torch.save(half, tmp_path / "64x64_classifier.pt")
    with pytest.raises(CheckpointError, match="a classifier of guided-diffusion"):
        identify(tmp_path / "64x64_classifier.pt")


def test_a_checkpoint_of_guided_diffusion_draws(tmp_path):
    """The golden network, as its own code would have saved it."""
    with np.load(UNET_A) as file:
        config = json.loads(str(file["config"]))
        state = {k[4:]: torch.from_numpy(file[k]).float() for k in file.files if k[:4] == "sd__"}
    torch.save(state, tmp_path / "ema_0.9999_010000.pt")
    heads = {k: config[k] for k in ("num_heads", "num_head_channels") if k in config}
    asked = Asked(res=(config["image_size"],), config=heads)
    complete, _ = import_network(tmp_path / "ema_0.9999_010000.pt", asked)
    net = make_generator(complete)
    side = config["image_size"]
    drawn = net.draw(2, drawing=Drawing(steps=2))
    assert drawn.shape == (2, 3, side, side) and not torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[:1], net.draw(1, drawing=Drawing(steps=2)))


class ModelCheckpoint:
    """Stands for Lightning's, whose class is a key in its first checkpoints."""

    __module__ = "pytorch_lightning.callbacks.model_checkpoint"


@pytest.mark.parametrize("ema", [True, False])
def test_the_unet_of_latent_diffusion(tmp_path, monkeypatch, ema):
    parts = ModelCheckpoint.__module__.split(".")
    for depth in range(1, len(parts) + 1):
        name = ".".join(parts[:depth])
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules[ModelCheckpoint.__module__].ModelCheckpoint = ModelCheckpoint
    inner = {name: torch.randn(shape) for name, shape in unet(context=48).items()}
    state = {f"model.diffusion_model.{name}": value for name, value in inner.items()}
    averaged = {name: value + 1 for name, value in inner.items()}
    flat = {f"diffusion_model.{n}".replace(".", ""): v for n, v in averaged.items()}
    state |= {f"model_ema.{name}": value for name, value in flat.items()}
    state |= {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(5)}
    state |= {"betas": torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2}
    state |= {"first_stage_model.encoder.w": torch.zeros(1), "scale_factor": torch.tensor(0.18215)}
    value = {"state_dict": state, "global_step": 470000, "epoch": 3}
    value["callbacks"] = {ModelCheckpoint: {"best_model_path": "x"}}
    torch.save(value, tmp_path / "model.ckpt")
    snapshot, found = import_network(tmp_path / "model.ckpt", Asked(ema=ema))
    assert (found.format, found.kind, snapshot.config["step"]) == ("ldm", "ddpm", 470000)
    expected = averaged if ema else inner
    assert snapshot.state_dict.keys() == inner.keys()
    assert all(torch.equal(v, expected[k]) for k, v in snapshot.state_dict.items())
    config = snapshot.config
    assert config["net"]["context_dim"] == 48 and config["net"]["transformer_depth"] == 1
    assert config["ema_rate"] == (0.9999 if ema else None)
    assert config["betas"]["steps"] == 1000 and abs(config["scale_factor"] - 0.18215) < 1e-6
    assert "first_stage_model" in found.notes[0]


def test_averages_that_are_none_of_the_unet_are_not_passed_over(tmp_path):
    """A file with a decay alone would be read as averages, and its last weights taken for them."""
    state = {f"model.diffusion_model.{n}": torch.zeros(s) for n, s in unet(context=48).items()}
    torch.save({"state_dict": state | {"model_ema.decay": torch.tensor(0.5)}}, tmp_path / "m.ckpt")
    with pytest.raises(CheckpointError, match="none of the UNet's weights; --weights last"):
        identify(tmp_path / "m.ckpt")
    assert identify(tmp_path / "m.ckpt", Asked(ema=False)).config["ema_rate"] is None
