"""`--quick` of benchmarks.omnigan_runs on networks that nobody has trained."""

import json

import pytest
import torch

from benchmarks import omnigan_runs
from models.omnigan import OmniGenerator
from storage.snapshot import save_snapshot


@pytest.fixture
def run(tmp_path):
    """A run's folder with a snapshot of random weights, of scenes of 8 px, and with figures."""
    torch.manual_seed(0)
    how = {"n_res": 1, "res_norm": "none"}
    net = OmniGenerator("stw", encoder={"dim": 2, "n_downsample": 2, **how}, s=how, w=how,
                        t={"kernel_size": 1})  # fmt: skip
    folder = tmp_path / "run" / "snapshots"
    file = folder / "network-snapshot-0000001.safetensors"
    save_snapshot(file, net.state_dict(), "omnigan", {"net": net.config, "resolution": [8, 8]}, {})
    rows = [{"step": i, "G/task_loss/s/rf": 4.0 / i} for i in (1, 2, 4)]
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return file


def said(tmp_path, capsys, *words):
    omnigan_runs.main([*map(str, words), "--quick", "--out", str(tmp_path), "--device", "cpu"])
    return capsys.readouterr().out.splitlines()


def test_flood_has_two_controls_and_a_sheet(run, tmp_path, capsys):
    rows = [line for line in said(tmp_path, capsys, "flood", "--net", run, "--judge", run)
            if line.startswith("| rn, ")]  # fmt: skip
    named = [f"| rn, {what} | 4 | {task} |" for what in omnigan_runs.SHARES for task in "ws"]
    assert [row[: len(name)] for row, name in zip(rows, named, strict=True)] == named
    assert (tmp_path / "flood-rn.png").is_file() and (tmp_path / "flood-sn.png").is_file()
    with pytest.raises(SystemExit):
        omnigan_runs.main(["flood", "--net", str(run)])


def test_what_should_be_flooded_is_under_water_only_in_the_flood():
    args = type("Args", (), {"least": 0.1, "pictures": 3})()
    found = omnigan_runs.streets(args, "rn", 16)
    assert found.area.shape == (3, 16, 16) and not (found.area & found.lakes).any()
    assert (found.area.flatten(1).float().mean(1) >= 0.1).all()
    changed = (found.dry != found.wet).any(1)
    assert changed[found.area].float().mean() > 0.9
    wet = found.area.clone()
    assert omnigan_runs.shares(wet, found.area) == [1.0] * 3
    assert omnigan_runs.shares(~wet, found.area) == [0.0] * 3


def test_segments_and_losses(run, tmp_path, capsys):
    rows = said(tmp_path, capsys, "segments", "--net", run, "--domains", "rf", "sn")[-2:]
    for row, domain in zip(rows, ("rf", "sn"), strict=True):
        cells = row.split(" | ")
        assert cells[0] == f"| {domain}" and cells[1] == "4"
        assert 0 <= float(cells[2]) <= float(cells[3]) + 1 and float(cells[5].rstrip(" |")) > 0
    (row,) = said(tmp_path, capsys, "losses", "--net", run)[-1:]
    assert row == "| s, rf | 4.000 | 1.000 | 0.25 |"
    (run.parent.parent / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(SystemExit, match="has no losses of tasks"):
        said(tmp_path, capsys, "losses", "--net", run)
