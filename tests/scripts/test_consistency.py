"""Runs and snapshots of networks with a base, consistency and another padding, from end to end."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from generators.door import open_generator
from imle import CAMNet, Corruption
from imle.consistency import consistency
from recipes.imle import parts
from recipes.imle.options import OPTIONS, PRESETS, get_args
from runtime.options import EXECUTION, tagged
from runtime.rundir import config_hash, shaping
from storage.errors import UsageError
from storage.snapshot import load_snapshot, save_snapshot
from tests import kill_harness as harness
from tests.scripts.support import load, thin_loss, train

ALL = "--base input --consistency project --padding reflect".split()
ADDED = (
    "base",
    "consistency",
    "padding",
    "code_gain",
    "grayscale",
    "mask_frac",
    "mask_res",
    "fill",
)


@pytest.fixture(scope="module", autouse=True)
def light():
    """A thin VGG16."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "perceptual_loss", thin_loss)
        yield


def draw(*words):
    script = load("generate_images")
    script.main(script.get_args(None, [str(word) for word in words]))


def pixels(file):
    return torch.from_numpy(np.asarray(Image.open(file)).copy()).permute(2, 0, 1)[None] / 255


@pytest.mark.parametrize(
    "task", ["", "--grayscale 1 --color_space lab", "--res 16 16 --mask_frac 0.25"]
)
def test_a_run_that_was_stopped_is_the_run_to_the_bit(task, tmp_path):
    words = [*ALL, *task.split(), "--num_iteration", "1", "--outer_loops", "2"]
    train(tmp_path / "whole", *words)
    train(tmp_path / "parts", *words, "--chunk_epochs", "1")
    train(tmp_path / "parts", *words)
    runs = (tmp_path / "whole", tmp_path / "parts")
    assert not harness.differences(*map(harness.final_state, runs))
    snapshot = load_snapshot(runs[0] / "snapshots" / "network-latest.safetensors")
    net = snapshot.config["net"]
    assert [net[name] for name in ADDED[:3]] == ["input", "project", "reflect"]
    row = json.loads((runs[0] / "metrics.jsonl").read_text().splitlines()[-1])
    assert row["val/consistency"] < 1 / 255


