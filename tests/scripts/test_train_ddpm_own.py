"""train_ddpm.py with code of one's own: its validation_step is looked at, its optimizer is obeyed,
and what is wrong in its file is told with the file's line."""

import sys

import pytest
import torch

from runtime.launch import call_main
from storage.errors import UsageError
from storage.snapshot import load_snapshot
from tests import kill_harness as harness
from tests.scripts.support import load, metrics
from tests.scripts.test_train_ddpm import SHORT, get_args, train, weights

pytestmark = pytest.mark.usefixtures("one_thread")

OWN = """
import torch
from diffusion import DDPMTraining


class Mine(DDPMTraining):
    def process_batch(self, batch, mode="train"):
        return super().process_batch(batch[0], mode)

    def validation_step(self, batch, batch_idx):
        found = super().validation_step(batch, batch_idx)
        self.log("val_sum", sum(p.double().sum() for p in self.denoise_fn.parameters()))
        found["sampling"]["model_output"] = torch.ones_like(batch[0])
        return found | {"labels": batch[1], "grad": torch.is_grad_enabled()}


class Fast(Mine):
    def configure_optimizers(self):
        return torch.optim.SGD([
            {"params": [p for p in self.parameters() if p.ndim > 1], "lr": 0.5},
            {"params": [p for p in self.parameters() if p.ndim == 1], "lr": 0.25},
        ])


def look(step, outputs, run_dir):
    torch.save(outputs, run_dir / "outputs.pt")
"""
PLAIN = ["--loss", "ldm", "--warmup", "0", "--duration", "16"]
LOOKS = ["--sample_images", "2", "--sample_steps", "3", "--frames", "3"]


@pytest.fixture
def file(tmp_path):
    (tmp_path / "mine.py").write_text(OWN)
    return tmp_path / "mine.py"


def summed(state):
    return sum(value.double().sum().item() for value in state.values())


def test_histories_are_of_the_classes_own_validation_step(file, tmp_path):
    """It is given the average for its denoise_fn, and training is none the wiser."""
    words = [*PLAIN, "--model", f"{file}:Mine"]
    train(tmp_path / "blind", *words)
    train(tmp_path / "run", *words, *LOOKS, "--look", f"{file}:look", "--snapshot_every", "1")
    outputs = torch.load(tmp_path / "run" / "outputs.pt", weights_only=True)
    assert (outputs["sampling"]["model_output"] == 1).all() and not outputs["grad"]
    assert outputs["labels"].shape == (2,) and "y_0_hat" in outputs  # of the training step
    assert outputs["restore"]["model_history_output"].shape == (2, 4, 3, 8, 8)  # --frames 3
    files = sorted((tmp_path / "run" / "snapshots").iterdir())
    logged = metrics(tmp_path / "run", "val_sum")
    for step, snapshot in zip((1, 2), files, strict=True):
        assert logged[step] == pytest.approx(summed(load_snapshot(snapshot).state_dict), rel=1e-6)
    final = harness.final_state(tmp_path / "run")
    assert abs(logged[2] - summed(final["net"])) > 1e-6
    assert harness.differences(harness.final_state(tmp_path / "blind")["net"], final["net"]) == []
    names = {p.name.split("-")[0] for p in (tmp_path / "run" / "samples").iterdir()}
    assert names == {"restore", "sampling", "samples"}


def test_a_classes_own_optimizer_keeps_its_rates(file, tmp_path):
    train(tmp_path, *PLAIN, "--model", f"{file}:Fast", "--warmup", "2")
    rates = [group["lr"] for group in harness.final_state(tmp_path)["optimizer"]["param_groups"]]
    assert rates == [0.5, 0.25]
    assert metrics(tmp_path, "Learning rate") == {1: 0.25, 2: 0.5}  # half of it at first


