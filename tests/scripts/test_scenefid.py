"""SceneFID: crops of the boxes of a layout set, of real pictures and of drawn ones."""

import json

import pytest
import torch
from torch import nn

from data.layout_images import LayoutImages
from data.layout_registry import open_layouts
from diffusion.ddpm_generate import Drawing
from evaluation.crops import box_crops
from evaluation.extractors import open_extractor
from evaluation.frechet import frechet_distance
from generators.door import open_generator
from models.ddpm import UNet
from recipes.metrics.options import get_args
from recipes.metrics.passing import moments_of
from storage.errors import UsageError
from storage.snapshot import save_snapshot
from tests import gloo
from tests.scripts.support import load

SCRIPT = load("calculate_metrics")
WORDS = "gen --net NET --data scenes/val --metrics scenefid_pixels --gpus cpu --num_workers 0 " \
    "--num 5 --num_images 3 --steps 2 --min_crop 4 --batch 2"  # fmt: skip


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    """A network of boxes at 16 px, as train_ddpm.py writes them, with random weights."""
    torch.manual_seed(0)
    objects = list(open_layouts("scenes/val", "").object_classes)
    made = UNet(
        3, 3, model_channels=8, channel_mult=(1,), num_res_blocks=1, use_scale_shift_norm=True,
        attention_resolutions=(), layout_attn_type="layout_partial_v2",
        layout_attn_resolutions=(1,), layout_classes=len(objects), layout_dim=8,
    )  # fmt: skip
    for parameter in made.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.2)
    config = {
        "net": made.config, "encoder": {"name": "rgb"}, "resolution": 16, "classes": [],
        "gaussian": {"schedule": "cosine", "T": 20, "prediction_type": "v",
                     "variance_type": "fixed_large", "time_input": "step"},
        "layout": "boxes", "objects": objects, "clip": "unit",
    }  # fmt: skip
    file = tmp_path_factory.mktemp("net") / "net.safetensors"
    return save_snapshot(file, made.state_dict(), "ddpm", config, {})


def measured(out, net, more=""):
    words = [str(net) if word == "NET" else word for word in f"{WORDS} {more}".split()]
    SCRIPT.main(get_args(None, [*words, "--outdir", str(out)]))
    return json.loads((out / "metrics.json").read_text())


def ranks(out, net):
    SCRIPT.main(get_args(None, [*WORDS.replace("NET", net).split(), "--outdir", out]))


def test_crops_of_the_same_boxes(net, tmp_path, capsys):
    record = measured(tmp_path / "a", net)
    figure = record["figures"]["scenefid_pixels"]
    said = capsys.readouterr().out
    pictures = LayoutImages(open_layouts("scenes", "", split="val"), 16)
    items = [pictures[i * len(pictures) // 3] for i in range(3)]
    extractor, opened = open_extractor("pixels"), open_generator(net, say=lambda line: None)

    def crops(k, image):
        boxes = items[k % 3].boxes
        return box_crops(image, torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1),
                         min_side=4)[0]  # fmt: skip

    real = [crop for k in range(3) for crop in crops(k, items[k].image)]
    drawn = []
    for k in range(5):
        boxes = torch.cat([items[k % 3].boxes, items[k % 3].classes[:, None].float()], 1)
        image = opened.draw(1, seed=k, layout=opened.layouts([boxes]), drawing=Drawing(steps=2))
        drawn += crops(k, image[0])
    ours, theirs = (moments_of(extractor(part).features) for part in (drawn, real))
    assert figure["value"] == pytest.approx(frechet_distance(ours, theirs), rel=1e-3)
    assert figure["n"] == len(drawn) and figure["low"] < figure["value"] < figure["high"]
    assert f"{len(drawn)} crops against {len(real)}" in said and "at least 4 px a side" in said
    assert "scenes/val" in said
    fewer = measured(tmp_path / "b", net, "--min_crop 5")["figures"]["scenefid_pixels"]
    assert fewer["n"] < figure["n"]
    assert measured(tmp_path / "c", net, "--guidance 3 --num_images 2") != record


def test_two_processes(net, tmp_path):
    one = measured(tmp_path / "one", net)["figures"]["scenefid_pixels"]
    gloo.run(2, ranks, str(tmp_path / "two"), str(net), join=False)
    two = json.loads((tmp_path / "two" / "metrics.json").read_text())["figures"]
    assert two["scenefid_pixels"]["value"] == pytest.approx(one["value"], rel=1e-5)
    assert two["scenefid_pixels"]["n"] == one["n"]


def test_what_cannot_be(net, tmp_path):
    for words, says in (
        ("--min_crop 60", "a smaller --min_crop"),
        ("--guide x --guidance 2", "of EDM2's networks here"),
    ):
        with pytest.raises(UsageError, match=says):
            measured(tmp_path / "a", net, words)
    with pytest.raises(UsageError, match="scenefid_pixels needs --data LAYOUTS"):
        words = WORDS.replace("NET", str(net)).replace("--data scenes/val", "")
        SCRIPT.main(get_args(None, words.replace("--num_images 3", "").split()))