def test_snapshots_of_before_draw_as_they_did_and_agree_if_asked(tmp_path):
    """A CAM-Net whose configuration has none of the later keys, as versions before kept it."""
    torch.manual_seed(0)
    net = CAMNet([8, 16], resid_nc=[6], dense_nc=[4], n_blocks=1, map_nc=4, latent_nc=8)
    older = {k: v for k, v in net.config.items() if k not in ADDED}
    corruption = {"grayscale": 1, "mask_res": 4, "mask_frac": 0.25, "fill": "color"}
    for name, own in (("older", older), ("now", net.config)):
        config = {"net": own, "codes": {}, "corruption": corruption, "crop": "squash"}
        save_snapshot(tmp_path / f"{name}.safetensors", net.state_dict(), "camnet", config, {})
    words = "--data scenes/val --gpus cpu --num_images 2 --samples 2".split()
    for name, more in (("older", []), ("now", []), ("older", ["--consistency", "project"])):
        out = tmp_path / "-".join([name, *more[1:]])
        draw("--net", tmp_path / f"{name}.safetensors", *words, *more, "--outdir", out)
    names = sorted(p.name for p in (tmp_path / "older").glob("*_?.png"))
    assert len(names) == 4
    task, opened = Corruption(**corruption), open_generator(tmp_path / "older.safetensors")
    inputs = read_inputs(opened, words)
    for i, name in enumerate(names):
        before = (tmp_path / "older" / name).read_bytes()
        assert before == (tmp_path / "now" / name).read_bytes()
        cx = inputs[i // 2 : i // 2 + 1]
        plain, agreeing = (
            float(consistency(pixels(tmp_path / one / name), cx, task).mean) * 255
            for one in ("older", "older-project")
        )
        assert agreeing < 1 < plain


def read_inputs(net, words):
    """What the network saw."""
    from recipes.generate import options
    from recipes.generate import parts as drawing

    args = options.get_args(None, ["--net", "x", *words])
    found = drawing.inputs(args, net, None, lambda line: None)
    return net.corrupt(found.x, ids=found.ids)


def test_networks_that_have_no_input_to_agree_with(tmp_path):
    train(
        tmp_path / "run",
        *"--unconditional --lpips none --res 8 --pool_size 8 --outer_loops 1".split(),
        *"--num_iteration 1".split(),
    )
    file = tmp_path / "run" / "snapshots" / "network-latest.safetensors"
    with pytest.raises(UsageError, match="--consistency project: this network has no input"):
        draw("--net", file, "--consistency", "project", "--outdir", tmp_path / "out")
    with pytest.raises(UsageError, match="--temperature 0.5: this network has no input, and sca"):
        draw("--net", file, "--temperature", "0.5", "--outdir", tmp_path / "out")
    net = CAMNet([8, 8], in_nc=1, out_nc=2, feedback="none", head="ab", resid_nc=[6],
                 dense_nc=[4], n_blocks=1, map_nc=4, latent_nc=8)  # fmt: skip
    config = {"net": net.config, "codes": {}, "corruption": {}, "crop": "squash"}
    save_snapshot(tmp_path / "ab.safetensors", net.state_dict(), "camnet", config, {})
    words = ["--net", tmp_path / "ab.safetensors", "--data", "scenes/val"]
    with pytest.raises(UsageError, match="this CAM-Net makes no RGB picture of one"):
        draw(*words, "--consistency", "project", "--outdir", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_bring_along_what_they_compute_with(tmp_path, monkeypatch):
    """Of an original: no base, zeros, the norm, where a preset has others; also if resumed."""
    for name, value in (("base", "input"), ("padding", "reflect"), ("norm", "none")):
        monkeypatch.setitem(PRESETS["smoke"], name, value)
    words = "--res 8 16 --resid_nc 6 --dense_nc 4 --map_nc 4 --latent_nc 8".split()
    args = get_args(None, ["--preset", "smoke", *words])
    net = parts.network(args, torch.device("cpu"))
    torch.save(net.state_dict(), tmp_path / "bare.pth")
    words = ["--num_iteration", "1", "--init_from", str(tmp_path / "bare.pth")]
    train(tmp_path / "run", *words, "--outer_loops", "2", "--chunk_epochs", "1")
    train(tmp_path / "run", *words, "--outer_loops", "2")
    file = tmp_path / "run" / "snapshots" / "network-latest.safetensors"
    config = load_snapshot(file).config["net"]
    expected = {"base": "none", "padding": "zeros", "norm": "instance"}
    assert {name: config[name] for name in expected} == expected
    train(tmp_path / "next", "--num_iteration", "1", "--outer_loops", "1", "--init_from", str(file))
    file = tmp_path / "next" / "snapshots" / "network-latest.safetensors"
    assert load_snapshot(file).config["net"]["base"] == "none"
    assert open_generator(file).net.base == "none"


def test_an_original_s_weights_come_without_a_base(tmp_path):
    words = "--data scenes --base none --res 8 16 --resid_nc 6 --dense_nc 4 --latent_nc 8".split()
    args = get_args(None, words)
    net = parts.network(args, torch.device("cpu"))
    torch.save(net.state_dict(), tmp_path / "bare.pth")
    words = ["--init_from", str(tmp_path / "bare.pth"), "--map_nc", "128"]
    words += ["--outer_loops", "1", "--num_iteration", "1"]
    with pytest.raises(UsageError, match="--base none goes with them, not --base input"):
        train(tmp_path / "run", *words, "--base", "input")


def test_init_reference_takes_a_preset_s_base_away(monkeypatch, capsys):
    monkeypatch.setitem(PRESETS["smoke"], "base", "input")
    assert get_args(None, ["--preset", "smoke"]).base == "input"
    words = ["--preset", "smoke", "--init", "reference"]
    assert get_args(None, words).base == "none"
    with pytest.raises(SystemExit):
        get_args(None, ["--data", "scenes", "--init", "reference", "--base", "input"])
    assert "--base input and --init reference exclude each other" in capsys.readouterr().err


def test_runs_begun_before_the_options_go_on():
    """They are no part of a run's name until they are given, and then they are."""

    def flags(words):
        args = get_args(None, f"--data scenes {words}".split())
        return shaping(args, tagged(OPTIONS, EXECUTION))

    plain = flags("")
    assert not set(ADDED[:4]) & set(plain)
    assert config_hash("TrainGeneratorWandB", plain) == "347aabcc"  # of version 44fa2b1
    for words in ("--base input", "--consistency project", "--padding reflect", "--code_gain 1"):
        name, value = words[2:].split()
        assert str(flags(words)[name]) == value
    assert flags("--base none --code_gain 0.3") == plain


def test_a_learnt_base_begins_with_weights_that_go_with_it(tmp_path):
    short = "--num_iteration 1 --outer_loops 1".split()
    learned = [*short, *"--base learned --base_nc 6 --base_blocks 1".split()]

    def last(name):
        return str(tmp_path / name / "snapshots" / "network-latest.safetensors")

    train(tmp_path / "input", *short)
    train(tmp_path / "learned", *learned, "--init_from", last("input"))
    assert load_snapshot(Path(last("learned"))).config["net"]["base"] == "learned"
    assert open_generator(Path(last("learned"))).net.regression is not None
    with pytest.raises(UsageError, match="--base learned, not --base input: give --base learned"):
        train(tmp_path / "a", *short, "--init_from", last("learned"))
    with pytest.raises(UsageError, match="a network with --base_nc 6, not 8"):
        train(tmp_path / "b", *learned, "--base_nc", "8", "--init_from", last("learned"))
