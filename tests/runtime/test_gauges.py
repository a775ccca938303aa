"""What a run logs of its health, and --profile: all of it without an influence on the results."""

import gzip
import json
import signal

import pytest
import torch

from runtime import profile, update
from tests import kill_harness as harness
from tests.runtime.toy import build, data, toy_args, train

pytestmark = pytest.mark.usefixtures("one_thread", "no_fsync")


def rows(run):
    return [json.loads(line) for line in (run.dir / "metrics.jsonl").read_text().splitlines()]


def test_the_norm_is_that_of_the_gradients_before_clipping(tmp_path, monkeypatch):
    seen = []
    norm = update._norm
    monkeypatch.setattr(update, "_norm", lambda params: seen.append(
        torch.cat([p.grad.flatten().double() for p in params]).norm()) or norm(params))  # fmt: skip
    run = train(toy_args(tmp_path, total=6, log_every=3))
    found = [row["health/grad_norm"] for row in rows(run)]
    assert found == pytest.approx([float(sum(seen[:3]) / 3), float(sum(seen[3:]) / 3)], rel=1e-5)
    assert [row["health/skipped"] for row in rows(run)] == [0, 0]


def test_a_skipped_update_counts_and_spoils_no_mean(tmp_path):
    def bad_once(run, step, loss):
        return loss * float("nan") if step == 1 else loss

    run = train(toy_args(tmp_path, total=4, log_every=4), hook=bad_once)
    (row,) = rows(run)
    assert row["health/skipped"] == 0.25 and 0 < row["health/grad_norm"] < 100


def test_the_share_of_the_peak_is_told(tmp_path):
    run = train(toy_args(tmp_path, total=8, log_every=4))
    x, _ = data()
    net = build(toy_args(tmp_path))["net"]
    with torch.utils.flop_counter.FlopCounterMode(display=False) as oracle:
        net(x[:8].requires_grad_()).sum().backward()
    # x has no gradient in training: one product less, of the first layer
    whole = oracle.get_total_flops() - 2 * 8 * 8
    for row in rows(run):
        flops = row["time/tflop_per_s"] * 1e12 * row["time/step_s"]
        assert flops == pytest.approx(whole, rel=1e-6)
        peak = row["time/tflop_per_s"] / row["time/share_of_matmul_peak"]
        assert 1e-4 < peak < 100


def test_a_profile_changes_nothing(tmp_path, capsys):
    plain = train(toy_args(tmp_path / "a", total=9))
    run = train(toy_args(tmp_path / "b", total=9, profile=2))
    assert run.config_hash == plain.config_hash
    assert not harness.differences(harness.final_state(plain.dir), harness.final_state(run.dir))
    assert harness.metrics(plain.dir) == harness.metrics(run.dir)
    trace, table = sorted((run.dir / "profile").iterdir())
    assert trace.name == "steps-000000004-000000005.json.gz" and table.suffix == ".txt"
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    names = [event.get("name", "") for event in events]
    assert sum(name.startswith("ProfilerStep#") for name in names) == 2
    assert "aten::addmm" in names and "aten::addmm" in table.read_text()
    assert f"profile of 2 steps: {trace}, {table.name}" in capsys.readouterr().out


def test_a_run_that_is_shorter_than_its_profile(tmp_path):
    run = train(toy_args(tmp_path, total=2, profile=5))
    assert (run.dir / "profile" / "steps-000000001-000000002.json.gz").is_file()


def test_a_signal_in_the_middle_of_a_profile(tmp_path):
    with pytest.raises(SystemExit) as end:
        train(toy_args(tmp_path, profile=5), signals={4: [signal.SIGTERM]})
    assert end.value.code == 75
    (trace,) = tmp_path.rglob("*.json.gz")
    assert trace.name == "steps-000000004-000000005.json.gz"


def test_a_profile_that_cannot_be_written_is_said(tmp_path, capsys, monkeypatch):
    def full(self, final, write):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(profile.StepProfile, "_place", full)
    run = train(toy_args(tmp_path, total=6, profile=1))
    assert run.finished and "--profile: [Errno 28] No space left" in capsys.readouterr().out
    assert not list(run.dir.rglob("*.gz"))
