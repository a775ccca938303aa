"""`--quick` of benchmarks.ddpm_runs on networks that nobody has trained."""

import pytest
import torch

from benchmarks import ddpm_runs
from data.scenes.layouts import SceneLayouts
from data.scenes.places import CLASSES
from models.ddpm import UNet
from storage.snapshot import save_snapshot


def network(tmp_path, **added):
    """A run's folder with one snapshot of random weights, on scenes of 8 px."""
    torch.manual_seed(0)
    channels = 6 if added.get("variance") else 3
    layout = added.get("layout", False)
    told = {"layout_attn_type": "layout_partial_v2", "layout_attn_resolutions": (1,),
            "layout_classes": 19} if layout else {"num_classes": len(CLASSES)}  # fmt: skip
    net = UNet(
        3, channels, model_channels=8, channel_mult=(1,), num_res_blocks=1,
        attention_resolutions=(), use_scale_shift_norm=True, **told,
    )  # fmt: skip
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    config = {
        "net": net.config, "encoder": {"name": "rgb"}, "resolution": 8, "clip": "unit",
        "gaussian": {"schedule": "cosine", "T": 6, "prediction_type": "eps", "time_input": "step",
                     "variance_type": added.get("variance") or "fixed_large"},
        "classes": [] if layout else list(CLASSES), "layout": "boxes" if layout else "none",
        "objects": SceneLayouts("val").object_classes if layout else [],
    }  # fmt: skip
    name = f"{'boxes' if layout else added.get('variance', 'plain')}.safetensors"
    return str(save_snapshot(tmp_path / "run" / name, net.state_dict(), "ddpm", config, {}))


def said(tmp_path, capsys, part, *nets):
    words = [part, "--quick", "--out", str(tmp_path / "out"), "--device", "cpu"]
    data = ["--data", "scenes", "--split", "val"] if nets else []
    ddpm_runs.main([*words, *data, *(["--net", *nets] if nets else [])])
    return capsys.readouterr().out.splitlines()


def test_digits(tmp_path, capsys):
    first = said(tmp_path, capsys, "digits", network(tmp_path))
    assert f"of {len(CLASSES)} samples, 1 a class" in "\n".join(first)
    assert (tmp_path / "out" / "digits.png").is_file()
    (tmp_path / "out" / "digits.png").unlink()
    assert said(tmp_path, capsys, "digits", network(tmp_path)) == first  # what was kept
    assert not (tmp_path / "out" / "digits.png").exists()


def test_bounds(tmp_path, capsys):
    nets = network(tmp_path), network(tmp_path, variance="learned_range")
    rows = [line.split(" | ") for line in said(tmp_path, capsys, "bounds", *nets)[-5:]]
    named = ["fixed_small", "fixed_large", "learned_range", "fixed_small", "fixed_large"]
    assert [row[1] for row in rows] == named
    assert all(float(row[2].split()[0]) > 0 for row in rows) and rows[0][3] == ""


def test_samplers(tmp_path, capsys):
    lines = said(tmp_path, capsys, "samplers", network(tmp_path))
    rows = [line.split(" | ")[0] for line in lines[-6:]]
    assert rows == ["| ddpm", "| ddim", "| plms", "| dpmpp", "| unipc", "| heun"]
    counted = [line.split("'evaluations': ")[1] for line in lines if "'evaluations'" in line]
    assert counted == ["3.0}"] * 6 + ["4.0}"]


def test_layouts(tmp_path, capsys):
    lines = said(tmp_path, capsys, "layouts", network(tmp_path, layout=True))
    assert "1 samples a layout" in "\n".join(lines) and "scenes/val" in "\n".join(lines)
    assert [line.split(" | ")[0][2:] for line in lines[-4:]] == [
        "real pictures", "samples", "samples, layouts shuffled", "samples without a layout"
    ]  # fmt: skip


def test_best_of(tmp_path, capsys):
    rows = [line.split(" | ") for line in said(tmp_path, capsys, "best_of")[-2:]]
    assert [row[0] for row in rows] == ["| 1", "| 2"]


def test_a_part_without_a_network_is_refused(tmp_path):
    with pytest.raises(SystemExit):
        ddpm_runs.main(["digits", "--quick", "--out", str(tmp_path)])
