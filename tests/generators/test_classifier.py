"""Classifier guidance of networks of DDPM: a TorchScript program, and files of guided-diffusion."""

import re

import pytest
import torch
from torch import nn

from diffusion.ddpm_generate import Drawing
from generators import ddpm
from generators.base import Setup
from generators.classifier import classifier_arguments, open_classifier
from generators.door import make_generator
from models.ddpm.classifier import Classifier
from storage.errors import CheckpointError, UsageError
from storage.snapshot import Snapshot, save_snapshot
from tests.scripts.support import ROOT, get_args, load


class Brightness(nn.Module):
    """Class 1 is bright, class 0 dark; the surer the less noise there is."""

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        mean = x.mean((1, 2, 3)) * 20 / (1 + t)
        return torch.stack([-mean, mean], 1)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    file = tmp_path_factory.mktemp("classifier") / "brightness.pt"
    torch.jit.script(Brightness()).save(str(file))
    return f"file:{file}"


def unconditional():
    """A snapshot with random weights that knows no classes."""
    made = ddpm.untrained()
    net = {**made.config["net"], "num_classes": None}
    state = {k: v for k, v in made.state_dict.items() if not k.startswith("label_emb")}
    return Snapshot(state, made.kind, {**made.config, "net": net, "classes": []}, {})


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_a_gradient_leads_to_its_class(sampler, program):
    net = make_generator(unconditional(), Setup())
    plain = net.draw(2, drawing=Drawing(sampler, 8)).float().mean((1, 2, 3))
    net.take_classifier(program, 100.0)
    assert net.classes == ["0", "1"]
    dark, bright = (
        net.draw(2, labels=[c, c], drawing=Drawing(sampler, 8)).float().mean((1, 2, 3))
        for c in (0, 1)
    )
    assert (bright > plain + 1).all() and (dark < plain - 1).all()


def test_the_command_draws_with_it(program, tmp_path):
    made = unconditional()
    file = save_snapshot(tmp_path / "net.safetensors", *made)
    script = load("generate_images")
    words = ["--net", str(file), "--steps", "3", "--seeds", "0", "--gpus", "cpu", "--class", "all"]
    more = ["--classifier", program, "--classifier_scale", "50", "--outdir", str(tmp_path / "out")]
    script.main(get_args(script, [*words, *more]))
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert {"000000_00000.png", "000000_00001.png"} <= names
    with pytest.raises(SystemExit):
        get_args(script, [*words, "--classifier_scale", "2"])


def test_a_classifier_that_does_not_fit_is_one_line(program, tmp_path):
    four = make_generator(ddpm.untrained(), Setup())
    with pytest.raises(UsageError, match="knows 2 classes, the network 4"):
        four.take_classifier(program, 1.0)
    with pytest.raises(CheckpointError, match="no such file"):
        open_classifier(str(tmp_path / "gone.pt"), 3, 16, "cpu")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="no classifier of guided-diffusion"):
        open_classifier(str(tmp_path / "other.pt"), 3, 16, "cpu")
    torch.jit.script(nn.Identity()).save(str(tmp_path / "one.pt"))
    with pytest.raises(UsageError, match="does not take x"):
        open_classifier(f"file:{tmp_path / 'one.pt'}", 3, 16, "cpu")


def test_a_file_of_guided_diffusion_is_read_by_its_shapes(tmp_path):
    torch.manual_seed(0)
    net = Classifier(64, 3, 5, model_channels=64, num_res_blocks=1)
    found = classifier_arguments({k: tuple(v.shape) for k, v in net.state_dict().items()})
    assert {k: v for k, v in net.config.items() if k in found} == {
        k: list(v) if isinstance(v, tuple) else v for k, v in found.items()
    }
    torch.save(net.state_dict(), tmp_path / "64x64_classifier.pt")
    opened = open_classifier(str(tmp_path / "64x64_classifier.pt"), 3, 64, "cpu")
    x, t = torch.randn(1, 3, 64, 64), torch.tensor([7])
    with torch.no_grad():
        assert opened.classes == 5 and torch.equal(opened(x, t), net.eval()(x, t))


def test_one_is_trained_as_the_document_says(tmp_path, monkeypatch):
    text = (ROOT / "docs" / "ddpm.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.S | re.M)
    (code,) = [block for block in blocks if "Classifier(" in block]
    monkeypatch.chdir(tmp_path)
    batch = torch.rand(2, 3, 32, 32) * 2 - 1, torch.tensor([0, 3])
    exec(compile(code, "ddpm.md", "exec"), {"loader": [batch]})
    opened = open_classifier("mine.safetensors", 3, 32, "cpu")
    assert opened.classes == 10 and opened(batch[0], torch.tensor([0, 999])).shape == (2, 10)
    wrong = save_snapshot(tmp_path / "net.safetensors", *unconditional())
    with pytest.raises(CheckpointError, match="a diffusion UNet, no classifier"):
        open_classifier(str(wrong), 3, 16, "cpu")