def test_a_class_has_no_embedding_of_classes_unless_it_is_asked_for(file, tmp_path):
    train(tmp_path / "plain", *PLAIN, "--model", f"{file}:Mine", "--duration", "8")
    assert "label_emb.weight" not in weights(tmp_path / "plain")
    assert get_args("--model", "a.py:B", "--cond").cond is True


def test_what_a_class_has_no_use_for_is_refused(file, tmp_path):
    words = [*SHORT.split(), *PLAIN, "--model", f"{file}:Mine", "--run-dir", str(tmp_path)]
    with pytest.raises(UsageError, match="no method unconditional"):
        load("train_ddpm").main(get_args(*words, *LOOKS, "--guidance", "2"))


BROKEN = """
from diffusion import DDPMTraining
from models.ddpm import ResBlock
class Init(DDPMTraining):
    def __init__(self, net, **more):
        self.missing["a"]
class Step(DDPMTraining):
    def training_step(self, batch, batch_idx):
        return 1 / 0
class Nothing(DDPMTraining):
    def training_step(self, batch, batch_idx):
        return None
class Plain(DDPMTraining):
    pass
class Block(ResBlock):
    def __init__(self, *a, **k):
        super().__init__(*a, **k)
        self.out_layers = None + 1
def net(in_channels, out_channels):
    return undefined
def look(step):
    pass
class Unasked(DDPMTraining):
    def process_batch(self, batch):
        return super().process_batch(batch[0])
class Short(DDPMTraining):
    def process_batch(self, batch, mode="train"):
        return batch[0]
"""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model", "FILE:Init"], "--model FILE:Init, line 6: AttributeError: "),
        (
            ["--model", "FILE:Nobody"],
            "FILE has no Nobody; it has Init, Step, ",
        ),
        (["--model", "FILE:Nothing"], "training_step of Nothing returned no dictionary"),
        (["--model", "FILE:Plain"], "--model: Plain: process_batch wants images, not a tuple: "),
        (["--look", "FILE:Nobody"], "FILE has no Nobody"),
        (["--look", "FILE:look"], "FILE:look is called as FUNCTION(step, outputs, run_dir)"),
        (["--model", "FILE:Unasked"], "process_batch is called as process_batch(self, batch, mode"),
        (["--model", "FILE:Short"], "process_batch returned a Tensor; (model_input, target, t, "),
        (["--blocks", "FILE", "--res_block", "Block"], "--blocks FILE, line 18: TypeError: "),
        (["--denoiser", "FILE:net"], "--denoiser FILE:net, line 20: NameError: name 'undefined'"),
    ],
)
def test_a_mistake_in_ones_own_file_is_one_line(words, said, tmp_path, capfd):
    file = tmp_path / "broken.py"
    file.write_text(BROKEN)
    typed = [word.replace("FILE", str(file)) for word in words]
    looks = LOOKS if "--look" in words else []
    code = call_main(lambda _: train(tmp_path / "run", *PLAIN, *typed, *looks), None)
    err = capfd.readouterr().err
    assert code == 2 and said.replace("FILE", str(file)) in err and "Traceback" not in err


def test_a_mistake_in_a_step_is_said_to_be_of_ones_own_file(tmp_path, capfd):
    file = tmp_path / "broken.py"
    file.write_text(BROKEN)
    words = [*PLAIN, "--model", f"{file}:Step"]
    code = call_main(lambda _: train(tmp_path / "run", *words), None)
    err = capfd.readouterr().err
    line = f"the error is of your own code, {file}, line 9:"
    assert code == 1 and line in err and err.index(line) < err.index("Traceback")
    assert "ZeroDivisionError" in err


def test_what_fails_elsewhere_is_not_blamed(file):
    from storage.user_code import blame, load_file

    module = load_file(file)
    try:
        int("x")
    except ValueError as error:
        assert blame(error) == ""
    try:
        module.look(0, {}, None)
    except TypeError as error:
        assert blame(error).startswith(f"{file}, line ")
    assert module.__name__ in sys.modules
