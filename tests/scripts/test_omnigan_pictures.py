"""Networks of omnigan where others are drawn and measured: generate_images.py, calculate_metrics.py
and --metrics_every of train_omnigan.py."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from data.omni import open_samples, pictures_of
from data.registry import open_source
from data.sources import evenly
from generators import omnigan
from generators.door import open_generator
from recipes.metrics.options import get_args as get_metrics_args
from recipes.omnigan.options import get_args as get_training_args
from storage.errors import UsageError
from storage.snapshot import save_snapshot
from tests.scripts.support import get_args, load, metrics

DRAW = load("generate_images")
MEASURE = load("calculate_metrics")


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    made = omnigan.untrained()
    file = tmp_path_factory.mktemp("omnigan") / "net.safetensors"
    return save_snapshot(file, made.state_dict, made.kind, made.config, {})


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A folder of twelve scenes, with water."""
    folder = tmp_path_factory.mktemp("real")
    wet = pictures_of(open_samples("scenes:12", "rf", "val", keep=()))
    for i in range(12):
        Image.fromarray(wet.image(i, 16)).save(folder / f"{i}.png")
    return folder


def draw(net, out, *words):
    DRAW.main(
        get_args(
            DRAW, ["--net", str(net), "--outdir", str(out), "--gpus", "cpu", *words]
        )
    )  # fmt: skip
    return {p.name: np.asarray(Image.open(p)) for p in sorted(out.glob("0*.png"))}


@pytest.mark.parametrize("to", ["f", "n"])
def test_pictures_are_those_of_the_generator(net, tmp_path, capsys, to):
    words = ("--data", "scenes/val", "--num_images", "3", "--to", to, "--batch", "2")
    found = draw(net, tmp_path / "out", *words)
    assert [name.rpartition("_")[2] for name in found] == [f"{to}.png"] * 3
    generator = open_generator(net)
    scenes = [i * 512 // 3 for i in range(3)]

    source = open_source("scenes/val", "", split="val", sizes=[32])
    x = torch.stack([torch.tensor(source.native(i, 32)).permute(2, 0, 1) for i in scenes]) / 255
    made = generator.draw(1, inputs=x, to=to, batch=3).permute(0, 2, 3, 1).numpy()
    for one, image in zip(found.values(), made, strict=True):
        assert abs(one.astype(int) - image.astype(int)).max() <= 1  # of another batch
    assert Image.open(tmp_path / "out" / "grid.png").width > 6 * 32
    capsys.readouterr()
    draw(net, tmp_path / "out", *words)
    assert "done already: 3 pictures" in capsys.readouterr().out


def test_what_cannot_be_is_a_line_and_no_folder(net, tmp_path):
    data = ("--data", "scenes/val")
    for words, says in [
        (("--num_images", "2"), "--data is missing"),
        ((*data, "--samples", "3"), "--samples 3: no use for it with a network of omnigan"),
    ]:
        with pytest.raises(UsageError, match=says):
            draw(net, tmp_path / "out", *words)
    made = omnigan.untrained()
    other = tmp_path / "domains.safetensors"
    config = json.loads(json.dumps(made.config))
    config["net"]["tasks"] = "dhsw"
    without = {k: v for k, v in made.state_dict.items() if k.split(".")[1] not in "at"}
    save_snapshot(other, without, made.kind, config, {})
    with pytest.raises(UsageError, match="has the tasks dhsw, and no t"):
        draw(other, tmp_path / "out", *data)
    assert not (tmp_path / "out").exists()


COMMON = "--metrics fd_pixels --res 32 --gpus cpu --num_workers 0 --bootstrap 0".split()


def measured(net, real, out, *words):
    of = ["gen", "--net", str(net), "--data", "scenes/val", "--num_images", "6"]
    words = [*of, "--ref", str(real), *COMMON, "--outdir", str(out), *words]
    MEASURE.main(get_metrics_args(None, words))
    return json.loads((out / "metrics.json").read_text())


def test_figures_are_of_the_translations(net, real, tmp_path):
    found = {to: measured(net, real, tmp_path / to, "--to", to) for to in "fn"}
    values = {to: record["figures"]["fd_pixels"] for to, record in found.items()}
    assert values["f"]["n"] == 6 and values["f"]["value"] != values["n"]["value"]
    assert '"to": "f"' in json.dumps(found["f"])
    folder = tmp_path / "pictures"
    folder.mkdir()
    inputs = evenly(open_source("scenes/val", "", split="val", sizes=[32]), 6)
    x = torch.stack([torch.tensor(inputs.native(i, 32)).permute(2, 0, 1) for i in range(6)]) / 255
    for i, image in enumerate(open_generator(net).draw(1, inputs=x).permute(0, 2, 3, 1)):
        Image.fromarray(image.numpy()).save(folder / f"{i}.png")
    words = ["calc", "--images", str(folder), "--num", "6", "--ref", str(real), *COMMON]
    words += ["--outdir", str(tmp_path / "calc")]
    MEASURE.main(get_metrics_args(None, words))
    stored = json.loads((tmp_path / "calc" / "metrics.json").read_text())["figures"]["fd_pixels"]
    assert stored["value"] == pytest.approx(values["f"]["value"], rel=0.02)
    with pytest.raises(UsageError, match="draws nothing by chance"):
        measured(net, real, tmp_path / "seeds", "--seeds", "0-5")


def test_training_measures_its_translations(real, tmp_path):
    words = "--preset smoke --steps 2 --metrics_every 2 --metrics fd_pixels --metrics_num 4"
    words += f" --metrics_ref {real} --log_every 1 --set val.every_n_steps=100"
    words += " data.files.train.rf=scenes:4 data.files.train.sf=scenes:4"
    args = get_training_args(None, [*words.split(), "--run-dir", str(tmp_path / "run")])
    load("train_omnigan").main(args)
    assert list(metrics(tmp_path / "run", "metrics/fd_pixels")) == [2]
    with pytest.raises(SystemExit):
        get_training_args(None, [*words.split(), "tasks=dhsw"])
    words += " data.files.val.rn=none data.files.val.sn=none"
    args = get_training_args(None, [*words.split(), "--run-dir", str(tmp_path / "none")])
    with pytest.raises(UsageError, match=r"data\.files\.val has no pictures that are not flooded"):
        load("train_omnigan").main(args)


def test_pictures_of_lists_and_of_scenes(tmp_path):
    Image.new("RGB", (8, 6), (1, 2, 3)).save(tmp_path / "a.png")
    (tmp_path / "rn.json").write_text(json.dumps([{"x": str(tmp_path / "a.png")}]))
    listed = pictures_of(open_samples(str(tmp_path / "rn.json"), "rn", "val", keep=()))
    assert (len(listed), listed.name) == (1, "rn") and listed.path(0).endswith("a.png")
    assert listed.image(0).shape == (6, 8, 3) and listed.image(0)[0, 0].tolist() == [1, 2, 3]
    dry, wet = (pictures_of(open_samples("scenes:4", d, "val", keep=())) for d in ("rn", "rf"))
    assert len(dry) == 4 and (dry.image(0, 16) != wet.image(0, 16)).any()
