"""train_ddpm.py --layout masks and --concat, and what generate_images.py draws of such networks:
boxes, maps of classes, pictures in grey and small ones."""

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion.beside import channels_beside, gray, lowres, one_hot
from diffusion.ddpm_generate import Drawing
from generators.door import open_generator
from models.ddpm import Layout
from models.ddpm.regions import region_masks
from recipes.ddpm import options
from storage.errors import DataError, UsageError
from storage.snapshot import load_snapshot
from tests.scripts.support import get_args, load, metrics

pytestmark = pytest.mark.usefixtures("one_thread")

SHORT = (
    "--preset smoke --bs 4 --duration 8 --snapshot_every 2 --sample_images 1 --sample_steps 2 "
    "--log_every 1 --no-cond"
)


def train(run_dir, words):
    """A run's only snapshot."""
    typed = [*SHORT.split(), *words.split(), "--run-dir", str(run_dir)]
    load("train_ddpm").main(options.get_args(None, typed))
    (file,) = (run_dir / "snapshots").iterdir()
    return file


def opened(file):
    """Its network, of random weights, so that it draws something."""
    net = open_generator(file, say=lambda line: None)
    torch.manual_seed(0)
    for p in net.net.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return net


def generate(*words):
    script = load("generate_images")
    script.main(get_args(script, [*map(str, words), "--gpus", "cpu", "--steps", "2"]))


def a_map(file, value=1):
    """16 px of class 0, 8 x 8 of another, the first row of none."""
    classes = np.zeros((16, 16), np.uint8)
    classes[4:12, 4:12], classes[0] = value, 255
    Image.fromarray(classes).save(file)
    return file


def test_masks_are_what_regions_are_made_of(tmp_path):
    file = train(tmp_path / "run", "--layout masks --max_objects 3 --layout_dropout 0.1")
    net = opened(file)
    assert net.layout == "masks" and (tmp_path / "run" / "samples").is_dir()
    layout = net.labelled(torch.from_numpy(np.array(Image.open(a_map(tmp_path / "m.png"))))[None])
    masks = region_masks(layout, 8, 8)
    assert masks.shape == (1, 2, 64) and not masks[0, 1].view(8, 8)[:2].any()
    assert masks[0, 1].sum() == 16 and not (masks[0, 0] & masks[0, 1]).view(8, 8)[3:5, 3:5].any()
    torch.testing.assert_close(layout.boxes[0, 1], torch.tensor([0.25, 0.25, 0.5, 0.5]))
    how = Drawing(steps=2)
    of_map, of_box = (net.draw(1, layout=x, drawing=how) for x in
                      (layout, net.layouts([torch.tensor([[0.1, 0.1, 0.3, 0.3, 1]])])))  # fmt: skip
    assert not torch.equal(of_map, of_box)
    generate("--net", file, "--layout", a_map(tmp_path / "m.png"), "--seeds", "0", "--outdir",
             tmp_path / "out")  # fmt: skip
    assert (tmp_path / "out" / "000000_layout.png").is_file()


def test_a_map_of_classes_is_a_layout(tmp_path):
    file = train(tmp_path / "run", "--layout segmentation")
    out = tmp_path / "out"
    generate("--net", file, "--layout", a_map(tmp_path / "m.png"), "--seeds", "0", "--outdir", out)
    beside = Image.open(out / "000000_layout.png")
    assert beside.size[0] == 2 * beside.size[1]
    net = opened(file)
    drawn = [net.draw(1, layout=net.labelled(torch.full((1, 16, 16), c)), drawing=Drawing(steps=2))
             for c in (0, 1)]  # fmt: skip
    assert not torch.equal(*drawn)
    boxes = tmp_path / "boxes.txt"
    boxes.write_text("0,0,1,1,0\n")
    Image.new("RGB", (4, 4)).save(tmp_path / "rgb.png")
    cut = tmp_path / "cut.png"
    cut.write_bytes((tmp_path / "rgb.png").read_bytes()[:40])
    for layout, error, says in (
        (boxes, UsageError, "classes of pixels, which a PNG has"),
        (tmp_path / "rgb.png", DataError, "mode RGB"),
        (a_map(tmp_path / "wrong.png", 77), UsageError, r"--layout \S+wrong.png: .* class 77"),
        (cut, DataError, r"no picture that can be read \((?!.*BytesIO)"),
    ):
        with pytest.raises(error, match=says):
            generate("--net", file, "--layout", layout, "--outdir", tmp_path / "no")


@pytest.mark.parametrize("kind", ["gray", "lowres", "segmentation"])
def test_an_image_beside_the_noised_one(kind, tmp_path):
    more = " --lowres_factor 2 --layout boxes --guidance 2" if kind == "lowres" else ""
    file = train(tmp_path / "run", f"--concat {kind}{more}")
    config = load_snapshot(file).config
    K = len(config["concat"].get("classes", []))
    assert config["concat"].get("factor") == (2 if kind == "lowres" else None)
    assert config["net"]["concat_channels"] == channels_beside(kind, K) > 0
    sheets = {p.name.split("-")[0] for p in (tmp_path / "run" / "samples").iterdir()}
    assert ("inputs" in sheets) == (kind != "segmentation")
    assert len(metrics(tmp_path / "run", "loss/mse")) == 2
    net = opened(file)
    if kind == "segmentation":
        given = [torch.full((1, 16, 16), c) for c in (0, 1)]
        words = ["--layout", a_map(tmp_path / "m.png")]
    else:
        given = [torch.full((1, 3, 8, 8), c, dtype=torch.uint8) for c in (0, 200)]
        words = ["--data", "scenes"]
    drawn = [net.draw(1, given=x, drawing=Drawing(steps=2)) for x in given]
    assert not torch.equal(*drawn)
    both = net.draw(2, given=torch.cat(given), drawing=Drawing(steps=2))
    assert (both[0].int() - drawn[0][0].int()).abs().max() <= 1
    generate("--net", file, *words, "--seeds", "0-1", "--outdir", tmp_path / "out")
    assert (tmp_path / "out" / "000001.png").is_file()
    with pytest.raises(UsageError, match="is missing"):
        generate("--net", file, "--outdir", tmp_path / "no")
    with pytest.raises(UsageError, match="beside an image"):
        net.draw(1)


def test_what_stands_beside():
    images = torch.arange(24.0).view(1, 3, 2, 4) / 12 - 1
    torch.testing.assert_close(gray(images)[0, 0], images[0].mean(0))
    small = lowres(images, 2)
    torch.testing.assert_close(small[0, :, 0, 1], images[0, :, :, 2:].mean((1, 2)))
    with pytest.raises(ValueError, match="4 times smaller"):
        lowres(images, 4)
    classes = torch.tensor([[[0, 2], [255, 2]]])
    hot = one_hot(classes, 3, 2)
    assert hot[0, :, 0, 0].tolist() == [1, 0, 0] and hot[0, :, 1, 0].tolist() == [0, 0, 0]
    assert one_hot(classes, 3, 1)[0, :, 0, 0].tolist() == [0.25, 0, 0.5]
    with pytest.raises(ValueError, match="class 2; there are 2"):
        one_hot(classes, 2, 2)


def test_no_class_in_a_map_is_a_layout_without_objects():
    layout = Layout.of_label_map(torch.full((2, 4, 4), 255), num_classes=3)
    assert layout.classes.shape == (2, 0)
